//! A GGUF vocabulary as `tokenizer.json`, the format of the tokenizers library, so that the engine needs one tokenizer reader.
//!
//! GGUF keeps byte-level BPE (tokenizer model "gpt2") as three arrays (tokens, their types, merges) and a name for the rule that
//! splits text before merging. The rules known here are `smollm` (single digits, then GPT-2's split) and `qwen2` (its own
//! regular expression after NFC); an unknown name is refused, because a near miss tokenizes wrongly without any sign.
//!
//! ```text
//!   text ── normalizer ── pre_tokenizer (split, bytes as letters) ── BPE merges ── ids
//!                 added_tokens (<|im_start|> …) are matched before all of it
//! ```

use std::collections::BTreeSet;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Value, json};

use crate::error::ForgeError;
use crate::gguf::Gguf;

/// Tokens that end an answer in published chat models, whichever of them the file names as end of sequence.
const END_TOKENS: [&str; 5] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "</s>",
];

/// ggml's type of a control token.
const CONTROL: i64 = 3;
/// ggml's type of a token that users have added; it is matched like a control token and shown like a normal one.
const USER_DEFINED: i64 = 4;

/// GPT-2's split after single digits, as SmolLM's tokenizer does it.
const SMOLLM: &str = "smollm";
/// Qwen 2's split.
const QWEN2: &str = "qwen2";
/// The pattern of Qwen 2's published tokenizer.json.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A vocabulary that cannot be written as `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// Another algorithm than byte-level BPE.
    #[error("expected tokenizer model \"gpt2\", found {found:?}")]
    Model {
        /// The model.
        found: String,
    },
    /// A splitting rule that is not known.
    #[error("expected pre-tokenizer \"{SMOLLM}\" or \"{QWEN2}\", found {found:?}")]
    PreTokenizer {
        /// The rule.
        found: String,
    },
    /// An array of another length than the vocabulary.
    #[error("{what}: expected {expected} entries, found {found}")]
    Length {
        /// The array.
        what: &'static str,
        /// Tokens.
        expected: usize,
        /// Entries.
        found: usize,
    },
    /// A token that occurs twice.
    #[error("token {id} ({token:?}) occurs twice")]
    Duplicate {
        /// Id of the second.
        id: usize,
        /// The token.
        token: String,
    },
    /// A merge that is not two tokens whose union is a token.
    #[error("merge {index} ({merge:?}) does not join two tokens to a third")]
    Merge {
        /// Its rank.
        index: usize,
        /// The merge.
        merge: String,
    },
    /// An id outside the vocabulary.
    #[error("{key}: expected an id below {vocab}, found {found}")]
    Id {
        /// The metadata key.
        key: &'static str,
        /// Tokens.
        vocab: usize,
        /// The id.
        found: u64,
    },
}

/// A checked byte-level BPE vocabulary.
#[derive(Debug)]
pub struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i64>,
    merges: Vec<(&'a str, &'a str)>,
    is_qwen2: bool,
    /// Id of the token a text begins with.
    pub bos: u64,
    /// Ids of the tokens that end an answer; the file's own end of sequence first.
    pub eos: Vec<u64>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";

impl<'a> Vocabulary<'a> {
    /// Reads and checks the vocabulary of a model with `vocab` rows in its embedding.
    ///
    /// # Errors
    /// [`ForgeError::Tokenizer`] or [`ForgeError::Gguf`].
    pub fn read(gguf: &'a Gguf<'_>, vocab: usize) -> Result<Vocabulary<'a>, ForgeError> {
        let model = gguf.string("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TokenizerError::Model {
                found: model.to_string(),
            }
            .into());
        }
        let rule = gguf.string("tokenizer.ggml.pre")?;
        if rule != SMOLLM && rule != QWEN2 {
            return Err(TokenizerError::PreTokenizer {
                found: rule.to_string(),
            }
            .into());
        }
        let tokens = gguf.strings(TOKENS)?;
        let types = gguf.integers(TYPES)?;
        for (what, found) in [(TOKENS, tokens.len()), (TYPES, types.len())] {
            if found != vocab {
                return Err(TokenizerError::Length {
                    what,
                    expected: vocab,
                    found,
                }
                .into());
            }
        }
        let mut known = BTreeSet::new();
        for (id, token) in tokens.iter().enumerate() {
            if !known.insert(*token) {
                return Err(TokenizerError::Duplicate {
                    id,
                    token: token.to_string(),
                }
                .into());
            }
        }
        let merges = merges(&gguf.strings(MERGES)?, &known)?;
        let id = |key| match gguf.unsigned(key)? {
            found if found < vocab as u64 => Ok(found),
            found => Err(ForgeError::from(TokenizerError::Id { key, vocab, found })),
        };
        let mut eos = vec![id(EOS)?];
        let ends = tokens
            .iter()
            .zip(&types)
            .enumerate()
            .filter(|(_, (token, kind))| **kind == CONTROL && END_TOKENS.contains(*token));
        eos.extend(
            ends.map(|(id, _)| id as u64)
                .filter(|id| *id != eos[0])
                .collect::<Vec<_>>(),
        );
        let bos = if gguf.metadata().contains_key(BOS) {
            id(BOS)?
        } else {
            eos[0]
        };
        Ok(Vocabulary {
            tokens,
            types,
            merges,
            is_qwen2: rule == QWEN2,
            bos,
            eos,
        })
    }

    /// The content of `tokenizer.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let is_added = |kind: i64| kind == CONTROL || kind == USER_DEFINED;
        let added = self.tokens.iter().zip(&self.types).enumerate().filter(|(_, (_, kind))| is_added(**kind)).map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": *kind == CONTROL})
        });
        let file = File {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: added.collect(),
            normalizer: if self.is_qwen2 {
                json!({"type": "NFC"})
            } else {
                Value::Null
            },
            pre_tokenizer: self.pre_tokenizer(),
            post_processor: None,
            decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            model: Bpe {
                r#type: "BPE",
                dropout: None,
                unk_token: None,
                continuing_subword_prefix: None,
                end_of_word_suffix: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: false,
                vocab: Ids(&self.tokens),
                merges: Pairs(&self.merges),
            },
        };
        serde_json::to_vec(&file).expect("strings and numbers always serialize")
    }

    fn pre_tokenizer(&self) -> Value {
        let bytes = |is_split: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": is_split, "use_regex": is_split});
        let split = if self.is_qwen2 {
            json!({"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": false})
        } else {
            json!({"type": "Digits", "individual_digits": true})
        };
        json!({"type": "Sequence", "pretokenizers": [split, bytes(!self.is_qwen2)]})
    }
}

