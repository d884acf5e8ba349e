//! Walks against the whole graph, Gram matrices against sums by definition.

use std::ops::ControlFlow;

use llmasos_engine::{BUILT_LIBRARY, Isa, RuntimeOptions, Spin};

use super::*;
use crate::architecture::toys;
use crate::checkpoint::tests::imported;
use crate::compress::degrid;
use crate::decoder::{Options, portable};

/// The runtime that all tests of the crate share: a process has one.
pub(crate) fn runtime() -> Runtime {
    Runtime::start(&RuntimeOptions {
        library: BUILT_LIBRARY
            .expect("ONNX Runtime comes with the build")
            .into(),
        threads: 2,
        spin: Spin::Off,
        isa: Isa::detect(),
        profile: None,
    })
    .unwrap()
}

const TEXT: [u32; 7] = [3, 1, 4, 1, 0, 4, 2];

/// Scores after the last token by the whole portable graph: another way to the same numbers.
pub(crate) fn whole(spec: &DecoderSpec, weights: &dyn Weights, dir: &Path) -> Vec<f32> {
    let graph = portable(weights, spec, &Options::FP32).unwrap();
    write_model(graph, dir, "whole.onnx", &mut |_| ControlFlow::Continue(())).unwrap();
    let any = [Dim::Any; 4];
    let caches: Vec<String> = (0..spec.layers.len())
        .flat_map(|layer| ["key", "value"].map(|kind| format!("past_key_values.{layer}.{kind}")))
        .collect();
    let mut inputs = vec![
        Wanted::new("input_ids", Kind::I64, &any[..2]),
        Wanted::new("seqlens_k", Kind::I32, &any[..1]),
        Wanted::new("total_sequence_length", Kind::I32, &[]),
    ];
    inputs.extend(caches.iter().map(|name| Wanted::new(name, Kind::F32, &any)));
    let outputs = [Wanted::new("logits", Kind::F32, &any[..3])];
    let wanted = SessionSpec {
        inputs: &inputs,
        outputs: &outputs,
    };
    let path = dir.join("whole.onnx");
    let mut session = Session::open(&runtime(), "whole", &path, &wanted, Threads::Shared).unwrap();
    let ids = TEXT.map(i64::from);
    let none = [1, spec.kv_heads, 0, spec.head_dim];
    let (last, total) = ([TEXT.len() as i32 - 1], [TEXT.len() as i32]);
    let shape = [1, TEXT.len()];
    let mut feeds = vec![
        Feed::i64("input_ids", &shape, &ids),
        Feed::i32("seqlens_k", &[1], &last),
        Feed::i32("total_sequence_length", &[], &total),
    ];
    feeds.extend(caches.iter().map(|name| Feed::f32(name, &none, &[])));
    let outputs = session.run(&feeds).unwrap();
    outputs.f32("logits").unwrap().data.to_vec()
}

/// Scores of all positions, walking.
pub(crate) fn walked(spec: &DecoderSpec, weights: &dyn Weights, dir: &Path) -> Vec<Vec<f32>> {
    let runtime = runtime();
    let walk = Walk::new(&runtime, (spec, weights), &Options::FP32, dir);
    let mut hidden = vec![walk.embed(&TEXT).unwrap()];
    for index in 0..spec.layers.len() {
        walk.layer(index, &mut hidden).unwrap();
    }
    let mut all = Vec::new();
    let mut head = walk.head().unwrap();
    head.scores(&hidden[0], 0, &mut |position, scores| {
        assert_eq!(position, all.len());
        all.push(scores.to_vec());
        Ok(())
    })
    .unwrap();
    all
}

pub(crate) fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn a_walk_ends_where_the_whole_graph_does() {
    let root = tempfile::tempdir().unwrap();
    for (name, toy) in [
        ("llama", toys::gated("llama", 2)),
        ("qwen2", toys::gated("qwen2", 1)),
        ("gemma3", toys::gated("gemma3_text", 2)),
        ("gpt2", toys::gpt2("")),
    ] {
        let checkpoint = imported(&root.path().join(name), &toy);
        let (spec, weights) = (checkpoint.spec(), checkpoint.weights());
        let scores = walked(spec, weights, root.path());
        assert_eq!(scores.len(), TEXT.len());
        let expected = whole(spec, weights, root.path());
        let scale = expected
            .iter()
            .fold(1.0_f32, |most, score| most.max(score.abs()));
        let error = worst(scores.last().unwrap(), &expected) / scale;
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn grams_are_the_sums_of_the_inputs() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 1));
    let spec = checkpoint.spec();
    let runtime = runtime();
    let model = (spec, checkpoint.weights());
    let walk = Walk::new(&runtime, model, &Options::FP32, root.path());
    let texts = [&TEXT[..], &TEXT[..3]];
    let start: Vec<Vec<f32>> = texts.iter().map(|text| walk.embed(text).unwrap()).collect();
    let mut naive = Grams::new(pieces_widths(spec, &spec.layers[0]));
    let mut hidden = start.clone();
    walk.layer_inputs(0, &mut hidden, &mut |inputs| {
        let pairs = [
            (&mut naive.qkv, inputs.qkv),
            (&mut naive.output, inputs.output),
            (&mut naive.up, inputs.up),
            (&mut naive.down, inputs.down),
        ];
        for (gram, rows) in pairs {
            assert_eq!(rows.len(), inputs.rows * gram.width);
            for row in rows.chunks_exact(gram.width) {
                for (i, a) in row.iter().enumerate() {
                    for (j, b) in row.iter().enumerate() {
                        gram.sum[i * gram.width + j] += f64::from(*a) * f64::from(*b);
                    }
                }
                gram.rows += 1;
            }
        }
        Ok(())
    })
    .unwrap();
    let mut again = start;
    let grams = walk.layer_grams(0, &mut again).unwrap();
    assert_eq!(hidden, again, "looking changes nothing");
    for part in LayerPart::ALL {
        let (found, expected) = (grams.of(part), naive.of(part));
        assert_eq!(found.rows, 10);
        let scale = expected
            .sum
            .iter()
            .fold(0.0_f64, |most, sum| most.max(sum.abs()));
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5 * scale;
        assert!(found.sum.iter().zip(&expected.sum).all(close), "{part:?}");
    }
}

