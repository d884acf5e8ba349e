//! What was written comes back; what others wrote comes in as numpy understands it; what is damaged has a name.

use std::ops::ControlFlow;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::graph::{Dim, GraphBuilder, Node};
use crate::proto::onnx::{DataLocation, DataType, OperatorSetIdProto, StringStringEntryProto};
use crate::writer::{MODEL_FILE, write_model};

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx_file")
}

/// (name, shape, bytes) of every constant of a graph.
fn constants(graph: Graph<'_>) -> BTreeMap<String, (Vec<i64>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for payload in graph.payloads {
        for (spec, bytes) in payload.tensors.into_iter().zip((payload.make)().unwrap()) {
            found.insert(spec.name, (spec.dims, bytes));
        }
    }
    found
}

#[test]
fn what_is_written_comes_back_byte_for_byte() {
    let mut graph = GraphBuilder::new("g");
    graph.input("x", DataType::Float, &[Dim::Named("n"), Dim::Fixed(300)]);
    let large: Vec<f32> = (0..300 * 300).map(|at| at as f32).collect();
    graph.floats("w", &[300, 300], &large);
    graph.integers("shape", &[2], &[-1, 300]);
    graph.node(Node::new("MatMul", &["x", "w"], &["h"]));
    graph.node(Node::new("Reshape", &["h", "shape"], &["y"]).int("allowzero", 0));
    graph.output("y", DataType::Float, &[Dim::Named("n"), Dim::Fixed(300)]);
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut go_on = |_: crate::folder::Progress<'_>| ControlFlow::Continue(());
    write_model(
        graph.finish().unwrap(),
        first.path(),
        MODEL_FILE,
        &mut go_on,
    )
    .unwrap();
    let file = OnnxFile::open(&first.path().join(MODEL_FILE)).unwrap();
    // Twice: a file gives its graph as often as it is asked.
    drop(file.graph());
    write_model(file.graph(), second.path(), MODEL_FILE, &mut go_on).unwrap();
    for name in ["model.onnx", "model.onnx.data"] {
        let [before, after] =
            [&first, &second].map(|dir| std::fs::read(dir.path().join(name)).unwrap());
        assert!(before == after, "{name} differs");
    }
}

#[test]
fn others_constants_are_what_numpy_says() {
    let file = OnnxFile::open(&data().join("third_party.onnx")).unwrap();
    let text = std::fs::read_to_string(data().join("expected.json")).unwrap();
    let expected: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let found = constants(file.graph());
    assert_eq!(found.len(), expected.len());
    for (name, value) in expected {
        let (dims, bytes) = &found[&name];
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(serde_json::json!(dims), value["dims"], "{name}");
        assert_eq!(hex, value["bytes"], "{name}");
    }
}

#[test]
fn operators_nobody_knows_pass_through_untouched() {
    let path = data().join("third_party.onnx");
    let before = ModelProto::decode(std::fs::read(&path).unwrap().as_slice()).unwrap();
    let file = OnnxFile::open(&path).unwrap();
    assert_eq!(
        file.header().operator_sets,
        BTreeMap::from([("".into(), 17), ("com.example".into(), 3)])
    );
    assert_eq!(file.operators()["com.example::Wiggle"], 1);
    let dir = tempfile::tempdir().unwrap();
    write_model(file.graph(), dir.path(), MODEL_FILE, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let written = std::fs::read(dir.path().join(MODEL_FILE)).unwrap();
    let after = ModelProto::decode(written.as_slice()).unwrap();
    let (old, new) = (before.graph.unwrap(), after.graph.unwrap());
    // The strings, which have no bytes of their own, are a node now; all others are the same, with the graphs inside them.
    assert_eq!(new.node[0].op_type, "Constant");
    assert_eq!(
        new.node[0].attribute[0].t.as_ref().unwrap().string_data,
        [b"stop".to_vec(), b"go".to_vec()]
    );
    assert_eq!(new.node[1..], old.node);
    assert_eq!(
        (new.input, new.output, new.value_info),
        (old.input, old.output, old.value_info)
    );
    assert_eq!(
        (after.ir_version, after.metadata_props),
        (8, before.metadata_props)
    );
    assert_eq!(after.opset_import.len(), 2);
    // And what was written can be read again.
    assert_eq!(
        constants(
            OnnxFile::open(&dir.path().join(MODEL_FILE))
                .unwrap()
                .graph()
        ),
        constants(file.graph())
    );
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: name.into(),
        r#type: None,
    }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    Node::new(op, inputs, outputs).into()
}

