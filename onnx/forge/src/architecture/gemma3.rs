//! Gemma 3, its text part (Gemma Team 2025): norms around every part, heads normed, five local layers to each global one.
//!
//! ```text
//!   x₀ = √D·E[ids]
//!   h  = x + N₂(Wo·Attention(rope(N(Wq·n)), rope(N(Wk·n)), Wv·n))      n = N₁(x), scores / √query_pre_attn_scalar
//!   x' = h + N₄(Wdown·(GELU(Wgate·m) ⊙ Wup·m))                         m = N₃(h), GELU by tanh
//!   logits = N(x)·Eᵀ
//!   N(x) = x / √(mean(x²) + ε) · (1 + w)
//! ```
//!
//! A local layer sees `sliding_window` tokens and rotates by base 10,000, a global one sees all and rotates by 1,000,000. GGUF
//! files carry the norms with the 1 already added.

use super::File;
use super::gated::{self, Family, Names, Sizes};
use super::keys::Keys;
use super::qwen2::layer_types;
use super::{MAX_LAYERS, MAX_STATED_CONTEXT, rotary};
use crate::decoder::{Activation, DecoderSpec};
use crate::error::ForgeError;

/// Every sixth layer is global.
const PATTERN: usize = 6;
/// Layers of the 27B model, which GGUF does not tell from the others: its scores are divided by √(hidden / heads).
const LAYERS_27B: usize = 62;
const GLOBAL_BASE: f64 = 1_000_000.0;
const LOCAL_BASE: f64 = 10_000.0;

const CHECKPOINT: Names = Names {
    post_attention_norm: "post_attention_layernorm",
    ffn_norm: "pre_feedforward_layernorm",
    post_ffn_norm: "post_feedforward_layernorm",
    ..gated::CHECKPOINT
};

/// Describes a Gemma 3.
pub(super) fn describe(file: &File<'_>) -> Result<DecoderSpec, ForgeError> {
    let keys = &file.keys;
    let sizes = Sizes::read(file)?;
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        keys.absent((cap, cap))?;
    }
    keys.absent(("", "use_bidirectional_attention"))?;
    let window = keys.optional_size(
        ("attention.sliding_window", "sliding_window"),
        MAX_STATED_CONTEXT,
    )?;
    let is_local = local_layers(keys, sizes.layers)?;
    let parameters = keys.object("rope_parameters");
    let part = |name| parameters.as_ref().and_then(|keys| keys.object(name));
    let (global, local) = (part("full_attention"), part("sliding_attention"));
    let global = global.or_else(|| keys.object("rope_scaling"));
    let (rope_base, global) =
        rotary::of_object(file, global.as_ref(), sizes.head_dim, GLOBAL_BASE)?;
    let local_base = match local {
        Some(keys) => keys.optional_positive(("", "rope_theta"))?,
        None => keys.optional_positive(("rope.freq_base_swa", "rope_local_base_freq"))?,
    };
    let local = rotary::plain(local_base.unwrap_or(LOCAL_BASE), sizes.head_dim);
    let activation = ("", "hidden_activation");
    let family = Family {
        architecture: "gemma3",
        names: if file.is_gguf() {
            gated::GGUF
        } else {
            CHECKPOINT
        },
        has_pairs: false,
        has_head_norms: true,
        has_post_norms: true,
        plus: if file.is_gguf() { 0.0 } else { 1.0 },
        needs_qkv_bias: false,
        activation: keys.choice(activation, &[("gelu_pytorch_tanh", Activation::GeluTanh)])?,
        embedding_scale: (sizes.hidden as f32).sqrt(),
        scale: 1.0 / (score_divisor(file, sizes)? as f32).sqrt(),
        rope_base,
        rotary: vec![global, local],
        attention: &|layer| match window {
            Some(window) if is_local[layer] => (Some(window), 1),
            _ => (None, 0),
        },
    };
    gated::describe(file, sizes, &family)
}

/// For each layer whether it is local.
fn local_layers(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>, ForgeError> {
    if let Some(types) = layer_types(keys, layers)? {
        return Ok(types);
    }
    let key = ("attention.sliding_window_pattern", "sliding_window_pattern");
    if let Some(flags) = keys.flags(key.0) {
        let expected = format!("{layers} truth values");
        keys.rule(flags.len() == layers, key, &expected, flags.len())?;
        return Ok(flags);
    }
    let pattern = keys.optional_size(key, MAX_LAYERS)?.unwrap_or(PATTERN);
    Ok((0..layers)
        .map(|layer| (layer + 1) % pattern != 0)
        .collect())
}

fn score_divisor(file: &File<'_>, sizes: Sizes) -> Result<f64, ForgeError> {
    if !file.is_gguf() {
        return file.keys.positive(("", "query_pre_attn_scalar"));
    }
    Ok(if sizes.layers == LAYERS_27B {
        (sizes.hidden / sizes.heads) as f64
    } else {
        sizes.head_dim as f64
    })
}
