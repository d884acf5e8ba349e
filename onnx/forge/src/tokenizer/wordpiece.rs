//! WordPiece (Schuster and Nakajima 2012), as BERT has it: words, and pieces of words that continue one.
//!
//! GGUF marks the beginning of a word with `▁` and leaves continuations bare; `tokenizer.json` leaves beginnings bare and marks
//! continuations with `##`. Text is lowered and accents are dropped, as llama.cpp does with every such vocabulary.
//!
//! ```text
//!   GGUF             "[CLS]"  "▁play"  "ing"
//!   tokenizer.json   "[CLS]"  "play"   "##ing"
//! ```

use serde_json::{Map, Value, json};

use super::file::File;
use super::{NORMAL, TokenizerError, Tokens};

/// First token of every text.
pub(super) const FIRST: &str = "[CLS]";
/// Last token of every text.
pub(super) const LAST: &str = "[SEP]";
const UNKNOWN_TOKEN: &str = "[UNK]";
/// Longest word that is cut into pieces; a longer one is unknown.
const MAX_WORD_CHARS: u32 = 100;

/// Checks that the tokens which every text needs are there.
pub(super) fn check(tokens: &Tokens<'_>) -> Result<(), TokenizerError> {
    for text in [FIRST, LAST, UNKNOWN_TOKEN] {
        tokens.id(text)?;
    }
    Ok(())
}

/// A token as `tokenizer.json` writes it.
fn spelled(text: &str, kind: i64) -> String {
    let is_name = text.len() > 2 && text.starts_with('[') && text.ends_with(']');
    match text.strip_prefix('▁') {
        Some(beginning) if !beginning.is_empty() => beginning.to_string(),
        _ if is_name || kind != NORMAL => text.to_string(),
        _ => format!("##{text}"),
    }
}

/// The content of `tokenizer.json`.
pub(super) fn to_json(tokens: &Tokens<'_>) -> Vec<u8> {
    let mut vocab = Map::new();
    for (id, (text, kind)) in tokens.texts.iter().zip(&tokens.types).enumerate() {
        vocab.insert(spelled(text, *kind), id.into());
    }
    let special = |text: &str| {
        let id = tokens.id(text).unwrap_or_default();
        json!({"id": text, "ids": [id], "tokens": [text]})
    };
    let mark = |text: &str, kind: u8| json!({"SpecialToken": {"id": text, "type_id": kind}});
    let text = |name: &str, kind: u8| json!({"Sequence": {"id": name, "type_id": kind}});
    let single = [mark(FIRST, 0), text("A", 0), mark(LAST, 0)];
    let pair = [&single[..], &[text("B", 1), mark(LAST, 1)]].concat();
    File {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: tokens.added(),
        normalizer: json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        post_processor: json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": {FIRST: special(FIRST), LAST: special(LAST)},
        }),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        model: json!({
            "type": "WordPiece",
            "unk_token": UNKNOWN_TOKEN,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_WORD_CHARS,
            "vocab": Value::Object(vocab),
        }),
    }
    .to_json()
}
