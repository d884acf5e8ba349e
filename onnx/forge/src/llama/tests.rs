//! A llama of one layer: its graph, its weights in the order of the kernels, the folder it becomes, and files that are no llama.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::matrix::{transpose, unpermute};
use super::*;
use crate::error::ForgeError;
use crate::folder::{Provenance, Step};
use crate::gguf::Gguf;
use crate::gguf::sample::Sample;
use crate::recipe::{Recipe, build};

const HIDDEN: u64 = 32;
const KV: u64 = 16;
const VOCAB: u64 = 5;

/// Weights that differ everywhere and stay small.
fn counted(elements: u64) -> Vec<f32> {
    (0..elements)
        .map(|index| ((index * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}

fn matrix(sample: Sample, name: &str, columns: u64, rows: u64) -> Sample {
    sample.floats(name, &[columns, rows], &counted(columns * rows))
}

fn metadata() -> Sample {
    Sample::default()
        .string("general.architecture", "llama")
        .unsigned("llama.block_count", 1)
        .unsigned("llama.embedding_length", HIDDEN as u32)
        .unsigned("llama.feed_forward_length", HIDDEN as u32)
        .unsigned("llama.attention.head_count", 2)
        .unsigned("llama.attention.head_count_kv", 1)
        .unsigned("llama.context_length", 8)
        .entry(
            "llama.attention.layer_norm_rms_epsilon",
            6,
            &1e-5_f32.to_le_bytes(),
        )
}

fn tensors(sample: Sample) -> Sample {
    let norm = vec![1.0; HIDDEN as usize];
    let mut sample = sample
        .floats("blk.0.attn_norm.weight", &[HIDDEN], &norm)
        .floats("blk.0.ffn_norm.weight", &[HIDDEN], &norm)
        .floats("output_norm.weight", &[HIDDEN], &norm);
    let square = ["attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    for name in square {
        sample = matrix(sample, &format!("blk.0.{name}.weight"), HIDDEN, HIDDEN);
    }
    for name in ["attn_k", "attn_v"] {
        sample = matrix(sample, &format!("blk.0.{name}.weight"), HIDDEN, KV);
    }
    matrix(sample, "token_embd.weight", HIDDEN, VOCAB)
}

fn vocabulary(sample: Sample) -> Sample {
    let types = [
        &5_u32.to_le_bytes()[..],
        &VOCAB.to_le_bytes(),
        &[3_i32, 1, 1, 1, 3].map(i32::to_le_bytes).concat(),
    ]
    .concat();
    sample
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "smollm")
        .strings(
            "tokenizer.ggml.tokens",
            &["<|endoftext|>", "a", "b", "ab", "<|im_end|>"],
        )
        .strings("tokenizer.ggml.merges", &["a b"])
        .entry("tokenizer.ggml.token_type", 9, &types)
        .unsigned("tokenizer.ggml.eos_token_id", 4)
        .string("tokenizer.chat_template", "{{ messages[0].content }}")
}

const INT8: Options = Options {
    layers: Storage::Blocks(CodeFormat::Int8),
    head: Storage::Blocks(CodeFormat::Int8),
    accuracy_level: 4,
};
const FP32: Options = Options {
    layers: Storage::Fp32,
    head: Storage::Fp32,
    accuracy_level: 0,
};

/// Operators in order, and constants by name.
type Converted = (Vec<String>, BTreeMap<String, Vec<u8>>);

/// Builds the graph and makes all weights.
fn convert(bytes: &[u8], options: Options) -> Result<Converted, ForgeError> {
    let gguf = Gguf::parse(bytes)?;
    let config = Config::read(&gguf)?;
    let graph = graph(&gguf, &config, options)?;
    let operators = graph
        .nodes
        .iter()
        .map(|node| node.op_type.clone())
        .collect();
    let mut weights = BTreeMap::new();
    for payload in graph.payloads {
        for (spec, bytes) in payload.tensors.iter().zip((payload.make)()?) {
            assert_eq!(spec.bytes()?, bytes.len() as u64, "{}", spec.name);
            weights.insert(spec.name.clone(), bytes);
        }
    }
    Ok((operators, weights))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

#[test]
fn graph_has_the_shape_of_the_picture() {
    let (operators, _) = convert(&tensors(metadata()).bytes(0), INT8).unwrap();
    let embedding = ["GatherBlockQuantized"];
    let norm = ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"];
    let attention = [
        "MatMulNBits",
        "GroupQueryAttention",
        "MatMulNBits",
        "SkipSimplifiedLayerNormalization",
    ];
    let feed_forward = [
        "MatMulNBits",
        "Split",
        "QuickGelu",
        "Mul",
        "MatMulNBits",
        "SkipSimplifiedLayerNormalization",
    ];
    let head = ["Gather", "Reshape", "MatMulNBits"];
    assert_eq!(
        operators,
        [&embedding[..], &norm, &attention, &feed_forward, &head].concat()
    );
}

#[test]
fn query_and_key_rows_are_put_back() {
    // One head of 4 rows of 2: pairs (0,1) (2,3) become halves (0,2) (1,3).
    assert_eq!(
        unpermute(&[0, 0, 1, 1, 2, 2, 3, 3], 2, 1),
        [0, 0, 2, 2, 1, 1, 3, 3]
    );
    // Two heads stay where they are.
    assert_eq!(
        unpermute(&[0, 1, 2, 3, 4, 5, 6, 7], 1, 2),
        [0, 2, 1, 3, 4, 6, 5, 7]
    );
    let (_, weights) = convert(&tensors(metadata()).bytes(0), FP32).unwrap();
    let packed = transpose(
        &floats(&weights["layers.0.attention.qkv"]),
        (HIDDEN + 2 * KV) as usize,
    );
    let row =
        |index: u64| packed[(index * HIDDEN) as usize..((index + 1) * HIDDEN) as usize].to_vec();
    let source = |index: u64| {
        counted(HIDDEN * HIDDEN)[(index * HIDDEN) as usize..((index + 1) * HIDDEN) as usize]
            .to_vec()
    };
    assert_eq!(
        (row(0), row(1), row(8), row(16)),
        (source(0), source(2), source(1), source(16)),
        "heads of 16 rows"
    );
    assert_eq!(
        (row(HIDDEN + 1), row(HIDDEN + KV + 1)),
        (source(2), source(1)),
        "keys are put back, values never moved"
    );
}

#[test]
fn rotary_tables_hold_cosine_and_sine() {
    let (_, weights) = convert(&tensors(metadata()).bytes(0), INT8).unwrap();
    let (cos, sin) = (floats(&weights["rope.cos"]), floats(&weights["rope.sin"]));
    assert_eq!((cos.len(), cos[0], sin[0]), (8 * 8, 1.0, 0.0));
    // Position 1, frequencies 1 and 10000^(−2/16).
    assert!((cos[8] - 1_f32.cos()).abs() < 1e-6 && (sin[9] - 0.316_227_77_f32.sin()).abs() < 1e-6);
}

#[test]
fn becomes_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("m.gguf");
    std::fs::write(&source, vocabulary(tensors(metadata())).bytes(0)).unwrap();
    let recipe = serde_json::from_str::<Recipe>(
        r#"{"kind":"gguf-llama","weights":"int8","accuracy_level":4,"head":"int8"}"#,
    )
    .unwrap();
    let about = Provenance {
        name: "m".into(),
        license: "MIT".into(),
        sources: vec![],
    };
    let mut steps = Vec::new();
    let mut watch = |progress: crate::folder::Progress<'_>| {
        steps.push(progress.step);
        ControlFlow::Continue(())
    };
    let sources = BTreeMap::from([("gguf".to_string(), source)]);
    let summary = build(
        &recipe,
        &sources,
        &root.path().join("m"),
        &about,
        &mut watch,
    )
    .unwrap();
    assert_eq!(
        summary.files.keys().collect::<Vec<_>>(),
        [
            "chat_template.jinja",
            "model.onnx",
            "model.onnx.data",
            "tokenizer.json"
        ]
    );
    assert!(steps.contains(&Step::Convert) && steps.contains(&Step::Hash));
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.path().join("m/llmasos.json")).unwrap())
            .unwrap();
    let expected = serde_json::json!({"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "vocab": 5, "context": 8,
        "rope_base": 10000.0, "bos": 4, "eos": [4, 0], "accuracy_level": 4});
    assert_eq!(manifest["config"], expected);
    assert_eq!(
        (&manifest["role"], &manifest["recipe"]["weights"]),
        (&"language".into(), &"int8".into())
    );
}

