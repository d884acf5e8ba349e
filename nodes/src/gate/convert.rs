//! From messages to facts, and from a decision to the verdict: the only file of the gate that knows the message types.
//!
//! A conversion refuses enum values this version does not know rather than guessing; numbers are judged later, where the time is known.

use llmasos_msgs::{
    autoware_adapi_v1_msgs::{MrmState, OperationModeState},
    autoware_internal_planning_msgs::{VelocityLimit, VelocityLimitClearCommand},
    autoware_vehicle_msgs::ControlModeReport,
    builtin_interfaces::{Duration, Time},
    llmasos_msgs::{GateVerdict, PerceptionSummary, PlannerAdvice, SceneObject, SpeechCommand},
    nav_msgs::Odometry,
    std_msgs::Header,
    unique_identifier_msgs::UUID,
};

use super::autoware::SENDER;
use super::decide::Decision;
use super::fact::{
    Action, AdviceFact, CommandFact, EgoFact, Intent, Light, MAX_OBJECTS, ModeFact, ModeReport,
    ObjectFact, OperationMode, SceneFact, Sensors, Speaker, Zone,
};
use super::policy::Policy;
use super::refusal::Refusal;

/// What the gate needs of an advice.
///
/// # Errors
/// [`Refusal::UnknownEnum`].
pub fn advice(message: &PlannerAdvice) -> Result<AdviceFact, Refusal> {
    if message.source > PlannerAdvice::RULE {
        return Err(Refusal::UnknownEnum);
    }
    Ok(AdviceFact {
        stamp_ns: message.header.stamp.to_nanos(),
        generated_ns: message.generated_at.to_nanos(),
        valid_until_ns: message.valid_until.to_nanos(),
        id: message.id.uuid,
        command_id: message.command_id.uuid,
        summary_id: message.summary_id.uuid,
        action: Action::from_wire(message.action).ok_or(Refusal::UnknownEnum)?,
        max_speed_mps: message.max_speed,
        confidence: message.confidence,
    })
}

/// What the gate needs of a command. Typed text was not recognized by anything, so only the parser's confidence counts for it.
///
/// # Errors
/// [`Refusal::UnknownEnum`], or [`Refusal::OutOfRange`] for a confidence outside \[0, 1\].
pub fn command(message: &SpeechCommand) -> Result<CommandFact, Refusal> {
    if message.source > SpeechCommand::TEXT {
        return Err(Refusal::UnknownEnum);
    }
    let in_range = |value: f32| value.is_nan() || (0.0..=1.0).contains(&value);
    if !in_range(message.asr_confidence) || !in_range(message.intent_confidence) {
        return Err(Refusal::OutOfRange);
    }
    let heard = if message.source == SpeechCommand::TEXT {
        f32::NAN
    } else {
        message.asr_confidence
    };
    Ok(CommandFact {
        stamp_ns: message.header.stamp.to_nanos(),
        lifespan_ns: message.lifespan.to_nanos(),
        id: message.id.uuid,
        reply_to: message.reply_to.uuid,
        intent: Intent::from_wire(message.intent).ok_or(Refusal::UnknownEnum)?,
        negated: message.negated,
        speaker: Speaker::from_wire(message.speaker).ok_or(Refusal::UnknownEnum)?,
        confidence: message.intent_confidence.min(heard), // `min` prefers the number over NaN
        target_speed_mps: message.target_speed,
    })
}

/// What the gate needs of a summary; the sentence is for people.
///
/// # Errors
/// [`Refusal::UnknownEnum`], or [`Refusal::OutOfRange`] for more objects than the message allows.
pub fn scene(message: &PerceptionSummary) -> Result<SceneFact, Refusal> {
    let mut objects = [ObjectFact::default(); MAX_OBJECTS];
    if message.objects.len() > MAX_OBJECTS {
        return Err(Refusal::OutOfRange);
    }
    for (fact, object) in objects.iter_mut().zip(&message.objects) {
        *fact = object_fact(object)?;
    }
    Ok(SceneFact {
        stamp_ns: message.header.stamp.to_nanos(),
        generated_ns: message.generated_at.to_nanos(),
        id: message.id.uuid,
        sensors: Sensors::from_wire(message.sensor_state).ok_or(Refusal::UnknownEnum)?,
        light: Light::from_wire(message.traffic_light).ok_or(Refusal::UnknownEnum)?,
        objects,
        object_count: message.objects.len(),
    })
}

