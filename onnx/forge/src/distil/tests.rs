//! Whole batches against PyTorch; whole runs on toys: they learn, stop, go on, and name what is wrong.
//!
//! tests/data/distil/make.py made the expected values from the models of tests/data/families.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::graph::{Fed, MatchKind, Shape, Workshop};
use super::net::Net;
use super::student::{Student, Terms};
use super::teacher::{Teacher, piece_of};
use super::*;
use crate::architecture::{Model, from_checkpoint, toys};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::tests::imported;
use crate::error::ForgeError;
use crate::folder::{Progress, Step};
use crate::import_checkpoint;
use crate::walk::tests::runtime;
use crate::weights::Weights;

#[derive(Deserialize)]
struct Reference {
    ids: Vec<u32>,
    targets: Vec<u32>,
    batch: usize,
    length: usize,
    alpha: f32,
    temperature: f32,
    students: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct Expected {
    cross_entropy: f64,
    divergence: f64,
    loss: f64,
    gradients: BTreeMap<String, Gradient>,
}

#[derive(Deserialize)]
struct Gradient {
    norm: f64,
    first: Vec<f32>,
}

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn family(name: &str, dir: &Path) -> Checkpoint {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/families");
    import_checkpoint(&root.join(name), name, "MIT", &dir.join(name), &mut go_on).unwrap()
}

fn net(checkpoint: &Checkpoint) -> Net {
    Net::read(checkpoint.spec(), checkpoint.weights()).unwrap()
}

/// Terms of one batch, with gradients in the student.
fn learn(teacher: &mut Teacher, student: &mut Student, (ids, targets): (&[u32], &[u32])) -> Terms {
    let (last, states) = teacher.run(ids, &student.compared()).unwrap();
    let (piece, hidden) = (piece_of(ids.len()), teacher.net.hidden);
    let mut logits = |start: usize,
                      read: &mut dyn FnMut(&[f32]) -> Result<(), ForgeError>|
     -> Result<(), ForgeError> {
        let x = &last.data()[start * hidden..(start + piece) * hidden];
        teacher.logits(x, |logits| read(logits))
    };
    let share = 1.0 / ids.len() as f32;
    student
        .learn((ids, targets), &states, share, &mut logits)
        .unwrap()
}

#[test]
fn loss_and_gradients_are_those_of_pytorch() {
    let text = include_str!("../../../../tests/data/distil/reference.json");
    let reference: Reference = serde_json::from_str(text).unwrap();
    let root = tempfile::tempdir().unwrap();
    let workshop = Workshop {
        runtime: runtime(),
        dir: root.path().to_path_buf(),
    };
    let options = DistilOptions {
        hard: reference.alpha,
        temperature: reference.temperature,
        batch: reference.batch,
        length: reference.length,
        frozen: Vec::new(),
        ..DistilOptions::default()
    };
    let shape = Shape {
        batch: reference.batch,
        length: reference.length,
    };
    let taught = net(&family("llama", root.path()));
    let mut teacher = Teacher::new(taught, shape, &workshop).unwrap();
    for (name, expected) in &reference.students {
        let checkpoint = family(name, root.path());
        let mut student = Student::new(net(&checkpoint), 64, &options, &workshop).unwrap();
        let texts = (&reference.ids[..], &reference.targets[..]);
        let terms = learn(&mut teacher, &mut student, texts);
        let positions = terms.positions as f64;
        for (what, found, expected) in [
            (
                "cross entropy",
                terms.cross_entropy / positions,
                expected.cross_entropy,
            ),
            (
                "divergence",
                terms.divergence / positions,
                expected.divergence,
            ),
            ("loss", terms.loss, expected.loss),
        ] {
            let error = (found - expected).abs();
            assert!(
                error < 1e-4 * expected.abs(),
                "{name}: {what} {found}, not {expected}"
            );
        }
        check_gradients(name, &mut student, &expected.gradients);
    }
}

fn check_gradients(name: &str, student: &mut Student, expected: &BTreeMap<String, Gradient>) {
    let mut seen = 0;
    student.each_trained(&mut |tensor, moments| {
        // Learned positions are not trained.
        let expected = &expected[&tensor.name];
        let squares = moments.gradient.iter().map(|x| f64::from(*x).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        let error = (norm - expected.norm).abs();
        assert!(
            error < 1e-3 * expected.norm,
            "{name}: gradient of {}: {norm}, not {}",
            tensor.name,
            expected.norm
        );
        for (found, expected_first) in moments.gradient.iter().zip(&expected.first) {
            let error = f64::from((found - expected_first).abs());
            assert!(
                error < 1e-3 * expected.norm,
                "{name}: gradient of {}: {found}, not {expected_first}",
                tensor.name
            );
        }
        seen += 1;
    });
    assert_eq!(seen, expected.len(), "{name}");
}

/// Two toys: the teacher has two layers, the student the first of them.
fn toys(dir: &Path) -> [Checkpoint; 2] {
    [2, 1].map(|layers| {
        let toy = toys::gated("llama", layers);
        imported(&dir.join(format!("toy{layers}")), &toy)
    })
}

fn texts() -> Vec<Vec<u32>> {
    (0..12_u32)
        .map(|text| (0..20).map(|at| (at * at + at * text + text) % 5).collect())
        .collect()
}

fn small() -> DistilOptions {
    DistilOptions {
        tokens: 6 * 32,
        length: 8,
        batch: 2,
        accumulate: 2,
        rate: 1e-2,
        evaluate_every: 3,
        held_out: 4,
        frozen: vec![Frozen::Embedding],
        ..DistilOptions::default()
    }
}

fn distil(
    models: &[Checkpoint; 2],
    options: &DistilOptions,
    out: &Path,
    watch: &mut crate::Watch<'_>,
) -> Result<(Checkpoint, DistilReport), ForgeError> {
    let texts = texts();
    let data = DistilData {
        train: &texts[..9],
        held_out: &texts[9..],
    };
    run(
        (&models[0], &models[1]),
        data,
        options,
        out,
        &runtime(),
        watch,
    )
}

/// Weights of a checkpoint, all of them.
fn bytes(checkpoint: &Checkpoint) -> Vec<u8> {
    std::fs::read(checkpoint.dir().join("model.safetensors")).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_student_comes_closer_to_its_teacher() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    let options = DistilOptions {
        tokens: 40 * 32,
        evaluate_every: 10,
        ..small()
    };
    let mut steps = Vec::new();
    let mut watch = |progress: Progress<'_>| {
        if progress.step == Step::Train {
            steps.push((progress.done, progress.total));
        }
        ControlFlow::Continue(())
    };
    let out = root.path().join("out");
    let (made, report) = distil(&models, &options, &out, &mut watch).unwrap();
    let (first, last) = (report.looks[0], report.looks[report.looks.len() - 1]);
    assert!(
        last.divergence < 0.5 * first.divergence,
        "{:?}",
        report.looks
    );
    assert_eq!((report.steps, report.tokens), (40, 40 * 32));
    assert_eq!(report.looks.len(), 5, "before, and after each ten steps");
    assert_eq!(report.losses.len(), 40);
    assert!(steps.contains(&(16, 40 * 32)) && steps.contains(&(40 * 32, 40 * 32)));
    assert_eq!(made.about().steps.len(), 1);
    let same = |name: &str| made.tensor(name).unwrap() == models[1].tensor(name).unwrap();
    assert!(same("embedding.weight"), "it was frozen");
    assert!(!same("layers.0.up.weight") && !same("final_norm.weight"));
    assert_eq!(
        names(root.path()),
        ["out", "toy1", "toy2"],
        "nothing stays behind"
    );
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    for patience in [0, 2] {
        let options = DistilOptions {
            save_every: 2,
            patience,
            ..small()
        };
        let root = root.path().join(patience.to_string());
        std::fs::create_dir(&root).unwrap();
        let (whole, _) = distil(&models, &options, &root.join("whole"), &mut go_on).unwrap();
        let out = root.join("parts");
        // Stopped in the middle of the fourth step: the gradients of its first half are lost, and made again.
        let mut stop = |progress: Progress<'_>| match progress.done == 3 * 32 + 16 {
            true if progress.step == Step::Train => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let error = distil(&models, &options, &out, &mut stop).unwrap_err();
        assert!(matches!(error, ForgeError::Cancelled), "{error}");
        let state = root.join(".parts.distil");
        assert!(state.exists() && !out.exists());
        // Of another run.
        let other = DistilOptions {
            seed: 9,
            ..options.clone()
        };
        let error = distil(&models, &other, &out, &mut go_on).unwrap_err();
        assert!(
            error.to_string().contains("remove it to start anew"),
            "{error}"
        );
        let (parts, report) = distil(&models, &options, &out, &mut go_on).unwrap();
        assert!(report.resumed && !state.exists());
        assert!(
            bytes(&whole) == bytes(&parts),
            "patience {patience}: other weights"
        );
    }
}

#[test]
fn a_damaged_state_is_named() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    let options = DistilOptions {
        save_every: 1,
        ..small()
    };
    let out = root.path().join("out");
    let mut stop = |progress: Progress<'_>| match progress.done > 2 * 32 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    distil(&models, &options, &out, &mut stop).unwrap_err();
    let state = root.path().join(".out.distil");
    let whole = std::fs::read(&state).unwrap();
    for damaged in [&whole[..whole.len() - 4], &whole[..4], &[0xff; 64]] {
        std::fs::write(&state, damaged).unwrap();
        let error = distil(&models, &options, &out, &mut go_on).unwrap_err();
        assert!(error.to_string().contains(".out.distil"), "{error}");
    }
    assert!(!out.exists());
}

