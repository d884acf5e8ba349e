//! One answer on its way: which tokens the model has to see, what its scores mean, and what ends it.
//!
//! It never runs a model. Whoever does shows it the scores after its last token; it chooses, follows its grammar, holds
//! back what may become a stop string, and says what came out.
//!
//! ```text
//!  tokens: prompt ▪▪▪▪▪▪▪ + forced ▪▪ ──(the model sees them)──► accept(scores) ─► chosen ▪ + forced ▪▪ ─► pieces
//!                                                   ▲                                  │
//!                                                   └──────────── until it ends ◄──────┘
//! ```
//!
//! Tokens that a grammar leaves no choice about are added at once, so that they share a run with the chosen one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grammar::GrammarRun;
use super::request::{CancelToken, FinishReason, Finished, Piece, Request};
use super::sampler::Sampler;
use super::tail::TextTail;
use super::tokenizer::Tokenizer;
use crate::error::{EngineError, Result};

/// What an answer needs to know of its model.
pub(crate) struct Language {
    pub(crate) name: String,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Tokens that end an answer.
    pub(crate) eos: Vec<u32>,
}

/// An answer on its way.
pub(crate) struct Answer {
    /// All that the model has to see: the prompt, then what was chosen and forced.
    tokens: Vec<u32>,
    grammar: Option<GrammarRun>,
    sampler: Sampler,
    tail: TextTail,
    max_tokens: usize,
    deadline: Option<Instant>,
    token_budget: Option<Duration>,
    cancel: CancelToken,
    /// Tokens chosen but not emitted yet.
    waiting: VecDeque<u32>,
    /// Set when the answer ends with the last waiting token.
    ending: Option<FinishReason>,
    begun: bool,
    has_scores: bool,
    over: bool,
    last_token: u32,
    /// Time since the last scores.
    gap: Duration,
    tally: Finished,
}

impl Answer {
    /// Prepares an answer: checks the request and tokenizes the prompt.
    pub(crate) fn new(
        language: &Language,
        request: &Request,
        grammar: Option<GrammarRun>,
        context_tokens: usize,
    ) -> Result<Self> {
        request.check()?;
        let tokens = language.tokenizer.encode_prompt(&request.prompt)?;
        let last_token = *tokens.last().ok_or(EngineError::PromptEmpty)?;
        if tokens.len() >= context_tokens {
            return Err(EngineError::PromptTooLong {
                prompt_tokens: tokens.len(),
                context_tokens,
            });
        }
        Ok(Self {
            grammar,
            sampler: Sampler::new(request.sampling),
            tail: TextTail::new(request.stop.clone()),
            max_tokens: request.max_tokens.min(context_tokens - tokens.len()),
            deadline: request.deadline,
            token_budget: request.token_budget,
            cancel: request.cancel.clone(),
            waiting: VecDeque::new(),
            ending: None,
            begun: false,
            has_scores: false,
            over: false,
            last_token,
            gap: Duration::ZERO,
            tally: Finished {
                text: String::new(),
                reason: FinishReason::Length,
                complete: false,
                tokens_in: tokens.len(),
                tokens_cached: 0,
                tokens_out: 0,
                tokens_forced: 0,
                queued: Duration::ZERO,
                prefill: Duration::ZERO,
                decode: Duration::ZERO,
                grammar: Duration::ZERO,
            },
            tokens,
        })
    }

