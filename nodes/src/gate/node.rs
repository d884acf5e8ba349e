//! The gate as an actor: the thin edge around the decision.
//!
//! Everything that arrives is taken at once and the decision made anew; a verdict that says something else leaves at once, the others on
//! the tick. Ticks are multiples of the period on the graph's clock, so a late one does not delay those after it; a simulation that is
//! paused has none, and the gate shows on the monotonic clock that it could decide. What the ports cannot refuse (form, bytes, contract)
//! the state does, and both count.
//!
//! ```text
//! Zenoh thread ──wake──► Arrived ─┐
//! clock, 10 Hz ─────────► Tick ───┼──► take ports ► believe ► decide ──► verdict ──► velocity limit
//! somebody asks ───────► Describe ┘                            └── pulse ──► watchdog
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llmasos_msgs::{
    Message,
    autoware_adapi_v1_msgs::{MrmState, OperationModeState},
    autoware_internal_planning_msgs::{VelocityLimit, VelocityLimitClearCommand},
    autoware_vehicle_msgs::ControlModeReport,
    llmasos_msgs::{GateVerdict, PerceptionSummary, PlannerAdvice, SpeechCommand},
    nav_msgs::Odometry,
    std_srvs::{Trigger, TriggerResponse},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};
use serde_json::{Value, json};
use tracing::info;

use super::autoware::{
    CLEAR_VELOCITY_LIMIT_TOPIC, LimitChange, Told, VELOCITY_LIMIT_TOPIC, clear, limit_change,
};
use super::convert;
use super::decide::{Decision, Memory, decide};
use super::fact::Now;
use super::policy::Policy;
use super::refusal::{Input, Refusal};
use super::state::Inputs;
use super::watchdog::Pulse;
use crate::{
    bus::{Answering, Bus, BusError, Qos},
    clock::{Clock, Ticking},
    contract::TopicContract,
    health::{NodeHealth, NodeState},
    output::Output,
    port::{FromBus, Port},
    service::{self, Server},
};

/// Time between two verdicts: 10 Hz, within the topic's deadline of 150 ms.
pub const TICK_PERIOD: Duration = Duration::from_millis(100);

/// Service that makes the gate start anew, without a new process: after a stop that no longer stands, or a publisher that was replaced.
pub const REARM_SERVICE: &str = "llmasos/gate/rearm";
/// How long that may take.
const REARM_LIMIT: Duration = Duration::from_secs(2);

/// Which topics the gate reads and writes.
#[derive(Clone, Debug)]
pub struct GateTopics {
    /// `llmasos_msgs/PlannerAdvice`.
    pub advice: TopicContract,
    /// `llmasos_msgs/SpeechCommand`.
    pub command: TopicContract,
    /// `llmasos_msgs/PerceptionSummary`; without it nothing but slowing ever passes.
    pub summary: Option<TopicContract>,
    /// `nav_msgs/Odometry`.
    pub ego: TopicContract,
    /// `autoware_adapi_v1_msgs/OperationModeState`, if the policy wires it.
    pub operation_mode: Option<TopicContract>,
    /// `autoware_vehicle_msgs/ControlModeReport`, if the policy wires it.
    pub control_mode: Option<TopicContract>,
    /// `autoware_adapi_v1_msgs/MrmState`, if the policy wires it.
    pub mrm: Option<TopicContract>,
    /// Where `llmasos_msgs/GateVerdict` goes.
    pub verdict: String,
    /// Whether speed limits in force are also said to Autoware.
    pub autoware_velocity_limit: bool,
}

/// The behaviour.
pub struct GateNode {
    /// Session it lives on.
    pub bus: Bus,
    /// Its record.
    pub health: NodeHealth,
    /// What may pass.
    pub policy: Arc<Policy>,
    /// Where.
    pub topics: GateTopics,
    /// What the watchdog listens to.
    pub pulse: Arc<Pulse>,
}

/// What the gate is told.
pub enum GateMessage {
    /// Something waits at a port.
    Arrived,
    /// Time for a verdict.
    Tick,
    /// Somebody wants the gate to start anew.
    Rearm(RpcReplyPort<TriggerResponse>),
    /// Time to show that it lives, whatever the graph's clock does.
    Beat,
    /// Somebody asks what was decided last.
    Describe(RpcReplyPort<Value>),
}

struct Ports {
    advice: Port<PlannerAdvice>,
    command: Port<SpeechCommand>,
    summary: Option<Port<PerceptionSummary>>,
    ego: Port<Odometry>,
    operation_mode: Option<Port<OperationModeState>>,
    control_mode: Option<Port<ControlModeReport>>,
    mrm: Option<Port<MrmState>>,
}

