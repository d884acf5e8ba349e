//! A model and a vocabulary of a few lines, for the tests of the generator: every byte is a token, and a function says which
//! token comes next.

use super::generate::{Parts, TokenModel};
use super::rate::Rate;
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Ends an answer.
pub(crate) const END: u32 = 256;
/// Begins a message; special, but ends nothing.
pub(crate) const BEGIN: u32 = 257;
/// Two letters, so that a text has more than one way to be written.
pub(crate) const TH: u32 = 258;
pub(crate) const VOCAB: usize = 260;

/// `tokenizer.json` with 256 bytes, one merge and two special tokens; one id is a gap.
pub(crate) fn tokenizer_json() -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..=u8::MAX {
        let character = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        vocab.insert(character.to_string(), byte.into());
    }
    vocab.insert("th".to_owned(), TH.into());
    vocab.insert("<|end|>".to_owned(), END.into());
    vocab.insert("<|begin|>".to_owned(), BEGIN.into());
    let special = |id: u32, content: &str| serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(END, "<|end|>"), special(BEGIN, "<|begin|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["t", "h"]]},
    })
    .to_string()
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::new("tiny", tokenizer_json().as_bytes(), VOCAB).unwrap()
}

type Answer = Box<dyn FnMut(&[u32], &mut [f32]) -> Result<()>>;

/// The model: `answer` sees all tokens so far and raises the scores it likes.
pub(crate) struct TinyModel {
    pub(crate) context: usize,
    pub(crate) cached: Vec<u32>,
    pub(crate) scores: Vec<f32>,
    /// Tokens of each run, in order.
    pub(crate) runs: Vec<usize>,
    answer: Answer,
}

impl TinyModel {
    pub(crate) fn new(
        context: usize,
        answer: impl FnMut(&[u32], &mut [f32]) -> Result<()> + 'static,
    ) -> Self {
        Self {
            context,
            cached: Vec::new(),
            scores: vec![0.0; VOCAB],
            runs: Vec::new(),
            answer: Box::new(answer),
        }
    }

    /// Answers with this text after a prompt that ends with `>`, then ends.
    pub(crate) fn saying(context: usize, text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        Self::new(context, move |seen, scores| {
            let begun = seen
                .iter()
                .rposition(|token| *token == u32::from(b'>'))
                .map_or(seen.len(), |at| at + 1);
            let next = text
                .get(seen.len() - begun)
                .map_or(END, |byte| u32::from(*byte));
            scores[next as usize] = 1.0;
            Ok(())
        })
    }

    pub(crate) fn parts<'m>(
        &'m mut self,
        tokenizer: &'m Tokenizer,
        rate: &'m mut Rate,
    ) -> Parts<'m> {
        Parts {
            name: "tiny",
            model: self,
            tokenizer,
            rate,
            eos: &[END],
        }
    }
}

impl TokenModel for TinyModel {
    fn context(&self) -> usize {
        self.context
    }

    fn cached(&self) -> &[u32] {
        &self.cached
    }

    fn rewind(&mut self, length: usize) {
        self.cached.truncate(length);
    }

    fn append(&mut self, tokens: &[u32]) -> Result<()> {
        assert!(
            !tokens.is_empty() && self.cached.len() + tokens.len() <= self.context,
            "the generator keeps to the context"
        );
        self.runs.push(tokens.len());
        let seen = [self.cached.as_slice(), tokens].concat();
        self.scores.fill(0.0);
        (self.answer)(&seen, &mut self.scores)?;
        self.cached = seen;
        Ok(())
    }

    fn scores(&self) -> &[f32] {
        &self.scores
    }
}