    /// All that the model has to see so far.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_len(&self) -> usize {
        self.tally.tokens_in
    }

    /// Model runs so far that told a token.
    pub(crate) fn steps(&self) -> usize {
        self.tally
            .tokens_out
            .saturating_sub(self.tally.tokens_forced)
    }

    /// Most tokens that may still come.
    pub(crate) fn remaining(&self) -> usize {
        self.max_tokens - self.tally.tokens_out
    }

    /// No model run starts for it after this moment.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the model has given scores for it.
    pub(crate) fn has_scores(&self) -> bool {
        self.has_scores
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// It gets its place: says how many tokens of the prompt need no run, and takes what the grammar forces at the very
    /// beginning, which then shares the run of the prompt. Coming back after a pause changes nothing.
    pub(crate) fn begin(&mut self, language: &Language, out: &mut Vec<Piece>) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        self.force()?;
        self.settle(language, out);
        Ok(())
    }

    /// Counts tokens of the prompt that were in the cache when it began.
    pub(crate) fn cached(&mut self, tokens: usize) {
        self.tally.tokens_cached = tokens.min(self.tally.tokens_in);
    }

    /// Tokens of the prompt that were in the cache.
    pub(crate) fn tokens_cached(&self) -> usize {
        self.tally.tokens_cached
    }

    /// What ends it from outside at this moment, if anything does.
    pub(crate) fn interruption(&self, now: Instant) -> Option<FinishReason> {
        if self.cancel.is_cancelled() {
            return Some(FinishReason::Cancelled);
        }
        self.deadline
            .filter(|deadline| *deadline <= now)
            .map(|_| FinishReason::Deadline)
    }

    /// Ends it from outside; what was held back comes out.
    pub(crate) fn interrupt(
        &mut self,
        language: &Language,
        reason: FinishReason,
        out: &mut Vec<Piece>,
    ) {
        if !self.over {
            self.ending = Some(reason);
            self.settle(language, out);
        }
    }

    /// Goes on by the scores after its last token, `spent` after the step began that made them.
    pub(crate) fn accept(
        &mut self,
        language: &Language,
        scores: &[f32],
        spent: Duration,
        out: &mut Vec<Piece>,
    ) -> Result<()> {
        let is_first = !std::mem::replace(&mut self.has_scores, true);
        let choosing = Instant::now();
        self.choose(language, scores)?;
        let took = self.gap + spent + choosing.elapsed();
        if !is_first && self.token_budget.is_some_and(|budget| took > budget) {
            self.ending.get_or_insert(FinishReason::Deadline);
        }
        self.settle(language, out);
        if !self.over {
            self.force()?;
            self.settle(language, out);
        }
        Ok(())
    }

    /// Counts the time of a step it lived through; `scored` when that step gave it scores.
    pub(crate) fn charge(&mut self, spent: Duration, phase: Phase, scored: bool) {
        match phase {
            Phase::Queued => self.tally.queued += spent,
            Phase::Prefill => self.tally.prefill += spent,
            Phase::Decode => self.tally.decode += spent,
        }
        self.gap = if scored {
            Duration::ZERO
        } else {
            self.gap + spent
        };
    }

    /// The answer and what it cost; [`FinishReason::Failed`] if it had not ended.
    pub(crate) fn finish(mut self) -> Finished {
        if !self.over {
            self.tally.reason = FinishReason::Failed;
            self.tally.complete = false;
        }
        self.tally
    }

    /// Takes the tokens that the grammar leaves no choice about.
    fn force(&mut self) -> Result<()> {
        let Some(grammar) = &mut self.grammar else {
            return Ok(());
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
        self.tokens.extend_from_slice(&forced);
        self.waiting.extend(&forced);
        Ok(())
    }

    fn choose(&mut self, language: &Language, scores: &[f32]) -> Result<()> {
        let token = match &mut self.grammar {
            Some(grammar) => {
                let (token, took) = choose_under(grammar, &mut self.sampler, scores)?;
                self.tally.grammar += took;
                token
            }
            None => self.sampler.choose(scores, None),
        };
        let token = token.ok_or_else(|| EngineError::NotFinite {
            model: language.name.clone(),
        })?;
        if let Some(grammar) = &mut self.grammar {
            let begun = Instant::now();
            grammar.consume(&[token])?;
            if grammar.is_over() {
                self.ending = Some(FinishReason::Stop);
            }
            self.tally.grammar += begun.elapsed();
        }
        if language.eos.contains(&token) {
            self.ending = Some(FinishReason::Stop);
        } else {
            self.tokens.push(token);
            self.waiting.push_back(token);
        }
        Ok(())
    }

    /// Emits what waits, and ends the answer if its end has come.
    fn settle(&mut self, language: &Language, out: &mut Vec<Piece>) {
        while !self.over {
            if let Some(token) = self.waiting.pop_front() {
                let piece = self.emit(language, token);
                out.push(piece);
            } else if let Some(reason) = self.ending {
                out.extend(self.end(language, reason));
            } else {
                return;
            }
        }
    }

    /// Returns a waiting token, and ends the answer if it was the last one.
    fn emit(&mut self, language: &Language, token: u32) -> Piece {
        self.tally.tokens_out += 1;
        self.last_token = token;
        let (mut text, mut stopped) = self.tail.push(language.tokenizer.text_bytes(token));
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
            self.close(language, reason);
        }
        self.tally.text.push_str(&text);
        Piece { token, text }
    }

    /// Ends the answer with no token waiting; what was held back comes out with the last token's id.
    fn end(&mut self, language: &Language, reason: FinishReason) -> Option<Piece> {
        let (text, stopped) = self.tail.finish();
        self.close(language, if stopped { FinishReason::Stop } else { reason });
        self.tally.text.push_str(&text);
        (!text.is_empty()).then_some(Piece {
            token: self.last_token,
            text,
        })
    }

    fn close(&mut self, language: &Language, reason: FinishReason) {
        self.over = true;
        self.tally.reason = reason;
        self.tally.complete = match &mut self.grammar {
            Some(grammar) => self.waiting.is_empty() && grammar.is_complete(),
            None => reason == FinishReason::Stop,
        };
        tracing::debug!(
            model = language.name,
            ?reason,
            tokens_in = self.tally.tokens_in,
            tokens_cached = self.tally.tokens_cached,
            tokens_out = self.tally.tokens_out,
            "answer finished"
        );
    }
}

/// Chooses among the tokens that a grammar allows; also returns the grammar's time. What the model likes best is usually
/// allowed: then nobody needs to know which others are.
fn choose_under(
    grammar: &mut GrammarRun,
    sampler: &mut Sampler,
    scores: &[f32],
) -> Result<(Option<u32>, Duration)> {
    let favourite = if grammar.is_slow() {
        sampler.favourite(scores)
    } else {
        None
    };
    let begun = Instant::now();
    if let Some(token) = favourite
        && grammar.surely_allows(token)?
    {
        return Ok((Some(token), begun.elapsed()));
    }
    let allowed = grammar.allowed()?;
    let took = begun.elapsed();
    Ok((sampler.choose(scores, Some(&allowed)), took))
}

/// What a step was for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It had no place yet.
    Queued,
    /// Its prompt ran.
    Prefill,
    /// It had scores already.
    Decode,
}