/// The way to Autoware. Both topics keep their last message for whoever comes late, and nobody could tell which of the two came last;
/// so only the one that says how it is now has a publisher, and what the other kept goes with it.
struct Autoware {
    bus: Bus,
    health: NodeHealth,
    limit: Option<Output<VelocityLimit>>,
    clear: Option<Output<VelocityLimitClearCommand>>,
    told: Told,
}

/// What changes.
pub struct GateState {
    ports: Ports,
    verdict: Output<GateVerdict>,
    autoware: Option<Autoware>,
    inputs: Inputs,
    memory: Memory,
    last: Option<Decision>,
    sequence: u64,
    clock: Clock,
    /// Whether a tick waits to be read.
    due: Arc<AtomicBool>,
    _ticking: Ticking,
    described: Arc<Mutex<Value>>,
    _answering: Answering,
    _rearming: Server,
}

impl Actor for GateNode {
    type Msg = GateMessage;
    type State = GateState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        _arguments: (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        let ports = self.open_ports(&myself).await?;
        let verdict =
            Output::open(&self.bus, &self.health, &self.topics.verdict, Qos::URGENT).await?;
        let autoware = if self.topics.autoware_velocity_limit {
            Some(self.open_autoware().await?)
        } else {
            None
        };
        let described = Arc::new(Mutex::new(Value::Null));
        let answering = self.answer_queries(&described).await?;
        let rearming = self.offer_rearm(&myself).await?;
        let due = Arc::new(AtomicBool::new(false));
        let clock = self.bus.clock().clone();
        if clock.topic().is_some() {
            myself.send_interval(TICK_PERIOD, || GateMessage::Beat);
        }
        let ticking = ticks(&clock, myself, Arc::clone(&due));
        self.health.set(NodeState::Ready, "");
        Ok(GateState {
            ports,
            verdict,
            autoware,
            inputs: Inputs::new(),
            memory: Memory::default(),
            last: None,
            sequence: 0,
            clock,
            due,
            _ticking: ticking,
            described,
            _answering: answering,
            _rearming: rearming,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GateMessage::Arrived => self.round(state, false).await?,
            GateMessage::Tick => {
                state.due.store(false, Ordering::Release);
                self.round(state, true).await?;
                self.beat();
            }
            GateMessage::Rearm(reply) => {
                let response = self.rearm(state);
                self.round(state, true).await?;
                // Whoever asked may have given up; the gate is armed anew all the same.
                let _ = reply.send(response);
            }
            GateMessage::Beat => self.beat(),
            GateMessage::Describe(reply) => {
                // Whoever asked may have given up; that is no failure of the gate.
                let _ = reply.send(describe(state, &self.policy));
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(autoware) = &mut state.autoware
            && let Some(change) = clear(autoware.told)
        {
            autoware.tell(change).await?;
        }
        Ok(())
    }
}

impl GateNode {
    fn beat(&self) {
        self.health.beat();
        self.pulse.beat();
    }

    async fn open_ports(&self, myself: &ActorRef<GateMessage>) -> Result<Ports, BusError> {
        let topics = &self.topics;
        Ok(Ports {
            command: self
                .open_port(myself, &topics.command, Input::Command)
                .await?,
            ego: self.open_port(myself, &topics.ego, Input::Ego).await?,
            summary: self
                .open_optional(myself, topics.summary.as_ref(), Input::Summary)
                .await?,
            operation_mode: self
                .open_optional(myself, topics.operation_mode.as_ref(), Input::OperationMode)
                .await?,
            control_mode: self
                .open_optional(myself, topics.control_mode.as_ref(), Input::ControlMode)
                .await?,
            mrm: self
                .open_optional(myself, topics.mrm.as_ref(), Input::Mrm)
                .await?,
            advice: self
                .open_port(myself, &topics.advice, Input::Advice)
                .await?,
        })
    }

    async fn open_port<M: FromBus>(
        &self,
        myself: &ActorRef<GateMessage>,
        contract: &TopicContract,
        input: Input,
    ) -> Result<Port<M>, BusError> {
        let to = myself.clone();
        let wake = move || {
            // A gate that is gone has nothing to wake.
            let _ = to.cast(GateMessage::Arrived);
        };
        Port::open(&self.bus, contract, input.name(), &self.health, wake).await
    }

    async fn open_optional<M: FromBus>(
        &self,
        myself: &ActorRef<GateMessage>,
        contract: Option<&TopicContract>,
        input: Input,
    ) -> Result<Option<Port<M>>, BusError> {
        match contract {
            Some(contract) => self.open_port(myself, contract, input).await.map(Some),
            None => Ok(None),
        }
    }

    /// Opens the way to Autoware and clears what a dead predecessor may have left.
    async fn open_autoware(&self) -> Result<Autoware, BusError> {
        let mut autoware = Autoware {
            bus: self.bus.clone(),
            health: self.health.clone(),
            limit: None,
            clear: None,
            told: Told::Nothing,
        };
        autoware.tell(LimitChange::Clear).await?;
        Ok(autoware)
    }

    /// `zenoh get @llmasos/<namespace>/gate` answers with the last decision.
    async fn answer_queries(&self, described: &Arc<Mutex<Value>>) -> Result<Answering, BusError> {
        let described = Arc::clone(described);
        let topic = format!("/@llmasos/{}/{}", self.bus.namespace(), self.health.name());
        self.bus
            .answer(&topic.replace("//", "/"), move || {
                let value = described.lock().unwrap_or_else(PoisonError::into_inner);
                Some((
                    value.to_string().into(),
                    zenoh::bytes::Encoding::APPLICATION_JSON,
                ))
            })
            .await
    }

    async fn offer_rearm(&self, myself: &ActorRef<GateMessage>) -> Result<Server, BusError> {
        let to = myself.clone();
        service::serve::<Trigger>(&self.bus, &self.health, REARM_SERVICE, None, move |_| {
            let to = to.clone();
            Box::pin(async move {
                match to.call(GateMessage::Rearm, Some(REARM_LIMIT)).await {
                    Ok(CallResult::Success(response)) => response,
                    Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => TriggerResponse {
                        success: false,
                        message: "the gate is being restarted".to_owned(),
                    },
                }
            })
        })
        .await
    }

    /// Knows nothing any more, as after a start: who publishes, which stop stands, what waits for confirmation. Only the counters stay.
    fn rearm(&self, state: &mut GateState) -> TriggerResponse {
        state.inputs.forget();
        state.memory = Memory::default();
        info!("armed anew");
        TriggerResponse {
            success: true,
            message: "inputs, standing commands and publishers are forgotten".to_owned(),
        }
    }

    /// Takes what arrived, decides, and says so if it is time or something changed.
    async fn round(&self, state: &mut GateState, due: bool) -> Result<(), BusError> {
        self.take(state);
        if !state.clock.reading().is_known() {
            // A verdict without a date would be none; the diagnostics say what is waited for.
            return Ok(());
        }
        let now = state.now();
        state.inputs.observe_clock(now);
        let decision = decide(&self.policy, &state.inputs, &mut state.memory, now);
        let changed = state.last.is_none_or(|last| decision.differs(&last));
        if changed {
            let rule = decision.rule.name(self.policy.settings());
            info!(
                verdict = decision.verdict.name(),
                action = decision.action.name(),
                rule,
                "verdict"
            );
        }
        state.last = Some(decision);
        if due || changed {
            state.sequence += 1;
            state
                .verdict
                .put(&convert::verdict(&decision, &self.policy, state.sequence))
                .await?;
            *state
                .described
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = describe(state, &self.policy);
        }
        if let Some(autoware) = &mut state.autoware
            && let Some(change) = limit_change(autoware.told, &decision)
        {
            autoware.tell(change).await?;
        }
        Ok(())
    }

    /// Commands and summaries before the advice that refers to them; each arrival is judged with the time it is taken at.
    fn take(&self, state: &mut GateState) {
        while let Some(taken) = state.ports.command.take() {
            let now = state.now();
            let result = convert::command(&taken.message).map(|fact| {
                state
                    .inputs
                    .ingest_command(&self.policy, fact, taken.publisher, now)
            });
            self.settle(state, Input::Command, result);
        }
        while let Some(taken) = state.ports.ego.take() {
            let now = state.now();
            let result = state.inputs.ingest_ego(
                &self.policy,
                convert::ego(&taken.message),
                taken.publisher,
                now,
            );
            self.settle(state, Input::Ego, Ok(result));
        }
        while let Some(taken) = state.ports.summary.as_mut().and_then(Port::take) {
            let now = state.now();
            let result = convert::scene(&taken.message).map(|fact| {
                state
                    .inputs
                    .ingest_scene(&self.policy, fact, taken.publisher, now)
            });
            self.settle(state, Input::Summary, result);
        }
        self.take_modes(state);
        while let Some(taken) = state.ports.advice.take() {
            let now = state.now();
            let result = convert::advice(&taken.message).map(|fact| {
                state
                    .inputs
                    .ingest_advice(&self.policy, fact, taken.publisher, now)
            });
            self.settle(state, Input::Advice, result);
        }
    }

    fn take_modes(&self, state: &mut GateState) {
        while let Some(taken) = state.ports.operation_mode.as_mut().and_then(Port::take) {
            let now = state.now();
            let result = convert::operation_mode(&taken.message).map(|fact| {
                state
                    .inputs
                    .ingest_mode(&self.policy, fact, taken.publisher, now)
            });
            self.settle(state, Input::OperationMode, result);
        }
        while let Some(taken) = state.ports.control_mode.as_mut().and_then(Port::take) {
            let now = state.now();
            let fact = convert::control_mode(&taken.message);
            let result = state
                .inputs
                .ingest_mode(&self.policy, fact, taken.publisher, now);
            self.settle(state, Input::ControlMode, Ok(result));
        }
        while let Some(taken) = state.ports.mrm.as_mut().and_then(Port::take) {
            let now = state.now();
            let result = state.inputs.ingest_mode(
                &self.policy,
                convert::mrm(&taken.message),
                taken.publisher,
                now,
            );
            self.settle(state, Input::Mrm, Ok(result));
        }
    }

    /// Counts what the conversion refused and reports a refusal; of a series only every doubling, so that a flood stays quiet.
    fn settle(
        &self,
        state: &mut GateState,
        input: Input,
        result: Result<Result<(), Refusal>, Refusal>,
    ) {
        let reason = match result {
            Ok(Ok(())) => return,
            Ok(Err(reason)) => reason,
            Err(reason) => {
                state.inputs.count_refusal(input, reason);
                reason
            }
        };
        let count = state.inputs.counters().refused(input, reason);
        self.health.value(
            &format!("refused {} {}", input.name(), reason.name()),
            count.to_string(),
        );
        if count.is_power_of_two() {
            self.health
                .refuse(self.topic(input), &format!("{reason} (number {count})"));
        }
    }

    fn topic(&self, input: Input) -> &str {
        let topics = &self.topics;
        match input {
            Input::Advice => &topics.advice.topic,
            Input::Command => &topics.command.topic,
            Input::Ego => &topics.ego.topic,
            Input::Summary => topics
                .summary
                .as_ref()
                .map_or("summary", |contract| &contract.topic),
            Input::OperationMode => topics
                .operation_mode
                .as_ref()
                .map_or("operation_mode", |contract| &contract.topic),
            Input::ControlMode => topics
                .control_mode
                .as_ref()
                .map_or("control_mode", |contract| &contract.topic),
            Input::Mrm => topics
                .mrm
                .as_ref()
                .map_or("mrm", |contract| &contract.topic),
        }
    }
}

impl GateState {
    fn now(&self) -> Now {
        self.clock.reading().into()
    }
}

impl Autoware {
    async fn tell(&mut self, change: LimitChange) -> Result<(), BusError> {
        let now_ns = self.bus.clock().now_ns();
        match change {
            LimitChange::Set(speed_mps) => {
                self.clear = None;
                let limit = match self.limit.take() {
                    Some(limit) => limit,
                    None => self.open(VELOCITY_LIMIT_TOPIC).await?,
                };
                let message = convert::velocity_limit(now_ns, speed_mps);
                self.limit.insert(limit).put(&message).await?;
            }
            LimitChange::Clear => {
                self.limit = None;
                let clear = match self.clear.take() {
                    Some(clear) => clear,
                    None => self.open(CLEAR_VELOCITY_LIMIT_TOPIC).await?,
                };
                let message = convert::clear_velocity_limit(now_ns);
                self.clear.insert(clear).put(&message).await?;
            }
        }
        self.told = change.told();
        Ok(())
    }

    async fn open<M: Message>(&self, topic: &str) -> Result<Output<M>, BusError> {
        Output::open(&self.bus, &self.health, topic, Qos::LATCHED).await
    }
}

/// Ticks until the gate is gone. One unread tick is enough: a gate that lags must not find a hundred of them.
fn ticks(clock: &Clock, myself: ActorRef<GateMessage>, due: Arc<AtomicBool>) -> Ticking {
    clock.every(TICK_PERIOD, move || {
        if !due.swap(true, Ordering::AcqRel) {
            // A gate that is gone takes its ticks along.
            let _ = myself.cast(GateMessage::Tick);
        }
    })
}

/// The last decision and the counters, for people and state queries.
fn describe(state: &GateState, policy: &Policy) -> Value {
    let counters = state.inputs.counters();
    let decision = state.last.map(|decision| {
        use llmasos_msgs::Message;
        let mut value = convert::verdict(&decision, policy, state.sequence).to_json();
        value["verdict_name"] = json!(decision.verdict.name());
        value["action_name"] = json!(decision.action.name());
        value
    });
    let accepted: serde_json::Map<String, Value> = Input::ALL
        .into_iter()
        .map(|input| (input.name().to_owned(), json!(counters.accepted(input))))
        .collect();
    let refused: Vec<Value> = counters
        .refusals()
        .map(|(input, reason, count)| json!({ "input": input.name(), "reason": reason.name(), "count": count }))
        .collect();
    json!({ "decision": decision, "accepted": accepted, "refused": refused, "clock_steps": counters.clock_steps() })
}
