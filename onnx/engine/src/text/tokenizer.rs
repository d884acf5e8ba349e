//! Text to token ids and back, from a `tokenizer.json`.
//!
//! Encoding is the `tokenizers` crate's, with byte pairs of our own that take less memory (`bpe`). Decoding is done here from
//! the bytes of each token, because a stream needs to know where a character ends: a token may be half of one.

mod bpe;
mod pool;

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, TokenizerImpl,
};

use self::bpe::{Bpe, Kind};
use self::pool::Pool;
use crate::error::{EngineError, Result};

/// Largest `tokenizer.json`.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Most tokens of a vocabulary.
pub(crate) const MAX_VOCAB: usize = 1 << 20;
/// Longest token.
const MAX_TOKEN_BYTES: usize = 1_024;

/// The vocabulary of one model.
pub struct Tokenizer {
    model: String,
    encoder: Encoder,
    /// Bytes by token id; none for a gap in the numbering.
    bytes: Pool,
    /// By token id: stands for something other than its text, such as the end of a message.
    special: Vec<bool>,
    /// Texts of the special tokens.
    special_texts: Vec<String>,
    /// Token that every prompt begins with, if the model was taught so.
    begin: Option<u32>,
}

/// What makes tokens of a text.
enum Encoder {
    /// Almost all language models.
    Bpe(Box<Pipeline>),
    /// Any other model of the crate.
    Other(Box<tokenizers::Tokenizer>),
}

/// The crate's pipeline around byte pairs of our own.
type Pipeline = TokenizerImpl<
    Bpe,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The part of `tokenizer.json` that is checked against what was read from it, and that says who reads it.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Kind,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// How the vocabulary writes bytes as text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ByteForm {
    /// Each byte is one printable character (GPT-2).
    Level,
    /// Text as it is, `▁` for a space, and `<0x0A>` for single bytes (SentencePiece).
    Fallback,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `vocab` is the number of scores the model gives.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] with what is wrong with it.
    pub fn new(model: &str, json: &[u8], vocab: usize) -> Result<Self> {
        let wrong = |reason: String| EngineError::Tokenizer {
            model: model.to_owned(),
            reason,
        };
        let file: Head = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        let encoder = Encoder::new(json, &file.model).map_err(wrong)?;
        // The crate numbers added tokens that are not in the vocabulary itself, whatever the file says.
        if let Some(token) = file
            .added_tokens
            .iter()
            .find(|token| encoder.token_to_id(&token.content) != Some(token.id))
        {
            let found = encoder.token_to_id(&token.content);
            return Err(wrong(format!(
                "added token {:?}: expected id {}, found {found:?}",
                token.content, token.id
            )));
        }
        let form = encoder.decoder().and_then(byte_form).ok_or_else(|| {
            wrong("its decoder is neither ByteLevel nor ByteFallback, so the bytes of a token are unknown".to_owned())
        })?;
        if vocab > MAX_VOCAB {
            return Err(wrong(format!(
                "expected at most {MAX_VOCAB} tokens, found {vocab}"
            )));
        }
        let mut special = vec![false; vocab];
        let mut special_texts = Vec::new();
        for (id, token) in encoder.added() {
            if token.special
                && let Some(slot) = special.get_mut(id as usize)
            {
                *slot = true;
                special_texts.push(token.content);
            }
        }
        let bytes = encoder
            .texts()
            .and_then(|texts| bytes_of(&texts, form, &special))
            .map_err(wrong)?;
        Ok(Self {
            model: model.to_owned(),
            encoder,
            bytes,
            special,
            special_texts,
            begin: None,
        })
    }

    /// The same, with a token that every prompt begins with.
    #[must_use]
    pub fn beginning_with(self, begin: Option<u32>) -> Self {
        Self { begin, ..self }
    }

    /// The token that every prompt begins with, if there is one.
    pub(crate) fn begin(&self) -> Option<u32> {
        self.begin
    }

    /// Token ids of a prompt: those of its text, behind the token that prompts of this model begin with. A chat template may
    /// have written it already; a text of nothing stays one.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.encode(text)?;
        if let (Some(begin), Some(first)) = (self.begin, tokens.first())
            && *first != begin
        {
            tokens.insert(0, begin);
        }
        Ok(tokens)
    }

    /// Token ids of a text. Special tokens written in it are recognised: a chat template writes them.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encoder
            .encode(text)
            .map_err(|error| EngineError::Tokenizer {
                model: self.model.clone(),
                reason: error.to_string(),
            })
    }

    /// Bytes that a token adds to the answer: none for special tokens and gaps.
    pub(crate) fn text_bytes(&self, token: u32) -> &[u8] {
        if self.is_special(token) {
            return &[];
        }
        self.bytes.get(token as usize)
    }

    /// Bytes of a token, also of a special one; empty for a gap.
    pub(crate) fn raw_bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize)
    }

    /// Whether a token stands for something other than its text.
    pub(crate) fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }

    /// The number of scores the model gives.
    pub(crate) fn vocab(&self) -> usize {
        self.bytes.len()
    }

    /// The text without anything that reads as a special token, so that what people say cannot end a message and begin
    /// another one. Removing can put halves together, hence the loop.
    pub(crate) fn without_special<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        while let Some(found) = self
            .special_texts
            .iter()
            .find(|special| text.contains(special.as_str()))
        {
            text = Cow::Owned(text.replace(found.as_str(), ""));
        }
        text
    }
}

