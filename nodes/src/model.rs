//! The model server: one actor per model, one thread that owns it, and a queue with priorities between them.
//!
//! Nodes share a model by asking its server. The highest priority runs first; a higher one that arrives pre-empts the running work
//! between tokens, and the pre-empted work starts again afterwards if its deadline still allows. Work that cannot meet its deadline at
//! the measured rate is refused at once instead of being late. The actor never computes: the thread does, and reports back.
//!
//! ```text
//! node ──ask(priority, deadline, job)──▶ actor ──▶ queue ──▶ thread: owns sessions ──Done──▶ actor ──▶ node
//!                                          │ watch: past deadline + grace → terminate; still silent → fail, supervisor restarts
//! ```

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use llmasos_engine::text::CancelToken;
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::health::{NodeHealth, NodeState};

/// Jobs that may wait for one model; one more is refused.
pub const JOBS_WAITING_MAX: usize = 64;

/// How long past its deadline work may run before the runtime is told to terminate it.
pub(crate) const TERMINATE_GRACE: Duration = Duration::from_millis(500);

/// How long after being terminated work may still be silent before the server gives the thread up.
pub(crate) const ABANDON_GRACE: Duration = Duration::from_millis(1500);

/// How often the actor looks after running and waiting work.
pub(crate) const WATCH_PERIOD: Duration = Duration::from_millis(50);

/// Weight of the newest duration in the running estimate.
const ESTIMATE_WEIGHT: f64 = 0.3;

/// How much of the estimate remains after a refusal: a model that was slow once must get the chance to show that it no longer is.
const ESTIMATE_DECAY: f64 = 0.8;

/// Why a model gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The model is still loading, or its server is being restarted.
    #[error("model {model} is not ready")]
    NotReady {
        /// The model's name.
        model: String,
    },
    /// Too many jobs wait already.
    #[error(
        "model {model}: expected at most {JOBS_WAITING_MAX} waiting jobs, found {JOBS_WAITING_MAX}"
    )]
    Full {
        /// The model's name.
        model: String,
    },
    /// At the measured rate the answer would come too late.
    #[error(
        "model {model} cannot finish by the deadline: needs about {need_ms} ms, {left_ms} ms are left"
    )]
    TooLate {
        /// The model's name.
        model: String,
        /// Expected duration in ms.
        need_ms: u64,
        /// Time left in ms.
        left_ms: u64,
    },
    /// The deadline passed while it waited or ran.
    #[error("model {model}: the deadline passed")]
    Deadline {
        /// The model's name.
        model: String,
    },
    /// The asker cancelled.
    #[error("model {model}: cancelled")]
    Cancelled {
        /// The model's name.
        model: String,
    },
    /// The model itself failed.
    #[error("model {model}: {reason}")]
    Failed {
        /// The model's name.
        model: String,
        /// What it says.
        reason: String,
    },
}

/// Something a model thread can do, one job after another. Implemented by the recogniser, the voice activity model and the
/// detector; the language model answers many at once and has a server of its own ([`crate::language`]).
pub trait Work: Sized + 'static {
    /// What is asked. Cloned when work is pre-empted and starts again.
    type Job: Clone + Send + 'static;
    /// What comes back.
    type Answer: Send + 'static;

    /// Does one job; looks at `cancel` as often as it can and at `deadline` between steps.
    ///
    /// # Errors
    /// A sentence about what failed. Stopping early on `cancel` may be an error or a partial answer: the server discards it.
    fn run(
        &mut self,
        job: Self::Job,
        deadline: Instant,
        cancel: &CancelToken,
    ) -> Result<Self::Answer, String>;

    /// One inference, so that the first real one is not slow and a broken model shows before it is needed.
    ///
    /// # Errors
    /// A sentence about what failed.
    fn warm_up(&mut self) -> Result<(), String>;

    /// Jobs of one class take about equally long; durations are estimated per class.
    fn class(job: &Self::Job) -> &'static str;

    /// Ends a run that hangs, from another thread; `None` when nothing can.
    fn terminator(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        None
    }

    /// Readings shown in the diagnostics, e.g. the decode rate.
    fn readings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Loads the model; called on the model's own thread, again after every restart.
pub type Load<W> = Arc<dyn Fn() -> Result<W, String> + Send + Sync>;

/// The behaviour: what never changes while the server runs.
pub struct ModelServer<W: Work> {
    name: String,
    health: NodeHealth,
    client: ModelClient<W>,
}

