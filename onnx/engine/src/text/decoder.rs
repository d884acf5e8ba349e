//! A decoder-only model of the llama family: tokens are appended to a cache and scores for the next one come out.
//!
//! ```text
//! input_ids i64[1,S] ────────────────┐
//! seqlens_k i32[1] = length − 1 ─────┤              ┌─► logits f32[1,1,vocab], last position only
//! total_sequence_length i32 = length ┼─► graph ─────┤
//! past_key_values.l.key|value ───────┘              └─► present.l.key|value: the same buffers
//! ```
//!
//! All of it is bound once. A step of one token changes three numbers and runs; a longer run binds only its ids anew.

use std::path::Path;

use llmasos_kernels::pool::Element;
use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::Tensor;
use serde::Deserialize;

use super::kv::{KvCache, past_name, present_name};
use super::step::{Memory, Rows, StepModel};
use super::tokenizer::MAX_VOCAB;
use crate::error::{EngineError, Result};
use crate::runtime::Runtime;
use crate::session::{Dim, Kind, Session, SessionSpec, TensorSpec, Terminator, Threads};

/// Most layers of a model.
pub(crate) const MAX_LAYERS: usize = 512;
/// Most heads of a layer, and largest head.
pub(crate) const MAX_HEADS: usize = 1_024;
/// Most tokens of one run: about 0.2 s of a small model on two cores, and long enough for full speed.
const MAX_ROWS: usize = 128;
/// Longest context.
pub(crate) const MAX_CONTEXT: usize = 1 << 20;

/// The settings of a model folder of family `llama`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LlamaConfig {
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens the model has scores for.
    pub vocab: usize,
    /// Most tokens the graph's position table covers.
    pub context: usize,
    /// Token that begins a sequence, if there is one.
    pub bos: Option<u32>,
    /// Whether every prompt begins with `bos`.
    #[serde(default)]
    pub add_bos: bool,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// Accuracy level of the quantized matrix products: 1 with 32-bit float activations, 4 with 8-bit ones.
    #[serde(default)]
    pub accuracy_level: u32,
    /// Whether the folder has the fused graph beside the portable one.
    #[serde(default)]
    pub fused: bool,
    /// How the fused graph keeps keys and values.
    #[serde(default)]
    pub kv: KvStorage,
}

/// How keys and values are kept between steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum KvStorage {
    /// In half precision.
    #[default]
    #[serde(rename = "f16")]
    F16,
    /// As bytes: every block of the graph has scales for them.
    #[serde(rename = "int8")]
    Int8,
}

impl KvStorage {
    /// What the kernels call it.
    pub(crate) fn element(self) -> Element {
        match self {
            KvStorage::F16 => Element::F16,
            KvStorage::Int8 => Element::Int8,
        }
    }
}

impl LlamaConfig {
    /// The first thing wrong with it, if there is one.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ranges = [
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_HEADS),
            ("kv_heads", self.kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEADS),
            ("vocab", self.vocab, MAX_VOCAB),
            ("context", self.context, MAX_CONTEXT),
        ];
        for (field, found, limit) in ranges {
            if !(1..=limit).contains(&found) {
                return Err(format!(
                    "config: {field}: expected 1..={limit}, found {found}"
                ));
            }
        }
        if self.eos.is_empty() || self.eos.len() > 16 {
            return Err(format!(
                "config: eos: expected 1..=16 tokens, found {}",
                self.eos.len()
            ));
        }
        match self
            .eos
            .iter()
            .chain(&self.bos)
            .find(|token| **token as usize >= self.vocab)
        {
            Some(token) => Err(format!(
                "config: eos or bos: expected tokens below {}, found {token}",
                self.vocab
            )),
            None => Ok(()),
        }
    }
}

/// An opened model with its cache.
pub(crate) struct Decoder {
    session: Session,
    cache: KvCache,
    /// For runs of one token: everything is bound for good.
    step: IoBinding,
    step_ids: Tensor<i64>,
    /// For longer runs: the ids are bound each time.
    wide: IoBinding,
    past_length: Tensor<i32>,
    total_length: Tensor<i32>,
    scores: Tensor<f32>,
    context: usize,
    vocab: usize,
}

impl Decoder {
    /// Opens the graph and allocates a cache for `context` tokens.
    pub(crate) fn open(
        runtime: &Runtime,
        model: &str,
        graph: &Path,
        config: &LlamaConfig,
        context: usize,
    ) -> Result<Self> {
        let session = open_session(runtime, model, graph, config)?;
        let mut cache = KvCache::new(config, context)?;
        let allocator = Allocator::default();
        let failed = |error: ort::Error| session.failed(&error);
        let step_ids = Tensor::<i64>::new(&allocator, [1_usize, 1]).map_err(failed)?;
        let past_length = Tensor::<i32>::new(&allocator, [1_usize]).map_err(failed)?;
        let total_length =
            Tensor::<i32>::new(&allocator, Vec::<i64>::new() /* a scalar */).map_err(failed)?;
        let mut scores = Tensor::<f32>::new(&allocator, [1, 1, config.vocab]).map_err(failed)?;
        scores.extract_tensor_mut().1.fill(0.0);
        let mut bind = || -> Result<IoBinding> {
            let mut binding = session.binding()?;
            cache.bind(&mut binding).map_err(failed)?;
            binding
                .bind_input("seqlens_k", &past_length)
                .map_err(failed)?;
            binding
                .bind_input("total_sequence_length", &total_length)
                .map_err(failed)?;
            binding.bind_output("logits", &mut scores).map_err(failed)?;
            Ok(binding)
        };
        let (mut step, wide) = (bind()?, bind()?);
        step.bind_input("input_ids", &step_ids).map_err(failed)?;
        Ok(Self {
            session,
            cache,
            step,
            step_ids,
            wide,
            past_length,
            total_length,
            scores,
            context,
            vocab: config.vocab,
        })
    }

