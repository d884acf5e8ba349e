//! A language model, measured: speed, waiting, memory, processor time; beside llama.cpp on the same weights if asked for.
//!
//! Every figure is the median over rounds with the smallest and the largest. A round of ours is a process of its own (`ours`); with a
//! rival, its round follows at once, instruction set by instruction set, so that a computer that becomes slower does so for both.
//!
//! ```text
//!   round 1:  avx2: ours, theirs · avx512-vnni: ours, theirs · amx: ours, theirs
//!   round 2:  …                                                              ─► medians ─► table, JSON, ratios
//!   before:   divergence of both from float32, once for each instruction set
//! ```

mod child;
mod constrained;
mod genai;
mod isa;
mod kl;
mod llama_cpp;
pub mod ours;
mod process;
mod profile;
mod prompt;
mod ratio;
mod scaling;
mod series;
pub(crate) mod tools;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::models::{Event, Models, Reporter};
use genai::Genai;
pub use isa::Isa;
use llama_cpp::LlamaCpp;
pub(crate) use llama_cpp::Quantizer;
use ours::{Reference, Setup};
pub(crate) use process::{memory, peak_bytes};
pub use profile::{Phase, Profile};
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
    /// What runs beside it.
    pub against: Option<Against>,
    /// Whether it is shown where the time goes.
    pub has_profile: bool,
    /// Catalogue files, for the children.
    pub catalogues: &'a [PathBuf],
}

/// An engine to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// llama.cpp on a GGUF of the same weights
    Gguf,
    /// onnxruntime-genai on the same portable graph
    Genai,
    /// Ours with one thread: what the others bring
    OneThread,
}

impl Against {
    /// Its name in results.
    fn name(self) -> &'static str {
        match self {
            Against::Gguf => llama_cpp::NAME,
            Against::Genai => genai::NAME,
            Against::OneThread => scaling::NAME,
        }
    }
}

/// What a rival measures in a round.
#[derive(Clone, Copy, Debug)]
struct Work<'a> {
    /// Tokens of the prompts.
    prompts: &'a [usize],
    /// Tokens generated.
    generated: usize,
    /// Tokens before them.
    depths: &'a [usize],
}

/// A rival that is ready.
enum Rival {
    LlamaCpp(LlamaCpp),
    Genai(Genai),
    OneThread,
}

impl Rival {
    fn prepare(
        models: &mut Models,
        plan: &Plan<'_>,
        against: Against,
        reporter: &mut dyn Reporter,
    ) -> Result<Rival> {
        let threads = plan.setup.threads;
        Ok(match against {
            Against::Gguf => {
                Rival::LlamaCpp(LlamaCpp::prepare(models, plan.name, threads, reporter)?)
            }
            Against::Genai => Rival::Genai(Genai::prepare(models, plan.name, threads, reporter)?),
            Against::OneThread => Rival::OneThread,
        })
    }

    /// Speeds of one round, after one of ours.
    fn speeds(&self, plan: &Plan<'_>, isa: Isa, reporter: &mut dyn Reporter) -> Result<Round> {
        let work = Work {
            prompts: &plan.setup.prompts,
            generated: plan.setup.generated,
            depths: &plan.setup.depths,
        };
        match self {
            Rival::LlamaCpp(rival) => rival.speeds(isa, work),
            Rival::Genai(rival) => rival.speeds(work),
            Rival::OneThread => {
                let setup = Setup {
                    threads: 1,
                    ..plan.setup.clone()
                };
                child::round(&Plan { setup, ..*plan }, isa, None, reporter)
            }
        }
    }
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    pairs: Vec<(Isa, Pair)>,
    /// What llama.cpp said about its backends.
    features: Vec<(Isa, String)>,
    profiles: Vec<(Isa, Profile)>,
    against: Option<Against>,
    threads: usize,
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
    // Before anything is fetched and built.
    let isas = instruction_sets(plan)?;
    let mut pairs: Vec<(Isa, Pair)> = isas.iter().map(|isa| (*isa, Pair::default())).collect();
    let mut features = Vec::new();
    let mut references = Vec::new();
    let rival = plan
        .against
        .map(|against| Rival::prepare(models, plan, against, reporter))
        .transpose()?;
    if let Some(Rival::LlamaCpp(rival)) = &rival {
        for (isa, pair) in &mut pairs {
            let base = rival.base(*isa, reporter)?;
            let (divergence, said) = rival.divergence(*isa, &base)?;
            pair.theirs
                .add(&Round::from([("kl".to_owned(), divergence)]));
            features.push((*isa, said));
            references.push(Reference {
                base,
                begin: rival.begin(),
            });
        }
    }
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
            if let Some(rival) = &rival {
                pair.theirs.add(&rival.speeds(plan, *isa, reporter)?);
            }
        }
    }
    for (_, pair) in &mut pairs {
        llama_cpp::keep_better(&mut pair.theirs);
    }
    let mut profiles = Vec::new();
    if plan.has_profile {
        for (isa, _) in &pairs {
            for phase in [Phase::Prefill, Phase::Decode] {
                let text = format!("profile of {}: {}", phase.name(), isa.name());
                reporter.event(Event::Note { text: &text });
                profiles.push((*isa, child::profile(plan, *isa, phase, reporter)?));
            }
        }
    }
    Ok(Measured {
        pairs,
        features,
        profiles,
        against: plan.against,
        threads: plan.setup.threads,
    })
}

