//! What cannot be a policy, and what its fingerprint depends on.

use std::time::Duration;

use super::fact::{Action, ActionSet, Light};
use super::policy::{Condition, Confirmer, ModeInput, Policy, PolicySettings, RefuseRule};
use super::scenario::{demo_settings, settings};

#[test]
fn settings_that_contradict_themselves_are_no_policy() {
    type Change = fn(&mut PolicySettings);
    let light = |name: &str| RefuseRule {
        name: name.into(),
        condition: Condition::Light(Light::Red),
        actions: ActionSet::of(&[Action::Keep]),
    };
    assert!(Policy::new(demo_settings()).is_ok() && Policy::new(PolicySettings::default()).is_ok());
    let cases: [(Change, &str, &str); 12] = [
        (
            |s| s.allow = ActionSet::EMPTY,
            "allow",
            "a gate that only says no is a mistake",
        ),
        (
            |s| s.max_speed_mps = f32::NAN,
            "max_speed.max",
            "NaN compares false everywhere",
        ),
        (
            |s| s.max_speed_mps = 139.0,
            "found 139",
            "km/h written as m/s",
        ),
        (
            |s| s.decelerate_mps2 = 0.0,
            "decelerate",
            "a limit that can never fall",
        ),
        (
            |s| s.accelerate_mps2 = -1.0,
            "accelerate",
            "a limit that rises backwards",
        ),
        (
            |s| s.fresh.ego = Duration::ZERO,
            "fresh.ego",
            "nothing is ever that fresh",
        ),
        (
            |s| s.verdict_validity = Duration::from_secs(3600),
            "verdict_validity",
            "a dead gate's verdict must end",
        ),
        (
            |s| s.mrm = ModeInput::Periodic(Duration::ZERO),
            "mrm.max_age",
            "always stale",
        ),
        (
            |s| s.min_command_confidence = 1.5,
            "min_confidence",
            "nobody could be understood",
        ),
        (
            |s| s.confirm_timeout = Duration::from_secs(9),
            "confirm timeout",
            "the advice would be dead before the answer",
        ),
        (
            |s| s.refuse_when[0].name = "x".repeat(49),
            "bytes",
            "GateVerdict.rule holds 48",
        ),
        (
            |s| s.refuse_when[0].actions = ActionSet::EMPTY,
            "names no action",
            "a rule without effect hides a mistake",
        ),
    ];
    for (change, says, why) in cases {
        let error = Policy::new(settings(change)).expect_err(why).to_string();
        assert!(error.contains(says), "{why}: {error}");
    }
    let twice = settings(|s| s.refuse_when = vec![light("a"), light("a")]);
    assert!(
        Policy::new(twice).is_err(),
        "two rules of one name cannot be told apart in a verdict"
    );
    let many = settings(|s| s.refuse_when = (0..9).map(|n| light(&n.to_string())).collect());
    assert!(
        Policy::new(many)
            .expect_err("nine")
            .to_string()
            .contains("at most 8 rules, found 9")
    );
}

#[test]
fn the_fingerprint_depends_on_every_setting() {
    type Change = fn(&mut PolicySettings);
    let base = Policy::new(demo_settings()).unwrap().policy_sha256();
    assert_eq!(
        base,
        Policy::new(demo_settings()).unwrap().policy_sha256(),
        "same meaning, same fingerprint"
    );
    let changes: [Change; 22] = [
        |s| s.allow = ActionSet::of(&[Action::Stop]),
        |s| s.allow_in_mode = Some([ActionSet::EMPTY; 5]),
        |s| s.max_speed_mps = 14.0,
        |s| s.accelerate_mps2 = 1.6,
        |s| s.decelerate_mps2 = 3.1,
        |s| s.slew_horizon = Duration::from_millis(999),
        |s| s.refuse_when[0].name = "red".into(),
        |s| s.refuse_when[0].condition = Condition::Light(Light::Amber),
        |s| s.refuse_when[1].actions = ActionSet::of(&[Action::Keep]),
        |s| s.refuse_when.swap(0, 1),
        |s| s.confirm[Action::LaneLeft as usize] = Some(Confirmer::Any),
        |s| s.confirm_timeout = Duration::from_secs(3),
        |s| s.fresh.advice = Duration::from_secs(1),
        |s| s.fresh.command = Duration::from_secs(2),
        |s| s.fresh.summary = Duration::from_secs(1),
        |s| s.fresh.ego = Duration::from_secs(1),
        |s| s.advice_max_validity = Duration::from_secs(6),
        |s| s.min_command_confidence = 0.6,
        |s| s.direct_hold = Duration::from_secs(11),
        |s| s.verdict_validity = Duration::from_millis(301),
        |s| s.control_mode = ModeInput::Latched,
        |s| s.identity.required = true,
    ];
    let mut seen = vec![base];
    for (index, change) in changes.into_iter().enumerate() {
        let sha256 = Policy::new(settings(change)).unwrap().policy_sha256();
        assert!(
            !seen.contains(&sha256),
            "change {index} does not show in the fingerprint"
        );
        seen.push(sha256);
    }
}