#[test]
fn stopping_without_states_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    let mut stop = |progress: Progress<'_>| match progress.done > 32 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let out = root.path().join("out");
    let error = distil(&models, &small(), &out, &mut stop).unwrap_err();
    assert!(matches!(error, ForgeError::Cancelled));
    assert_eq!(names(root.path()), ["toy1", "toy2"]);
}

#[test]
fn a_teacher_remembered_teaches_nearly_the_same() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    // All five tokens are remembered, so that only rounding differs; three epochs of the texts.
    let options = DistilOptions {
        tokens: 20 * 32,
        ..small()
    };
    let last = |top: usize, out: &str| {
        let options = DistilOptions {
            teacher_top: top,
            ..options.clone()
        };
        let (_, report) = distil(&models, &options, &root.path().join(out), &mut go_on).unwrap();
        report.looks[report.looks.len() - 1].divergence
    };
    let (fresh, remembered) = (last(0, "fresh"), last(5, "remembered"));
    assert!(
        (fresh - remembered).abs() < 0.02 * fresh.abs(),
        "{fresh} {remembered}"
    );
}

#[test]
fn training_ends_when_the_held_out_loss_no_longer_falls() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    // A rate that destroys the student.
    let options = DistilOptions {
        tokens: 100 * 32,
        rate: 1.0,
        warm_up: 0.0,
        evaluate_every: 1,
        patience: 2,
        ..small()
    };
    let (_, report) = distil(&models, &options, &root.path().join("out"), &mut go_on).unwrap();
    assert!(report.ended_early && report.steps < 100, "{}", report.steps);
}

