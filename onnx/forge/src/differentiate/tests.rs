//! Every rule against PyTorch and against finite differences, with sizes known and with sizes named.
//!
//! tests/data/differentiate/make.py made the expected values; a case here builds the same function from ONNX operators.

use std::path::Path;

use llmasos_engine::session::{Dim as Any, Feed, Kind, Session, SessionSpec, TensorSpec, Threads};
use serde::Deserialize;

use super::*;
use crate::graph::{Dim, GraphBuilder, Node};
use crate::proto::onnx::DataType;
use crate::walk::tests::runtime;
use crate::writer::write_model;

const FIXTURES: &str = include_str!("../../../../tests/data/differentiate/cases.json");

#[derive(Deserialize)]
struct Case {
    inputs: Vec<Tensor>,
    loss: f32,
    gradients: Vec<Tensor>,
}

#[derive(Deserialize, Clone)]
struct Tensor {
    name: String,
    kind: String,
    shape: Vec<usize>,
    data: Vec<f32>,
}

type Graph = GraphBuilder<'static>;
type Build = fn(&mut Graph);

fn op(g: &mut Graph, op: &str, inputs: &[&str]) {
    g.node(Node::new(op, inputs, &["y"]));
}

/// A node in between.
fn mid(g: &mut Graph, op: &str, inputs: &[&str], output: &str) {
    g.node(Node::new(op, inputs, &[output]));
}

fn list(g: &mut Graph, name: &str, values: &[i64]) {
    g.integers(name, &[values.len() as i64], values);
}

fn along(g: &mut Graph, op: &str, axis: i64) {
    g.node(Node::new(op, &["a"], &["y"]).int("axis", axis));
}

fn reduce(g: &mut Graph, op: &str, axes: &[i64], keepdims: i64) {
    list(g, "axes", axes);
    g.node(Node::new(op, &["a", "axes"], &["y"]).int("keepdims", keepdims));
}

fn slice(g: &mut Graph, input: &str, output: &str, lists: [&[i64]; 4]) {
    let names = ["starts", "ends", "axes", "steps"].map(|part| format!("{output}.{part}"));
    for (name, values) in names.iter().zip(lists) {
        list(g, name, values);
    }
    let names = names.each_ref().map(String::as_str);
    mid(g, "Slice", &[&[input][..], &names].concat(), output);
}

fn mean_of(g: &mut Graph, input: &str, output: &str) {
    if !g.is_defined("last") {
        list(g, "last", &[-1]);
    }
    let node = Node::new("ReduceMean", &[input, "last"], &[output]);
    g.node(node.int("keepdims", 1));
}

fn standardized(g: &mut Graph, centred: &str, output: &str) {
    g.floats("epsilon", &[], &[1e-5]);
    mid(g, "Mul", &[centred, centred], "square");
    mean_of(g, "square", "variance");
    mid(g, "Add", &["variance", "epsilon"], "shifted");
    mid(g, "Sqrt", &["shifted"], "deviation");
    mid(g, "Div", &[centred, "deviation"], output);
}

fn attention(g: &mut Graph) {
    g.floats("scale", &[], &[0.5]);
    let far = f32::NEG_INFINITY;
    let mask = [0.0, far, far, 0.0, 0.0, far, 0.0, 0.0, 0.0];
    g.floats("mask", &[3, 3], &mask);
    g.node(Node::new("Transpose", &["b"], &["keys"]).ints("perm", &[0, 1, 3, 2]));
    mid(g, "MatMul", &["a", "keys"], "products");
    mid(g, "Mul", &["products", "scale"], "scaled");
    mid(g, "Add", &["scaled", "mask"], "masked");
    mid(g, "Softmax", &["masked"], "weights");
    op(g, "MatMul", &["weights", "c"]);
}

