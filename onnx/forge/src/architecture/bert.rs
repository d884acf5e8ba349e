//! BERT (Devlin et al. 2019; MiniLM is one): a reader of whole texts, norms after each sum.
//!
//! ```text
//!   x₀ = LayerNorm(E[ids] + P[0…] + T[types])
//!   h  = LayerNorm(x + Wo·Attention(Wq·x + bq, Wk·x + bk, Wv·x + bv) + bo)      no mask but padding, scores / √d
//!   x' = LayerNorm(h + Wdown·GELU(Wup·h + bu) + bd)                             GELU exactly
//! ```
//!
//! What stands on top of it for training (pooler, heads) is left out: the last layer's output is the result.

use std::collections::BTreeSet;

use super::keys::Key;
use super::{File, MAX_CONTEXT, MAX_LAYERS, MAX_SIZE};
use crate::decoder::{Activation, Norm};
use crate::encoder::{EncoderLayer, EncoderSpec};
use crate::error::ForgeError;
use crate::matrix::{Matrix, Order, Part, Vector};

const HEADS: Key = ("attention.head_count", "num_attention_heads");

/// Names of tensors, without `.weight` and `.bias`.
struct Names {
    embedding: &'static str,
    positions: &'static str,
    types: &'static str,
    embedding_norm: &'static str,
    layers: &'static str,
    qkv: [&'static str; 3],
    output: &'static str,
    output_norm: &'static str,
    up: &'static str,
    down: &'static str,
    final_norm: &'static str,
}

const GGUF: Names = Names {
    embedding: "token_embd",
    positions: "position_embd",
    types: "token_types",
    embedding_norm: "token_embd_norm",
    layers: "blk",
    qkv: ["attn_q", "attn_k", "attn_v"],
    output: "attn_output",
    output_norm: "attn_output_norm",
    up: "ffn_up",
    down: "ffn_down",
    final_norm: "layer_output_norm",
};

const CHECKPOINT: Names = Names {
    embedding: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    qkv: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    output: "attention.output.dense",
    output_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    final_norm: "output.LayerNorm",
};

/// What checkpoints with a head put in front of the names.
const PREFIX: &str = "bert.";
/// Tensors of a checkpoint that are not part of the reader: their names begin like this.
const ON_TOP: [&str; 4] = ["pooler.", "bert.pooler.", "cls.", "classifier."];
/// Positions 0, 1, 2, …, which some checkpoints carry.
const POSITION_IDS: &str = "embeddings.position_ids";

/// Describes a BERT.
pub(super) fn describe(file: &File<'_>) -> Result<EncoderSpec, ForgeError> {
    let keys = &file.keys;
    let names = if file.is_gguf() { GGUF } else { CHECKPOINT };
    let hidden = keys.size(("embedding_length", "hidden_size"), MAX_SIZE)?;
    let heads = keys.size(HEADS, MAX_SIZE)?;
    keys.rule(
        hidden.is_multiple_of(heads),
        HEADS,
        "a divisor of the width",
        heads,
    )?;
    let feed_forward = keys.size(("feed_forward_length", "intermediate_size"), MAX_SIZE)?;
    let layers = keys.size(("block_count", "num_hidden_layers"), MAX_LAYERS)?;
    let epsilon = keys.positive(("attention.layer_norm_epsilon", "layer_norm_eps"))?;
    let context = keys.size(("context_length", "max_position_embeddings"), MAX_CONTEXT)?;
    keys.choice(("", "position_embedding_type"), &[("absolute", ())])?;
    keys.absent(("", "is_decoder"))?;
    let prefix = if file
        .weights
        .has(&format!("{PREFIX}{}.weight", names.embedding))
    {
        PREFIX
    } else {
        ""
    };
    let named = |name: &str| format!("{prefix}{name}");
    let embedding = named(&format!("{}.weight", names.embedding));
    let types = named(&format!("{}.weight", names.types));
    let vocab = file.vocab(&embedding, ("vocab_size", "vocab_size"))?;
    let type_count = file.vocab(&types, ("", "type_vocab_size"))?;
    let part = |name: &str, rows| Part::stored(named(&format!("{name}.weight")), rows);
    let norm = |name: String| norm(file, &name, hidden);
    let layer = |layer: usize| {
        let name = |of: &str| named(&format!("{}.{layer}.{of}", names.layers));
        let linear = |of: &[&str], rows, columns| {
            let parts: Vec<_> = of
                .iter()
                .map(|of| (name(of), rows, Order::Stored))
                .collect();
            file.linear(columns, &parts, true)
        };
        EncoderLayer {
            qkv: linear(&names.qkv, hidden, hidden),
            output: linear(&[names.output], hidden, hidden),
            attention_norm: norm(name(names.output_norm)),
            up: linear(&[names.up], feed_forward, hidden),
            down: linear(&[names.down], hidden, feed_forward),
            ffn_norm: norm(name(names.final_norm)),
        }
    };
    let is_on_top = |name: &&str| {
        *name == POSITION_IDS
            || name.strip_prefix(PREFIX) == Some(POSITION_IDS)
            || ON_TOP.iter().any(|start| name.starts_with(start))
    };
    let ignored: BTreeSet<String> = match file.is_gguf() {
        true => BTreeSet::new(),
        false => file
            .weights
            .names()
            .into_iter()
            .filter(is_on_top)
            .map(str::to_string)
            .collect(),
    };
    let activations = [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
    ];
    Ok(EncoderSpec {
        architecture: "bert",
        hidden,
        heads,
        vocab,
        context,
        types: type_count,
        epsilon: epsilon as f32,
        activation: keys.choice(("", "hidden_act"), &activations)?,
        embedding: Matrix::one(hidden, Part::stored(embedding, vocab)),
        positions: Matrix::one(hidden, part(names.positions, context)),
        token_types: Matrix::one(hidden, part(names.types, type_count)),
        embedding_norm: norm(named(names.embedding_norm)),
        layers: (0..layers).map(layer).collect(),
        ignored,
    })
}

/// A norm, whose constants old checkpoints call gamma and beta.
fn norm(file: &File<'_>, name: &str, length: usize) -> Norm {
    if !file.weights.has(&format!("{name}.gamma")) {
        return file.layer_norm(name, length);
    }
    Norm {
        weight: Vector::stored(format!("{name}.gamma"), length),
        bias: Some(Vector::stored(format!("{name}.beta"), length)),
    }
}