/// What the server is told.
pub enum ModelMessage<W: Work> {
    /// A node asks.
    Ask(Ask<W>),
    /// The thread has loaded its model, or could not.
    Loaded(Result<Terminator, String>),
    /// The thread finished a job.
    Done(Result<W::Answer, String>, Vec<(&'static str, String)>),
    /// Look after running and waiting work.
    Watch,
    /// Fault injection: the thread sleeps as if the model hung, and no deadline is honoured meanwhile.
    Stall(Duration),
}

/// Ends a hanging run.
pub type Terminator = Option<Box<dyn Fn() + Send + Sync>>;

/// One question on its way.
pub struct Ask<W: Work> {
    job: W::Job,
    priority: u8,
    deadline: Instant,
    cancel: CancelToken,
    reply: oneshot::Sender<Result<W::Answer, AskError>>,
}

enum Order<W: Work> {
    Run {
        job: W::Job,
        deadline: Instant,
        cancel: CancelToken,
    },
    Stall(Duration),
}

struct Running<W: Work> {
    ask: Ask<W>,
    /// Own token of this attempt, so that pre-emption does not cancel the asker's.
    attempt: CancelToken,
    started: Instant,
    preempted: bool,
    terminated: Option<Instant>,
}

/// What changes while it runs.
pub struct ModelState<W: Work> {
    orders: SyncSender<Order<W>>,
    ready: bool,
    busy: bool,
    running: Option<Running<W>>,
    waiting: Vec<Ask<W>>,
    stalls: Vec<Duration>,
    estimates: BTreeMap<&'static str, f64>,
    terminator: Terminator,
}

impl<W: Work> Actor for ModelServer<W> {
    type Msg = ModelMessage<W>;
    type State = ModelState<W>;
    type Arguments = Load<W>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        load: Load<W>,
    ) -> Result<Self::State, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        let (orders, inbox) = sync_channel(2);
        let thread_actor = myself.clone();
        std::thread::Builder::new()
            .name(format!("model-{}", self.name))
            .spawn(move || model_thread(&load, &inbox, &thread_actor))?;
        myself.send_interval(WATCH_PERIOD, || ModelMessage::Watch);
        self.client.attach(Some(myself));
        Ok(ModelState {
            orders,
            ready: false,
            busy: false,
            running: None,
            waiting: Vec::new(),
            stalls: Vec::new(),
            estimates: BTreeMap::new(),
            terminator: None,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ModelMessage::Loaded(Ok(terminator)) => {
                state.ready = true;
                self.client.ready.store(true, Ordering::Release);
                state.terminator = terminator;
                self.health.set(NodeState::Ready, "");
            }
            ModelMessage::Loaded(Err(reason)) => {
                self.health.set(NodeState::Failed, reason.clone());
                return Err(reason.into());
            }
            ModelMessage::Ask(ask) => self.admit(state, ask),
            ModelMessage::Stall(duration) => state.stalls.push(duration),
            ModelMessage::Done(answer, readings) => {
                for (key, value) in readings {
                    self.health.value(key, value);
                }
                self.finish(state, answer)?;
            }
            ModelMessage::Watch => {
                self.health.beat();
                self.watch(state)?;
            }
        }
        self.dispatch(state);
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.client.attach(None);
        if let Some(running) = &state.running {
            running.attempt.cancel("the server stops");
        }
        Ok(())
    }
}

impl<W: Work> ModelServer<W> {
    /// The behaviour of one model's server; `client` is what nodes ask through, and survives restarts.
    pub fn new(name: &str, health: NodeHealth, client: ModelClient<W>) -> Self {
        ModelServer {
            name: name.to_owned(),
            health,
            client,
        }
    }

    fn admit(&self, state: &mut ModelState<W>, ask: Ask<W>) {
        let model = || self.name.clone();
        if !state.ready {
            return answer(ask, Err(AskError::NotReady { model: model() }));
        }
        if state.waiting.len() >= JOBS_WAITING_MAX {
            return answer(ask, Err(AskError::Full { model: model() }));
        }
        let left = ask.deadline.saturating_duration_since(Instant::now());
        let class = W::class(&ask.job);
        if let Some(estimate) = state.estimates.get_mut(class)
            && *estimate > left.as_secs_f64()
        {
            let need_ms = (*estimate * 1e3) as u64;
            *estimate *= ESTIMATE_DECAY;
            return answer(
                ask,
                Err(AskError::TooLate {
                    model: model(),
                    need_ms,
                    left_ms: left.as_millis() as u64,
                }),
            );
        }
        if let Some(running) = &mut state.running
            && ask.priority > running.ask.priority
            && !running.preempted
        {
            running.preempted = true;
            running.attempt.cancel("pre-empted");
        }
        state.waiting.push(ask);
    }