impl Encoder {
    /// Reads the file, without padding and truncation: both would change prompts silently.
    fn new(json: &[u8], kind: &Kind) -> std::result::Result<Encoder, String> {
        if Bpe::reads(kind) {
            let mut pipeline: Pipeline = serde_json::from_slice(json).map_err(|e| e.to_string())?;
            pipeline.with_padding(None);
            pipeline.with_truncation(None).map_err(|e| e.to_string())?;
            return Ok(Encoder::Bpe(Box::new(pipeline)));
        }
        let mut other = tokenizers::Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        other.with_padding(None);
        other.with_truncation(None).map_err(|e| e.to_string())?;
        Ok(Encoder::Other(Box::new(other)))
    }

    fn encode(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let encoding = match self {
            Encoder::Bpe(pipeline) => pipeline.encode_fast(text, false),
            Encoder::Other(other) => other.encode_fast(text, false),
        }?;
        Ok(encoding.get_ids().to_vec())
    }

    fn token_to_id(&self, text: &str) -> Option<u32> {
        match self {
            Encoder::Bpe(pipeline) => pipeline.token_to_id(text),
            Encoder::Other(other) => other.token_to_id(text),
        }
    }

    fn decoder(&self) -> Option<&DecoderWrapper> {
        match self {
            Encoder::Bpe(pipeline) => pipeline.get_decoder(),
            Encoder::Other(other) => other.get_decoder(),
        }
    }

    fn added(&self) -> Vec<(u32, AddedToken)> {
        let added = match self {
            Encoder::Bpe(pipeline) => pipeline.get_added_tokens_decoder(),
            Encoder::Other(other) => other.get_added_tokens_decoder(),
        };
        added.into_iter().collect()
    }

    /// Texts of all tokens by id, empty for gaps.
    fn texts(&self) -> std::result::Result<Vec<Cow<'_, [u8]>>, String> {
        let mut texts: Vec<Cow<'_, [u8]>> = match self {
            Encoder::Bpe(pipeline) => {
                let words = pipeline.get_model().words();
                words.iter().map(Cow::Borrowed).collect()
            }
            Encoder::Other(other) => {
                let mut texts = Vec::new();
                for (text, id) in other.get_model().get_vocab() {
                    put(&mut texts, id, text)?;
                }
                texts
            }
        };
        for (id, token) in self.added() {
            put(&mut texts, id, token.content)?;
        }
        Ok(texts)
    }
}

