//! Sums over a text that a least-squares fit of a matrix needs: products of what it reads, with itself and with what is missing
//! behind its layer.
//!
//! Each token counts by its error relative to the size of its hidden state, because the norm in front of the next layer divides by that
//! size: without it the few tokens whose states are hundreds of times larger than others (the first of a text, often) would
//! decide alone.
//!
//! ```text
//!   a_s  what the matrix reads at token s     e_s  target − state behind the layer     w_s = 1 / mean(state²)
//!   gram = Σ w·a·aᵀ  [inputs, inputs]         cross = Σ w·e·aᵀ  [outputs, inputs]      missing = Σ w·e·e
//! ```

use std::ops::ControlFlow;
use std::path::Path;

use llmasos_engine::Runtime;
use llmasos_engine::session::{
    Dim as Size, Feed, Kind, Session, SessionSpec, TensorSpec as Wanted, Threads,
};

use crate::error::ForgeError;
use crate::graph::{Dim, GraphBuilder, Node};
use crate::proto::onnx::DataType;
use crate::writer::write_model;

/// Smallest mean square of a hidden state that is divided by.
const MIN_SQUARE: f64 = 1e-12;

/// The sums.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Normal {
    /// Inputs of the matrix.
    pub(super) inputs: usize,
    /// `[inputs, inputs]`.
    pub(super) gram: Vec<f64>,
    /// `[outputs, inputs]`; empty if there is no target.
    pub(super) cross: Vec<f64>,
    /// Σ w·e·e.
    pub(super) missing: f64,
    /// Tokens.
    pub(super) rows: u64,
}

impl Normal {
    /// Sums over nothing.
    pub(super) fn new(inputs: usize) -> Normal {
        Normal {
            inputs,
            gram: vec![0.0; inputs * inputs],
            cross: Vec::new(),
            missing: 0.0,
            rows: 0,
        }
    }

    /// Mean of the diagonal of `gram`.
    pub(super) fn mean_square(&self) -> f64 {
        let diagonal = self.gram.iter().step_by(self.inputs + 1);
        diagonal.sum::<f64>() / self.inputs.max(1) as f64
    }

    /// √(Σ w·a²) of each input.
    pub(super) fn norms(&self) -> Vec<f64> {
        let diagonal = self.gram.iter().step_by(self.inputs + 1);
        diagonal.map(|square| square.max(0.0).sqrt()).collect()
    }
}

/// One text: what a matrix reads, and states behind its layer.
pub(super) struct Rows<'a> {
    /// `[tokens, inputs]`.
    pub(super) inputs: &'a [f32],
    /// `[tokens, hidden]`.
    pub(super) after: &'a [f32],
    /// What they should be.
    pub(super) target: Option<&'a [f32]>,
    /// Width of the stream.
    pub(super) hidden: usize,
}

/// Makes the products of matrices on ONNX Runtime, which has the fast ones.
pub(super) struct Products {
    session: Session,
    has_target: bool,
}

impl Products {
    /// For matrices with this many inputs; `outputs` where there is a target.
    pub(super) fn open(
        runtime: &Runtime,
        scratch: &Path,
        inputs: usize,
        outputs: Option<usize>,
    ) -> Result<Products, ForgeError> {
        const FILE: &str = "products.onnx";
        let mut graph = GraphBuilder::new("products");
        let rows = |width: usize| [Dim::Fixed(1), Dim::Named("rows"), Dim::Fixed(width as i64)];
        let square = |a: usize, b: usize| [1, a as i64, b as i64].map(Dim::Fixed);
        let any = [Size::Any; 3];
        let (mut fed, mut made) = (vec![Wanted::new("read", Kind::F32, &any)], vec![]);
        graph.input("read", DataType::Float, &rows(inputs));
        let gram = ("read", "gram", inputs);
        let cross = outputs.map(|outputs| ("missing", "cross", outputs));
        for (left, output, width) in [gram].into_iter().chain(cross) {
            if left != "read" {
                graph.input(left, DataType::Float, &rows(width));
                fed.push(Wanted::new(left, Kind::F32, &any));
            }
            let node = Node::microsoft("FusedMatMul", &[left, "read"], &[output]);
            graph.node(node.int("transA", 1).int("transB", 0));
            graph.output(output, DataType::Float, &square(width, inputs));
            made.push(Wanted::new(output, Kind::F32, &any));
        }
        let go_on = &mut |_: crate::folder::Progress<'_>| ControlFlow::Continue(());
        write_model(graph.finish()?, scratch, FILE, go_on)?;
        let spec = SessionSpec {
            inputs: &fed,
            outputs: &made,
        };
        let path = scratch.join(FILE);
        let session = Session::open(runtime, "products", &path, &spec, Threads::Shared)?;
        Ok(Products {
            session,
            has_target: outputs.is_some(),
        })
    }

    /// Adds one text to the sums.
    pub(super) fn add(&mut self, normal: &mut Normal, rows: &Rows<'_>) -> Result<(), ForgeError> {
        let count = rows.after.len() / rows.hidden;
        let factors: Vec<f32> = rows.after.chunks_exact(rows.hidden).map(factor).collect();
        let scaled = |values: &[f32], width: usize| -> Vec<f32> {
            let rows = values.chunks_exact(width).zip(&factors);
            rows.flat_map(|(row, factor)| row.iter().map(move |value| value * factor))
                .collect()
        };
        let read = scaled(rows.inputs, normal.inputs);
        let missing = match rows.target {
            Some(target) if self.has_target => {
                let pairs = target.iter().zip(rows.after);
                let missing: Vec<f32> = pairs.map(|(target, after)| target - after).collect();
                scaled(&missing, rows.hidden)
            }
            _ => Vec::new(),
        };
        let dims = [1, count, normal.inputs];
        let missing_dims = [1, count, rows.hidden];
        let mut feeds = vec![Feed::f32("read", &dims, &read)];
        if self.has_target {
            feeds.push(Feed::f32("missing", &missing_dims, &missing));
            normal.missing += missing.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>();
        }
        let outputs = self.session.run(&feeds)?;
        accumulate(&mut normal.gram, outputs.f32("gram")?.data);
        if self.has_target {
            let cross = outputs.f32("cross")?.data;
            normal.cross.resize(cross.len(), 0.0);
            accumulate(&mut normal.cross, cross);
        }
        normal.rows += count as u64;
        Ok(())
    }
}

/// √w of a hidden state.
fn factor(state: &[f32]) -> f32 {
    let squares = state.iter().map(|value| f64::from(*value).powi(2));
    let mean = squares.sum::<f64>() / state.len().max(1) as f64;
    (1.0 / mean.max(MIN_SQUARE).sqrt()) as f32
}

fn accumulate(sums: &mut [f64], products: &[f32]) {
    for (sum, product) in sums.iter_mut().zip(products) {
        *sum += f64::from(*product);
    }
}
