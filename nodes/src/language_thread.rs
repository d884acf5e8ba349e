//! The thread of a language model: takes orders between steps, steps as long as anybody waits, and says what became of whom.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use llmasos_engine::{
    EngineError,
    text::{CancelToken, Event, FinishReason, Finished, LanguageModel, Request, RequestId},
};
use ractor::ActorRef;
use tracing::info;

use crate::{
    language::{LanguageAnswer, LanguageJob, LanguageMessage, LoadLanguage},
    model::AskError,
};

/// Questions taken in between two steps while somebody's answer runs: reading a prompt and its grammar takes milliseconds,
/// and everybody's next token waits for it.
const ASKS_PER_STEP: usize = 4;

/// What the thread is told.
pub(crate) enum Order {
    /// A question.
    Ask {
        id: u64,
        job: LanguageJob,
        priority: u8,
        deadline: Instant,
        cancel: CancelToken,
    },
    /// Nobody waits for this answer any more.
    Cancel(u64),
    /// Fault injection.
    Stall(Duration),
}

/// The model, and whose its answers are.
struct Desk<'a> {
    name: &'a str,
    model: LanguageModel,
    actor: &'a ActorRef<LanguageMessage>,
    asked: BTreeMap<RequestId, u64>,
}

/// The server is gone: the thread has nothing left to do.
struct Gone;

pub(crate) fn language_thread(
    name: &str,
    load: &LoadLanguage,
    inbox: &Receiver<Order>,
    actor: &ActorRef<LanguageMessage>,
) {
    let begun = Instant::now();
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        let mut model = load()?;
        model.warm_up().map_err(|error| error.to_string())?;
        Ok(model)
    }))
    .unwrap_or_else(|_| Err("panicked while loading".to_owned()));
    let model = match loaded {
        Ok(model) => model,
        Err(reason) => {
            let _ = actor.cast(LanguageMessage::Loaded(Err(reason)));
            return;
        }
    };
    info!(
        model = name,
        load_ms = begun.elapsed().as_millis() as u64,
        "model loaded and warm"
    );
    let terminate = model.terminator().map(|terminator| {
        let terminate: Box<dyn Fn() + Send + Sync> = Box::new(move || terminator.terminate());
        terminate
    });
    if actor.cast(LanguageMessage::Loaded(Ok(terminate))).is_err() {
        return;
    }
    let mut desk = Desk {
        name,
        model,
        actor,
        asked: BTreeMap::new(),
    };
    let worked = catch_unwind(AssertUnwindSafe(|| while desk.turn(inbox).is_ok() {}));
    if worked.is_err() {
        let _ = actor.cast(LanguageMessage::Died("panicked while running".to_owned()));
    }
}

impl Desk<'_> {
    /// Takes what was ordered, waiting only if there is nothing else to do, and runs one step.
    fn turn(&mut self, inbox: &Receiver<Order>) -> Result<(), Gone> {
        if !self.model.server().has_work() {
            let order = inbox.recv().map_err(|_| Gone)?;
            self.obey(order)?;
        }
        let mut taken = 0;
        while taken < ASKS_PER_STEP || self.model.server().load().running == 0 {
            match inbox.try_recv() {
                Ok(order) => taken += usize::from(self.obey(order)?),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Gone),
            }
        }
        for event in self.model.server().step(Instant::now()) {
            self.deliver(event)?;
        }
        Ok(())
    }

    /// Does what it is told. Returns whether that was to take in a question.
    fn obey(&mut self, order: Order) -> Result<bool, Gone> {
        match order {
            Order::Stall(duration) => std::thread::sleep(duration),
            Order::Cancel(id) => {
                let mut asked = self.asked.iter();
                let request = asked.find(|(_, asked)| **asked == id);
                if let Some(request) = request.map(|(request, _)| *request) {
                    self.model.server().cancel(request);
                }
            }
            Order::Ask {
                id,
                job,
                priority,
                deadline,
                cancel,
            } => {
                match self.submit(job, priority, deadline, cancel) {
                    Ok(request) => {
                        self.asked.insert(request, id);
                        return Ok(true);
                    }
                    Err(error) => self.tell(LanguageMessage::Ended(id, Err(self.reason(error))))?,
                };
            }
        }
        Ok(false)
    }

    fn submit(
        &mut self,
        job: LanguageJob,
        priority: u8,
        deadline: Instant,
        cancel: CancelToken,
    ) -> Result<RequestId, EngineError> {
        let request = Request {
            prompt: self.model.chat(&job.messages)?,
            max_tokens: job.tokens_max,
            grammar: job.grammar,
            deadline: Some(deadline),
            cancel,
            priority,
            class: job.class,
            ..Request::default()
        };
        self.model.server().submit(&request, Instant::now())
    }

    fn deliver(&mut self, event: Event) -> Result<(), Gone> {
        let request = event.id();
        let outcome = match event {
            Event::Piece(..) => return Ok(()),
            Event::Failed(_, error, _) => Err(self.reason(error)),
            Event::Finished(_, finished) => {
                let readings = self.readings(&finished);
                self.tell(LanguageMessage::Readings(readings))?;
                self.outcome(finished)
            }
        };
        match self.asked.remove(&request) {
            Some(id) => self.tell(LanguageMessage::Ended(id, outcome)),
            None => Ok(()),
        }
    }

    fn outcome(&self, finished: Finished) -> Result<LanguageAnswer, AskError> {
        let model = self.name.to_owned();
        match finished.reason {
            FinishReason::Cancelled => Err(AskError::Cancelled { model }),
            FinishReason::Deadline => Err(AskError::Deadline { model }),
            FinishReason::Failed | FinishReason::Stop | FinishReason::Length => {
                Ok(LanguageAnswer {
                    complete: finished.complete,
                    text: finished.text,
                    tokens_in: finished.tokens_in as u32,
                    tokens_cached: finished.tokens_cached as u32,
                    tokens_out: finished.tokens_out as u32,
                    decode: finished.decode,
                })
            }
        }
    }

    fn reason(&self, error: EngineError) -> AskError {
        let model = self.name.to_owned();
        match error {
            EngineError::QueueFull { .. } => AskError::Full { model },
            EngineError::TooLate { need_ms, left_ms } => AskError::TooLate {
                model,
                need_ms,
                left_ms,
            },
            error => AskError::Failed {
                model,
                reason: error.to_string(),
            },
        }
    }

    fn readings(&mut self, finished: &Finished) -> Vec<(&'static str, String)> {
        let rate = |tokens: usize, time: Duration| {
            format!("{:.0}", tokens as f64 / time.as_secs_f64().max(1e-6))
        };
        let load = self.model.server().load();
        let computed = finished.tokens_in - finished.tokens_cached;
        vec![
            ("prefill_tokens_per_s", rate(computed, finished.prefill)),
            (
                "decode_tokens_per_s",
                rate(finished.tokens_out, finished.decode),
            ),
            ("answers_running", load.running.to_string()),
            ("answers_queued", load.queued.to_string()),
            (
                "pages_free",
                format!("{} of {}", load.pages_free, load.pages),
            ),
            ("pages_kept", load.pages_kept.to_string()),
            (
                "prompt_tokens_cached",
                format!("{} of {}", load.tokens_cached, load.tokens_in),
            ),
        ]
    }

    fn tell(&self, message: LanguageMessage) -> Result<(), Gone> {
        self.actor.cast(message).map_err(|_| Gone)
    }
}