fn gelu_tanh(g: &mut Graph) {
    g.floats("cubic", &[], &[0.044715]);
    g.floats("three", &[], &[3.0]);
    g.floats("slope", &[], &[0.797_884_6]);
    g.floats("one", &[], &[1.0]);
    g.floats("half", &[], &[0.5]);
    mid(g, "Pow", &["a", "three"], "cube");
    mid(g, "Mul", &["cube", "cubic"], "scaled");
    mid(g, "Add", &["a", "scaled"], "sum");
    mid(g, "Mul", &["sum", "slope"], "inner");
    mid(g, "Tanh", &["inner"], "tanh");
    mid(g, "Add", &["tanh", "one"], "shifted");
    mid(g, "Mul", &["a", "half"], "halved");
    op(g, "Mul", &["halved", "shifted"]);
}

fn gelu(g: &mut Graph) {
    g.floats("root", &[], &[std::f32::consts::FRAC_1_SQRT_2]);
    g.floats("one", &[], &[1.0]);
    g.floats("half", &[], &[0.5]);
    mid(g, "Mul", &["a", "root"], "scaled");
    mid(g, "Erf", &["scaled"], "erf");
    mid(g, "Add", &["erf", "one"], "shifted");
    mid(g, "Mul", &["a", "half"], "halved");
    op(g, "Mul", &["halved", "shifted"]);
}

