//! The fused graph as the server sees it: rows of several sequences go in, scores come out.
//!
//! Scores land in a tensor that stays bound as long as the number of scored rows does. Token ids, positions and page tables are
//! a few hundred bytes a step and are made anew.

use std::path::Path;
use std::sync::Arc;

use llmasos_kernels::Workspace;
use llmasos_kernels::pool::{PAGE_TOKENS, Pool};
use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::{PrimitiveTensorElementType, Tensor};

use super::{Shared, operators};
use crate::error::{EngineError, Result};
use crate::runtime::Runtime;
use crate::session::{Dim, Kind, Session, SessionSpec, TensorSpec, Terminator, Threads};
use crate::text::{LlamaConfig, Memory, Rows, StepModel};

/// Most rows of a step: activations of that many stay in the second cache, and a step stays below a third of a second.
pub(crate) const ROWS_MAX: usize = 512;
/// Most sequences of a step.
pub(crate) const SEQUENCES_MAX: usize = 64;

/// Most tokens of one sequence that a step scores: enough rows for full speed of the head.
const SCORED_MAX: usize = 128;
/// Most memory for their scores: 25 MB are 128 rows of 49,152 words.
const SCORES_MAX_BYTES: usize = 32 << 20;

/// An opened graph with its pool.
pub(crate) struct FusedDecoder {
    session: Session,
    shared: Arc<Shared>,
    binding: IoBinding,
    scores: Option<Tensor<f32>>,
    scored: usize,
    vocab: usize,
    limits: Limits,
}

/// How much a decoder takes at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Tokens of one sequence.
    pub(crate) context: usize,
    /// Sequences of a step.
    pub(crate) sequences: usize,
    /// Memory for keys and values, in bytes; `None` for one sequence of the whole context.
    pub(crate) cache_bytes: Option<usize>,
}

impl FusedDecoder {
    /// Opens the graph. Its pages cost memory when they are first written.
    pub(crate) fn open(
        runtime: &Runtime,
        model: &str,
        graph: &Path,
        config: &LlamaConfig,
        limits: Limits,
    ) -> Result<Self> {
        let pages = pages_for(config, &limits)?;
        let pool = Pool::new(
            config.kv.element(),
            pages,
            config.layers,
            config.kv_heads,
            config.head_dim,
        )
        .map_err(|error| EngineError::Option {
            option: "context",
            expected: "a pool that fits".to_owned(),
            found: error.to_string(),
        })?;
        let options = runtime.options();
        let shared = Shared::new(pool, Workspace::new(options.isa), options.threads);
        let rows = [Dim::Any];
        let inputs = [
            TensorSpec::new("input_ids", Kind::I64, &rows),
            TensorSpec::new("positions", Kind::I32, &rows),
            TensorSpec::new("sequences", Kind::I32, &rows),
            TensorSpec::new("pages", Kind::I32, &[Dim::Any, Dim::Any]),
            TensorSpec::new("outputs", Kind::I32, &rows),
        ];
        let scores = [Dim::Any, Dim::Is(config.vocab)];
        let spec = SessionSpec {
            inputs: &inputs,
            outputs: &[TensorSpec::new("logits", Kind::F32, &scores)],
        };
        let domain = operators(&shared).map_err(|error| EngineError::Start {
            reason: format!("operators of the fused decoder: {error}"),
        })?;
        let session =
            Session::open_with(runtime, model, graph, &spec, Threads::Eager, Some(domain))?;
        Ok(Self {
            binding: session.binding()?,
            session,
            shared,
            scores: None,
            scored: 0,
            vocab: config.vocab,
            limits,
        })
    }

    fn bind_scores(&mut self, count: usize) -> Result<()> {
        if self.scored == count {
            return Ok(());
        }
        let failed = |error: ort::Error| self.session.failed(&error);
        let mut scores =
            Tensor::<f32>::new(&Allocator::default(), [count, self.vocab]).map_err(failed)?;
        self.binding
            .bind_output("logits", &mut scores)
            .map_err(|error| self.session.failed(&error))?;
        self.scores = Some(scores);
        self.scored = count;
        Ok(())
    }

    fn feed<T>(&mut self, name: &str, data: &[T], shape: Vec<usize>) -> Result<()>
    where
        T: PrimitiveTensorElementType + Copy + std::fmt::Debug + 'static,
    {
        let failed = |error: ort::Error| self.session.failed(&error);
        let mut tensor = Tensor::<T>::new(&Allocator::default(), shape).map_err(failed)?;
        tensor.extract_tensor_mut().1.copy_from_slice(data);
        self.binding
            .bind_input(name, &tensor)
            .map_err(|error| self.session.failed(&error))
    }
}

impl StepModel for FusedDecoder {
    fn context(&self) -> usize {
        self.limits.context
    }

    fn memory(&self) -> Memory {
        let state = self.shared.state();
        Memory {
            page_tokens: PAGE_TOKENS,
            pages: state.pool.pages(),
            page_bytes: state.pool.page_bytes(),
        }
    }

    fn rows_max(&self) -> usize {
        ROWS_MAX
    }

    fn sequences_max(&self) -> usize {
        self.limits.sequences.clamp(1, SEQUENCES_MAX)
    }

    fn scored_max(&self) -> usize {
        (SCORES_MAX_BYTES / size_of::<f32>() / self.vocab.max(1)).clamp(1, SCORED_MAX)
    }

