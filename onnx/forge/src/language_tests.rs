//! A GGUF file and a Hugging Face folder as model folders, and files that are no model.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};

use crate::architecture::toys;
use crate::error::ForgeError;
use crate::folder::{ModelFolderSummary, Progress, Provenance, Step};
use crate::gguf::sample::Sample;
use crate::import::{ImportOptions, import};
use crate::recipe::{Recipe, WeightFormat, build};
use crate::safetensors::sample;

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("llmasos.json")).unwrap()).unwrap()
}

const PORTABLE: [&str; 2] = ["model.onnx", "model.onnx.data"];
const FUSED: [&str; 2] = ["fused.onnx", "fused.onnx.data"];

fn names(summary: &ModelFolderSummary) -> Vec<&str> {
    summary.files.keys().map(String::as_str).collect()
}

#[test]
fn a_gguf_file_becomes_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("m.gguf");
    let file = toys::vocabulary(toys::llama_tensors(toys::llama_metadata()));
    std::fs::write(&source, file.bytes(0)).unwrap();
    let recipe = r#"{"kind":"gguf","weights":"int8","accuracy_level":4,"head":"int8"}"#;
    let recipe = serde_json::from_str::<Recipe>(recipe).unwrap();
    let about = Provenance {
        name: "m".into(),
        license: "MIT".into(),
        sources: vec![],
    };
    let mut steps = Vec::new();
    let mut watch = |progress: Progress<'_>| {
        steps.push(progress.step);
        ControlFlow::Continue(())
    };
    let sources = BTreeMap::from([("gguf".to_string(), source)]);
    let out = root.path().join("m");
    let summary = build(&recipe, &sources, &out, &about, &mut watch).unwrap();
    let texts = ["chat_template.jinja", "tokenizer.json"];
    let mut all = [&PORTABLE[..], &FUSED, &texts].concat();
    all.sort_unstable();
    assert_eq!(names(&summary), all);
    assert!(steps.contains(&Step::Convert) && steps.contains(&Step::Hash));
    let manifest = manifest(&out);
    let expected = json!({"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "vocab": 5, "context": 8,
        "rope_base": 10000.0, "bos": 4, "add_bos": false, "eos": [4, 0], "accuracy_level": 4, "architecture": "llama",
        "fused": true});
    assert_eq!(manifest["config"], expected);
    let told = (
        &manifest["role"],
        &manifest["family"],
        &manifest["recipe"]["weights"],
    );
    assert_eq!(told, (&json!("language"), &json!("llama"), &json!("int8")));
}

