//! Many answers from one model: every step runs the next token of everybody and a part of somebody's prompt.
//!
//! ```text
//! submit ─► jobs ──┐      ┌─────────────────────────── step(now) ───────────────────────────┐
//!                  ├──────┤ end who is cancelled or late                                     │
//! cancel ──────────┘      │ seat: who gets a slot and pages (schedule, store)                │
//!                         │ plan: how many tokens of whom (schedule)                         │
//!                         │ run the model once ─► scores ─► each answer goes on by itself    ├─► events
//!                         └─────────────────────────────────────────────────────────────────┘
//! ```
//!
//! No thread, no queue between threads, no clock but for measuring: whoever owns a server calls `step` as long as it
//! [`has_work`](TextServer::has_work). What is wrong with one request ends that request and no other. The step itself is in
//! the file `turn`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Answer, Language, Phase};
use super::cost::StepCost;
use super::grammar::{Grammar, GrammarCompiler, GrammarRun};
use super::pages::PageTable;
use super::rate::Rate;
use super::request::{FinishReason, Finished, Piece, Request};
use super::schedule::{self, Id, Room, Seat};
use super::step::StepModel;
use super::store::Store;
use crate::error::{EngineError, Result};

/// Requests that may wait for a slot; one more is refused, or takes the place of one that matters less.
pub const MAX_QUEUED: usize = 64;
/// Weight of the newest answer in the expected length of a class.
const NEWEST: f64 = 0.3;
/// How much of an estimate counts after a refusal: what was slow once must get the chance to show that it no longer is.
const EASE: f64 = 0.8;

/// Names a request of a server.
pub type RequestId = Id;

/// What a step brought.
#[derive(Debug)]
pub enum Event {
    /// A token of an answer.
    Piece(RequestId, Piece),
    /// An answer has ended.
    Finished(RequestId, Finished),
    /// An answer has failed; what came before is kept.
    Failed(RequestId, EngineError, Finished),
}

impl Event {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> RequestId {
        match self {
            Self::Piece(id, _) | Self::Finished(id, _) | Self::Failed(id, ..) => *id,
        }
    }
}

/// What a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Answers that have a slot.
    pub running: usize,
    /// Requests that wait for one.
    pub queued: usize,
    /// Pages of keys and values.
    pub pages: usize,
    /// Of these, free ones.
    pub pages_free: usize,
    /// Of these, pages of earlier prompts and answers.
    pub pages_kept: usize,
    /// Tokens of prompts so far.
    pub tokens_in: u64,
    /// Of these, tokens that needed no run.
    pub tokens_cached: u64,
}

/// A model, and everybody who wants an answer from it.
pub struct TextServer {
    pub(super) language: Language,
    pub(super) model: Box<dyn StepModel>,
    pub(super) store: Store,
    /// Made when the first grammar is asked for, or by the warm-up.
    grammars: Option<GrammarCompiler>,
    pub(super) cost: StepCost,
    rate: Rate,
    expected: BTreeMap<&'static str, Expected>,
    pub(super) jobs: Vec<Job>,
    next: Id,
    pub(super) events: Vec<Event>,
    /// Whether the last step was ended from outside with nobody to blame.
    pub(super) terminated: bool,
    tokens_in: u64,
    pub(super) tokens_cached: u64,
}

pub(super) struct Job {
    pub(super) id: Id,
    pub(super) priority: u8,
    pub(super) class: &'static str,
    pub(super) arrived: Instant,
    pub(super) answer: Answer,
    /// There while it has a slot.
    pub(super) table: Option<PageTable>,
    /// Whether any of its tokens have been run.
    pub(super) ran: bool,
    /// What the cache knew when it got its pages, until the next run.
    pub(super) untouched: Option<u64>,
    /// What the present step was for it.
    pub(super) phase: Phase,
    pub(super) scored: bool,
}

/// How long answers of a class have been.
#[derive(Debug)]
struct Expected {
    /// Model runs after the prompt; `None` before the first answer.
    steps: Option<f64>,
    ease: f64,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            steps: None,
            ease: 1.0,
        }
    }
}

impl TextServer {
    pub(crate) fn new(language: Language, model: Box<dyn StepModel>, prefix_bytes: usize) -> Self {
        let store = Store::new(&language.name, model.as_ref(), prefix_bytes);
        Self {
            language,
            model,
            store,
            grammars: None,
            cost: StepCost::default(),
            rate: Rate::default(),
            expected: BTreeMap::new(),
            jobs: Vec::new(),
            next: 0,
            events: Vec::new(),
            terminated: false,
            tokens_in: 0,
            tokens_cached: 0,
        }
    }

