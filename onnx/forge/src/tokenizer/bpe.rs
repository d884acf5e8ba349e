//! Byte-level BPE (Radford et al. 2019): text is split by a rule, bytes are written as letters, neighbours are merged by rank.
//!
//! ```text
//!   gpt-2      contractions, words, numbers, signs
//!   smollm     single digits, then as gpt-2
//!   llama-bpe  its own expression, up to three digits; a whole word that is a token is taken as it is
//!   qwen2      its own expression, single digits, after NFC
//! ```

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::file::{Bpe, File, Ids, Pairs};
use super::{TokenizerError, Tokens};

/// The pattern of Qwen 2's published tokenizer.json.
pub(super) const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of Llama 3's published tokenizer.json.
pub(super) const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is split before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
}

/// Names of the rules in GGUF files.
const RULES: [(&str, Rule); 6] = [
    ("gpt-2", Rule::Gpt2),
    ("smollm", Rule::SmolLm),
    ("llama-bpe", Rule::Llama3),
    ("llama3", Rule::Llama3),
    ("llama-v3", Rule::Llama3),
    ("qwen2", Rule::Qwen2),
];

impl Rule {
    /// The rule of a name.
    pub(super) fn named(name: &str) -> Result<Rule, TokenizerError> {
        match RULES.iter().find(|(known, _)| *known == name) {
            Some((_, rule)) => Ok(*rule),
            None => Err(TokenizerError::PreTokenizer {
                expected: RULES.map(|(known, _)| format!("{known:?}")).join(" or "),
                found: name.to_string(),
            }),
        }
    }

    fn normalizer(self) -> Value {
        match self {
            Rule::Qwen2 => json!({"type": "NFC"}),
            Rule::Gpt2 | Rule::SmolLm | Rule::Llama3 => Value::Null,
        }
    }

    fn pre_tokenizer(self) -> Value {
        let bytes = |is_split: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": is_split, "use_regex": is_split});
        let split = |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let steps = match self {
            Rule::Gpt2 => return bytes(true),
            Rule::SmolLm => [
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true),
            ],
            Rule::Llama3 => [split(LLAMA3_PATTERN), bytes(false)],
            Rule::Qwen2 => [split(QWEN2_PATTERN), bytes(false)],
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// Splits "left right" and checks that left, right and their union are tokens.
pub(super) fn merges<'a>(
    texts: &[&'a str],
    tokens: &Tokens<'_>,
) -> Result<Vec<(&'a str, &'a str)>, TokenizerError> {
    let known: BTreeSet<&str> = tokens.texts.iter().copied().collect();
    let mut pairs = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let pair = text.split_once(' ').filter(|(left, right)| {
            let union = [*left, *right].concat();
            [*left, *right, &union]
                .iter()
                .all(|token| known.contains(token))
        });
        pairs.push(pair.ok_or_else(|| TokenizerError::Merge {
            index,
            merge: text.to_string(),
        })?);
    }
    Ok(pairs)
}

/// The content of `tokenizer.json`.
pub(super) fn to_json(tokens: &Tokens<'_>, rule: Rule, merges: &[(&str, &str)]) -> Vec<u8> {
    File {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: tokens.added(),
        normalizer: rule.normalizer(),
        pre_tokenizer: rule.pre_tokenizer(),
        post_processor: Value::Null,
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: Bpe {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: rule == Rule::Llama3,
            vocab: Ids(&tokens.texts),
            merges: Pairs(merges),
        },
    }
    .to_json()
}
