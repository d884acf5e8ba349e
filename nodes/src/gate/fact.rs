//! Facts: the part of each message that a decision needs, as plain copyable data with checked enums.
//!
//! The gate decides on these and never on the messages themselves: a fact has a fixed size, owns no memory, and its enums are already
//! known to hold a value the program knows. Names and numbers of the enums are those of the wire (`llmasos_msgs`), so that a rule written
//! in a descriptor, a verdict on the bus and a line in a log use the same word.

use crate::clock::Reading;

/// A message id: the 16 bytes of a UUID.
pub type Id = [u8; 16];

/// The id that means "none".
pub const NO_ID: Id = [0; 16];

/// Most objects of one scene; the bound of `PerceptionSummary.objects`.
pub const MAX_OBJECTS: usize = 32;

/// Nanoseconds in a second.
pub const NS_PER_S: i64 = 1_000_000_000;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The descriptor's clock (wall or `/clock`), ns since its epoch: what stamps are compared with.
    pub wall_ns: i64,
    /// How far that clock has run forward, ns: what holds and time-outs run on. It never goes back, and a paused simulation stops it.
    pub mono_ns: i64,
    /// How often the descriptor's clock is known to have jumped back.
    pub epoch: u32,
    /// How far ahead of `wall_ns` a stamp may lie, ns.
    pub ahead_ns: i64,
}

impl From<Reading> for Now {
    fn from(reading: Reading) -> Now {
        Now {
            wall_ns: reading.now_ns,
            mono_ns: reading.steady_ns,
            epoch: reading.epoch,
            ahead_ns: reading.ahead_ns,
        }
    }
}

/// What the planner may be advised to do (`PlannerAdvice.action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// Nothing.
    #[default]
    None = 0,
    /// Go on as planned.
    Keep = 1,
    /// Go slower.
    SlowDown = 2,
    /// Come to a stop.
    Stop = 3,
    /// Leave the lane and stop.
    PullOver = 4,
    /// Change to the left lane.
    LaneLeft = 5,
    /// Change to the right lane.
    LaneRight = 6,
}

impl Action {
    /// All actions, at the index of their wire value.
    pub const ALL: [Action; 7] = [
        Action::None,
        Action::Keep,
        Action::SlowDown,
        Action::Stop,
        Action::PullOver,
        Action::LaneLeft,
        Action::LaneRight,
    ];

    /// The action of a wire value, if it is one.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Action> {
        Action::ALL.get(usize::from(value)).copied()
    }

    /// The constant's name in the message.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::None => "NONE",
            Action::Keep => "KEEP",
            Action::SlowDown => "SLOW_DOWN",
            Action::Stop => "STOP",
            Action::PullOver => "PULL_OVER",
            Action::LaneLeft => "LANE_LEFT",
            Action::LaneRight => "LANE_RIGHT",
        }
    }

    /// The action a descriptor names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Whether the action can only take speed away, and so needs no view of the road.
    #[must_use]
    pub fn only_slows(self) -> bool {
        matches!(self, Action::SlowDown | Action::Stop | Action::PullOver)
    }
}

/// A set of actions, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionSet(u8);

impl ActionSet {
    /// No action.
    pub const EMPTY: ActionSet = ActionSet(0);

    /// The set of these actions; `Action::None` is never a member.
    #[must_use]
    pub const fn of(actions: &[Action]) -> ActionSet {
        let mut bits = 0;
        let mut index = 0;
        while index < actions.len() {
            bits |= 1 << actions[index] as u8;
            index += 1;
        }
        ActionSet(bits & !1)
    }

    /// Whether the action is in the set.
    #[must_use]
    pub const fn contains(self, action: Action) -> bool {
        self.0 & (1 << action as u8) != 0
    }

    /// The actions of both sets.
    #[must_use]
    pub const fn both(self, other: ActionSet) -> ActionSet {
        ActionSet(self.0 & other.0)
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The bits, bit n for the action with wire value n.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> ActionSet {
        actions.into_iter().fold(ActionSet::EMPTY, |set, action| {
            ActionSet(set.0 | ActionSet::of(&[action]).0)
        })
    }
}

/// What somebody asked for (`SpeechCommand.intent`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Intent {
    /// Not understood.
    #[default]
    Unknown = 0,
    /// Stop the vehicle.
    Stop = 1,
    /// Pull over.
    PullOver = 2,
    /// Go slower.
    SlowDown = 3,
    /// Go faster.
    SpeedUp = 4,
    /// Drive at the command's target speed.
    SetSpeed = 5,
    /// Change to the left lane.
    LaneLeft = 6,
    /// Change to the right lane.
    LaneRight = 7,
    /// Go somewhere else.
    Navigate = 8,
    /// Yes, to what `reply_to` names.
    Confirm = 9,
    /// No, to what `reply_to` names, or to the last thing.
    Cancel = 10,
    /// Go on as planned.
    Keep = 11,
}

