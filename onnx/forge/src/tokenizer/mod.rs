//! A GGUF vocabulary as `tokenizer.json`, the format of the tokenizers library, so that the engine needs one tokenizer reader.
//!
//! GGUF knows three algorithms by name; each becomes the same algorithm of the library. What is not known by name is refused,
//! because a near miss tokenizes wrongly without any sign.
//!
//! ```text
//!   "gpt2"   bytes as letters, merges, a named rule that splits text first        bpe
//!   "llama"  characters, scores, single bytes for what has no token               sentencepiece
//!   "bert"   whole words, then pieces of them                                     wordpiece
//!
//!   text ── normalizer ── pre_tokenizer ── model ── ids
//!                 added_tokens (<|im_start|> …) are matched before all of it
//! ```

mod bpe;
mod file;
mod sentencepiece;
#[cfg(test)]
mod tests;
mod wordpiece;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::error::ForgeError;
use crate::gguf::Gguf;

/// Tokens that end an answer in published chat models, whichever of them the file names as end of sequence.
pub(crate) const END_TOKENS: [&str; 6] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
];

/// ggml's type of an ordinary token.
const NORMAL: i64 = 1;
/// ggml's type of the token for what has none.
const UNKNOWN: i64 = 2;
/// ggml's type of a control token.
const CONTROL: i64 = 3;
/// ggml's type of a token that users have added; it is matched like a control token and shown like a normal one.
const USER_DEFINED: i64 = 4;
/// ggml's type of a token that stands for one byte.
const BYTE: i64 = 6;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const END_OF_TURN: &str = "tokenizer.ggml.eot_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// A vocabulary that cannot be written as `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TokenizerError {
    /// An unknown algorithm.
    #[error("expected tokenizer model \"gpt2\", \"llama\" or \"bert\", found {found:?}")]
    Model {
        /// The model.
        found: String,
    },
    /// A splitting rule that is not known.
    #[error("expected pre-tokenizer {expected}, found {found:?}")]
    PreTokenizer {
        /// Those that are known.
        expected: String,
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
    /// A token that the algorithm needs.
    #[error("token {token:?} is missing")]
    Missing {
        /// The token.
        token: String,
    },
    /// A token whose score is no number.
    #[error("score of token {id} is {score}")]
    Score {
        /// The token.
        id: usize,
        /// Its score.
        score: f64,
    },
}

/// The algorithm and what it needs besides tokens.
#[derive(Debug)]
enum Algorithm<'a> {
    Bpe(bpe::Rule, Vec<(&'a str, &'a str)>),
    SentencePiece(sentencepiece::Pieces<'a>),
    WordPiece,
}

/// Tokens and their types, by id.
#[derive(Debug)]
struct Tokens<'a> {
    texts: Vec<&'a str>,
    types: Vec<i64>,
}