fn object_fact(object: &SceneObject) -> Result<ObjectFact, Refusal> {
    Ok(ObjectFact {
        zone: Zone::from_wire(object.zone).ok_or(Refusal::UnknownEnum)?,
        vulnerable: object.vulnerable,
        existence_probability: object.existence_probability,
        distance_m: object.distance,
        relative_speed_mps: object.relative_speed,
        time_to_contact_s: object.time_to_contact,
    })
}

/// What the gate needs of the odometry: speed over ground, whichever way the vehicle moves.
#[must_use]
pub fn ego(message: &Odometry) -> EgoFact {
    let linear = &message.twist.twist.linear;
    EgoFact {
        stamp_ns: message.header.stamp.to_nanos(),
        speed_mps: linear.x.hypot(linear.y) as f32,
    }
}

/// Who decides where the vehicle goes.
///
/// # Errors
/// [`Refusal::UnknownEnum`].
pub fn operation_mode(message: &OperationModeState) -> Result<ModeFact, Refusal> {
    let mode = OperationMode::from_wire(message.mode).ok_or(Refusal::UnknownEnum)?;
    let report = ModeReport::Operation {
        mode,
        control_enabled: message.is_autoware_control_enabled,
    };
    Ok(ModeFact {
        stamp_ns: message.stamp.to_nanos(),
        report,
    })
}

/// Whose hands are on the wheel. Anything but full autonomy counts as a person's, also a mode this version does not know.
#[must_use]
pub fn control_mode(message: &ControlModeReport) -> ModeFact {
    let report = ModeReport::Control {
        autonomous: message.mode == ControlModeReport::AUTONOMOUS,
    };
    ModeFact {
        stamp_ns: message.stamp.to_nanos(),
        report,
    }
}

/// Whether a minimum-risk manoeuvre is in charge; anything but NORMAL counts as one.
#[must_use]
pub fn mrm(message: &MrmState) -> ModeFact {
    let report = ModeReport::Mrm {
        active: message.state != MrmState::NORMAL,
    };
    ModeFact {
        stamp_ns: message.stamp.to_nanos(),
        report,
    }
}

/// The verdict as a message.
#[must_use]
pub fn verdict(decision: &Decision, policy: &Policy, sequence: u64) -> GateVerdict {
    GateVerdict {
        header: Header {
            stamp: Time::from_nanos(decision.now.wall_ns),
            frame_id: String::new(),
        },
        sequence,
        advice_id: UUID {
            uuid: decision.advice_id,
        },
        command_id: UUID {
            uuid: decision.command_id,
        },
        valid_until: Time::from_nanos(decision.valid_until_ns),
        verdict: decision.verdict as u8,
        action: decision.action as u8,
        max_speed: decision.max_speed_mps,
        rule_id: decision.rule.id(),
        rule: decision.rule.name(policy.settings()).to_owned(),
        advice_age: Duration::from_nanos(decision.advice_age_ns),
        state_age: Duration::from_nanos(decision.state_age_ns),
        policy_sha256: policy.policy_sha256(),
    }
}

/// A velocity limit for Autoware; `speed_mps` finite and not negative.
#[must_use]
pub fn velocity_limit(stamp_ns: i64, speed_mps: f32) -> VelocityLimit {
    VelocityLimit {
        stamp: Time::from_nanos(stamp_ns),
        max_velocity: speed_mps,
        use_constraints: false,
        sender: SENDER.to_owned(),
        ..VelocityLimit::default()
    }
}

