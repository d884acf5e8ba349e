//! A single-shot detector (SSD, Liu et al. 2016) from a frozen TensorFlow graph to ONNX.
//!
//! The published graph takes a picture to a list of detections and has some 8,000 nodes, most of them preprocessing loops and
//! non-maximum suppression. The network itself lies between `Preprocessor/sub` and the two concatenations `Squeeze` (boxes
//! relative to anchors) and `concat_1` (class logits); only that is taken. Anchors are computed here, boxes are decoded in the
//! graph, and suppression is left to the engine, where thresholds are a caller's choice.
//!
//! ```text
//!   image f32[1,300,300,3] RGB 0..255
//!     │ ·2/255 − 1, to [1,3,300,300]
//!   MobileNetV2: Conv (batch norm folded in) · Clip 0..6 · grouped Conv · Add
//!     ├ 19×19 ─┬ Conv → [1, 19·19·3, 4]  ─┐ concat ── decode with anchors ──► boxes  f32[1,N,4]  (ymin, xmin, ymax, xmax)
//!     ├ 10×10 ─┤ ...                      ─┤
//!     ⋮        └ Conv → [1, 19·19·3, 91] ─┴ concat ── Sigmoid ────────────► scores f32[1,N,91] (column 0: background)
//!     └ 1×1
//! ```

mod anchors;
mod convert;
mod convolution;
#[cfg(test)]
mod tests;

pub use anchors::{Anchor, anchors};

use crate::error::ForgeError;
use crate::graph::{Dim, Graph, GraphBuilder, Node};
use crate::proto::onnx::DataType;
use crate::tensorflow::GraphDef;
use convert::{Converter, Rows};

/// Width and height of the input.
pub const INPUT_PX: usize = 300;

/// First node that is not taken: the scaled picture.
const CUT: &str = "Preprocessor/sub";
/// Box codes: [1, N, 4].
const BOXES: &str = "Squeeze";
/// Class logits: [1, N, classes].
const SCORES: &str = "concat_1";

/// Variances of the box coder ("scale factors" 10 and 5 of the published configuration).
const CENTER_VARIANCE: f32 = 0.1;
const SIZE_VARIANCE: f32 = 0.2;

/// A graph that is not a detector of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SsdError {
    /// An operation, or a use of it, that is not converted.
    #[error("node {node} ({op}): {what}")]
    Unsupported {
        /// The node.
        node: String,
        /// Its operation.
        op: String,
        /// What about it.
        what: String,
    },
    /// Nodes that wait for each other.
    #[error("node {node} depends on itself")]
    Cycle {
        /// One of them.
        node: String,
    },
    /// An output of another shape.
    #[error("output {node}: expected shape {expected}, found {found:?}")]
    Output {
        /// The node.
        node: &'static str,
        /// The shape, in words.
        expected: String,
        /// Its shape.
        found: Vec<usize>,
    },
}

/// A converted detector.
pub struct Detector<'a> {
    /// The graph.
    pub graph: Graph<'a>,
    /// Number of boxes.
    pub boxes: usize,
    /// Columns of the scores, with background.
    pub classes: usize,
}

/// Converts a frozen graph; its constants are read when the graph is written.
///
/// # Errors
/// [`ForgeError::GraphDef`] or [`ForgeError::Ssd`] if a node is missing or cannot be converted, or if the outputs do not fit the
/// anchors.
pub fn detector(source: &GraphDef) -> Result<Detector<'_>, ForgeError> {
    let mut graph = GraphBuilder::new("ssd");
    let px = INPUT_PX as i64;
    graph.input(
        "image",
        DataType::Float,
        &[Dim::Fixed(1), Dim::Fixed(px), Dim::Fixed(px), Dim::Fixed(3)],
    );
    graph.floats("image.scale", &[], &[2.0 / 255.0]);
    graph.floats("image.shift", &[], &[1.0]);
    graph.node(Node::new(
        "Mul",
        &["image", "image.scale"],
        &["image.scaled"],
    ));
    graph.node(Node::new(
        "Sub",
        &["image.scaled", "image.shift"],
        &["image.centered"],
    ));
    graph.node(
        Node::new("Transpose", &["image.centered"], &["image.planes"]).ints("perm", &[0, 3, 1, 2]),
    );

    let mut converter = Converter::new(source, graph, CUT, "image.planes", [3, INPUT_PX, INPUT_PX]);
    converter.convert(&[BOXES, SCORES])?;
    let (boxes, scores) = (converter.rows(BOXES)?, converter.rows(SCORES)?);
    let mut graph = converter.finish();

    let anchors = anchors(&boxes.maps);
    let (count, classes) = check_outputs(&boxes, &scores, anchors.len())?;
    decode_boxes(&mut graph, &boxes.value, &anchors);
    graph.node(Node::new("Sigmoid", &[&scores.value], &["scores"]));
    graph.output(
        "boxes",
        DataType::Float,
        &[Dim::Fixed(1), Dim::Fixed(count as i64), Dim::Fixed(4)],
    );
    graph.output(
        "scores",
        DataType::Float,
        &[
            Dim::Fixed(1),
            Dim::Fixed(count as i64),
            Dim::Fixed(classes as i64),
        ],
    );
    Ok(Detector {
        graph: graph.finish()?,
        boxes: count,
        classes,
    })
}

