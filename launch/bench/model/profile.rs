//! Where the time goes: ONNX Runtime's own profile of prefill and of decoding, summed by type of operator.
//!
//! A session that profiles writes one JSON file when it is closed: an event for every run and for every operator in it. Recording costs
//! time itself, so profiles are taken in processes of their own and never mixed with speeds. The first runs are left out, because they pay
//! for memory that later ones find.
//!
//! ```text
//!   {"cat": "Session", "name": "model_run", "ts": …, "dur": …}                                      one a run, microseconds
//!   {"cat": "Node", "name": "…_kernel_time", "ts": …, "dur": …, "args": {"op_name": "MatMulNBits"}}  one an operator
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use llmasos_engine::{Runtime, RuntimeOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    isa::Isa,
    ours::{Setup, load, long_answer, prompt, request},
    series::round,
};

/// Beginning of the names of the files.
const FILE: &str = "profile";
/// Largest file read: an answer of a large model has some 100,000 events of 300 bytes.
const BYTES_MAX: u64 = 1 << 30;
/// Prefills that are profiled; the first half is left out.
const PREFILLS: usize = 2;
/// What runs take beside their operators.
const BETWEEN: &str = "between operators";

/// What is profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Phase {
    /// The longest prompt.
    Prefill,
    /// An answer, token by token.
    Decode,
}

impl Phase {
    /// The word on the command line and in results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }
}

/// A phase by type of operator, the dearest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// `prefill` or `decode`.
    pub phase: String,
    /// Tokens.
    pub tokens: usize,
    /// Time of the runs.
    pub ms_per_token: f64,
    /// Where it went.
    pub operators: Vec<Share>,
}

/// One type of operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its name in the graph.
    pub operator: String,
    /// How often it ran.
    pub calls: usize,
    /// Its time.
    pub ms_per_token: f64,
    /// Of the time of the runs.
    pub percent: f64,
}

impl Profile {
    /// One object of `--json`.
    pub(super) fn json(&self, isa: Isa) -> Value {
        serde_json::json!({ "profile": self.phase, "isa": isa.name(), "tokens": self.tokens, "ms_per_token": self.ms_per_token, "operators": self.operators })
    }

    /// The table.
    pub(super) fn lines(&self, isa: Isa) -> Vec<String> {
        let mut lines = vec![format!(
            "where the time of {} goes, {}: {:.3} ms a token with profiling, {} tokens",
            self.phase,
            isa.name(),
            self.ms_per_token,
            self.tokens
        )];
        lines.extend(self.operators.iter().map(|share| {
            format!(
                "  {:<38}{:>6.1} %{:>12.4} ms a token{:>9} calls",
                share.operator, share.percent, share.ms_per_token, share.calls
            )
        }));
        lines
    }
}

/// Profiles one phase in this process.
///
/// # Errors
/// When the model cannot be loaded, an answer fails, or ONNX Runtime wrote no profile.
pub(super) fn take(folder: &Path, setup: &Setup, phase: Phase) -> Result<Profile> {
    let dir = Scratch::new()?;
    let runtime = Runtime::start(&RuntimeOptions {
        profile: Some(dir.0.join(FILE)),
        ..setup.runtime()?
    })?;
    let (mut model, _) = load(&runtime, folder, setup)?;
    let tokens = match phase {
        Phase::Prefill => {
            let tokens = setup.prompts.iter().copied().max().unwrap_or(1);
            let request = request(prompt(&model, tokens, 0)?, 1);
            for _ in 0..PREFILLS {
                model.forget();
                model.generate(&request)?.finish()?;
            }
            Some(tokens)
        }
        Phase::Decode => {
            long_answer(&mut model, 1, setup.generated)?;
            None
        }
    };
    // Closing the session ends its profile.
    drop(model);
    let text = dir.read()?;
    match tokens {
        Some(tokens) => summarise(&text, phase, Some(tokens), |runs| runs - runs / PREFILLS),
        None => summarise(&text, phase, None, |runs| runs.min(2) - 1),
    }
}

/// One event; it has more fields.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    name: String,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    op_name: String,
}

