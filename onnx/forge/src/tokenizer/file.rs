//! The parts of `tokenizer.json` that are too large to be built as JSON values first.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

/// The file, in the field order of the tokenizers library.
#[derive(serde::Serialize)]
pub(super) struct File<M> {
    pub(super) version: &'static str,
    pub(super) truncation: Option<()>,
    pub(super) padding: Option<()>,
    pub(super) added_tokens: Vec<Value>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: M,
}

impl<M: Serialize> File<M> {
    /// The bytes of the file.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialize")
    }
}

/// A model that merges neighbours.
#[derive(serde::Serialize)]
pub(super) struct Bpe<'a> {
    pub(super) r#type: &'static str,
    pub(super) dropout: Option<f32>,
    pub(super) unk_token: Option<&'a str>,
    pub(super) continuing_subword_prefix: Option<()>,
    pub(super) end_of_word_suffix: Option<()>,
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
    pub(super) vocab: Ids<'a>,
    pub(super) merges: Pairs<'a>,
}

/// Token → id, in the order of ids.
pub(super) struct Ids<'a>(pub(super) &'a [&'a str]);

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
pub(super) struct Pairs<'a>(pub(super) &'a [(&'a str, &'a str)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for pair in self.0 {
            seq.serialize_element(pair)?;
        }
        seq.end()
    }
}
