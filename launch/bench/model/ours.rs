//! One round of ours, in a process of its own.
//!
//! Instruction set, threads and spinning belong to a process, and a process that has measured once is no longer cold. So every round is a
//! child: the same program, told to do one round and to print its numbers as one JSON object.
//!
//! ```text
//!   files out of the page cache ─ load ─ drop ─ load again ─ warm up ─ prefill … ─ decode … ─ first token cold, cached ─ grammar
//!   ─ many at once ─ memory ─ divergence, if asked for
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use llmasos_engine::{
    ModelFolder, Runtime, RuntimeOptions, Spin,
    text::{Event, GraphChoice, LanguageModel, LoadOptions, Request},
};

use super::{
    constrained,
    isa::Isa,
    kl::{Base, Hear},
    process::{forget_files, memory, processor_time},
    prompt::exact,
    series::Round,
};
use crate::{observe::report::percentile, run::configure};

/// Tokens of the common beginning of the two prompts whose first token is timed.
const PREFIX_TOKENS: usize = 300;
/// Tokens of it that must come from the cache for the figure to mean what it says: caches may work in pages.
const PREFIX_CACHED_MIN: usize = 256;
/// Two endings after the common beginning.
const ENDINGS: [&str; 2] = [
    " What happens next on the island?",
    " Who is speaking in this passage?",
];
/// Room for an ending, and for a prompt's last token.
const ROOM_TOKENS: usize = 32;
/// Words at which prompts begin until an answer is long enough.
const STARTS: [usize; 12] = [0, 61, 127, 190, 251, 313, 380, 444, 503, 577, 640, 701];
/// Bytes of a mebibyte.
const MIB: f64 = 1024.0 * 1024.0;

/// How a round is run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Inference threads.
    pub threads: usize,
    /// What they do when idle.
    pub spin: Spin,
    /// Instruction set.
    pub isa: Isa,
    /// Which of the folder's graphs runs.
    pub graph: GraphChoice,
    /// Tokens of the prompts whose prefill is measured.
    pub prompts: Vec<usize>,
    /// Tokens of an answer.
    pub generated: usize,
    /// Tokens before the answers whose decoding is measured.
    pub depths: Vec<usize>,
    /// Requests at once.
    pub concurrency: Vec<usize>,
}

/// What the float32 model predicts, for the divergence.
#[derive(Clone, Debug)]
pub struct Reference {
    /// llama.cpp's file.
    pub base: PathBuf,
    /// Token with which every chunk begins.
    pub begin: Option<u32>,
}

impl Setup {
    /// Tokens of prompt and answer together that the measurements need.
    fn context(&self) -> usize {
        let depth = self.depths.iter().copied().max().unwrap_or(0);
        let prompt = self.prompts.iter().copied().max().unwrap_or(0);
        let answer = depth.max(1) + self.generated;
        let at_once = self.requests_max() * (ROOM_TOKENS + self.generated);
        answer.max(prompt).max(PREFIX_TOKENS).max(at_once) + ROOM_TOKENS
    }

    fn requests_max(&self) -> usize {
        self.concurrency.iter().copied().max().unwrap_or(1)
    }

    /// The runtime of this round.
    pub(super) fn runtime(&self) -> Result<RuntimeOptions> {
        Ok(RuntimeOptions {
            library: configure::onnx_runtime_library()?,
            threads: self.threads,
            spin: self.spin,
            isa: self.own_isa()?,
            profile: None,
        })
    }

    /// The engine's instruction set. Where it has no path for AMX, its best one stands for a computer that has AMX.
    fn own_isa(&self) -> Result<llmasos_engine::Isa> {
        match self.isa {
            Isa::Auto => configure::isa(),
            Isa::Amx => Ok("amx"
                .parse()
                .unwrap_or_else(|_| llmasos_engine::Isa::detect())),
            Isa::Avx2 | Isa::Avx512Vnni | Isa::Portable => Ok(self.isa.name().parse()?),
        }
    }
}

