//! `--max-ppl-increase` with mixed precision: not a gate behind one model, but a search for the smallest that passes it.
//!
//! ```text
//!   int4, and what each group costs ─► mix ─► folder ─► judged ─┐      at most 5 times; the codes of 4 bits are shared by all
//!                                       ▲                       │
//!                                       └──── Search::next ◄────┘      the smallest within the limit, or the best found, stays
//! ```
//!
//! The mixes are judged on the text that the result is judged on. What is chosen with it is one number, the count of groups in 8 bits,
//! out of five measurements, and the report lists them.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use llmasos_forge::{
    Checkpoint,
    compress::{
        self, Mixes, Search,
        recipe::{Bits, Method, QuantizeStep},
        report::StepReport,
    },
    evaluate::Evaluation,
};
use serde_json::{Value, json};

use super::run::{Job, Made};
use crate::cmd::progress::watch;
use crate::models::{Console, Event, Reporter, size_words};

/// Mixes that are judged at most.
const TRIES: usize = 5;

/// A mix that was judged.
struct Tried {
    made: Made,
    evaluation: Evaluation,
    /// Its own codes and checkpoints.
    kept: PathBuf,
}

impl Job<'_> {
    /// What the step may cost, if its bits can be traded for it.
    pub(super) fn searched_limit(&self) -> Option<(&QuantizeStep, f64)> {
        let step = self.recipe.quantize()?;
        let is_tradable = match step.weights {
            Bits::Mixed => true,
            Bits::Int4 => step.method == Method::Best,
            _ => false,
        };
        let most = self.recipe.evaluate.max_perplexity_increase?;
        is_tradable.then_some((step, most))
    }

    /// Writes and judges mixes until the smallest within the limit is found.
    ///
    /// # Errors
    /// Those of quantizing, writing and judging.
    pub(super) fn search(
        &self,
        (step, limit): (&QuantizeStep, f64),
        input: &Checkpoint,
        key: &str,
        reports: &mut Vec<StepReport>,
        reporter: &mut Console,
    ) -> Result<(Made, Evaluation)> {
        let begun = Instant::now();
        let scratch = self.work.scratch();
        let kept = self.work.place("kept", key);
        let tools = self.tools(&scratch, &kept);
        let mut seen = watch(reporter, "quantize");
        let mixes = Mixes::prepare(step, input, &tools, &mut seen).context("quantize")?;
        drop(seen);
        let mut search = Search::new(mixes.losses(), limit, TRIES);
        let (mut best, mut tries): (Option<Tried>, Vec<Value>) = (None, Vec::new());
        while let Some(count) = search.next() {
            let kept = self.work.place("mix", &format!("{key}-{count}"));
            let tools = self.tools(&scratch, &kept);
            let mut seen = watch(reporter, "quantize");
            let chosen = mixes
                .chosen(count, step, input, &tools, &mut seen)
                .context("quantize")?;
            drop(seen);
            let place = format!("{key}-{count}");
            let made = self.folder((step, chosen), input, &place, reporter)?;
            let evaluation = self.judge(&made, input, reporter)?;
            let increase = evaluation.perplexity_increase;
            let text = format!(
                "{count} of {} groups in 8 bits, {}: perplexity {:+.2} %, asked for at most {:+.2} %",
                mixes.groups(),
                size_words(made.graph_bytes),
                increase * 100.0,
                limit * 100.0
            );
            reporter.event(Event::Note { text: &text });
            search.heard(count, increase);
            tries.push(json!({
                "groups": count,
                "bytes": made.graph_bytes,
                "perplexity_increase": increase,
            }));
            let tried = Tried {
                made,
                evaluation,
                kept,
            };
            let is_best = search.best().is_some_and(|(best, _)| best == count);
            let loser = match is_best {
                true => best.replace(tried),
                false => Some(tried),
            };
            if let Some(loser) = loser {
                loser.discard();
            }
        }
        let Tried {
            made, evaluation, ..
        } = best.context("no mix was judged")?;
        let mut detail = made.chosen.detail().clone();
        if let Some(fields) = detail.as_object_mut() {
            fields.insert("groups".into(), json!(mixes.groups()));
            fields.insert("judged".into(), json!(tries.len()));
            fields.insert("search".into(), Value::Array(tries));
        }
        let report = StepReport {
            step: "quantize".into(),
            parameters: compress::parameters(input),
            seconds: begun.elapsed().as_secs_f64(),
            is_resumed: false,
            detail,
        };
        self.tell(&report)?;
        reports.push(report);
        Ok((made, evaluation))
    }
}

impl Tried {
    /// Removes what nobody will look at again: several of them together would take more room than all else.
    fn discard(self) {
        // Only space: what is left goes with the work folder.
        let _ = fs::remove_dir_all(&self.made.dir);
        let _ = fs::remove_dir_all(&self.kept);
    }
}
