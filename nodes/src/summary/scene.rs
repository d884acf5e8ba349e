//! The scene: what matters around the vehicle now, ranked, with distances, closing speeds and times to contact.
//!
//! Pure: sightings, ego and lights in, a [`Scene`] out. It is the object list of the summary message and the only thing a sentence may
//! talk about.

use llmasos_msgs::{
    autoware_perception_msgs::{TrafficLightElement, TrafficLightGroupArray},
    llmasos_msgs::{PerceptionSummary, SceneObject},
    unique_identifier_msgs::UUID,
};

use super::sighting::{Ego, Sighting, is_vulnerable};

/// Objects in a summary message.
pub const SCENE_OBJECTS_MAX: usize = 32;

/// Half the width of the path ahead, in m: half a lane.
const PATH_HALF_WIDTH_M: f32 = 1.9;
/// Sideways speed from which somebody beside the path counts as crossing, in m/s: a slow walk.
const CROSSING_SPEED_MPS: f32 = 0.4;
/// How far beside the path somebody can be and still count as crossing, in m.
const CROSSING_REACH_M: f32 = 8.0;
/// Closing speed below which nothing is approaching, in m/s.
const CLOSING_MIN_MPS: f32 = 0.1;
/// Existence probability below which an object is left out.
const PROBABILITY_MIN: f32 = 0.3;

/// How much of the world is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most objects of a scene, 1 to [`SCENE_OBJECTS_MAX`].
    pub objects: usize,
    /// Objects farther away are left out, in m.
    pub range_m: f32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            objects: SCENE_OBJECTS_MAX,
            range_m: 200.0,
        }
    }
}

/// What matters around the vehicle.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// At most [`SCENE_OBJECTS_MAX`], vulnerable ones first, then by time to contact, then by distance.
    pub objects: Vec<SceneObject>,
    /// Objects before cutting.
    pub total: usize,
    /// `PerceptionSummary` traffic light: 0 unknown, RED, AMBER, GREEN.
    pub traffic_light: u8,
    /// `PerceptionSummary` sensor state: OK, DEGRADED, BLIND.
    pub sensor_state: u8,
}

/// Ranks sightings in base_link; `speed_mps` is the vehicle's own (NaN when unknown).
pub fn scene(
    sightings: &[Sighting],
    ego: Option<&Ego>,
    traffic_light: u8,
    sensor_state: u8,
    limits: &Limits,
) -> Scene {
    let mut objects: Vec<SceneObject> = sightings
        .iter()
        .filter(|sighting| sighting.probability >= PROBABILITY_MIN)
        .filter(|sighting| sighting.x_m.hypot(sighting.y_m) <= limits.range_m)
        .map(|sighting| object(sighting, ego))
        .collect();
    let total = objects.len();
    let rank = |object: &SceneObject| {
        (
            !object.vulnerable,
            or_last(object.time_to_contact),
            or_last(object.distance),
        )
    };
    objects.sort_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        a.0.cmp(&b.0)
            .then(a.1.total_cmp(&b.1))
            .then(a.2.total_cmp(&b.2))
    });
    objects.truncate(limits.objects.min(SCENE_OBJECTS_MAX));
    Scene {
        objects,
        total,
        traffic_light,
        sensor_state,
    }
}

/// The strictest colour any light group shows with some confidence: red before amber before green.
pub fn strictest_light(lights: &TrafficLightGroupArray) -> u8 {
    let shows = |colour: u8| {
        lights
            .traffic_light_groups
            .iter()
            .flat_map(|group| &group.elements)
            .any(|element| {
                element.color == colour
                    && element.confidence >= 0.5
                    && element.status != TrafficLightElement::SOLID_OFF
            })
    };
    if shows(TrafficLightElement::RED) {
        PerceptionSummary::RED
    } else if shows(TrafficLightElement::AMBER) {
        PerceptionSummary::AMBER
    } else if shows(TrafficLightElement::GREEN) {
        PerceptionSummary::GREEN
    } else {
        0
    }
}

fn object(sighting: &Sighting, ego: Option<&Ego>) -> SceneObject {
    let distance = sighting.x_m.hypot(sighting.y_m);
    let relative_speed = closing_speed(sighting, ego, distance);
    let time_to_contact = if relative_speed > CLOSING_MIN_MPS {
        distance / relative_speed
    } else {
        f32::NAN
    };
    SceneObject {
        object_id: UUID { uuid: sighting.id },
        label: sighting.label,
        zone: zone(sighting),
        vulnerable: is_vulnerable(sighting.label),
        existence_probability: sighting.probability,
        distance,
        relative_speed,
        time_to_contact,
    }
}

