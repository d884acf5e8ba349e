//! Sightings: one road user as one source saw it, in the vehicle's own frame, whatever message it came in.
//!
//! Lists of Autoware and vision_msgs and boxes of a camera all become the same small struct: position and velocity relative to
//! base_link (REP-103: x forward, y left), metres and seconds, NaN where a source does not know.

use llmasos_msgs::{
    autoware_perception_msgs::{
        DetectedObjects, ObjectClassification, PredictedObjects, TrackedObjects,
    },
    geometry_msgs::{Pose, Twist},
    nav_msgs::Odometry,
    vision_msgs::Detection3DArray,
};

use crate::port::FromBus;

/// Objects of one message that are looked at; a longer list is cut, and the total says so.
pub const OBJECTS_MAX: usize = 512;

/// Frames that are the vehicle's own; anything else is taken for a fixed frame and moved by the ego pose.
const OWN_FRAMES: [&str; 3] = ["base_link", "base_footprint", ""];

/// One road user as one source saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// The source's id, or one given by the camera tracker.
    pub id: [u8; 16],
    /// `autoware_perception_msgs/ObjectClassification` label.
    pub label: u8,
    /// In [0, 1].
    pub probability: f32,
    /// Forward of base_link, in m.
    pub x_m: f32,
    /// Left of base_link, in m.
    pub y_m: f32,
    /// Velocity over ground in base_link axes, in m/s; NaN when unknown.
    pub vx_mps: f32,
    /// See `vx_mps`.
    pub vy_mps: f32,
}

/// Where the vehicle is and how fast it moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ego {
    /// Position in the fixed frame, in m.
    pub x_m: f64,
    /// See `x_m`.
    pub y_m: f64,
    /// Heading in the fixed frame, in rad.
    pub yaw_rad: f64,
    /// Forward speed, in m/s.
    pub speed_mps: f32,
}

impl Ego {
    /// From odometry.
    pub fn of(odometry: &Odometry) -> Ego {
        let pose = &odometry.pose.pose;
        Ego {
            x_m: pose.position.x,
            y_m: pose.position.y,
            yaw_rad: yaw(pose),
            speed_mps: odometry.twist.twist.linear.x as f32,
        }
    }
}

/// A list of objects of any type a vehicle publishes.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// Stamp in ns since the epoch.
    pub stamp_ns: i64,
    /// Frame of the positions.
    pub frame: String,
    /// The objects, in the message's frame (x_m, y_m, velocities) until [`ObjectList::in_own_frame`].
    pub objects: Vec<Sighting>,
    /// How many the message had.
    pub total: usize,
}

impl FromBus for ObjectList {
    fn from_cdr(type_name: &str, cdr: &[u8]) -> Result<Self, String> {
        read(type_name, |kind| match kind {
            Kind::Predicted => PredictedObjects::decode_any(cdr).map(predicted),
            Kind::Tracked => TrackedObjects::decode_any(cdr).map(tracked),
            Kind::Detected => DetectedObjects::decode_any(cdr).map(detected),
            Kind::Vision => Detection3DArray::decode_any(cdr).map(vision),
        })
    }

    fn from_json(type_name: &str, value: &serde_json::Value) -> Result<Self, String> {
        read(type_name, |kind| match kind {
            Kind::Predicted => PredictedObjects::json_any(value).map(predicted),
            Kind::Tracked => TrackedObjects::json_any(value).map(tracked),
            Kind::Detected => DetectedObjects::json_any(value).map(detected),
            Kind::Vision => Detection3DArray::json_any(value).map(vision),
        })
    }

    fn stamp_ns(&self) -> Option<i64> {
        Some(self.stamp_ns)
    }
}

/// The types an object list may come in.
#[derive(Clone, Copy)]
enum Kind {
    Predicted,
    Tracked,
    Detected,
    Vision,
}

fn read(
    type_name: &str,
    decode: impl Fn(Kind) -> Result<ObjectList, String>,
) -> Result<ObjectList, String> {
    use llmasos_msgs::Message;
    let kind = match type_name {
        PredictedObjects::TYPE => Kind::Predicted,
        TrackedObjects::TYPE => Kind::Tracked,
        DetectedObjects::TYPE => Kind::Detected,
        Detection3DArray::TYPE => Kind::Vision,
        other => return Err(format!("expected an object list, found {other}")),
    };
    let list = decode(kind)?;
    // NaN or infinite positions would sort and compare as nonsense everywhere after this point.
    match list
        .objects
        .iter()
        .position(|object| !(object.x_m.is_finite() && object.y_m.is_finite()))
    {
        Some(index) => Err(format!(
            "objects[{index}]: expected a finite position, found {} {}",
            list.objects[index].x_m, list.objects[index].y_m
        )),
        None => Ok(list),
    }
}

