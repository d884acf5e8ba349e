//! The perception-summary node as an actor.
//!
//! It makes a summary every period, with a sentence for which the language model has time. When something appears that cannot wait (a
//! light changes, somebody vulnerable comes into the way, the sensors go blind) it publishes at once with the template's sentence.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use llmasos_engine::text::CancelToken;
use llmasos_msgs::{
    autoware_perception_msgs::TrafficLightGroupArray,
    llmasos_msgs::{PerceptionSummary, SceneObject},
    nav_msgs::Odometry,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Seen, Sentence, Sources, SummaryModels, SummaryOptions,
    camera::Tracker,
    describe, message as summary_of,
    scene::Scene,
    sentence::template,
    sighting::{Ego, ObjectList, Sighting},
};
use crate::{
    bus::{Bus, Qos},
    clock::{self, Reading, Ticking},
    contract::TopicContract,
    frame::Frame,
    health::{NodeHealth, NodeState},
    model::AskError,
    output::Output,
    port::{FromBus, Port, Taken},
    workers::Boxes,
};

/// How often the node looks at what is new, on the graph's clock.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// How often the node shows that it lives, on the monotonic clock.
const BEAT_PERIOD: Duration = Duration::from_millis(200);

/// The behaviour.
pub struct SummaryNode {
    /// Session it lives on.
    pub bus: Bus,
    /// Its record.
    pub health: NodeHealth,
    /// Camera, if any.
    pub image: Option<TopicContract>,
    /// Object list, if any.
    pub objects: Option<TopicContract>,
    /// Traffic lights, if any.
    pub lights: Option<TopicContract>,
    /// Odometry, if any.
    pub ego: Option<TopicContract>,
    /// Topic of the summaries.
    pub summary: String,
    /// How summaries are made.
    pub options: Arc<SummaryOptions>,
    /// Whom it asks.
    pub models: SummaryModels,
}

/// What the node is told.
pub enum SummaryMessage {
    /// Something waits at a port.
    Arrived,
    /// The detector answered about the frame with this stamp, taken in this epoch of the clock.
    Detected(i64, u32, Result<Boxes, AskError>),
    /// The sentence about this scene is there; the epoch of the clock it was asked for in.
    Said(Scene, Option<i64>, u32, Option<Sentence>),
    /// Time to look.
    Look,
    /// Time to show that it lives.
    Beat,
}

/// What changes.
pub struct SummaryState {
    image: Option<Input<Frame, Vec<Sighting>>>,
    objects: Option<Input<ObjectList, ObjectList>>,
    lights: Option<Input<TrafficLightGroupArray, TrafficLightGroupArray>>,
    ego: Option<Input<Odometry, Ego>>,
    output: Output<PerceptionSummary>,
    tracker: Tracker,
    detecting: bool,
    saying: Option<CancelToken>,
    /// When a sentence was asked for last, on the clock that never goes back.
    last_asked_ns: Option<i64>,
    last_alert: Alert,
    /// Epoch of the clock in which everything above was seen.
    epoch: u32,
    /// Whether a look waits to be read: one is enough.
    due: Arc<AtomicBool>,
    _ticking: Ticking,
}

/// One input: its port and what was last taken from it.
struct Input<M, T> {
    port: Port<M>,
    last: Option<Seen<T>>,
}

/// What must not wait for a sentence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Alert {
    light: u8,
    sensor_state: u8,
    vulnerable_in_the_way: bool,
}