/// Measures everything once.
///
/// # Errors
/// When the model cannot be loaded, an answer fails, or the model ends every answer too early.
pub fn round(folder: &Path, setup: &Setup, reference: Option<&Reference>) -> Result<Round> {
    let runtime = Runtime::start(&setup.runtime()?)?;
    let mut round = Round::new();
    let mut add = |key: &str, value: f64| round.insert(key.to_owned(), value);
    add("memory_runtime", unique_mib()?);
    forget_files(folder)?;
    let (model, took) = load(&runtime, folder, setup)?;
    drop(model);
    add("load_cold", millis(took));
    let (mut model, took) = load(&runtime, folder, setup)?;
    add("load_warm", millis(took));
    add("memory_loaded", unique_mib()?);
    model.warm_up()?;
    add("memory_warm", unique_mib()?);
    for &tokens in &setup.prompts {
        add(&format!("prefill_{tokens}"), prefill(&mut model, tokens)?);
    }
    let mut step = Duration::ZERO;
    for (at, &depth) in setup.depths.iter().enumerate() {
        let decoded = decode(&mut model, depth, setup.generated)?;
        add(&format!("decode_{depth}"), 1.0 / decoded.step.as_secs_f64());
        if at == 0 {
            step = decoded.step;
            add("between_p50", decoded.between_p50_ms);
            add("between_p99", decoded.between_p99_ms);
            add("cpu_token", millis(decoded.processor_per_token));
        }
    }
    let [cold, cached] = first_tokens(&mut model)?;
    add("first_token_cold", millis(cold));
    add("first_token_cached", millis(cached));
    if step > Duration::ZERO {
        constrained::measure(&mut model, setup.generated, step, &mut round)?;
    }
    let mut add = |key: &str, value: f64| round.insert(key.to_owned(), value);
    for &requests in &setup.concurrency {
        let rate = throughput(&mut model, requests, setup.generated)?;
        add(&format!("throughput_{requests}"), rate);
    }
    let memory = memory()?;
    add("memory_unique", memory.unique_bytes as f64 / MIB);
    add("memory_cache", model.cache_bytes() as f64 / MIB);
    add("memory_file", memory.file_bytes as f64 / MIB);
    if let Some(reference) = reference {
        add("kl", divergence(&mut model, reference)?);
    }
    Ok(round)
}

