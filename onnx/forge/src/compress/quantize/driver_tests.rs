//! Quantizing whole models of one or two tiny layers.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::architecture::toys;
use crate::checkpoint::tests::imported;
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::{Coding, LayerPart, Options, Place, Storage, portable};
use crate::error::ForgeError;
use crate::folder::{Progress, Step};
use crate::matrix::{Matrix, Part};
use crate::quantize::CodeFormat;
use crate::walk::Walk;
use crate::walk::tests::runtime;

/// 128 texts of 8 tokens: as many as the toys can be calibrated with.
fn texts() -> Vec<Vec<u32>> {
    let mut state = 7_u32;
    let mut token = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % 5
    };
    (0..128)
        .map(|_| (0..8).map(|_| token()).collect())
        .collect()
}

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options(method: Method, layers: CodeFormat) -> QuantizeOptions {
    QuantizeOptions {
        method,
        layers,
        ..QuantizeOptions::default()
    }
}

fn run(
    checkpoint: &Checkpoint,
    options: &QuantizeOptions,
    work: &Path,
) -> (Quantized, QuantizeReport) {
    quantize(&runtime(), checkpoint, &texts(), options, work, &mut go_on).unwrap()
}

/// Scores of the last position of some texts.
fn scores(checkpoint: &Checkpoint, scratch: &Path) -> Vec<f32> {
    let runtime = runtime();
    let model = (checkpoint.spec(), checkpoint.weights());
    let walk = Walk::new(&runtime, model, &Options::FP32, scratch);
    let texts = texts();
    let mut hidden: Vec<_> = texts[..8]
        .iter()
        .map(|text| walk.embed(text).unwrap())
        .collect();
    for index in 0..checkpoint.spec().layers.len() {
        walk.layer(index, &mut hidden).unwrap();
    }
    let mut all = Vec::new();
    let mut head = walk.head().unwrap();
    for states in &hidden {
        let mut keep = |_: usize, scores: &[f32]| -> Result<(), ForgeError> {
            all.extend_from_slice(scores);
            Ok(())
        };
        head.scores(states, 7, &mut keep).unwrap();
    }
    all
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value).powi(2)).sum()
    };
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| a - b));
    (difference / square(&mut a.iter().copied())).sqrt()
}

#[test]
fn every_family_folds_without_changing_its_answers() {
    let root = tempfile::tempdir().unwrap();
    for (name, toy) in [
        ("llama", toys::gated("llama", 2)),
        ("qwen2", toys::gated("qwen2", 1)),
        ("gemma3", toys::gated("gemma3_text", 2)),
        ("gpt2", toys::gpt2("")),
    ] {
        let checkpoint = imported(&root.path().join(name), &toy);
        let work = root.path().join(format!("{name}.work"));
        let (quantized, report) = run(&checkpoint, &options(Method::Best, CodeFormat::Int8), &work);
        let before = scores(&checkpoint, root.path());
        let after = scores(quantized.checkpoint(), root.path());
        let error = distance(&before, &after);
        assert!(error < 0.02, "{name}: {error}");
        assert!(report.matrices.iter().any(|matrix| matrix.fold.is_some()));
        assert!(
            report
                .matrices
                .iter()
                .all(|matrix| matrix.relative_error < 1e-3)
        );
    }
}

#[test]
fn codes_are_what_the_checkpoint_says() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 2));
    let methods = [
        Method::Rtn,
        Method::Importance,
        Method::Awq,
        Method::Gptq,
        Method::Best,
    ];
    let formats = [CodeFormat::Int4, CodeFormat::Int4Minima];
    let all = formats.map(|format| methods.map(|method| (method, format)));
    for (number, (method, format)) in all.into_iter().flatten().enumerate() {
        let mut options = options(method, format);
        options.raised = BTreeSet::from([(0, LayerPart::Down), (1, LayerPart::Up)]);
        let (quantized, report) = run(&checkpoint, &options, &root.path().join(number.to_string()));
        assert_eq!((report.matrices.len(), report.tokens), (10, 1024));
        let made = quantized.checkpoint();
        for matrix in &report.matrices {
            let place = Place::layer(matrix.layer, matrix.part);
            let Storage::Blocks(format) = quantized.storage(place) else {
                panic!("blocks");
            };
            // Gate and up share a format.
            let is_raised = matches!(
                (matrix.layer, matrix.part),
                (0, LayerPart::Down) | (1, LayerPart::Up | LayerPart::Gate)
            );
            assert_eq!(format == CodeFormat::Int8, is_raised, "{place:?}");
            let name = layer_weight(matrix.layer, matrix.part);
            let weights = made.tensor(&name).unwrap();
            let shape = made.weights().shape(&name).unwrap();
            let whole = Matrix::one(shape[1] as usize, Part::stored(name, shape[0] as usize));
            let codes = quantized
                .codes(place, &whole, made.weights(), format)
                .unwrap();
            let back = Grid::unpack(&codes, whole.columns, format).floats();
            assert!(back == *weights, "{method:?} {place:?}");
        }
        let graph = portable(made.weights(), made.spec(), &quantized).unwrap();
        for payload in graph.payloads {
            (payload.make)().unwrap();
        }
    }
}

