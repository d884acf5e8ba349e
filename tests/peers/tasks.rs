//! Compressed detectors and encoders in a plain ONNX Runtime, from Python: their graphs are for everybody.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use llmasos_engine::ModelFolder;
use llmasos_engine::text::Encoder;
use llmasos_engine::vision::{DetectOptions, Detector, Picture};
use serde_json::{Value, json};

use crate::harness::run;
use crate::models::runtime;
use crate::{alone, peer};

const LIMIT: Duration = Duration::from_secs(300);
/// Largest error of an output: both run the same operators, in the same library version.
const ERROR: f32 = 1e-4;
/// Prose of our own.
const PROSE: &str = include_str!("../../launch/bench/model/prose.txt");

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

/// All outputs of the graph in a folder.
fn outputs(folder: &Path, inputs: &Value) -> BTreeMap<String, Vec<f32>> {
    let path = folder.with_extension("inputs.json");
    fs::write(&path, inputs.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/graph_peer.py");
    let done = Command::new(peer("venv-onnx").join("bin/python"))
        .arg(script)
        .args([folder, &path])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn a_detector_sees_the_same_in_a_plain_onnx_runtime() {
    let _alone = alone();
    let root = tempfile::tempdir().unwrap();
    let bytes = fs::read(tree("detector/held-out/0.png")).unwrap();
    let picture = Picture::from_compressed(&bytes).unwrap();
    let (width, height) = (picture.width(), picture.height());
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let pixels: Vec<u8> = places
        .flat_map(|(x, y)| picture.rgb(x, y).unwrap())
        .collect();
    let image =
        json!({ "image": { "type": "f32", "dims": [1, height, width, 3], "data": pixels } });
    for weights in ["int8-static", "fp16"] {
        let out = root.path().join(weights);
        let path = |path: &Path| path.display().to_string();
        let words = [
            "compress",
            &path(&tree("detector/model")),
            "-o",
            &path(&out),
            "--quantize",
            weights,
            "--images",
            &path(&tree("detector/images")),
            "--test-images",
            &path(&tree("detector/held-out")),
        ];
        run(&words, LIMIT).expect_code(0);
        let found = outputs(&out, &image);
        let (boxes, scores) = (&found["boxes"], &found["scores"]);
        let classes = scores.len() / (boxes.len() / 4);
        let things = || scores.iter().enumerate().filter(|(at, _)| at % classes > 0);
        let theirs = things().map(|(_, score)| *score).fold(0.0, f32::max);
        let mut detector = Detector::load(&runtime(), &ModelFolder::open(&out).unwrap()).unwrap();
        let seen = detector
            .detect(&picture, &DetectOptions::default())
            .unwrap();
        let ours = &seen.items[0];
        assert!(
            (ours.score - theirs).abs() < ERROR,
            "{weights}: {} {theirs}",
            ours.score
        );
        // Codes of 8 bits give several boxes the very same score: ours has to be one of these.
        let side = width as f32;
        let best = things().filter(|(_, score)| theirs - **score < ERROR);
        let is_one_of_theirs = best.clone().any(|(at, _)| {
            let theirs = &boxes[at / classes * 4..][..4];
            let corners = [1, 0, 3, 2].map(|one: usize| (theirs[one] * side).clamp(0.0, side));
            let mut pairs = ours.bbox.iter().zip(corners);
            at % classes == ours.label_id as usize && pairs.all(|(a, b)| (a - b).abs() < 0.05)
        });
        assert!(
            is_one_of_theirs,
            "{weights}: {ours:?} is none of {} boxes",
            best.count()
        );
    }
}

#[test]
fn an_encoder_says_the_same_in_a_plain_onnx_runtime() {
    let _alone = alone();
    let root = tempfile::tempdir().unwrap();
    let words: Vec<&str> = PROSE.split_whitespace().collect();
    let (first, second) = words.split_at(words.len() / 2);
    let path = |name: &str| root.path().join(name).display().to_string();
    for (name, words) in [("calibration.txt", first), ("test.txt", second)] {
        let paragraphs: Vec<String> = words.chunks(5).map(|it| it.join(" ")).collect();
        fs::write(path(name), paragraphs.join("\n\n")).unwrap();
    }
    for weights in ["int8-static", "int8-dynamic", "fp16"] {
        let out = root.path().join(weights);
        let words = [
            "compress",
            &tree("families/bert").display().to_string(),
            "-o",
            &path(weights),
            "--quantize",
            weights,
            "--calibration",
            &path("calibration.txt"),
            "--test",
            &path("test.txt"),
            "--calibration-tokens",
            "1k",
            "--sequences",
            "5",
            "--length",
            "100",
        ];
        run(&words, LIMIT).expect_code(0);
        let mut encoder = Encoder::load(&runtime(), &ModelFolder::open(&out).unwrap()).unwrap();
        let ids = encoder.tokenize("a dog on the road").unwrap();
        let dims = [1, ids.len()];
        let inputs = json!({
            "input_ids": { "type": "i64", "dims": dims, "data": ids },
            "attention_mask": { "type": "i64", "dims": dims, "data": vec![1; ids.len()] },
            "token_type_ids": { "type": "i64", "dims": dims, "data": vec![0; ids.len()] },
        });
        let theirs = &outputs(&out, &inputs)["last_hidden_state"];
        let ours = encoder.hidden(&ids).unwrap();
        assert_eq!(ours.len(), theirs.len());
        let errors = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
        let worst = errors.fold(0.0, f32::max);
        assert!(worst < ERROR, "{weights}: {worst}");
    }
}
