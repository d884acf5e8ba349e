//! What was quantized, how well, and what was not.

use serde::{Deserialize, Serialize};

/// An 8-bit value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValueReport {
    /// Its name in the float graph.
    pub value: String,
    /// Least and greatest number seen, with zero between them.
    pub seen: [f32; 2],
    /// What the codes reach.
    pub range: [f32; 2],
    /// Signal to noise of the codes alone, dB; none if nothing was ever seen but zeros.
    pub signal_to_noise_db: Option<f64>,
}

/// A node that computes on codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name, or that of its first output.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Signal to noise of its weights' codes, dB; none without weights, or if they lose nothing.
    pub signal_to_noise_db: Option<f64>,
    /// Relative error of the worst output when this node alone is quantized; only where it was measured.
    pub error_alone: Option<f32>,
}

/// A node that was left in float.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftReport {
    /// Its name, or that of its first output.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why.
    pub reason: String,
    /// Relative error of the worst output when this node alone is quantized; only where it was measured.
    pub error_alone: Option<f32>,
}

/// What became of a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StaticReport {
    /// Samples that ranges were taken from.
    pub samples: usize,
    /// Nodes that compute on codes, in the order of the graph.
    pub nodes: Vec<NodeReport>,
    /// Values that are stored in codes, by name.
    pub values: Vec<ValueReport>,
    /// Nodes left in float that could have been quantized, and those whose operator is not known.
    pub left: Vec<LeftReport>,
    /// Relative error of the worst output over the samples that errors were measured with.
    pub error: f32,
    /// The largest error that was allowed, if one was given.
    pub max_error: Option<f32>,
    /// Whether it was met; true if none was given.
    pub is_met: bool,
    /// Bytes of the constants before.
    pub bytes_before: u64,
    /// Bytes of the constants after.
    pub bytes_after: u64,
}