#[test]
fn what_is_missing_to_another_stream_is_the_sum_of_its_products() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 1));
    let spec = checkpoint.spec();
    let runtime = runtime();
    let model = (spec, checkpoint.weights());
    let walk = Walk::new(&runtime, model, &Options::FP32, root.path());
    let start = vec![walk.embed(&TEXT).unwrap(), walk.embed(&TEXT[..3]).unwrap()];
    // Another stream: the same texts, a little off.
    let mut other = start.clone();
    let shift = |(at, value): (usize, &mut f32)| *value += 0.01 * (at % 7) as f32;
    other.iter_mut().flatten().enumerate().for_each(shift);
    let streams = walk.layer_streams(0, &mut other).unwrap();
    let own = walk.layer_streams(0, &mut start.clone()).unwrap();
    assert_eq!(streams[1].after, other[1]);
    let widths = pieces_widths(spec, &spec.layers[0]);
    let mut naive = widths.map(|width| vec![0.0_f64; spec.hidden * width]);
    let hear = &mut |inputs: Inputs<'_>| {
        let (own, stream) = (&own[inputs.text], &streams[inputs.text]);
        let read = [inputs.qkv, inputs.output, inputs.up, inputs.down];
        let shares = stream.shares(spec.hidden);
        for (at, (read, width)) in read.into_iter().zip(widths).enumerate() {
            let (toward, from) = (stream.places()[at], own.places()[at]);
            for token in 0..inputs.rows {
                for row in 0..spec.hidden {
                    let place = token * spec.hidden + row;
                    let missing = f64::from(toward[place] - from[place]) * f64::from(shares[token]);
                    for column in 0..width {
                        let value = f64::from(read[token * width + column]);
                        naive[at][row * width + column] += missing * value;
                    }
                }
            }
        }
        Ok(())
    };
    walk.layer_inputs(0, &mut start.clone(), hear).unwrap();
    let (grams, missing) = walk.layer_toward(0, &mut start.clone(), &streams).unwrap();
    assert_eq!(grams, walk.layer_grams(0, &mut start.clone()).unwrap());
    let found = [&missing.qkv, &missing.output, &missing.up, &missing.down];
    for (found, expected) in found.into_iter().zip(&naive) {
        let scale = expected
            .iter()
            .fold(0.0_f64, |most, sum| most.max(sum.abs()));
        assert!(scale > 0.0);
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-4 * scale;
        assert!(found.iter().zip(expected).all(close));
    }
    let error = walk
        .layer_toward(0, &mut start.clone(), &streams[..1])
        .unwrap_err();
    assert!(
        error.to_string().contains("elements of other streams"),
        "{error}"
    );
}

#[test]
fn tokens_far_larger_than_others_hardly_count() {
    let after = vec![1000.0, 0.0, 1.0, 1.0, 2.0, 0.0, 1.0, -1.0];
    let stream = Stream {
        qkv: Vec::new(),
        middle: vec![0.0; 8],
        up: Vec::new(),
        after,
    };
    let shares = stream.shares(2);
    assert_eq!(shares[1..], [1.0; 3]);
    assert!(shares[0] < 1e-3, "{}", shares[0]);
}

#[test]
fn leaving_the_grid_changes_nothing_but_weights() {
    let root = tempfile::tempdir().unwrap();
    for (name, toy) in [("llama", toys::gated("llama", 2)), ("gpt2", toys::gpt2(""))] {
        let checkpoint = imported(&root.path().join(name), &toy);
        let before = walked(checkpoint.spec(), checkpoint.weights(), root.path());
        let dir = root.path().join(format!("{name}.off"));
        let mut go_on = |_: crate::folder::Progress<'_>| ControlFlow::Continue(());
        let moved = degrid(&checkpoint, 5, &dir, &mut go_on).unwrap();
        let after = walked(moved.spec(), moved.weights(), root.path());
        for (before, after) in before.iter().zip(&after) {
            let scale = before
                .iter()
                .fold(1.0_f32, |most, score| most.max(score.abs()));
            let error = worst(before, after) / scale;
            assert!(error < 1e-5, "{name}: {error}");
        }
        let name = "layers.0.qkv.weight";
        assert_ne!(
            checkpoint.tensor(name).unwrap(),
            moved.tensor(name).unwrap()
        );
    }
}

#[test]
fn texts_that_the_model_cannot_read_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 1));
    let runtime = runtime();
    let model = (checkpoint.spec(), checkpoint.weights());
    let walk = Walk::new(&runtime, model, &Options::FP32, root.path());
    let cases: [(&[u32], &str); 3] = [
        (&[], "tokens of a text: expected 1 to"),
        (&[1_000_000], "a token: expected below"),
        (&[0; 100_000], "tokens of a text"),
    ];
    for (tokens, expected) in cases {
        let message = walk.embed(tokens).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
