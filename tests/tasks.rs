//! `llmasos compress` on detectors and encoders from outside: what comes out, what it costs, what is refused.
//!
//! ```text
//!   tests/data/detector/model   finds coloured squares      ─┐
//!   tests/data/families/bert    tiny, random, real tokens   ─┴─ compress ─► folder ─ verify, engine
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llmasos_engine::ModelFolder;
use llmasos_engine::text::Encoder;
use llmasos_engine::vision::{DetectOptions, Detector, Picture};
use serde_json::Value;

use crate::families::tiny::source;
use crate::harness::{Finished, run};
use crate::models::runtime;

const LIMIT: Duration = Duration::from_secs(120);
/// Prose of our own.
const PROSE: &str = include_str!("../launch/bench/model/prose.txt");
/// Words of a paragraph: short enough for a vocabulary of letters.
const WORDS: usize = 5;

fn squares(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/detector")
        .join(name)
}

/// A folder with the texts of an encoder.
struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench {
            root: tempfile::tempdir().unwrap(),
        };
        let words: Vec<&str> = PROSE.split_whitespace().collect();
        let (first, second) = words.split_at(words.len() / 2);
        for (name, words) in [("calibration.txt", first), ("test.txt", second)] {
            let paragraphs: Vec<String> = words.chunks(WORDS).map(|it| it.join(" ")).collect();
            fs::write(bench.path(name), paragraphs.join("\n\n")).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn word(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn compress(&self, model: &Path, more: &[&str]) -> Finished {
        let out = self.word("small");
        let model = model.display().to_string();
        let words = ["compress", &model, "-o", &out, "--threads", "2", "--json"];
        run(&[&words[..], more].concat(), LIMIT)
    }

    /// The detector, with pictures of the tree.
    fn detector(&self, more: &[&str]) -> Finished {
        let [images, held_out] =
            ["images", "held-out"].map(|name| squares(name).display().to_string());
        let pictures = ["--images", &images, "--test-images", &held_out];
        self.compress(&squares("model"), &[&pictures[..], more].concat())
    }

    /// The encoder, with texts of its own.
    fn encoder(&self, more: &[&str]) -> Finished {
        let (calibration, test) = (self.word("calibration.txt"), self.word("test.txt"));
        let texts = ["--calibration", &calibration, "--test", &test];
        let sizes = [
            "--calibration-tokens",
            "1k",
            "--sequences",
            "5",
            "--length",
            "100",
        ];
        self.compress(&source("bert"), &[&texts[..], &sizes, more].concat())
    }
}

fn last(finished: &Finished) -> Value {
    finished.json_lines().pop().unwrap()
}

fn number(report: &Value, field: &str) -> f64 {
    report[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field}: {report}"))
}

#[test]
fn a_detector_in_8_bits_still_sees_its_squares() {
    let bench = Bench::new();
    let finished = bench
        .detector(&[
            "--quantize",
            "int8-static",
            "--calibrate",
            "percentile=99.99",
        ])
        .expect_code(0);
    let found = last(&finished);
    assert!(number(&found, "agreement") >= 0.9, "{found}");
    assert!(number(&found, "bytes") < number(&found, "original_bytes"));
    for field in [
        "run_ms",
        "original_run_ms",
        "speedup",
        "resident_bytes",
        "seconds",
    ] {
        assert!(number(&found, field) > 0.0, "{field}: {found}");
    }
    let report = &found["report"];
    assert_eq!(report["agreement"]["task"], "detector");
    assert_eq!(
        report["agreement"]["found"]["pictures"], 40,
        "ten views of four"
    );
    let graph = &report["steps"][0]["detail"]["graph"];
    assert_eq!(graph["samples"], 60, "ten views of six");
    let left = graph["left"].as_array().unwrap();
    let unknown = left.iter().find(|it| it["op"] == "ThresholdedRelu");
    let unknown = unknown.unwrap_or_else(|| panic!("{left:?}"));
    assert_eq!(unknown["node"], "features");
    assert!(unknown["reason"].as_str().unwrap().contains("not known"));
    let small = bench.path("small");
    let manifest: Value =
        serde_json::from_slice(&fs::read(small.join("llmasos.json")).unwrap()).unwrap();
    assert_eq!(
        (&manifest["role"], &manifest["family"]),
        (&"detector".into(), &"ssd".into())
    );
    assert_eq!(manifest["license"], "Apache-2.0");
    let pictures = manifest["recipe"]["pictures"].as_array().unwrap();
    let calibration = pictures.iter().find(|it| it["purpose"] == "calibration");
    assert_eq!(calibration.unwrap()["files"].as_array().unwrap().len(), 6);
    assert_eq!(manifest["recipe"]["quantize"]["weights"], "int8-static");
    run(&["model", "verify", &bench.word("small")], LIMIT).expect_code(0);
    assert!(!bench.path(".small.work").exists());
    let runtime = runtime();
    let bytes = fs::read(squares("held-out/0.png")).unwrap();
    let picture = Picture::from_compressed(&bytes).unwrap();
    let labels = [squares("model"), small].map(|dir| {
        let folder = ModelFolder::open(&dir).unwrap();
        let mut detector = Detector::load(&runtime, &folder).unwrap();
        let found = detector
            .detect(&picture, &DetectOptions::default())
            .unwrap();
        let mut labels: Vec<&str> = found.items.iter().map(|item| item.label).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    });
    assert_eq!(labels[0], ["bus", "car", "person"]);
    assert_eq!(labels[0], labels[1]);
}

#[test]
fn half_precision_halves_files_and_changes_nothing() {
    let bench = Bench::new();
    let found = last(&bench.detector(&["--quantize", "fp16"]).expect_code(0));
    assert!(number(&found, "agreement") > 0.999, "{found}");
    let note = &found["report"]["steps"][0]["detail"]["note"];
    assert!(note.as_str().unwrap().contains("computes in 32"), "{note}");
    assert!(number(&found, "bytes") < 0.9 * number(&found, "original_bytes"));
    run(&["model", "verify", &bench.word("small")], LIMIT).expect_code(0);
}

#[test]
fn an_encoder_keeps_its_vectors_and_their_order() {
    for (weights, least) in [
        ("int8-static", 0.97),
        ("int8-dynamic", 0.98),
        ("fp16", 0.9999),
    ] {
        let bench = Bench::new();
        let found = last(&bench.encoder(&["--quantize", weights]).expect_code(0));
        assert!(number(&found, "cosine") >= least, "{weights}: {found}");
        assert!(number(&found, "ranking") >= 0.9, "{weights}: {found}");
        assert!(number(&found, "bytes") < number(&found, "original_bytes"));
        let texts = found["report"]["texts"].as_array().unwrap();
        let count = if weights == "int8-static" { 2 } else { 1 };
        assert_eq!(texts.len(), count, "only static ranges are calibrated");
        run(&["model", "verify", &bench.word("small")], LIMIT).expect_code(0);
        let folder = ModelFolder::open(&bench.path("small")).unwrap();
        let vector = Encoder::load(&runtime(), &folder)
            .unwrap()
            .embed("a dog")
            .unwrap();
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-3, "{length}");
    }
}