    /// Asks for an answer. It begins with one of the next steps.
    ///
    /// # Errors
    /// What is wrong with the request ([`EngineError::Request`], [`EngineError::PromptEmpty`],
    /// [`EngineError::PromptTooLong`], [`EngineError::PromptTooLarge`], [`EngineError::Grammar`]); that there is no room
    /// ([`EngineError::QueueFull`]); that it cannot be in time ([`EngineError::TooLate`]).
    pub fn submit(&mut self, request: &Request, now: Instant) -> Result<RequestId> {
        self.check_queue(request.priority)?;
        let job = self.prepare(request, now)?;
        self.admit(&job, now)?;
        self.enqueue(job)
    }

    /// Asks for an answer without asking whether it will be in time.
    pub(crate) fn submit_anyway(&mut self, request: &Request, now: Instant) -> Result<RequestId> {
        self.check_queue(request.priority)?;
        let job = self.prepare(request, now)?;
        self.enqueue(job)
    }

    /// Ends an answer: it takes no part in the next step, which tells its end. `false` when there is none of that id.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let Some(at) = self.jobs.iter().position(|job| job.id == id) else {
            return false;
        };
        self.interrupt(at, FinishReason::Cancelled);
        true
    }

    /// Whether there is anything to do or to tell.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.jobs.is_empty() || !self.events.is_empty()
    }

    /// What it is doing now.
    #[must_use]
    pub fn load(&self) -> Load {
        let running = self.jobs.iter().filter(|job| job.table.is_some()).count();
        let (pages, pages_free, pages_kept) = self.store.counts();
        Load {
            running,
            queued: self.jobs.len() - running,
            pages,
            pages_free,
            pages_kept,
            tokens_in: self.tokens_in,
            tokens_cached: self.tokens_cached,
        }
    }

    /// How fast the model has been lately, on this computer and under its load.
    #[must_use]
    pub fn measured_rate(&self) -> Rate {
        self.rate
    }

    /// Most tokens of a prompt and its answer together.
    #[must_use]
    pub fn context(&self) -> usize {
        self.model.context().min(self.store.tokens_max())
    }

    /// Compiles a grammar now instead of at the first request that uses it.
    ///
    /// # Errors
    /// [`EngineError::Grammar`].
    pub fn prepare_grammar(&mut self, grammar: &Grammar) -> Result<()> {
        self.grammar(grammar).map(|_| ())
    }

    /// Forgets the beginnings of earlier prompts and answers.
    pub fn forget(&mut self) {
        self.store.forget();
    }

    pub(crate) fn model(&self) -> &dyn StepModel {
        self.model.as_ref()
    }

    pub(crate) fn language(&self) -> &Language {
        &self.language
    }

    /// Size of all pages.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Puts back what a step told somebody whom it did not concern.
    pub(crate) fn put_back(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Ends an answer that nobody will ask about again.
    pub(crate) fn abandon(&mut self, id: RequestId) {
        self.cancel(id);
        self.events.retain(|event| event.id() != id);
    }

    /// Takes in the time of one step.
    pub(super) fn record(&mut self, sequences: usize, rows: usize, took: Duration) {
        self.cost.record(rows, took);
        if sequences == 1 {
            self.rate.record(rows, took);
        }
    }

    fn check_queue(&self, priority: u8) -> Result<()> {
        let queued = self.jobs.iter().filter(|job| job.table.is_none()).count();
        if queued >= MAX_QUEUED && schedule::displaced(&self.seats(), priority).is_none() {
            return Err(EngineError::QueueFull { limit: MAX_QUEUED });
        }
        Ok(())
    }

    fn prepare(&mut self, request: &Request, now: Instant) -> Result<Job> {
        request.check()?;
        let grammar = match &request.grammar {
            Some(grammar) => Some(self.grammar(grammar)?),
            None => None,
        };
        let answer = Answer::new(&self.language, request, grammar, self.context())?;
        self.next += 1;
        Ok(Job {
            id: self.next,
            priority: request.priority,
            class: request.class,
            arrived: now,
            answer,
            table: None,
            ran: false,
            untouched: None,
            phase: Phase::Queued,
            scored: false,
        })
    }

    fn admit(&mut self, job: &Job, now: Instant) -> Result<()> {
        let expected = self.expected.get(job.class);
        let newcomer = Seat {
            unseen: job.answer.tokens().len() - self.store.known(job.answer.tokens()),
            // Of a class never seen before one token is expected: it gets the chance to be short.
            remaining: expected
                .and_then(|expected| expected.steps)
                .map_or(1, |steps| job.answer.remaining().min(steps as usize)),
            ..self.seat(job)
        };
        let ease = expected.map_or(1.0, |expected| expected.ease);
        let late = schedule::admit(
            &newcomer,
            &self.seats(),
            &self.room(),
            &self.cost,
            ease,
            now,
        );
        late.map_err(|late| {
            self.expected.entry(job.class).or_default().ease *= EASE;
            EngineError::TooLate {
                need_ms: late.need.as_millis() as u64,
                left_ms: late.left.as_millis() as u64,
            }
        })
    }

    fn enqueue(&mut self, job: Job) -> Result<RequestId> {
        if self.jobs.is_empty() {
            // Terminations asked for until now meant somebody else.
            self.model.forget_termination()?;
        }
        let queued = self.jobs.iter().filter(|job| job.table.is_none()).count();
        if queued >= MAX_QUEUED
            && let Some(out) = schedule::displaced(&self.seats(), job.priority)
        {
            self.fail(out, EngineError::QueueFull { limit: MAX_QUEUED });
        }
        let id = job.id;
        self.tokens_in += job.answer.prompt_len() as u64;
        self.jobs.push(job);
        Ok(id)
    }

    fn grammar(&mut self, grammar: &Grammar) -> Result<GrammarRun> {
        self.grammars()?.start(grammar)
    }

    pub(crate) fn grammars(&mut self) -> Result<&mut GrammarCompiler> {
        let grammars = match self.grammars.take() {
            Some(grammars) => grammars,
            None => GrammarCompiler::new(Arc::clone(&self.language.tokenizer), &self.language.eos)?,
        };
        Ok(self.grammars.insert(grammars))
    }

    pub(super) fn room(&self) -> Room {
        Room {
            slots: self.model.sequences_max(),
            rows: self.model.rows_max(),
        }
    }

    pub(super) fn seats(&self) -> Vec<Seat> {
        self.jobs.iter().map(|job| self.seat(job)).collect()
    }

    /// A request as the policy sees it. The length of an answer is guessed from earlier ones of its class.
    fn seat(&self, job: &Job) -> Seat {
        let seen = job.table.as_ref().map_or(0, PageTable::tokens);
        let most = job.answer.remaining();
        let expected = self
            .expected
            .get(job.class)
            .and_then(|expected| expected.steps)
            .map_or(most, |steps| {
                (steps as usize)
                    .saturating_sub(job.answer.steps())
                    .clamp(1, most.max(1))
            });
        Seat {
            id: job.id,
            priority: job.priority,
            deadline: job.answer.deadline(),
            arrived: job.arrived,
            running: job.table.is_some(),
            unseen: job.answer.tokens().len() - seen,
            remaining: expected,
        }
    }

    /// Ends the answer at `at` from outside.
    pub(super) fn interrupt(&mut self, at: usize, reason: FinishReason) {
        let job = &mut self.jobs[at];
        let mut pieces = Vec::new();
        job.answer.interrupt(&self.language, reason, &mut pieces);
        let id = job.id;
        self.events
            .extend(pieces.into_iter().map(|piece| Event::Piece(id, piece)));
        self.finish(at);
    }

    /// Takes away the job at `at`, whose answer is over, and tells so.
    pub(super) fn finish(&mut self, at: usize) {
        let job = self.jobs.swap_remove(at);
        if let Some(table) = job.table {
            self.store.keep(job.answer.tokens(), table);
        }
        let steps = job.answer.steps() as f64;
        let finished = job.answer.finish();
        if matches!(finished.reason, FinishReason::Stop | FinishReason::Length) {
            let expected = self.expected.entry(job.class).or_default();
            let mean = expected.steps.get_or_insert(steps);
            *mean += NEWEST * (steps - *mean);
            expected.ease = 1.0;
        }
        self.events.push(Event::Finished(job.id, finished));
    }

    /// Takes away a job that has failed. What it has computed is not kept: it may be the reason.
    pub(super) fn fail(&mut self, id: Id, error: EngineError) {
        let Some(at) = self.jobs.iter().position(|job| job.id == id) else {
            return;
        };
        let job = self.jobs.swap_remove(at);
        if let Some(table) = job.table {
            self.store.discard(table);
        }
        self.events
            .push(Event::Failed(id, error, job.answer.finish()));
    }
}

impl std::fmt::Debug for TextServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextServer")
            .field("model", &self.language.name)
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}
