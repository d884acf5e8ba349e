//! Files as they should be, and every way in which one can lie.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::sample::{Sample, file};
use super::*;
use crate::weights::Weights;

/// Writes the files into a folder and opens it.
fn open(
    dir: &std::path::Path,
    files: &[(&str, Vec<u8>)],
) -> Result<Shards, crate::error::ForgeError> {
    let mut paths: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        paths.insert(name.to_string(), path);
    }
    Shards::open(&paths)
}

#[test]
fn reads_all_float_types_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::default()
        .floats("a", &[2, 2], &[1.0, -2.0, 3.0, 4.0])
        .raw("b", "BF16", &[2], &[0x80, 0x3f, 0x00, 0xc0])
        .raw("c", "F16", &[1, 2], &[0x00, 0x3c, 0x00, 0xb8])
        .raw("mask", "BOOL", &[1], &[1])
        .row("__metadata__", json!({"format": "pt"}));
    let weights = open(dir.path(), &[("model.safetensors", sample.bytes())]).unwrap();
    assert_eq!(weights.names(), ["a", "b", "c", "mask"]);
    assert_eq!(weights.shape("a"), Some(vec![2, 2]));
    assert_eq!(weights.rows("a", 1..2).unwrap(), [3.0, 4.0]);
    assert_eq!(weights.floats("b").unwrap(), [1.0, -2.0]);
    assert_eq!(weights.floats("c").unwrap(), [1.0, -0.5]);
    let message = weights.floats("mask").unwrap_err().to_string();
    assert!(message.contains("type BOOL is not supported"), "{message}");
    let message = weights.floats("d").unwrap_err().to_string();
    assert!(message.contains("tensor d is missing"), "{message}");
}

#[test]
fn headers_that_lie() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    let twice = r#"{"t": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "t": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}"#;
    let overlap = r#"{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "b": {"dtype": "U8", "shape": [4], "data_offsets": [3, 7]}}"#;
    let huge = format!("[{0}, {0}, {0}]", 1_u64 << 62);
    let cases: [(&str, Vec<u8>, &str); 14] = [
        ("empty", vec![], "expected 8 bytes, found 0"),
        (
            "short header",
            9_u64.to_le_bytes().to_vec(),
            "expected 17 bytes, found 8",
        ),
        (
            "header without end",
            u64::MAX.to_le_bytes().to_vec(),
            "header bytes: expected at most",
        ),
        ("no JSON", file("{\"t\"", &[]), "header: EOF"),
        ("a list", file("[]", &[]), "expected an object of tensors"),
        (
            "unknown field",
            file(
                r#"{"t": {"dtype": "U8", "shape": [], "data_offsets": [0, 1], "x": 1}}"#,
                &[0],
            ),
            "unknown field `x`",
        ),
        (
            "unknown type",
            file(&tensor("F8_E4M3", "[1]", "[0, 1]"), &[0]),
            "type F8_E4M3 is not supported",
        ),
        (
            "negative size",
            file(&tensor("F32", "[-1]", "[0, 4]"), &[0; 4]),
            "invalid value",
        ),
        (
            "billions of elements",
            file(&tensor("F32", &huge, "[0, 4]"), &[0; 4]),
            "expected more than 2^64, found 4 bytes",
        ),
        (
            "another length",
            file(&tensor("F32", "[2]", "[0, 4]"), &[0; 4]),
            "expected 8, found 4 bytes",
        ),
        (
            "behind the end",
            file(&tensor("F32", "[1]", "[4, 8]"), &[0; 4]),
            "bytes 4 to 8 of 4",
        ),
        (
            "backwards",
            file(&tensor("F32", "[1]", "[8, 4]"), &[0; 8]),
            "bytes 8 to 4 of 8",
        ),
        ("twice", file(twice, &[0; 2]), "tensor t occurs twice"),
        ("overlap", file(overlap, &[0; 8]), "tensors a and b overlap"),
    ];
    for (why, bytes, expected) in cases {
        let message = parse(&bytes).expect_err(why).to_string();
        assert!(message.contains(expected), "{why}: {message}");
    }
}

#[test]
fn shards_must_be_what_the_index_says() {
    let one = |name: &str| Sample::default().floats(name, &[1], &[1.0]).bytes();
    let index = |map: serde_json::Value| json!({"metadata": {}, "weight_map": map}).to_string();
    let both = index(json!({"a": "1.safetensors", "b": "2.safetensors"})).into_bytes();
    const INDEX: &str = "model.safetensors.index.json";
    let dir = tempfile::tempdir().unwrap();
    let shards = [
        (INDEX, both.clone()),
        ("1.safetensors", one("a")),
        ("2.safetensors", one("b")),
    ];
    assert_eq!(open(dir.path(), &shards).unwrap().names(), ["a", "b"]);
    /// The index, the two shards, and what the message must contain.
    type Case<'a> = (&'a str, Vec<u8>, [Vec<u8>; 2], &'a str);
    let cases: [Case<'_>; 5] = [
        (
            "exchanged",
            both.clone(),
            [one("b"), one("a")],
            "tensor a: expected in 1.safetensors, found in 2.safetensors",
        ),
        (
            "missing",
            both.clone(),
            [one("a"), one("c")],
            "tensor b is not in 2.safetensors",
        ),
        ("twice", both, [one("a"), one("a")], "tensor a occurs twice"),
        (
            "unlisted",
            index(json!({"a": "1.safetensors"})).into_bytes(),
            [one("a"), one("b")],
            "",
        ),
        (
            "no index",
            b"{}".to_vec(),
            [one("a"), one("b")],
            "missing field `weight_map`",
        ),
    ];
    for (why, index, [first, second], expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            (INDEX, index),
            ("1.safetensors", first),
            ("2.safetensors", second),
        ];
        let found = open(dir.path(), &files);
        if expected.is_empty() {
            assert_eq!(
                found.unwrap().names(),
                ["a"],
                "{why}: a shard nobody names is not opened"
            );
            continue;
        }
        let message = found.expect_err(why).to_string();
        assert!(message.contains(expected), "{why}: {message}");
    }
    let dir = tempfile::tempdir().unwrap();
    let message = open(dir.path(), &[("config.json", vec![])])
        .unwrap_err()
        .to_string();
    assert!(message.contains("needs model.safetensors or"), "{message}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let header = String::from_utf8_lossy(&bytes).into_owned();
        let _ = parse(&file(&header, &bytes));
    }

    #[test]
    fn no_extent_panics(begin: u64, end: u64, shape in prop::collection::vec(any::<u64>(), 0..9)) {
        let header = json!({"t": {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}}).to_string();
        if let Ok(found) = parse(&file(&header, &[0; 64])) {
            prop_assert!(found.tensors["t"].end <= 64);
        }
    }
}
