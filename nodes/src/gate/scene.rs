//! What the road says against an action: the view of it first, then the policy's refuse rules.
//!
//! What is not known counts as if it were dangerous: an object without a zone is in every zone, an object without a distance is near.
//! Only a stated value can clear it, for instance a time to contact of infinity or a negative approach speed.

use super::fact::{Action, Now, ObjectFact, SceneFact, Sensors, Zone};
use super::policy::{Condition, Policy, RefuseRule};
use super::rule::Rule;
use super::state::{Inputs, ns};

/// The first reason against `action`. `slows` says that it can only take speed away, and so needs no view of the road.
///
/// What was last seen is named before how well it is seen: an old red light refuses for being red, not for being old. It never lets
/// anything pass, because age and sight are asked afterwards.
pub(super) fn objection(
    policy: &Policy,
    inputs: &Inputs,
    action: Action,
    slows: bool,
    now: Now,
) -> Option<Rule> {
    let Some(scene) = inputs.scene() else {
        return (!slows).then_some(Rule::SceneMissing);
    };
    let stale = scene.age_ns(now) > ns(policy.settings().fresh.summary);
    if stale && slows {
        return None;
    }
    let danger = refuse_rule(policy, &scene.fact, action);
    if danger.is_some() || slows {
        return danger;
    }
    match scene.fact.sensors {
        _ if stale => Some(Rule::SceneStale),
        Sensors::Ok => None,
        Sensors::Degraded => Some(Rule::SceneDegraded),
        Sensors::Blind | Sensors::Unknown => Some(Rule::Blind),
    }
}

/// The first rule of the policy that refuses the action in this scene.
fn refuse_rule(policy: &Policy, scene: &SceneFact, action: Action) -> Option<Rule> {
    let rules = &policy.settings().refuse_when;
    let refuses =
        |rule: &RefuseRule| rule.actions.contains(action) && applies(&rule.condition, scene);
    let index = rules.iter().position(refuses)?;
    Some(Rule::Refuse(u8::try_from(index).unwrap_or(u8::MAX)))
}

fn applies(condition: &Condition, scene: &SceneFact) -> bool {
    match *condition {
        Condition::Light(light) => scene.light == light,
        Condition::Vulnerable {
            zone,
            time_to_contact_below_s,
            distance_below_m,
        } => {
            let objects = scene
                .objects
                .get(..scene.object_count)
                .unwrap_or(&scene.objects);
            objects.iter().any(|object| {
                object.vulnerable
                    && in_zone(object, zone)
                    && near(object, time_to_contact_below_s, distance_below_m)
            })
        }
    }
}

fn in_zone(object: &ObjectFact, zone: Option<Zone>) -> bool {
    zone.is_none_or(|zone| object.zone == zone || object.zone == Zone::Unknown)
}

/// Whether either limit is undercut; without limits every object is near.
fn near(object: &ObjectFact, time_below_s: Option<f32>, distance_below_m: Option<f32>) -> bool {
    if time_below_s.is_none() && distance_below_m.is_none() {
        return true;
    }
    let within = |value: f32, limit: f32| value.is_nan() || value < limit;
    time_below_s.is_some_and(|limit| within(time_to_contact_s(object), limit))
        || distance_below_m.is_some_and(|limit| within(object.distance_m, limit))
}

/// The stated time to contact, else the one that distance and approach speed give; NaN = unknown.
fn time_to_contact_s(object: &ObjectFact) -> f32 {
    if !object.time_to_contact_s.is_nan() {
        object.time_to_contact_s
    } else if object.relative_speed_mps <= 0.0 {
        f32::INFINITY
    } else {
        object.distance_m / object.relative_speed_mps
    }
}
