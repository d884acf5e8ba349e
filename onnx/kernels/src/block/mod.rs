//! A decoder block in one call: threads walk through its phases together and meet a few times, instead of once an operator.
//!
//! ```text
//!   prepare   n = norm(x), as bytes                        each row
//!   qkv       q|k|v = n·Wqkv + b                           each group of 16 outputs
//!   store     k (normed, rotated) and v into their pages   each row and key head; by attention itself for single rows
//!   attend    softmax(q·Kᵀ)·V                              see `step`
//!   prepare   as bytes                                     each row
//!   output    m = x + [norm](a·Wo + b)                     each group
//!   prepare   n = norm(m), as bytes                        each row
//!   up        h = act(n·Wgate)·(n·Wup), or act(n·Wup + b)  each pair of groups, or group
//!   prepare   as bytes                                     each row
//!   down      y = m + [norm](h·Wdown + b)                  each group
//! ```
//!
//! The rows of a single bunch every thread prepares for itself, in memory of its own: they share cache lines, and to do all of
//! it takes less time than to pass those lines to and fro (with four rows on two threads, a token took a fifth longer). More
//! rows are prepared bunch by bunch. The arithmetic of a row does not depend on the rows beside it, nor on who computes it, so
//! an answer is the same to the bit whether it is decoded alone or in a batch.

pub(crate) mod phases;
#[cfg(test)]
mod tests;

use crate::Isa;
use crate::norm::{Activation, Norm};
use crate::pack::{GROUP_ROWS, Packed};
use crate::pool::{Element, KvScales, Pool};
use crate::step::{Step, StepError};
use crate::team::Threads;
use crate::workspace::Workspace;

/// Most rows that each thread prepares by itself; none where they are more than a bunch.
pub(crate) const PRIVATE_ROWS: usize = 16;

/// The weights of a block and how they are put together.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Index of the block: where its keys and values are in the pool.
    pub layer: usize,
    /// Query heads.
    pub heads: usize,
    /// Tokens a query sees, itself included; 0: all.
    pub window: usize,
    /// Factor of q·k.
    pub scale: f32,
    /// Before attention.
    pub input_norm: Norm<'a>,
    /// Rows of all query heads, then key heads, then value heads.
    pub qkv: Packed<'a>,
    /// As many as `qkv` has rows.
    pub qkv_bias: Option<&'a [f32]>,
    /// Of each query head.
    pub q_norm: Option<Norm<'a>>,
    /// Of each key head.
    pub k_norm: Option<Norm<'a>>,
    /// What keys and values are worth in a pool of bytes, which needs them; not used with another.
    pub kv_scales: Option<KvScales<'a>>,
    /// From the heads back to the residual stream.
    pub output: Packed<'a>,
    /// As many as the stream is wide.
    pub output_bias: Option<&'a [f32]>,
    /// Of what attention adds to the stream.
    pub post_attention_norm: Option<Norm<'a>>,
    /// Before the feed-forward part.
    pub ffn_norm: Norm<'a>,
    /// Gated: 16 rows of the gate, 16 of the other factor, in turn.
    pub up: Packed<'a>,
    /// In the order of the rows of `up`.
    pub up_bias: Option<&'a [f32]>,
    /// Whether `up` holds two matrices.
    pub gated: bool,
    /// Between `up` and `down`.
    pub activation: Activation,
    /// Back to the stream.
    pub down: Packed<'a>,
    /// As many as the stream is wide.
    pub down_bias: Option<&'a [f32]>,
    /// Of what the feed-forward part adds to the stream.
    pub post_ffn_norm: Option<Norm<'a>>,
}

