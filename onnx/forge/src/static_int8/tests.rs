//! Small nets through the whole step, against their float form on ONNX Runtime.

use std::ops::ControlFlow;

use super::dynamic::dynamic_int8;
use super::half::half_storage;
use super::*;
use crate::graph::{Dim, GraphBuilder, Node};
use crate::onnx_file::OnnxFile;
use crate::proto::onnx::DataType;
use crate::walk::tests::runtime;
use crate::writer::{MODEL_FILE, write_model};

/// Numbers in −1…1 that look random.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

fn floats(graph: &mut GraphBuilder<'_>, name: &str, dims: &[i64], seed: u64) {
    let count = dims.iter().product::<i64>() as usize;
    graph.floats(name, dims, &noise(count, seed));
}

/// Convolutions with all that can stand between and behind them, as in MobileNetV2 with SSD heads.
fn net<'a>(changed: impl FnOnce(&mut GraphBuilder<'a>)) -> Graph<'a> {
    let mut graph = GraphBuilder::new("net");
    let planes = |channels| [1, channels, 8, 8].map(Dim::Fixed);
    graph.input("x", DataType::Float, &planes(4));
    let weights: [(&str, &[i64]); 7] = [
        ("w1", &[8, 4, 3, 3]),
        ("b1", &[8]),
        ("w2", &[8, 1, 3, 3]),
        ("w3", &[6, 8, 1, 1]),
        ("b3", &[6]),
        ("w4", &[6, 6, 1, 1]),
        ("gain", &[6]),
    ];
    for (seed, (name, dims)) in weights.into_iter().enumerate() {
        floats(&mut graph, name, dims, seed as u64 + 1);
    }
    graph.floats("low", &[], &[0.0]);
    graph.floats("high", &[], &[6.0]);
    graph.integers("rows", &[3], &[1, -1, 6]);
    graph.node(Node::new("Conv", &["x", "w1", "b1"], &["c1"]).ints("pads", &[1; 4]));
    graph.node(Node::new("Clip", &["c1", "low", "high"], &["a1"]));
    let depthwise = Node::new("Conv", &["a1", "w2"], &["c2"]).ints("pads", &[1; 4]);
    graph.node(depthwise.int("group", 8));
    graph.node(Node::new("Relu", &["c2"], &["a2"]));
    graph.node(Node::new("Add", &["a1", "a2"], &["sum"]));
    graph.node(Node::new("Conv", &["sum", "w3", "b3"], &["c3"]));
    graph.node(Node::new("MaxPool", &["c3"], &["pooled"]).ints("kernel_shape", &[2, 2]));
    graph.node(Node::new("Conv", &["pooled", "w4"], &["y"]));
    graph.node(Node::new("Transpose", &["y"], &["planes"]).ints("perm", &[0, 2, 3, 1]));
    graph.node(Node::new("Reshape", &["planes", "rows"], &["logits"]));
    graph.node(Node::new("Mul", &["logits", "gain"], &["scaled"]));
    graph.node(Node::new("Sigmoid", &["scaled"], &["scores"]));
    changed(&mut graph);
    graph.output("y", DataType::Float, &[1, 6, 7, 7].map(Dim::Fixed));
    graph.output("scores", DataType::Float, &[1, 49, 6].map(Dim::Fixed));
    graph.finish().unwrap()
}

fn pictures(count: u64) -> Vec<Vec<NamedTensor>> {
    let sample = |seed| NamedTensor {
        name: "x".into(),
        dims: vec![1, 4, 8, 8],
        elements: Elements::F32(noise(256, seed + 100)),
    };
    (0..count).map(|seed| vec![sample(seed)]).collect()
}

