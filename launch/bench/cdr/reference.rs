//! The measured messages as plain serde structs, which is how one would use the crate `cdr` without us.
//!
//! CDR frames neither structs nor arrays, so a vector of three numbers may stand as `[f64; 3]` and a covariance as six rows of six.
//! Lists of bytes are generic: a `Vec<u8>` goes element by element, serde_bytes' `ByteBuf` at once.

use serde::{Deserialize, Serialize};

/// `builtin_interfaces/Time` or `Duration`.
type Time = (i32, u32);
/// `geometry_msgs/Vector3` or `Point`.
type Vector = [f64; 3];
/// 36 numbers.
type Covariance = [[f64; 6]; 6];

#[derive(Serialize, Deserialize)]
struct Header {
    stamp: Time,
    frame_id: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Image<B> {
    header: Header,
    height: u32,
    width: u32,
    encoding: String,
    is_bigendian: u8,
    step: u32,
    data: B,
}

#[derive(Serialize, Deserialize)]
pub(super) struct AudioStamped {
    header: Header,
    float32_data: Vec<f32>,
    int32_data: Vec<i32>,
    int16_data: Vec<i16>,
    int8_data: Vec<i8>,
    uint8_data: Vec<u8>,
    info: [i32; 4],
}

#[derive(Serialize, Deserialize)]
pub(super) struct PredictedObjects {
    header: Header,
    objects: Vec<PredictedObject>,
}

#[derive(Serialize, Deserialize)]
struct PredictedObject {
    object_id: [u8; 16],
    existence_probability: f32,
    classification: Vec<(u8, f32)>,
    pose: (Pose, Covariance),
    twist: ([Vector; 2], Covariance),
    acceleration: ([Vector; 2], Covariance),
    predicted_paths: Vec<PredictedPath>,
    shape: (u8, Vec<[f32; 3]>, Vector),
}

#[derive(Serialize, Deserialize)]
struct Pose {
    position: Vector,
    orientation: [f64; 4],
}

#[derive(Serialize, Deserialize)]
struct PredictedPath {
    path: Vec<Pose>,
    time_step: Time,
    confidence: f32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct GateVerdict {
    header: Header,
    sequence: u64,
    advice_id: [u8; 16],
    command_id: [u8; 16],
    valid_until: Time,
    verdict: u8,
    action: u8,
    max_speed: f32,
    rule_id: u16,
    rule: String,
    advice_age: Time,
    state_age: Time,
    policy_sha256: [u8; 32],
}