/// Sums the events of the runs after the first `skipped(runs)`; without `tokens`, each run is one token.
fn summarise(
    text: &str,
    phase: Phase,
    tokens: Option<usize>,
    skipped: impl Fn(usize) -> usize,
) -> Result<Profile> {
    let events: Vec<Event> =
        serde_json::from_str(text).context("reading the profile of ONNX Runtime")?;
    let mut runs: Vec<&Event> = events
        .iter()
        .filter(|event| event.cat == "Session" && event.name == "model_run")
        .collect();
    runs.sort_by(|a, b| a.ts.total_cmp(&b.ts));
    ensure!(!runs.is_empty(), "the profile of ONNX Runtime has no runs");
    let runs = &runs[skipped(runs.len()).min(runs.len() - 1)..];
    let (begin, total): (f64, f64) = (runs[0].ts, runs.iter().map(|run| run.dur).sum());
    let tokens = tokens.unwrap_or(runs.len());
    let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    let nodes = events.iter().filter(|event| {
        event.cat == "Node" && event.name.ends_with("_kernel_time") && event.ts >= begin
    });
    for node in nodes {
        let sum = sums.entry(&node.args.op_name).or_default();
        sum.0 += 1;
        sum.1 += node.dur;
    }
    let within: f64 = sums.values().map(|(_, time)| time).sum();
    sums.insert(BETWEEN, (0, (total - within).max(0.0)));
    let per_token = |microseconds: f64| microseconds / 1e3 / tokens.max(1) as f64;
    let mut operators: Vec<Share> = sums
        .into_iter()
        .map(|(operator, (calls, time))| Share {
            operator: operator.to_owned(),
            calls,
            ms_per_token: round(per_token(time)),
            percent: round(100.0 * time / total.max(f64::MIN_POSITIVE)),
        })
        .collect();
    operators.sort_by(|a, b| b.percent.total_cmp(&a.percent));
    Ok(Profile {
        phase: phase.name().to_owned(),
        tokens,
        ms_per_token: round(per_token(total)),
        operators,
    })
}

/// A folder that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let dir = std::env::temp_dir().join(format!("llmasos-profile-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Scratch(dir))
    }

    /// The one file in it.
    fn read(&self) -> Result<String> {
        let doing = || format!("reading {}", self.0.display());
        let mut files = fs::read_dir(&self.0).with_context(doing)?;
        let Some(file) = files.next() else {
            bail!("ONNX Runtime wrote no profile into {}", self.0.display());
        };
        let path = file.with_context(doing)?.path();
        let bytes = fs::metadata(&path).with_context(doing)?.len();
        ensure!(
            bytes <= BYTES_MAX,
            "{}: {bytes} bytes, at most {BYTES_MAX} are read. Next: a smaller --gen",
            path.display()
        );
        fs::read_to_string(&path).with_context(doing)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed from the folder for temporary files is removed by the system.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs: the first is dear, the second has 3 ms of products, 1 ms of attention and 1 ms beside them.
    const EVENTS: &str = r#"[
      {"cat": "Session", "name": "model_loading_uri", "ts": 1, "dur": 900000, "args": {}},
      {"cat": "Node", "name": "a_kernel_time", "ts": 100, "dur": 50000, "args": {"op_name": "MatMulNBits", "provider": "CPUExecutionProvider"}},
      {"cat": "Session", "name": "model_run", "ts": 90, "dur": 60000, "args": {}},
      {"cat": "Node", "name": "a_kernel_time", "ts": 70001, "dur": 1000, "args": {"op_name": "MatMulNBits"}},
      {"cat": "Node", "name": "a_fence_before", "ts": 70001, "dur": 77, "args": {"op_name": "MatMulNBits"}},
      {"cat": "Node", "name": "b_kernel_time", "ts": 71001, "dur": 1000, "args": {"op_name": "GroupQueryAttention"}},
      {"cat": "Node", "name": "c_kernel_time", "ts": 72001, "dur": 2000, "args": {"op_name": "MatMulNBits"}},
      {"cat": "Session", "name": "model_run", "ts": 70000, "dur": 5000, "args": {}}
    ]"#;

    fn shares(profile: &Profile) -> Vec<(&str, usize, f64)> {
        profile
            .operators
            .iter()
            .map(|share| (share.operator.as_str(), share.calls, share.percent))
            .collect()
    }

    #[test]
    fn operators_of_one_type_are_summed_and_the_first_run_is_left_out() {
        let profile = summarise(EVENTS, Phase::Decode, None, |_| 1).unwrap();
        assert_eq!((profile.tokens, profile.ms_per_token), (1, 5.0));
        let expected = [
            ("MatMulNBits", 2, 60.0),
            ("GroupQueryAttention", 1, 20.0),
            (BETWEEN, 0, 20.0),
        ];
        assert_eq!(shares(&profile), expected);
        assert_eq!(profile.operators[0].ms_per_token, 3.0);
        let table = profile.lines(Isa::Avx2).join("\n");
        assert!(
            table.contains("60.0 %") && table.contains("MatMulNBits"),
            "{table}"
        );
    }

    #[test]
    fn a_prefill_is_spread_over_its_tokens() {
        let profile = summarise(EVENTS, Phase::Prefill, Some(50), |runs| {
            runs - runs / PREFILLS
        })
        .unwrap();
        assert_eq!((profile.tokens, profile.ms_per_token), (50, 0.1));
    }

    #[test]
    fn other_files_are_refused() {
        for (text, expected) in [
            ("", "reading the profile"),
            ("{}", "reading the profile"),
            ("[]", "has no runs"),
        ] {
            let error = format!(
                "{:#}",
                summarise(text, Phase::Decode, None, |_| 0).unwrap_err()
            );
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