    /// A wrong page or position is refused by the kernels, with its row.
    fn step(&mut self, batch: &[Rows<'_>]) -> Result<()> {
        let table = batch.iter().map(|rows| rows.pages.len()).max().unwrap_or(0);
        let (mut ids, mut positions, mut sequences) = (vec![], vec![], vec![]);
        let mut pages = vec![-1_i32; batch.len() * table];
        let mut outputs = vec![];
        for (index, rows) in batch.iter().enumerate() {
            ids.extend(rows.tokens.iter().map(|token| i64::from(*token)));
            positions.extend((rows.start..rows.start + rows.tokens.len()).map(|at| at as i32));
            sequences.resize(ids.len(), index as i32);
            for (to, page) in pages[index * table..].iter_mut().zip(rows.pages) {
                *to = *page as i32;
            }
            let scored = rows.scored.min(rows.tokens.len());
            outputs.extend((ids.len() - scored..ids.len()).map(|row| row as i32));
        }
        if ids.is_empty() {
            return Err(EngineError::PromptEmpty);
        }
        if outputs.is_empty() {
            // The graph's output cannot be empty; the scores of one row cost a hundredth of a part of a prompt.
            outputs.push(ids.len() as i32 - 1);
        }
        self.bind_scores(outputs.len())?;
        let rows = ids.len();
        self.feed("input_ids", &ids, vec![rows])?;
        self.feed("positions", &positions, vec![rows])?;
        self.feed("sequences", &sequences, vec![rows])?;
        self.feed("pages", &pages, vec![batch.len(), table])?;
        self.feed("outputs", &outputs, vec![outputs.len()])?;
        self.session.run_bound(&self.binding)
    }

    fn scores(&self, index: usize) -> &[f32] {
        match &self.scores {
            Some(scores) => {
                &scores.extract_tensor().1[index * self.vocab..(index + 1) * self.vocab]
            }
            None => &[],
        }
    }

    fn copy_page(&mut self, from: u32, to: u32, tokens: usize) -> Result<()> {
        let state = &mut *self.shared.state();
        let pages = state.pool.pages();
        if from as usize >= pages || to as usize >= pages || tokens > PAGE_TOKENS {
            return Err(EngineError::Option {
                option: "page",
                expected: format!("pages below {pages} and at most {PAGE_TOKENS} tokens"),
                found: format!("{tokens} tokens of {from} to {to}"),
            });
        }
        state.pool.copy(from as usize, to as usize, tokens);
        Ok(())
    }

    fn terminator(&self) -> Option<Terminator> {
        Some(self.session.terminator())
    }

    fn forget_termination(&self) -> Result<()> {
        self.session.forget_termination()
    }
}

/// Pages that the memory allows, at least one of a whole context.
fn pages_for(config: &LlamaConfig, limits: &Limits) -> Result<usize> {
    let element = config.kv.element();
    let page_bytes = element
        .page_bytes(config.layers, config.kv_heads, config.head_dim)
        .filter(|bytes| *bytes > 0);
    let least = limits.context.div_ceil(PAGE_TOKENS);
    let pages = match (limits.cache_bytes, page_bytes) {
        (None, Some(_)) => least,
        (Some(bytes), Some(page)) => bytes / page,
        (_, None) => 0,
    };
    if pages >= least {
        return Ok(pages);
    }
    Err(EngineError::Option {
        option: "cache_bytes",
        expected: format!(
            "room for one answer of {} tokens, {} bytes",
            limits.context,
            page_bytes.unwrap_or(usize::MAX).saturating_mul(least)
        ),
        found: format!("{} bytes", limits.cache_bytes.unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of 30 layers and 3 key heads of 64, as `llmasos.json` describes it.
    fn config(kv: &str) -> LlamaConfig {
        let json = format!(
            r#"{{"layers": 30, "hidden": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "vocab": 9, "context": 8192,
                "eos": [2]{kv}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn pages_are_counted_in_the_bytes_they_take() {
        // 32 tokens · 30 layers · keys and values · 3 heads · 64 elements.
        const ELEMENTS: usize = 32 * 30 * 2 * 3 * 64;
        let limits = |context, cache_bytes| Limits {
            context,
            sequences: 1,
            cache_bytes,
        };
        /// What the settings say of keys and values, tokens, bytes, and pages or what the error says.
        type Case<'a> = (&'a str, usize, Option<usize>, Result<usize, &'a str>);
        let cases: [Case<'_>; 7] = [
            ("", 100, None, Ok(4)),
            ("", 100, Some(10 * 2 * ELEMENTS + 1), Ok(10)),
            (r#", "kv": "f16""#, 100, Some(10 * 2 * ELEMENTS), Ok(10)),
            (r#", "kv": "int8""#, 100, Some(10 * 2 * ELEMENTS), Ok(20)),
            (r#", "kv": "int8""#, 100, Some(4 * ELEMENTS), Ok(4)),
            (
                r#", "kv": "int8""#,
                129,
                Some(4 * ELEMENTS),
                Err("1843200 bytes"),
            ),
            ("", 100, Some(4 * ELEMENTS), Err("2949120 bytes")),
        ];
        for (kv, context, bytes, expected) in cases {
            let found = pages_for(&config(kv), &limits(context, bytes));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{kv} {bytes:?}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{kv} {context} {bytes:?}: {found:?}"),
            }
        }
    }
}