/// A block that does not fit together, or not to its pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block {layer}: {what}: expected {expected}, found {found}")]
pub struct BlockError {
    /// Which block.
    pub layer: usize,
    /// Which of its parts.
    pub what: &'static str,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// Why a call did not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A row.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A buffer of another size than the rows need.
    #[error("{what}: expected {expected} elements, found {found}")]
    Size {
        /// Which.
        what: &'static str,
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
}

impl Block<'_> {
    /// Width of the residual stream.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.output.rows()
    }

    /// Checks all sizes against each other and the pool; a block that passes can be run.
    ///
    /// # Errors
    /// [`BlockError`] for the first part that does not fit.
    pub fn check(&self, pool: &Pool) -> Result<(), BlockError> {
        let (hidden, width, kv_heads) = (self.hidden(), pool.head_dim(), pool.kv_heads());
        let ffn = self.down.columns();
        let qkv_rows = (self.heads + 2 * kv_heads) * width;
        let up_rows = if self.gated { 2 * ffn } else { ffn };
        let norm = |norm: &Norm<'_>| norm.weight.len();
        let bias = |bias: Option<&[f32]>, rows: usize| bias.map_or(rows, <[f32]>::len);
        let norm_bias = |norm: &Norm<'_>| bias(norm.bias, norm.weight.len());
        let optional = |part: &Option<Norm<'_>>, width| part.as_ref().map_or(width, norm);
        let sizes = [
            (
                "width of the stream, a multiple of 16",
                hidden.next_multiple_of(GROUP_ROWS),
                hidden,
            ),
            (
                "width of a head, a multiple of 16",
                width.next_multiple_of(GROUP_ROWS),
                width,
            ),
            (
                "width of the feed-forward part, a multiple of 16",
                ffn.next_multiple_of(GROUP_ROWS),
                ffn,
            ),
            (
                "query heads, a multiple of the key heads",
                self.heads.max(1).next_multiple_of(kv_heads),
                self.heads,
            ),
            ("input_norm", hidden, norm(&self.input_norm)),
            ("input_norm_bias", hidden, norm_bias(&self.input_norm)),
            ("qkv rows", qkv_rows, self.qkv.rows()),
            ("qkv columns", hidden, self.qkv.columns()),
            ("qkv_bias", qkv_rows, bias(self.qkv_bias, qkv_rows)),
            ("q_norm", width, optional(&self.q_norm, width)),
            ("k_norm", width, optional(&self.k_norm, width)),
            ("output columns", self.heads * width, self.output.columns()),
            ("output_bias", hidden, bias(self.output_bias, hidden)),
            (
                "post_attention_norm",
                hidden,
                optional(&self.post_attention_norm, hidden),
            ),
            ("ffn_norm", hidden, norm(&self.ffn_norm)),
            ("ffn_norm_bias", hidden, norm_bias(&self.ffn_norm)),
            ("up rows", up_rows, self.up.rows()),
            ("up columns", hidden, self.up.columns()),
            ("up_bias", up_rows, bias(self.up_bias, up_rows)),
            ("down rows", hidden, self.down.rows()),
            ("down_bias", hidden, bias(self.down_bias, hidden)),
            (
                "post_ffn_norm",
                hidden,
                optional(&self.post_ffn_norm, hidden),
            ),
        ];
        let wrong = |what, expected: String, found: usize| BlockError {
            layer: self.layer,
            what,
            expected,
            found: found.to_string(),
        };
        if self.layer >= pool.layers() {
            return Err(wrong(
                "layer",
                format!("below {}", pool.layers()),
                self.layer,
            ));
        }
        match sizes
            .into_iter()
            .find(|(_, expected, found)| expected != found)
        {
            None => self.check_kv_scales(pool),
            Some((what, expected, found)) => Err(wrong(what, expected.to_string(), found)),
        }
    }

    fn check_kv_scales(&self, pool: &Pool) -> Result<(), BlockError> {
        let wrong = |expected: String, found: String| BlockError {
            layer: self.layer,
            what: "scales of keys and values",
            expected,
            found,
        };
        let Some(scales) = &self.kv_scales else {
            return match pool.element() {
                Element::F16 => Ok(()),
                Element::Int8 => Err(wrong("some for a pool of bytes".into(), "none".into())),
            };
        };
        let width = pool.kv_heads() * pool.head_dim();
        for part in [scales.keys, scales.values] {
            if part.len() != width {
                return Err(wrong(width.to_string(), part.len().to_string()));
            }
            // Normal, because a key is divided by it.
            let usable = |scale: &&f32| !(scale.is_normal() && **scale > 0.0);
            if let Some(scale) = part.iter().find(usable) {
                return Err(wrong("finite numbers above 0".into(), scale.to_string()));
            }
        }
        Ok(())
    }
}

/// Runs a block that has passed [`Block::check`] for this pool.
///
/// `x` and `y` are `[rows, hidden]`; `angles` is `[rows, head_dim]` of [`rotary_angles`](crate::norm::rotary_angles), or `None`
/// for a model that does not rotate. Writes the rows' keys and values into the pool.
///
/// # Errors
/// [`RunError`], before anything is computed.
pub fn run(
    block: &Block<'_>,
    step: &Step<'_>,
    angles: Option<&[f32]>,
    pool: &Pool,
    (x, y): (&[f32], &mut [f32]),
    workspace: &mut Workspace,
    threads: &dyn Threads,
) -> Result<(), RunError> {
    let rows = step.positions.len();
    let sizes = [
        ("sequences", rows, step.sequences.len()),
        ("x", rows * block.hidden(), x.len()),
        ("y", rows * block.hidden(), y.len()),
        (
            "angles",
            rows * pool.head_dim(),
            angles.map_or(rows * pool.head_dim(), <[f32]>::len),
        ),
    ];
    if let Some((what, expected, found)) = sizes
        .into_iter()
        .find(|(_, expected, found)| expected != found)
    {
        return Err(RunError::Size {
            what,
            expected,
            found,
        });
    }
    workspace.plan(block, step, pool)?;
    if rows == 0 {
        return Ok(());
    }
    let isa = workspace.isa;
    let call = phases::Call::new(
        block,
        angles,
        pool,
        (x, y),
        step,
        workspace,
        threads.count(),
    );
    // SAFETY: `Workspace::new` was given an instruction set that this computer has; each index is used once.
    threads.run(&|index| unsafe {
        match isa {
            Isa::Portable => phases::walk_portable(&call, index),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => phases::walk_avx2(&call, index),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => phases::walk_avx512(&call, index),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => phases::walk_amx(&call, index),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => phases::walk_neon(&call, index),
            // Those of other processors, which are not available here.
            #[allow(unreachable_patterns)]
            _ => phases::walk_portable(&call, index),
        }
    });
    Ok(())
}