impl Actor for SummaryNode {
    type Msg = SummaryMessage;
    type State = SummaryState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        _arguments: (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        let due = Arc::new(AtomicBool::new(false));
        let ticking = self.bus.clock().every(LOOK_PERIOD, {
            let (to, due) = (myself.clone(), Arc::clone(&due));
            move || {
                if !due.swap(true, Ordering::AcqRel) {
                    let _ = to.cast(SummaryMessage::Look);
                }
            }
        });
        let state = SummaryState {
            image: self.input(&self.image, "image", &myself).await?,
            objects: self.input(&self.objects, "objects", &myself).await?,
            lights: self.input(&self.lights, "traffic_lights", &myself).await?,
            ego: self.input(&self.ego, "ego", &myself).await?,
            output: Output::open(&self.bus, &self.health, &self.summary, Qos::STREAM).await?,
            tracker: Tracker::default(),
            detecting: false,
            saying: None,
            last_asked_ns: None,
            last_alert: Alert::default(),
            epoch: self.bus.clock().reading().epoch,
            due,
            _ticking: ticking,
        };
        myself.send_interval(BEAT_PERIOD, || SummaryMessage::Beat);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SummaryMessage::Arrived => self.take(&myself, state),
            SummaryMessage::Detected(stamp_ns, epoch, outcome) => {
                state.detecting = false;
                if self.epoch(state) == epoch {
                    self.detected(state, stamp_ns, outcome);
                }
                // A frame may have come in meanwhile.
                self.take(&myself, state);
            }
            SummaryMessage::Said(scene, stamp_ns, epoch, sentence) => {
                state.saying = None;
                if self.epoch(state) != epoch || alert(&scene) != state.last_alert {
                    // Something happened while the sentence was sampled: it is about a scene that is gone.
                    state.last_asked_ns = None;
                } else if let Some(sentence) = sentence {
                    self.publish(state, &scene, sentence, stamp_ns).await?;
                }
            }
            SummaryMessage::Look => {
                state.due.store(false, Ordering::Release);
                self.look(&myself, state).await?;
            }
            SummaryMessage::Beat => self.beat(),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(cancel) = state.saying.take() {
            cancel.cancel("the node stops");
        }
        Ok(())
    }
}

impl SummaryNode {
    async fn input<M: FromBus, T>(
        &self,
        contract: &Option<TopicContract>,
        port: &str,
        myself: &ActorRef<SummaryMessage>,
    ) -> Result<Option<Input<M, T>>, ActorProcessingErr> {
        let Some(contract) = contract else {
            return Ok(None);
        };
        let to = myself.clone();
        let wake = move || {
            let _ = to.cast(SummaryMessage::Arrived);
        };
        Ok(Some(Input {
            port: Port::open(&self.bus, contract, port, &self.health, wake).await?,
            last: None,
        }))
    }

    /// The epoch of the clock now. In a new one everything seen before is forgotten: it would look as if it came from the future.
    fn epoch(&self, state: &mut SummaryState) -> u32 {
        let epoch = self.bus.clock().reading().epoch;
        if epoch != state.epoch {
            state.epoch = epoch;
            forget(&mut state.image);
            forget(&mut state.objects);
            forget(&mut state.lights);
            forget(&mut state.ego);
            state.tracker = Tracker::default();
            state.last_asked_ns = None;
            state.last_alert = Alert::default();
            if let Some(saying) = &state.saying {
                saying.cancel("the clock jumped back");
            }
        }
        epoch
    }

    async fn publish(
        &self,
        state: &SummaryState,
        scene: &Scene,
        sentence: Sentence,
        stamp_ns: Option<i64>,
    ) -> Result<(), ActorProcessingErr> {
        let now_ns = self.bus.clock().now_ns();
        state
            .output
            .put(&summary_of(scene, sentence, stamp_ns, now_ns))
            .await?;
        Ok(())
    }

    fn take(&self, myself: &ActorRef<SummaryMessage>, state: &mut SummaryState) {
        let epoch = self.epoch(state);
        take_all(&mut state.objects, |list| list);
        take_all(&mut state.lights, |lights| lights);
        take_all(&mut state.ego, |odometry| Ego::of(&odometry));
        let (Some(image), Some(detector)) = (&mut state.image, &self.models.detector) else {
            return;
        };
        // A frame that comes while the last one is being looked at waits in its port, where a newer one replaces it.
        if state.detecting {
            return;
        }
        let Some(Taken {
            message: frame,
            stamp_ns,
            ..
        }) = image.port.take()
        else {
            return;
        };
        state.detecting = true;
        let (to, detector, priority) = (myself.clone(), detector.clone(), self.options.priority);
        let deadline = Instant::now() + self.options.budget.response;
        tokio::spawn(async move {
            let outcome = detector
                .ask(Arc::new(frame), priority, deadline, CancelToken::new())
                .await;
            let _ = to.cast(SummaryMessage::Detected(stamp_ns, epoch, outcome));
        });
    }

