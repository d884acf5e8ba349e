//! An encoder without some of its layers, taught to give the vectors of the whole one.
//!
//! ```text
//!   published files ─► weights ─┬─ all layers ─────────── teacher ─┐
//!                               └─ some, spread evenly ── student ─┴─ distil ─► graph in 32-bit floats ─► model folder
//! ```
//!
//! The layers that stay are spread evenly, as DistilBERT's are (Sanh et al. 2019), last with last: sentence encoders have so few that a
//! choice by scores gains little before training, and training undoes the difference.

use std::path::Path;

use llmasos_engine::Runtime;
use serde_json::{Value, json};

use super::recipe::{DistilStep, counterparts, wrong};
use crate::architecture::Model;
use crate::decoder::Options;
use crate::distil::{Distance, DistilOptions, EncoderReport, Vectors, run_encoder};
use crate::encoder::EncoderSpec;
use crate::error::ForgeError;
use crate::folder::{Description, Draft, ModelFolderSummary, Provenance, Watch};
use crate::import;
use crate::language::{self, Built, Text};
use crate::static_int8::sources;
use crate::weights::Weights;

/// Steps at the beginning and at the end of a training whose mean distance is reported.
const SHOWN: usize = 8;

/// What is asked for.
pub struct Shorter<'a> {
    /// Hugging Face folder or GGUF file of the whole encoder.
    pub path: &'a Path,
    /// A model folder of the same: what it says about the licence and the origin holds for the new one.
    pub whole: &'a Path,
    /// Layers that go; at least 1, and one stays.
    pub gone: usize,
    /// How the rest is taught, if it is.
    pub distil: Option<DistilStep>,
    /// Texts that it is taught with, as tokens.
    pub texts: &'a [Vec<u32>],
    /// Of the order of the texts.
    pub seed: u64,
    /// Runs graphs.
    pub runtime: &'a Runtime,
    /// An existing folder that nothing else writes to.
    pub scratch: &'a Path,
}

impl Shorter<'_> {
    /// Writes the model folder `dir`, its weights in 32-bit floats. The values are what pruning, and distilling if it is asked for, say
    /// about it.
    ///
    /// # Errors
    /// [`ForgeError::Recipe`] for a model that is no encoder, or too many layers; those of reading, training and writing. `dir` appears
    /// whole or not at all.
    pub fn write(
        &self,
        name: &str,
        dir: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<(ModelFolderSummary, Vec<Value>), ForgeError> {
        let draft = Draft::create(dir)?;
        let (built, said) = import::open(self.path, &mut |model, weights, text| {
            self.build((model, weights, text), draft.dir(), watch)
        })?;
        let whole = llmasos_engine::ModelFolder::open(self.whole)?;
        let about = Provenance {
            name: name.to_owned(),
            license: whole.manifest.license,
            sources: sources(self.whole)?,
        };
        let what = Description {
            role: built.role.into(),
            family: built.family.into(),
            config: built.config,
            recipe: json!({ "kind": "compress", "steps": said }),
        };
        Ok((draft.publish(&about, &what, watch)?, said))
    }

    fn build(
        &self,
        (model, weights, text): (&Model, &dyn Weights, &Text),
        dir: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<(Built, Vec<Value>), ForgeError> {
        let Model::Encoder(spec) = model else {
            return Err(wrong("model", "an encoder".into(), "a decoder".into()));
        };
        let spec: &EncoderSpec = spec;
        let whole = spec.layers.len();
        if self.gone == 0 || self.gone >= whole {
            let expected = format!("1..={} of its {whole} layers", whole.saturating_sub(1));
            return Err(wrong("prune.layers", expected, self.gone.to_string()));
        }
        let pairs = counterparts((whole - self.gone, whole));
        let kept: Vec<usize> = pairs.into_iter().map(|(_, layer)| layer).collect();
        let student = without_others(spec, &kept);
        let pruned = json!({ "what": "layers", "kept": kept, "left": kept.len() });
        let Some(step) = self.distil else {
            let model = Model::Encoder(Box::new(student));
            let built = language::write(&model, weights, text, &Options::FP32, dir, watch)?;
            return Ok((built, vec![pruned]));
        };
        let options = options(step, (kept.len(), whole), spec.context, self.seed);
        // What the vectors are used for is what has to be alike.
        let vectors = match text.pooling {
            "mean" => Vectors::Mean,
            _ => Vectors::Tokens,
        };
        let (trained, report) = run_encoder(
            ((spec, weights), (&student, weights)),
            self.texts,
            (vectors, Distance::Cosine),
            &options,
            (self.runtime, self.scratch),
            watch,
        )?;
        let model = Model::Encoder(Box::new(trained.spec.clone()));
        let built = language::write(&model, &trained, text, &Options::FP32, dir, watch)?;
        Ok((built, vec![pruned, about(&report)]))
    }
}

/// What training is told; sequences are no longer than the encoder reads.
fn options(step: DistilStep, layers: (usize, usize), context: usize, seed: u64) -> DistilOptions {
    let length = step.length.unwrap_or(DistilOptions::default().length);
    let step = DistilStep {
        length: Some(length.min(context)),
        ..step
    };
    step.options(layers, seed)
}

/// The description without the layers that are not `kept`; their tensors may stay in the file.
fn without_others(spec: &EncoderSpec, kept: &[usize]) -> EncoderSpec {
    let mut student = spec.clone();
    student.layers.clear();
    for (index, layer) in spec.layers.iter().enumerate() {
        if kept.contains(&index) {
            student.layers.push(layer.clone());
            continue;
        }
        let norms = [&layer.attention_norm, &layer.ffn_norm];
        let linears = [&layer.qkv, &layer.output, &layer.up, &layer.down];
        let vectors = norms
            .into_iter()
            .flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias))
            .chain(linears.iter().filter_map(|linear| linear.bias.as_ref()));
        let of_vectors = vectors.flat_map(|vector| &vector.parts);
        let of_vectors = of_vectors.map(|part| part.tensor.clone());
        let of_matrices = linears.iter().flat_map(|linear| &linear.matrix.parts);
        let of_matrices = of_matrices.map(|part| part.tensor.clone());
        student.ignored.extend(of_vectors.chain(of_matrices));
    }
    student
}

/// What training did.
fn about(report: &EncoderReport) -> Value {
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let count = report.losses.len();
    let shown = count.min(SHOWN);
    json!({
        "steps": report.steps,
        "trained": report.trained,
        "distance_before": mean(&report.losses[..shown]),
        "distance": mean(&report.losses[count - shown..]),
    })
}
