//! Our byte pair encoding beside that of the `tokenizers` crate on the same file.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;

use super::*;

/// A vocabulary in which merges cross and overlap, with bytes for what has no token.
fn file(change: impl Fn(&mut Value)) -> Value {
    let words = [
        "<unk>", "a", "b", "c", "é", "ab", "bc", "abc", "aa", "aaaa", "ba", "bab", "cab", "é́",
        "bcé",
    ];
    let mut vocab: serde_json::Map<String, Value> = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), (id + 2).into()))
        .collect();
    for byte in 0..=255 {
        vocab.insert(format!("<0x{byte:02X}>"), (byte + 40).into());
    }
    let mut file = json!({
        "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
        "merges": [["b", "a"], ["a", "a"], ["a", "b"], ["b", "c"], ["aa", "aa"], ["ab", "c"], ["ba", "b"], ["c", "ab"], ["bc", "é"]],
    });
    change(&mut file);
    file
}

/// All ways in which files differ.
fn files() -> Vec<Value> {
    let mut files = Vec::new();
    for bits in 0..8_u8 {
        let flag = |at: u8| bits >> at & 1 == 1;
        files.push(file(|file| {
            file["fuse_unk"] = flag(0).into();
            file["byte_fallback"] = flag(1).into();
            file["ignore_merges"] = flag(2).into();
        }));
    }
    files.push(file(|file| file["unk_token"] = Value::Null));
    files.push(file(|file| {
        file["merges"] = json!(["#version: 0.2", "b a", "a a", "a b", "aa aa", "b a"]);
    }));
    files.push(file(|file| {
        file["byte_fallback"] = true.into();
        if let Some(vocab) = file["vocab"].as_object_mut() {
            vocab.shift_remove("<0xCC>");
        }
    }));
    files
}

fn ids(model: &impl Model, text: &str) -> Vec<u32> {
    let tokens = model.tokenize(text).unwrap();
    tokens.iter().map(|token| token.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tokens_are_those_of_the_crate(text in "[abcé́d猫]{1,40}") {
        for file in files() {
            let theirs: BPE = serde_json::from_str(&file.to_string()).unwrap();
            let ours: Bpe = serde_json::from_str(&file.to_string()).unwrap();
            prop_assert_eq!(ids(&ours, &text), ids(&theirs, &text), "{}", file);
        }
    }
}

#[test]
fn the_vocabulary_is_that_of_the_crate() {
    let file = file(|_| {});
    let theirs: BPE = serde_json::from_str(&file.to_string()).unwrap();
    let ours: Bpe = serde_json::from_str(&file.to_string()).unwrap();
    assert_eq!(Model::get_vocab(&ours), Model::get_vocab(&theirs));
    assert_eq!(ours.get_vocab_size(), theirs.get_vocab_size());
    assert_eq!(
        (ours.token_to_id("abc"), ours.token_to_id("x")),
        (Some(9), None)
    );
    assert_eq!(
        (ours.id_to_token(9).as_deref(), ours.id_to_token(0)),
        (Some("abc"), None)
    );
}

#[test]
fn a_long_word_is_joined_to_its_end() {
    let ours: Bpe = serde_json::from_value(file(|_| {})).unwrap();
    let long = "a".repeat(200_000);
    assert_eq!(ids(&ours, &long).len(), 50_000, "four letters a token");
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 7] = [
        (|file| file["merges"] = json!([["a", "猫"]]), "merge 0"),
        (
            |file| file["merges"] = json!([["a", "b", "c"]]),
            "expected two texts, found 3",
        ),
        (|file| file["merges"] = json!(["abc"]), "expected two texts"),
        (|file| file["merges"] = json!(7), "a list of merges"),
        (
            |file| file["vocab"]["x"] = 3.into(),
            "token 3 has two texts",
        ),
        (
            |file| file["vocab"]["x"] = (1_u32 << 30).into(),
            "ids below",
        ),
        (
            |file| file["vocab"][""] = 1.into(),
            "token 1: expected a text",
        ),
    ];
    for (change, expected) in cases {
        let error = serde_json::from_str::<Bpe>(&file(change).to_string()).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    let missing = file(|file| file["unk_token"] = "<nothing>".into());
    let model: Bpe = serde_json::from_value(missing).unwrap();
    assert!(model.tokenize("a").is_ok());
    let error = model.tokenize("猫").unwrap_err().to_string();
    assert!(error.contains("<nothing>"), "{error}");
}
