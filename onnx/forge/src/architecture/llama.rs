//! Llama (Touvron et al. 2023; SmolLM2 is one), and Mistral, which is Llama with a window.
//!
//! ```text
//!   x₀ = E[ids]
//!   h  = x + Wo·Attention(rope(Wq·n), rope(Wk·n), Wv·n)          n = RMSNorm(x), scores / √d
//!   x' = h + Wdown·(SiLU(Wgate·m) ⊙ Wup·m)                       m = RMSNorm(h)
//!   logits = RMSNorm(x)·Wheadᵀ                                   E if tied
//! ```
//!
//! GGUF stores the rows of query and key for rotary embeddings of neighbouring pairs; the kernels rotate halves. So these rows
//! are put back into the order of the original checkpoint: (head, i, half) → (head, half, i).

use super::File;
use super::gated::{self, Family, Sizes};
use super::{MAX_STATED_CONTEXT, rotary};
use crate::decoder::{Activation, DecoderSpec};
use crate::error::ForgeError;

/// Describes a llama.
pub(super) fn describe(file: &File<'_>) -> Result<DecoderSpec, ForgeError> {
    let keys = &file.keys;
    let sizes = Sizes::read(file)?;
    let (rope_base, rotary) = rotary::of_model(file, sizes.head_dim, 10_000.0)?;
    let window = keys.optional_size(("", "sliding_window"), MAX_STATED_CONTEXT)?;
    let family = Family {
        architecture: "llama",
        names: if file.is_gguf() {
            gated::GGUF
        } else {
            gated::CHECKPOINT
        },
        has_pairs: file.is_gguf(),
        has_head_norms: false,
        has_post_norms: false,
        plus: 0.0,
        needs_qkv_bias: false,
        activation: keys.choice(("", "hidden_act"), &[("silu", Activation::Silu)])?,
        embedding_scale: 1.0,
        scale: 1.0 / (sizes.head_dim as f32).sqrt(),
        rope_base,
        rotary: vec![rotary],
        attention: &|_| (window, 0),
    };
    gated::describe(file, sizes, &family)
}