    fn detected(&self, state: &mut SummaryState, stamp_ns: i64, outcome: Result<Boxes, AskError>) {
        let Some(image) = &mut state.image else {
            return;
        };
        match outcome {
            Ok(boxes) => {
                let sightings = state.tracker.sightings(
                    &boxes.detections.items,
                    boxes.width,
                    &self.options.camera,
                    self.bus.clock().reading().steady_ns,
                );
                image.last = Some(Seen {
                    stamp_ns,
                    value: sightings,
                });
            }
            Err(error) => self
                .health
                .refuse(&image.port.contract().topic, &error.to_string()),
        }
    }

    async fn look(
        &self,
        myself: &ActorRef<SummaryMessage>,
        state: &mut SummaryState,
    ) -> Result<(), ActorProcessingErr> {
        let (epoch, now) = (self.epoch(state), self.bus.clock().reading());
        if !now.is_known() {
            return Ok(());
        }
        let (scene, stamp_ns) = sources(state, now).scene(&self.options.limits);
        let alert = alert(&scene);
        if alert != state.last_alert {
            state.last_alert = alert;
            let sentence = Sentence {
                text: template(&scene),
                source: PerceptionSummary::TEMPLATE,
            };
            self.publish(state, &scene, sentence, stamp_ns).await?;
        }
        let period_ns = clock::nanos(self.options.period);
        let due = state
            .last_asked_ns
            .is_none_or(|last_ns| now.steady_ns.saturating_sub(last_ns) >= period_ns);
        if !due || state.saying.is_some() {
            return Ok(());
        }
        state.last_asked_ns = Some(now.steady_ns);
        let cancel = CancelToken::new();
        state.saying = Some(cancel.clone());
        let (to, models, options) = (
            myself.clone(),
            self.models.clone(),
            Arc::clone(&self.options),
        );
        tokio::spawn(async move {
            let sentence = describe(&scene, &models, &options, cancel).await;
            let _ = to.cast(SummaryMessage::Said(scene, stamp_ns, epoch, sentence));
        });
        Ok(())
    }

    fn beat(&self) {
        self.health.beat();
        let waits = |ready: Option<bool>, what: &str| {
            (ready == Some(false)).then(|| format!("waits for {what}"))
        };
        let detector = waits(
            self.models.detector.as_ref().map(|model| model.is_ready()),
            "the detector",
        );
        let language = waits(
            self.models.language.as_ref().map(|model| model.is_ready()),
            "the language model",
        );
        match detector.or(language) {
            Some(detail) => self.health.set(NodeState::Loading, detail),
            None => self.health.set(NodeState::Ready, ""),
        }
    }
}

fn take_all<M: FromBus, T>(input: &mut Option<Input<M, T>>, convert: impl Fn(M) -> T) {
    let Some(input) = input else { return };
    while let Some(taken) = input.port.take() {
        input.last = Some(Seen {
            stamp_ns: taken.stamp_ns,
            value: convert(taken.message),
        });
    }
}

fn forget<M, T>(input: &mut Option<Input<M, T>>) {
    if let Some(input) = input {
        input.last = None;
    }
}

fn fresh<M: FromBus, T: Clone>(
    input: &Option<Input<M, T>>,
    now: Reading,
) -> Option<Option<Seen<T>>> {
    let input = input.as_ref()?;
    let limit = input.port.contract().max_age;
    let young = |stamp_ns: i64| {
        limit.is_none_or(|limit| clock::age(stamp_ns, now.now_ns).is_none_or(|age| age <= limit))
    };
    Some(
        input
            .last
            .as_ref()
            .filter(|seen| young(seen.stamp_ns))
            .cloned(),
    )
}

fn sources(state: &SummaryState, now: Reading) -> Sources {
    Sources {
        objects: fresh(&state.objects, now),
        camera: fresh(&state.image, now),
        lights: fresh(&state.lights, now),
        ego: fresh(&state.ego, now),
    }
}

fn alert(scene: &Scene) -> Alert {
    Alert {
        light: scene.traffic_light,
        sensor_state: scene.sensor_state,
        vulnerable_in_the_way: scene.objects.iter().any(|object| {
            object.vulnerable && matches!(object.zone, SceneObject::AHEAD | SceneObject::CROSSING)
        }),
    }
}
