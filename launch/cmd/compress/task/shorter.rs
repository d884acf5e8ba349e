//! The first steps of an encoder, if its recipe has them: fewer layers, taught by the whole.
//!
//! ```text
//!   source ─┬─ folder ───────────────────────────────────────────► the original, which judges
//!           └─ published files ─ Shorter (prune layers, distil) ─► folder in floats ─► quantize
//! ```

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use llmasos_forge::{
    Recipe,
    compress::{
        self, Shorter, graph_parameters,
        recipe::{CompressStep, DistilStep, PruneStep, Pruned},
        report::StepReport,
    },
    corpus::Part,
};

use super::super::source::unpacked;
use super::{Inputs, Job, Source, graph_bytes};
use crate::cmd::{output, progress::watch};
use crate::models::{Event, Models, Reporter};

/// What is quantized: the original, or what was made of it.
pub(super) struct Whole {
    pub(super) folder: PathBuf,
    /// What names it.
    pub(super) key: String,
    pub(super) steps: Vec<StepReport>,
}

impl Job<'_> {
    /// Does the steps before quantizing; those of an earlier run are taken over.
    pub(super) fn shorten(
        &self,
        models: &mut Models,
        reporter: &mut dyn Reporter,
    ) -> Result<Whole> {
        let texts = self.inputs.key_of(Part::Train);
        let mut made = Whole {
            folder: self.folder.clone(),
            key: self.sha256.clone(),
            steps: Vec::new(),
        };
        let (mut gone, mut distil): (usize, Option<DistilStep>) = (0, None);
        let mut words = Vec::new();
        for step in &self.order.recipe.steps {
            match step {
                CompressStep::Prune(PruneStep {
                    what: Pruned::Layers(count),
                    ..
                }) => gone = *count,
                CompressStep::Distil(step) => distil = Some(*step),
                CompressStep::Degrid { .. }
                | CompressStep::Prune(_)
                | CompressStep::Quantize(_) => continue,
            }
            words.push(step.word());
            made.key = compress::key(&made.key, step, &texts);
        }
        if gone == 0 {
            return Ok(made);
        }
        let word = words.last().copied().unwrap_or_default();
        made.folder = self.work.place("step", &made.key);
        if let Some(noted) = self.work.noted::<Vec<StepReport>>("step", &made.key) {
            let text = format!("{word}: done by an earlier run");
            reporter.event(Event::Note { text: &text });
            made.steps.extend(noted.into_iter().map(|step| StepReport {
                is_resumed: true,
                ..step
            }));
            return Ok(made);
        }
        let begun = Instant::now();
        let scratch = self.work.scratch();
        self.work.require_room(3 * graph_bytes(&self.folder)?)?;
        let path = self.published(models, reporter)?;
        let none = Vec::new();
        let shorter = Shorter {
            path: &path,
            whole: &self.folder,
            gone,
            distil,
            texts: match &self.inputs {
                Inputs::Sentences(sets) => &sets.train,
                Inputs::Pictures(_) => &none,
            },
            seed: self.order.recipe.seed,
            runtime: &self.runtime,
            scratch: &scratch,
        };
        let name = self.order.source.name();
        let (_, details) = shorter
            .write(&name, &made.folder, &mut watch(reporter, word))
            .context(word)?;
        let parameters = graph_parameters(&made.folder)?;
        let last = details.len().saturating_sub(1);
        let reports = words.iter().zip(details).enumerate();
        let reports = reports.map(|(index, (word, detail))| StepReport {
            step: (*word).into(),
            parameters,
            // All is written at the end: taking layers away is no work of its own.
            seconds: if index == last {
                begun.elapsed().as_secs_f64()
            } else {
                0.0
            },
            is_resumed: false,
            detail,
        });
        made.steps.extend(reports);
        self.work.finished("step", &made.key, &made.steps)?;
        if self.order.args.json {
            for report in &made.steps {
                output::line(&serde_json::to_string(report)?)?;
            }
        }
        Ok(made)
    }

    /// The weights as they were published: a graph does not tell one layer from the next.
    fn published(&self, models: &mut Models, reporter: &mut dyn Reporter) -> Result<PathBuf> {
        let ready = match &self.order.source {
            Source::Published(path) => return Ok(path.clone()),
            Source::Entry(entry, _) => match entry.recipe {
                Recipe::Huggingface { .. } | Recipe::Gguf { .. } => {
                    return unpacked(models, &entry.name, &self.work.scratch(), reporter);
                }
                _ => format!("{} was published as a graph", entry.name),
            },
            Source::Folder(path, _) => format!("{} is a model folder", path.display()),
        };
        anyhow::bail!(
            "{ready}, and a graph does not tell one layer from the next. Next: give a Hugging Face folder, a .gguf file, or a name of \
             the catalogue that is made from one, such as minilm-l6-v2-fp32."
        )
    }
}
