//! Qwen 3 (Yang et al. 2025): Qwen 2 with a norm of each query and key head instead of a bias.
//!
//! ```text
//!   h  = x + Wo·Attention(rope(RMSNorm(Wq·n)), rope(RMSNorm(Wk·n)), Wv·n)     n = RMSNorm(x), scores / √d
//!   x' = h + Wdown·(SiLU(Wgate·m) ⊙ Wup·m)                                    m = RMSNorm(h)
//! ```

use super::{File, qwen2};
use crate::decoder::DecoderSpec;
use crate::error::ForgeError;

/// Describes a Qwen 3.
pub(super) fn describe(file: &File<'_>) -> Result<DecoderSpec, ForgeError> {
    qwen2::describe_as(file, "qwen3", true)
}
