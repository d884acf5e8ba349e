//! `llmasos compress` and `llmasos model eval` from outside, on a tiny random model: flags and recipes, resuming, refusals, budgets.
//!
//! ```text
//!   tests/data/families/llama (with room for longer texts) ─ compress ─► folder ─ verify, eval, engine
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llmasos_engine::ModelFolder;
use llmasos_engine::text::{LanguageModel, LoadOptions};
use serde_json::Value;

use crate::families::tiny::source;
use crate::harness::{Finished, run};
use crate::models::runtime;

const LIMIT: Duration = Duration::from_secs(120);
/// Prose of our own, divided between calibration and test.
const PROSE: &str = include_str!("../launch/bench/model/prose.txt");

/// A folder with a model and two texts.
struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().unwrap();
        let bench = Bench { root };
        let model = bench.path("model");
        fs::create_dir(&model).unwrap();
        for item in fs::read_dir(source("llama")).unwrap() {
            let from = item.unwrap().path();
            fs::copy(&from, model.join(from.file_name().unwrap())).unwrap();
        }
        bench.change(
            "model/config.json",
            "\"max_position_embeddings\": 64",
            "\"max_position_embeddings\": 256",
        );
        let words: Vec<&str> = PROSE.split_whitespace().collect();
        let (first, second) = words.split_at(words.len() / 2);
        fs::write(bench.path("calibration.txt"), first.join(" ")).unwrap();
        fs::write(bench.path("test.txt"), second.join(" ")).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn change(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        fs::write(self.path(name), text.replace(from, to)).unwrap();
    }

    /// Compresses the model into `small`, with its own texts.
    fn compress(&self, more: &[&str]) -> Finished {
        let path = |name| self.path(name).display().to_string();
        let mut words = vec!["compress".into(), path("model"), "-o".into(), path("small")];
        words.extend(["--sequences", "4", "--threads", "2"].map(String::from));
        if !more.contains(&"--length") {
            words.extend(["--length", "96"].map(String::from));
        }
        words.push("--json".into());
        if !more.contains(&"--calibration-tokens") {
            words.extend(["--calibration-tokens", "1k"].map(String::from));
        }
        if !more.contains(&"--test") {
            words.extend(["--test".into(), path("test.txt")]);
            words.extend(["--calibration".into(), path("calibration.txt")]);
        }
        words.extend(more.iter().map(ToString::to_string));
        run(&words, LIMIT)
    }

    fn names(&self) -> Vec<String> {
        let items = fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<String> = items
            .map(|item| item.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn last(finished: &Finished) -> Value {
    finished.json_lines().pop().unwrap()
}

#[test]
fn flags_make_a_folder_that_is_verified_judged_and_runs() {
    let bench = Bench::new();
    let finished = bench
        .compress(&[
            "--degrid",
            "5",
            "--quantize",
            "int8",
            "--license",
            "Apache-2.0",
        ])
        .expect_code(0);
    let report = last(&finished);
    let number = |field: &str| {
        report[field]
            .as_f64()
            .unwrap_or_else(|| panic!("{field}: {report}"))
    };
    assert!(
        (0.0..0.1).contains(&number("kl")),
        "8 bits cost little: {report}"
    );
    assert!(number("perplexity") > 1.0 && (0.5..=1.0).contains(&number("top1")));
    for field in [
        "bytes",
        "resident_bytes",
        "prefill",
        "decode",
        "seconds",
        "peak_bytes",
    ] {
        assert!(number(field) > 0.0, "{field}: {report}");
    }
    let steps = report["report"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    assert_eq!(
        (&steps[0]["step"], &steps[1]["step"]),
        (&"degrid".into(), &"quantize".into())
    );
    let small = bench.path("small");
    assert_eq!(
        bench.names(),
        ["calibration.txt", "model", "small", "test.txt"],
        "no work folder stays"
    );
    let manifest: Value =
        serde_json::from_slice(&fs::read(small.join("llmasos.json")).unwrap()).unwrap();
    assert_eq!(manifest["license"], "Apache-2.0");
    assert_eq!(manifest["name"], "small");
    assert_eq!(manifest["report"]["recipe"]["steps"][1]["weights"], "int8");
    assert_eq!(manifest["sources"].as_array().map(Vec::len), Some(3));
    let path = small.display().to_string();
    run(&["model", "verify", &path], LIMIT).expect_code(0);
    let folder = ModelFolder::open(&small).unwrap();
    let options = LoadOptions {
        context: 96,
        ..LoadOptions::default()
    };
    let mut model = LanguageModel::load(&runtime(), &folder, &options).unwrap();
    let mut heard = 0;
    model.score(&[5, 6, 7], 0, &mut |_, _| heard += 1).unwrap();
    assert_eq!(heard, 3);
    eval_says_what_compress_said(&bench, &report);
    fs::write(
        small.join("llmasos.json"),
        manifest.to_string().replace("llmasos-compress/v1", "v0"),
    )
    .unwrap();
    let finished = run(&["model", "verify", &path], LIMIT).expect_code(1);
    assert!(finished.stdout.contains("report: format"), "{finished:?}");
}

/// `model eval` with the same text and the same original finds the same numbers.
fn eval_says_what_compress_said(bench: &Bench, report: &Value) {
    let path = |name| bench.path(name).display().to_string();
    let words = [
        "model",
        "eval",
        &path("small"),
        "--reference",
        &path("model"),
        "--text",
        &path("test.txt"),
        "--length",
        "96",
        "--sequences",
        "4",
        "--threads",
        "2",
        "--json",
    ];
    let found = last(&run(&words, LIMIT).expect_code(0));
    for field in ["kl", "perplexity", "top1"] {
        let (here, there) = (
            found[field].as_f64().unwrap(),
            report[field].as_f64().unwrap(),
        );
        assert!(
            (here - there).abs() <= 1e-6 * there.abs().max(1.0),
            "{field}: {here} {there}"
        );
    }
    let alone = last(&run(&[&words[..3], &words[5..]].concat(), LIMIT).expect_code(0));
    let (here, there) = (&alone["perplexity"], &found["perplexity"]);
    assert!((here.as_f64().unwrap() - there.as_f64().unwrap()).abs() < 1e-6);
}

#[test]
fn a_recipe_does_what_its_flags_do_and_a_stopped_run_goes_on() {
    let bench = Bench::new();
    let recipe = bench.path("recipe.yaml");
    let write = |quantize: &str| {
        let text = format!(
            "llmasos: compress/v1\nseed: 3\ndata: {{ test: test.txt, calibration: calibration.txt }}\nsteps:\n  - degrid: {{ seed: 4 }}\n  - quantize: {quantize}\n"
        );
        fs::write(&recipe, text).unwrap();
    };
    let path = recipe.display().to_string();
    // A budget that is not kept: what was found is told, and the finished steps stay.
    write("{ weights: mixed, method: rtn, budget: 1kB }");
    let first = bench.compress(&["--recipe", &path]).expect_code(1);
    assert!(first.stderr.contains("the smallest found has"), "{first:?}");
    let found = last(&first);
    assert_eq!(found["is_within_budget"], false);
    assert!(found["kl"].as_f64().unwrap() > 0.0);
    assert!(
        !bench.path("small").exists(),
        "nothing stands under the name"
    );
    assert!(bench.path(".small.work").is_dir());
    write("{ weights: int4, method: rtn }");
    let second = bench.compress(&["--recipe", &path]).expect_code(0);
    let report = last(&second);
    assert_eq!(report["report"]["steps"][0]["is_resumed"], true, "{report}");
    assert!(
        second.stderr.contains("degrid: done by an earlier run"),
        "{second:?}"
    );
    let codes = |dir: &Path| fs::read(dir.join("model.onnx.data")).unwrap();
    let first = codes(&bench.path("small"));
    fs::remove_dir_all(bench.path("small")).unwrap();
    let third = bench.compress(&["--recipe", &path]).expect_code(0);
    assert_eq!(
        last(&third)["kl"],
        report["kl"],
        "the same seed, the same model"
    );
    assert!(codes(&bench.path("small")) == first, "byte for byte");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let bench = Bench::new();
    let test = bench.path("test.txt").display().to_string();
    let calibration = bench.path("calibration.txt").display().to_string();
    let recipe = bench.path("recipe.yaml");
    fs::write(
        &recipe,
        "llmasos: compress/v1\nsteps:\n  - quantise: { weights: int4 }\n",
    )
    .unwrap();
    let recipe = recipe.display().to_string();
    let importance = ["--quantize", "int4", "--method", "importance"];
    let with = |more: &[&str]| {
        [&importance[..], more]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let cases: [(Vec<String>, i32, &str); 6] = [
        (
            with(&["--test", &test, "--calibration", &test]),
            1,
            "both in the test text and in the calibration text",
        ),
        (
            with(&[
                "--test",
                &test,
                "--calibration",
                &calibration,
                "--calibration-tokens",
                "1M",
            ]),
            1,
            "calibration text is too short: 1000032 tokens are needed",
        ),
        (
            with(&["--test", &test, "--calibration", "/no/such/text"]),
            1,
            "/no/such/text",
        ),
        (
            vec!["--recipe".into(), recipe],
            2,
            "recipe.yaml:3:5: unknown field 'quantise'; did you mean 'quantize'?",
        ),
        (
            vec![
                "--quantize".into(),
                "int8".into(),
                "--length".into(),
                "500".into(),
            ],
            1,
            "longer than the model reads, 256",
        ),
        (
            vec!["--distil".into(), "tokens=1k".into()],
            2,
            "distil after prune",
        ),
    ];
    for (more, code, expected) in cases {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let finished = bench.compress(&more).expect_code(code);
        assert!(
            finished.stderr.contains(expected),
            "{more:?}: {}",
            finished.stderr
        );
        assert!(!bench.path("small").exists());
    }
    fs::create_dir(bench.path("small")).unwrap();
    let finished = bench.compress(&["--quantize", "int8"]).expect_code(1);
    assert!(
        finished.stderr.contains("is there already. Next:"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_mask_is_applied_and_says_that_it_saves_no_time() {
    let bench = Bench::new();
    let report = last(
        &bench
            .compress(&["--prune", "mask:magnitude=50%", "--quantize", "int8"])
            .expect_code(0),
    );
    let step = &report["report"]["steps"][0];
    let detail = &step["detail"];
    assert_eq!(detail["is_faster"], false, "{detail}");
    let (zeros, all) = (
        detail["zeros"].as_u64().unwrap(),
        detail["weights_after"].as_u64().unwrap(),
    );
    assert!(
        zeros > 0 && zeros < all && detail["weights_before"] == all,
        "{detail}"
    );
    let note = detail["notes"][0].as_str().unwrap();
    assert!(note.contains("saves no CPU time"), "{note}");
    let measured = &report["report"]["measured"];
    let bytes = |field: &str| measured[field].as_u64().unwrap();
    assert!(bytes("zipped_bytes") < bytes("graph_bytes"), "{measured}");
}

#[test]
fn query_heads_go_and_neurons_by_their_activation() {
    let bench = Bench::new();
    let report = last(
        &bench
            .compress(&[
                "--prune",
                "query-heads=1",
                "--prune",
                "neurons:activation=50%",
                "--quantize",
                "int8",
            ])
            .expect_code(0),
    );
    let steps = report["report"]["steps"].as_array().unwrap();
    let what = |step: usize| &steps[step]["detail"]["options"]["what"];
    assert_eq!(what(0)["heads"]["unit"], "query");
    assert_eq!(what(1)["neurons"]["score"], "activation");
    let sizes: Vec<u64> = steps
        .iter()
        .filter_map(|step| step["parameters"].as_u64())
        .collect();
    assert!(sizes[1] < sizes[0] && sizes[0] < 67_904, "{sizes:?}");
}

#[test]
fn a_limit_of_perplexity_is_searched_for() {
    // As much as int4 costs, so that the first mix is good enough; and nothing at all, for which most of them are too coarse.
    for (limit, share) in [("1000%", 10.0), ("0%", 0.0)] {
        let bench = Bench::new();
        let finished = bench.compress(&[
            "--quantize",
            "mixed",
            "--method",
            "rtn",
            "--max-ppl-increase",
            limit,
        ]);
        let report = last(&finished);
        let detail = &report["report"]["steps"][0]["detail"];
        let tries: Vec<(u64, f64, &Value)> = (detail["search"].as_array().unwrap().iter())
            .map(|tried| {
                let increase = tried["perplexity_increase"].as_f64().unwrap();
                (tried["groups"].as_u64().unwrap(), increase, &tried["bytes"])
            })
            .collect();
        assert!(
            (1..=5).contains(&tries.len()) && tries[0].0 == 0,
            "{detail}"
        );
        let met = tries.iter().filter(|(_, increase, _)| *increase <= share);
        let smallest = met.min_by_key(|(groups, ..)| *groups);
        let nearest = tries.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let (_, increase, bytes) = smallest.or(nearest).unwrap();
        assert_eq!(report["perplexity_increase"], *increase, "{detail}");
        assert_eq!(&report["bytes"], *bytes, "{detail}");
        assert_eq!(report["is_within_budget"], smallest.is_some());
        assert_eq!(
            finished.code,
            Some(i32::from(smallest.is_none())),
            "{finished:?}"
        );
        assert_eq!(bench.path("small").exists(), smallest.is_some());
        if share > 0.0 {
            assert_eq!(tries.len(), 1, "{detail}");
        }
        if smallest.is_none() {
            assert!(finished.stderr.contains("at most 0.00 % were asked for"));
            assert_eq!(tries.last().map(|tried| tried.0), detail["groups"].as_u64());
            let kept = fs::read_dir(bench.path(".small.work")).unwrap();
            let results = kept.filter(|item| {
                let path = item.as_ref().unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy();
                path.is_dir() && name.starts_with("result-")
            });
            assert_eq!(results.count(), 1, "only the best is kept");
        }
    }
}

#[test]
fn a_model_learns_from_what_the_original_writes() {
    let bench = Bench::new();
    let words = [
        "--prune",
        "layers=1",
        "--no-refit",
        "--distil",
        "tokens=4k,learning_rate=0.003",
        "--distil-data",
        "generated=24k",
        "--quantize",
        "int8",
    ];
    let report = last(&bench.compress(&words).expect_code(0));
    let detail = &report["report"]["steps"][1]["detail"];
    let generated = &detail["generated"];
    assert!(
        generated["tokens"].as_u64().unwrap() >= 24_000,
        "{generated}"
    );
    assert!(generated["tokens_per_second"].as_f64().unwrap() > 0.0);
    let note = detail["notes"][0].as_str().unwrap();
    assert!(
        note.contains("wrote") && note.contains("a second"),
        "{note}"
    );
    let looks = detail["looks"].as_array().unwrap();
    let divergence = |look: Option<&Value>| look.unwrap()["divergence"].as_f64().unwrap();
    assert!(
        divergence(looks.last()) < divergence(looks.first()),
        "{looks:?}"
    );
    let texts = report["report"]["texts"].as_array().unwrap();
    let written = texts
        .iter()
        .find(|text| text["purpose"] == "train")
        .unwrap();
    assert_eq!(written["from"], "written by the original");
    assert_eq!(written["sha256"], generated["sha256"]);
}

#[test]
fn half_precision_is_half_the_size_of_floats_and_computes_the_same() {
    let found = ["fp32", "fp16"].map(|weights| {
        let bench = Bench::new();
        let found = last(&bench.compress(&["--quantize", weights]).expect_code(0));
        let path = bench.path("small").display().to_string();
        run(&["model", "verify", &path], LIMIT).expect_code(0);
        found
    });
    let number = |at: usize, field: &str| found[at][field].as_f64().unwrap();
    assert!(number(1, "kl") < 1e-4, "{}", found[1]);
    assert!(number(1, "bytes") < 0.65 * number(0, "bytes"));
    let detail = &found[1]["report"]["steps"][0]["detail"];
    assert!(
        detail["note"].as_str().unwrap().contains("computes in 32"),
        "{detail}"
    );
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let bench = Bench::new();
    let path = bench.path("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = bytes.len();
    // The last weight of the last tensor, in bfloat16 or float32: all ones is not a number.
    bytes[length - 4..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let finished = bench.compress(&["--quantize", "int8"]).expect_code(1);
    assert!(
        finished.stderr.contains("NaN") && finished.stderr.contains("weight"),
        "{}",
        finished.stderr
    );
    assert!(!bench.path("small").exists());
}
