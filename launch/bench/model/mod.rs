//! A language model, measured: speed, waiting, memory, processor time; beside llama.cpp on the same weights if asked for.
//!
//! Every figure is the median over rounds with the smallest and the largest. A round of ours is a process of its own (`ours`); with a
//! peer, its round follows at once, instruction set by instruction set, so that a computer that becomes slower does so for both.
//!
//! ```text
//!   round 1:  avx2: ours, theirs · avx512-vnni: ours, theirs · amx: ours, theirs
//!   round 2:  …                                                              ─► medians ─► table, JSON, ratios
//!   before:   divergence of both from float32, once for each instruction set
//! ```

mod child;
mod isa;
mod kl;
pub mod ours;
mod peer;
mod process;
mod prompt;
mod ratio;
mod series;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::models::{Event, Models, Reporter};
pub use isa::Isa;
use ours::{Reference, Setup};
use peer::{Peer, Work};
use ratio::Pair;
use series::Round;

/// Name of ours in results.
const OURS: &str = "llmasos";

/// What to measure.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Catalogue name.
    pub name: &'a str,
    /// How a round is run; its instruction set is the one asked for.
    pub setup: Setup,
    /// Rounds.
    pub rounds: usize,
    /// Whether llama.cpp runs beside it.
    pub has_peer: bool,
    /// Catalogue files, for the children.
    pub catalogues: &'a [PathBuf],
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    pairs: Vec<(Isa, Pair)>,
    /// What llama.cpp said about its backends.
    features: Vec<(Isa, String)>,
    has_peer: bool,
}

/// Runs all rounds. Blocks, for minutes.
///
/// # Errors
/// When a round fails, with what its process said.
pub fn measure(
    models: &mut Models,
    plan: &Plan<'_>,
    reporter: &mut dyn Reporter,
) -> Result<Measured> {
    let isas = instruction_sets(plan)?;
    let mut pairs: Vec<(Isa, Pair)> = isas.iter().map(|isa| (*isa, Pair::default())).collect();
    let mut features = Vec::new();
    let mut references = Vec::new();
    let peer = if plan.has_peer {
        let peer = Peer::prepare(models, plan.name, plan.setup.threads, reporter)?;
        for (isa, pair) in &mut pairs {
            let base = peer.base(*isa, reporter)?;
            let (divergence, said) = peer.divergence(*isa, &base)?;
            pair.theirs
                .add(&Round::from([("kl".to_owned(), divergence)]));
            features.push((*isa, said));
            references.push(Reference {
                base,
                begin: peer.begin(),
            });
        }
        Some(peer)
    } else {
        None
    };
    for round in 0..plan.rounds {
        for (at, (isa, pair)) in pairs.iter_mut().enumerate() {
            if reporter.is_cancelled() {
                bail!("stopped after {round} of {} rounds", plan.rounds);
            }
            let text = format!("round {} of {}: {}", round + 1, plan.rounds, isa.name());
            reporter.event(Event::Note { text: &text });
            // The divergence is the same in every round.
            let reference = references.get(at).filter(|_| round == 0);
            pair.ours
                .add(&child::round(plan, *isa, reference, reporter)?);
            if let Some(peer) = &peer {
                let work = Work {
                    prompts: &plan.setup.prompts,
                    generated: plan.setup.generated,
                    depths: &plan.setup.depths,
                };
                pair.theirs.add(&peer.speeds(*isa, work)?);
            }
        }
    }
    for (_, pair) in &mut pairs {
        peer::keep_better(&mut pair.theirs);
    }
    Ok(Measured {
        pairs,
        features,
        has_peer: plan.has_peer,
    })
}

/// The one asked for; with a peer, `auto` means all that can be compared here.
fn instruction_sets(plan: &Plan<'_>) -> Result<Vec<Isa>> {
    if !plan.has_peer || plan.setup.isa != Isa::Auto {
        return Ok(vec![plan.setup.isa]);
    }
    let isas = Isa::of_this_computer();
    if isas.is_empty() {
        bail!(
            "this computer has none of the instruction sets that can be compared (avx2, avx512-vnni, amx). Next: leave `--against` out"
        );
    }
    Ok(isas)
}