/// Decoding with the error as a sentence.
trait Any: llmasos_msgs::Message {
    fn decode_any(cdr: &[u8]) -> Result<Self, String> {
        Self::decode(cdr).map_err(|error| error.to_string())
    }
    fn json_any(value: &serde_json::Value) -> Result<Self, String> {
        Self::from_json(value).map_err(|error| error.to_string())
    }
}
impl<M: llmasos_msgs::Message> Any for M {}

fn predicted(message: PredictedObjects) -> ObjectList {
    let total = message.objects.len();
    let objects = message.objects.iter().take(OBJECTS_MAX).map(|object| {
        let kinematics = &object.kinematics;
        sighting(
            object.object_id.uuid,
            &object.classification,
            object.existence_probability,
            &kinematics.initial_pose_with_covariance.pose,
            Some(&kinematics.initial_twist_with_covariance.twist),
        )
    });
    ObjectList {
        stamp_ns: message.header.stamp.to_nanos(),
        frame: message.header.frame_id.clone(),
        objects: objects.collect(),
        total,
    }
}

fn tracked(message: TrackedObjects) -> ObjectList {
    let total = message.objects.len();
    let objects = message.objects.iter().take(OBJECTS_MAX).map(|object| {
        let kinematics = &object.kinematics;
        sighting(
            object.object_id.uuid,
            &object.classification,
            object.existence_probability,
            &kinematics.pose_with_covariance.pose,
            Some(&kinematics.twist_with_covariance.twist),
        )
    });
    ObjectList {
        stamp_ns: message.header.stamp.to_nanos(),
        frame: message.header.frame_id.clone(),
        objects: objects.collect(),
        total,
    }
}

fn detected(message: DetectedObjects) -> ObjectList {
    let total = message.objects.len();
    let objects = message
        .objects
        .iter()
        .take(OBJECTS_MAX)
        .enumerate()
        .map(|(index, object)| {
            let kinematics = &object.kinematics;
            sighting(
                numbered(index),
                &object.classification,
                object.existence_probability,
                &kinematics.pose_with_covariance.pose,
                kinematics
                    .has_twist
                    .then_some(&kinematics.twist_with_covariance.twist),
            )
        });
    ObjectList {
        stamp_ns: message.header.stamp.to_nanos(),
        frame: message.header.frame_id.clone(),
        objects: objects.collect(),
        total,
    }
}

fn vision(message: Detection3DArray) -> ObjectList {
    let total = message.detections.len();
    let objects =
        message
            .detections
            .iter()
            .take(OBJECTS_MAX)
            .enumerate()
            .map(|(index, detection)| {
                let best = detection
                    .results
                    .iter()
                    .max_by(|a, b| a.hypothesis.score.total_cmp(&b.hypothesis.score));
                let (label, score) = best.map_or((ObjectClassification::UNKNOWN, 0.0), |best| {
                    (
                        label_of(&best.hypothesis.class_id),
                        best.hypothesis.score as f32,
                    )
                });
                Sighting {
                    id: id_of(&detection.id).unwrap_or_else(|| numbered(index)),
                    label,
                    probability: unit(score),
                    x_m: detection.bbox.center.position.x as f32,
                    y_m: detection.bbox.center.position.y as f32,
                    vx_mps: f32::NAN,
                    vy_mps: f32::NAN,
                }
            });
    ObjectList {
        stamp_ns: message.header.stamp.to_nanos(),
        frame: message.header.frame_id.clone(),
        objects: objects.collect(),
        total,
    }
}

fn sighting(
    id: [u8; 16],
    classes: &[ObjectClassification],
    existence: f32,
    pose: &Pose,
    twist: Option<&Twist>,
) -> Sighting {
    let best = classes
        .iter()
        .max_by(|a, b| a.probability.total_cmp(&b.probability));
    // A twist is given in the object's own axes; turned by its heading it becomes a velocity in the message's frame.
    let heading = yaw(pose);
    let (vx, vy) = twist.map_or((f64::NAN, f64::NAN), |twist| {
        let (sin, cos) = heading.sin_cos();
        (
            cos * twist.linear.x - sin * twist.linear.y,
            sin * twist.linear.x + cos * twist.linear.y,
        )
    });
    Sighting {
        id,
        label: best.map_or(ObjectClassification::UNKNOWN, |class| class.label),
        probability: unit(existence),
        x_m: pose.position.x as f32,
        y_m: pose.position.y as f32,
        vx_mps: vx as f32,
        vy_mps: vy as f32,
    }
}

