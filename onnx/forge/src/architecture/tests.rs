//! What each family makes of its settings, and settings that are refused by name.

use serde_json::json;

use super::toys::{self, Checkpoint};
use super::*;
use crate::decoder::{Activation, NormKind};

fn decoder((config, toy): &Checkpoint) -> DecoderSpec {
    match from_checkpoint(config, toy).unwrap() {
        Model::Decoder(spec) => {
            spec.check(toy).unwrap();
            *spec
        }
        Model::Encoder(_) => panic!("a decoder"),
    }
}

/// The settings of `config` with some of them changed; `null` leaves one out.
fn with(mut checkpoint: Checkpoint, changes: Json) -> Checkpoint {
    for (key, value) in changes.as_object().unwrap() {
        checkpoint.0.insert(key.clone(), value.clone());
    }
    checkpoint
}

#[test]
fn both_forms_of_a_llama_are_the_same_model() {
    let bytes = toys::llama_tensors(toys::llama_metadata()).bytes(0);
    let gguf = Gguf::parse(&bytes).unwrap();
    let Model::Decoder(mut gguf) = from_gguf(&gguf).unwrap() else {
        panic!("a decoder")
    };
    let mut checkpoint = decoder(&toys::gated("llama", 1));
    assert_eq!(
        gguf.layers[0].qkv.matrix.parts[0].order,
        Order::Pairs { head_dim: 16 }
    );
    assert_eq!(gguf.layers[0].qkv.matrix.parts[2].order, Order::Stored);
    assert_eq!(
        checkpoint.layers[0].qkv.matrix.parts[0].order,
        Order::Stored
    );
    // Where the tensors come from differs, and nothing else.
    for spec in [&mut *gguf, &mut checkpoint] {
        assert_eq!(spec.layers[0].qkv.matrix.rows(), 64);
        spec.ignored.clear();
        spec.layers.clear();
        spec.embedding.parts.clear();
        spec.final_norm.weight.parts.clear();
    }
    assert_eq!(*gguf, checkpoint);
}

#[test]
fn qwen2_has_a_bias_and_qwen3_norms_its_heads() {
    let qwen2 = decoder(&toys::gated("qwen2", 1)).layers.remove(0);
    assert_eq!(qwen2.qkv.bias.map(|bias| bias.length()), Some(64));
    assert!(qwen2.query_norm.is_none() && qwen2.output.bias.is_none());
    let qwen3 = decoder(&toys::gated("qwen3", 1)).layers.remove(0);
    assert!(qwen3.qkv.bias.is_none());
    assert_eq!(qwen3.query_norm.map(|norm| norm.length()), Some(16));
    let windows = |changes| -> Vec<_> {
        let spec = decoder(&with(toys::gated("qwen2", 3), changes));
        spec.layers.iter().map(|layer| layer.window).collect()
    };
    let off = json!({"use_sliding_window": false, "sliding_window": 4, "max_window_layers": 0});
    assert_eq!(windows(off), [None; 3]);
    let late = json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1});
    assert_eq!(windows(late), [None, Some(4), Some(4)]);
}

#[test]
fn gemma3_scales_adds_one_and_alternates() {
    let spec = decoder(&toys::gated("gemma3_text", 7));
    assert_eq!(
        (spec.activation, spec.norm),
        (Activation::GeluTanh, NormKind::Rms)
    );
    assert_eq!(spec.embedding_scale, 32_f32.sqrt());
    let windows: Vec<_> = spec
        .layers
        .iter()
        .map(|layer| (layer.window, layer.rotary))
        .collect();
    let (local, global) = ((Some(4), Some(1)), (None, Some(0)));
    assert_eq!(windows, [local, local, local, local, local, global, local]);
    let layer = &spec.layers[0];
    assert_eq!((layer.scale, layer.input_norm.weight.plus), (0.125, 1.0));
    assert!(layer.post_attention_norm.is_some() && layer.post_ffn_norm.is_some());
    // Pair 4 of 8: base^(−2·4/16).
    let frequency = |rotary: usize| spec.rotary[rotary].inverse_frequencies[4];
    assert!((frequency(0) - 1e-3).abs() < 1e-9 && (frequency(1) - 1e-2).abs() < 1e-9);
    // The newer way to say the same.
    let mut types = ["sliding_attention"; 7];
    types[5] = "full_attention";
    let newer = json!({
        "rope_theta": null, "rope_local_base_freq": null, "sliding_window_pattern": null,
        "layer_types": types,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    });
    assert_eq!(decoder(&with(toys::gated("gemma3_text", 7), newer)), spec);
}

