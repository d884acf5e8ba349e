//! The planner-advisor node as an actor.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use llmasos_engine::text::CancelToken;
use llmasos_msgs::{
    llmasos_msgs::{Ask, AskRequest, AskResponse, PerceptionSummary, PlannerAdvice, SpeechCommand},
    nav_msgs::Odometry,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};
use tracing::info;

use super::{
    AdvisorOptions, Basis, NoAdvice, advise,
    answer::{self, Answering},
    question::Situation,
};
use crate::{
    bus::{Bus, BusError, Qos},
    contract::{OnStale, Supersede, TopicContract},
    health::{NodeHealth, NodeState, elapsed_ms},
    language::LanguageClient,
    output::Output,
    port::{Port, Taken},
    service::{self, Server},
};

/// Service that answers questions of people.
pub const ASK_SERVICE: &str = "llmasos/ask";
/// How long an answer may take; nobody waits for it on the road.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);
/// Longest reason of a missing answer, in characters; a quarter of the message's bound in bytes, so that any text fits.
const REASON_CHARS_MAX: usize = 64;

/// How often the node shows that it lives.
const BEAT_PERIOD: Duration = Duration::from_millis(200);

/// An input and what to do when it is stale.
#[derive(Clone, Debug)]
pub struct Context {
    /// The topic's contract.
    pub contract: TopicContract,
    /// Run without it, or not at all.
    pub on_stale: OnStale,
}

/// The behaviour.
pub struct AdvisorNode {
    /// Session it lives on.
    pub bus: Bus,
    /// Its record.
    pub health: NodeHealth,
    /// Commands.
    pub command: TopicContract,
    /// What happens to an advice in the making when a new command comes.
    pub supersede: Supersede,
    /// Summaries.
    pub summary: Option<Context>,
    /// Odometry.
    pub ego: Context,
    /// Topic of the advice.
    pub advice: String,
    /// How advice is made.
    pub options: Arc<AdvisorOptions>,
    /// Whom it asks.
    pub language: LanguageClient,
}

/// What the node is told.
pub enum AdvisorMessage {
    /// Something waits at a port.
    Arrived,
    /// The advice about that command, asked for in this epoch of the clock, is there or will not come.
    Advised(
        Box<Taken<SpeechCommand>>,
        u32,
        Result<Box<PlannerAdvice>, NoAdvice>,
    ),
    /// Somebody asks something.
    Ask(AskRequest, RpcReplyPort<AskResponse>),
    /// Time to show that it lives.
    Beat,
}

/// What changes.
pub struct AdvisorState {
    command: Port<SpeechCommand>,
    summary: Option<Port<PerceptionSummary>>,
    ego: Port<Odometry>,
    output: Output<PlannerAdvice>,
    last_summary: Option<Taken<PerceptionSummary>>,
    last_ego: Option<Taken<Odometry>>,
    last_advice: Option<PlannerAdvice>,
    thinking: Option<CancelToken>,
    _asked: Server,
}