/// The command that ends this sender's limit.
#[must_use]
pub fn clear_velocity_limit(stamp_ns: i64) -> VelocityLimitClearCommand {
    VelocityLimitClearCommand {
        stamp: Time::from_nanos(stamp_ns),
        command: true,
        sender: SENDER.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use llmasos_msgs::{Message, enum_value};

    use super::*;
    use crate::gate::decide::Verdict;

    #[test]
    fn names_and_numbers_are_those_of_the_wire() {
        for action in Action::ALL {
            assert_eq!(
                enum_value(PlannerAdvice::TYPE, "action", action.name()),
                Some(action as i64),
                "{action:?}"
            );
        }
        for verdict in [
            Verdict::NoAdvice,
            Verdict::Accepted,
            Verdict::Clipped,
            Verdict::Refused,
            Verdict::PendingConfirm,
        ] {
            assert_eq!(
                enum_value(GateVerdict::TYPE, "verdict", verdict.name()),
                Some(verdict as i64),
                "{verdict:?}"
            );
        }
        let intents = [
            (Intent::Stop, "STOP"),
            (Intent::PullOver, "PULL_OVER"),
            (Intent::SlowDown, "SLOW_DOWN"),
            (Intent::SpeedUp, "SPEED_UP"),
            (Intent::SetSpeed, "SET_SPEED"),
            (Intent::LaneLeft, "LANE_LEFT"),
            (Intent::LaneRight, "LANE_RIGHT"),
            (Intent::Navigate, "NAVIGATE"),
            (Intent::Confirm, "CONFIRM"),
            (Intent::Cancel, "CANCEL"),
            (Intent::Keep, "KEEP"),
        ];
        for (intent, name) in intents {
            assert_eq!(
                enum_value(SpeechCommand::TYPE, "intent", name),
                Some(intent as i64),
                "{intent:?}"
            );
            assert_eq!(Intent::from_wire(intent as u8), Some(intent));
        }
    }

    #[test]
    fn unknown_enum_values_are_refused() {
        assert_eq!(
            advice(&PlannerAdvice {
                action: 7,
                ..Default::default()
            }),
            Err(Refusal::UnknownEnum)
        );
        assert_eq!(
            command(&SpeechCommand {
                intent: 12,
                ..Default::default()
            }),
            Err(Refusal::UnknownEnum)
        );
        assert_eq!(
            command(&SpeechCommand {
                speaker: 4,
                ..Default::default()
            }),
            Err(Refusal::UnknownEnum)
        );
        assert_eq!(
            scene(&PerceptionSummary {
                sensor_state: 4,
                ..Default::default()
            })
            .err(),
            Some(Refusal::UnknownEnum)
        );
        let odd = SceneObject {
            zone: 6,
            ..Default::default()
        };
        assert_eq!(
            scene(&PerceptionSummary {
                objects: vec![odd],
                ..Default::default()
            })
            .err(),
            Some(Refusal::UnknownEnum)
        );
        assert_eq!(
            operation_mode(&OperationModeState {
                mode: 9,
                ..Default::default()
            }),
            Err(Refusal::UnknownEnum)
        );
        assert_eq!(
            control_mode(&ControlModeReport {
                mode: 99,
                ..Default::default()
            })
            .report,
            ModeReport::Control { autonomous: false }
        );
        assert_eq!(
            mrm(&MrmState {
                state: 99,
                ..Default::default()
            })
            .report,
            ModeReport::Mrm { active: true }
        );
    }

    #[test]
    fn the_lower_confidence_counts_except_for_typed_text() {
        let spoken = SpeechCommand {
            asr_confidence: 0.4,
            intent_confidence: 0.9,
            source: SpeechCommand::KEYWORD,
            ..Default::default()
        };
        assert_eq!(command(&spoken).map(|fact| fact.confidence), Ok(0.4));
        let typed = SpeechCommand {
            asr_confidence: 0.0,
            source: SpeechCommand::TEXT,
            ..spoken
        };
        assert_eq!(command(&typed).map(|fact| fact.confidence), Ok(0.9));
        let absurd = SpeechCommand {
            asr_confidence: 1.5,
            ..SpeechCommand::default()
        };
        assert_eq!(command(&absurd), Err(Refusal::OutOfRange));
    }
}