fn unique_mib() -> Result<f64> {
    Ok(memory()?.unique_bytes as f64 / MIB)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The model, and the time until it was there.
pub(super) fn load(
    runtime: &Runtime,
    folder: &Path,
    setup: &Setup,
) -> Result<(LanguageModel, Duration)> {
    let begun = Instant::now();
    let folder = ModelFolder::open(folder)?;
    let options = LoadOptions {
        context: setup.context(),
        sequences: setup.requests_max(),
        graph: setup.graph,
        ..LoadOptions::default()
    };
    let model = LanguageModel::load(runtime, &folder, &options)?;
    Ok((model, begun.elapsed()))
}

/// A prompt of exactly so many tokens.
pub(super) fn prompt(model: &LanguageModel, tokens: usize, start: usize) -> Result<String> {
    exact(tokens, start, &mut |text| Ok(model.tokenize(text)?.len()))
}

/// An answer from an empty cache.
pub(super) fn request(prompt: String, tokens: usize) -> Request {
    Request {
        prompt,
        max_tokens: tokens,
        ..Request::default()
    }
}

/// Prompt tokens per second, from an empty cache; once before without counting.
fn prefill(model: &mut LanguageModel, tokens: usize) -> Result<f64> {
    let request = request(prompt(model, tokens, 0)?, 1);
    let mut rate = 0.0;
    for _ in 0..2 {
        model.forget();
        let finished = model.generate(&request)?.finish()?;
        rate = tokens as f64 / finished.prefill.as_secs_f64();
    }
    Ok(rate)
}

/// Decoding of one answer.
struct Decoded {
    /// Mean time of a token after the first.
    step: Duration,
    between_p50_ms: f64,
    between_p99_ms: f64,
    processor_per_token: Duration,
}

/// Decodes an answer of exactly `generated` tokens after `depth` others.
fn decode(model: &mut LanguageModel, depth: usize, generated: usize) -> Result<Decoded> {
    let request = long_answer(model, depth.max(1), generated)?;
    model.forget();
    let mut generation = model.generate(&request)?;
    generation.next().context("the answer is empty")??;
    let (processor, begun) = (processor_time()?, Instant::now());
    let (mut gaps, mut last) = (Vec::with_capacity(generated), begun);
    for piece in generation {
        piece?;
        let now = Instant::now();
        gaps.push(millis(now - last));
        last = now;
    }
    let steps = u32::try_from(gaps.len()).unwrap_or(u32::MAX);
    ensure!(
        steps > 0,
        "an answer of one token has no second one: use --gen 2 or more"
    );
    Ok(Decoded {
        step: (last - begun) / steps,
        between_p50_ms: percentile(&gaps, 0.5).unwrap_or(f64::NAN),
        between_p99_ms: percentile(&gaps, 0.99).unwrap_or(f64::NAN),
        processor_per_token: processor_time()?.saturating_sub(processor) / steps,
    })
}

/// A request whose answer does not end before its last token. Trying it is also the warm-up of the measurement.
pub(super) fn long_answer(
    model: &mut LanguageModel,
    tokens: usize,
    generated: usize,
) -> Result<Request> {
    let mut longest = 0;
    for start in STARTS {
        let request = request(prompt(model, tokens, start)?, generated);
        model.forget();
        let finished = model.generate(&request)?.finish()?;
        if finished.tokens_out == generated {
            return Ok(request);
        }
        longest = longest.max(finished.tokens_out);
    }
    bail!(
        "{}: all answers after {tokens} tokens end early, the longest after {longest} of {generated} tokens. Next: a smaller --gen",
        model.name()
    )
}

/// Time to the first token from an empty cache, and when the prompt begins with tokens that are cached.
fn first_tokens(model: &mut LanguageModel) -> Result<[Duration; 2]> {
    let beginning = prompt(model, PREFIX_TOKENS, 0)?;
    let mut times = [Duration::ZERO; 2];
    model.forget();
    for (time, ending) in times.iter_mut().zip(ENDINGS) {
        let request = request(format!("{beginning}{ending}"), 2);
        let begun = Instant::now();
        let mut generation = model.generate(&request)?;
        generation.next().context("the answer is empty")??;
        *time = begun.elapsed();
    }
    let check = model
        .generate(&request(format!("{beginning}{}", ENDINGS[0]), 1))?
        .finish()?;
    ensure!(
        check.tokens_cached >= PREFIX_CACHED_MIN,
        "expected at least {PREFIX_CACHED_MIN} of {PREFIX_TOKENS} tokens in the cache, found {}",
        check.tokens_cached
    );
    Ok(times)
}

/// Tokens per second of all answers together, prompts included.
fn throughput(model: &mut LanguageModel, requests: usize, generated: usize) -> Result<f64> {
    let requests: Vec<Request> = (0..requests)
        .map(|at| {
            let start = STARTS[at % STARTS.len()];
            Ok(request(prompt(model, ROOM_TOKENS, start)?, generated))
        })
        .collect::<Result<_>>()?;
    model.forget();
    answer_all(model, &requests)
}

/// Answers requests that are there at the same time: tokens per second of all of them, from the moment when each has its first
/// until the first of them ends, so that neither prompts nor a tail of fewer answers count.
fn answer_all(model: &mut LanguageModel, requests: &[Request]) -> Result<f64> {
    let server = model.server();
    for request in requests {
        server.submit(request, Instant::now())?;
    }
    let mut begun = BTreeSet::new();
    let (mut since, mut tokens, mut rate) = (None, 0, None);
    while server.has_work() {
        let events = server.step(Instant::now());
        let now = Instant::now();
        let ends = events
            .iter()
            .any(|event| matches!(event, Event::Finished(..)));
        for event in events {
            match event {
                Event::Piece(id, _) => {
                    begun.insert(id);
                    tokens += usize::from(since.is_some());
                }
                Event::Finished(..) => {}
                Event::Failed(_, error, _) => return Err(error.into()),
            }
        }
        match since {
            None if begun.len() == requests.len() => since = Some(now),
            Some(since) if ends && rate.is_none() => {
                rate = Some(tokens as f64 / now.duration_since(since).as_secs_f64());
            }
            _ => {}
        }
    }
    rate.context("an answer ended before all of them had begun")
}

/// Mean divergence from what the float32 model predicts.
fn divergence(model: &mut LanguageModel, reference: &Reference) -> Result<f64> {
    let doing = || format!("reading {}", reference.base.display());
    let bytes = std::fs::read(&reference.base).with_context(doing)?;
    let base = Base::parse(&bytes).with_context(doing)?;
    ensure!(
        base.context() <= model.context(),
        "a chunk has {} tokens, the model was loaded for {}",
        base.context(),
        model.context()
    );
    base.mean(reference.begin, &mut |tokens, first, hear| {
        score(model, tokens, first, hear)
    })
}

/// Lets `hear` have the scores after every token from position `first` on.
fn score(model: &mut LanguageModel, tokens: &[u32], first: usize, hear: Hear<'_>) -> Result<()> {
    let mut outcome = Ok(());
    model.score(tokens, first, &mut |position, scores| {
        if outcome.is_ok() {
            outcome = hear(position, scores);
        }
    })?;
    outcome
}
