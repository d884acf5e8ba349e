//! Hidden states of a student compared with those of its teacher (Romero et al. 2015, "FitNets"; Jiao et al. 2020, "TinyBERT").
//!
//! Where the widths differ, a matrix that is trained along and thrown away afterwards takes the student's states to the
//! teacher's width.

use serde::{Deserialize, Serialize};

use super::{Slot, Values};

/// How two states are compared, per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// Mean of the squared differences.
    Mse,
    /// 1 − the cosine of the angle between them.
    Cosine,
}

/// Everything about a comparison that its graph depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::distil) struct MatchKind {
    pub(in crate::distil) student: usize,
    pub(in crate::distil) teacher: usize,
    pub(in crate::distil) distance: Distance,
}

impl MatchKind {
    /// The projection, if the widths differ.
    pub(in crate::distil) fn slots(&self) -> Vec<Slot> {
        let differs = self.student != self.teacher;
        let slot = || Slot::matrix("projection", Some(self.teacher), Some(self.student));
        differs.then(slot).into_iter().collect()
    }

    /// Writes the comparison of `x` [rows, student] with `teacher` [rows, teacher]: value `distance`, a sum over the rows times
    /// `share` [rows, 1], which is 0 for rows that do not count.
    pub(in crate::distil) fn write(&self, v: &mut Values<'_>, rows: usize) {
        v.input("x", &[rows, self.student]);
        v.input("teacher", &[rows, self.teacher]);
        v.input("share", &[rows, 1]);
        let mut own = "x".to_string();
        for slot in self.slots() {
            v.parameter(&slot);
            own = v.linear(&own, slot.role, None, "projected");
        }
        let per_row = match self.distance {
            Distance::Mse => {
                let gap = v.op("Sub", &[&own, "teacher"]);
                let square = v.op("Mul", &[&gap, &gap]);
                let sum = along(v, &square);
                v.scaled(&sum, 1.0 / self.teacher as f32)
            }
            Distance::Cosine => {
                let lengths = [&own, "teacher"].map(|value| {
                    let square = v.op("Mul", &[value, value]);
                    let sum = along(v, &square);
                    // A state of zeros has no direction; this makes its cosine 0.
                    let tiny = v.scalar(1e-12);
                    let sum = v.op("Add", &[&sum, &tiny]);
                    v.op("Sqrt", &[&sum])
                });
                let product = v.op("Mul", &[&own, "teacher"]);
                let product = along(v, &product);
                let both = v.op("Mul", &[&lengths[0], &lengths[1]]);
                let cosine = v.op("Div", &[&product, &both]);
                let one = v.scalar(1.0);
                v.op("Sub", &[&one, &cosine])
            }
        };
        let shared = v.op("Mul", &[&per_row, "share"]);
        v.graph.node(
            crate::graph::Node::new("ReduceSum", &[&shared], &["distance"]).int("keepdims", 0),
        );
    }
}

/// The sum of each row.
fn along(v: &mut Values<'_>, value: &str) -> String {
    let last = v.list(&[-1]);
    v.op_with("ReduceSum", &[value, &last], |node| node.int("keepdims", 1))
}