#[test]
fn gpt2_turns_its_matrices_and_gpt_neo_does_not() {
    let spec = decoder(&toys::gpt2(""));
    let prefixed = decoder(&toys::gpt2("transformer."));
    assert_eq!(prefixed.embedding.parts[0].tensor, "transformer.wte.weight");
    assert_eq!(
        (spec.norm, spec.kv_heads, spec.layers[0].feed_forward()),
        (NormKind::Layer, 2, 128)
    );
    assert_eq!(spec.layers[0].up.matrix.parts[0].order, Order::Transposed);
    assert_eq!((spec.layers[0].scale, spec.rotary.len()), (0.25, 0));
    let by_layer = json!({"scale_attn_by_inverse_layer_idx": true, "scale_attn_weights": false});
    assert_eq!(
        decoder(&with(toys::gpt2(""), by_layer)).layers[0].scale,
        1.0
    );
    let neo = decoder(&toys::gpt_neo());
    let windows: Vec<_> = neo
        .layers
        .iter()
        .map(|layer| (layer.window, layer.scale))
        .collect();
    assert_eq!(windows, [(None, 1.0), (Some(4), 1.0)]);
    assert!(neo.layers[0].qkv.bias.is_none() && neo.layers[0].output.bias.is_some());
    assert_eq!(neo.layers[0].up.matrix.parts[0].order, Order::Stored);
}

#[test]
fn bert_leaves_what_stands_on_top() {
    for prefix in ["", "bert."] {
        let (config, toy) = toys::bert(prefix);
        let Model::Encoder(spec) = from_checkpoint(&config, &toy).unwrap() else {
            panic!("an encoder")
        };
        spec.check(&toy).unwrap();
        assert_eq!((spec.types, spec.activation), (2, Activation::Gelu));
        let extra = toy.with("encoder.layer.1.output.dense.bias", &[32]);
        let message = spec.check(&extra).unwrap_err().to_string();
        assert!(
            message.contains("dense.bias has no place in the bert graph"),
            "{message}"
        );
    }
}

#[test]
fn a_tied_head_is_the_embedding() {
    let mut toy = toys::gated("llama", 1);
    toy.1 = toy.1.with("lm_head.weight", &[5, 32]);
    assert!(
        decoder(&toy).head.is_none(),
        "it is the embedding once more"
    );
    toy.1 = toy.1.changed("lm_head.weight");
    assert!(
        decoder(&toy).head.is_some(),
        "it is there, and nothing says that it is tied"
    );
    assert!(
        decoder(&with(toy, json!({"tie_word_embeddings": true})))
            .head
            .is_none()
    );
    let (config, toy) = with(
        toys::gated("llama", 1),
        json!({"tie_word_embeddings": false}),
    );
    let Model::Decoder(spec) = from_checkpoint(&config, &toy).unwrap() else {
        panic!("a decoder")
    };
    let message = spec.check(&toy).unwrap_err().to_string();
    assert!(
        message.contains("tensor lm_head.weight is missing"),
        "{message}"
    );
}

