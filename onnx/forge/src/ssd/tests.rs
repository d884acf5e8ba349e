//! A detector of one layer, converted and looked at, and the ways a graph can be something else.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::proto::tensorflow::{
    AttrKind, AttrValue, DataType, Dim as TensorDim, ListValue, NodeDef, TensorProto,
    TensorShapeProto,
};
use crate::tensorflow::GraphDefError;

fn node(name: &str, op: &str, inputs: &[&str], attributes: &[(&str, AttrKind)]) -> NodeDef {
    let attr = attributes
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                AttrValue {
                    value: Some(value.clone()),
                },
            )
        })
        .collect::<BTreeMap<_, _>>();
    NodeDef {
        name: name.into(),
        op: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        attr,
    }
}

fn shape(dims: &[i64]) -> Option<TensorShapeProto> {
    Some(TensorShapeProto {
        dim: dims.iter().map(|&size| TensorDim { size }).collect(),
    })
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> NodeDef {
    let tensor = TensorProto {
        dtype: DataType::Float.into(),
        tensor_shape: shape(dims),
        float_val: values.to_vec(),
        ..TensorProto::default()
    };
    node(name, "Const", &[], &[("value", AttrKind::Tensor(tensor))])
}

fn integers(name: &str, dims: &[i64], values: &[i32]) -> NodeDef {
    let tensor = TensorProto {
        dtype: DataType::Int32.into(),
        tensor_shape: shape(dims),
        int_val: values.to_vec(),
        ..TensorProto::default()
    };
    node(name, "Const", &[], &[("value", AttrKind::Tensor(tensor))])
}

fn list(values: &[i64]) -> AttrKind {
    AttrKind::List(ListValue { i: values.to_vec() })
}

fn conv(name: &str, op: &str, inputs: &[&str], stride: i64) -> NodeDef {
    node(
        name,
        op,
        inputs,
        &[
            ("strides", list(&[1, stride, stride, 1])),
            ("padding", AttrKind::Bytes(b"SAME".to_vec())),
        ],
    )
}

/// 300×300 by strides of 60 and 5 to one cell, where three anchors have 4 codes and 2 classes each.
fn small() -> Vec<NodeDef> {
    let one = |name| integers(name, &[], &[1]);
    vec![
        floats("w0", &[3, 3, 3, 4], &[0.5]),
        conv("conv", "Conv2D", &["Preprocessor/sub", "w0"], 60),
        floats("variance", &[4], &[0.96]),
        floats("epsilon", &[], &[0.04]),
        node("sum", "Add", &["variance", "epsilon"], &[]),
        node("factor", "Rsqrt", &["sum"], &[]),
        node("scaled", "Mul", &["conv", "factor"], &[]),
        floats("shift", &[4], &[0.25]),
        node("shifted", "Sub", &["scaled", "shift"], &[]),
        node("relu", "Relu6", &["shifted"], &[]),
        floats("w1", &[1, 1, 4, 1], &[2.0]),
        conv("depthwise", "DepthwiseConv2dNative", &["relu", "w1"], 1),
        node("residual", "AddV2", &["relu", "depthwise"], &[]),
        floats("w2", &[1, 1, 4, 12], &[1.0]),
        conv("codes", "Conv2D", &["residual", "w2"], 5),
        floats("w3", &[1, 1, 4, 6], &[1.0]),
        conv("logits", "Conv2D", &["residual", "w3"], 5),
        floats("bias", &[6], &[0.5]),
        node("biased", "BiasAdd", &["logits", "bias"], &[]),
        node("shape", "Shape", &["relu"], &[]),
        integers("zero", &[1], &[0]),
        node(
            "batch",
            "StridedSlice",
            &["shape", "zero", "zero", "zero"],
            &[("shrink_axis_mask", AttrKind::Int(1))],
        ),
        integers("minus", &[], &[-1]),
        integers("two", &[], &[2]),
        integers("four", &[], &[4]),
        one("one"),
        node(
            "codes.dims",
            "Pack",
            &["batch", "minus", "one", "four"],
            &[],
        ),
        node("logits.dims", "Pack", &["batch", "minus", "two"], &[]),
        node("codes.rows", "Reshape", &["codes", "codes.dims"], &[]),
        node("logits.rows", "Reshape", &["biased", "logits.dims"], &[]),
        node("concat", "ConcatV2", &["codes.rows", "one"], &[]),
        node(
            "Squeeze",
            "Squeeze",
            &["concat"],
            &[("squeeze_dims", list(&[2]))],
        ),
        node(
            "concat_1",
            "ConcatV2",
            &["logits.rows", "one:0", "^concat"],
            &[],
        ),
    ]
}

fn encode(nodes: &[NodeDef]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for node in nodes {
        bytes.push(1 << 3 | 2);
        node.encode_length_delimited(&mut bytes).unwrap();
    }
    bytes
}

/// Boxes, classes, and constants by name.
type Converted = (usize, usize, BTreeMap<String, Vec<f32>>);

/// Converts, and makes every weight, as the writer would.
fn convert(bytes: &[u8]) -> Result<Converted, ForgeError> {
    let source = GraphDef::parse(bytes)?;
    let detector = detector(&source)?;
    let mut weights = BTreeMap::new();
    for payload in detector.graph.payloads {
        for (spec, bytes) in payload.tensors.iter().zip((payload.make)()?) {
            assert_eq!(spec.bytes()?, bytes.len() as u64, "{}", spec.name);
            weights.insert(
                spec.name.clone(),
                bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes))
                    .collect(),
            );
        }
    }
    Ok((detector.boxes, detector.classes, weights))
}

