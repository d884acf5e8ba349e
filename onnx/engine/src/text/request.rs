//! What is asked of a language model and what comes back: plain data.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::grammar::Grammar;
use super::sampler::Sampling;
use crate::error::{EngineError, Result};

/// Most stop strings of a request.
pub const MAX_STOPS: usize = 16;
/// Longest stop string.
pub const MAX_STOP_BYTES: usize = 256;
/// Largest prompt that is tokenized.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;

/// One answer to generate.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt with the chat template already applied ([`LanguageModel::chat`](super::LanguageModel::chat)).
    pub prompt: String,
    /// Most tokens of the answer, at least 1; the rest of the context is the other limit.
    pub max_tokens: usize,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Strings that end the answer; they are not part of it. They may span several tokens.
    pub stop: Vec<String>,
    /// What the answer must look like.
    pub grammar: Option<Grammar>,
    /// No model run starts after this moment.
    pub deadline: Option<Instant>,
    /// Longest time between two tokens; a token that took longer is the last one, with [`FinishReason::Deadline`].
    pub token_budget: Option<Duration>,
    /// Ends the answer between two tokens, and between two parts of a long prompt.
    pub cancel: CancelToken,
    /// Who goes first: higher is more important.
    pub priority: u8,
    /// Kind of question. Answers of one class are about equally long, so their lengths say whether the next one can be in
    /// time.
    pub class: &'static str,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            max_tokens: 64,
            sampling: Sampling::Greedy,
            stop: Vec::new(),
            grammar: None,
            deadline: None,
            token_budget: None,
            cancel: CancelToken::new(),
            priority: 0,
            class: "answer",
        }
    }
}

impl Request {
    /// A prompt from bytes of somebody else's: a file, a pipe, the wire. This is where invalid UTF-8 stops; everything
    /// behind it is text.
    ///
    /// # Errors
    /// [`EngineError::PromptTooLarge`], [`EngineError::PromptNotText`] with the place of the first wrong byte.
    pub fn prompt_from(bytes: &[u8]) -> Result<String> {
        if bytes.len() > MAX_PROMPT_BYTES {
            return Err(EngineError::PromptTooLarge {
                found_bytes: bytes.len(),
                limit_bytes: MAX_PROMPT_BYTES,
            });
        }
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| EngineError::PromptNotText {
                at_byte: error.valid_up_to(),
            })
    }

    /// Refuses values out of range, before anything is computed.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |field, expected: String, found: String| {
            Err(EngineError::Request {
                field,
                expected,
                found,
            })
        };
        if self.prompt.len() > MAX_PROMPT_BYTES {
            return Err(EngineError::PromptTooLarge {
                found_bytes: self.prompt.len(),
                limit_bytes: MAX_PROMPT_BYTES,
            });
        }
        if self.max_tokens == 0 {
            return wrong("max_tokens", "at least 1".to_owned(), "0".to_owned());
        }
        if self.stop.len() > MAX_STOPS {
            return wrong(
                "stop",
                format!("at most {MAX_STOPS} strings"),
                self.stop.len().to_string(),
            );
        }
        if let Some(stop) = self
            .stop
            .iter()
            .find(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES)
        {
            return wrong(
                "stop",
                format!("strings of 1..={MAX_STOP_BYTES} bytes"),
                format!("one of {}", stop.len()),
            );
        }
        self.sampling.check()
    }
}

/// A switch that ends a generation from any thread. Clones are the same switch; once thrown it stays so.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<OnceLock<String>>);

impl CancelToken {
    /// A switch nobody has thrown yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Throws it. The first reason given is kept.
    pub fn cancel(&self, reason: impl Into<String>) {
        // A second reason is not an error: whoever came first ended the generation.
        let _ = self.0.set(reason.into());
    }

    /// Whether it is thrown.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.get().is_some()
    }

    /// Why it was thrown.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its id.
    pub token: u32,
    /// The text that became certain with it: whole characters, possibly none (half a character, or the possible start of
    /// a stop string, is held back).
    pub text: String,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, a stop string appeared, or the grammar allows nothing more.
    Stop,
    /// `max_tokens` or the end of the context was reached. With a grammar the text is then usually incomplete; see
    /// [`Finished::complete`].
    Length,
    /// The deadline or the budget of a token passed.
    Deadline,
    /// The [`CancelToken`] was thrown.
    Cancelled,
    /// There was an error; what came before it is kept.
    Failed,
}

/// A whole answer and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The text, without stop strings.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// Whether the text is a whole sentence of the grammar; without one, whether the model ended it itself.
    pub complete: bool,
    /// Tokens of the prompt.
    pub tokens_in: usize,
    /// Of these, tokens that were in the cache from before and were not computed again.
    pub tokens_cached: usize,
    /// Tokens of the answer, without the one that ends it.
    pub tokens_out: usize,
    /// Of these, tokens that the grammar left no choice about; they share model runs.
    pub tokens_forced: usize,
    /// Time before its first run, waiting for a place while the model ran for others.
    pub queued: Duration,
    /// Time from then until the first scores.
    pub prefill: Duration,
    /// Time after that, while the model was running (not while its caller was).
    pub decode: Duration,
    /// Of these times, what the grammar took.
    pub grammar: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_from_outside_are_text_or_refused_with_the_place() {
        assert_eq!(
            Request::prompt_from("fährt é".as_bytes()).unwrap(),
            "fährt é"
        );
        for (why, bytes, place) in [
            ("a byte that begins nothing", &b"ab\xff"[..], 2),
            ("half a character at the end", &b"a\xc3"[..], 1),
            ("a surrogate", &b"\xed\xa0\x80"[..], 0),
        ] {
            let error = Request::prompt_from(bytes).unwrap_err();
            assert!(
                matches!(error, EngineError::PromptNotText { at_byte } if at_byte == place),
                "{why}: {error}"
            );
        }
        let error = Request::prompt_from(&vec![b'x'; MAX_PROMPT_BYTES + 1]).unwrap_err();
        assert!(
            matches!(error, EngineError::PromptTooLarge { .. }),
            "{error}"
        );
    }
}
