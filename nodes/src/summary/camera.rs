//! From boxes in a picture to road users in front of the vehicle: distance by apparent height, and an id that stays.
//!
//! A single camera has no depth. The distance is that of an object of usual height at that apparent height under a pinhole camera:
//! `d = f · H / h`, with `f = w / (2 · tan(hfov / 2))` (any textbook of projective geometry). It is good to some 20 % for upright people
//! whose feet and head are in the picture, and says nothing about velocity.

use llmasos_engine::vision::Detection;
use llmasos_msgs::autoware_perception_msgs::ObjectClassification as Class;

use super::sighting::{Sighting, label_of};

/// Boxes of one picture that are tracked.
pub const BOXES_MAX: usize = 100;

/// Overlap from which two boxes of following pictures are the same object.
const SAME_IOU: f32 = 0.3;
/// How long an object that is not seen keeps its id, in ns.
const FORGOTTEN_AFTER_NS: i64 = 2_000_000_000;

/// The camera's geometry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CameraModel {
    /// Horizontal field of view, in degrees.
    pub hfov_deg: f32,
    /// Position of the camera forward of base_link, in m.
    pub forward_m: f32,
}

impl Default for CameraModel {
    fn default() -> Self {
        CameraModel {
            hfov_deg: 60.0,
            forward_m: 1.5,
        }
    }
}

/// Gives boxes ids that stay while they overlap from picture to picture.
#[derive(Default)]
pub struct Tracker {
    tracks: Vec<Track>,
}

struct Track {
    id: [u8; 16],
    label: u8,
    bbox: [f32; 4],
    seen_ns: i64,
}

impl Tracker {
    /// The road users among the detections of one picture of `width` pixels, in base_link, with stable ids. Other things are left out.
    /// `now_ns` is a clock that never goes back.
    pub fn sightings(
        &mut self,
        detections: &[Detection],
        width: u32,
        camera: &CameraModel,
        now_ns: i64,
    ) -> Vec<Sighting> {
        self.tracks
            .retain(|track| now_ns.saturating_sub(track.seen_ns) <= FORGOTTEN_AFTER_NS);
        let mut taken = vec![false; self.tracks.len()];
        let mut sightings = Vec::new();
        for detection in detections.iter().take(BOXES_MAX) {
            let label = label_of(detection.label);
            if label == Class::UNKNOWN {
                continue;
            }
            let id = self.follow(label, detection.bbox, now_ns, &mut taken);
            if let Some(sighting) = locate(detection, label, id, width, camera) {
                sightings.push(sighting);
            }
        }
        sightings
    }

    fn follow(
        &mut self,
        label: u8,
        bbox: [f32; 4],
        now_ns: i64,
        taken: &mut Vec<bool>,
    ) -> [u8; 16] {
        let best = self
            .tracks
            .iter()
            .enumerate()
            .filter(|(index, track)| !taken[*index] && track.label == label)
            .map(|(index, track)| (index, iou(track.bbox, bbox)))
            .filter(|(_, overlap)| *overlap >= SAME_IOU)
            .max_by(|a, b| a.1.total_cmp(&b.1));
        match best {
            Some((index, _)) => {
                taken[index] = true;
                let track = &mut self.tracks[index];
                (track.bbox, track.seen_ns) = (bbox, now_ns);
                track.id
            }
            None => {
                let id = uuid::Uuid::new_v4().into_bytes();
                self.tracks.push(Track {
                    id,
                    label,
                    bbox,
                    seen_ns: now_ns,
                });
                taken.push(true);
                id
            }
        }
    }
}

fn locate(
    detection: &Detection,
    label: u8,
    id: [u8; 16],
    width: u32,
    camera: &CameraModel,
) -> Option<Sighting> {
    let [x0, y0, x1, y1] = detection.bbox;
    let height = y1 - y0;
    if !(height > 1.0 && width > 0) {
        return None;
    }
    let focal = width as f32 / (2.0 * (camera.hfov_deg.to_radians() / 2.0).tan());
    let depth = focal * usual_height_m(label) / height;
    let sideways = ((x0 + x1) / 2.0 - width as f32 / 2.0) / focal * depth;
    let (x_m, y_m) = (depth + camera.forward_m, -sideways);
    (x_m.is_finite() && y_m.is_finite()).then_some(Sighting {
        id,
        label,
        probability: detection.score.clamp(0.0, 1.0),
        x_m,
        y_m,
        vx_mps: f32::NAN,
        vy_mps: f32::NAN,
    })
}

