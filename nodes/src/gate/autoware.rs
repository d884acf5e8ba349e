//! From a verdict to Autoware's velocity limit, as a pure function.
//!
//! Autoware's selector takes the minimum over all senders and never expires an entry: a limit that is not cleared stays for ever. So the
//! gate clears when it starts (what a dead predecessor left), whenever no limit is in force any more (expiry, withdrawal, manual takeover,
//! refusal), and when it ends; the launcher clears for a gate that died. A limit can only lower speed.

use super::decide::Decision;
use super::fact::Action;

/// `VelocityLimit.sender` and `VelocityLimitClearCommand.sender`.
pub const SENDER: &str = "llmasos";
/// Topic of the limit: reliable, transient local, depth 1.
pub const VELOCITY_LIMIT_TOPIC: &str = "/planning/scenario_planning/max_velocity_candidates";
/// Topic of the clear command.
pub const CLEAR_VELOCITY_LIMIT_TOPIC: &str = "/planning/scenario_planning/clear_velocity_limit";
/// Smaller changes are not published, m/s: a third of walking pace is below what a planner can follow.
pub const MIN_CHANGE_MPS: f32 = 0.1;

/// What Autoware was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Told {
    /// Nothing by this process; a predecessor may have left a limit.
    #[default]
    Nothing,
    /// No limit.
    Cleared,
    /// This limit, m/s.
    Limit(f32),
}

/// What to tell Autoware.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LimitChange {
    /// Publish a `VelocityLimit` with this speed, m/s, finite and not negative.
    Set(f32),
    /// Publish a `VelocityLimitClearCommand`.
    Clear,
}

impl LimitChange {
    /// What Autoware knows once this is published.
    #[must_use]
    pub fn told(self) -> Told {
        match self {
            LimitChange::Set(speed_mps) => Told::Limit(speed_mps),
            LimitChange::Clear => Told::Cleared,
        }
    }
}

/// What has to be published so that Autoware knows this decision; `None` when it does already.
#[must_use]
pub fn limit_change(told: Told, decision: &Decision) -> Option<LimitChange> {
    let speed_mps = decision.max_speed_mps;
    let limits = matches!(
        decision.action,
        Action::Keep | Action::SlowDown | Action::LaneLeft | Action::LaneRight
    );
    if !(decision.verdict.in_force() && limits && speed_mps.is_finite()) {
        return clear(told);
    }
    let wanted_mps = speed_mps.max(0.0);
    match told {
        Told::Limit(last) if (last - wanted_mps).abs() < MIN_CHANGE_MPS => None,
        Told::Limit(_) | Told::Nothing | Told::Cleared => Some(LimitChange::Set(wanted_mps)),
    }
}

/// The clear command, unless Autoware already knows of no limit: for gate start, shutdown and everything that ends a limit.
#[must_use]
pub fn clear(told: Told) -> Option<LimitChange> {
    (told != Told::Cleared).then_some(LimitChange::Clear)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::decide::Verdict;
    use crate::gate::fact::{NO_ID, Now};
    use crate::gate::rule::Rule;

    fn decision(verdict: Verdict, action: Action, max_speed_mps: f32) -> Decision {
        Decision {
            verdict,
            action,
            max_speed_mps,
            rule: Rule::None,
            advice_id: NO_ID,
            command_id: NO_ID,
            now: Now {
                wall_ns: 0,
                mono_ns: 0,
                epoch: 0,
                ahead_ns: 0,
            },
            valid_until_ns: 0,
            advice_age_ns: 0,
            state_age_ns: 0,
        }
    }

    #[test]
    fn what_is_published_is_a_speed_or_an_end_and_never_twice_the_same() {
        use LimitChange::{Clear, Set};
        let silent = decision(Verdict::NoAdvice, Action::None, f32::NAN);
        let slow = |speed| decision(Verdict::Clipped, Action::SlowDown, speed);
        // A gate's life, from its start: each decision and what must be said.
        let life = [
            (slow(8.0), Some(Set(8.0)), "an advice"),
            (slow(8.0), None, "said already"),
            (slow(7.96), None, "hardly less"),
            (slow(7.92), None, "still hardly less than what was said"),
            (slow(7.88), Some(Set(7.88)), "small steps add up"),
            (slow(f32::INFINITY), Some(Clear), "no bound at all"),
            (slow(f32::NEG_INFINITY), None, "nor is that a speed"),
            (slow(f32::NAN), None, "unknown"),
            (slow(0.0), Some(Set(0.0)), "to a halt"),
            (silent, Some(Clear), "withdrawn, expired or taken over"),
            (silent, None, "said already"),
            (slow(8.0), Some(Set(8.0)), "the next advice"),
        ];
        assert_eq!(clear(Told::Nothing), Some(Clear), "a gate that starts");
        let mut told = Clear.told();
        for (decision, expected, why) in life {
            let change = limit_change(told, &decision);
            assert_eq!(change, expected, "{why}");
            told = change.map_or(told, LimitChange::told);
        }
        assert_eq!(clear(told), Some(Clear), "a gate that ends");
        assert_eq!(clear(Clear.told()), None, "with nothing to take back");
    }

    #[test]
    fn limits_are_set_on_change_and_cleared_when_they_end() {
        use LimitChange::{Clear, Set};
        let cases = [
            (
                Told::Nothing,
                decision(Verdict::NoAdvice, Action::None, f32::NAN),
                Some(Clear),
                "a predecessor may have left a limit",
            ),
            (
                Told::Cleared,
                decision(Verdict::NoAdvice, Action::None, f32::NAN),
                None,
                "nothing to clear",
            ),
            (
                Told::Cleared,
                decision(Verdict::Accepted, Action::SlowDown, 5.0),
                Some(Set(5.0)),
                "a new limit",
            ),
            (
                Told::Limit(5.0),
                decision(Verdict::Accepted, Action::SlowDown, 5.05),
                None,
                "too small a change",
            ),
            (
                Told::Limit(5.0),
                decision(Verdict::Clipped, Action::SlowDown, 4.7),
                Some(Set(4.7)),
                "the curve falls",
            ),
            (
                Told::Limit(5.0),
                decision(Verdict::NoAdvice, Action::None, f32::NAN),
                Some(Clear),
                "expiry or takeover",
            ),
            (
                Told::Limit(5.0),
                decision(Verdict::Refused, Action::None, f32::NAN),
                Some(Clear),
                "a refusal holds nothing",
            ),
            (
                Told::Limit(5.0),
                decision(Verdict::Accepted, Action::Keep, f32::NAN),
                Some(Clear),
                "no limit any more",
            ),
            (
                Told::Limit(5.0),
                decision(Verdict::Accepted, Action::Stop, 0.0),
                Some(Clear),
                "a stop goes through its own service",
            ),
            (
                Told::Cleared,
                decision(Verdict::Accepted, Action::SlowDown, -1.0),
                Some(Set(0.0)),
                "never negative",
            ),
        ];
        for (told, decision, expected, why) in cases {
            assert_eq!(limit_change(told, &decision), expected, "{why}");
        }
    }
}