#[test]
fn what_does_not_fit_is_named() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    let matching = |pair: (usize, usize)| Matching {
        layers: vec![pair],
        distance: Distance::Mse,
        weight: 1.0,
    };
    let cases = [
        (
            "length",
            DistilOptions {
                length: 9,
                ..small()
            },
            "9 of 8",
        ),
        (
            "layers",
            DistilOptions {
                matching: Some(matching((1, 0))),
                ..small()
            },
            "matching.layers",
        ),
        (
            "matching with a remembered teacher",
            DistilOptions {
                matching: Some(matching((0, 1))),
                teacher_top: 4,
                ..small()
            },
            "teacher_top",
        ),
        (
            "too little text",
            DistilOptions {
                batch: 200,
                ..small()
            },
            "training text: expected at least",
        ),
    ];
    for (why, options, words) in cases {
        let out = root.path().join("out");
        let error = distil(&models, &options, &out, &mut go_on).unwrap_err();
        assert!(error.to_string().contains(words), "{why}: {error}");
        assert_eq!(names(root.path()), ["toy1", "toy2"], "{why}");
    }
}

#[test]
fn hidden_states_are_compared_as_the_formulas_say() {
    let root = tempfile::tempdir().unwrap();
    let workshop = Workshop {
        runtime: runtime(),
        dir: root.path().to_path_buf(),
    };
    let (x, teacher) = ([1.0_f32, 2.0, -1.0, 0.5], [0.5_f32, 1.0, 3.0, 1.0]);
    let share = [0.5_f32, 0.25];
    for distance in [Distance::Mse, Distance::Cosine] {
        let kind = MatchKind {
            student: 2,
            teacher: 2,
            distance,
        };
        let mut part = workshop.matching(&kind, 2).unwrap();
        let mut value = |x: &[f32]| -> (f32, Vec<f32>) {
            let feeds = [
                Fed::f32("x", &[2, 2], x),
                Fed::f32("teacher", &[2, 2], &teacher),
                Fed::f32("share", &[2, 1], &share),
            ];
            let outputs = part.run(&feeds).unwrap();
            let gradient = outputs.f32("d.x").unwrap().data.to_vec();
            (outputs.f32("distance").unwrap().data[0], gradient)
        };
        let row = |a: &[f32], b: &[f32]| match distance {
            Distance::Mse => ((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)) / 2.0,
            Distance::Cosine => {
                let length = |v: &[f32]| (v[0] * v[0] + v[1] * v[1]).sqrt();
                1.0 - (a[0] * b[0] + a[1] * b[1]) / (length(a) * length(b))
            }
        };
        let expected =
            share[0] * row(&x[..2], &teacher[..2]) + share[1] * row(&x[2..], &teacher[2..]);
        let (found, gradient) = value(&x);
        assert!(
            (found - expected).abs() < 1e-6,
            "{distance:?}: {found}, not {expected}"
        );
        for at in 0..4 {
            let mut ends = [1e-2, -1e-2].map(|step| {
                let mut moved = x;
                moved[at] += step;
                value(&moved).0
            });
            ends[0] -= ends[1];
            let measured = ends[0] / 2e-2;
            assert!(
                (measured - gradient[at]).abs() < 2e-3,
                "{distance:?}: {measured} {gradient:?}"
            );
        }
    }
}

