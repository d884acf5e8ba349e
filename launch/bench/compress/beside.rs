//! A detector or encoder beside its original, turn by turn in one process, so that both meet the same moods of the computer.
//!
//! ```text
//!   compress ── starts ──► this program: load the model, its memory ─► load the original ─► a b · b a · a b · … ─► medians
//! ```

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use llmasos_engine::text::Encoder;
use llmasos_engine::vision::{DetectOptions, Detector, Layout, Picture};
use llmasos_engine::{ModelFolder, Runtime, RuntimeOptions, Spin};
use serde::{Deserialize, Serialize};

use crate::bench::model::memory;
use crate::run::configure;

/// Turns that are measured; one before them is not.
const TURNS: usize = 25;
/// Sides of the picture that is looked at: a camera's.
const PICTURE: [u32; 2] = [640, 480];
/// The sentence that is read, about as long as people's are.
const SENTENCE: &str = "The vehicle slows down in front of the crossing because two pedestrians with a dog are about to step on the road.";

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// Memory of the process with the model alone, loaded and warm, files included.
    pub resident_bytes: u64,
    /// Milliseconds of a run of the graph: the median.
    pub run_ms: f64,
    /// The same of the original.
    pub original_run_ms: f64,
    /// How many times faster: the median over the turns.
    pub speedup: f64,
}

/// A model that can be run again and again on the same input.
enum Runner {
    Detector(Box<Detector>, Picture<'static>),
    Encoder(Box<Encoder>, Vec<u32>),
}

impl Runner {
    fn load(dir: &Path, runtime: &Runtime) -> Result<Runner> {
        let folder = ModelFolder::open(dir)?;
        match folder.manifest.role.as_str() {
            "detector" => {
                let [width, height] = PICTURE;
                // Any picture will do: the time does not depend on what is seen.
                let pixels = (0..width * height * 3).map(|at| (at % 251) as u8).collect();
                let picture = Picture::packed(width, height, Layout::Rgb8, pixels)?;
                let detector = Detector::load(runtime, &folder)?;
                Ok(Runner::Detector(Box::new(detector), picture))
            }
            "encoder" => {
                let encoder = Encoder::load(runtime, &folder)?;
                let mut ids = encoder.tokenize(SENTENCE)?;
                ids.truncate(encoder.config().context);
                Ok(Runner::Encoder(Box::new(encoder), ids))
            }
            other => bail!(
                "{}: a model for {other} is measured by tokens, not by runs",
                dir.display()
            ),
        }
    }

    /// Time of a run of the graph.
    fn run(&mut self) -> Result<Duration> {
        match self {
            Runner::Detector(detector, picture) => {
                let found = detector.detect(picture, &DetectOptions::default())?;
                Ok(found.durations.inference)
            }
            Runner::Encoder(encoder, ids) => {
                let begun = Instant::now();
                encoder.hidden(ids)?;
                Ok(begun.elapsed())
            }
        }
    }
}

/// Measures in this process.
///
/// # Errors
/// When a model cannot be loaded or does not run.
pub fn here(dir: &Path, original: &Path, threads: usize) -> Result<Turns> {
    let runtime = Runtime::start(&RuntimeOptions {
        library: configure::onnx_runtime_library()?,
        threads,
        spin: Spin::Short,
        isa: configure::isa()?,
        profile: None,
    })?;
    let mut ours = Runner::load(dir, &runtime)?;
    ours.run()?;
    let found = memory()?;
    let mut theirs = Runner::load(original, &runtime)?;
    theirs.run()?;
    let (mut times, mut original_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (one, other) = match turn % 2 {
            0 => (ours.run()?, theirs.run()?),
            // The other way round: whoever comes second finds warmer caches and a colder processor.
            _ => {
                let other = theirs.run()?;
                (ours.run()?, other)
            }
        };
        times.push(one.as_secs_f64() * 1e3);
        original_times.push(other.as_secs_f64() * 1e3);
        ratios.push(other.as_secs_f64() / one.as_secs_f64().max(f64::MIN_POSITIVE));
    }
    Ok(Turns {
        resident_bytes: found.unique_bytes + found.file_bytes,
        run_ms: median(times),
        original_run_ms: median(original_times),
        speedup: median(ratios),
    })
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

/// Measures in a child.
///
/// # Errors
/// What the child said when it failed.
pub fn in_child(dir: &Path, original: &Path, threads: usize) -> Result<Turns> {
    let program = std::env::current_exe().context("finding this program")?;
    let done = Command::new(program)
        .args(super::measure::COMMAND)
        .arg(dir)
        .arg("--beside")
        .arg(original)
        .args(["--threads", &threads.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("starting this program to measure")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("measuring {} failed: {}", dir.display(), said.trim());
    }
    serde_json::from_slice(&done.stdout).context("reading what was measured")
}