impl Measured {
    /// The table.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (isa, pair) in &self.pairs {
            lines.push(String::new());
            let peer = if self.has_peer { peer::NAME } else { "" };
            let ratio = if self.has_peer { " ratio" } else { "" };
            let title = format!(
                "{:<40}{:<9}{:>9}{:<20}{peer:>9}{:<20}{ratio}",
                isa.name(),
                "",
                OURS,
                "",
                ""
            );
            lines.push(title.trim_end().to_owned());
            for key in keys(pair) {
                let (ours, theirs) = (pair.ours.spread(key), pair.theirs.spread(key));
                lines.push(series::line(key, ours.as_ref(), theirs.as_ref()));
            }
        }
        for (isa, said) in &self.features {
            lines.push(String::new());
            lines.push(format!("{} with {}: {said}", peer::NAME, isa.name()));
        }
        lines
    }

    /// The objects of `--json`: one for each figure, then the summary.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        for (isa, pair) in &self.pairs {
            for (engine, series) in [(OURS, &pair.ours), (peer::NAME, &pair.theirs)] {
                let figures = series
                    .keys()
                    .into_iter()
                    .filter_map(|key| Some((key, series.spread(key)?)));
                objects.extend(
                    figures.map(|(key, spread)| series::json(engine, isa.name(), key, &spread)),
                );
            }
        }
        objects.push(ratio::summary(&self.pairs));
        objects
    }
}

/// Keys of both, in the order of ours, then what only the peer has.
fn keys(pair: &Pair) -> Vec<&str> {
    let mut keys = pair.ours.keys();
    let more: Vec<&str> = pair
        .theirs
        .keys()
        .into_iter()
        .filter(|key| !keys.contains(key))
        .collect();
    keys.extend(more);
    keys
}

/// The folder of the model, fetched and built if need be.
///
/// # Errors
/// Those of [`Models::ensure`].
pub fn folder(models: &mut Models, name: &str, reporter: &mut dyn Reporter) -> Result<PathBuf> {
    Ok(models.ensure(name, crate::models::FetchPolicy::Auto, reporter)?)
}

/// One round in this process, as the child does it: prints nothing, returns the object to print.
///
/// # Errors
/// Those of [`ours::round`].
pub fn one_round(folder: &Path, setup: &Setup, reference: Option<&Reference>) -> Result<Value> {
    Ok(serde_json::to_value(ours::round(
        folder, setup, reference,
    )?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_engine::Spin;

    fn setup(isa: Isa) -> Setup {
        Setup {
            threads: 2,
            spin: Spin::On,
            isa,
            prompts: vec![128],
            generated: 64,
            depths: vec![0, 512],
            concurrency: vec![1],
        }
    }

    fn plan(isa: Isa, has_peer: bool) -> Plan<'static> {
        Plan {
            name: "smollm2",
            setup: setup(isa),
            rounds: 5,
            has_peer,
            catalogues: &[],
        }
    }

    #[test]
    fn auto_is_all_that_can_be_compared_only_beside_a_peer() {
        assert_eq!(
            instruction_sets(&plan(Isa::Auto, false)).unwrap(),
            [Isa::Auto]
        );
        assert_eq!(
            instruction_sets(&plan(Isa::Avx2, true)).unwrap(),
            [Isa::Avx2]
        );
        let here = Isa::of_this_computer();
        assert_eq!(
            instruction_sets(&plan(Isa::Auto, true)).ok(),
            (!here.is_empty()).then_some(here)
        );
    }

    fn measured(has_peer: bool) -> Measured {
        let mut pair = Pair::default();
        for value in [100.0, 120.0, 110.0] {
            pair.ours.add(&Round::from([
                ("decode_0".to_owned(), value),
                ("memory_unique".to_owned(), 50.0),
            ]));
            if has_peer {
                pair.theirs
                    .add(&Round::from([("decode_0".to_owned(), 100.0)]));
            }
        }
        Measured {
            pairs: vec![(Isa::Amx, pair)],
            features: Vec::new(),
            has_peer,
        }
    }

    #[test]
    fn the_table_puts_both_side_by_side_and_json_ends_with_the_summary() {
        let text = measured(true).lines().join("\n");
        assert!(
            text.contains("llama.cpp") && text.contains("110 [100, 120]") && text.contains("1.10"),
            "{text}"
        );
        let objects = measured(true).objects();
        assert_eq!(objects.len(), 4);
        assert_eq!(objects[3]["ratio"]["amx"]["decode"], 1.1);
        let alone = measured(false).lines().join("\n");
        assert!(
            !alone.contains("llama.cpp") && !alone.contains("ratio"),
            "{alone}"
        );
    }
}
