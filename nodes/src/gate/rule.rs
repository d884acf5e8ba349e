//! The rules a verdict can name, each with the number and the name that stand in `GateVerdict`.
//!
//! Numbers are grouped by ten so that a reader of a log sees the family at once, and never change their meaning: 1x permission,
//! 2x the advice itself, 3x what the policy refuses, 4x the view of the road, 5x the vehicle's own state, 6x speed, 7x confirmation,
//! 8x who is in charge, 9x the command. An advice from the future has no rule: it is refused on arrival.

use super::policy::{MAX_REFUSE_RULES, PolicySettings};

/// Number of the first refuse rule of the policy; the others follow in the order of the descriptor.
pub const FIRST_REFUSE_RULE_ID: u16 = 30;

/// Why a verdict is what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Nothing restricts it.
    #[default]
    None,
    /// The policy does not allow the action.
    ActionNotAllowed,
    /// The policy does not allow the action in this operation mode.
    ActionNotAllowedInMode,
    /// The advice is past its end.
    AdviceExpired,
    /// What the advice is built on is too old.
    AdviceStale,
    /// There is no advice.
    AdviceMissing,
    /// The advisor advises nothing.
    AdviceNone,
    /// The advice answers a command the gate has not heard.
    CommandUnknown,
    /// The advice is built on a summary the gate has not seen.
    SummaryUnknown,
    /// The refuse rule of the policy with this index; its name is the policy's.
    Refuse(u8),
    /// The vehicle sees nothing, or does not say how well it sees.
    Blind,
    /// The last summary is too old.
    SceneStale,
    /// There is no summary.
    SceneMissing,
    /// Some sensors are missing.
    SceneDegraded,
    /// The vehicle's own state is not known.
    EgoMissing,
    /// The vehicle's own state is too old.
    EgoStale,
    /// The limit was above the policy's and has been lowered to it.
    SpeedAboveLimit,
    /// The limit was further from the present than the slew allows and has been brought nearer.
    SpeedSlew,
    /// Faster was asked for at the policy's highest speed.
    AtSpeedLimit,
    /// "Slow down" without saying to what.
    SlowDownWithoutSpeed,
    /// Somebody has to confirm.
    ConfirmPending,
    /// Nobody confirmed in time.
    ConfirmTimeout,
    /// A person drives.
    ManualControl,
    /// A minimum-risk manoeuvre is in charge.
    MrmActive,
    /// Who is in charge is not known.
    ModeMissing,
    /// Who is in charge was last said too long ago.
    ModeStale,
    /// The opposite was asked for.
    NegatedCommand,
    /// The command was not understood well enough.
    LowConfidence,
    /// Somebody took it back.
    Cancelled,
}

impl Rule {
    /// Every rule, refuse rules by index.
    pub fn all() -> impl Iterator<Item = Rule> {
        let fixed = [
            Rule::None,
            Rule::ActionNotAllowed,
            Rule::ActionNotAllowedInMode,
            Rule::AdviceExpired,
            Rule::AdviceStale,
            Rule::AdviceMissing,
            Rule::AdviceNone,
            Rule::CommandUnknown,
            Rule::SummaryUnknown,
            Rule::Blind,
            Rule::SceneStale,
            Rule::SceneMissing,
            Rule::SceneDegraded,
            Rule::EgoMissing,
            Rule::EgoStale,
            Rule::SpeedAboveLimit,
            Rule::SpeedSlew,
            Rule::AtSpeedLimit,
            Rule::SlowDownWithoutSpeed,
            Rule::ConfirmPending,
            Rule::ConfirmTimeout,
            Rule::ManualControl,
            Rule::MrmActive,
            Rule::ModeMissing,
            Rule::ModeStale,
            Rule::NegatedCommand,
            Rule::LowConfidence,
            Rule::Cancelled,
        ];
        fixed
            .into_iter()
            .chain((0..MAX_REFUSE_RULES as u8).map(Rule::Refuse))
    }

    /// `GateVerdict.rule_id`.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Rule::None => 0,
            Rule::ActionNotAllowed => 10,
            Rule::ActionNotAllowedInMode => 11,
            Rule::AdviceExpired => 20,
            Rule::AdviceStale => 21,
            Rule::AdviceMissing => 23,
            Rule::AdviceNone => 24,
            Rule::CommandUnknown => 25,
            Rule::SummaryUnknown => 26,
            Rule::Refuse(index) => FIRST_REFUSE_RULE_ID + u16::from(index),
            Rule::Blind => 40,
            Rule::SceneStale => 41,
            Rule::SceneMissing => 42,
            Rule::SceneDegraded => 43,
            Rule::EgoMissing => 50,
            Rule::EgoStale => 51,
            Rule::SpeedAboveLimit => 60,
            Rule::SpeedSlew => 61,
            Rule::AtSpeedLimit => 62,
            Rule::SlowDownWithoutSpeed => 63,
            Rule::ConfirmPending => 70,
            Rule::ConfirmTimeout => 71,
            Rule::ManualControl => 80,
            Rule::MrmActive => 81,
            Rule::ModeMissing => 82,
            Rule::ModeStale => 83,
            Rule::NegatedCommand => 90,
            Rule::LowConfidence => 91,
            Rule::Cancelled => 92,
        }
    }

    /// `GateVerdict.rule`: at most 48 bytes; empty for [`Rule::None`].
    #[must_use]
    pub fn name(self, policy: &PolicySettings) -> &str {
        match self {
            Rule::None => "",
            Rule::ActionNotAllowed => "action_not_allowed",
            Rule::ActionNotAllowedInMode => "action_not_allowed_in_mode",
            Rule::AdviceExpired => "advice_expired",
            Rule::AdviceStale => "advice_stale",
            Rule::AdviceMissing => "advice_missing",
            Rule::AdviceNone => "advice_none",
            Rule::CommandUnknown => "command_unknown",
            Rule::SummaryUnknown => "summary_unknown",
            Rule::Refuse(index) => policy
                .refuse_when
                .get(usize::from(index))
                .map_or("refused", |rule| rule.name.as_str()),
            Rule::Blind => "blind",
            Rule::SceneStale => "scene_stale",
            Rule::SceneMissing => "scene_missing",
            Rule::SceneDegraded => "scene_degraded",
            Rule::EgoMissing => "ego_missing",
            Rule::EgoStale => "ego_stale",
            Rule::SpeedAboveLimit => "speed_above_limit",
            Rule::SpeedSlew => "speed_slew",
            Rule::AtSpeedLimit => "at_speed_limit",
            Rule::SlowDownWithoutSpeed => "slow_down_without_speed",
            Rule::ConfirmPending => "confirm_pending",
            Rule::ConfirmTimeout => "confirm_timeout",
            Rule::ManualControl => "manual_control",
            Rule::MrmActive => "mrm_active",
            Rule::ModeMissing => "mode_missing",
            Rule::ModeStale => "mode_stale",
            Rule::NegatedCommand => "negated_command",
            Rule::LowConfidence => "low_confidence",
            Rule::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_names_fit_the_message() {
        let policy = PolicySettings::default();
        let mut ids: Vec<u16> = Rule::all().map(Rule::id).collect();
        let total = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), total, "two rules share a number");
        for rule in Rule::all() {
            assert!(
                rule.name(&policy).len() <= 48,
                "{rule:?} does not fit string<=48"
            );
        }
    }
}
