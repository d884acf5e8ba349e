//! The gate's part of the format: what it reads, what may pass, what is refused.
//!
//! Ports and rules stand here only if the gate of `llmasos_nodes` acts on them: a key that is read and ignored would be a false
//! promise of safety.

use super::kinds::{ADVICE, COMMAND, EGO, SUMMARY_TYPE, VERDICT, input_types, output_type, ports};
use super::shape::{Key, Shape, Table};
use super::tables::{DURATION, key, must, table};
use super::units::Dimension;

/// Message types an input of the gate takes.
pub fn gate_input_types(port: &str) -> &'static [&'static str] {
    input_types(&GATE, port)
}

/// Message type of an output of the gate.
pub fn gate_output_type(port: &str) -> Option<&'static str> {
    output_type(&GATE, port)
}

/// Actions of an advice (PlannerAdvice.msg, without NONE).
pub const ACTIONS: &[&str] = &[
    "KEEP",
    "SLOW_DOWN",
    "STOP",
    "PULL_OVER",
    "LANE_LEFT",
    "LANE_RIGHT",
];
/// Operation modes (autoware_adapi_v1_msgs/OperationModeState).
pub const MODES: &[&str] = &["STOP", "AUTONOMOUS", "LOCAL", "REMOTE"];
/// Traffic light states (PerceptionSummary.msg).
pub const LIGHT_STATES: &[&str] = &["RED", "AMBER", "GREEN"];
/// Zones around the vehicle (SceneObject.msg).
pub const ZONES: &[&str] = &["AHEAD", "LEFT", "RIGHT", "BEHIND", "CROSSING"];

const ACTION_LIST: Shape = Shape::List(&Shape::Word("action", ACTIONS));

/// `{ topic, max_age }` of a gate's input.
pub static GATE_INPUT: Table = table(
    "an input of the gate",
    &[&[
        must("topic", Shape::Topic, "the topic it reads"),
        key(
            "max_age",
            DURATION,
            "oldest stamp that counts as fresh; the topic's own by default",
        ),
    ]],
);

const fn gate_input(name: &'static str, types: &'static [&'static str], help: &'static str) -> Key {
    key(name, Shape::Input(types, &GATE_INPUT), help)
}

/// `gate:`.
pub static GATE: Table = table(
    "the gate",
    &[&[
        must("in", Shape::Fields(&GATE_IN), "inputs"),
        must("out", Shape::Fields(&GATE_OUT), "outputs"),
        must(
            "allow",
            Shape::Either(&[Shape::Fields(&ALLOW), ACTION_LIST]),
            "actions that may pass, in all modes or by mode",
        ),
        must(
            "max_speed",
            Shape::Fields(&SPEED),
            "bounds of the speed an advice may ask for",
        ),
        key(
            "refuse_when",
            Shape::Map(&Shape::Fields(&RULE)),
            "rules by name, tried in order",
        ),
        key(
            "confirm",
            Shape::Fields(&CONFIRM),
            "actions that wait for a person",
        ),
        key(
            "otherwise",
            Shape::Word("verdict", &["NO_ADVICE"]),
            "when nothing passes: the planner keeps its own plan",
        ),
        key(
            "velocity_limit",
            Shape::Bool,
            "also say speed limits in force to Autoware's velocity limit selector; false by default",
        ),
        key(
            "min_confidence",
            Shape::Quantity(Dimension::Ratio),
            "commands below it do not act; 0.5 by default",
        ),
        key(
            "hold",
            DURATION,
            "how long a spoken STOP or PULL_OVER holds unless cancelled; 10s by default",
        ),
        key(
            "advice_validity",
            DURATION,
            "longest life of an advice, whatever it says itself; 5s by default",
        ),
    ]],
);

static GATE_IN: Table = ports(
    "the gate",
    &[&[
        gate_input("advice", &[ADVICE], "from the planner-advisor"),
        must(
            "command",
            Shape::Input(&[COMMAND], &GATE_INPUT),
            "STOP and PULL_OVER come straight from speech",
        ),
        gate_input("summary", &[SUMMARY_TYPE], "what is there"),
        must(
            "ego",
            Shape::Input(EGO, &GATE_INPUT),
            "the vehicle's own motion",
        ),
        gate_input(
            "operation_mode",
            &["autoware_adapi_v1_msgs/msg/OperationModeState"],
            "who drives",
        ),
        gate_input(
            "mrm",
            &["autoware_adapi_v1_msgs/msg/MrmState"],
            "minimum risk manoeuvre",
        ),
        gate_input(
            "control_mode",
            &["autoware_vehicle_msgs/msg/ControlModeReport"],
            "autonomous or manual",
        ),
    ]],
);

static GATE_OUT: Table = ports(
    "the gate",
    &[&[must(
        "verdict",
        Shape::Output(VERDICT),
        "what the planner reads",
    )]],
);

/// `allow:` by operation mode.
pub static ALLOW: Table = Table {
    what: "actions by mode",
    noun: "mode",
    keys: &[&[
        key("STOP", ACTION_LIST, "while stopped"),
        key("AUTONOMOUS", ACTION_LIST, "while driving itself"),
        key("LOCAL", ACTION_LIST, "while driven from inside"),
        key("REMOTE", ACTION_LIST, "while driven from afar"),
        must(
            "otherwise",
            ACTION_LIST,
            "in any other mode, or when it is not known",
        ),
    ]],
    one_of: &[],
};

/// `max_speed:`.
pub static SPEED: Table = table(
    "a speed bound",
    &[&[
        must(
            "max",
            Shape::Quantity(Dimension::Speed),
            "highest speed that may be advised",
        ),
        must(
            "accelerate",
            Shape::Quantity(Dimension::Acceleration),
            "fastest rise of the bound",
        ),
        must(
            "decelerate",
            Shape::Quantity(Dimension::Acceleration),
            "fastest fall of the bound",
        ),
    ]],
);

/// One entry of `refuse_when:`: a light, or a vulnerable object that is near.
pub static RULE: Table = table(
    "a rule",
    &[&[
        key(
            "traffic_light",
            Shape::Word("light", LIGHT_STATES),
            "the light that applies shows this",
        ),
        key(
            "zone",
            Shape::Word("zone", ZONES),
            "a pedestrian, cyclist or animal is in this zone",
        ),
        key(
            "time_to_contact",
            Shape::Fields(&BELOW_DURATION),
            "and is reached within",
        ),
        key(
            "distance",
            Shape::Fields(&BELOW_LENGTH),
            "and is nearer than",
        ),
        must("actions", ACTION_LIST, "actions that are refused then"),
    ]],
);

/// `{ below: 4s }`.
pub static BELOW_DURATION: Table = table("a bound", &[&[must("below", DURATION, "the bound")]]);
/// `{ below: 20 m }`.
pub static BELOW_LENGTH: Table = table(
    "a bound",
    &[&[must(
        "below",
        Shape::Quantity(Dimension::Length),
        "the bound",
    )]],
);

const WHO: Shape = Shape::Word("person", &["driver", "anyone"]);

/// `confirm:`.
pub static CONFIRM: Table = table(
    "confirmation",
    &[&[
        key("KEEP", WHO, "who confirms"),
        key("SLOW_DOWN", WHO, "who confirms"),
        key("LANE_LEFT", WHO, "who confirms"),
        key("LANE_RIGHT", WHO, "who confirms"),
        must("timeout", DURATION, "how long the question stands"),
    ]],
);