impl Intent {
    /// All intents, at the index of their wire value.
    pub const ALL: [Intent; 12] = [
        Intent::Unknown,
        Intent::Stop,
        Intent::PullOver,
        Intent::SlowDown,
        Intent::SpeedUp,
        Intent::SetSpeed,
        Intent::LaneLeft,
        Intent::LaneRight,
        Intent::Navigate,
        Intent::Confirm,
        Intent::Cancel,
        Intent::Keep,
    ];

    /// The intent of a wire value, if it is one.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Intent> {
        Intent::ALL.get(usize::from(value)).copied()
    }

    /// The action that goes to the planner without any model, for the two intents that have one.
    #[must_use]
    pub fn direct_action(self) -> Option<Action> {
        match self {
            Intent::Stop => Some(Action::Stop),
            Intent::PullOver => Some(Action::PullOver),
            Intent::Unknown
            | Intent::SlowDown
            | Intent::SpeedUp
            | Intent::SetSpeed
            | Intent::LaneLeft
            | Intent::LaneRight
            | Intent::Navigate
            | Intent::Confirm
            | Intent::Cancel
            | Intent::Keep => None,
        }
    }
}

/// Who spoke (`SpeechCommand.speaker`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Speaker {
    /// Nobody knows.
    #[default]
    Unknown = 0,
    /// The person responsible for the vehicle.
    Driver = 1,
    /// Somebody else on board.
    Passenger = 2,
    /// Somebody elsewhere.
    Remote = 3,
}

impl Speaker {
    /// The speaker of a wire value, if it is one.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Speaker> {
        [
            Speaker::Unknown,
            Speaker::Driver,
            Speaker::Passenger,
            Speaker::Remote,
        ]
        .get(usize::from(value))
        .copied()
    }
}

/// The light that applies to the vehicle (`PerceptionSummary.traffic_light`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Light {
    /// None seen, or colour unknown.
    #[default]
    Unknown = 0,
    /// Red.
    Red = 1,
    /// Amber.
    Amber = 2,
    /// Green.
    Green = 3,
}

impl Light {
    /// The light of a wire value, if it is one.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Light> {
        [Light::Unknown, Light::Red, Light::Amber, Light::Green]
            .get(usize::from(value))
            .copied()
    }

    /// The light a descriptor names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Light> {
        match name {
            "RED" => Some(Light::Red),
            "AMBER" => Some(Light::Amber),
            "GREEN" => Some(Light::Green),
            _ => None,
        }
    }
}

/// How well the vehicle sees (`PerceptionSummary.sensor_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Sensors {
    /// Not stated; treated as blind.
    #[default]
    Unknown = 0,
    /// All sources fresh: an empty list of objects means a clear road.
    Ok = 1,
    /// Some sources missing.
    Degraded = 2,
    /// Nothing is seen.
    Blind = 3,
}

impl Sensors {
    /// The state of a wire value, if it is one.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Sensors> {
        [
            Sensors::Unknown,
            Sensors::Ok,
            Sensors::Degraded,
            Sensors::Blind,
        ]
        .get(usize::from(value))
        .copied()
    }
}

/// Where an object is (`SceneObject.zone`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Zone {
    /// Nobody knows.
    #[default]
    Unknown = 0,
    /// In the vehicle's path.
    Ahead = 1,
    /// To the left.
    Left = 2,
    /// To the right.
    Right = 3,
    /// Behind.
    Behind = 4,
    /// Moving into the vehicle's path.
    Crossing = 5,
}

impl Zone {
    /// The zone of a wire value, if it is one.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Zone> {
        [
            Zone::Unknown,
            Zone::Ahead,
            Zone::Left,
            Zone::Right,
            Zone::Behind,
            Zone::Crossing,
        ]
        .get(usize::from(value))
        .copied()
    }

    /// The zone a descriptor names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Zone> {
        match name {
            "AHEAD" => Some(Zone::Ahead),
            "LEFT" => Some(Zone::Left),
            "RIGHT" => Some(Zone::Right),
            "BEHIND" => Some(Zone::Behind),
            "CROSSING" => Some(Zone::Crossing),
            _ => None,
        }
    }
}

