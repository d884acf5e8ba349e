//! The language model's server: one actor, one thread that owns the model, many answers at once.
//!
//! Other models do one job after another ([`crate::model`]). A language model runs the next token of everybody in one step,
//! so its thread takes new questions between steps and answers whenever one is done. Who goes first, who is pre-empted
//! between tokens and what cannot be in time is decided by the engine's [`TextServer`](llmasos_engine::text::TextServer),
//! at the measured cost of a step. The actor never computes: it knows who asks, watches over the thread, and answers.
//!
//! ```text
//! node ──ask(priority, deadline, job)──▶ actor ──orders──▶ thread: owns the model; submit, step, step, …
//!   ▲                                      │ ▲                                │
//!   └──────────── answer ──────────────────┘ └────────── Ended ───────────────┘
//!                                          │ watch: past deadline + grace → terminate; still silent → fail, supervisor restarts
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use llmasos_engine::text::{CancelToken, ChatMessage, Grammar, LanguageModel};
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus};
use tokio::sync::oneshot;
use tracing::warn;

use crate::{
    health::{Ledger, LedgerCount, NodeHealth, NodeState, Outcome},
    language_thread::{Order, language_thread},
    model::{ABANDON_GRACE, AskError, TERMINATE_GRACE, Terminator, WATCH_PERIOD},
};

/// Orders on their way to the thread; one more question is refused.
const ORDERS_MAX: usize = 256;

/// A question to the language model.
#[derive(Clone, Debug)]
pub struct LanguageJob {
    /// Who asks; lengths of answers are estimated per asker.
    pub class: &'static str,
    /// The conversation so far.
    pub messages: Vec<ChatMessage>,
    /// What the answer must look like.
    pub grammar: Option<Grammar>,
    /// Most tokens sampled.
    pub tokens_max: usize,
}

/// The model's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageAnswer {
    /// Its text.
    pub text: String,
    /// Whether it came to its own end (rather than to the token limit or the deadline).
    pub complete: bool,
    /// Tokens of the prompt.
    pub tokens_in: u32,
    /// Of these, tokens that an earlier prompt had in common with it.
    pub tokens_cached: u32,
    /// Tokens of the answer.
    pub tokens_out: u32,
    /// Time of decoding, after the prompt.
    pub decode: Duration,
}

/// Loads the model; called on the model's own thread, again after every restart.
pub type LoadLanguage = Arc<dyn Fn() -> Result<LanguageModel, String> + Send + Sync>;

/// The behaviour: what never changes while the server runs.
pub struct LanguageServer {
    name: String,
    health: NodeHealth,
    client: LanguageClient,
}

