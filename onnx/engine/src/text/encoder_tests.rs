//! The encoder on a graph whose vectors are known: (id, mask, type) of each token. What a real one says is in tests/families.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::runtime::tests::runtime;
use crate::tiny_graph::{add, ids_as_vectors};

/// WordPiece over a few words, padded and cut to 3 tokens as published files are.
fn tokenizer_json() -> Value {
    let word = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 3}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [word(0, "[PAD]"), word(1, "[UNK]"), word(2, "[CLS]"), word(3, "[SEP]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "stop": 4, "go": 5, "##s": 6}},
    })
}

fn folder(family: &str, config: &Value, graph: &[u8], tokenizer: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [(GRAPH, graph), (TOKENIZER, tokenizer)];
    let mut listed = serde_json::Map::new();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
        let sha256 = format!("{:x}", Sha256::digest(content));
        listed.insert(
            name.into(),
            json!({"sha256": sha256, "bytes": content.len()}),
        );
    }
    let manifest = json!({
        "format": "llmasos-model/v1", "name": "tiny", "role": "encoder", "family": family, "license": "own", "config": config,
        "files": listed,
    });
    std::fs::write(dir.path().join(MANIFEST), manifest.to_string()).unwrap();
    dir
}

fn load(dir: &Path) -> Result<Encoder> {
    Encoder::load(&runtime(), &ModelFolder::open(dir).unwrap())
}

fn encoder() -> Encoder {
    pooling("mean")
}

fn pooling(pooling: &str) -> Encoder {
    let tokenizer = tokenizer_json().to_string();
    let config = json!({"hidden": 3, "context": 6, "pooling": pooling});
    load(folder(FAMILY, &config, &ids_as_vectors(), tokenizer.as_bytes()).path()).unwrap()
}

#[test]
fn a_text_is_read_whole_with_the_tokens_around_it() {
    let mut encoder = encoder();
    let ids = encoder.tokenize("Stops, go").unwrap();
    assert_eq!(
        ids,
        [2, 4, 6, 1, 5, 3],
        "neither cut nor padded, whatever the file says"
    );
    assert_eq!(
        encoder.hidden(&ids[..2]).unwrap(),
        [2.0, 1.0, 0.0, 4.0, 1.0, 0.0]
    );
    // Sums over [CLS] go [SEP]: ids 2 + 5 + 3, masks 3, types 0.
    let length = (10.0_f32 * 10.0 + 3.0 * 3.0).sqrt();
    let vector = encoder.embed("go").unwrap();
    for (found, expected) in vector.iter().zip([10.0 / length, 3.0 / length, 0.0]) {
        assert!((found - expected).abs() < 1e-6, "{vector:?}");
    }
}

#[test]
fn the_source_says_how_to_pool() {
    let length = (2.0_f32 * 2.0 + 1.0).sqrt();
    let first = pooling("cls").embed("go").unwrap();
    assert!((first[0] - 2.0 / length).abs() < 1e-6, "{first:?}");
    let mut unsaid = pooling("none");
    let error = unsaid.embed("go").unwrap_err().to_string();
    assert!(error.contains("pooling: expected mean or cls"), "{error}");
    assert_eq!(unsaid.hidden(&[4]).unwrap(), [4.0, 1.0, 0.0]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let mut encoder = encoder();
    assert!(matches!(encoder.hidden(&[]), Err(EngineError::PromptEmpty)));
    let error = encoder.embed("go go go go go").unwrap_err().to_string();
    assert!(
        error.contains("7 tokens") && error.contains("at most 6"),
        "{error}"
    );
    let error = encoder
        .tokenize(&"x".repeat(MAX_PROMPT_BYTES + 1))
        .unwrap_err();
    assert!(
        matches!(error, EngineError::PromptTooLarge { .. }),
        "{error}"
    );
    assert_eq!(
        encoder.embed("").unwrap().len(),
        3,
        "an empty text has the tokens around it"
    );
}

#[test]
fn a_folder_that_is_no_encoder_has_a_reason() {
    let (good, tokenizer) = (
        json!({"hidden": 3, "context": 6}),
        tokenizer_json().to_string(),
    );
    let graph = ids_as_vectors();
    let cases: [(&str, &Value, &[u8], &str, &str); 7] = [
        ("llama", &good, &graph, &tokenizer, "expected family bert"),
        (FAMILY, &json!({"context": 6}), &graph, &tokenizer, "hidden"),
        (
            FAMILY,
            &json!({"hidden": 3, "context": 2}),
            &graph,
            &tokenizer,
            "context: expected 4..=",
        ),
        (
            FAMILY,
            &json!({"hidden": 3, "context": 6, "pooling": "max"}),
            &graph,
            &tokenizer,
            "max",
        ),
        (
            FAMILY,
            &json!({"hidden": 4, "context": 6}),
            &graph,
            &tokenizer,
            "expected f32[?,?,4]",
        ),
        (FAMILY, &good, &add(), &tokenizer, "input_ids"),
        (FAMILY, &good, &graph, "{", "tokenizer"),
    ];
    for (family, config, graph, tokenizer, words) in cases {
        let error = load(folder(family, config, graph, tokenizer.as_bytes()).path())
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn nothing_has_no_direction() {
    assert_eq!(mean_at_length_one(&[1.0, -1.0, -1.0, 1.0], 2), [0.0, 0.0]);
    assert_eq!(mean_at_length_one(&[3.0, 0.0, 3.0, 8.0], 2), [0.6, 0.8]);
}