impl ObjectList {
    /// The objects in base_link. A list in a fixed frame needs the ego pose; without one it is of no use, and `None` says so.
    pub fn in_own_frame(&self, ego: Option<&Ego>) -> Option<Vec<Sighting>> {
        if OWN_FRAMES.contains(&self.frame.trim_start_matches('/')) {
            return Some(self.objects.clone());
        }
        let ego = ego?;
        let (sin, cos) = ego.yaw_rad.sin_cos();
        let turn = |x: f64, y: f64| ((cos * x + sin * y) as f32, (-sin * x + cos * y) as f32);
        let moved = self.objects.iter().map(|object| {
            let (x_m, y_m) = turn(
                f64::from(object.x_m) - ego.x_m,
                f64::from(object.y_m) - ego.y_m,
            );
            let (vx_mps, vy_mps) = turn(f64::from(object.vx_mps), f64::from(object.vy_mps));
            Sighting {
                x_m,
                y_m,
                vx_mps,
                vy_mps,
                ..object.clone()
            }
        });
        Some(moved.collect())
    }
}

/// Heading of a pose, in rad: the rotation about z of its quaternion.
fn yaw(pose: &Pose) -> f64 {
    let q = &pose.orientation;
    let yaw = (2.0 * (q.w * q.z + q.x * q.y)).atan2(1.0 - 2.0 * (q.y * q.y + q.z * q.z));
    if yaw.is_finite() { yaw } else { 0.0 }
}

fn unit(value: f32) -> f32 {
    if value.is_finite() {
        value.clamp(0.0, 1.0)
    } else {
        0.0
    }
}

fn numbered(index: usize) -> [u8; 16] {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(index as u64 + 1).to_be_bytes());
    id
}

fn id_of(text: &str) -> Option<[u8; 16]> {
    uuid::Uuid::parse_str(text).ok().map(uuid::Uuid::into_bytes)
}

/// Label of a class name, as COCO and common detectors write it.
pub fn label_of(name: &str) -> u8 {
    match name.trim().to_lowercase().as_str() {
        "person" | "pedestrian" => ObjectClassification::PEDESTRIAN,
        "bicycle" | "cyclist" => ObjectClassification::BICYCLE,
        "motorcycle" | "motorbike" => ObjectClassification::MOTORCYCLE,
        "car" | "van" => ObjectClassification::CAR,
        "bus" => ObjectClassification::BUS,
        "truck" => ObjectClassification::TRUCK,
        "trailer" => ObjectClassification::TRAILER,
        "bird" | "cat" | "dog" | "horse" | "sheep" | "cow" | "animal" | "elephant" | "bear"
        | "zebra" | "giraffe" => ObjectClassification::ANIMAL,
        _ => ObjectClassification::UNKNOWN,
    }
}

/// Whether a collision hurts the other one most: pedestrians, cyclists, animals.
pub fn is_vulnerable(label: u8) -> bool {
    matches!(
        label,
        ObjectClassification::PEDESTRIAN
            | ObjectClassification::BICYCLE
            | ObjectClassification::ANIMAL
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_the_map_frame_needs_the_ego_pose() {
        let list = ObjectList {
            stamp_ns: 1,
            frame: "map".into(),
            objects: vec![Sighting {
                id: [0; 16],
                label: 7,
                probability: 1.0,
                x_m: 10.0,
                y_m: 20.0,
                vx_mps: 0.0,
                vy_mps: -1.0,
            }],
            total: 1,
        };
        assert!(
            list.in_own_frame(None).is_none(),
            "nobody knows where it is"
        );
        let ego = Ego {
            x_m: 10.0,
            y_m: 10.0,
            yaw_rad: std::f64::consts::FRAC_PI_2,
            speed_mps: 0.0,
        };
        let moved = &list.in_own_frame(Some(&ego)).unwrap()[0];
        assert!(
            (moved.x_m - 10.0).abs() < 1e-4 && moved.y_m.abs() < 1e-4,
            "ten metres ahead of a car that looks north: {moved:?}"
        );
        assert!(
            (moved.vx_mps + 1.0).abs() < 1e-4,
            "it comes closer: {moved:?}"
        );
    }
}