/// What the server is told.
pub enum LanguageMessage {
    /// A node asks.
    Ask(LanguageAsk),
    /// The thread has loaded its model, or could not.
    Loaded(Result<Terminator, String>),
    /// What became of a question.
    Ended(u64, Result<LanguageAnswer, AskError>),
    /// What the thread measured.
    Readings(Vec<(&'static str, String)>),
    /// The thread has ended by a panic.
    Died(String),
    /// Look after the questions.
    Watch,
    /// Fault injection: the thread sleeps as if the model hung, and no deadline is honoured meanwhile.
    Stall(Duration),
}

/// One question on its way.
pub struct LanguageAsk {
    job: LanguageJob,
    priority: u8,
    deadline: Instant,
    cancel: CancelToken,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<LanguageAnswer, AskError>>;

/// A question that the thread has.
struct Open {
    /// Taken when it is answered, which may be before the thread is done with it.
    reply: Option<Reply>,
    deadline: Instant,
    cancel: CancelToken,
}

/// What changes while it runs.
pub struct LanguageState {
    orders: SyncSender<Order>,
    ready: bool,
    open: BTreeMap<u64, Open>,
    next: u64,
    terminator: Terminator,
    /// When the running step was told to end.
    terminated: Option<Instant>,
    /// An injected fault lasts until then.
    stalled_until: Option<Instant>,
}

impl Actor for LanguageServer {
    type Msg = LanguageMessage;
    type State = LanguageState;
    type Arguments = LoadLanguage;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        load: LoadLanguage,
    ) -> Result<Self::State, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        let (orders, inbox) = sync_channel(ORDERS_MAX);
        let (name, thread_actor) = (self.name.clone(), myself.clone());
        std::thread::Builder::new()
            .name(format!("model-{}", self.name))
            .spawn(move || language_thread(&name, &load, &inbox, &thread_actor))?;
        myself.send_interval(WATCH_PERIOD, || LanguageMessage::Watch);
        // Whom the last server took with it was told that it is not ready.
        for _ in 0..self.client.asks.count().waiting() {
            self.client.asks.settle(Outcome::Refused);
        }
        self.client.attach(Some(myself));
        Ok(LanguageState {
            orders,
            ready: false,
            open: BTreeMap::new(),
            next: 0,
            terminator: None,
            terminated: None,
            stalled_until: None,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LanguageMessage::Loaded(Ok(terminator)) => {
                state.ready = true;
                self.client.ready.store(true, Ordering::Release);
                state.terminator = terminator;
                self.health.set(NodeState::Ready, "");
            }
            LanguageMessage::Loaded(Err(reason)) => {
                self.health.set(NodeState::Failed, reason.clone());
                return Err(reason.into());
            }
            LanguageMessage::Ask(ask) => self.take(state, ask),
            LanguageMessage::Ended(id, outcome) => self.ended(state, id, outcome),
            LanguageMessage::Readings(readings) => {
                for (key, value) in readings {
                    self.health.value(key, value);
                }
                self.health
                    .value("asks", self.client.asks.count().to_string());
            }
            LanguageMessage::Died(reason) => {
                for open in std::mem::take(&mut state.open).into_values() {
                    let (model, reason) = (self.name.clone(), reason.clone());
                    self.answer(open.reply, Err(AskError::Failed { model, reason }));
                }
                return Err(format!("model {} {reason}", self.name).into());
            }
            LanguageMessage::Stall(duration) => {
                warn!(model = %self.name, ?duration, "fault injected: the model stalls");
                if state.orders.try_send(Order::Stall(duration)).is_ok() {
                    let from = state.stalled_until.unwrap_or_else(Instant::now);
                    state.stalled_until = Some(from.max(Instant::now()) + duration);
                }
            }
            LanguageMessage::Watch => {
                self.health.beat();
                self.watch(state)?;
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.client.attach(None);
        for open in std::mem::take(&mut state.open).into_values() {
            let model = self.name.clone();
            self.answer(open.reply, Err(AskError::NotReady { model }));
        }
        // The thread notices that nobody gives orders any more; a run that hangs is told to end.
        if let Some(terminate) = &state.terminator {
            terminate();
        }
        Ok(())
    }
}

impl LanguageServer {
    /// The behaviour of one model's server; `client` is what nodes ask through, and survives restarts.
    pub fn new(name: &str, health: NodeHealth, client: LanguageClient) -> Self {
        LanguageServer {
            name: name.to_owned(),
            health,
            client,
        }
    }

    /// Hands a question to the thread.
    fn take(&self, state: &mut LanguageState, ask: LanguageAsk) {
        self.client.asks.arrive();
        let model = self.name.clone();
        if !state.ready {
            return self.answer(Some(ask.reply), Err(AskError::NotReady { model }));
        }
        state.next += 1;
        let order = Order::Ask {
            id: state.next,
            job: ask.job,
            priority: ask.priority,
            deadline: ask.deadline,
            cancel: ask.cancel.clone(),
        };
        match state.orders.try_send(order) {
            Ok(()) => {
                let open = Open {
                    reply: Some(ask.reply),
                    deadline: ask.deadline,
                    cancel: ask.cancel,
                };
                state.open.insert(state.next, open);
            }
            Err(TrySendError::Full(_)) => {
                self.answer(Some(ask.reply), Err(AskError::Full { model }));
            }
            Err(TrySendError::Disconnected(_)) => {
                self.answer(Some(ask.reply), Err(AskError::NotReady { model }));
            }
        }
    }

    fn ended(&self, state: &mut LanguageState, id: u64, outcome: Result<LanguageAnswer, AskError>) {
        // The thread is alive.
        state.terminated = None;
        let Some(open) = state.open.remove(&id) else {
            return;
        };
        let model = self.name.clone();
        let outcome = match outcome {
            _ if open.cancel.is_cancelled() => Err(AskError::Cancelled { model }),
            Ok(_) if Instant::now() > open.deadline => Err(AskError::Deadline { model }),
            outcome => outcome,
        };
        self.answer(open.reply, outcome);
    }

    /// Answers who cannot be answered any more, and looks whether the thread still does what it is told.
    fn watch(&self, state: &mut LanguageState) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        for (id, open) in &mut state.open {
            let Some(reply) = open.reply.take() else {
                continue;
            };
            let model = self.name.clone();
            let error = if open.cancel.is_cancelled() || reply.is_closed() {
                AskError::Cancelled { model }
            } else if open.deadline <= now {
                AskError::Deadline { model }
            } else {
                open.reply = Some(reply);
                continue;
            };
            self.answer(Some(reply), Err(error));
            // A full queue of orders is no harm: the deadline ends it too.
            let _ = state.orders.try_send(Order::Cancel(*id));
        }
        let stalled = state
            .stalled_until
            .is_some_and(|until| now < until + TERMINATE_GRACE);
        let overdue = state.open.values().map(|open| open.deadline).min();
        if stalled || overdue.is_none_or(|deadline| now < deadline + TERMINATE_GRACE) {
            return Ok(());
        }
        match state.terminated {
            None => {
                warn!(model = %self.name, "a step runs past a deadline: terminating it");
                if let Some(terminate) = &state.terminator {
                    terminate();
                }
                state.terminated = Some(now);
                Ok(())
            }
            Some(when) if now.duration_since(when) > ABANDON_GRACE => {
                self.health.set(NodeState::Failed, "hangs past a deadline");
                Err(format!("model {} hangs and cannot be interrupted", self.name).into())
            }
            Some(_) => Ok(()),
        }
    }

    /// Answers, and counts what became of the question.
    fn answer(&self, reply: Option<Reply>, outcome: Result<LanguageAnswer, AskError>) {
        let Some(reply) = reply else {
            return;
        };
        self.client.asks.settle(match &outcome {
            Ok(_) => Outcome::Handled,
            Err(AskError::Full { .. }) => Outcome::Lost,
            Err(AskError::Deadline { .. }) => Outcome::Expired,
            Err(AskError::Cancelled { .. }) => Outcome::Superseded,
            Err(AskError::TooLate { .. } | AskError::NotReady { .. } | AskError::Failed { .. }) => {
                Outcome::Refused
            }
        });
        // The asker may have given up: that is its right, and no reason for the server to fail.
        let _ = reply.send(outcome);
    }
}

/// What nodes ask through; survives the server's restarts.
#[derive(Clone)]
pub struct LanguageClient {
    name: Arc<str>,
    server: Arc<Mutex<Option<ActorRef<LanguageMessage>>>>,
    ready: Arc<AtomicBool>,
    asks: Arc<Ledger>,
}

impl LanguageClient {
    /// A client of a server that is yet to be started.
    pub fn new(name: &str) -> Self {
        LanguageClient {
            name: name.into(),
            server: Arc::default(),
            ready: Arc::default(),
            asks: Arc::default(),
        }
    }

    /// Asks and waits, at most until the deadline (and the little that noticing it takes).
    ///
    /// # Errors
    /// [`AskError`]: not ready, full, too late, cancelled, failed.
    pub async fn ask(
        &self,
        job: LanguageJob,
        priority: u8,
        deadline: Instant,
        cancel: CancelToken,
    ) -> Result<LanguageAnswer, AskError> {
        let not_ready = || AskError::NotReady {
            model: self.name.to_string(),
        };
        let server = self.actor().ok_or_else(not_ready)?;
        let (reply, answer) = oneshot::channel();
        server
            .cast(LanguageMessage::Ask(LanguageAsk {
                job,
                priority,
                deadline,
                cancel,
                reply,
            }))
            .map_err(|_| not_ready())?;
        let limit = deadline.saturating_duration_since(Instant::now()) + TERMINATE_GRACE;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(not_ready()),
            Err(_) => Err(AskError::Deadline {
                model: self.name.to_string(),
            }),
        }
    }

    /// Fault injection: makes the model's thread sleep before its next step. `false` when no server runs.
    pub fn stall(&self, duration: Duration) -> bool {
        self.actor()
            .is_some_and(|server| server.cast(LanguageMessage::Stall(duration)).is_ok())
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the model is loaded and warm. A server that failed or was killed is not, from that moment on.
    pub fn is_ready(&self) -> bool {
        let runs = |server: ActorRef<_>| server.get_status() == ActorStatus::Running;
        self.ready.load(Ordering::Acquire) && self.actor().is_some_and(runs)
    }

    /// What became of all questions: answered, lost to a full queue, past their deadline, cancelled, refused.
    pub fn asks(&self) -> LedgerCount {
        self.asks.count()
    }

    fn actor(&self) -> Option<ActorRef<LanguageMessage>> {
        self.server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn attach(&self, server: Option<ActorRef<LanguageMessage>>) {
        self.ready.store(false, Ordering::Release);
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }
}
