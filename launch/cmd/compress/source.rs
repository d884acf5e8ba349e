//! What is compressed: a name of the catalogue, a `.gguf` file, a Hugging Face folder, or a checkpoint, as a checkpoint in 32-bit floats.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use llmasos_engine::text::Tokenizer;
use llmasos_forge::{Checkpoint, SourceRecord, checkpoint::DESCRIPTION_FILE, import_checkpoint};
use sha2::{Digest, Sha256};

use crate::cmd::progress::watch;
use crate::models::{Entry, Event, FetchPolicy, Models, Reporter, Role};

/// Bytes of a float.
const F32_BYTES: u64 = 4;
/// Bytes of text that a tokenizer may have.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// A model as it was given.
#[derive(Debug)]
pub(crate) enum Given {
    /// A name of the catalogue.
    Entry(Box<Entry>),
    /// A GGUF file or a Hugging Face folder.
    Path(PathBuf),
    /// A checkpoint.
    Checkpoint(PathBuf),
}

impl Given {
    /// What a word of the command line means.
    ///
    /// # Errors
    /// When it is neither a name nor a path, with the nearest name.
    pub(crate) fn read(models: &Models, word: &str) -> Result<Given> {
        let path = Path::new(word);
        let is_path = word.contains('/') || path.exists();
        if !is_path || (!word.contains('/') && models.catalogue().get(word).is_ok()) {
            let entry = models.catalogue().get(word)?.clone();
            if entry.role != Role::Language {
                bail!(
                    "{word} is for {}, and this is for language models, detectors and encoders. Next: `llmasos model list` shows what each is for.",
                    entry.role.name()
                );
            }
            return Ok(Given::Entry(Box::new(entry)));
        }
        if path.join(DESCRIPTION_FILE).is_file() {
            return Ok(Given::Checkpoint(path.to_owned()));
        }
        if path.join("llmasos.json").is_file() {
            bail!(
                "{word} is a model folder: its weights are codes already. Next: give what it was made of: a .gguf file, a Hugging Face \
                 folder, or a name of the catalogue."
            );
        }
        crate::cmd::model::check_source(path)?;
        Ok(Given::Path(path.to_owned()))
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        match self {
            Given::Entry(entry) => entry.name.clone(),
            Given::Path(path) | Given::Checkpoint(path) => {
                let last = path.file_name().unwrap_or_default().to_string_lossy();
                last.strip_suffix(".gguf").unwrap_or(&last).to_owned()
            }
        }
    }

    /// The checkpoint, written to `dir` unless it is there already or was given.
    ///
    /// # Errors
    /// Those of fetching and importing.
    pub(crate) fn checkpoint(
        &self,
        models: &mut Models,
        license: Option<&str>,
        (dir, scratch): (&Path, &Path),
        reporter: &mut dyn Reporter,
    ) -> Result<Checkpoint> {
        let name = self.name();
        let (path, stated) = match self {
            Given::Checkpoint(path) => return Ok(Checkpoint::open(path)?),
            _ if dir.is_dir() => {
                let found = Checkpoint::open(dir)?;
                let text = format!("{name}: its weights are here from an earlier run");
                reporter.event(Event::Note { text: &text });
                return Ok(found);
            }
            Given::Path(path) => (path.clone(), "not stated"),
            Given::Entry(entry) => {
                let path = unpacked(models, &name, scratch, reporter)?;
                (path, entry.license.as_str())
            }
        };
        let license = license.unwrap_or(stated);
        let mut watch = watch(reporter, &name);
        let made = import_checkpoint(&path, &name, license, dir, &mut watch);
        // Only space: what is left goes with the scratch folder.
        let _ = std::fs::remove_dir_all(scratch.join("unpacked"));
        made.with_context(|| format!("{name} cannot be read"))
    }

    /// Bytes that its checkpoint will have, as far as can be told before it is there.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        match self {
            // Published weights have 4 bits or more; 8 floats a byte would be 1 bit.
            Given::Entry(entry) => entry
                .sources
                .iter()
                .flat_map(crate::models::Source::leaves)
                .map(|leaf| leaf.pin.bytes)
                .sum::<u64>()
                .saturating_mul(6),
            Given::Path(path) => size(path).saturating_mul(2),
            Given::Checkpoint(_) => 0,
        }
    }

    /// What names this source: changes whenever the weights would.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn sha256(&self, reporter: &mut dyn Reporter) -> Result<String> {
        match self {
            Given::Entry(entry) => {
                let leaves = entry.sources.iter().flat_map(crate::models::Source::leaves);
                Ok(together(leaves.map(|leaf| leaf.pin.sha256.as_str())))
            }
            Given::Path(path) | Given::Checkpoint(path) => {
                let name = self.name();
                let mut watch = watch(reporter, &name);
                let found = llmasos_forge::compress::source_hashes(path, &mut watch)?;
                Ok(together(found.iter().map(String::as_str)))
            }
        }
    }
}

/// The published files of a model of the catalogue, unpacked below `scratch`: the folder of them, or the only one.
///
/// # Errors
/// Those of fetching and unpacking.
pub(super) fn unpacked(
    models: &mut Models,
    name: &str,
    scratch: &Path,
    reporter: &mut dyn Reporter,
) -> Result<PathBuf> {
    let unpacked = scratch.join("unpacked");
    std::fs::create_dir_all(&unpacked)
        .with_context(|| format!("creating {}", unpacked.display()))?;
    let files = models.unpack_sources(name, FetchPolicy::Auto, &unpacked, reporter)?;
    Ok(match files.as_slice() {
        [file] => file.clone(),
        _ => unpacked,
    })
}

/// sha256 over hashes.
pub(super) fn together<'h>(hashes: impl Iterator<Item = &'h str>) -> String {
    let mut hash = Sha256::new();
    hashes.for_each(|one| hash.update(one));
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn size(path: &Path) -> u64 {
    if path.is_file() {
        return std::fs::metadata(path).map_or(0, |about| about.len());
    }
    let items = std::fs::read_dir(path).into_iter().flatten().flatten();
    items
        .map(|item| item.metadata().map_or(0, |about| about.len()))
        .sum()
}

/// What a report says about where weights came from.
pub(crate) fn sources(given: &Given, checkpoint: &Checkpoint) -> Vec<SourceRecord> {
    match given {
        Given::Entry(entry) => crate::models::records(entry),
        Given::Path(_) | Given::Checkpoint(_) => checkpoint.about().sources.clone(),
    }
}

/// The tokenizer of a checkpoint, and the token that its texts begin with.
///
/// # Errors
/// When its file cannot be read.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> Result<(Tokenizer, Option<u32>)> {
    let json = checkpoint.tokenizer()?;
    anyhow::ensure!(
        json.len() as u64 <= TOKENIZER_BYTES_MAX,
        "tokenizer.json: expected at most {TOKENIZER_BYTES_MAX} bytes, found {}",
        json.len()
    );
    let about = checkpoint.about();
    let begin = match about.ends.add_bos {
        true => Some(u32::try_from(about.ends.bos).context("the token that begins texts")?),
        false => None,
    };
    let tokenizer = Tokenizer::new(&about.name, &json, checkpoint.spec().vocab)?;
    Ok((tokenizer.beginning_with(begin), begin))
}

/// Bytes of a checkpoint's weights.
pub(crate) fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    llmasos_forge::compress::parameters(checkpoint).saturating_mul(F32_BYTES)
}