    fn dispatch(&self, state: &mut ModelState<W>) {
        if state.busy || !state.ready {
            return;
        }
        if let Some(duration) = state.stalls.pop() {
            warn!(model = %self.name, ?duration, "fault injected: the model stalls");
            state.busy = state.orders.try_send(Order::Stall(duration)).is_ok();
            return;
        }
        self.drop_hopeless(state);
        // Highest priority first; among equals, first come first served (max_by_key returns the last, hence the reversed index).
        let Some((index, _)) = state
            .waiting
            .iter()
            .enumerate()
            .max_by_key(|(index, ask)| (ask.priority, usize::MAX - index))
        else {
            return;
        };
        let ask = state.waiting.remove(index);
        let attempt = CancelToken::new();
        let order = Order::Run {
            job: ask.job.clone(),
            deadline: ask.deadline,
            cancel: attempt.clone(),
        };
        if state.orders.try_send(order).is_ok() {
            state.busy = true;
            state.running = Some(Running {
                ask,
                attempt,
                started: Instant::now(),
                preempted: false,
                terminated: None,
            });
        } else {
            answer(
                ask,
                Err(AskError::NotReady {
                    model: self.name.clone(),
                }),
            );
        }
    }

    fn drop_hopeless(&self, state: &mut ModelState<W>) {
        let now = Instant::now();
        let mut index = 0;
        while let Some(ask) = state.waiting.get(index) {
            let error = if ask.cancel.is_cancelled() || ask.reply.is_closed() {
                AskError::Cancelled {
                    model: self.name.clone(),
                }
            } else if ask.deadline <= now {
                AskError::Deadline {
                    model: self.name.clone(),
                }
            } else {
                index += 1;
                continue;
            };
            answer(state.waiting.remove(index), Err(error));
        }
    }

    fn finish(
        &self,
        state: &mut ModelState<W>,
        result: Result<W::Answer, String>,
    ) -> Result<(), ActorProcessingErr> {
        state.busy = false;
        let Some(running) = state.running.take() else {
            return Ok(());
        };
        let Running {
            ask,
            attempt,
            started,
            preempted,
            ..
        } = running;
        if preempted
            && !ask.cancel.is_cancelled()
            && result.as_ref().map_or(true, |_| attempt.is_cancelled())
        {
            state.waiting.push(ask);
            return Ok(());
        }
        if !attempt.is_cancelled() && result.is_ok() {
            let seconds = started.elapsed().as_secs_f64();
            let estimate = state.estimates.entry(W::class(&ask.job)).or_insert(seconds);
            *estimate += ESTIMATE_WEIGHT * (seconds - *estimate);
        }
        let model = self.name.clone();
        let outcome = match result {
            _ if ask.cancel.is_cancelled() => Err(AskError::Cancelled { model }),
            _ if attempt.is_cancelled() || Instant::now() > ask.deadline => {
                Err(AskError::Deadline { model })
            }
            Ok(value) => Ok(value),
            Err(reason) => Err(AskError::Failed { model, reason }),
        };
        // A panic on the model's thread ends that thread: the supervisor must make a new one.
        let died = matches!(&outcome, Err(AskError::Failed { reason, .. }) if reason.starts_with(PANICKED));
        answer(ask, outcome);
        if died {
            Err(format!("model {} panicked", self.name).into())
        } else {
            Ok(())
        }
    }