#[test]
fn folds_what_follows_a_convolution() {
    let (boxes, classes, weights) = convert(&encode(&small())).unwrap();
    assert_eq!((boxes, classes), (3, 2));
    // 0.5 · 1/√(0.96 + 0.04), in the precision of f32.
    assert!(
        weights["shifted.weights"]
            .iter()
            .all(|weight| (weight - 0.5).abs() < 1e-6),
        "{weights:?}"
    );
    assert_eq!(weights["shifted.weights"].len(), 3 * 3 * 3 * 4);
    assert_eq!(weights["shifted.bias"].len(), 4);
    assert!(
        weights.contains_key("shifted.bias")
            && weights["shifted.bias"].iter().all(|bias| *bias == -0.25)
    );
    assert_eq!(weights["biased.bias"], [0.5; 6]);
    assert_eq!(weights["depthwise.weights"], [2.0; 4]);
}

#[test]
fn weights_change_their_order() {
    // [height, width, in, out] = [1, 2, 2, 2] counted through.
    let counted: Vec<f32> = (0..8).map(|value| value as f32).collect();
    let node = floats("w", &[1, 2, 2, 2], &counted);
    let constant = node.constant().unwrap();
    let dense = convolution::filters_first(&constant, false, &[1.0, 10.0]).unwrap();
    assert_eq!(dense, [0.0, 4.0, 2.0, 6.0, 10.0, 50.0, 30.0, 70.0]);
    let depthwise = convolution::filters_first(&constant, true, &[1.0, 1.0, 1.0, 10.0]).unwrap();
    assert_eq!(depthwise, [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 30.0, 70.0]);
}

#[test]
fn same_padding_puts_the_odd_zero_behind() {
    let node = node("n", "Conv2D", &[], &[]);
    let cases = [
        (
            ("SAME", 300, 3, 2, 1),
            ([0, 1], 150),
            "even size: one zero, behind",
        ),
        (("SAME", 75, 3, 2, 1), ([1, 1], 38), "odd size: both"),
        (
            ("SAME", 19, 3, 1, 1),
            ([1, 1], 19),
            "stride 1 keeps the size",
        ),
        (("SAME", 10, 1, 1, 1), ([0, 0], 10), "a point needs none"),
        (
            ("SAME", 8, 3, 1, 2),
            ([2, 2], 8),
            "dilation widens the reach",
        ),
        (("VALID", 10, 3, 2, 1), ([0, 0], 4), "no padding at all"),
    ];
    for ((padding, size, kernel, stride, dilation), expected, why) in cases {
        assert_eq!(
            convolution::pad(&node, padding, size, kernel, stride, dilation).unwrap(),
            expected,
            "{why}"
        );
    }
    assert!(
        convolution::pad(&node, "VALID", 2, 3, 1, 1).is_err(),
        "a kernel larger than the map"
    );
    assert!(convolution::pad(&node, "EXPLICIT", 9, 3, 1, 1).is_err());
}