/// The one asked for; beside llama.cpp, `auto` means all that can be compared here.
fn instruction_sets(plan: &Plan<'_>) -> Result<Vec<Isa>> {
    if plan.against != Some(Against::Gguf) || plan.setup.isa != Isa::Auto {
        if plan.against == Some(Against::Gguf) {
            llama_cpp::require(plan.setup.isa)?;
        }
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
            let theirs = self.against.map_or("", Against::name);
            let ratio = self.against.map_or("", |_| " ratio");
            let title = format!(
                "{:<40}{:<9}{:>9}{:<20}{theirs:>9}{:<20}{ratio}",
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
            if self.against == Some(Against::OneThread) {
                lines.push(String::new());
                lines.extend(scaling::lines(pair, self.threads));
            }
        }
        for (isa, said) in &self.features {
            lines.push(String::new());
            lines.push(format!("{} with {}: {said}", llama_cpp::NAME, isa.name()));
        }
        for (isa, profile) in &self.profiles {
            lines.push(String::new());
            lines.extend(profile.lines(*isa));
        }
        lines
    }

    /// The objects of `--json`: one for each figure, then the profiles, then the summary.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        for (isa, pair) in &self.pairs {
            let theirs = self.against.map_or("", Against::name);
            for (engine, series) in [(OURS, &pair.ours), (theirs, &pair.theirs)] {
                let figures = series
                    .keys()
                    .into_iter()
                    .filter_map(|key| Some((key, series.spread(key)?)));
                objects.extend(
                    figures.map(|(key, spread)| series::json(engine, isa.name(), key, &spread)),
                );
            }
        }
        objects.extend(
            self.profiles
                .iter()
                .map(|(isa, profile)| profile.json(*isa)),
        );
        if self.against == Some(Against::OneThread) {
            let times = |(isa, pair): &(Isa, Pair)| scaling::json(pair, isa.name(), self.threads);
            objects.extend(self.pairs.iter().map(times));
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

/// One profile in this process, as the child takes it: the object to print.
///
/// # Errors
/// When the model cannot be loaded, an answer fails, or ONNX Runtime wrote no profile.
pub fn one_profile(folder: &Path, setup: &Setup, phase: Phase) -> Result<Value> {
    Ok(serde_json::to_value(profile::take(folder, setup, phase)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_engine::{Spin, text::GraphChoice};

    fn setup(isa: Isa) -> Setup {
        Setup {
            threads: 2,
            spin: Spin::On,
            isa,
            graph: GraphChoice::Best,
            prompts: vec![128],
            generated: 64,
            depths: vec![0, 512],
            concurrency: vec![1],
        }
    }

    fn plan(isa: Isa, against: Option<Against>) -> Plan<'static> {
        Plan {
            name: "smollm2",
            setup: setup(isa),
            rounds: 5,
            against,
            has_profile: false,
            catalogues: &[],
        }
    }

    #[test]
    fn auto_is_all_that_can_be_compared_only_beside_a_peer() {
        assert_eq!(
            instruction_sets(&plan(Isa::Auto, None)).unwrap(),
            [Isa::Auto]
        );
        assert_eq!(
            instruction_sets(&plan(Isa::Avx2, Some(Against::Gguf))).unwrap(),
            [Isa::Avx2]
        );
        let error = instruction_sets(&plan(Isa::Portable, Some(Against::Gguf))).unwrap_err();
        assert!(error.to_string().contains("Next:"), "{error}");
        let here = Isa::of_this_computer();
        assert_eq!(
            instruction_sets(&plan(Isa::Auto, Some(Against::Gguf))).ok(),
            (!here.is_empty()).then_some(here)
        );
    }

    fn measured(against: Option<Against>) -> Measured {
        let mut pair = Pair::default();
        for value in [100.0, 120.0, 110.0] {
            pair.ours.add(&Round::from([
                ("decode_0".to_owned(), value),
                ("memory_unique".to_owned(), 50.0),
            ]));
            if against.is_some() {
                pair.theirs
                    .add(&Round::from([("decode_0".to_owned(), 100.0)]));
            }
        }
        Measured {
            pairs: vec![(Isa::Amx, pair)],
            features: Vec::new(),
            profiles: Vec::new(),
            against,
            threads: 2,
        }
    }

    #[test]
    fn the_table_puts_both_side_by_side_and_json_ends_with_the_summary() {
        let text = measured(Some(Against::Gguf)).lines().join("\n");
        assert!(
            text.contains("llama.cpp") && text.contains("110 [100, 120]") && text.contains("1.10"),
            "{text}"
        );
        let objects = measured(Some(Against::Gguf)).objects();
        assert_eq!(objects.len(), 4);
        assert_eq!(objects[3]["ratio"]["amx"]["decode"], 1.1);
        let text = measured(Some(Against::OneThread)).lines().join("\n");
        assert!(
            text.contains("one thread") && text.contains("2 threads beside one"),
            "{text}"
        );
        let objects = measured(Some(Against::OneThread)).objects();
        assert_eq!(objects[3]["times"]["decode_0"], 1.1);
        let alone = measured(None).lines().join("\n");
        assert!(
            !alone.contains("llama.cpp") && !alone.contains("ratio"),
            "{alone}"
        );
    }
}
