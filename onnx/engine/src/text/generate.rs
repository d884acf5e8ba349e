//! The generator: an iterator that runs a model token by token until something ends the answer.
//!
//! ```text
//!            ┌───────────────────────────── next() ─────────────────────────────┐
//!   waiting ─┤ a chosen token waits? ─ yes ─► return it                         │
//!            │   no ─► cancelled, too late? ─► end                              │
//!            │   no ─► the grammar forces tokens? ─ yes ─► they wait            │
//!            │   no ─► run the model on what it has not seen ─► choose ─► waits │
//!            └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What the model has not seen is first the prompt (without the beginning that is still cached from the last request), then
//! each chosen token. Tokens that a grammar forces are only added to it, so a chosen token and the forced ones after it
//! share one run. A long prompt runs in parts of [`PREFILL_CHUNK`] tokens: between two parts it can be cancelled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::grammar::GrammarRun;
use super::rate::Rate;
use super::request::{CancelToken, FinishReason, Finished, Piece, Request};
use super::sampler::Sampler;
use super::tail::TextTail;
use super::tokenizer::Tokenizer;
use crate::error::{EngineError, Result};

/// Most tokens of one run: about 0.2 s of a small model on two cores, and long enough for full speed.
pub(crate) const PREFILL_CHUNK: usize = 128;

/// What the generator needs of a model.
pub(crate) trait TokenModel {
    /// Most tokens that fit.
    fn context(&self) -> usize;
    /// The tokens it has seen, in order.
    fn cached(&self) -> &[u32];
    /// Forgets all but the first `length` of them.
    fn rewind(&mut self, length: usize);
    /// Lets it see more tokens, at least one. After an error it has seen none of them.
    fn append(&mut self, tokens: &[u32]) -> Result<()>;
    /// Scores for the token after the last one it has seen, by token id.
    fn scores(&self) -> &[f32];
}

/// The parts of a loaded model that a generation uses.
pub(crate) struct Parts<'m> {
    pub(crate) name: &'m str,
    pub(crate) model: &'m mut dyn TokenModel,
    pub(crate) tokenizer: &'m Tokenizer,
    pub(crate) rate: &'m mut Rate,
    pub(crate) eos: &'m [u32],
}

/// An answer on its way. Dropping it ends it; the model keeps what it has seen for the next request.
pub struct Generation<'m> {
    parts: Parts<'m>,
    grammar: Option<GrammarRun>,
    sampler: Sampler,
    tail: TextTail,
    max_tokens: usize,
    deadline: Option<Instant>,
    token_budget: Option<Duration>,
    cancel: CancelToken,
    /// Tokens the model has to see before its next scores.
    unseen: Vec<u32>,
    /// Tokens chosen but not returned yet.
    waiting: VecDeque<u32>,
    /// Set when the answer ends after the waiting tokens.
    ending: Option<FinishReason>,
    has_scores: bool,
    over: bool,
    last_token: u32,
    tally: Finished,
}

impl<'m> Generation<'m> {
    /// Prepares an answer: tokenizes the prompt and keeps as much of the cache as it begins with.
    pub(crate) fn start(
        parts: Parts<'m>,
        request: &Request,
        grammar: Option<GrammarRun>,
    ) -> Result<Self> {
        request.check()?;
        let prompt = parts.tokenizer.encode(&request.prompt)?;
        let (last_token, context_tokens) = (
            *prompt.last().ok_or(EngineError::PromptEmpty)?,
            parts.model.context(),
        );
        if prompt.len() >= context_tokens {
            return Err(EngineError::PromptTooLong {
                prompt_tokens: prompt.len(),
                context_tokens,
            });
        }
        let same = parts
            .model
            .cached()
            .iter()
            .zip(&prompt)
            .take_while(|(a, b)| a == b)
            .count();
        // The last token runs again in any case: its scores are what comes out.
        let kept = same.min(prompt.len() - 1);
        parts.model.rewind(kept);
        Ok(Self {
            grammar,
            sampler: Sampler::new(request.sampling),
            tail: TextTail::new(request.stop.clone()),
            max_tokens: request.max_tokens.min(context_tokens - prompt.len()),
            deadline: request.deadline,
            token_budget: request.token_budget,
            cancel: request.cancel.clone(),
            unseen: prompt[kept..].to_vec(),
            waiting: VecDeque::new(),
            ending: None,
            has_scores: false,
            over: false,
            last_token,
            tally: Finished {
                text: String::new(),
                reason: FinishReason::Length,
                complete: false,
                tokens_in: prompt.len(),
                tokens_cached: kept,
                tokens_out: 0,
                tokens_forced: 0,
                prefill: Duration::ZERO,
                decode: Duration::ZERO,
                grammar: Duration::ZERO,
            },
            parts,
        })
    }

    /// Runs to the end and returns the whole answer.
    ///
    /// # Errors
    /// The first error of the iterator, if it has not been returned yet: then the answer is what came before it, with
    /// [`FinishReason::Failed`].
    pub fn finish(mut self) -> Result<Finished> {
        for piece in self.by_ref() {
            piece?;
        }
        Ok(self.tally)
    }

    /// One step towards the next token; afterwards something waits or the answer ends.
    fn advance(&mut self) -> Result<()> {
        self.ending = self.interruption();
        if self.ending.is_some() || self.force()? {
            return Ok(());
        }
        let begun = Instant::now();
        let is_first = !self.has_scores;
        self.feed()?;
        if self.ending.is_none() {
            self.choose()?;
            if !is_first
                && self
                    .token_budget
                    .is_some_and(|budget| begun.elapsed() > budget)
            {
                self.ending.get_or_insert(FinishReason::Deadline);
            }
        }
        Ok(())
    }

