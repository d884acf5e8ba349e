//! Speed and memory of a model folder, in a process of its own: the one that compressed it has gigabytes of other things in memory.
//!
//! ```text
//!   compress ── starts ──► this program, told to measure ── one JSON object on standard output ──► report
//! ```

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use llmasos_engine::{
    ModelFolder, Runtime, RuntimeOptions, Spin,
    text::{GraphChoice, LanguageModel, LlamaConfig, LoadOptions},
};
use serde::{Deserialize, Serialize};

use crate::bench::model::memory;
use crate::run::configure;

/// Tokens of the prompt that is measured.
const PROMPT_TOKENS: usize = 256;
/// Times that it is read, and that a token is decoded.
const ROUNDS: usize = 5;
/// Step between the tokens of the prompt: any will do, the time does not depend on them.
const STRIDE: usize = 7919;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speeds {
    /// Memory of the process with the model loaded and warm, files included.
    pub resident_bytes: u64,
    /// Bytes of keys and values of a token.
    pub kv_bytes_per_token: u64,
    /// Tokens per second of a prompt: the median.
    pub prefill: f64,
    /// Tokens per second of an answer.
    pub decode: f64,
}

/// Measures in this process.
///
/// # Errors
/// When the model cannot be loaded or does not run.
pub fn here(dir: &Path, threads: usize, graph: GraphChoice) -> Result<Speeds> {
    let runtime = Runtime::start(&RuntimeOptions {
        library: configure::onnx_runtime_library()?,
        threads,
        spin: Spin::Short,
        isa: configure::isa()?,
        profile: None,
    })?;
    let folder = ModelFolder::open(dir)?;
    let config: LlamaConfig = folder.config()?;
    let options = LoadOptions {
        context: (PROMPT_TOKENS + 1).min(config.context),
        sequences: 1,
        graph,
        ..LoadOptions::default()
    };
    let mut model = LanguageModel::load(&runtime, &folder, &options)?;
    let count = (model.context() - 1).min(PROMPT_TOKENS);
    let tokens: Vec<u32> = (0..count)
        .map(|at| (at * STRIDE % config.vocab) as u32)
        .collect();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        model.warm_up()?;
        let begun = Instant::now();
        model.score(&tokens, count - 1, &mut |_, _| ())?;
        rates.push(count as f64 / begun.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let found = memory()?;
    Ok(Speeds {
        resident_bytes: found.unique_bytes + found.file_bytes,
        kv_bytes_per_token: (model.cache_bytes() / model.context()) as u64,
        prefill: rates[ROUNDS / 2],
        decode: model
            .measured_rate()
            .decode_tps
            .context("the model has decoded no token")?,
    })
}

/// The words that tell this program to measure.
pub const COMMAND: [&str; 2] = ["compress", "--measure"];

/// Measures in a child.
///
/// # Errors
/// What the child said when it failed.
pub fn in_child(dir: &Path, threads: usize, is_portable: bool) -> Result<Speeds> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(COMMAND).arg(dir);
    command.args(["--threads", &threads.to_string()]);
    if is_portable {
        command.arg("--portable");
    }
    let done = command
        .stdin(Stdio::null())
        .output()
        .context("starting this program to measure")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("measuring {} failed: {}", dir.display(), said.trim());
    }
    serde_json::from_slice(&done.stdout).context("reading what was measured")
}