    fn run(&mut self, start: usize, tokens: &[u32]) -> Result<()> {
        let total = start + tokens.len();
        // Both fit: the context is at most MAX_CONTEXT.
        self.past_length.extract_tensor_mut().1[0] = total as i32 - 1;
        self.total_length.extract_tensor_mut().1[0] = total as i32;
        if let [token] = tokens {
            self.step_ids.extract_tensor_mut().1[0] = i64::from(*token);
            return self.session.run_bound(&self.step);
        }
        let mut ids = Tensor::<i64>::new(&Allocator::default(), [1, tokens.len()])
            .map_err(|error| self.session.failed(&error))?;
        for (id, token) in ids.extract_tensor_mut().1.iter_mut().zip(tokens) {
            *id = i64::from(*token);
        }
        self.wide
            .bind_input("input_ids", &ids)
            .map_err(|error| self.session.failed(&error))?;
        self.session.run_bound(&self.wide)
    }
}

impl StepModel for Decoder {
    fn context(&self) -> usize {
        self.context
    }

    /// One page: the graph reads its keys and values from one piece.
    fn memory(&self) -> Memory {
        Memory {
            page_tokens: self.context,
            pages: 1,
            page_bytes: self.cache.bytes(),
        }
    }

    fn rows_max(&self) -> usize {
        MAX_ROWS
    }

    fn sequences_max(&self) -> usize {
        1
    }

    fn step(&mut self, batch: &[Rows<'_>]) -> Result<()> {
        let wrong = |field, expected: String, found: usize| {
            Err(EngineError::Request {
                field,
                expected,
                found: found.to_string(),
            })
        };
        let [rows] = batch else {
            return wrong("sequences", "1".to_owned(), batch.len());
        };
        if rows.tokens.is_empty() {
            return Err(EngineError::PromptEmpty);
        }
        let prompt_tokens = rows.start.saturating_add(rows.tokens.len());
        if prompt_tokens > self.context {
            return Err(EngineError::PromptTooLong {
                prompt_tokens,
                context_tokens: self.context,
            });
        }
        if let Some(token) = rows
            .tokens
            .iter()
            .find(|token| **token as usize >= self.vocab)
        {
            return wrong("token", format!("below {}", self.vocab), *token as usize);
        }
        self.run(rows.start, rows.tokens)
    }

    fn scores(&self, _index: usize) -> &[f32] {
        self.scores.extract_tensor().1
    }

    fn copy_page(&mut self, _from: u32, to: u32, _tokens: usize) -> Result<()> {
        Err(EngineError::Request {
            field: "page",
            expected: "0, the only one".to_owned(),
            found: to.to_string(),
        })
    }

    fn terminator(&self) -> Option<Terminator> {
        Some(self.session.terminator())
    }

    fn forget_termination(&self) -> Result<()> {
        self.session.forget_termination()
    }
}

fn open_session(
    runtime: &Runtime,
    model: &str,
    graph: &Path,
    config: &LlamaConfig,
) -> Result<Session> {
    let cache = [
        Dim::Is(1),
        Dim::Is(config.kv_heads),
        Dim::Any,
        Dim::Is(config.head_dim),
    ];
    let scores = [Dim::Is(1), Dim::Any, Dim::Is(config.vocab)];
    let past: Vec<String> = (0..config.layers * 2).map(past_name).collect();
    let present: Vec<String> = (0..config.layers * 2).map(present_name).collect();
    let mut inputs = vec![
        TensorSpec::new("input_ids", Kind::I64, &[Dim::Is(1), Dim::Any]),
        TensorSpec::new("seqlens_k", Kind::I32, &[Dim::Is(1)]),
        TensorSpec::new("total_sequence_length", Kind::I32, &[]),
    ];
    inputs.extend(
        past.iter()
            .map(|name| TensorSpec::new(name, Kind::F32, &cache)),
    );
    let mut outputs = vec![TensorSpec::new("logits", Kind::F32, &scores)];
    outputs.extend(
        present
            .iter()
            .map(|name| TensorSpec::new(name, Kind::F32, &cache)),
    );
    Session::open(
        runtime,
        model,
        graph,
        &SessionSpec {
            inputs: &inputs,
            outputs: &outputs,
        },
        Threads::Eager,
    )
}