#[test]
fn frequencies_are_stretched() {
    let scaled = |name: &str, scaling: Json| {
        let spec = decoder(&with(toys::gated("llama", 1), json!({name: scaling})));
        spec.rotary[0].inverse_frequencies.clone()
    };
    let plain = decoder(&toys::gated("llama", 1)).rotary[0]
        .inverse_frequencies
        .clone();
    let linear = scaled("rope_scaling", json!({"type": "linear", "factor": 4.0}));
    assert!((linear[3] - plain[3] / 4.0).abs() < 1e-12);
    let llama3 = scaled(
        "rope_parameters",
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 10000.0}),
    );
    // Waves in 64 positions: 10.2, 3.22, 1.02, 0.32 …: as it is, between, just between, an eighth.
    let slope = (64.0 * plain[1] / std::f64::consts::TAU - 1.0) / 3.0;
    assert_eq!(llama3[0], plain[0]);
    assert!((llama3[1] - plain[1] * ((1.0 - slope) / 8.0 + slope)).abs() < 1e-12);
    assert!((llama3[3] - plain[3] / 8.0).abs() < 1e-12);
    let factors = [1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0];
    let sample = toys::llama_metadata().floats("rope_freqs.weight", &[8], &factors);
    let bytes = toys::llama_tensors(sample).bytes(0);
    let gguf = Gguf::parse(&bytes).unwrap();
    let Model::Decoder(spec) = from_gguf(&gguf).unwrap() else {
        panic!("a decoder")
    };
    assert!((spec.rotary[0].inverse_frequencies[7] - plain[7] / 8.0).abs() < 1e-12);
}

#[test]
fn settings_that_no_graph_follows() {
    let llama = |changes| with(toys::gated("llama", 1), changes);
    let gemma = |changes| with(toys::gated("gemma3_text", 1), changes);
    let cases: [(Checkpoint, &str); 21] = [
        (llama(json!({"model_type": "mamba"})), "found \"mamba\""),
        (llama(json!({"model_type": null})), "found \"nothing\""),
        (
            llama(json!({"num_hidden_layers": 0})),
            "config.json num_hidden_layers: expected 1 to 1024, found 0",
        ),
        (
            llama(json!({"num_hidden_layers": 1e9})),
            "num_hidden_layers: expected 1 to 1024",
        ),
        (
            llama(json!({"hidden_size": u64::MAX})),
            "hidden_size: expected 1 to 1048576",
        ),
        (
            llama(json!({"hidden_size": -32})),
            "hidden_size: expected 1 to 1048576, found -32",
        ),
        (
            llama(json!({"num_key_value_heads": 3})),
            "num_key_value_heads: expected a divisor of the number of heads, found 3",
        ),
        (
            llama(json!({"head_dim": 7})),
            "head_dim: expected an even, positive width, found 7",
        ),
        (
            llama(json!({"vocab_size": 6})),
            "vocab_size: expected 5, the rows of model.embed_tokens.weight, found 6",
        ),
        (
            llama(json!({"rms_norm_eps": 0})),
            "rms_norm_eps: expected a finite positive number, found 0",
        ),
        (
            llama(json!({"rope_theta": 0.5})),
            "rope_theta: expected a finite number above 1, found 0.5",
        ),
        (
            llama(json!({"hidden_act": "relu"})),
            "hidden_act: expected silu, found relu",
        ),
        (
            llama(json!({"partial_rotary_factor": 0.5})),
            "partial_rotary_factor: expected 1, found 0.5",
        ),
        (
            llama(json!({"rope_scaling": {"rope_type": "yarn"}})),
            "rope_scaling.rope_type: expected default or linear or llama3, found yarn",
        ),
        (
            llama(json!({"rope_scaling": {"type": "linear"}})),
            "rope_scaling.factor: expected a finite positive number, found nothing",
        ),
        (
            gemma(json!({"final_logit_softcapping": 30.0})),
            "final_logit_softcapping: expected nothing, found 30",
        ),
        (
            gemma(json!({"query_pre_attn_scalar": null})),
            "query_pre_attn_scalar: expected a finite positive number, found nothing",
        ),
        (
            gemma(json!({"layer_types": ["chunked_attention"]})),
            "found chunked_attention",
        ),
        (
            with(toys::gpt2(""), json!({"n_head": 5})),
            "n_head: expected a divisor of the width, found 5",
        ),
        (
            with(
                toys::gpt_neo(),
                json!({"attention_types": [[["global"], 1u64 << 40]]}),
            ),
            "attention_types: expected 2 layers, found 1024",
        ),
        (
            with(toys::bert(""), json!({"is_decoder": true})),
            "is_decoder: expected nothing, found true",
        ),
    ];
    for ((config, toy), expected) in cases {
        let message = from_checkpoint(&config, &toy)
            .expect_err(expected)
            .to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}