/// Name of the case, whether it can have named sizes, and the function.
const CASES: &[(&str, bool, Build)] = &[
    ("add", true, |g| op(g, "Add", &["a", "b"])),
    ("add broadcast row", true, |g| op(g, "Add", &["a", "b"])),
    ("add broadcast column", true, |g| op(g, "Add", &["a", "b"])),
    ("add broadcast both", true, |g| op(g, "Add", &["a", "b"])),
    ("sub broadcast", true, |g| op(g, "Sub", &["a", "b"])),
    ("mul", true, |g| op(g, "Mul", &["a", "b"])),
    ("mul broadcast", true, |g| op(g, "Mul", &["a", "b"])),
    ("mul itself", true, |g| op(g, "Mul", &["a", "a"])),
    ("mul scalar", true, |g| op(g, "Mul", &["a", "b"])),
    ("div", true, |g| op(g, "Div", &["a", "b"])),
    ("div broadcast", true, |g| op(g, "Div", &["a", "b"])),
    ("pow 3", true, |g| {
        g.floats("p", &[], &[3.0]);
        op(g, "Pow", &["a", "p"]);
    }),
    ("pow half", true, |g| {
        g.floats("p", &[], &[0.5]);
        op(g, "Pow", &["a", "p"]);
    }),
    ("neg", true, |g| op(g, "Neg", &["a"])),
    ("sqrt", true, |g| op(g, "Sqrt", &["a"])),
    ("reciprocal", true, |g| op(g, "Reciprocal", &["a"])),
    ("exp", true, |g| op(g, "Exp", &["a"])),
    ("log", true, |g| op(g, "Log", &["a"])),
    ("tanh", true, |g| op(g, "Tanh", &["a"])),
    ("erf", true, |g| op(g, "Erf", &["a"])),
    ("sigmoid", true, |g| op(g, "Sigmoid", &["a"])),
    ("where", true, |g| {
        g.integers("zero", &[], &[0]);
        mid(g, "Greater", &["a", "zero"], "condition");
        op(g, "Where", &["condition", "b", "c"]);
    }),
    ("matmul", true, |g| op(g, "MatMul", &["a", "b"])),
    ("matmul stack", true, |g| op(g, "MatMul", &["a", "b"])),
    ("matmul shared weight", true, |g| {
        op(g, "MatMul", &["a", "b"])
    }),
    ("matmul stack broadcast", true, |g| {
        op(g, "MatMul", &["a", "b"])
    }),
    ("gemm", true, |g| op(g, "Gemm", &["a", "b", "c"])),
    ("gemm transB", true, |g| {
        g.node(Node::new("Gemm", &["a", "b"], &["y"]).int("transB", 1));
    }),
    ("gemm transA", true, |g| {
        g.node(Node::new("Gemm", &["a", "b"], &["y"]).int("transA", 1));
    }),
    ("gemm scaled", true, |g| {
        let node = Node::new("Gemm", &["a", "b", "c"], &["y"]);
        let node = node.int("transA", 1).int("transB", 1);
        g.node(node.float("alpha", 0.5).float("beta", 2.0));
    }),
    ("softmax", true, |g| op(g, "Softmax", &["a"])),
    ("softmax axis 1", true, |g| along(g, "Softmax", 1)),
    ("log softmax", true, |g| along(g, "LogSoftmax", -1)),
    ("reduce sum", true, |g| reduce(g, "ReduceSum", &[0, -1], 0)),
    ("reduce sum keep", true, |g| reduce(g, "ReduceSum", &[1], 1)),
    ("reduce sum all", true, |g| {
        g.node(Node::new("ReduceSum", &["a"], &["y"]).int("keepdims", 0));
    }),
    ("reduce mean", true, |g| reduce(g, "ReduceMean", &[-1], 0)),
    ("reduce mean keep", true, |g| {
        reduce(g, "ReduceMean", &[0, 1], 1)
    }),
    ("reshape", false, |g| {
        list(g, "shape", &[-1, 4]);
        op(g, "Reshape", &["a", "shape"]);
    }),
    ("transpose", true, |g| {
        g.node(Node::new("Transpose", &["a"], &["y"]).ints("perm", &[2, 0, 1]));
    }),
    ("transpose default", true, |g| op(g, "Transpose", &["a"])),
    // The sum of named sizes has no name that the cotangent could share.
    ("concat", false, |g| {
        g.node(Node::new("Concat", &["a", "b", "c"], &["y"]).int("axis", 1));
    }),
    ("split", true, |g| {
        list(g, "sizes", &[1, 2, 1]);
        let parts = ["first", "middle", "last part"];
        g.node(Node::new("Split", &["a", "sizes"], &parts).int("axis", -1));
        op(g, "Mul", &["first", "last part"]);
    }),
    ("split one unused", false, |g| {
        list(g, "sizes", &[1, 2, 1]);
        let parts = ["first", "middle", "last part"];
        g.node(Node::new("Split", &["a", "sizes"], &parts).int("axis", 1));
        op(g, "Mul", &["middle", "middle"]);
    }),
    ("slice", false, |g| {
        slice(g, "a", "y", [&[1, -3], &[i64::MAX, -1], &[0, 1], &[1, 1]]);
    }),
    ("slice steps", false, |g| {
        slice(g, "a", "y", [&[0, 1], &[99, 4], &[0, 1], &[2, 2]]);
    }),
    ("slice backwards", false, |g| {
        slice(g, "a", "y", [&[-1], &[-99], &[1], &[-2]]);
    }),
    ("gather rows", true, |g| op(g, "Gather", &["a", "b"])),
    // Rows of a batch become one list, so their width has to be known.
    ("gather rows of a batch", false, |g| {
        op(g, "Gather", &["a", "b"])
    }),
    ("gather columns", true, |g| {
        g.node(Node::new("Gather", &["a", "b"], &["y"]).int("axis", 1));
    }),
    ("unsqueeze", true, |g| {
        list(g, "axes", &[1]);
        op(g, "Unsqueeze", &["a", "axes"]);
    }),
    ("squeeze", true, |g| {
        list(g, "axes", &[1]);
        op(g, "Squeeze", &["a", "axes"]);
    }),
    ("expand", false, |g| {
        list(g, "shape", &[2, 3, 4]);
        op(g, "Expand", &["a", "shape"]);
    }),
    ("rms norm", true, |g| {
        standardized(g, "a", "normed");
        op(g, "Mul", &["normed", "b"]);
    }),
    ("layer norm", true, |g| {
        mean_of(g, "a", "mean");
        mid(g, "Sub", &["a", "mean"], "centred");
        standardized(g, "centred", "normed");
        mid(g, "Mul", &["normed", "b"], "scaled");
        op(g, "Add", &["scaled", "c"]);
    }),
    ("silu gate", true, |g| {
        mid(g, "Sigmoid", &["a"], "sigma");
        mid(g, "Mul", &["a", "sigma"], "silu");
        op(g, "Mul", &["silu", "b"]);
    }),
    ("gelu", true, gelu),
    ("gelu tanh", true, gelu_tanh),
    ("attention", false, attention),
    ("mean of a mean", true, |g| {
        mean_of(g, "a", "mean");
        mid(g, "Sub", &["a", "mean"], "centred");
        mid(g, "Mul", &["centred", "centred"], "square");
        let node = Node::new("ReduceMean", &["square", "last"], &["y"]);
        g.node(node.int("keepdims", 0));
    }),
];