/// A checked vocabulary.
#[derive(Debug)]
pub struct Vocabulary<'a> {
    tokens: Tokens<'a>,
    algorithm: Algorithm<'a>,
    /// Id of the token a text begins with.
    pub bos: u64,
    /// Whether a text has to begin with it.
    pub add_bos: bool,
    /// Ids of the tokens that end an answer; the file's own end of sequence first.
    pub eos: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    /// Reads and checks the vocabulary of a model with `vocab` rows in its embedding.
    ///
    /// # Errors
    /// [`ForgeError::Tokenizer`] or [`ForgeError::Gguf`].
    pub fn read(gguf: &'a Gguf<'_>, vocab: usize) -> Result<Vocabulary<'a>, ForgeError> {
        let model = gguf.string(MODEL)?;
        if !["gpt2", "llama", "bert"].contains(&model) {
            return Err(TokenizerError::Model {
                found: model.to_string(),
            }
            .into());
        }
        let rule = match model {
            "gpt2" => Some(bpe::Rule::named(gguf.string("tokenizer.ggml.pre")?)?),
            _ => None,
        };
        let tokens = Tokens::read(gguf, vocab)?;
        let algorithm = match (model, rule) {
            (_, Some(rule)) => {
                let merges = bpe::merges(&gguf.strings(MERGES)?, &tokens)?;
                Algorithm::Bpe(rule, merges)
            }
            ("llama", None) => {
                Algorithm::SentencePiece(sentencepiece::Pieces::read(gguf, &tokens)?)
            }
            _ => {
                wordpiece::check(&tokens)?;
                Algorithm::WordPiece
            }
        };
        let (bos, eos) = ends(gguf, &tokens, &algorithm)?;
        let add_bos = match gguf.metadata().get(ADD_BOS) {
            Some(crate::gguf::Value::Bool(value)) => *value,
            _ => match &algorithm {
                Algorithm::Bpe(rule, _) => *rule == bpe::Rule::Llama3,
                Algorithm::SentencePiece(_) | Algorithm::WordPiece => true,
            },
        };
        Ok(Vocabulary {
            tokens,
            algorithm,
            bos,
            add_bos,
            eos,
        })
    }

    /// The content of `tokenizer.json`.
    pub fn to_json(&self) -> Vec<u8> {
        match &self.algorithm {
            Algorithm::Bpe(rule, merges) => bpe::to_json(&self.tokens, *rule, merges),
            Algorithm::SentencePiece(pieces) => sentencepiece::to_json(&self.tokens, pieces),
            Algorithm::WordPiece => wordpiece::to_json(&self.tokens),
        }
    }
}

/// Ids of the first token of a text, and of the last ones.
fn ends(
    gguf: &Gguf<'_>,
    tokens: &Tokens<'_>,
    algorithm: &Algorithm<'_>,
) -> Result<(u64, Vec<u64>), ForgeError> {
    let vocab = tokens.texts.len();
    let id = |key| match gguf.unsigned(key)? {
        found if found < vocab as u64 => Ok(found),
        found => Err(ForgeError::from(TokenizerError::Id { key, vocab, found })),
    };
    let has = |key: &str| gguf.metadata().contains_key(key);
    if matches!(algorithm, Algorithm::WordPiece) {
        let [first, last] = [wordpiece::FIRST, wordpiece::LAST].map(|text| tokens.id(text));
        return Ok((first? as u64, vec![last? as u64]));
    }
    let mut eos = vec![id(EOS)?];
    if has(END_OF_TURN) {
        eos.push(id(END_OF_TURN)?);
    }
    let ends = tokens.texts.iter().zip(&tokens.types).enumerate();
    let ends = ends.filter(|(_, (text, kind))| **kind == CONTROL && END_TOKENS.contains(*text));
    eos.extend(ends.map(|(id, _)| id as u64));
    let mut seen = BTreeSet::new();
    eos.retain(|id| seen.insert(*id));
    let bos = if has(BOS) { id(BOS)? } else { eos[0] };
    Ok((bos, eos))
}

impl<'a> Tokens<'a> {
    fn read(gguf: &'a Gguf<'_>, vocab: usize) -> Result<Tokens<'a>, ForgeError> {
        let (texts, types) = (gguf.strings(TOKENS)?, gguf.integers(TYPES)?);
        for (what, found) in [(TOKENS, texts.len()), (TYPES, types.len())] {
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
        for (id, token) in texts.iter().enumerate() {
            if !known.insert(*token) {
                return Err(TokenizerError::Duplicate {
                    id,
                    token: token.to_string(),
                }
                .into());
            }
        }
        Ok(Tokens { texts, types })
    }

    /// Id of a token.
    fn id(&self, text: &str) -> Result<usize, TokenizerError> {
        let missing = || TokenizerError::Missing {
            token: text.to_string(),
        };
        let mut texts = self.texts.iter();
        texts.position(|token| *token == text).ok_or_else(missing)
    }

    /// Tokens that are matched before the text is looked at.
    fn added(&self) -> Vec<Value> {
        let is_added = |kind: i64| kind == CONTROL || kind == USER_DEFINED;
        let all = self.texts.iter().zip(&self.types).enumerate();
        let added = all.filter(|(_, (_, kind))| is_added(**kind));
        let entry = |(id, (token, kind)): (usize, (&&str, &i64))| json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": *kind == CONTROL});
        added.map(entry).collect()
    }
}
