//! Checkpoints: what is written is read again, steps change what they name, and damage is named.

use std::ops::ControlFlow;

use serde_json::json;

use super::*;
use crate::architecture::toys;
use crate::architecture::{Model, from_checkpoint};
use crate::decoder::{LayerPart, Options, portable};

fn go_on(_: crate::folder::Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn about() -> About {
    About {
        name: "toy".into(),
        license: "MIT".into(),
        sources: Vec::new(),
        ends: Ends {
            bos: 0,
            add_bos: false,
            eos: vec![1],
        },
        steps: Vec::new(),
    }
}

/// A toy of a family as a checkpoint in `dir`.
pub(crate) fn imported(dir: &Path, (config, toy): &toys::Checkpoint) -> Checkpoint {
    let Model::Decoder(spec) = from_checkpoint(config, toy).unwrap() else {
        panic!("a decoder");
    };
    let text = Text {
        tokenizer: b"{}".to_vec(),
        chat_template: None,
        ends: about().ends,
        pooling: "none",
    };
    Checkpoint::import(&spec, toy, &text, about(), dir, &mut go_on).unwrap()
}

#[test]
fn a_checkpoint_makes_the_graph_of_its_source() {
    let root = tempfile::tempdir().unwrap();
    for (name, toy) in [
        ("llama", toys::gated("llama", 1)),
        ("gemma3", toys::gated("gemma3_text", 2)),
    ] {
        let checkpoint = imported(&root.path().join(name), &toy);
        let Model::Decoder(spec) = from_checkpoint(&toy.0, &toy.1).unwrap() else {
            panic!("a decoder");
        };
        let bytes = |graph: crate::graph::Graph<'_>| -> Vec<Vec<u8>> {
            let made = graph.payloads.into_iter().map(|payload| (payload.make)());
            made.flat_map(Result::unwrap).collect()
        };
        let source = portable(&toy.1, &spec, &Options::FP32).unwrap();
        let again = portable(checkpoint.weights(), checkpoint.spec(), &Options::FP32).unwrap();
        assert_eq!(source.nodes, again.nodes, "{name}");
        assert!(bytes(source) == bytes(again), "{name}: other weights");
    }
}

#[test]
fn a_step_changes_what_it_names_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 1));
    let name = layer_weight(0, LayerPart::Up);
    let mut change = |tensor: &str| {
        Ok((tensor == name).then(|| vec![0.5; checkpoint.tensor(tensor).unwrap().len()]))
    };
    let step = json!({"step": "flatten"});
    let dir = root.path().join("b");
    let spec = checkpoint.spec().clone();
    let changed = checkpoint
        .change(&dir, &spec, step.clone(), &mut change, &mut go_on)
        .unwrap();
    assert_eq!(changed.about().steps, [step]);
    assert!(
        changed
            .tensor(&name)
            .unwrap()
            .iter()
            .all(|weight| *weight == 0.5)
    );
    for (tensor, _) in constants(&spec) {
        let is_same = changed.tensor(&tensor).unwrap() == checkpoint.tensor(&tensor).unwrap();
        assert_eq!(is_same, tensor != name, "{tensor}");
    }
    assert_eq!(changed.tokenizer().unwrap(), b"{}");
    for checkpoint in [&checkpoint, &changed] {
        let file = hash_file(&checkpoint.dir().join(WEIGHTS_FILE), &mut go_on).unwrap();
        assert_eq!(checkpoint.weights_sha256().unwrap(), file.sha256);
    }
    assert_ne!(
        checkpoint.weights_sha256().unwrap(),
        changed.weights_sha256().unwrap()
    );
    // One that was written before hashes were noted.
    let path = dir.join(DESCRIPTION_FILE);
    let mut description: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let noted = description
        .as_object_mut()
        .unwrap()
        .remove("weights_sha256");
    std::fs::write(&path, description.to_string()).unwrap();
    let old = Checkpoint::open(&dir).unwrap();
    assert_eq!(noted.unwrap(), old.weights_sha256().unwrap());
}

#[test]
fn wrong_changes_leave_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 1));
    let dir = root.path().join("b");
    /// Elements of the first tensor, and the message.
    type Case = (fn(usize) -> Vec<f32>, &'static str);
    let cases: [Case; 2] = [
        (
            |count| vec![1.0; count - 1],
            "tensor embedding.weight: expected",
        ),
        (
            |count| [vec![0.0; count - 1], vec![f32::NAN]].concat(),
            "is NaN",
        ),
    ];
    for (make, expected) in cases {
        let mut change = |tensor: &str| Ok(Some(make(checkpoint.tensor(tensor).unwrap().len())));
        let spec = checkpoint.spec().clone();
        let message = checkpoint
            .change(&dir, &spec, json!({}), &mut change, &mut go_on)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn damaged_folders_are_named() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a");
    imported(&dir, &toys::gated("llama", 1));
    let description = std::fs::read_to_string(dir.join(DESCRIPTION_FILE)).unwrap();
    let cases = [
        (description.replace(FORMAT, "other/v1"), "format: expected"),
        (
            description.replace("\"hidden\": 32", "\"hidden\": 64"),
            "embedding columns: expected 64, found 32",
        ),
        (
            description.replace("\"kv_heads\": 1", "\"kv_heads\": 0"),
            "heads: expected 0",
        ),
        (
            description.replace("final_norm.weight", "missing"),
            "tensor missing is missing",
        ),
        (description[..100].to_string(), "EOF"),
    ];
    for (text, expected) in cases {
        std::fs::write(dir.join(DESCRIPTION_FILE), &text).unwrap();
        let message = Checkpoint::open(&dir).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