/// Both outputs have a row per anchor.
fn check_outputs(boxes: &Rows, scores: &Rows, anchors: usize) -> Result<(usize, usize), SsdError> {
    if boxes.dims != [1, anchors, 4] {
        return Err(SsdError::Output {
            node: BOXES,
            expected: format!("[1, {anchors}, 4]"),
            found: boxes.dims.clone(),
        });
    }
    match scores.dims[..] {
        [1, rows, classes] if rows == anchors && classes > 1 => Ok((anchors, classes)),
        _ => Err(SsdError::Output {
            node: SCORES,
            expected: format!("[1, {anchors}, classes]"),
            found: scores.dims.clone(),
        }),
    }
}

/// Codes (ty, tx, th, tw) to corners: middle = t·0.1·size + anchor's middle, size = exp(t·0.2)·anchor's size (Liu et al. 2016,
/// equation 2, with the variances of the published configuration).
fn decode_boxes(graph: &mut GraphBuilder<'_>, codes: &str, anchors: &[Anchor]) {
    let centers: Vec<f32> = anchors
        .iter()
        .flat_map(|anchor| [anchor.center_y, anchor.center_x])
        .collect();
    let sizes: Vec<f32> = anchors
        .iter()
        .flat_map(|anchor| [anchor.height, anchor.width])
        .collect();
    let moves: Vec<f32> = sizes.iter().map(|size| size * CENTER_VARIANCE).collect();
    let dims = [1, anchors.len() as i64, 2];
    graph.floats("anchor.centers", &dims, &centers);
    graph.floats("anchor.sizes", &dims, &sizes);
    graph.floats("anchor.moves", &dims, &moves);
    graph.floats("box.size_variance", &[], &[SIZE_VARIANCE]);
    graph.floats("box.half", &[], &[0.5]);
    graph.integers("box.split", &[2], &[2, 2]);
    graph.node(
        Node::new(
            "Split",
            &[codes, "box.split"],
            &["box.center_codes", "box.size_codes"],
        )
        .int("axis", 2),
    );
    graph.node(Node::new(
        "Mul",
        &["box.center_codes", "anchor.moves"],
        &["box.moved"],
    ));
    graph.node(Node::new(
        "Add",
        &["box.moved", "anchor.centers"],
        &["box.centers"],
    ));
    graph.node(Node::new(
        "Mul",
        &["box.size_codes", "box.size_variance"],
        &["box.logarithms"],
    ));
    graph.node(Node::new("Exp", &["box.logarithms"], &["box.factors"]));
    graph.node(Node::new(
        "Mul",
        &["box.factors", "anchor.sizes"],
        &["box.sizes"],
    ));
    graph.node(Node::new(
        "Mul",
        &["box.sizes", "box.half"],
        &["box.halves"],
    ));
    graph.node(Node::new(
        "Sub",
        &["box.centers", "box.halves"],
        &["box.lows"],
    ));
    graph.node(Node::new(
        "Add",
        &["box.centers", "box.halves"],
        &["box.highs"],
    ));
    graph.node(Node::new("Concat", &["box.lows", "box.highs"], &["boxes"]).int("axis", 2));
}
