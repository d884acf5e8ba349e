//! GPT-2 (Radford et al. 2019): learned positions, layer norms, biases everywhere.
//!
//! ```text
//!   x₀ = E[ids] + P[positions]
//!   h  = x + Wo·Attention(q, k, v) + bo        q|k|v = Wqkv·n + bqkv, n = LayerNorm(x), scores / √d
//!   x' = h + Wdown·GELU(Wup·m + bu) + bd       m = LayerNorm(h), GELU by tanh
//!   logits = LayerNorm(x)·Eᵀ
//! ```
//!
//! A checkpoint stores its matrices as [inputs, outputs] ("Conv1D"); GGUF stores them the usual way.

use std::collections::BTreeSet;

use super::keys::Key;
use super::{File, MAX_CONTEXT, MAX_LAYERS, MAX_SIZE};
use crate::decoder::{Activation, DecoderSpec, LayerSpec, NormKind};
use crate::error::ForgeError;
use crate::matrix::{Matrix, Order, Part};

const HEADS: Key = ("attention.head_count", "n_head");

/// Names of tensors, without `.weight` and `.bias`.
struct Names {
    embedding: &'static str,
    positions: &'static str,
    final_norm: &'static str,
    head: &'static str,
    layers: &'static str,
    input_norm: &'static str,
    qkv: &'static str,
    output: &'static str,
    ffn_norm: &'static str,
    up: &'static str,
    down: &'static str,
    /// Buffers of a layer that hold the causal mask.
    masks: [&'static str; 2],
}

const GGUF: Names = Names {
    embedding: "token_embd",
    positions: "position_embd",
    final_norm: "output_norm",
    head: "output",
    layers: "blk",
    input_norm: "attn_norm",
    qkv: "attn_qkv",
    output: "attn_output",
    ffn_norm: "ffn_norm",
    up: "ffn_up",
    down: "ffn_down",
    masks: ["attn.bias", "attn.masked_bias"],
};

const CHECKPOINT: Names = Names {
    embedding: "wte",
    positions: "wpe",
    final_norm: "ln_f",
    head: "lm_head",
    layers: "h",
    input_norm: "ln_1",
    qkv: "attn.c_attn",
    output: "attn.c_proj",
    ffn_norm: "ln_2",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    masks: ["attn.bias", "attn.masked_bias"],
};

/// What a checkpoint that was saved with its head puts in front of the names.
pub(super) const PREFIX: &str = "transformer.";

/// The nonlinearities of GPT-2 and GPT-Neo by name.
pub(super) const ACTIVATIONS: [(&str, Activation); 4] = [
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
];

/// Sizes of a GPT-2.
struct Sizes {
    hidden: usize,
    heads: usize,
    feed_forward: usize,
    layers: usize,
}

/// Describes a GPT-2.
pub(super) fn describe(file: &File<'_>) -> Result<DecoderSpec, ForgeError> {
    let keys = &file.keys;
    let names = if file.is_gguf() { GGUF } else { CHECKPOINT };
    let hidden = keys.size(("embedding_length", "n_embd"), MAX_SIZE)?;
    let inner = keys.optional_size(("feed_forward_length", "n_inner"), MAX_SIZE)?;
    let sizes = Sizes {
        hidden,
        heads: keys.size(HEADS, MAX_SIZE)?,
        feed_forward: inner.unwrap_or(4 * hidden),
        layers: keys.size(("block_count", "n_layer"), MAX_LAYERS)?,
    };
    let divides = hidden.is_multiple_of(sizes.heads);
    keys.rule(divides, HEADS, "a divisor of the width", sizes.heads)?;
    keys.absent(("", "add_cross_attention"))?;
    let prefix = if file
        .weights
        .has(&format!("{PREFIX}{}.weight", names.embedding))
    {
        PREFIX
    } else {
        ""
    };
    let tensor = |name: &str| format!("{prefix}{name}.weight");
    let context = keys.size(("context_length", "n_positions"), MAX_CONTEXT)?;
    let embedding = tensor(names.embedding);
    let vocab = file.vocab(&embedding, ("vocab_size", "vocab_size"))?;
    let head = format!("{}.weight", names.head);
    let (has_head, unused_head) = file.head(&head, &embedding)?;
    let table = |name: String| Matrix::one(hidden, Part::stored(name, vocab));
    let mut ignored: BTreeSet<String> = unused_head.into_iter().collect();
    let layer_name = |layer: usize, of: &str| format!("{prefix}{}.{layer}.{of}", names.layers);
    for layer in 0..sizes.layers {
        ignored.extend(names.masks.map(|mask| layer_name(layer, mask)));
    }
    let layer = |layer| {
        let name = |of: &str| layer_name(layer, of);
        describe_layer(file, &names, &sizes, layer, &name)
    };
    let epsilon = keys.positive(("attention.layer_norm_epsilon", "layer_norm_epsilon"))?;
    Ok(DecoderSpec {
        architecture: "gpt2".into(),
        hidden,
        heads: sizes.heads,
        kv_heads: sizes.heads,
        head_dim: hidden / sizes.heads,
        vocab,
        context,
        epsilon: epsilon as f32,
        norm: NormKind::Layer,
        activation: keys.choice(("", "activation_function"), &ACTIVATIONS)?,
        embedding: table(embedding),
        embedding_scale: 1.0,
        positions: Some(Part::stored(tensor(names.positions), context)),
        rotary: Vec::new(),
        rope_base: None,
        layers: (0..sizes.layers).map(layer).collect::<Result<_, _>>()?,
        final_norm: file.layer_norm(&format!("{prefix}{}", names.final_norm), hidden),
        head: has_head.then(|| table(head)),
        head_bias: None,
        ignored,
    })
}

fn describe_layer(
    file: &File<'_>,
    names: &Names,
    sizes: &Sizes,
    layer: usize,
    name: &dyn Fn(&str) -> String,
) -> Result<LayerSpec, ForgeError> {
    let Sizes {
        hidden,
        feed_forward,
        ..
    } = *sizes;
    let order = if file.is_gguf() {
        Order::Stored
    } else {
        Order::Transposed
    };
    let linear = |of: &str, rows, columns| file.linear(columns, &[(name(of), rows, order)], true);
    Ok(LayerSpec {
        input_norm: file.layer_norm(&name(names.input_norm), hidden),
        qkv: linear(names.qkv, 3 * hidden, hidden),
        query_norm: None,
        key_norm: None,
        output: linear(names.output, hidden, hidden),
        post_attention_norm: None,
        ffn_norm: file.layer_norm(&name(names.ffn_norm), hidden),
        gate: None,
        up: linear(names.up, feed_forward, hidden),
        down: linear(names.down, hidden, feed_forward),
        post_ffn_norm: None,
        window: None,
        rotary: None,
        scale: scale(file, sizes, layer)?,
        kv_scales: None,
    })
}

/// Factor of q·k, which two settings change.
fn scale(file: &File<'_>, sizes: &Sizes, layer: usize) -> Result<f32, ForgeError> {
    let flag = |key| file.keys.flag(("", key));
    let width = if flag("scale_attn_weights")?.unwrap_or(true) {
        1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt()
    } else {
        1.0
    };
    let by_layer = flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    Ok(if by_layer {
        width / (layer + 1) as f32
    } else {
        width
    })
}
