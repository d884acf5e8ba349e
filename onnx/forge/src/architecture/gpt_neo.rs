//! GPT-Neo (Black et al. 2021): GPT-2 with unscaled scores and a window in every second layer. Checkpoints only; GGUF has no name
//! for it.
//!
//! ```text
//!   x₀ = E[ids] + P[positions]
//!   h  = x + Wo·Attention(Wq·n, Wk·n, Wv·n) + bo     n = LayerNorm(x), scores as they are
//!   x' = h + Wdown·GELU(Wup·m + bu) + bd             m = LayerNorm(h), GELU by tanh
//!   logits = LayerNorm(x)·Eᵀ
//! ```

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::gpt2::{ACTIVATIONS, PREFIX};
use super::keys::{Key, Keys};
use super::{File, MAX_CONTEXT, MAX_LAYERS, MAX_SIZE, MAX_STATED_CONTEXT};
use crate::decoder::{DecoderSpec, LayerSpec, NormKind};
use crate::error::ForgeError;
use crate::matrix::{Matrix, Order, Part};

const HEADS: Key = ("", "num_heads");
const TYPES: Key = ("", "attention_types");

/// Describes a GPT-Neo.
pub(super) fn describe(file: &File<'_>) -> Result<DecoderSpec, ForgeError> {
    let keys = &file.keys;
    let hidden = keys.size(("", "hidden_size"), MAX_SIZE)?;
    let heads = keys.size(HEADS, MAX_SIZE)?;
    let layers = keys.size(("", "num_layers"), MAX_LAYERS)?;
    let inner = keys.optional_size(("", "intermediate_size"), MAX_SIZE)?;
    let feed_forward = inner.unwrap_or(4 * hidden);
    let divides = hidden.is_multiple_of(heads);
    keys.rule(divides, HEADS, "a divisor of the width", heads)?;
    let windows = windows(keys, layers)?;
    let prefix = if file.weights.has("transformer.wte.weight") {
        PREFIX
    } else {
        ""
    };
    let tensor = |name: &str| format!("{prefix}{name}.weight");
    let context = keys.size(("", "max_position_embeddings"), MAX_CONTEXT)?;
    let embedding = tensor("wte");
    let vocab = file.vocab(&embedding, ("", "vocab_size"))?;
    let head = "lm_head.weight".to_string();
    let (has_head, unused_head) = file.head(&head, &embedding)?;
    let table = |name: String| Matrix::one(hidden, Part::stored(name, vocab));
    let mut ignored: BTreeSet<String> = unused_head.into_iter().collect();
    for layer in 0..layers {
        let mask = |name| format!("{prefix}h.{layer}.attn.attention.{name}");
        ignored.extend(["bias", "masked_bias"].map(mask));
    }
    let epsilon = keys.positive(("", "layer_norm_epsilon"))?;
    let layer = |layer: usize| {
        let name = |of: &str| format!("{prefix}h.{layer}.{of}");
        describe_layer(file, [hidden, feed_forward], windows[layer], &name)
    };
    Ok(DecoderSpec {
        architecture: "gpt_neo".into(),
        hidden,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        vocab,
        context,
        epsilon: epsilon as f32,
        norm: NormKind::Layer,
        activation: keys.choice(("", "activation_function"), &ACTIVATIONS)?,
        embedding: table(embedding),
        embedding_scale: 1.0,
        positions: Some(Part::stored(tensor("wpe"), context)),
        rotary: Vec::new(),
        rope_base: None,
        layers: (0..layers).map(layer).collect(),
        final_norm: file.layer_norm(&format!("{prefix}ln_f"), hidden),
        head: has_head.then(|| table(head)),
        head_bias: None,
        ignored,
    })
}

fn describe_layer(
    file: &File<'_>,
    [hidden, feed_forward]: [usize; 2],
    window: Option<usize>,
    name: &dyn Fn(&str) -> String,
) -> LayerSpec {
    let part = |of: &str, rows| (name(of), rows, Order::Stored);
    let projections = ["q_proj", "k_proj", "v_proj"]
        .map(|projection| part(&format!("attn.attention.{projection}"), hidden));
    LayerSpec {
        input_norm: file.layer_norm(&name("ln_1"), hidden),
        qkv: file.linear(hidden, &projections, false),
        query_norm: None,
        key_norm: None,
        output: file.linear(hidden, &[part("attn.attention.out_proj", hidden)], true),
        post_attention_norm: None,
        ffn_norm: file.layer_norm(&name("ln_2"), hidden),
        gate: None,
        up: file.linear(hidden, &[part("mlp.c_fc", feed_forward)], true),
        down: file.linear(feed_forward, &[part("mlp.c_proj", hidden)], true),
        post_ffn_norm: None,
        window,
        rotary: None,
        scale: 1.0,
        kv_scales: None,
    }
}

/// The window of each layer, from `attention_types`: [[["global", "local"], 6]] are 6 times these two.
fn windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, ForgeError> {
    let window = keys.size(("", "window_size"), MAX_STATED_CONTEXT)?;
    let wrong = || {
        keys.wrong(
            TYPES,
            "[[[\"global\", \"local\"], times], …]",
            "something else",
        )
    };
    let mut windows = Vec::new();
    let groups = keys
        .json(TYPES.1)
        .and_then(Json::as_array)
        .ok_or_else(wrong)?;
    for group in groups {
        let (Some(kinds), Some(times)) = (
            group.get(0).and_then(Json::as_array),
            group.get(1).and_then(Json::as_u64),
        ) else {
            return Err(wrong());
        };
        for _ in 0..times.min(MAX_LAYERS) {
            for kind in kinds.iter().take(MAX_LAYERS as usize) {
                windows.push(match kind.as_str() {
                    Some("global") => None,
                    Some("local") => Some(window),
                    _ => return Err(wrong()),
                });
            }
            if windows.len() > MAX_LAYERS as usize {
                return Err(wrong());
            }
        }
    }
    let expected = format!("{layers} layers");
    keys.rule(windows.len() == layers, TYPES, &expected, windows.len())?;
    Ok(windows)
}