/// Splits "left right" and checks that left, right and their union are tokens.
fn merges<'a>(
    texts: &[&'a str],
    known: &BTreeSet<&str>,
) -> Result<Vec<(&'a str, &'a str)>, TokenizerError> {
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

/// The file, in the field order of the tokenizers library.
#[derive(serde::Serialize)]
struct File<'a> {
    version: &'a str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Option<()>,
    decoder: Value,
    model: Bpe<'a>,
}

#[derive(serde::Serialize)]
struct Bpe<'a> {
    r#type: &'a str,
    dropout: Option<f32>,
    unk_token: Option<()>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ids<'a>,
    merges: Pairs<'a>,
}

/// Token → id, in the order of ids.
struct Ids<'a>(&'a [&'a str]);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, token) in self.0.iter().enumerate() {
            map.serialize_entry(token, &id)?;
        }
        map.end()
    }
}

/// Merges as pairs, best first.
struct Pairs<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for pair in self.0 {
            seq.serialize_element(pair)?;
        }
        seq.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary<'a>(tokens: &[&'a str], types: &[i64], is_qwen2: bool) -> Vocabulary<'a> {
        Vocabulary {
            tokens: tokens.to_vec(),
            types: types.to_vec(),
            merges: vec![("a", "b")],
            is_qwen2,
            bos: 0,
            eos: vec![0],
        }
    }

    #[test]
    fn writes_the_tokenizers_format() {
        let json: Value = serde_json::from_slice(
            &vocabulary(
                &["<s>", "a", "b", "ab", "\"\n", "<tool>"],
                &[3, 1, 1, 1, 1, 4],
                false,
            )
            .to_json(),
        )
        .unwrap();
        assert_eq!(
            json["model"]["vocab"],
            json!({"<s>": 0, "a": 1, "b": 2, "ab": 3, "\"\n": 4, "<tool>": 5})
        );
        assert_eq!(json["model"]["merges"], json!([["a", "b"]]));
        let added: Vec<_> = json["added_tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| (&token["content"], &token["special"]))
            .collect();
        assert_eq!(
            added,
            [
                (&json!("<s>"), &json!(true)),
                (&json!("<tool>"), &json!(false))
            ],
            "control tokens vanish in text, added ones do not"
        );
        assert_eq!(
            json["pre_tokenizer"]["pretokenizers"][0],
            json!({"type": "Digits", "individual_digits": true})
        );
        assert_eq!(json["normalizer"], Value::Null);
    }

    #[test]
    fn qwen2_splits_by_its_own_pattern() {
        let json: Value =
            serde_json::from_slice(&vocabulary(&["a"], &[1], true).to_json()).unwrap();
        assert_eq!(json["normalizer"]["type"], "NFC");
        let [split, bytes] = &json["pre_tokenizer"]["pretokenizers"].as_array().unwrap()[..] else {
            panic!("two steps")
        };
        assert_eq!(
            (&split["pattern"]["Regex"], &bytes["use_regex"]),
            (&json!(QWEN2_PATTERN), &json!(false))
        );
    }

    #[test]
    fn merges_must_join_tokens() {
        let known = BTreeSet::from(["a", "b", "ab"]);
        assert_eq!(merges(&["a b"], &known), Ok(vec![("a", "b")]));
        for bad in ["ab", "a c", "b a", ""] {
            assert_eq!(
                merges(&["a b", bad], &known),
                Err(TokenizerError::Merge {
                    index: 1,
                    merge: bad.into()
                }),
                "{bad:?}"
            );
        }
    }
}
