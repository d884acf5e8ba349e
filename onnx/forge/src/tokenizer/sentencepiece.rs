//! SentencePiece's BPE (Kudo and Richardson 2018), as Llama 2 and Gemma have it: characters are merged, the best score first.
//!
//! GGUF keeps a score per token; the tokenizers library wants a rank per merge. Both ask the same of two neighbours: is their
//! union a token, and how good is it? So every way to cut a token into two others becomes a merge, ranked by the token's score.
//! What no token covers becomes single bytes, `<0x0A>`. A space is the letter `▁`.
//!
//! ```text
//!   "▁the" of score −20:   "▁t"+"he", "▁th"+"e", "▁"+"the"   ─► three merges of neighbouring ranks
//!   text ─ " " → "▁" (and one in front, where the vocabulary was made so) ─ merges ─ ids
//! ```

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::file::{Bpe, File, Ids, Pairs};
use super::{BYTE, CONTROL, SCORES, TYPES, TokenizerError, Tokens, UNKNOWN};
use crate::error::ForgeError;
use crate::gguf::{Gguf, Value as Metadata};

/// Whether a space belongs in front of a text.
const PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// What the algorithm needs besides tokens.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    /// Best first.
    pub(super) merges: Vec<(&'a str, &'a str)>,
    /// Whether a space belongs in front of a text.
    pub(super) has_prefix: bool,
    /// Token for what has none.
    pub(super) unknown: Option<&'a str>,
}

impl<'a> Pieces<'a> {
    /// Reads scores and turns them into merges.
    pub(super) fn read(gguf: &Gguf<'_>, tokens: &Tokens<'a>) -> Result<Pieces<'a>, ForgeError> {
        let scores = gguf.numbers(SCORES)?;
        if scores.len() != tokens.texts.len() {
            return Err(TokenizerError::Length {
                what: SCORES,
                expected: tokens.texts.len(),
                found: scores.len(),
            }
            .into());
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            let score = scores[id];
            return Err(TokenizerError::Score { id, score }.into());
        }
        if !tokens.types.contains(&BYTE) {
            return Err(TokenizerError::Missing {
                token: format!("<0x00> (a {BYTE} in {TYPES})"),
            }
            .into());
        }
        let unknown = tokens.types.iter().position(|kind| *kind == UNKNOWN);
        Ok(Pieces {
            merges: merges(tokens, &scores),
            has_prefix: match gguf.metadata().get(PREFIX) {
                Some(Metadata::Bool(value)) => *value,
                _ => true,
            },
            unknown: unknown.map(|id| tokens.texts[id]),
        })
    }
}

/// Every way to cut a token into two others, best first: by the token's score, and of equal ones the earlier token.
fn merges<'a>(tokens: &Tokens<'a>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    // Control tokens are never made from text, bytes and the unknown one stand for what is no token.
    let is_piece = |kind: i64| kind != CONTROL && kind != BYTE && kind != UNKNOWN;
    let mut ids = BTreeMap::new();
    for (id, (text, kind)) in tokens.texts.iter().zip(&tokens.types).enumerate() {
        if is_piece(*kind) {
            ids.insert(*text, id);
        }
    }
    let mut ranked = Vec::new();
    for (text, id) in &ids {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        for (left, right) in cuts {
            if let (Some(first), Some(second)) = (ids.get(left), ids.get(right)) {
                ranked.push((scores[*id], *id, *first, *second, (left, right)));
            }
        }
    }
    // Scores are no NaN. Cuts of one token are equally good; the order among them is that of their parts.
    ranked.sort_by(|a, b| {
        let by_score = b.0.total_cmp(&a.0);
        by_score.then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
    });
    ranked.into_iter().map(|(.., pair)| pair).collect()
}

/// The content of `tokenizer.json`.
pub(super) fn to_json(tokens: &Tokens<'_>, pieces: &Pieces<'_>) -> Vec<u8> {
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let normalizer = if pieces.has_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]})
    } else {
        space
    };
    File {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: tokens.added(),
        normalizer,
        pre_tokenizer: Value::Null,
        post_processor: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: Bpe {
            r#type: "BPE",
            dropout: None,
            unk_token: pieces.unknown,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: Ids(&tokens.texts),
            merges: Pairs(&pieces.merges),
        },
    }
    .to_json()
}
