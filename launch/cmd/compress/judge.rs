//! The original as a record of predictions, and candidates beside it.

use std::path::Path;

use anyhow::{Context, Result};
use llmasos_engine::{
    ModelFolder, Runtime,
    text::{GraphChoice, LanguageModel, LlamaConfig, LoadOptions},
};
use llmasos_forge::{
    Checkpoint,
    decoder::{Coding, Options},
    evaluate::{Evaluation, Loaded, Recorded, Walked, evaluate},
};
use sha2::{Digest, Sha256};

use super::work::Work;
use crate::cmd::progress::watch;
use crate::models::{Event, Reporter};

/// Something to be judged.
pub(crate) enum Candidate<'c> {
    /// A model folder, in the engine.
    Folder(&'c Path, GraphChoice),
    /// A checkpoint whose matrices are computed as they would be stored, by the operators of the portable graph.
    Stored(&'c Checkpoint, &'c dyn Coding),
}

/// What the original says about the sequences, from an earlier run if there is one. It is kept in `records`, or in the work folder.
///
/// # Errors
/// Those of walking through the original and of writing the record.
pub(crate) fn record(
    (work, records): (&Work, Option<&Path>),
    source: &str,
    original: &Checkpoint,
    sequences: &[Vec<u32>],
    runtime: &Runtime,
    reporter: &mut dyn Reporter,
) -> Result<Recorded> {
    let key = key(source, sequences);
    let path = match records {
        Some(records) => records.join(format!("original-{key}")),
        None => work.place("original", &key),
    };
    if let Ok(found) = Recorded::open(&path, sequences) {
        let text = "what the original predicts is here from an earlier run";
        reporter.event(Event::Note { text });
        return Ok(found);
    }
    let length = sequences.first().map_or(0, Vec::len);
    work.require_room(Recorded::bytes(
        original.spec().vocab,
        sequences.len(),
        length,
    ))?;
    let mut watch = watch(reporter, "the original");
    let scratch = work.scratch();
    let mut walked = Walked::new(
        (original, &Options::FP32),
        sequences,
        runtime,
        &scratch,
        &mut watch,
    )?;
    Ok(Recorded::write(&mut walked, sequences, &path, &mut watch)?)
}

fn key(source: &str, sequences: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    hash.update(source);
    for tokens in sequences {
        hash.update((tokens.len() as u64).to_le_bytes());
        tokens
            .iter()
            .for_each(|token| hash.update(token.to_le_bytes()));
    }
    let digest = hash.finalize();
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Compares a candidate with the record.
///
/// # Errors
/// When the candidate cannot be loaded, does not run, or has other words than the original.
pub(crate) fn judge(
    reference: &mut Recorded,
    candidate: &Candidate<'_>,
    sequences: &[Vec<u32>],
    (runtime, scratch): (&Runtime, &Path),
    reporter: &mut dyn Reporter,
) -> Result<Evaluation> {
    let mut watch = watch(reporter, "what is left");
    match candidate {
        Candidate::Folder(dir, graph) => {
            let length = sequences.first().map_or(0, Vec::len);
            let mut loaded = load(dir, *graph, length, runtime)?;
            Ok(evaluate(reference, &mut loaded, sequences, &mut watch)?)
        }
        Candidate::Stored(checkpoint, coding) => {
            let model = (*checkpoint, *coding);
            let mut walked = Walked::new(model, sequences, runtime, scratch, &mut watch)?;
            Ok(evaluate(reference, &mut walked, sequences, &mut watch)?)
        }
    }
}

/// A model folder, loaded for sequences of this length.
///
/// # Errors
/// When it cannot be loaded.
pub(crate) fn load(
    dir: &Path,
    graph: GraphChoice,
    length: usize,
    runtime: &Runtime,
) -> Result<Loaded> {
    let folder = ModelFolder::open(dir)?;
    let config: LlamaConfig = folder
        .config()
        .with_context(|| format!("{} is no language model", dir.display()))?;
    let options = LoadOptions {
        context: length,
        sequences: 1,
        graph,
        ..LoadOptions::default()
    };
    Ok(Loaded {
        model: LanguageModel::load(runtime, &folder, &options)?,
        vocab: config.vocab,
    })
}