#[test]
fn states_of_other_widths_are_projected() {
    let root = tempfile::tempdir().unwrap();
    let workshop = Workshop {
        runtime: runtime(),
        dir: root.path().to_path_buf(),
    };
    let kind = MatchKind {
        student: 2,
        teacher: 3,
        distance: Distance::Mse,
    };
    let mut part = workshop.matching(&kind, 1).unwrap();
    // x·Pᵀ = [1, 2, 3]; the gap to the teacher is [1, 2, 2].
    let feeds = [
        Fed::f32("x", &[1, 2], &[1.0, 2.0]),
        Fed::f32("projection", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        Fed::f32("teacher", &[1, 3], &[0.0, 0.0, 1.0]),
        Fed::f32("share", &[1, 1], &[1.0]),
    ];
    let outputs = part.run(&feeds).unwrap();
    assert!((outputs.f32("distance").unwrap().data[0] - 3.0).abs() < 1e-6);
    let projection = outputs.f32("d.projection").unwrap().data;
    let expected = [1.0, 2.0, 2.0, 4.0, 2.0, 4.0].map(|x: f32| x * 2.0 / 3.0);
    for (found, expected) in projection.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{projection:?}");
    }
}

#[test]
fn matching_is_part_of_training() {
    let root = tempfile::tempdir().unwrap();
    let models = toys(root.path());
    let options = DistilOptions {
        tokens: 30 * 32,
        matching: Some(Matching {
            layers: vec![(0, 1)],
            distance: Distance::Mse,
            weight: 5.0,
        }),
        ..small()
    };
    let (_, report) = distil(&models, &options, &root.path().join("out"), &mut go_on).unwrap();
    assert!(
        report.losses[29] < 0.7 * report.losses[0],
        "{:?}",
        report.losses
    );
}

/// A BERT whose inner matrices are others than the toy's.
fn another_bert() -> toys::Checkpoint {
    let (config, mut toy) = toys::bert("");
    for (name, (_, bytes)) in &mut toy.0 {
        if name.contains("dense.weight") {
            bytes.reverse();
            // Reversed bytes are other numbers, some of them absurd; these are small and differ everywhere.
            for (index, value) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *value = (((index * 53 % 89) as f32 - 44.0) / 150.0).to_le_bytes();
            }
        }
    }
    (config, toy)
}

#[test]
fn an_encoder_comes_closer_to_its_teacher() {
    let root = tempfile::tempdir().unwrap();
    let encoder =
        |checkpoint: &toys::Checkpoint| match from_checkpoint(&checkpoint.0, &checkpoint.1) {
            Ok(Model::Encoder(spec)) => spec,
            _ => panic!("an encoder"),
        };
    let (teacher, student) = (toys::bert(""), another_bert());
    let (teacher_spec, student_spec) = (encoder(&teacher), encoder(&student));
    let texts: Vec<Vec<u32>> = (0..10_u32)
        .map(|text| (0..3 + text % 5).map(|at| (at * text + at) % 5).collect())
        .collect();
    let options = DistilOptions {
        tokens: 60 * 32,
        length: 8,
        batch: 4,
        rate: 1e-2,
        frozen: Vec::new(),
        ..DistilOptions::default()
    };
    for how in [
        (Vectors::Tokens, Distance::Mse),
        (Vectors::Mean, Distance::Cosine),
    ] {
        let pair = (
            (&*teacher_spec, &teacher.1 as &dyn Weights),
            (&*student_spec, &student.1 as &dyn Weights),
        );
        let place = (&runtime(), root.path());
        let (trained, report) =
            run_encoder(pair, &texts, how, &options, place, &mut go_on).unwrap();
        let (first, last) = (report.losses[0], report.losses[59]);
        assert!(last < 0.5 * first, "{how:?}: from {first} to {last}");
        // What comes out is a model that a graph can be written of.
        let graph =
            crate::encoder::portable(&trained, &trained.spec, &crate::decoder::Options::FP32);
        assert!(graph.unwrap().node_count() > 10);
        let same = trained.floats("embedding.weight").unwrap();
        assert_eq!(
            same,
            student
                .1
                .floats("embeddings.word_embeddings.weight")
                .unwrap()
        );
    }
    assert_eq!(
        names(root.path()),
        Vec::<String>::new(),
        "nothing stays behind"
    );
}
