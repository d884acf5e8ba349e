//! Model files that lie: each is refused with a sentence that says where, and the process goes on.
//!
//! A tiny real model is imported and then changed in one place: an attribute, an input, a shape, where its weights are, or bytes
//! anywhere in the graph. Operators of our own read weights in place, so a size that does not fit its bytes must be found when
//! the model is opened; nothing may be computed from it. The 300 random changes have no expected sentence: whatever they give,
//! it comes back as a value.

use llmasos_engine::text::{GraphChoice, LanguageModel, LoadOptions};
use llmasos_engine::{ModelFolder, Result};
use llmasos_forge::WeightFormat;
use llmasos_forge::proto::onnx::{ModelProto, NodeProto, TensorProto};
use prost::Message;

use crate::families::tiny::{Imported, imported};
use crate::models::runtime;

const GRAPH: &str = "fused.onnx";

/// Writes other bytes as the fused graph and says so in the manifest.
fn replace(imported: &Imported, graph: &[u8]) {
    let dir = &imported.folder.dir;
    std::fs::write(dir.join(GRAPH), graph).unwrap();
    let path = dir.join("llmasos.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["files"][GRAPH]["bytes"] = graph.len().into();
    std::fs::write(&path, manifest.to_string()).unwrap();
}

/// Opens the folder as it is now and reads a few tokens.
fn read(imported: &Imported) -> Result<Vec<f32>> {
    let folder = ModelFolder::open(&imported.folder.dir)?;
    let options = LoadOptions {
        context: 32,
        graph: GraphChoice::Fused,
        ..LoadOptions::default()
    };
    let mut model = LanguageModel::load(&runtime(), &folder, &options)?;
    let mut last = Vec::new();
    model.score(&[1, 2, 3], 2, &mut |_, scores| last = scores.to_vec())?;
    Ok(last)
}

fn original(imported: &Imported) -> ModelProto {
    let bytes = std::fs::read(imported.folder.dir.join(GRAPH)).unwrap();
    ModelProto::decode(bytes.as_slice()).unwrap()
}

fn node<'m>(model: &'m mut ModelProto, operator: &str) -> &'m mut NodeProto {
    let nodes = &mut model.graph.as_mut().unwrap().node;
    let found = nodes.iter_mut().find(|node| node.op_type == operator);
    found.unwrap_or_else(|| panic!("no {operator} in the graph"))
}

fn set(model: &mut ModelProto, operator: &str, attribute: &str, value: i64) {
    let attributes = &mut node(model, operator).attribute;
    let found = attributes.iter_mut().find(|one| one.name == attribute);
    found.unwrap_or_else(|| panic!("no {attribute}")).i = Some(value);
}

fn weight<'m>(model: &'m mut ModelProto, operator: &str, input: usize) -> &'m mut TensorProto {
    let name = node(model, operator).input[input].clone();
    let constants = &mut model.graph.as_mut().unwrap().initializer;
    constants.iter_mut().find(|one| one.name == name).unwrap()
}

fn place(model: &mut ModelProto, key: &str, value: &str) {
    let data = &mut weight(model, "DecoderBlock", 7).external_data;
    data.iter_mut().find(|one| one.key == key).unwrap().value = value.to_owned();
}

/// A change, and what the error must say.
type Case = (fn(&mut ModelProto), &'static str);

const CASES: [Case; 14] = [
    (
        |model| set(model, "DecoderBlock", "layer", 99),
        "layer: expected below",
    ),
    (
        |model| set(model, "DecoderBlock", "heads", 5),
        "input 7, qkv",
    ),
    (
        |model| set(model, "DecoderBlock", "heads", 1 << 40),
        "attribute heads: expected 0..=",
    ),
    (
        |model| set(model, "DecoderBlock", "heads", -1),
        "attribute heads: expected 0..=",
    ),
    (
        |model| set(model, "DecoderBlock", "kv_heads", 1),
        "attribute kv_heads: expected",
    ),
    (
        |model| set(model, "DecoderBlock", "ffn", 1 << 20),
        "input 16, up",
    ),
    (
        |model| set(model, "Head", "rows", 1 << 23),
        "input 4, table",
    ),
    (
        |model| set(model, "Embedding", "columns", 0),
        "input 1, table",
    ),
    (
        |model| {
            let attributes = &mut node(model, "DecoderBlock").attribute;
            attributes
                .iter_mut()
                .find(|one| one.name == "norm")
                .unwrap()
                .s = Some(b"batch".to_vec());
        },
        "attribute norm: expected one of rms, layer, found \"batch\"",
    ),
    (
        |model| {
            node(model, "DecoderBlock")
                .attribute
                .retain(|one| one.name != "scale")
        },
        "scale",
    ),
    (
        |model| {
            let name = node(model, "DecoderBlock").input[14].clone();
            node(model, "DecoderBlock").input[5] = name.clone();
            node(model, "DecoderBlock").input[7] = name;
        },
        "fused.onnx",
    ),
    (
        |model| {
            // A block that waits for itself.
            let output = node(model, "DecoderBlock").output[0].clone();
            node(model, "DecoderBlock").input[0] = output;
        },
        "fused.onnx",
    ),
    (
        |model| place(model, "offset", "1099511627776"),
        "fused.onnx",
    ),
    (
        |model| place(model, "location", "../../etc/passwd"),
        "fused.onnx",
    ),
];

#[test]
fn what_does_not_fit_is_named() {
    let imported = imported("llama", WeightFormat::Int8);
    let good = original(&imported);
    read(&imported).unwrap();
    for (index, (change, expected)) in CASES.iter().enumerate() {
        let mut model = good.clone();
        change(&mut model);
        replace(&imported, &model.encode_to_vec());
        let error = match read(&imported) {
            Ok(_) => panic!("case {index}, {expected}: it was accepted"),
            Err(error) => error.to_string(),
        };
        assert!(
            error.contains(expected),
            "case {index}, {expected}: {error}"
        );
    }
}

#[test]
fn sizes_of_billions_are_refused() {
    let imported = imported("llama", WeightFormat::Int8);
    let mut model = original(&imported);
    weight(&mut model, "DecoderBlock", 7).dims = vec![1 << 40, 1 << 30];
    replace(&imported, &model.encode_to_vec());
    let error = read(&imported).unwrap_err().to_string();
    assert!(error.contains("fused.onnx"), "{error}");
}

#[test]
fn weights_that_end_early_are_refused() {
    let imported = imported("llama", WeightFormat::Int8);
    let path = imported.folder.dir.join("fused.onnx.data");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = read(&imported).unwrap_err().to_string();
    assert!(
        error.contains("fused.onnx.data") && error.contains("bytes"),
        "{error}"
    );
}

#[test]
fn random_changes_come_back_as_values() {
    let imported = imported("llama", WeightFormat::Int8);
    let good = original(&imported).encode_to_vec();
    let mut random = 0x5eed_u64;
    let mut next = move |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % limit
    };
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            bytes[at] = match next(3) {
                0 => next(256) as u8,
                1 => bytes[at] ^ (1 << next(8)),
                _ => [0x00, 0x7f, 0x80, 0xff][next(4)],
            };
        }
        replace(&imported, &bytes);
        match read(&imported) {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    // Names and values of constants can change without harm; sizes, attributes and wiring cannot.
    assert!(
        accepted > 0 && refused > 100,
        "{accepted} accepted, {refused} refused"
    );
}