#[test]
fn files_that_are_no_llama() {
    let with = |sample: Sample| tensors(sample).bytes(0);
    let cases: [(&str, Vec<u8>, &str); 9] = [
        (
            "another architecture",
            with(Sample::default().string("general.architecture", "gpt2")),
            "expected architecture \"llama\"",
        ),
        (
            "no sizes",
            with(Sample::default().string("general.architecture", "llama")),
            "head_count: expected an unsigned",
        ),
        (
            "missing tensor",
            metadata().bytes(0),
            "token_embd.weight is missing",
        ),
        (
            "tensor without a place",
            with(metadata().floats("blk.0.attn_q.bias", &[1], &[1.0])),
            "attn_q.bias has no place",
        ),
        (
            "scaled positions",
            with(metadata().string("llama.rope.scaling.type", "yarn")),
            "expected none, found yarn",
        ),
        (
            "partial rotation",
            with(metadata().unsigned("llama.rope.dimension_count", 4)),
            "found 4",
        ),
        (
            "odd head",
            with(metadata().unsigned("llama.attention.key_length", 7)),
            "found 7",
        ),
        (
            "huge head",
            with(metadata().unsigned("llama.attention.key_length", u32::MAX)),
            "found 4294967295",
        ),
        (
            "another width",
            with(metadata().unsigned("llama.attention.key_length", 32)),
            "expected shape [32, 64], found [32, 32]",
        ),
    ];
    for (why, bytes, expected) in cases {
        let message = convert(&bytes, INT8).expect_err(why).to_string();
        assert!(message.contains(expected), "{why}: {message}");
    }
}