#[test]
fn an_encoder_with_fewer_layers_learns_from_the_whole() {
    let stored = ["--quantize", "fp16"];
    let cut = [&["--prune", "layers=1"], &stored[..]].concat();
    let plain = last(&Bench::new().encoder(&cut).expect_code(0));
    let bench = Bench::new();
    let train = bench.word("calibration.txt");
    let taught = [
        &["--train", &train, "--distil"][..],
        &["tokens=7k,batch=4,length=16,learning_rate=0.003"],
        &cut[..],
    ]
    .concat();
    let found = last(&bench.encoder(&taught).expect_code(0));
    let (before, after) = (number(&plain, "cosine"), number(&found, "cosine"));
    assert!(1.0 - after < 0.5 * (1.0 - before), "{before} → {after}");
    let steps = &found["report"]["steps"];
    let words: Vec<&Value> = (0..3).map(|step| &steps[step]["step"]).collect();
    assert_eq!(words, ["prune", "distil", "quantize"]);
    assert_eq!(steps[0]["detail"]["kept"], serde_json::json!([1]));
    let step = &steps[1];
    assert_eq!(step["detail"]["steps"], 110);
    assert!(number(&step["detail"], "distance") < number(&step["detail"], "distance_before"));
    let texts = found["report"]["texts"].as_array().unwrap();
    assert!(
        texts.iter().any(|text| text["purpose"] == "train"),
        "{texts:?}"
    );
    assert!(number(&found, "bytes") < 0.8 * number(&plain, "original_bytes"));
    run(&["model", "verify", &bench.word("small")], LIMIT).expect_code(0);
    let folder = ModelFolder::open(&bench.path("small")).unwrap();
    let mut encoder = Encoder::load(&runtime(), &folder).unwrap();
    assert_eq!(encoder.embed("a dog").unwrap().len(), 64);
    // The report says where it came from, and a graph cannot be cut again.
    let again = Bench::new();
    for (model, more, code, expected) in [
        (
            &bench.path("small"),
            &cut[..],
            1,
            "does not tell one layer from the next",
        ),
        (
            &source("bert"),
            &["--prune", "layers=2"],
            1,
            "1..=1 of its 2 layers",
        ),
        (
            &source("bert"),
            &["--prune", "heads=1"],
            2,
            "layers of an encoder",
        ),
        (
            &source("bert"),
            &["--prune", "layers:influence=1"],
            2,
            "spread evenly",
        ),
    ] {
        let words = match more.contains(&"--quantize") {
            true => more.to_vec(),
            false => [more, &stored[..]].concat(),
        };
        let test = again.word("test.txt");
        let sizes = ["--test", &test, "--sequences", "5", "--length", "100"];
        let finished = again.compress(model, &[&words[..], &sizes].concat());
        let finished = finished.expect_code(code);
        assert!(finished.stderr.contains(expected), "{}", finished.stderr);
        assert!(!again.path("small").exists());
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let bench = Bench::new();
    let images = squares("images").display().to_string();
    fs::create_dir(bench.path("empty")).unwrap();
    fs::create_dir(bench.path("broken")).unwrap();
    fs::copy(squares("images/0.png"), bench.path("broken/a.png")).unwrap();
    fs::write(bench.path("broken/b.jpg"), b"no picture at all").unwrap();
    let recipe = |name: &str, quantize: &str| {
        let text = format!("llmasos: compress/v1\nsteps:\n  - quantize: {quantize}\n");
        fs::write(bench.path(name), text).unwrap();
        bench.word(name)
    };
    let refuse = recipe("refuse.yaml", "{ weights: int8-static, unknown: refuse }");
    let float = recipe(
        "float.yaml",
        "{ weights: int8-static, keep_float: [nobody] }",
    );
    let (empty, broken) = (bench.word("empty"), bench.word("broken"));
    let fixed = ["--quantize", "int8-static"];
    let cases: [(Vec<&str>, i32, &str); 11] = [
        (
            [&fixed[..], &["--method", "best"]].concat(),
            2,
            "expected rtn for int8-static",
        ),
        (
            vec!["--quantize", "int4"],
            2,
            "expected int8-static or fp16 for a detector",
        ),
        (
            vec!["--prune", "layers=1"],
            2,
            "expected quantize alone for a detector",
        ),
        (
            vec!["--quantize", "fp16", "--calibrate", "minmax"],
            2,
            "expected int8-static weights",
        ),
        (
            [&fixed[..], &["--max-ppl-increase", "3%"]].concat(),
            2,
            "min_agreement says it there",
        ),
        (
            [&fixed[..], &["--images", "/no/such/folder"]].concat(),
            1,
            "/no/such/folder",
        ),
        (
            [&fixed[..], &["--images", &empty]].concat(),
            1,
            "no pictures were found",
        ),
        (
            [&fixed[..], &["--images", &broken]].concat(),
            1,
            "b.jpg: it is no picture",
        ),
        (
            [&fixed[..], &["--test-images", &images]].concat(),
            1,
            "or --same-data if that is what you want",
        ),
        (
            vec!["--recipe", &refuse],
            1,
            "node features: operator ThresholdedRelu is not known",
        ),
        (vec!["--recipe", &float], 1, "keep_float names nobody"),
    ];
    for (more, code, expected) in cases {
        let [own, held_out] =
            ["images", "held-out"].map(|name| squares(name).display().to_string());
        let mut words = more.clone();
        for (flag, path) in [("--images", &own), ("--test-images", &held_out)] {
            if !more.contains(&flag) {
                words.extend([flag, path]);
            }
        }
        let finished = bench.compress(&squares("model"), &words).expect_code(code);
        assert!(
            finished.stderr.contains(expected),
            "{more:?}: {}",
            finished.stderr
        );
        assert!(!bench.path("small").exists(), "{more:?}");
    }
    let finished = bench.compress(&source("llama"), &fixed).expect_code(2);
    assert!(
        finished
            .stderr
            .contains("int8 or int8-dynamic for a language model"),
        "{finished:?}"
    );
    let short = ["--quantize", "int8-static", "--calibration-tokens", "1M"];
    let finished = bench
        .compress(
            &source("bert"),
            &[
                &short[..],
                &[
                    "--test",
                    &bench.word("test.txt"),
                    "--calibration",
                    &bench.word("calibration.txt"),
                    "--sequences",
                    "5",
                    "--length",
                    "100",
                ],
            ]
            .concat(),
        )
        .expect_code(1);
    assert!(
        finished
            .stderr
            .contains("calibration text is too short: 1000000 tokens"),
        "{finished:?}"
    );
}

#[test]
fn a_budget_that_is_not_kept_is_reported_and_nothing_stands_under_the_name() {
    let bench = Bench::new();
    let strict = ["--quantize", "int8-static", "--min-agreement", "100%"];
    let finished = bench.encoder(&strict).expect_code(1);
    assert!(
        finished.stderr.contains("it agrees with its original to"),
        "{finished:?}"
    );
    let found = last(&finished);
    assert_eq!(found["is_within_budget"], false);
    assert!(number(&found, "agreement") > 0.5);
    assert!(!bench.path("small").exists());
    assert!(bench.path(".small.work").is_dir());
    // The finished step is found again.
    let again = last(&bench.encoder(&strict).expect_code(1));
    assert_eq!(again["report"]["steps"][0]["is_resumed"], true, "{again}");
    assert_eq!(again["agreement"], found["agreement"]);
}