/// The graph of a case with its gradients as outputs.
fn graph_of(case: &Case, build: Build, is_named: bool) -> GraphBuilder<'static> {
    let mut graph = GraphBuilder::new("case");
    for input in &case.inputs {
        let names: Vec<String> = input.shape.iter().map(|size| format!("n{size}")).collect();
        let sizes = input.shape.iter().zip(&names);
        let dims: Vec<Dim<'_>> = sizes
            .map(|(size, name)| match is_named && *size > 1 {
                true => Dim::Named(name),
                false => Dim::Fixed(*size as i64),
            })
            .collect();
        let data_type = match input.kind.as_str() {
            "float" => DataType::Float,
            _ => DataType::Int64,
        };
        graph.input(&input.name, data_type, &dims);
    }
    build(&mut graph);
    graph.node(Node::new("Mul", &["y", "w"], &["weighted"]));
    graph.node(Node::new("ReduceSum", &["weighted"], &["loss"]).int("keepdims", 0));
    graph
}

/// Runs a differentiated case: the loss and the gradients.
struct Runner {
    session: Session,
    gradients: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Runner {
    fn new(case: &Case, build: Build, is_named: bool) -> Runner {
        let mut graph = graph_of(case, build, is_named);
        let names: Vec<&str> = case.gradients.iter().map(|g| g.name.as_str()).collect();
        let gradients = differentiate(&mut graph, "loss", &names).unwrap();
        let gradients: Vec<String> = gradients
            .iter()
            .zip(&names)
            .map(|(gradient, name)| {
                let output = format!("gradient of {name}");
                graph.node(Node::new("Identity", &[gradient], &[&output]));
                output
            })
            .collect();
        graph.output("loss", DataType::Float, &[]);
        for (output, tensor) in gradients.iter().zip(&case.gradients) {
            let dims = tensor.shape.iter().map(|size| Dim::Fixed(*size as i64));
            graph.output(output, DataType::Float, &dims.collect::<Vec<_>>());
        }
        let dir = tempfile::tempdir().unwrap();
        let session = open(graph, dir.path(), case);
        Runner {
            session,
            gradients,
            _dir: dir,
        }
    }

    fn run(&mut self, inputs: &[Tensor]) -> (f32, Vec<Vec<f32>>) {
        let whole: Vec<Vec<i64>> = inputs
            .iter()
            .map(|input| input.data.iter().map(|value| *value as i64).collect())
            .collect();
        let feeds: Vec<Feed<'_>> = inputs
            .iter()
            .zip(&whole)
            .map(|(input, whole)| match input.kind.as_str() {
                "float" => Feed::f32(&input.name, &input.shape, &input.data),
                _ => Feed::i64(&input.name, &input.shape, whole),
            })
            .collect();
        let outputs = self.session.run(&feeds).unwrap();
        let gradients = self.gradients.iter();
        let gradients = gradients.map(|name| outputs.f32(name).unwrap().data.to_vec());
        (outputs.f32("loss").unwrap().data[0], gradients.collect())
    }
}

fn open(graph: GraphBuilder<'_>, dir: &Path, case: &Case) -> Session {
    let go_on = &mut |_: crate::folder::Progress<'_>| std::ops::ControlFlow::Continue(());
    write_model(graph.finish().unwrap(), dir, "case.onnx", go_on).unwrap();
    let dims: Vec<Vec<Any>> = case
        .inputs
        .iter()
        .map(|input| vec![Any::Any; input.shape.len()])
        .collect();
    let inputs: Vec<TensorSpec<'_>> = case
        .inputs
        .iter()
        .zip(&dims)
        .map(|(input, dims)| {
            let kind = match input.kind.as_str() {
                "float" => Kind::F32,
                _ => Kind::I64,
            };
            TensorSpec::new(&input.name, kind, dims)
        })
        .collect();
    let spec = SessionSpec {
        inputs: &inputs,
        outputs: &[],
    };
    let path = dir.join("case.onnx");
    Session::open(&runtime(), "case", &path, &spec, Threads::Single).unwrap()
}

fn fixtures() -> BTreeMap<String, Case> {
    serde_json::from_str(FIXTURES).unwrap()
}

#[test]
fn every_fixture_has_a_case_and_every_case_a_fixture() {
    let fixtures: BTreeSet<String> = fixtures().into_keys().collect();
    let cases = CASES.iter().map(|(name, ..)| name.to_string()).collect();
    assert_eq!(fixtures, cases);
}

#[test]
fn gradients_are_those_of_pytorch() {
    let fixtures = fixtures();
    for (name, can_be_named, build) in CASES {
        let case = &fixtures[*name];
        for is_named in [false, *can_be_named] {
            let (loss, gradients) = Runner::new(case, *build, is_named).run(&case.inputs);
            assert!(
                (loss - case.loss).abs() <= 2e-5 * (1.0 + case.loss.abs()),
                "{name}: loss {loss}, expected {}",
                case.loss
            );
            for (found, expected) in gradients.iter().zip(&case.gradients) {
                let largest = expected
                    .data
                    .iter()
                    .fold(1.0_f32, |max, x| max.max(x.abs()));
                assert_eq!(found.len(), expected.data.len(), "{name}");
                for (found, expected) in found.iter().zip(&expected.data) {
                    let error = (found - expected).abs();
                    assert!(
                        error <= 1e-5 * largest,
                        "{name}: {found}, expected {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    const STEP: f32 = 2e-3;
    for (name, _, build) in CASES {
        let case = &fixtures()[*name];
        let mut runner = Runner::new(case, *build, false);
        let (_, gradients) = runner.run(&case.inputs);
        for (tensor, gradient) in case.gradients.iter().zip(&gradients) {
            // A direction with every element in it, none equal to the one beside it.
            let direction: Vec<f32> = (0..tensor.data.len())
                .map(|index| ((index * 7 + 3) % 11) as f32 / 5.0 - 1.0)
                .collect();
            let mut ends = [STEP, -STEP].map(|step| {
                let mut moved = case.inputs.clone();
                let input = moved.iter_mut().find(|i| i.name == tensor.name).unwrap();
                for (value, slope) in input.data.iter_mut().zip(&direction) {
                    *value += step * slope;
                }
                runner.run(&moved).0
            });
            ends[0] -= ends[1];
            let measured = ends[0] / (2.0 * STEP);
            let computed: f32 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let error = (measured - computed).abs();
            assert!(
                error <= 5e-3 * (1.0 + computed.abs()),
                "{name} along {}: measured {measured}, computed {computed}",
                tensor.name
            );
        }
    }
}

/// A graph from x to loss by one node.
fn through(node: Node) -> GraphBuilder<'static> {
    let mut graph = GraphBuilder::new("g");
    graph.input("x", DataType::Float, &[Dim::Fixed(3), Dim::Fixed(4)]);
    graph.input("z", DataType::Float, &[Dim::Fixed(3), Dim::Fixed(4)]);
    graph.node(node);
    graph.node(Node::new("ReduceSum", &["y"], &["loss"]).int("keepdims", 0));
    graph
}

#[test]
fn what_cannot_be_differentiated_is_named() {
    let cases = [
        (
            "an operator without a rule",
            Node::new("Floor", &["x"], &["y"]),
            "node y/Floor: operator Floor has no derivative rule",
        ),
        (
            "an operator of another domain with a known name",
            Node::microsoft("QuickGelu", &["x"], &["y"]),
            "operator com.microsoft.QuickGelu has no derivative rule",
        ),
        (
            "a trained exponent",
            Node::new("Pow", &["z", "x"], &["y"]),
            "node y/Pow: Pow: expected an exponent that is not trained, found x",
        ),
        (
            "a slice whose bounds come at run time",
            Node::new("Slice", &["x", "z", "z"], &["y"]),
            "expected a slice by constants, found z",
        ),
        (
            "shapes that do not go together",
            Node::new("MatMul", &["x", "z"], &["y"]),
            "node y/MatMul: shapes [3, 4] and [3, 4] do not go together",
        ),
    ];
    for (why, node, words) in cases {
        let mut graph = through(node);
        let error = differentiate(&mut graph, "loss", &["x"]).unwrap_err();
        assert!(error.to_string().contains(words), "{why}: {error}");
    }
}

#[test]
fn parameters_without_influence_and_unknown_values_are_errors() {
    let mut graph = through(Node::new("Exp", &["x"], &["y"]));
    let error = differentiate(&mut graph, "loss", &["x", "z"]).unwrap_err();
    let independent = DifferentiateError::Independent { value: "z".into() };
    assert_eq!(error, independent);
    let mut graph = through(Node::new("Exp", &["x"], &["y"]));
    let error = differentiate(&mut graph, "loss", &["q"]).unwrap_err();
    assert_eq!(error, DifferentiateError::Undefined { value: "q".into() });
}

#[test]
fn operators_off_the_way_need_no_rule() {
    let mut graph = GraphBuilder::new("g");
    graph.input("x", DataType::Float, &[Dim::Fixed(3)]);
    graph.input("z", DataType::Float, &[Dim::Fixed(3)]);
    graph.node(Node::new("Floor", &["z"], &["whole"]));
    graph.node(Node::new("Mul", &["x", "whole"], &["y"]));
    // The floor has a known shape only through the product; the gradient of x needs it as a factor alone.
    graph.node(Node::new("Identity", &["x"], &["loss"]));
    differentiate(&mut graph, "loss", &["x"]).unwrap();
}

#[test]
fn a_gradient_stays_narrow_until_somebody_needs_it_wide() {
    let mut graph = GraphBuilder::new("g");
    graph.input("x", DataType::Float, &[Dim::Fixed(8), Dim::Fixed(16)]);
    graph.node(Node::new("Mul", &["x", "x"], &["square"]));
    graph.integers("last", &[1], &[-1]);
    let mean = Node::new("ReduceMean", &["square", "last"], &["mean"]);
    graph.node(mean.int("keepdims", 1));
    graph.node(Node::new("ReduceSum", &["mean"], &["loss"]).int("keepdims", 0));
    differentiate(&mut graph, "loss", &["x"]).unwrap();
    let graph = graph.finish().unwrap();
    let mut wide = graph.nodes.iter().filter(|node| node.op_type == "Expand");
    // One number per row; the product with x widens it for nothing.
    assert!(
        wide.all(|node| node.output[0] != "d.x"),
        "{:?}",
        graph.nodes
    );
}

#[test]
fn the_second_part_computes_anew_only_what_was_not_kept() {
    let mut graph = GraphBuilder::new("g");
    for input in ["x", "w", "v", "d.y"] {
        graph.input(input, DataType::Float, &[Dim::Fixed(4), Dim::Fixed(4)]);
    }
    graph.node(Node::new("MatMul", &["x", "w"], &["product"]));
    graph.node(Node::new("Tanh", &["product"], &["active"]));
    graph.node(Node::new("MatMul", &["active", "v"], &["y"]));
    let gradients = pull_back(&mut graph, &[("y", "d.y")], &["x", "w", "v"]).unwrap();
    let dims = [Dim::Fixed(4), Dim::Fixed(4)];
    for gradient in &gradients {
        graph.output(gradient, DataType::Float, &dims);
    }
    let mut graph = graph.finish().unwrap();
    let kept = needed_between(&graph, 3, &["product", "y"]);
    assert_eq!(kept, ["product"], "y is not needed for gradients");
    second_part(&mut graph, &[("product", &dims)]);
    let operators: Vec<&str> = graph.nodes.iter().map(|n| n.op_type.as_str()).collect();
    assert_eq!(operators.iter().filter(|op| **op == "MatMul").count(), 0);
    assert_eq!(operators[0], "Tanh", "{operators:?}");
    let mut inputs = graph.input_names();
    inputs.sort();
    assert_eq!(inputs, ["d.y", "product", "v", "w", "x"]);
}
