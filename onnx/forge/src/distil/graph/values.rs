//! Writing formulas as nodes: every operation returns the name of its result.

use std::collections::BTreeMap;

use crate::decoder::{Activation, NormKind};
use crate::graph::{Dim, GraphBuilder, Node};
use crate::proto::onnx::DataType;

use super::Slot;

/// Name of the size inside the feed-forward part, which may differ between layers.
const WIDTH: &str = "width";

/// A graph while formulas are written into it.
pub(in crate::distil) struct Values<'a> {
    pub(in crate::distil) graph: GraphBuilder<'a>,
    scalars: BTreeMap<u32, String>,
    lists: BTreeMap<Vec<i64>, String>,
    count: usize,
}

impl<'a> Values<'a> {
    pub(in crate::distil) fn new(name: &str) -> Values<'a> {
        Values {
            graph: GraphBuilder::new(name),
            scalars: BTreeMap::new(),
            lists: BTreeMap::new(),
            count: 0,
        }
    }

    /// Announces a float input of fixed sizes.
    pub(in crate::distil) fn input(&mut self, name: &str, dims: &[usize]) {
        let dims: Vec<Dim<'_>> = dims.iter().map(|size| Dim::Fixed(*size as i64)).collect();
        self.graph.input(name, DataType::Float, &dims);
    }

    /// Announces a parameter.
    pub(in crate::distil) fn parameter(&mut self, slot: &Slot) {
        self.graph
            .input(slot.role, DataType::Float, &dims_of(&slot.dims));
    }

    pub(in crate::distil) fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.op_with(op, inputs, |node| node)
    }

    pub(in crate::distil) fn op_with(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: impl FnOnce(Node) -> Node,
    ) -> String {
        let output = self.fresh();
        let node = Node::new(op, inputs, &[&output]);
        self.graph.node(attributes(node));
        output
    }

    /// Gives a value a name of its own.
    pub(in crate::distil) fn named(&mut self, op: &str, inputs: &[&str], name: &str) -> String {
        self.graph.node(Node::new(op, inputs, &[name]));
        name.to_string()
    }

    pub(in crate::distil) fn scalar(&mut self, value: f32) -> String {
        if let Some(name) = self.scalars.get(&value.to_bits()) {
            return name.clone();
        }
        let name = self.fresh();
        self.graph.floats(&name, &[], &[value]);
        self.scalars.insert(value.to_bits(), name.clone());
        name
    }

    pub(in crate::distil) fn list(&mut self, values: &[i64]) -> String {
        if let Some(name) = self.lists.get(values) {
            return name.clone();
        }
        let name = self.fresh();
        self.graph.integers(&name, &[values.len() as i64], values);
        self.lists.insert(values.to_vec(), name.clone());
        name
    }

    pub(in crate::distil) fn scaled(&mut self, value: &str, factor: f32) -> String {
        if factor == 1.0 {
            return value.to_string();
        }
        let factor = self.scalar(factor);
        self.op("Mul", &[value, &factor])
    }

    pub(in crate::distil) fn reshaped(&mut self, value: &str, sizes: &[usize]) -> String {
        let sizes: Vec<i64> = sizes.iter().map(|size| *size as i64).collect();
        let sizes = self.list(&sizes);
        self.op("Reshape", &[value, &sizes])
    }

    pub(in crate::distil) fn transposed(&mut self, value: &str, order: &[i64]) -> String {
        self.op_with("Transpose", &[value], |node| node.ints("perm", order))
    }

    /// Parts along the last axis.
    pub(in crate::distil) fn split(&mut self, value: &str, sizes: &[usize]) -> Vec<String> {
        let outputs: Vec<String> = sizes.iter().map(|_| self.fresh()).collect();
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let sizes: Vec<i64> = sizes.iter().map(|size| *size as i64).collect();
        let sizes = self.list(&sizes);
        let node = Node::new("Split", &[value, &sizes], &names).int("axis", -1);
        self.graph.node(node);
        outputs
    }

    /// x·Wᵀ + b as value `name`, of x [tokens, inputs] and W [outputs, inputs].
    pub(in crate::distil) fn linear(
        &mut self,
        x: &str,
        weight: &str,
        bias: Option<&str>,
        name: &str,
    ) -> String {
        let inputs = [x, weight, bias.unwrap_or_default()];
        let count = if bias.is_some() { 3 } else { 2 };
        let node = Node::new("Gemm", &inputs[..count], &[name]).int("transB", 1);
        self.graph.node(node);
        name.to_string()
    }

    /// The norm of the last axis; see [`NormKind`] for the formulas.
    pub(in crate::distil) fn norm(
        &mut self,
        kind: NormKind,
        x: &str,
        weight: &str,
        bias: Option<&str>,
        epsilon: f32,
    ) -> String {
        let centred = match kind {
            NormKind::Rms => x.to_string(),
            NormKind::Layer => {
                let mean = self.mean(x);
                self.op("Sub", &[x, &mean])
            }
        };
        let square = self.op("Mul", &[&centred, &centred]);
        let mean = self.mean(&square);
        let epsilon = self.scalar(epsilon);
        let shifted = self.op("Add", &[&mean, &epsilon]);
        let deviation = self.op("Sqrt", &[&shifted]);
        // One number per row is inverted, so that the rows are multiplied and not divided.
        let scale = self.op("Reciprocal", &[&deviation]);
        let normed = self.op("Mul", &[&centred, &scale]);
        let weighted = self.op("Mul", &[&normed, weight]);
        match bias {
            Some(bias) => self.op("Add", &[&weighted, bias]),
            None => weighted,
        }
    }

    fn mean(&mut self, x: &str) -> String {
        let last = self.list(&[-1]);
        self.op_with("ReduceMean", &[x, &last], |node| node.int("keepdims", 1))
    }

    /// The nonlinearity; see [`Activation`] for the formulas.
    pub(in crate::distil) fn activation(&mut self, activation: Activation, x: &str) -> String {
        if activation == Activation::Silu {
            let sigma = self.op("Sigmoid", &[x]);
            return self.op("Mul", &[x, &sigma]);
        }
        let inner = match activation {
            Activation::Silu | Activation::Gelu => {
                let scaled = self.scaled(x, std::f32::consts::FRAC_1_SQRT_2);
                self.op("Erf", &[&scaled])
            }
            Activation::GeluTanh => {
                // √(2/π)·(x + 0.044715·x³) = x·(√(2/π) + c·x²)
                const SLOPE: f32 = 0.797_884_6;
                let square = self.op("Mul", &[x, x]);
                let cubic = self.scaled(&square, SLOPE * 0.044715);
                let slope = self.scalar(SLOPE);
                let factor = self.op("Add", &[&cubic, &slope]);
                let inner = self.op("Mul", &[x, &factor]);
                self.op("Tanh", &[&inner])
            }
        };
        let one = self.scalar(1.0);
        let shifted = self.op("Add", &[&inner, &one]);
        let half = self.scaled(x, 0.5);
        self.op("Mul", &[&half, &shifted])
    }

    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("v.{}", self.count)
    }
}

/// Sizes of a parameter as the graph declares them.
pub(super) fn dims_of(sizes: &[Option<usize>]) -> Vec<Dim<'static>> {
    sizes
        .iter()
        .map(|size| match size {
            Some(size) => Dim::Fixed(*size as i64),
            None => Dim::Named(WIDTH),
        })
        .collect()
}