/// Changes the small detector and says what the error must contain.
type Attack = (&'static str, fn(&mut Vec<NodeDef>), &'static str);

fn at<'a>(nodes: &'a mut [NodeDef], name: &str) -> &'a mut NodeDef {
    nodes.iter_mut().find(|node| node.name == name).unwrap()
}

const ATTACKS: [Attack; 14] = [
    (
        "an output is absent",
        |nodes| nodes.retain(|node| node.name != "Squeeze"),
        "node Squeeze is missing",
    ),
    (
        "an input is absent",
        |nodes| at(nodes, "relu").input = vec!["nowhere".into()],
        "node nowhere is missing",
    ),
    (
        "no input at all",
        |nodes| at(nodes, "relu").input.clear(),
        "input 0 is missing",
    ),
    (
        "a circle",
        |nodes| at(nodes, "w0").input.push("relu".into()),
        "depends on itself",
    ),
    (
        "unknown operation",
        |nodes| at(nodes, "relu").op = "While".into(),
        "node relu (While)",
    ),
    (
        "another layout",
        |nodes| {
            drop(at(nodes, "conv").attr.insert(
                "data_format".into(),
                AttrValue {
                    value: Some(AttrKind::Bytes(b"NCHW".to_vec())),
                },
            ))
        },
        "not NHWC",
    ),
    (
        "stride of zero",
        |nodes| *at(nodes, "conv") = conv("conv", "Conv2D", &["Preprocessor/sub", "w0"], 0),
        "strides [1, 0, 0, 1]",
    ),
    (
        "huge stride",
        |nodes| *at(nodes, "conv") = conv("conv", "Conv2D", &["Preprocessor/sub", "w0"], i64::MAX),
        "strides",
    ),
    (
        "weights for other channels",
        |nodes| *at(nodes, "w1") = floats("w1", &[1, 1, 9, 1], &[2.0]),
        "[1, 1, 9, 1] on 4 channels",
    ),
    (
        "overflowing constant",
        |nodes| *at(nodes, "w0") = floats("w0", &[i64::MAX, 3, 3, 4], &[0.5]),
        "constant w0",
    ),
    (
        "negative size",
        |nodes| *at(nodes, "w0") = floats("w0", &[-1, 3, 3, 4], &[0.5]),
        "constant w0",
    ),
    (
        "not a number",
        |nodes| *at(nodes, "shift") = floats("shift", &[4], &[f32::NAN]),
        "finite",
    ),
    (
        "too many elements",
        |nodes| *at(nodes, "shift") = floats("shift", &[2], &[1.0; 4]),
        "expected 2 elements",
    ),
    (
        "rows that no anchor has",
        |nodes| *at(nodes, "minus") = integers("minus", &[], &[4]),
        "[6, 1, 1] to [1, 4, 2]",
    ),
];

#[test]
fn every_attack_has_its_name() {
    for (why, change, expected) in ATTACKS {
        let mut nodes = small();
        change(&mut nodes);
        let message = match convert(&encode(&nodes)) {
            Ok(_) => panic!("{why}: converted"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(expected), "{why}: {message}");
    }
}

#[test]
fn bytes_that_are_no_graph() {
    let cases: [(&str, Vec<u8>); 4] = [
        ("length beyond the file", vec![10, 200]),
        ("endless integer", vec![255; 12]),
        ("wire type 7", vec![15]),
        ("node that is no node", vec![10, 2, 10, 9]),
    ];
    for (why, bytes) in cases {
        let error = GraphDef::parse(&bytes).expect_err(why);
        assert!(
            matches!(
                error,
                GraphDefError::Wire { .. } | GraphDefError::Node { .. }
            ),
            "{why}: {error}"
        );
    }
    let twice = encode(&[floats("w", &[], &[1.0]), floats("w", &[], &[1.0])]);
    assert_eq!(
        GraphDef::parse(&twice).unwrap_err(),
        GraphDefError::Duplicate { name: "w".into() }
    );
    assert!(
        matches!(
            convert(&[]),
            Err(ForgeError::GraphDef(GraphDefError::Missing { .. }))
        ),
        "an empty file is an empty graph"
    );
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), is_cut: bool) {
        let mut bytes = encode(&small());
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = convert(&bytes);
    }
}