/// The result and the folder with its scratch, which must be empty when the graph is gone.
fn run(
    graph: Graph<'_>,
    options: &StaticOptions,
    samples: &mut dyn Samples,
) -> Result<(tempfile::TempDir, Graph<'static>, StaticReport), ForgeError> {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let place = Workplace {
        runtime: &runtime,
        scratch: dir.path(),
    };
    let done = quantize(graph, options, samples, place, &mut |_| {
        ControlFlow::Continue(())
    });
    if done.is_err() {
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "a failure leaves nothing"
        );
    }
    done.map(|(graph, report)| (dir, graph, report))
}

fn operators(graph: &Graph<'_>) -> Vec<String> {
    graph.nodes.iter().map(operator).collect()
}

/// Writes a graph, reads it back, and gives its relative error over new pictures.
fn error_of(graph: Graph<'_>, float: Graph<'_>, samples: &mut dyn Samples) -> f32 {
    let dir = tempfile::tempdir().unwrap();
    let mut watch = |_: crate::folder::Progress<'_>| ControlFlow::Continue(());
    write_model(graph, dir.path(), MODEL_FILE, &mut watch).unwrap();
    let graph = OnnxFile::open(&dir.path().join(MODEL_FILE))
        .unwrap()
        .graph();
    let (mut scratch, nodes, outputs) = Scratch::take(float, dir.path(), &mut watch).unwrap();
    let session = scratch.open(&runtime(), &nodes, &outputs).unwrap();
    let names: Vec<String> = outputs.iter().map(|it| it.name.clone()).collect();
    let truth = Truth::of(session, &names, samples, 8).unwrap();
    let (mut scratch, nodes, outputs) = Scratch::take(graph, dir.path(), &mut watch).unwrap();
    truth
        .error(scratch.open(&runtime(), &nodes, &outputs).unwrap())
        .unwrap()
}

#[test]
fn a_net_has_the_shape_of_the_picture() {
    let (dir, graph, report) =
        run(net(|_| {}), &StaticOptions::default(), &mut pictures(8)).unwrap();
    let (q, d) = ("QuantizeLinear", "DequantizeLinear");
    let expected = [
        &[q, d, d, d, "Conv", "Clip", q][..],
        &[d, d, "Conv", "Relu", q],
        &[d, "Add", q],
        &[d, d, d, "Conv", q],
        &[d, "MaxPool", q],
        &[d, d, "Conv", q, d],
        &["Transpose", "Reshape", "Mul", "Sigmoid"],
    ];
    // Which of several DequantizeLinear of a node comes first does not matter.
    assert_eq!(operators(&graph), expected.concat());
    let ops: Vec<&str> = report.nodes.iter().map(|it| it.op.as_str()).collect();
    assert_eq!(ops, ["Conv", "Conv", "Add", "Conv", "MaxPool", "Conv"]);
    assert!(report.left.is_empty() && report.is_met, "{report:?}");
    let pool = report
        .values
        .iter()
        .find(|it| it.value == "pooled")
        .unwrap();
    let source = report.values.iter().find(|it| it.value == "c3").unwrap();
    assert_eq!(
        pool.range, source.range,
        "a pool keeps the scale of its input"
    );
    assert!(
        report.error > 0.0 && report.error < 0.05,
        "{}",
        report.error
    );
    assert!(error_of(graph, net(|_| {}), &mut pictures(12)) < 0.05);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the scratch folder is gone"
    );
}