fn usual_height_m(label: u8) -> f32 {
    match label {
        Class::PEDESTRIAN => 1.7,
        Class::BICYCLE | Class::MOTORCYCLE => 1.5,
        Class::BUS => 3.1,
        Class::TRUCK | Class::TRAILER => 3.2,
        Class::ANIMAL => 0.7,
        _ => 1.5,
    }
}

/// Intersection over union of two boxes x0, y0, x1, y1.
fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let area = |r: [f32; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let shared = width * height;
    let all = area(a) + area(b) - shared;
    if all > 0.0 { shared / all } else { 0.0 }
}

/// Adds to `listed` what only the camera sees: a sighting whose class nobody in the list has within eight degrees of its bearing.
pub fn complete(listed: &mut Vec<Sighting>, camera: Vec<Sighting>) {
    let bearing = |sighting: &Sighting| sighting.y_m.atan2(sighting.x_m);
    let known: Vec<(u8, f32)> = listed
        .iter()
        .map(|sighting| (sighting.label, bearing(sighting)))
        .collect();
    listed.extend(camera.into_iter().filter(|seen| {
        !known
            .iter()
            .any(|(label, at)| *label == seen.label && (at - bearing(seen)).abs() < 0.14)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(x0: f32) -> Detection {
        Detection {
            label_id: 1,
            label: "person",
            score: 0.9,
            bbox: [x0, 100.0, x0 + 40.0, 200.0],
        }
    }

    #[test]
    fn a_person_of_usual_height_is_where_geometry_says() {
        let mut tracker = Tracker::default();
        let camera = CameraModel {
            hfov_deg: 90.0,
            forward_m: 0.0,
        };
        let seen = tracker.sightings(&[person(480.0)], 1000, &camera, 0);
        assert!(
            (seen[0].x_m - 8.5).abs() < 1e-3,
            "f = 500 px, 1.7 m at 100 px: {:?}",
            seen[0]
        );
        assert!(seen[0].y_m.abs() < 1e-3, "in the middle");
    }

    #[test]
    fn ids_stay_while_boxes_overlap_and_end_when_forgotten() {
        let mut tracker = Tracker::default();
        let (camera, start) = (CameraModel::default(), 7);
        let first = tracker.sightings(&[person(100.0)], 640, &camera, start)[0].id;
        let moved = tracker.sightings(&[person(110.0)], 640, &camera, start)[0].id;
        assert_eq!(first, moved);
        let two = tracker.sightings(&[person(115.0), person(400.0)], 640, &camera, start);
        assert_eq!(two[0].id, first);
        assert_ne!(two[1].id, first);
        let later = tracker.sightings(&[person(115.0)], 640, &camera, start + 5_000_000_000)[0].id;
        assert_ne!(later, first, "nobody vouches for it after five seconds");
    }

    #[test]
    fn things_that_are_no_road_users_are_left_out() {
        let kite = Detection {
            label_id: 38,
            label: "kite",
            ..person(0.0)
        };
        assert!(
            Tracker::default()
                .sightings(&[kite], 640, &CameraModel::default(), 0)
                .is_empty()
        );
    }

    #[test]
    fn the_camera_completes_a_list_without_doubling_it() {
        let person = |x_m, y_m| Sighting {
            id: [0; 16],
            label: Class::PEDESTRIAN,
            probability: 1.0,
            x_m,
            y_m,
            vx_mps: 0.0,
            vy_mps: 0.0,
        };
        let mut listed = vec![person(20.0, 0.0)];
        complete(&mut listed, vec![person(16.0, 0.3), person(8.0, 5.0)]);
        assert_eq!(
            listed.len(),
            2,
            "the first one is the listed one, seen with a wrong distance"
        );
    }
}
