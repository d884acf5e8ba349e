//! Qwen 2 and 2.5 (Yang et al. 2024): Llama with a bias on query, key and value.
//!
//! ```text
//!   h  = x + Wo·Attention(rope(Wq·n + bq), rope(Wk·n + bk), Wv·n + bv)     n = RMSNorm(x), scores / √d
//!   x' = h + Wdown·(SiLU(Wgate·m) ⊙ Wup·m)                                 m = RMSNorm(h)
//! ```
//!
//! The layers from `max_window_layers` on may have a window, which published models switch off.

use super::File;
use super::gated::{self, Family, Sizes};
use super::keys::Keys;
use super::{MAX_LAYERS, MAX_STATED_CONTEXT, rotary};
use crate::decoder::{Activation, DecoderSpec};
use crate::error::ForgeError;

/// Describes a Qwen 2.
pub(super) fn describe(file: &File<'_>) -> Result<DecoderSpec, ForgeError> {
    describe_as(file, "qwen2", false)
}

/// Describes a Qwen 2, or a Qwen 3, which norms its heads instead of having a bias.
pub(super) fn describe_as(
    file: &File<'_>,
    architecture: &'static str,
    has_head_norms: bool,
) -> Result<DecoderSpec, ForgeError> {
    let keys = &file.keys;
    let sizes = Sizes::read(file)?;
    let (rope_base, rotary) = rotary::of_model(file, sizes.head_dim, 10_000.0)?;
    let windows = windows(keys, sizes.layers)?;
    let family = Family {
        architecture,
        names: if file.is_gguf() {
            gated::GGUF
        } else {
            gated::CHECKPOINT
        },
        has_pairs: false,
        has_head_norms,
        has_post_norms: false,
        plus: 0.0,
        needs_qkv_bias: !has_head_norms,
        activation: keys.choice(("", "hidden_act"), &[("silu", Activation::Silu)])?,
        embedding_scale: 1.0,
        scale: 1.0 / (sizes.head_dim as f32).sqrt(),
        rope_base,
        rotary: vec![rotary],
        attention: &|layer| (windows.get(layer).copied().flatten(), 0),
    };
    gated::describe(file, sizes, &family)
}

/// The window of each layer.
fn windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, ForgeError> {
    if !keys.flag(("", "use_sliding_window"))?.unwrap_or(false) {
        return Ok(vec![None; layers]);
    }
    let window = keys.size(("", "sliding_window"), MAX_STATED_CONTEXT)?;
    let of_kind = |has_window: bool| has_window.then_some(window);
    match layer_types(keys, layers)? {
        Some(types) => Ok(types.into_iter().map(of_kind).collect()),
        None => {
            // Zero is allowed here, so it is not a size.
            let first = match keys
                .json("max_window_layers")
                .and_then(|value| value.as_u64())
            {
                Some(first) if first <= MAX_LAYERS => first as usize,
                _ => {
                    let key = ("", "max_window_layers");
                    return Err(keys.wrong(key, format!("0 to {MAX_LAYERS}"), "something else"));
                }
            };
            Ok((0..layers).map(|layer| of_kind(layer >= first)).collect())
        }
    }
}

/// For each layer whether it has a window, if `config.json` lists them.
pub(super) fn layer_types(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>, ForgeError> {
    let key = ("", "layer_types");
    if keys.json(key.1).is_none_or(serde_json::Value::is_null) {
        return Ok(None);
    }
    let types = keys.texts(key.1).unwrap_or_default();
    let expected = format!("{layers} texts");
    keys.rule(types.len() == layers, key, &expected, types.len())?;
    let has_window = |text: &&str| match *text {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(keys.wrong(key, "full_attention or sliding_attention", other)),
    };
    types
        .iter()
        .map(has_window)
        .collect::<Result<_, _>>()
        .map(Some)
}