#[test]
fn every_way_to_choose_ranges_works() {
    let methods = [
        RangeMethod::MinMax,
        RangeMethod::Percentile(99.9),
        RangeMethod::Entropy,
    ];
    for ranges in methods {
        let options = StaticOptions {
            ranges,
            ..StaticOptions::default()
        };
        let (_dir, _, report) = run(net(|_| {}), &options, &mut pictures(8)).unwrap();
        assert!(report.error < 0.15, "{ranges:?}: {}", report.error);
        // But for the pool, which has the range of its input.
        for value in report.values.iter().filter(|it| it.value != "pooled") {
            let inside = value.range[0] >= value.seen[0] && value.range[1] <= value.seen[1];
            assert!(inside && value.signal_to_noise_db.is_some(), "{value:?}");
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let bytes = || {
        let (_dir, graph, report) =
            run(net(|_| {}), &StaticOptions::default(), &mut pictures(4)).unwrap();
        let out = tempfile::tempdir().unwrap();
        write_model(graph, out.path(), MODEL_FILE, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        (std::fs::read(out.path().join(MODEL_FILE)).unwrap(), report)
    };
    assert!(bytes() == bytes());
}

#[test]
fn a_budget_gives_the_worst_nodes_back_to_float() {
    let (_dir, _, all) = run(net(|_| {}), &StaticOptions::default(), &mut pictures(8)).unwrap();
    let options = StaticOptions {
        max_error: Some(all.error * 0.7),
        ..StaticOptions::default()
    };
    let (_dir, graph, report) = run(net(|_| {}), &options, &mut pictures(8)).unwrap();
    assert!(
        report.is_met && report.error <= all.error * 0.7,
        "{report:?}"
    );
    assert!(!report.left.is_empty() && report.nodes.len() < all.nodes.len());
    let least = report
        .left
        .iter()
        .map(|it| it.error_alone.unwrap())
        .fold(f32::INFINITY, f32::min);
    let weighted = report.nodes.iter().filter_map(|it| it.error_alone);
    assert!(
        weighted.fold(0.0, f32::max) <= least,
        "the worst are those in float: {report:?}"
    );
    let measured = error_of(graph, net(|_| {}), &mut pictures(8));
    assert!(
        (measured - report.error).abs() < 1e-4,
        "{measured} {}",
        report.error
    );
    let impossible = StaticOptions {
        max_error: Some(1e-30),
        ..StaticOptions::default()
    };
    let (_dir, _, report) = run(net(|_| {}), &impossible, &mut pictures(2)).unwrap();
    // Everything in float is without error; the report says what was found either way.
    assert_eq!(report.is_met, report.error <= 1e-30);
}

#[test]
fn named_nodes_stay_in_float_and_their_neighbours_still_work() {
    for name in ["c1/Conv", "c2/Conv", "sum/Add", "c3/Conv", "y/Conv"] {
        let options = StaticOptions {
            keep_float: vec![name.into()],
            ..StaticOptions::default()
        };
        let (_dir, graph, report) = run(net(|_| {}), &options, &mut pictures(8)).unwrap();
        assert_eq!(report.left[0].node, name);
        assert!(report.nodes.iter().all(|it| it.node != name));
        let error = error_of(graph, net(|_| {}), &mut pictures(8));
        assert!(error < 0.05, "{name}: {error}");
    }
}

#[test]
fn operators_nobody_knows_are_named_or_refused() {
    let strange = || net(|graph| graph.node(Node::new("Hardmax", &["scaled"], &["best"])));
    let (_dir, _, report) = run(strange(), &StaticOptions::default(), &mut pictures(2)).unwrap();
    let left = &report.left[0];
    assert_eq!(
        (left.node.as_str(), left.op.as_str()),
        ("best/Hardmax", "Hardmax")
    );
    let options = StaticOptions {
        on_unknown: OnUnknown::Refuse,
        ..StaticOptions::default()
    };
    let error = run(strange(), &options, &mut pictures(2))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("node best/Hardmax: operator Hardmax is not known"),
        "{error}"
    );
}

/// Two products with biases and a table, as encoders have them.
fn encoder<'a>(kind: &str) -> Graph<'a> {
    let mut graph = GraphBuilder::new("encoder");
    graph.input("ids", DataType::Int64, &[Dim::Named("n")]);
    floats(&mut graph, "table", &[300, 64], 1);
    floats(&mut graph, "w1", &[64, 48], 2);
    floats(&mut graph, "b1", &[48], 3);
    floats(&mut graph, "w2", &[32, 48], 4);
    floats(&mut graph, "b2", &[32], 5);
    graph.node(Node::new("Gather", &["table", "ids"], &["h0"]));
    if kind == "Gemm" {
        graph.node(Node::new("Gemm", &["h0", "w1", "b1"], &["h1"]));
    } else {
        graph.node(Node::new("MatMul", &["h0", "w1"], &["p1"]));
        graph.node(Node::new("Add", &["p1", "b1"], &["h1"]));
    }
    graph.node(Node::new("Tanh", &["h1"], &["a1"]));
    graph.node(Node::new("Gemm", &["a1", "w2", "b2"], &["y"]).int("transB", 1));
    graph.output("y", DataType::Float, &[Dim::Named("n"), Dim::Fixed(32)]);
    graph.finish().unwrap()
}

fn texts(count: i64) -> Vec<Vec<NamedTensor>> {
    let sample = |seed: i64| NamedTensor {
        name: "ids".into(),
        dims: vec![20],
        elements: Elements::I64((0..20).map(|at| (at * 37 + seed * 11) % 300).collect()),
    };
    (0..count).map(|seed| vec![sample(seed)]).collect()
}

#[test]
fn products_in_every_form() {
    for kind in ["MatMul", "Gemm"] {
        for (products, lookups, expected) in [
            (
                ProductForm::IntegerToFloat,
                true,
                "com.microsoft::MatMulIntegerToFloat",
            ),
            (
                ProductForm::IntegerToFloat,
                false,
                "com.microsoft::MatMulIntegerToFloat",
            ),
            (ProductForm::Qdq, false, "DequantizeLinear"),
        ] {
            let options = StaticOptions {
                products,
                lookups,
                ..StaticOptions::default()
            };
            let (_dir, graph, report) = run(encoder(kind), &options, &mut texts(8)).unwrap();
            let found = operators(&graph);
            assert!(found.iter().any(|it| it == expected), "{kind}: {found:?}");
            let is_quantized = found
                .iter()
                .any(|it| it == "com.microsoft::GatherBlockQuantized");
            assert_eq!(is_quantized, lookups);
            let has_add = found.iter().any(|it| it == "Add");
            assert_eq!(
                has_add,
                products == ProductForm::Qdq && kind == "MatMul",
                "{found:?}"
            );
            assert_eq!(report.nodes.len(), 2 + usize::from(lookups));
            let error = error_of(graph, encoder(kind), &mut texts(10));
            assert!(error < 0.03, "{kind} {products:?}: {error}");
        }
    }
}

#[test]
fn dynamic_products() {
    for kind in ["MatMul", "Gemm"] {
        let (graph, report) = dynamic_int8(encoder(kind), &[]).unwrap();
        let count = operators(&graph)
            .iter()
            .filter(|it| *it == "com.microsoft::DynamicQuantizeMatMul")
            .count();
        assert_eq!((count, report.nodes.len()), (2, 2));
        assert!(error_of(graph, encoder(kind), &mut texts(10)) < 0.03);
        let (graph, report) = dynamic_int8(encoder(kind), &["y/Gemm".into()]).unwrap();
        assert_eq!(report.left[0].node, "y/Gemm");
        assert!(operators(&graph).contains(&"Gemm".to_string()));
    }
    assert!(dynamic_int8(encoder("Gemm"), &["z".into()]).is_err());
    assert!(dynamic_int8(net(|_| {}), &[]).is_err(), "only convolutions");
}

#[test]
fn half_precision_halves_large_constants_only() {
    let graph = half_storage(encoder("MatMul")).unwrap();
    let (mut halves, mut bytes) = (0, 0);
    for tensor in graph.payloads.iter().flat_map(|payload| &payload.tensors) {
        halves += usize::from(tensor.data_type == DataType::Float16);
        bytes += tensor.bytes().unwrap();
    }
    // Table and both matrices; the biases stay.
    assert_eq!(
        (halves, bytes),
        (3, 2 * (300 * 64 + 64 * 48 + 32 * 48) + 4 * (48 + 32))
    );
    assert!(error_of(graph, encoder("MatMul"), &mut texts(4)) < 1e-3);
    let mut graph = GraphBuilder::new("g");
    graph.floats("w", &[1024], &[1e5; 1024]);
    graph.node(Node::new("Neg", &["w"], &["y"]));
    graph.output("y", DataType::Float, &[Dim::Fixed(1024)]);
    let graph = half_storage(graph.finish().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = write_model(graph, dir.path(), MODEL_FILE, &mut |_| {
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("tensor w holds 100000 at element 0"),
        "{error}"
    );
}

#[test]
fn batch_norms_and_constant_nodes_of_exporters_are_folded() {
    let build = || {
        let mut graph = GraphBuilder::new("exported");
        graph.input("x", DataType::Float, &[1, 4, 8, 8].map(Dim::Fixed));
        floats(&mut graph, "w", &[8, 4, 3, 3], 1);
        for (seed, name) in ["gamma", "beta", "mean"].into_iter().enumerate() {
            floats(&mut graph, name, &[8], seed as u64 + 2);
        }
        graph.floats(
            "variance",
            &[8],
            &noise(8, 9).map_to(|value| value * value + 0.1),
        );
        graph.node(Node::new("Conv", &["x", "w"], &["c"]));
        let norm = ["c", "gamma", "beta", "mean", "variance"];
        graph.node(Node::new("BatchNormalization", &norm, &["n"]).float("epsilon", 1e-3));
        graph.node(Node::new("Relu", &["n"], &["y"]));
        graph.output("y", DataType::Float, &[1, 8, 6, 6].map(Dim::Fixed));
        let mut graph = graph.finish().unwrap();
        // The weights in a node, as PyTorch's older exporter leaves them.
        let at = graph
            .payloads
            .iter()
            .position(|it| it.tensors[0].name == "w")
            .unwrap();
        let payload = graph.payloads.remove(at);
        let bytes = (payload.make)().unwrap().remove(0);
        graph
            .nodes
            .insert(0, constant_node("w", &[8, 4, 3, 3], bytes));
        graph
    };
    let (_dir, graph, report) = run(build(), &StaticOptions::default(), &mut pictures(8)).unwrap();
    let found = operators(&graph);
    assert!(
        !found
            .iter()
            .any(|it| ["BatchNormalization", "Constant"].contains(&it.as_str())),
        "{found:?}"
    );
    assert!(report.error < 0.02, "{}", report.error);
    assert!(error_of(graph, build(), &mut pictures(8)) < 0.02);
}

trait MapTo {
    fn map_to(self, change: impl Fn(f32) -> f32) -> Vec<f32>;
}

impl MapTo for Vec<f32> {
    fn map_to(self, change: impl Fn(f32) -> f32) -> Vec<f32> {
        self.into_iter().map(change).collect()
    }
}

fn constant_node(name: &str, dims: &[i64], bytes: Vec<u8>) -> NodeProto {
    use crate::proto::onnx::{AttributeProto, AttributeType, TensorProto};
    let tensor = TensorProto {
        dims: dims.to_vec(),
        data_type: DataType::Float.into(),
        raw_data: Some(bytes),
        ..TensorProto::default()
    };
    let mut node: NodeProto = Node::new("Constant", &[], &[name]).into();
    node.attribute.push(AttributeProto {
        name: "value".into(),
        kind: AttributeType::Tensor.into(),
        t: Some(tensor),
        ..AttributeProto::default()
    });
    node
}

#[test]
fn what_cannot_be_used_has_a_name() {
    let broken = |name: &'static str| {
        net(move |graph| {
            graph.floats("bad", &[6, 6, 1, 1], &[f32::NAN; 36]);
            graph.node(Node::new("Conv", &["pooled", "bad"], &[name]));
        })
    };
    let mut empty: Vec<Vec<NamedTensor>> = Vec::new();
    let mut renamed = pictures(2);
    renamed[1][0].name = "picture".into();
    let mut infinite = pictures(2);
    infinite[1][0].elements = Elements::F32(vec![f32::INFINITY; 256]);
    let default = StaticOptions::default();
    let unknown = StaticOptions {
        keep_float: vec!["c9".into()],
        ..default.clone()
    };
    let mut old = net(|_| {});
    old.header.operator_sets.insert(String::new(), 11);
    let cases: [(Graph<'_>, &StaticOptions, &mut dyn Samples, &str); 6] = [
        (broken("more"), &default, &mut pictures(2), "NaN"),
        (
            net(|_| {}),
            &default,
            &mut empty,
            "expected at least 1 samples, found 0",
        ),
        (net(|_| {}), &default, &mut renamed, "picture"),
        (net(|_| {}), &default, &mut infinite, "value"),
        (
            net(|_| {}),
            &unknown,
            &mut pictures(2),
            "keep_float names c9",
        ),
        (
            old,
            &default,
            &mut pictures(2),
            "expected version 13 or later, found 11",
        ),
    ];
    for (graph, options, samples, expected) in cases {
        let error = run(graph, options, samples).err().unwrap().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn options_are_checked_by_name() {
    let default = StaticOptions::default();
    let cases = [
        (
            StaticOptions {
                ranges: RangeMethod::Percentile(f64::NAN),
                ..default.clone()
            },
            "ranges.percentile",
        ),
        (
            StaticOptions {
                ranges: RangeMethod::Percentile(100.5),
                ..default.clone()
            },
            "ranges.percentile",
        ),
        (
            StaticOptions {
                max_error: Some(0.0),
                ..default.clone()
            },
            "max_error",
        ),
        (
            StaticOptions {
                max_error: Some(f32::NAN),
                ..default.clone()
            },
            "max_error",
        ),
        (
            StaticOptions {
                error_samples: 0,
                ..default.clone()
            },
            "error_samples",
        ),
    ];
    for (options, name) in cases {
        let error = options.check().unwrap_err();
        assert!(
            matches!(&error, StaticError::Option { option, .. } if *option == name),
            "{error}"
        );
    }
    let text = r#"{"ranges":{"percentile":99.99},"pairs_fit":false,"products":"qdq","max_error":0.03,"on_unknown":"refuse"}"#;
    let options: StaticOptions = serde_json::from_str(text).unwrap();
    assert_eq!(options.ranges, RangeMethod::Percentile(99.99));
    assert_eq!((options.pairs_fit, options.error_samples), (false, 8));
    assert!(serde_json::from_str::<StaticOptions>(r#"{"bits":4}"#).is_err());
}

#[test]
fn it_can_be_stopped_at_any_moment_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let place = Workplace {
        runtime: &runtime,
        scratch: dir.path(),
    };
    let options = StaticOptions {
        max_error: Some(1e-3),
        ..StaticOptions::default()
    };
    let mut all = 0;
    let mut count = |_: crate::folder::Progress<'_>| {
        all += 1;
        ControlFlow::Continue(())
    };
    drop(quantize(net(|_| {}), &options, &mut pictures(4), place, &mut count).unwrap());
    assert!(
        all > 15,
        "constants, calibration, sensitivity and exclusion all report: {all}"
    );
    for stop_at in (0..all).step_by(3) {
        let mut reports = 0;
        let mut watch = |_: crate::folder::Progress<'_>| {
            reports += 1;
            if reports > stop_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let done = quantize(net(|_| {}), &options, &mut pictures(4), place, &mut watch);
        assert!(matches!(done, Err(ForgeError::Cancelled)), "{stop_at}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "{stop_at}"
        );
    }
}
