//! What llama, Qwen 2, Qwen 3 and Gemma 3 have in common: RMS norms, rotary attention with shared key heads, a gate.
//!
//! Sizes are read here, and tensors named in both forms; the families differ in the settings of [`Family`].

use std::collections::BTreeSet;

use super::keys::Key;
use super::{File, MAX_LAYERS, MAX_SIZE, rotary};
use crate::decoder::{Activation, DecoderSpec, LayerSpec, Norm, NormKind, Rotary};
use crate::error::ForgeError;
use crate::matrix::{Matrix, Order, Part, Vector};

const KV_HEADS: Key = ("attention.head_count_kv", "num_key_value_heads");
const KEY_LENGTH: Key = ("attention.key_length", "head_dim");
const VALUE_LENGTH: Key = ("attention.value_length", "");
const ROTARY_DIM: Key = ("rope.dimension_count", "");
const ROTARY_PART: Key = ("", "partial_rotary_factor");
const VOCAB: Key = ("vocab_size", "vocab_size");

/// Names of tensors, without `.weight` and `.bias`.
pub(super) struct Names {
    pub(super) embedding: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) head: &'static str,
    /// In front of a layer's number.
    pub(super) layers: &'static str,
    pub(super) input_norm: &'static str,
    pub(super) qkv: [&'static str; 3],
    pub(super) head_norms: [&'static str; 2],
    pub(super) output: &'static str,
    pub(super) post_attention_norm: &'static str,
    pub(super) ffn_norm: &'static str,
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) post_ffn_norm: &'static str,
}

/// Names in a GGUF file.
pub(super) const GGUF: Names = Names {
    embedding: "token_embd",
    final_norm: "output_norm",
    head: "output",
    layers: "blk",
    input_norm: "attn_norm",
    qkv: ["attn_q", "attn_k", "attn_v"],
    head_norms: ["attn_q_norm", "attn_k_norm"],
    output: "attn_output",
    post_attention_norm: "post_attention_norm",
    ffn_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    post_ffn_norm: "post_ffw_norm",
};

/// Names in a checkpoint.
pub(super) const CHECKPOINT: Names = Names {
    embedding: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    layers: "model.layers",
    input_norm: "input_layernorm",
    qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    output: "self_attn.o_proj",
    post_attention_norm: "",
    ffn_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    post_ffn_norm: "",
};

/// Sizes of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) feed_forward: usize,
    pub(super) context: usize,
    pub(super) epsilon: f32,
}

impl Sizes {
    /// Reads and checks the sizes.
    ///
    /// # Errors
    /// [`ForgeError::Architecture`] names the first key that is wrong.
    pub(super) fn read(file: &File<'_>) -> Result<Sizes, ForgeError> {
        let keys = &file.keys;
        let heads = keys.size(("attention.head_count", "num_attention_heads"), MAX_SIZE)?;
        let hidden = keys.size(("embedding_length", "hidden_size"), MAX_SIZE)?;
        let epsilon = keys.positive(("attention.layer_norm_rms_epsilon", "rms_norm_eps"))?;
        let sizes = Sizes {
            layers: keys.size(("block_count", "num_hidden_layers"), MAX_LAYERS)?,
            hidden,
            heads,
            kv_heads: keys.optional_size(KV_HEADS, MAX_SIZE)?.unwrap_or(heads),
            head_dim: keys
                .optional_size(KEY_LENGTH, MAX_SIZE)?
                .unwrap_or(hidden / heads),
            feed_forward: keys.size(("feed_forward_length", "intermediate_size"), MAX_SIZE)?,
            context: file.context(("context_length", "max_position_embeddings"))?,
            epsilon: epsilon as f32,
        };
        let Sizes {
            kv_heads, head_dim, ..
        } = sizes;
        let divides = heads.is_multiple_of(kv_heads);
        keys.rule(
            divides,
            KV_HEADS,
            "a divisor of the number of heads",
            kv_heads,
        )?;
        let is_even = head_dim.is_multiple_of(2) && head_dim > 0;
        keys.rule(is_even, KEY_LENGTH, "an even, positive width", head_dim)?;
        let width = (heads * head_dim) as u64;
        keys.rule(
            width <= MAX_SIZE,
            KEY_LENGTH,
            "heads of at most 1048576 in all",
            width,
        )?;
        for key in [VALUE_LENGTH, ROTARY_DIM] {
            let other = keys.optional_size(key, MAX_SIZE)?.unwrap_or(head_dim);
            keys.rule(other == head_dim, key, "the width of a head", other)?;
        }
        let part = keys.optional_positive(ROTARY_PART)?.unwrap_or(1.0);
        keys.rule(part == 1.0, ROTARY_PART, "1", part)?;
        Ok(sizes)
    }
}