    fn watch(&self, state: &mut ModelState<W>) -> Result<(), ActorProcessingErr> {
        self.drop_hopeless(state);
        let now = Instant::now();
        let Some(running) = &mut state.running else {
            return Ok(());
        };
        if running.ask.cancel.is_cancelled()
            || running.ask.reply.is_closed()
            || running.ask.deadline <= now
        {
            running
                .attempt
                .cancel("the deadline passed or nobody waits any more");
        }
        if now < running.ask.deadline + TERMINATE_GRACE {
            return Ok(());
        }
        match running.terminated {
            None => {
                warn!(model = %self.name, "work runs past its deadline: terminating the run");
                if let Some(terminate) = &state.terminator {
                    terminate();
                }
                running.terminated = Some(now);
                Ok(())
            }
            Some(when) if now.duration_since(when) > ABANDON_GRACE => {
                if let Some(running) = state.running.take() {
                    answer(
                        running.ask,
                        Err(AskError::Deadline {
                            model: self.name.clone(),
                        }),
                    );
                }
                self.health
                    .set(NodeState::Failed, "hangs past its deadline");
                Err(format!("model {} hangs and cannot be interrupted", self.name).into())
            }
            Some(_) => Ok(()),
        }
    }
}

fn answer<W: Work>(ask: Ask<W>, outcome: Result<W::Answer, AskError>) {
    // The asker may have given up: that is its right, and no reason for the server to fail.
    let _ = ask.reply.send(outcome);
}

/// How the thread's own report of a panic begins.
const PANICKED: &str = "panicked";

fn model_thread<W: Work>(
    load: &Load<W>,
    inbox: &Receiver<Order<W>>,
    actor: &ActorRef<ModelMessage<W>>,
) {
    let begun = Instant::now();
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        let mut work = load()?;
        work.warm_up()?;
        Ok(work)
    }))
    .unwrap_or_else(|_| Err(format!("{PANICKED} while loading")));
    let mut work = match loaded {
        Ok(work) => work,
        Err(reason) => {
            let _ = actor.cast(ModelMessage::Loaded(Err(reason)));
            return;
        }
    };
    info!(
        load_ms = begun.elapsed().as_millis() as u64,
        thread = std::thread::current().name(),
        "model loaded and warm"
    );
    if actor
        .cast(ModelMessage::Loaded(Ok(work.terminator())))
        .is_err()
    {
        return;
    }
    while let Ok(order) = inbox.recv() {
        let result = match order {
            Order::Stall(duration) => {
                std::thread::sleep(duration);
                Err("stalled".to_owned())
            }
            Order::Run {
                job,
                deadline,
                cancel,
            } => catch_unwind(AssertUnwindSafe(|| work.run(job, deadline, &cancel)))
                .unwrap_or_else(|_| Err(format!("{PANICKED} while running"))),
        };
        if actor
            .cast(ModelMessage::Done(result, work.readings()))
            .is_err()
        {
            return;
        }
    }
}

/// What nodes ask through; survives the server's restarts.
pub struct ModelClient<W: Work> {
    name: Arc<str>,
    server: Arc<Mutex<Option<ActorRef<ModelMessage<W>>>>>,
    ready: Arc<AtomicBool>,
}

impl<W: Work> Clone for ModelClient<W> {
    fn clone(&self) -> Self {
        ModelClient {
            name: Arc::clone(&self.name),
            server: Arc::clone(&self.server),
            ready: Arc::clone(&self.ready),
        }
    }
}

impl<W: Work> ModelClient<W> {
    /// A client of a server that is yet to be started.
    pub fn new(name: &str) -> Self {
        ModelClient {
            name: name.into(),
            server: Arc::default(),
            ready: Arc::default(),
        }
    }

    /// Asks and waits, at most until the deadline (and the little that noticing it takes).
    ///
    /// # Errors
    /// [`AskError`]: not ready, too late, cancelled, failed.
    pub async fn ask(
        &self,
        job: W::Job,
        priority: u8,
        deadline: Instant,
        cancel: CancelToken,
    ) -> Result<W::Answer, AskError> {
        let not_ready = || AskError::NotReady {
            model: self.name.to_string(),
        };
        let server = self
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(not_ready)?;
        let (reply, answer) = oneshot::channel();
        server
            .cast(ModelMessage::Ask(Ask {
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

    /// Fault injection: makes the model's thread sleep before its next job. `false` when no server runs.
    pub fn stall(&self, duration: Duration) -> bool {
        let server = self
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        server.is_some_and(|server| server.cast(ModelMessage::Stall(duration)).is_ok())
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the model is loaded and warm. A server that failed or was killed is not, from that moment on.
    pub fn is_ready(&self) -> bool {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = |server: &ActorRef<_>| server.get_status() == ActorStatus::Running;
        self.ready.load(Ordering::Acquire) && server.as_ref().is_some_and(runs)
    }

    fn attach(&self, server: Option<ActorRef<ModelMessage<W>>>) {
        self.ready.store(false, Ordering::Release);
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }
}
