//! Models of one or two tiny layers for tests: their settings and tensors, named as the published ones of each family are.
//!
//! Widths are 32 (hidden), 2 heads of 16, 1 key head, 64 (feed-forward), 5 tokens, 8 positions.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::error::ForgeError;
use crate::gguf::BlockFormat;
use crate::gguf::sample::Sample;
use crate::matrix::MatrixError;
use crate::weights::Weights;

/// Tensors of f32 in memory.
#[derive(Default, Clone)]
pub(crate) struct Toy(pub(crate) BTreeMap<String, (Vec<u64>, Vec<u8>)>);

/// Weights that differ everywhere and stay small.
pub(crate) fn counted(elements: u64) -> Vec<f32> {
    (0..elements)
        .map(|index| ((index * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}

impl Toy {
    /// Adds a tensor, slowest size first.
    pub(crate) fn with(mut self, name: &str, shape: &[u64]) -> Toy {
        let values = counted(shape.iter().product());
        let bytes = crate::graph::float_bytes(&values);
        self.0.insert(name.to_string(), (shape.to_vec(), bytes));
        self
    }

    /// Changes the first element of a tensor.
    pub(crate) fn changed(mut self, name: &str) -> Toy {
        if let Some((_, bytes)) = self.0.get_mut(name) {
            bytes[..4].copy_from_slice(&9_f32.to_le_bytes());
        }
        self
    }

    fn all(mut self, prefix: &str, tensors: &[(&str, &[u64])]) -> Toy {
        for (name, shape) in tensors {
            self = self.with(&format!("{prefix}{name}"), shape);
        }
        self
    }
}

impl Weights for Toy {
    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }

    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
        let missing = || MatrixError::Missing {
            tensor: name.to_string(),
        };
        let (_, bytes) = self.0.get(name).ok_or_else(missing)?;
        Ok((BlockFormat::F32, bytes))
    }
}

/// `config.json` of a toy, and its tensors.
pub(crate) type Checkpoint = (Map<String, Json>, Toy);

fn object(value: Json) -> Map<String, Json> {
    value.as_object().unwrap().clone()
}

const GATED: [(&str, &[u64]); 9] = [
    ("input_layernorm.weight", &[32]),
    ("self_attn.q_proj.weight", &[32, 32]),
    ("self_attn.k_proj.weight", &[16, 32]),
    ("self_attn.v_proj.weight", &[16, 32]),
    ("self_attn.o_proj.weight", &[32, 32]),
    ("post_attention_layernorm.weight", &[32]),
    ("mlp.gate_proj.weight", &[64, 32]),
    ("mlp.up_proj.weight", &[64, 32]),
    ("mlp.down_proj.weight", &[32, 64]),
];

/// A checkpoint of llama, mistral, qwen2, qwen3 or gemma3_text with this many layers.
pub(crate) fn gated(model_type: &str, layers: usize) -> Checkpoint {
    let mut toy = Toy::default()
        .with("model.embed_tokens.weight", &[5, 32])
        .with("model.norm.weight", &[32]);
    for layer in 0..layers {
        let layer = format!("model.layers.{layer}.");
        toy = toy.all(&layer, &GATED);
        toy = match model_type {
            "qwen2" => toy.all(
                &layer,
                &[
                    ("self_attn.q_proj.bias", &[32]),
                    ("self_attn.k_proj.bias", &[16]),
                    ("self_attn.v_proj.bias", &[16]),
                ],
            ),
            "qwen3" => toy.all(
                &layer,
                &[
                    ("self_attn.q_norm.weight", &[16]),
                    ("self_attn.k_norm.weight", &[16]),
                ],
            ),
            "gemma3_text" => toy.all(
                &layer,
                &[
                    ("self_attn.q_norm.weight", &[16]),
                    ("self_attn.k_norm.weight", &[16]),
                    ("pre_feedforward_layernorm.weight", &[32]),
                    ("post_feedforward_layernorm.weight", &[32]),
                ],
            ),
            _ => toy,
        };
    }
    let mut config = object(json!({
        "model_type": model_type, "num_hidden_layers": layers, "hidden_size": 32, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 5, "max_position_embeddings": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 4,
    }));
    if model_type == "gemma3_text" {
        config.extend(object(json!({
            "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64, "sliding_window": 4,
            "rope_theta": 1e6, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6, "head_dim": 16,
        })));
    }
    (config, toy)
}

/// A checkpoint of GPT-2, its names behind `prefix`.
pub(crate) fn gpt2(prefix: &str) -> Checkpoint {
    let toy = Toy::default()
        .all(
            prefix,
            &[
                ("wte.weight", &[5, 32]),
                ("wpe.weight", &[8, 32]),
                ("ln_f.weight", &[32]),
                ("ln_f.bias", &[32]),
            ],
        )
        .all(
            &format!("{prefix}h.0."),
            &[
                ("ln_1.weight", &[32]),
                ("ln_1.bias", &[32]),
                ("attn.bias", &[1, 1, 8, 8]),
                ("attn.c_attn.weight", &[32, 96]),
                ("attn.c_attn.bias", &[96]),
                ("attn.c_proj.weight", &[32, 32]),
                ("attn.c_proj.bias", &[32]),
                ("ln_2.weight", &[32]),
                ("ln_2.bias", &[32]),
                ("mlp.c_fc.weight", &[32, 128]),
                ("mlp.c_fc.bias", &[128]),
                ("mlp.c_proj.weight", &[128, 32]),
                ("mlp.c_proj.bias", &[32]),
            ],
        );
    let config = json!({
        "model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_inner": null, "n_positions": 8, "vocab_size": 5,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "bos_token_id": 4, "eos_token_id": 4,
    });
    (object(config), toy)
}

/// A checkpoint of GPT-Neo with a global and a local layer.
pub(crate) fn gpt_neo() -> Checkpoint {
    let mut toy = Toy::default().all(
        "transformer.",
        &[
            ("wte.weight", &[5, 32]),
            ("wpe.weight", &[8, 32]),
            ("ln_f.weight", &[32]),
            ("ln_f.bias", &[32]),
        ],
    );
    for layer in 0..2 {
        toy = toy.all(
            &format!("transformer.h.{layer}."),
            &[
                ("ln_1.weight", &[32]),
                ("ln_1.bias", &[32]),
                ("attn.attention.q_proj.weight", &[32, 32]),
                ("attn.attention.k_proj.weight", &[32, 32]),
                ("attn.attention.v_proj.weight", &[32, 32]),
                ("attn.attention.out_proj.weight", &[32, 32]),
                ("attn.attention.out_proj.bias", &[32]),
                ("attn.attention.masked_bias", &[1]),
                ("ln_2.weight", &[32]),
                ("ln_2.bias", &[32]),
                ("mlp.c_fc.weight", &[128, 32]),
                ("mlp.c_fc.bias", &[128]),
                ("mlp.c_proj.weight", &[32, 128]),
                ("mlp.c_proj.bias", &[32]),
            ],
        );
    }
    let config = json!({
        "model_type": "gpt_neo", "num_layers": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": null,
        "max_position_embeddings": 8, "vocab_size": 5, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
        "attention_types": [[["global", "local"], 1]], "window_size": 4, "bos_token_id": 4, "eos_token_id": 4,
    });
    (object(config), toy)
}

/// A checkpoint of BERT with a pooler on top, its names behind `prefix`.
pub(crate) fn bert(prefix: &str) -> Checkpoint {
    let pair = |name: &str| {
        let (rows, columns): (u64, u64) = match name {
            "intermediate.dense" => (64, 32),
            "output.dense" => (32, 64),
            _ => (32, 32),
        };
        let shape = if name.ends_with("LayerNorm") {
            vec![32]
        } else {
            vec![rows, columns]
        };
        (shape, rows)
    };
    let mut toy = Toy::default().all(
        prefix,
        &[
            ("embeddings.position_ids", &[1, 8]),
            ("embeddings.word_embeddings.weight", &[5, 32]),
            ("embeddings.position_embeddings.weight", &[8, 32]),
            ("embeddings.token_type_embeddings.weight", &[2, 32]),
            ("embeddings.LayerNorm.weight", &[32]),
            ("embeddings.LayerNorm.bias", &[32]),
            ("pooler.dense.weight", &[32, 32]),
            ("pooler.dense.bias", &[32]),
        ],
    );
    for name in [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ] {
        let (shape, rows) = pair(name);
        let name = format!("{prefix}encoder.layer.0.{name}");
        toy = toy.with(&format!("{name}.weight"), &shape);
        toy = toy.with(&format!("{name}.bias"), &[rows]);
    }
    let config = json!({
        "model_type": "bert", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 8, "type_vocab_size": 2, "vocab_size": 5, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    });
    (object(config), toy)
}

/// Metadata of a GGUF llama of one layer.
pub(crate) fn llama_metadata() -> Sample {
    Sample::default()
        .string("general.architecture", "llama")
        .unsigned("llama.block_count", 1)
        .unsigned("llama.embedding_length", 32)
        .unsigned("llama.feed_forward_length", 64)
        .unsigned("llama.attention.head_count", 2)
        .unsigned("llama.attention.head_count_kv", 1)
        .unsigned("llama.context_length", 8)
        .number("llama.attention.layer_norm_rms_epsilon", 1e-5)
}

/// Adds the tensors of a GGUF llama of one layer.
pub(crate) fn llama_tensors(mut sample: Sample) -> Sample {
    let tensors: [(&str, &[u64]); 11] = [
        ("blk.0.attn_norm.weight", &[32]),
        ("blk.0.ffn_norm.weight", &[32]),
        ("output_norm.weight", &[32]),
        ("blk.0.attn_q.weight", &[32, 32]),
        ("blk.0.attn_k.weight", &[32, 16]),
        ("blk.0.attn_v.weight", &[32, 16]),
        ("blk.0.attn_output.weight", &[32, 32]),
        ("blk.0.ffn_gate.weight", &[32, 64]),
        ("blk.0.ffn_up.weight", &[32, 64]),
        ("blk.0.ffn_down.weight", &[64, 32]),
        ("token_embd.weight", &[32, 5]),
    ];
    for (name, dims) in tensors {
        sample = sample.floats(name, dims, &counted(dims.iter().product()));
    }
    sample
}

/// Adds a vocabulary of five tokens.
pub(crate) fn vocabulary(sample: Sample) -> Sample {
    sample
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "smollm")
        .strings(
            "tokenizer.ggml.tokens",
            &["<|endoftext|>", "a", "b", "ab", "<|im_end|>"],
        )
        .strings("tokenizer.ggml.merges", &["a b"])
        .integers("tokenizer.ggml.token_type", &[3, 1, 1, 1, 3])
        .unsigned("tokenizer.ggml.eos_token_id", 4)
        .string("tokenizer.chat_template", "{{ messages[0].content }}")
}