/// What a family makes of the common shape.
pub(super) struct Family<'f> {
    pub(super) architecture: &'static str,
    pub(super) names: Names,
    /// Query and key rows stand as neighbouring pairs.
    pub(super) has_pairs: bool,
    /// Query and key heads are normed.
    pub(super) has_head_norms: bool,
    /// What attention and feed-forward part give is normed before it is added.
    pub(super) has_post_norms: bool,
    /// Added to the weights of norms.
    pub(super) plus: f32,
    /// Query, key and value must have a bias.
    pub(super) needs_qkv_bias: bool,
    pub(super) activation: Activation,
    pub(super) embedding_scale: f32,
    /// Factor of q·k.
    pub(super) scale: f32,
    pub(super) rope_base: f64,
    pub(super) rotary: Vec<Rotary>,
    /// Of each layer: the window, and which of `rotary` it uses.
    pub(super) attention: &'f dyn Fn(usize) -> (Option<usize>, usize),
}

/// Names the tensors.
///
/// # Errors
/// [`ForgeError::Architecture`] or [`ForgeError::Matrix`] if the embedding is missing, or a setting is of the wrong type.
pub(super) fn describe(
    file: &File<'_>,
    sizes: Sizes,
    family: &Family<'_>,
) -> Result<DecoderSpec, ForgeError> {
    let names = &family.names;
    let embedding = format!("{}.weight", names.embedding);
    let head = format!("{}.weight", names.head);
    let vocab = file.vocab(&embedding, VOCAB)?;
    let (has_head, unused_head) = file.head(&head, &embedding)?;
    let table = |name: String| Matrix::one(sizes.hidden, Part::stored(name, vocab));
    let mut ignored: BTreeSet<String> = unused_head.into_iter().collect();
    // Frequencies are computed; some old checkpoints and all GGUF files with factors carry them.
    ignored.insert(rotary::FACTORS.to_string());
    ignored.extend(
        (0..sizes.layers)
            .map(|layer| format!("{}.{layer}.self_attn.rotary_emb.inv_freq", names.layers)),
    );
    let describe = |layer| describe_layer(file, sizes, family, layer);
    Ok(DecoderSpec {
        architecture: family.architecture.into(),
        hidden: sizes.hidden,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        vocab,
        context: sizes.context,
        epsilon: sizes.epsilon,
        norm: NormKind::Rms,
        activation: family.activation,
        embedding: table(embedding),
        embedding_scale: family.embedding_scale,
        positions: None,
        rotary: family.rotary.clone(),
        rope_base: Some(family.rope_base),
        layers: (0..sizes.layers).map(describe).collect::<Result<_, _>>()?,
        final_norm: norm(names.final_norm, sizes.hidden, family.plus),
        head: has_head.then(|| table(head)),
        head_bias: None,
        ignored,
    })
}

fn describe_layer(
    file: &File<'_>,
    sizes: Sizes,
    family: &Family<'_>,
    layer: usize,
) -> Result<LayerSpec, ForgeError> {
    let names = &family.names;
    let Sizes {
        hidden,
        heads,
        kv_heads,
        head_dim,
        feed_forward,
        ..
    } = sizes;
    let name = |of: &str| format!("{}.{layer}.{of}", names.layers);
    let attention_bias = file.keys.flag(("", "attention_bias"))?.unwrap_or(false);
    let mlp_bias = file.keys.flag(("", "mlp_bias"))?.unwrap_or(false);
    let rotated = if family.has_pairs {
        Order::Pairs { head_dim }
    } else {
        Order::Stored
    };
    let [q, k, v] = names.qkv.map(name);
    let qkv = [
        (q, heads * head_dim, rotated),
        (k, kv_heads * head_dim, rotated),
        (v, kv_heads * head_dim, Order::Stored),
    ];
    let single = |of: &str, rows| [(name(of), rows, Order::Stored)];
    let gate_up = [names.gate, names.up].map(|of| (name(of), feed_forward, Order::Stored));
    // Both halves of one product have a bias, or none.
    let both = file.linear(hidden, &gate_up, mlp_bias).bias.is_some();
    let [gate, up] = gate_up.map(|part| file.linear(hidden, &[part], both));
    let (window, rotary) = (family.attention)(layer);
    let optional = |has: bool, of: &str, length: usize| {
        has.then(|| norm(&name(of), length, family.plus).weight)
    };
    Ok(LayerSpec {
        input_norm: norm(&name(names.input_norm), hidden, family.plus),
        qkv: file.linear(hidden, &qkv, attention_bias || family.needs_qkv_bias),
        query_norm: optional(family.has_head_norms, names.head_norms[0], head_dim),
        key_norm: optional(family.has_head_norms, names.head_norms[1], head_dim),
        output: file.linear(
            heads * head_dim,
            &single(names.output, hidden),
            attention_bias,
        ),
        post_attention_norm: optional(family.has_post_norms, names.post_attention_norm, hidden),
        ffn_norm: norm(&name(names.ffn_norm), hidden, family.plus),
        gate: Some(gate),
        up,
        down: file.linear(feed_forward, &single(names.down, hidden), mlp_bias),
        post_ffn_norm: optional(family.has_post_norms, names.post_ffn_norm, hidden),
        window,
        rotary: Some(rotary),
        scale: family.scale,
        kv_scales: None,
    })
}

fn norm(name: &str, length: usize, plus: f32) -> Norm {
    Norm {
        weight: Vector {
            plus,
            ..Vector::stored(format!("{name}.weight"), length)
        },
        bias: None,
    }
}
