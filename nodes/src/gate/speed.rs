//! Speed limits: the policy's bound, and how fast a limit may move.
//!
//! A limit below what the vehicle can reach by `decelerate` within the horizon is lifted to the curve it can follow; the curve starts at
//! the vehicle's speed when the first limit comes into force and falls from then on, so that a vehicle that lags does not hold it up.
//! A limit in force may rise by `accelerate` only. The bound stands above both: nothing above it ever leaves.
//!
//! ```text
//! speed
//!   │ego ●───.                     reference(t) = max(wanted, reference(t-dt) - decelerate * dt)
//!   │         `-.  reference       limit(t)     = max(wanted, reference(t) - decelerate * horizon)
//!   │      ○─.   `-.
//!   │         `-.   `-.
//!   │ wanted ────○─────●──────
//!   └──────────────────────────► time
//! ```

use super::fact::{NS_PER_S, Now};
use super::policy::PolicySettings;
use super::rule::Rule;

/// Longest step of the curve, s: after a longer gap there is nothing to be continuous with.
const MAX_STEP_S: f32 = 5.0;

/// The limit in force, as the next decision needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limit {
    /// What was said, m/s.
    pub(super) speed_mps: f32,
    /// Where the falling curve stands, m/s.
    reference_mps: f32,
    /// When, on the monotonic clock, ns.
    at_ns: i64,
}

/// The limit that may pass, and the rule that changed it. `wanted` and `ego` in m/s, finite and not negative.
pub(super) fn slew(
    settings: &PolicySettings,
    wanted_mps: f32,
    ego_mps: f32,
    last: Option<Limit>,
    now: Now,
) -> (Limit, Rule) {
    let (bounded, mut rule) = bound(settings, wanted_mps);
    let step_s = last.map_or(0.0, |last| step_s(last.at_ns, now.mono_ns));
    let last = last.filter(|_| step_s < MAX_STEP_S);

    let falling = last.map_or(ego_mps, |last| {
        (last.reference_mps - settings.decelerate_mps2 * step_s).min(ego_mps)
    });
    let reference_mps = falling.max(bounded.min(ego_mps)).max(0.0);
    let floor = reference_mps - settings.decelerate_mps2 * settings.slew_horizon.as_secs_f32();

    let mut speed_mps = bounded;
    if speed_mps < floor {
        (speed_mps, rule) = (floor.min(settings.max_speed_mps), Rule::SpeedSlew);
    } else if let Some(last) = last {
        let ceiling = last.speed_mps + settings.accelerate_mps2 * step_s;
        if speed_mps > ceiling {
            (speed_mps, rule) = (ceiling, Rule::SpeedSlew);
        }
    }
    (
        Limit {
            speed_mps,
            reference_mps,
            at_ns: now.mono_ns,
        },
        rule,
    )
}

/// The policy's bound alone; NaN (no limit) stays.
pub(super) fn bound(settings: &PolicySettings, wanted_mps: f32) -> (f32, Rule) {
    if wanted_mps > settings.max_speed_mps {
        (settings.max_speed_mps, Rule::SpeedAboveLimit)
    } else {
        (wanted_mps, Rule::None)
    }
}

fn step_s(from_ns: i64, to_ns: i64) -> f32 {
    let step_ns = to_ns.saturating_sub(from_ns).max(0);
    (step_ns as f64 / NS_PER_S as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_NS: i64 = NS_PER_S / 10;

    fn run(wanted: &[f32], ego: &[f32]) -> Vec<(f32, Rule)> {
        let settings = PolicySettings::default(); // 13.9 m/s, 1.5 up, 3.0 down, 1 s
        let mut last = None;
        wanted
            .iter()
            .zip(ego)
            .enumerate()
            .map(|(tick, (wanted, ego))| {
                let now = Now {
                    wall_ns: 0,
                    mono_ns: tick as i64 * STEP_NS,
                    epoch: 0,
                    ahead_ns: 0,
                };
                let (limit, rule) = slew(&settings, *wanted, *ego, last, now);
                last = Some(limit);
                (limit.speed_mps, rule)
            })
            .collect()
    }

    fn check(found: &[(f32, Rule)], expected: &[(f32, Rule)], why: &str) {
        for (tick, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found.0 - expected.0).abs() < 1e-3 && found.1 == expected.1,
                "{why}: tick {tick}: expected {expected:?}, found {found:?}"
            );
        }
    }

    #[test]
    fn limits_move_no_faster_than_the_vehicle_can() {
        check(
            &run(&[8.0], &[10.0]),
            &[(8.0, Rule::None)],
            "within one second of braking: passes at once",
        );
        check(
            &run(&[5.0; 3], &[10.0; 3]),
            &[
                (7.0, Rule::SpeedSlew),
                (6.7, Rule::SpeedSlew),
                (6.4, Rule::SpeedSlew),
            ],
            "further away: the curve falls at 3 m/s2 even if the vehicle lags",
        );
        check(
            &run(&[5.0; 2], &[10.0, 8.0]),
            &[(7.0, Rule::SpeedSlew), (5.0, Rule::None)],
            "a vehicle ahead of the curve pulls it down",
        );
        check(
            &run(&[30.0], &[10.0]),
            &[(13.9, Rule::SpeedAboveLimit)],
            "never above the bound",
        );
        check(
            &run(&[5.0], &[30.0]),
            &[(13.9, Rule::SpeedSlew)],
            "the bound stands above the curve",
        );
        check(
            &run(&[8.0, 12.0], &[8.0, 8.0]),
            &[(8.0, Rule::None), (8.15, Rule::SpeedSlew)],
            "a limit in force rises slowly",
        );
        check(&run(&[0.0], &[1.0]), &[(0.0, Rule::None)], "never negative");
    }

    #[test]
    fn the_curve_ends_at_the_wanted_limit() {
        let found = run(&[2.0; 40], &[10.0; 40]);
        assert_eq!(found.last().map(|last| last.1), Some(Rule::None));
        assert!(
            found.windows(2).all(|pair| pair[1].0 <= pair[0].0),
            "it only falls: {found:?}"
        );
        assert!(
            found.iter().all(|limit| limit.0 >= 2.0),
            "it never undershoots: {found:?}"
        );
    }
}