/// What the gate knows of a `PlannerAdvice`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdviceFact {
    /// Stamp of the oldest input the advice is built on, ns.
    pub stamp_ns: i64,
    /// When it was written, ns.
    pub generated_ns: i64,
    /// When it ends, ns.
    pub valid_until_ns: i64,
    /// Its id.
    pub id: Id,
    /// The command it answers, or none.
    pub command_id: Id,
    /// The summary it was built on, or none.
    pub summary_id: Id,
    /// What it advises.
    pub action: Action,
    /// Speed limit in m/s; NaN = no limit.
    pub max_speed_mps: f32,
    /// \[0, 1\] or NaN.
    pub confidence: f32,
}

/// What the gate knows of a `SpeechCommand`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommandFact {
    /// End of the utterance, ns.
    pub stamp_ns: i64,
    /// How long after its stamp it may act, ns; 0 = the policy's own limit.
    pub lifespan_ns: i64,
    /// Its id.
    pub id: Id,
    /// What a confirmation or cancellation answers, or none.
    pub reply_to: Id,
    /// What was asked for.
    pub intent: Intent,
    /// The opposite was asked for ("don't stop").
    pub negated: bool,
    /// Who asked.
    pub speaker: Speaker,
    /// The lower of the recognizer's and the parser's confidence, \[0, 1\]; NaN = unknown.
    pub confidence: f32,
    /// m/s; NaN = none.
    pub target_speed_mps: f32,
}

/// What the gate knows of one `SceneObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ObjectFact {
    /// Where it is.
    pub zone: Zone,
    /// Pedestrian, cyclist or animal.
    pub vulnerable: bool,
    /// \[0, 1\] or NaN.
    pub existence_probability: f32,
    /// m; NaN = unknown.
    pub distance_m: f32,
    /// m/s, positive = approaching; NaN = unknown.
    pub relative_speed_mps: f32,
    /// s; NaN = unknown, +infinity = never.
    pub time_to_contact_s: f32,
}

/// What the gate knows of a `PerceptionSummary`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SceneFact {
    /// Stamp of the oldest source, ns.
    pub stamp_ns: i64,
    /// When it was written, ns.
    pub generated_ns: i64,
    /// Its id.
    pub id: Id,
    /// How well the vehicle sees.
    pub sensors: Sensors,
    /// The light that applies.
    pub light: Light,
    /// The first `object_count` are meant.
    pub objects: [ObjectFact; MAX_OBJECTS],
    /// How many objects there are, at most [`MAX_OBJECTS`].
    pub object_count: usize,
}

/// What the gate knows of the vehicle's own motion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EgoFact {
    /// Stamp of the odometry, ns.
    pub stamp_ns: i64,
    /// Speed over ground in m/s, not negative.
    pub speed_mps: f32,
}

/// Who decides where the vehicle goes (`autoware_adapi_v1_msgs/OperationModeState`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum OperationMode {
    /// Not stated.
    #[default]
    Unknown = 0,
    /// Held at a stop.
    Stop = 1,
    /// Driving by itself.
    Autonomous = 2,
    /// Driven by somebody on board through the computer.
    Local = 3,
    /// Driven from elsewhere.
    Remote = 4,
}

impl OperationMode {
    /// The mode of a wire value, if it is one.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<OperationMode> {
        [
            OperationMode::Unknown,
            OperationMode::Stop,
            OperationMode::Autonomous,
            OperationMode::Local,
            OperationMode::Remote,
        ]
        .get(usize::from(value))
        .copied()
    }
}

/// One of the three reports about who is in charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeReport {
    /// The operation mode, and whether the autonomy's commands reach the vehicle at all.
    Operation {
        /// The mode.
        mode: OperationMode,
        /// `is_autoware_control_enabled`.
        control_enabled: bool,
    },
    /// `autoware_vehicle_msgs/ControlModeReport`: true only for AUTONOMOUS.
    Control {
        /// The vehicle's actuators follow the computer in both directions.
        autonomous: bool,
    },
    /// `autoware_adapi_v1_msgs/MrmState`: true unless NORMAL.
    Mrm {
        /// A minimum-risk manoeuvre is under way, done or failed.
        active: bool,
    },
}

/// A mode report with its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeFact {
    /// When it was true, ns.
    pub stamp_ns: i64,
    /// What it says.
    pub report: ModeReport,
}