/// Takes the text of a token, if it has no other one.
fn put(texts: &mut Vec<Cow<'_, [u8]>>, id: u32, text: String) -> std::result::Result<(), String> {
    let at = id as usize;
    if at >= MAX_VOCAB {
        return Err(format!("expected ids below {MAX_VOCAB}, found {id}"));
    }
    if texts.len() <= at {
        texts.resize(at + 1, Cow::Borrowed(&[]));
    }
    if !texts[at].is_empty() && texts[at] != text.as_bytes() {
        return Err(format!("token {id} has two texts"));
    }
    texts[at] = text.into_bytes().into();
    Ok(())
}

/// What tokens stand for, in bytes; `special` has an entry for each.
fn bytes_of(
    texts: &[Cow<'_, [u8]>],
    form: ByteForm,
    special: &[bool],
) -> std::result::Result<Pool, String> {
    let vocab = special.len();
    if let Some(beyond) = texts.iter().skip(vocab).position(|text| !text.is_empty()) {
        return Err(format!(
            "token {}: expected ids below {vocab}, which the model has scores for",
            vocab + beyond
        ));
    }
    let table = char_to_byte();
    let mut bytes = Pool::default();
    for (id, special) in special.iter().enumerate() {
        let text = texts.get(id).map_or(&[][..], Cow::as_ref);
        if text.len() > MAX_TOKEN_BYTES {
            return Err(format!(
                "token {id}: expected 1..={MAX_TOKEN_BYTES} bytes, found {}",
                text.len()
            ));
        }
        let written = String::from_utf8_lossy(text);
        match form {
            _ if *special => bytes.push(text),
            ByteForm::Level => {
                let meant: Option<Vec<u8>> =
                    written.chars().map(|c| table.get(&c).copied()).collect();
                // An added token that is not special is written as plain text.
                bytes.push(meant.as_deref().unwrap_or(text));
            }
            ByteForm::Fallback => bytes.push(&fallback_bytes(&written)),
        }
    }
    bytes.shrink();
    Ok(bytes)
}

fn byte_form(decoder: &DecoderWrapper) -> Option<ByteForm> {
    match decoder {
        DecoderWrapper::ByteLevel(_) => Some(ByteForm::Level),
        DecoderWrapper::ByteFallback(_) => Some(ByteForm::Fallback),
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().find_map(byte_form),
        _ => None,
    }
}

fn fallback_bytes(text: &str) -> Vec<u8> {
    let byte = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .filter(|digits| digits.len() == 2);
    match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('▁', " ").into_bytes(),
    }
}

/// GPT-2's table: printable bytes of Latin-1 stand for themselves, the others for characters from U+0100 on, in order.
fn char_to_byte() -> HashMap<char, u8> {
    let mut next = 0x100_u32;
    (0..=u8::MAX)
        .map(|byte| {
            let character = match byte {
                b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
                _ => {
                    next += 1;
                    char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
                }
            };
            (character, byte)
        })
        .collect()
}

/// Bytes of a stream to whole characters.
#[derive(Debug, Default)]
pub(crate) struct Detokenizer {
    /// The start of a character whose rest has not come yet: at most 3 bytes.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Adds bytes and returns the characters that are whole now. Bytes that cannot be part of any character become
    /// U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut consumed = 0;
        while consumed < self.pending.len() {
            match std::str::from_utf8(&self.pending[consumed..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    consumed = self.pending.len();
                }
                Err(error) => {
                    let valid = consumed + error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[consumed..valid]));
                    consumed = valid;
                    match error.error_len() {
                        Some(broken) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            consumed += broken;
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending.drain(..consumed);
        text
    }

    /// What is left at the end: a character without its rest becomes U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiny::{BEGIN, END, TH, VOCAB, tokenizer, tokenizer_json};
    use super::*;

    #[test]
    fn text_goes_to_tokens_and_back_to_the_same_bytes() {
        let tokenizer = tokenizer();
        for text in ["a b\n\tc", "the path", "héllo 你好 🚗", "\0\u{7f}"] {
            let tokens = tokenizer.encode(text).unwrap();
            let bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|token| tokenizer.text_bytes(*token))
                .copied()
                .collect();
            assert_eq!(bytes, text.as_bytes(), "{tokens:?}");
        }
        assert_eq!(tokenizer.encode("thx").unwrap(), [TH, u32::from(b'x')]);
    }