    fn interruption(&self) -> Option<FinishReason> {
        if self.cancel.is_cancelled() {
            return Some(FinishReason::Cancelled);
        }
        self.deadline
            .filter(|deadline| *deadline <= Instant::now())
            .map(|_| FinishReason::Deadline)
    }

    /// Takes the tokens that the grammar leaves no choice about. Returns whether there were any, or the answer ended.
    fn force(&mut self) -> Result<bool> {
        let Some(grammar) = &mut self.grammar else {
            return Ok(false);
        };
        let begun = Instant::now();
        let mut forced = grammar.forced()?;
        forced.truncate(self.max_tokens - self.tally.tokens_out);
        grammar.consume(&forced)?;
        if grammar.is_over() {
            self.ending = Some(FinishReason::Stop);
        }
        self.tally.grammar += begun.elapsed();
        self.tally.tokens_forced += forced.len();
        self.unseen.extend_from_slice(&forced);
        self.waiting.extend(&forced);
        Ok(!forced.is_empty() || self.ending.is_some())
    }

    /// Lets the model see everything it has not seen, unless it is interrupted on the way.
    fn feed(&mut self) -> Result<()> {
        while !self.unseen.is_empty() {
            let count = self.unseen.len().min(PREFILL_CHUNK);
            let begun = Instant::now();
            self.parts.model.append(&self.unseen[..count])?;
            self.parts.rate.record(count, begun.elapsed());
            self.unseen.drain(..count);
            self.ending = self.interruption();
            if self.ending.is_some() {
                return Ok(());
            }
        }
        self.has_scores = true;
        Ok(())
    }

    fn choose(&mut self) -> Result<()> {
        let begun = Instant::now();
        let allowed = self.grammar.as_mut().map(GrammarRun::allowed).transpose()?;
        if self.grammar.is_some() {
            self.tally.grammar += begun.elapsed();
        }
        let token = self
            .sampler
            .choose(self.parts.model.scores(), allowed.as_ref())
            .ok_or_else(|| EngineError::NotFinite {
                model: self.parts.name.to_owned(),
            })?;
        if let Some(grammar) = &mut self.grammar {
            let begun = Instant::now();
            grammar.consume(&[token])?;
            if grammar.is_over() {
                self.ending = Some(FinishReason::Stop);
            }
            self.tally.grammar += begun.elapsed();
        }
        if self.parts.eos.contains(&token) {
            self.ending = Some(FinishReason::Stop);
        } else {
            self.unseen.push(token);
            self.waiting.push_back(token);
        }
        Ok(())
    }

    /// Returns a waiting token, and ends the answer if it was the last one.
    fn emit(&mut self, token: u32) -> Piece {
        self.tally.tokens_out += 1;
        self.last_token = token;
        let (mut text, mut stopped) = self.tail.push(self.parts.tokenizer.text_bytes(token));
        let reason = match self.ending {
            _ if stopped => Some(FinishReason::Stop),
            Some(reason) if self.waiting.is_empty() => Some(reason),
            _ if self.tally.tokens_out >= self.max_tokens => Some(FinishReason::Length),
            _ => None,
        };
        if let Some(mut reason) = reason {
            if !stopped {
                let rest;
                (rest, stopped) = self.tail.finish();
                text.push_str(&rest);
                if stopped {
                    reason = FinishReason::Stop;
                }
            }
            self.close(reason);
        }
        self.tally.text.push_str(&text);
        Piece { token, text }
    }

    /// Ends the answer with no token waiting; what was held back comes out with the last token's id.
    fn end(&mut self, reason: FinishReason) -> Option<Piece> {
        let (text, stopped) = self.tail.finish();
        self.close(if stopped { FinishReason::Stop } else { reason });
        self.tally.text.push_str(&text);
        (!text.is_empty()).then_some(Piece {
            token: self.last_token,
            text,
        })
    }

    fn close(&mut self, reason: FinishReason) {
        self.over = true;
        self.tally.reason = reason;
        self.tally.complete = match &mut self.grammar {
            Some(grammar) => self.waiting.is_empty() && grammar.is_complete(),
            None => reason == FinishReason::Stop,
        };
        tracing::debug!(
            model = self.parts.name,
            ?reason,
            tokens_in = self.tally.tokens_in,
            tokens_cached = self.tally.tokens_cached,
            tokens_out = self.tally.tokens_out,
            prefill_ms = self.tally.prefill.as_millis() as u64,
            decode_ms = self.tally.decode.as_millis() as u64,
            "answer finished"
        );
    }

    /// Whether an error of the model is only how a cancellation or a deadline came out.
    fn cause(&self, error: &EngineError) -> Option<FinishReason> {
        match error {
            EngineError::Terminated { .. } => self.interruption(),
            _ => None,
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            if let Some(token) = self.waiting.pop_front() {
                return Some(Ok(self.emit(token)));
            }
            if let Some(reason) = self.ending {
                return self.end(reason).map(Ok);
            }
            let begun = Instant::now();
            let is_prefill = !self.has_scores;
            let result = self.advance();
            let spent = if is_prefill {
                &mut self.tally.prefill
            } else {
                &mut self.tally.decode
            };
            *spent += begun.elapsed();
            if let Err(error) = result {
                match self.cause(&error) {
                    Some(reason) => self.ending = Some(reason),
                    None => {
                        self.close(FinishReason::Failed);
                        self.tally.complete = false;
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }
}