fn tensor(name: &str, dims: &[i64], bytes: usize) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float.into(),
        raw_data: Some(vec![0; bytes]),
        ..TensorProto::default()
    }
}

/// x + w, then a branch that reads both.
fn small() -> ModelProto {
    let branch = GraphProto {
        node: vec![node("Mul", &["sum", "w"], &["inner"])],
        output: vec![value("inner")],
        ..GraphProto::default()
    };
    let mut choose = node("If", &["flag"], &["y"]);
    choose.attribute = ["then_branch", "else_branch"]
        .map(|name| AttributeProto {
            name: name.into(),
            kind: AttributeType::Graph.into(),
            g: Some(branch.clone()),
            ..AttributeProto::default()
        })
        .into();
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(GraphProto {
            name: "g".into(),
            node: vec![node("Add", &["x", "w"], &["sum"]), choose],
            initializer: vec![tensor("w", &[2, 3], 24)],
            input: vec![value("x"), value("flag")],
            output: vec![value("y")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

fn external(entries: &[(&str, &str)]) -> TensorProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: key.to_string(),
        value: value.to_string(),
    };
    TensorProto {
        raw_data: None,
        external_data: entries.iter().map(entry).collect(),
        data_location: Some(DataLocation::External.into()),
        ..tensor("w", &[2, 3], 0)
    }
}

fn read(model: &ModelProto) -> Result<OnnxFile, ForgeError> {
    OnnxFile::parse(&model.encode_to_vec(), &data())
}

/// Changes the small model and says what the error must contain.
type Attack = (
    &'static str,
    fn(&mut ModelProto, &mut GraphProto),
    &'static str,
);

#[rustfmt::skip] // one attack a line
const ATTACKS: [Attack; 25] = [
    ("no such version of the format", |model, _| model.ir_version = 99, "file format: expected version 3 to 14, found 99"),
    ("no such operator set", |model, _| model.opset_import[0].version = -1, "operator set \"\": expected version 1 to 1000, found -1"),
    ("two versions of one set", |model, _| model.opset_import.push(OperatorSetIdProto { domain: "ai.onnx".into(), version: 16 }), "operator set \"\" is defined twice"),
    ("a value from nowhere", |_, graph| graph.node[0].input[0] = "nowhere".into(), "reads nowhere, which nothing defines"),
    ("a value from nowhere, in a branch", |_, graph| inner(graph).node[0].input[0] = "nowhere".into(), "reads nowhere, which nothing defines"),
    ("a circle of one", |_, graph| graph.node[0].input[0] = "sum".into(), "in a circle or out of order"),
    ("a circle of two", |_, graph| graph.node[0].input[0] = "y".into(), "in a circle or out of order"),
    ("one value of two nodes", |_, graph| graph.node[1].output[0] = "sum".into(), "value sum is defined twice"),
    ("a node makes a constant", |_, graph| graph.node[1].output[0] = "w".into(), "value w is defined twice"),
    ("two constants of one name", |_, graph| graph.initializer.push(tensor("w", &[1], 4)), "value w is defined twice"),
    ("an output nobody makes", |_, graph| graph.output[0].name = "z".into(), "output z is made by no node"),
    ("an output without a name", |_, graph| graph.output[0].name.clear(), "an output has no name"),
    ("a node without an operator", |_, graph| graph.node[0].op_type.clear(), "an operator has no name"),
    ("an endless name", |_, graph| graph.node[0].name = "n".repeat(2000), "bytes of a name: expected at most 1024, found 2000"),
    ("elements are missing", |_, graph| graph.initializer[0].raw_data = Some(vec![0; 20]), "constant w: elements: expected 24 bytes by shape and type, found 20 bytes"),
    ("a negative size", |_, graph| graph.initializer[0].dims[0] = -2, "tensor w has shape [-2, 3]"),
    ("a size that overflows", |_, graph| graph.initializer[0].dims = vec![i64::MAX, i64::MAX], "tensor w has shape"),
    ("no such element type", |_, graph| graph.initializer[0].data_type = 77, "constant w: type: expected one of the element types"),
    ("a path out of the folder", |_, graph| graph.initializer[0] = external(&[("location", "../../../etc/passwd")]), "location: expected the name of a file in the same folder"),
    ("an absolute path", |_, graph| graph.initializer[0] = external(&[("location", "/etc/passwd")]), "location: expected the name of a file in the same folder"),
    ("no path at all", |_, graph| graph.initializer[0] = external(&[("offset", "0")]), "location: expected the name of a file, found none"),
    ("a file that is not there", |_, graph| graph.initializer[0] = external(&[("location", "absent.bin")]), "cannot open"),
    ("bytes beyond the file", |_, graph| graph.initializer[0] = external(&[("location", "third_party.bin"), ("offset", "73")]), "offset: expected 24 bytes inside the 96 of third_party.bin, found 73"),
    ("an offset that overflows", |_, graph| graph.initializer[0] = external(&[("location", "third_party.bin"), ("offset", "18446744073709551615")]), "offset: expected"),
    ("another length than the shape's", |_, graph| graph.initializer[0] = external(&[("location", "third_party.bin"), ("length", "25")]), "length: expected 24 bytes by shape and type, found 25"),
];

fn inner(graph: &mut GraphProto) -> &mut GraphProto {
    graph.node[1].attribute[0].g.as_mut().unwrap()
}

#[test]
fn every_attack_has_its_name() {
    read(&small()).unwrap();
    for (why, change, expected) in ATTACKS {
        let mut model = small();
        let mut graph = model.graph.take().unwrap();
        change(&mut model, &mut graph);
        model.graph = Some(graph);
        let message = match read(&model) {
            Ok(_) => panic!("{why}: read"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(expected), "{why}: {message}");
    }
}

#[test]
fn numbers_are_counted_before_anything_is_allocated() {
    // Empty nodes: two bytes each.
    let mut graph = [0x0a, 0x00].repeat(MAX_NODES + 1);
    let mut model = vec![0x3a];
    prost::encoding::encode_varint(graph.len() as u64, &mut model);
    model.append(&mut graph);
    let message = OnnxFile::parse(&model, &data()).unwrap_err().to_string();
    assert!(
        message.contains("nodes: expected at most 131072, found 131073"),
        "{message}"
    );
    // A graph in a graph in a graph…
    let mut nested = GraphProto::default();
    for _ in 0..=MAX_DEPTH {
        let attribute = AttributeProto {
            g: Some(nested),
            ..AttributeProto::default()
        };
        let node = NodeProto {
            attribute: vec![attribute],
            ..node("If", &[], &[])
        };
        nested = GraphProto {
            node: vec![node],
            ..GraphProto::default()
        };
    }
    let deep = ModelProto {
        graph: Some(nested),
        ..small()
    };
    let message = read(&deep).unwrap_err().to_string();
    assert!(
        message.contains("graphs inside graphs: expected at most 8, found 9"),
        "{message}"
    );
}

#[test]
fn files_that_are_no_models() {
    let cases: [(&str, &[u8], &str); 4] = [
        ("an empty file", b"", "expected version 3 to 14, found 0"),
        ("text", b"Hello, world.", "cut off, or is of no kind"),
        (
            "a field that goes on behind the end",
            &[0x3a, 0xff, 0x01],
            "cut off",
        ),
        ("an endless number", &[0xff; 12], "cut off"),
    ];
    for (why, bytes, expected) in cases {
        let message = OnnxFile::parse(bytes, &data()).unwrap_err().to_string();
        assert!(message.contains(expected), "{why}: {message}");
    }
    let mut model = small();
    model.graph = None;
    assert!(
        read(&model)
            .unwrap_err()
            .to_string()
            .contains("it holds no graph")
    );
}

#[test]
fn constants_among_the_inputs_of_an_old_file_are_no_inputs() {
    let mut model = small();
    model.graph.as_mut().unwrap().input.push(value("w"));
    let inputs = |model: &ModelProto| read(model).unwrap().graph().inputs.len();
    assert_eq!(
        inputs(&model),
        3,
        "since version 4 an input may have a default"
    );
    model.ir_version = 3;
    assert_eq!(inputs(&model), 2);
    assert_eq!(read(&model).unwrap().header().ir_version, 4);
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), is_cut: bool, is_small: bool) {
        let mut bytes = if is_small {
            small().encode_to_vec()
        } else {
            std::fs::read(data().join("third_party.onnx")).unwrap()
        };
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(file) = OnnxFile::parse(&bytes, &data()) {
            // What was accepted can be made.
            constants(file.graph());
        }
    }
}
