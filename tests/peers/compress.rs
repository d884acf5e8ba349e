//! A compressed folder in a plain ONNX Runtime, from Python: the portable graph is for everybody.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use llmasos_engine::ModelFolder;
use llmasos_engine::text::{GraphChoice, LanguageModel, LoadOptions};

use crate::harness::run;
use crate::models::runtime;
use crate::{alone, peer};

const LIMIT: Duration = Duration::from_secs(300);
/// Tokens of a text, in the tiny model's vocabulary of 96.
const TOKENS: [u32; 12] = [1, 40, 17, 93, 8, 8, 61, 22, 5, 70, 33, 12];
/// Largest error of a score: both run the same operators, in the same library version.
const ERROR: f32 = 1e-4;
/// Prose of our own.
const PROSE: &str = include_str!("../../launch/bench/model/prose.txt");

#[test]
fn a_plain_onnx_runtime_gives_the_scores_of_the_engine() {
    let _alone = alone();
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    fs::create_dir(&model).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families/llama");
    for item in fs::read_dir(&source).unwrap() {
        let from = item.unwrap().path();
        fs::copy(&from, model.join(from.file_name().unwrap())).unwrap();
    }
    let config = model.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let longer = text.replace(
        "\"max_position_embeddings\": 64",
        "\"max_position_embeddings\": 256",
    );
    assert_ne!(text, longer);
    fs::write(&config, longer).unwrap();
    let test = root.path().join("test.txt");
    fs::write(&test, PROSE).unwrap();
    for weights in ["int4", "int8", "int8-dynamic", "fp16", "fp32"] {
        let out = root.path().join(weights);
        let path = |path: &Path| path.display().to_string();
        let words = [
            "compress",
            &path(&model),
            "-o",
            &path(&out),
            "--quantize",
            weights,
            "--method",
            "rtn",
            "--test",
            &path(&test),
            "--length",
            "96",
            "--sequences",
            "2",
        ];
        run(&words, LIMIT).expect_code(0);
        check(weights, &out);
    }
}

fn check(weights: &str, folder: &Path) {
    let tokens: Vec<String> = TOKENS.iter().map(u32::to_string).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/onnx_peer.py");
    let done = Command::new(peer("venv-onnx").join("bin/python"))
        .arg(script)
        .arg(folder)
        .arg(tokens.join(","))
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let text = String::from_utf8(done.stdout).unwrap();
    let theirs: Vec<Vec<f32>> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let options = LoadOptions {
        context: 96,
        graph: GraphChoice::Portable,
        ..LoadOptions::default()
    };
    let opened = ModelFolder::open(folder).unwrap();
    let mut model = LanguageModel::load(&runtime(), &opened, &options).unwrap();
    let mut ours = Vec::new();
    model
        .score(&TOKENS, 0, &mut |_, scores| ours.push(scores.to_vec()))
        .unwrap();
    assert_eq!((ours.len(), theirs.len()), (TOKENS.len(), TOKENS.len()));
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours.len(), theirs.len());
        let errors = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
        let worst = errors.fold(0.0, f32::max);
        assert!(worst < ERROR, "{weights}, position {at}: {worst}");
    }
}