#[test]
fn better_methods_err_less() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 2));
    let before = scores(&checkpoint, root.path());
    let errors = [Method::Rtn, Method::Importance, Method::Gptq, Method::Best].map(|method| {
        let work = root.path().join(format!("{method:?}"));
        let (quantized, _) = run(&checkpoint, &options(method, CodeFormat::Int4), &work);
        distance(&before, &scores(quantized.checkpoint(), root.path()))
    });
    // Two layers of 32 are too small for a fine order of neighbours.
    assert!(errors[3] < errors[0] * 0.7, "{errors:?}");
    assert!(errors[2] < errors[0], "{errors:?}");
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 2));
    let options = options(Method::Best, CodeFormat::Int4);
    let (whole, _) = run(&checkpoint, &options, &root.path().join("whole"));
    let work = root.path().join("stopped");
    let mut stop = |progress: Progress<'_>| match (progress.step, progress.done) {
        (Step::Quantize, 1) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = quantize(
        &runtime(),
        &checkpoint,
        &texts(),
        &options,
        &work,
        &mut stop,
    );
    assert!(matches!(error.unwrap_err(), ForgeError::Cancelled));
    assert!(!work.join("checkpoint").exists());
    let (again, report) = run(&checkpoint, &options, &work);
    assert_eq!((report.resumed_layers, report.matrices.len()), (1, 10));
    for index in 0..2 {
        assert_eq!(again.layer(index).unwrap(), whole.layer(index).unwrap());
    }
    let (_, report) = run(&checkpoint, &options, &work);
    assert_eq!(report.resumed_layers, 2);
    // Other options are another run, even in the same folder.
    let other = QuantizeOptions {
        damping: 0.02,
        ..options
    };
    assert_eq!(run(&checkpoint, &other, &work).1.resumed_layers, 0);
}

#[test]
fn a_short_text_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 1));
    let few = &texts()[..3];
    let made = |method| {
        let options = options(method, CodeFormat::Int4);
        quantize(
            &runtime(),
            &checkpoint,
            few,
            &options,
            &root.path().join("w"),
            &mut go_on,
        )
    };
    assert_eq!(
        made(Method::Gptq).unwrap_err().to_string(),
        "tokens to calibrate with: expected at least 1024, found 24"
    );
    made(Method::Rtn).unwrap();
}

#[test]
fn what_costs_most_is_raised_first() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 2));
    let options = options(Method::Best, CodeFormat::Int4);
    let (quantized, _) = run(&checkpoint, &options, &root.path().join("w"));
    let found = sensitivities(
        &runtime(),
        &checkpoint,
        &quantized,
        &texts()[..16],
        &mut go_on,
    )
    .unwrap();
    assert_eq!(found.len(), 8);
    assert!(
        found
            .iter()
            .all(|group| group.loss > 0.0 && group.bytes > 0)
    );
    let (all, allocation) = raise(&found, Budget::Bytes(u64::MAX));
    assert_eq!(all.len(), 10);
    let spec = checkpoint.spec();
    let raised = QuantizeOptions {
        raised: all,
        ..options.clone()
    };
    let more = stored_bytes(spec, &raised) - stored_bytes(spec, &options);
    assert_eq!(more, allocation.bytes);
    let (few, allocation) = raise(&found, Budget::Bytes(more / 3));
    assert!(!few.is_empty() && few.len() < 10 && allocation.bytes <= more / 3);
    // With eight bits every group costs next to nothing.
    let (fine, _) = run(&checkpoint, &raised, &root.path().join("fine"));
    let fine = sensitivities(&runtime(), &checkpoint, &fine, &texts()[..16], &mut go_on).unwrap();
    for (coarse, fine) in found.iter().zip(&fine) {
        assert!(fine.loss < coarse.loss * 0.1, "{coarse:?} {fine:?}");
        assert_eq!(fine.bytes, 0);
    }
    assert!(raise(&fine, Budget::Bytes(u64::MAX)).0.is_empty());
}

#[test]
fn a_mix_keeps_the_codes_that_stay() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 2));
    // Without corrections, which make these tiny models nearly as good in 4 bits as in 8.
    let options = QuantizeOptions {
        correction: 0.0,
        ..options(Method::Best, CodeFormat::Int4)
    };
    let (base, _) = run(&checkpoint, &options, &root.path().join("w"));
    let before = scores(&checkpoint, root.path());
    let mixed = |name: &str, raised: &[(usize, LayerPart)]| {
        let raised = raised.iter().copied().collect();
        let work = root.path().join(name);
        mix(&checkpoint, &base, &raised, &work, &mut go_on).unwrap()
    };
    let (few, reports) = mixed("few", &[(0, LayerPart::Down), (1, LayerPart::Up)]);
    assert_eq!(reports.len(), 10);
    for report in &reports {
        let (index, part) = (report.layer, report.part);
        let is_raised = matches!(
            (index, part),
            (0, LayerPart::Down) | (1, LayerPart::Up | LayerPart::Gate)
        );
        assert_eq!(report.format == CodeFormat::Int8, is_raised);
        let (old, new) = (base.layer(index).unwrap(), few.layer(index).unwrap());
        assert_eq!(old.matrices[&part] == new.matrices[&part], !is_raised);
        assert_eq!(old.vectors, new.vectors);
        assert_eq!(
            few.storage(Place::layer(index, part)),
            Storage::Blocks(report.format)
        );
        if is_raised {
            assert!(report.relative_error < 1e-4, "{report:?}");
        }
    }
    // With everything raised, folds and all, it is the model again.
    let all: Vec<_> = (0..2)
        .flat_map(|layer| LayerPart::ALL.map(|part| (layer, part)))
        .collect();
    let (all, _) = mixed("all", &all);
    let errors =
        [&base, &few, &all].map(|made| distance(&before, &scores(made.checkpoint(), root.path())));
    assert!(
        errors[2] < 0.02 && errors[2] < errors[0] * 0.7,
        "{errors:?}"
    );
    assert_eq!(all.layer_seconds().unwrap().len(), 2);
}