/// Writes a checkpoint as a folder, with a tokenizer of two added tokens.
fn folder(dir: &Path, (config, toy): &toys::Checkpoint) {
    std::fs::create_dir_all(dir).unwrap();
    let mut file = sample::Sample::default();
    for (name, (shape, bytes)) in &toy.0 {
        file = file.raw(name, "F32", shape, bytes);
    }
    let tokenizer = json!({"added_tokens": [
        {"id": 0, "content": "<s>"}, {"id": 3, "content": "<|im_end|>"}, {"id": 9, "content": "<|endoftext|>"},
    ], "post_processor": {"type": "Sequence", "processors": [
        {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]},
    ]}});
    let settings = json!({"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]});
    let files = [
        ("model.safetensors", file.bytes()),
        ("config.json", json!(config).to_string().into_bytes()),
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        ("tokenizer_config.json", settings.to_string().into_bytes()),
        ("README.md", b"not taken".to_vec()),
    ];
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

fn options(format: WeightFormat) -> ImportOptions {
    ImportOptions {
        weights: format,
        head: format,
        ..ImportOptions::default()
    }
}

#[test]
fn a_folder_becomes_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = (root.path().join("hf"), root.path().join("mine"));
    folder(&source, &toys::gated("qwen3", 1));
    let summary = import(&source, &options(WeightFormat::Int4), &out, &mut go_on).unwrap();
    assert_eq!((summary.name.as_str(), summary.files.len()), ("mine", 6));
    let told = manifest(&out);
    assert_eq!(
        told["config"]["eos"],
        json!([4, 3]),
        "the file's own, and one known by name"
    );
    let begins = (&told["config"]["bos"], &told["config"]["add_bos"]);
    assert_eq!(begins, (&json!(0), &json!(true)));
    assert_eq!(told["license"], "not stated");
    let sources: Vec<_> = told["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| &source["path"])
        .collect();
    assert_eq!(
        sources,
        [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert_eq!(
        std::fs::read(out.join("chat_template.jinja")).unwrap(),
        b"yes"
    );
    assert_eq!(
        std::fs::read(out.join("tokenizer.json")).unwrap(),
        std::fs::read(source.join("tokenizer.json")).unwrap()
    );
    let fp32 = import(&source, &options(WeightFormat::Fp32), &out, &mut go_on).unwrap();
    assert_eq!(
        (fp32.files.len(), &manifest(&out)["config"]["fused"]),
        (4, &json!(false))
    );
}

#[test]
fn an_encoder_says_how_it_is_pooled() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = (root.path().join("hf"), root.path().join("mine"));
    folder(&source, &toys::bert(""));
    std::fs::create_dir(source.join("1_Pooling")).unwrap();
    let pooling = r#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#;
    std::fs::write(source.join("1_Pooling/config.json"), pooling).unwrap();
    let summary = import(&source, &options(WeightFormat::Int8), &out, &mut go_on).unwrap();
    assert_eq!(
        (summary.role.as_str(), summary.family.as_str()),
        ("encoder", "bert")
    );
    let expected = json!({"layers": 1, "hidden": 32, "vocab": 5, "context": 8, "pooling": "mean", "accuracy_level": 4,
        "architecture": "bert"});
    assert_eq!(manifest(&out)["config"], expected);
}

#[test]
fn folders_that_are_no_model() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("hf");
    let attempt = || -> Result<ModelFolderSummary, ForgeError> {
        let out = root.path().join("mine");
        import(&source, &options(WeightFormat::Int8), &out, &mut go_on)
    };
    let cases: [(&str, &str, Option<&str>, &str); 7] = [
        (
            "no settings",
            "config.json",
            None,
            "needs a file config.json",
        ),
        (
            "no tokenizer",
            "tokenizer.json",
            None,
            "needs a file tokenizer.json",
        ),
        (
            "no weights",
            "model.safetensors",
            None,
            "needs model.safetensors or",
        ),
        (
            "a list",
            "config.json",
            Some("[]"),
            "invalid type: sequence",
        ),
        (
            "an end nowhere",
            "generation_config.json",
            Some(r#"{"eos_token_id": [4, 5]}"#),
            "generation_config.json eos_token_id: expected ids below 5, found 5",
        ),
        (
            "an end in words",
            "generation_config.json",
            Some(r#"{"eos_token_id": "</s>"}"#),
            "expected ids below 5, found \"</s>\"",
        ),
        (
            "no settings at all",
            "config.json",
            Some("{}"),
            "found \"nothing\"",
        ),
    ];
    for (why, file, content, expected) in cases {
        folder(&source, &toys::gated("llama", 1));
        let path = source.join(file);
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let message = attempt().expect_err(why).to_string();
        assert!(message.contains(expected), "{why}: {message}");
        let _ = std::fs::remove_file(&path);
    }
    let message = import(
        &root.path().join("absent"),
        &options(WeightFormat::Int8),
        &source,
        &mut go_on,
    )
    .unwrap_err();
    assert!(message.to_string().contains("cannot inspect"), "{message}");
}

#[test]
fn gguf_files_that_are_no_llama() {
    let with = |sample: Sample| toys::vocabulary(toys::llama_tensors(sample)).bytes(0);
    let plain = toys::llama_metadata;
    let cases: [(&str, Vec<u8>, &str); 9] = [
        (
            "another architecture",
            with(Sample::default().string("general.architecture", "rwkv")),
            "\"gpt2\" or \"bert\", found \"rwkv\"",
        ),
        (
            "no sizes",
            with(Sample::default().string("general.architecture", "llama")),
            "metadata llama.attention.head_count: expected 1 to",
        ),
        (
            "no tensors",
            plain().bytes(0),
            "tensor token_embd.weight is missing",
        ),
        (
            "a tensor without a place",
            with(plain().floats("blk.0.attn_sinks.weight", &[1], &[1.0])),
            "attn_sinks.weight has no place in the llama graph",
        ),
        (
            "scaled positions",
            with(plain().string("llama.rope.scaling.type", "yarn")),
            "expected none or linear, found yarn",
        ),
        (
            "partial rotation",
            with(plain().unsigned("llama.rope.dimension_count", 4)),
            "expected the width of a head, found 4",
        ),
        (
            "odd head",
            with(plain().unsigned("llama.attention.key_length", 7)),
            "found 7",
        ),
        (
            "huge head",
            with(plain().unsigned("llama.attention.key_length", u32::MAX)),
            "found 4294967295",
        ),
        (
            "another width",
            with(plain().unsigned("llama.attention.key_length", 32)),
            "expected shape [64, 32], found [32, 32]",
        ),
    ];
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("m.gguf");
    for (why, bytes, expected) in cases {
        std::fs::write(&source, bytes).unwrap();
        let out = root.path().join("mine");
        let message = import(&source, &options(WeightFormat::Int8), &out, &mut go_on)
            .expect_err(why)
            .to_string();
        assert!(message.contains(expected), "{why}: {message}");
    }
    assert_eq!(
        std::fs::read_dir(root.path()).unwrap().count(),
        1,
        "nothing is left"
    );
}