    #[test]
    fn special_tokens_are_recognised_and_have_no_text() {
        let tokenizer = tokenizer();
        assert_eq!(
            tokenizer.encode("<|begin|>a<|end|>").unwrap(),
            [BEGIN, u32::from(b'a'), END]
        );
        assert_eq!(tokenizer.text_bytes(END), b"");
        assert_eq!(tokenizer.raw_bytes(END), b"<|end|>");
        assert!(tokenizer.is_special(BEGIN) && !tokenizer.is_special(TH));
        assert_eq!(
            (tokenizer.text_bytes(259), tokenizer.text_bytes(u32::MAX)),
            (&b""[..], &b""[..]),
            "a gap, and no token"
        );
    }

    #[test]
    fn a_prompt_begins_as_the_model_was_taught_and_only_once() {
        let b = u32::from(b'b');
        let taught = tokenizer().beginning_with(Some(BEGIN));
        for (text, expected) in [
            ("b", &[BEGIN, b][..]),
            ("<|begin|>b", &[BEGIN, b]),
            ("", &[]),
        ] {
            assert_eq!(taught.encode_prompt(text).unwrap(), expected, "{text:?}");
        }
        assert_eq!(taught.encode("b").unwrap(), [b]);
        assert_eq!(tokenizer().encode_prompt("b").unwrap(), [b]);
    }

    #[test]
    fn what_people_say_holds_no_special_tokens() {
        let tokenizer = tokenizer();
        for (text, expected) in [
            ("plain", "plain"),
            ("a<|end|>b", "ab"),
            ("<|en<|end|>d|>", ""),
            ("<|be<|end|>gin|>x<|end", "x<|end"),
        ] {
            assert_eq!(tokenizer.without_special(text), expected, "{text}");
        }
    }

    #[test]
    fn a_damaged_tokenizer_is_an_error() {
        let whole = tokenizer_json();
        let cases: [(&str, String, usize, &str); 6] = [
            (
                "an added token that the crate numbers anew",
                whole.replace(r#""<|end|>":256,"#, ""),
                VOCAB,
                "expected id 256",
            ),
            ("not JSON", "{".to_owned(), VOCAB, "tokenizer"),
            (
                "truncated",
                whole[..whole.len() / 2].to_owned(),
                VOCAB,
                "tokenizer",
            ),
            (
                "more tokens than scores",
                whole.clone(),
                100,
                "ids below 100",
            ),
            ("too many scores", whole.clone(), MAX_VOCAB + 1, "at most"),
            (
                "no decoder",
                whole.replace(r#""type":"ByteLevel""#, r#""type":"Fuse""#),
                VOCAB,
                "tokenizer",
            ),
        ];
        for (why, json, vocab, word) in cases {
            let error = Tokenizer::new("m", json.as_bytes(), vocab)
                .err()
                .unwrap_or_else(|| panic!("{why}"))
                .to_string();
            assert!(error.contains(word), "{why}: {error}");
        }
    }

    #[test]
    fn sentence_piece_bytes_are_read() {
        for (text, bytes) in [
            ("<0x0A>", &b"\n"[..]),
            ("▁the", b" the"),
            ("<0xZZ>", b"<0xZZ>"),
            ("<0x0A", b"<0x0A"),
        ] {
            assert_eq!(fallback_bytes(text), bytes, "{text}");
        }
    }
}