/// Rate at which the distance shrinks, in m/s: minus the relative velocity along the line of sight. NaN when a velocity is unknown.
fn closing_speed(sighting: &Sighting, ego: Option<&Ego>, distance: f32) -> f32 {
    let Some(ego) = ego else { return f32::NAN };
    if distance < 0.01 {
        return f32::NAN;
    }
    let (vx, vy) = (sighting.vx_mps - ego.speed_mps, sighting.vy_mps);
    -(vx * sighting.x_m + vy * sighting.y_m) / distance
}

fn zone(sighting: &Sighting) -> u8 {
    let Sighting {
        x_m, y_m, vy_mps, ..
    } = *sighting;
    let beside = y_m.abs();
    if x_m > 0.0 && beside <= CROSSING_REACH_M && vy_mps.abs() >= CROSSING_SPEED_MPS {
        // Coming towards the path, or on it and walking through.
        if beside <= PATH_HALF_WIDTH_M || vy_mps.signum() != y_m.signum() {
            return SceneObject::CROSSING;
        }
    }
    if x_m < -1.0 && beside <= x_m.abs() {
        SceneObject::BEHIND
    } else if beside <= PATH_HALF_WIDTH_M.max(0.08 * x_m) && x_m > 0.0 {
        SceneObject::AHEAD
    } else if y_m > 0.0 {
        SceneObject::LEFT
    } else {
        SceneObject::RIGHT
    }
}

fn or_last(value: f32) -> f32 {
    if value.is_nan() { f32::INFINITY } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::autoware_perception_msgs::ObjectClassification as Class;

    fn seen(label: u8, x_m: f32, y_m: f32, vx_mps: f32, vy_mps: f32) -> Sighting {
        Sighting {
            id: [label; 16],
            label,
            probability: 0.9,
            x_m,
            y_m,
            vx_mps,
            vy_mps,
        }
    }

    const EGO: Ego = Ego {
        x_m: 0.0,
        y_m: 0.0,
        yaw_rad: 0.0,
        speed_mps: 10.0,
    };

    #[test]
    fn zones_are_what_a_driver_would_say() {
        for (x, y, vy, zone, why) in [
            (20.0, 0.0, 0.0, SceneObject::AHEAD, "in the lane"),
            (
                60.0,
                4.0,
                0.0,
                SceneObject::AHEAD,
                "far ahead, a little aside",
            ),
            (
                20.0,
                5.0,
                -1.2,
                SceneObject::CROSSING,
                "walks towards the lane from the left",
            ),
            (20.0, 5.0, 1.2, SceneObject::LEFT, "walks away from it"),
            (20.0, 0.5, 1.2, SceneObject::CROSSING, "is on it, walking"),
            (5.0, -6.0, 0.0, SceneObject::RIGHT, "on the right"),
            (-10.0, 1.0, 0.0, SceneObject::BEHIND, "behind"),
        ] {
            assert_eq!(
                super::zone(&seen(Class::PEDESTRIAN, x, y, 0.0, vy)),
                zone,
                "{why}"
            );
        }
    }

    #[test]
    fn vulnerable_first_then_the_soonest() {
        let sightings = [
            seen(Class::CAR, 20.0, 0.0, 0.0, 0.0),
            seen(Class::PEDESTRIAN, 40.0, 0.0, 0.0, 0.0),
            seen(Class::BUS, 10.0, 0.0, 10.0, 0.0),
        ];
        let scene = scene(
            &sightings,
            Some(&EGO),
            0,
            PerceptionSummary::OK,
            &Limits::default(),
        );
        let labels: Vec<u8> = scene.objects.iter().map(|object| object.label).collect();
        assert_eq!(
            labels,
            [Class::PEDESTRIAN, Class::CAR, Class::BUS],
            "the bus drives as fast as we do"
        );
        assert!(
            (scene.objects[0].time_to_contact - 4.0).abs() < 1e-3,
            "40 m at 10 m/s"
        );
        assert!(scene.objects[2].time_to_contact.is_nan(), "no contact");
    }

    #[test]
    fn unknown_velocities_stay_unknown() {
        let scene = scene(
            &[seen(Class::CAR, 20.0, 0.0, f32::NAN, f32::NAN)],
            None,
            0,
            PerceptionSummary::OK,
            &Limits::default(),
        );
        assert!(
            scene.objects[0].relative_speed.is_nan() && scene.objects[0].time_to_contact.is_nan()
        );
        assert_eq!(
            scene.objects[0].zone,
            SceneObject::AHEAD,
            "where it is, is known"
        );
    }
}