impl Actor for AdvisorNode {
    type Msg = AdvisorMessage;
    type State = AdvisorState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        _arguments: (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        let wake = || {
            let to = myself.clone();
            move || {
                let _ = to.cast(AdvisorMessage::Arrived);
            }
        };
        let output = Output::open(&self.bus, &self.health, &self.advice, Qos::EVENT).await?;
        let summary = match &self.summary {
            Some(context) => Some(
                Port::open(
                    &self.bus,
                    &context.contract,
                    "summary",
                    &self.health,
                    wake(),
                )
                .await?,
            ),
            None => None,
        };
        let ego = Port::open(&self.bus, &self.ego.contract, "ego", &self.health, wake()).await?;
        let command = Port::open(&self.bus, &self.command, "command", &self.health, wake()).await?;
        let asked = self.offer_answers(&myself).await?;
        myself.send_interval(BEAT_PERIOD, || AdvisorMessage::Beat);
        Ok(AdvisorState {
            command,
            summary,
            ego,
            output,
            last_summary: None,
            last_ego: None,
            last_advice: None,
            thinking: None,
            _asked: asked,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AdvisorMessage::Arrived => self.take(&myself, state),
            AdvisorMessage::Advised(command, epoch, outcome) => {
                state.thinking = None;
                match outcome {
                    Ok(_) if epoch != self.bus.clock().reading().epoch => self.health.refuse(
                        "advice",
                        "expected the clock to go on, found that it jumped back: the advice is dropped",
                    ),
                    Ok(advice) => {
                        state.output.put(&advice).await?;
                        state.last_advice = Some((*advice).clone());
                        info!(reason = %advice.reason, after_ms = elapsed_ms(command.arrived), "advice");
                    }
                    Err(NoAdvice::NotAsked) => {}
                    Err(problem) => self.health.refuse("advice", &problem.to_string()),
                }
                // A command may have waited for this one to end.
                self.take(&myself, state);
            }
            AdvisorMessage::Ask(request, reply) => {
                self.refresh(state);
                self.answer(state, &request.question, reply);
            }
            AdvisorMessage::Beat => {
                self.health.beat();
                if self.language.is_ready() {
                    self.health.set(NodeState::Ready, "");
                } else {
                    self.health.set(
                        NodeState::Loading,
                        format!("waits for {}", self.language.name()),
                    );
                }
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(thinking) = state.thinking.take() {
            thinking.cancel("the node stops");
        }
        Ok(())
    }
}

impl AdvisorNode {
    fn take(&self, myself: &ActorRef<AdvisorMessage>, state: &mut AdvisorState) {
        self.refresh(state);
        if let Some(thinking) = &state.thinking {
            if self.supersede == Supersede::Cancel && state.command.is_waiting() {
                thinking.cancel("a newer command");
            }
            return;
        }
        let Some(command) = state.command.take() else {
            return;
        };
        let (situation, basis) = match self.situation(state, &command) {
            Ok(known) => known,
            Err(reason) => {
                self.health.refuse("command", &reason);
                return;
            }
        };
        let cancel = CancelToken::new();
        state.thinking = Some(cancel.clone());
        let (to, language, options) = (
            myself.clone(),
            self.language.clone(),
            Arc::clone(&self.options),
        );
        let deadline = command.arrived + options.budget.response;
        let epoch = self.bus.clock().reading().epoch;
        tokio::spawn(async move {
            let outcome = advise(
                &command.message,
                &situation,
                &basis,
                &language,
                &options,
                deadline,
                cancel,
            )
            .await;
            let _ = to.cast(AdvisorMessage::Advised(
                Box::new(command),
                epoch,
                outcome.map(Box::new),
            ));
        });
    }

    fn refresh(&self, state: &mut AdvisorState) {
        while let Some(taken) = state.summary.as_mut().and_then(Port::take) {
            state.last_summary = Some(taken);
        }
        while let Some(taken) = state.ego.take() {
            state.last_ego = Some(taken);
        }
    }

    async fn offer_answers(&self, myself: &ActorRef<AdvisorMessage>) -> Result<Server, BusError> {
        let to = myself.clone();
        service::serve::<Ask>(
            &self.bus,
            &self.health,
            ASK_SERVICE,
            Some("question"),
            move |request| {
                let to = to.clone();
                Box::pin(async move {
                    let ask = |reply| AdvisorMessage::Ask(request, reply);
                    match to.call(ask, Some(ANSWER_LIMIT)).await {
                        Ok(CallResult::Success(response)) => response,
                        Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => {
                            unanswered("the advisor is busy or being restarted")
                        }
                    }
                })
            },
        )
        .await
    }

    /// Answers from what is known now; the model works while the node goes on.
    fn answer(&self, state: &AdvisorState, question: &str, reply: RpcReplyPort<AskResponse>) {
        let fresh = |taken: &&Taken<Odometry>| state.ego.is_fresh(taken);
        let Some(ego) = state.last_ego.as_ref().filter(fresh) else {
            let reason = format!("expected a fresh ego state on {}", self.ego.contract.topic);
            // Whoever asked may have given up; that is no failure of the node.
            let _ = reply.send(unanswered(&reason));
            return;
        };
        let summary = state.last_summary.as_ref().filter(|taken| {
            let port = state.summary.as_ref();
            port.is_some_and(|port| port.is_fresh(taken))
        });
        let situation = Situation {
            summary: summary.map(|taken| taken.message.clone()),
            speed_mps: (ego.message.twist.twist.linear.x as f32).max(0.0),
        };
        let now_ns = self.bus.clock().now_ns();
        let in_force = |advice: &&PlannerAdvice| advice.valid_until.to_nanos() > now_ns;
        let facts = answer::facts(&situation, state.last_advice.as_ref().filter(in_force));
        let choice = match answer::answering(question, &facts) {
            Answering::Choice(choice) => choice,
            Answering::Known(text) => {
                let _ = reply.send(answered(text));
                return;
            }
            Answering::Unknown => {
                let _ = reply.send(AskResponse {
                    answer: answer::UNKNOWN.to_owned(),
                    ..unanswered("nothing that is known answers it")
                });
                return;
            }
        };
        let (job, language) = (answer::job(question, &choice), self.language.clone());
        // An advice overtakes it; a summary does not, or its sentence every half second would start the answer over and over.
        let priority = self.options.priority.saturating_sub(1);
        let deadline = Instant::now() + ANSWER_LIMIT;
        tokio::spawn(async move {
            let outcome = language
                .ask(job, priority, deadline, CancelToken::new())
                .await;
            let response = match outcome {
                Ok(said) if choice.contains(&said.text) => answered(said.text),
                Ok(_) => unanswered("the model did not finish its sentence"),
                Err(error) => unanswered(&error.to_string()),
            };
            let _ = reply.send(response);
        });
    }

    /// What is known now, and what the advice will rest on.
    fn situation(
        &self,
        state: &AdvisorState,
        command: &Taken<SpeechCommand>,
    ) -> Result<(Situation, Basis), String> {
        let ego = state
            .last_ego
            .as_ref()
            .filter(|taken| state.ego.is_fresh(taken));
        let speed_mps = match ego {
            Some(taken) if taken.message.twist.twist.linear.x.is_finite() => {
                taken.message.twist.twist.linear.x as f32
            }
            Some(taken) => {
                return Err(format!(
                    "expected a finite ego speed, found {}",
                    taken.message.twist.twist.linear.x
                ));
            }
            None => {
                return Err(format!(
                    "expected a fresh ego state on {}, found none",
                    self.ego.contract.topic
                ));
            }
        };
        let port = state.summary.as_ref();
        let summary = state
            .last_summary
            .as_ref()
            .filter(|taken| port.is_some_and(|port| port.is_fresh(taken)));
        if summary.is_none()
            && let Some(context) = &self.summary
            && context.on_stale == OnStale::Skip
        {
            return Err(format!(
                "expected a fresh summary on {}, found none",
                context.contract.topic
            ));
        }
        let stamps = [
            Some(command.stamp_ns),
            ego.map(|taken| taken.stamp_ns),
            summary.map(|taken| taken.stamp_ns),
        ];
        let basis = Basis {
            command_id: command.message.id.uuid,
            summary_id: summary.map_or([0; 16], |taken| taken.message.id.uuid),
            stamp_ns: stamps
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(command.stamp_ns),
            certainty: (command.message.asr_confidence * command.message.intent_confidence)
                .clamp(0.0, 1.0),
            clock: self.bus.clock().clone(),
        };
        Ok((
            Situation {
                summary: summary.map(|taken| taken.message.clone()),
                speed_mps: speed_mps.max(0.0),
            },
            basis,
        ))
    }
}

fn answered(text: String) -> AskResponse {
    AskResponse {
        success: true,
        answer: text,
        ..Default::default()
    }
}

/// No answer, and why; cut to the message's bound.
fn unanswered(reason: &str) -> AskResponse {
    AskResponse {
        message: reason.chars().take(REASON_CHARS_MAX).collect(),
        ..Default::default()
    }
}
