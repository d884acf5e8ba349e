//! TensorFlow operations to ONNX, node by node, with every shape known.
//!
//! Pictures are kept as planes (NCHW), which is what ONNX convolves; TensorFlow's NHWC comes back only where rows are cut out of
//! a feature map. A convolution is held back until it is known what follows it: multiplications and additions of constants (a
//! batch normalization, in one node or in pieces) become part of its weights and bias.
//!
//! ```text
//!   Const, Identity, Rsqrt, constants with each other   → Values (computed here)
//!   Conv2D, DepthwiseConv2dNative                        → held back as Convolution
//!     · Mul, Add, Sub, BiasAdd, FusedBatchNorm with constants    → its scale and bias
//!   Relu6, Relu, Add of two maps                         → Clip, Relu, Add
//!   Shape, StridedSlice, Pack                            → Integers (computed here)
//!   Reshape of a map                                     → Transpose to NHWC, Reshape → Rows
//!   ConcatV2, Squeeze of rows                            → Concat, Squeeze
//! ```

use std::collections::BTreeMap;

use super::SsdError;
use super::convolution::Convolution;
use crate::error::ForgeError;
use crate::graph::{GraphBuilder, Node};
use crate::proto::tensorflow::NodeDef;
use crate::tensorflow::{Constant, GraphDef};

/// What a node stands for.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    /// A constant as it is in the file.
    Constant(Constant<'a>),
    /// Floats computed here: one per channel, or one for all.
    Floats(Vec<f32>),
    /// Integers computed here: shapes and their parts.
    Integers(Vec<i64>),
    /// A convolution that is not emitted yet.
    Convolution(Convolution<'a>),
    /// Planes [1, channels, height, width].
    Planes(Planes),
    /// Rows cut out of maps.
    Rows(Rows),
}

/// A feature map in the ONNX graph.
#[derive(Debug, Clone)]
pub(super) struct Planes {
    pub(super) value: String,
    /// Channels, height, width.
    pub(super) shape: [usize; 3],
}

/// Rows of box codes or logits, and the maps they come from.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) value: String,
    pub(super) dims: Vec<usize>,
    /// Height and width of each map, in order.
    pub(super) maps: Vec<[usize; 2]>,
}

/// Walks the source graph and fills the ONNX graph.
pub(super) struct Converter<'a> {
    source: &'a GraphDef,
    graph: GraphBuilder<'a>,
    values: BTreeMap<String, Value<'a>>,
    /// How many converted nodes read a node.
    readers: BTreeMap<String, usize>,
    has_clip_bounds: bool,
}

impl<'a> Converter<'a> {
    /// A converter for which the node `cut` stands for `planes` of the given shape.
    pub(super) fn new(
        source: &'a GraphDef,
        graph: GraphBuilder<'a>,
        cut: &str,
        planes: &str,
        shape: [usize; 3],
    ) -> Converter<'a> {
        let values = BTreeMap::from([(
            cut.to_string(),
            Value::Planes(Planes {
                value: planes.to_string(),
                shape,
            }),
        )]);
        Converter {
            source,
            graph,
            values,
            readers: BTreeMap::new(),
            has_clip_bounds: false,
        }
    }

    /// Converts everything that `outputs` need.
    ///
    /// # Errors
    /// [`ForgeError::GraphDef`], [`ForgeError::Ssd`].
    pub(super) fn convert(&mut self, outputs: &[&str]) -> Result<(), ForgeError> {
        let order = self.order(outputs)?;
        for node in &order {
            for input in node.data_inputs() {
                *self.readers.entry(input.to_string()).or_default() += 1;
            }
        }
        for node in order {
            let mut value = self.value(node)?;
            // What has been folded away can be read by one node only: the one that goes on folding.
            if matches!(value, Value::Convolution(_)) && self.readers.get(&node.name) != Some(&1) {
                value = Value::Planes(self.planes(node, value)?);
            }
            self.values.insert(node.name.clone(), value);
        }
        Ok(())
    }

    /// The rows that a converted output stands for.
    pub(super) fn rows(&self, name: &str) -> Result<Rows, ForgeError> {
        match self.values.get(name) {
            Some(Value::Rows(rows)) => Ok(rows.clone()),
            _ => Err(unsupported(self.source.node(name)?, "is no list of rows").into()),
        }
    }

    pub(super) fn finish(self) -> GraphBuilder<'a> {
        self.graph
    }

    /// All nodes that `outputs` need and that have no value yet, each after its inputs.
    fn order(&self, outputs: &[&str]) -> Result<Vec<&'a NodeDef>, ForgeError> {
        let mut order = Vec::new();
        // false: on the way down from this node; true: done.
        let mut state: BTreeMap<&str, bool> = BTreeMap::new();
        let mut stack: Vec<(&'a NodeDef, bool)> = Vec::new();
        for output in outputs {
            stack.push((self.source.node(output)?, false));
        }
        while let Some((node, is_expanded)) = stack.pop() {
            if is_expanded {
                state.insert(&node.name, true);
                order.push(node);
                continue;
            }
            if state.contains_key(node.name.as_str()) || self.values.contains_key(&node.name) {
                continue;
            }
            state.insert(&node.name, false);
            stack.push((node, true));
            for input in node
                .data_inputs()
                .filter(|input| !self.values.contains_key(*input))
            {
                let input = self.source.node(input)?;
                match state.get(input.name.as_str()) {
                    None => stack.push((input, false)),
                    Some(true) => {}
                    Some(false) => {
                        return Err(SsdError::Cycle {
                            node: input.name.clone(),
                        }
                        .into());
                    }
                }
            }
        }
        Ok(order)
    }

    /// What a node stands for; its inputs already have values.
    fn value(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        match node.op.as_str() {
            "Const" => Ok(Value::Constant(node.constant()?)),
            "Identity" => self.input(node, 0),
            "Conv2D" | "DepthwiseConv2dNative" => self.convolution(node),
            "Rsqrt" => Ok(Value::Floats(
                self.floats(node, 0)?
                    .iter()
                    .map(|value| 1.0 / value.sqrt())
                    .collect(),
            )),
            "Add" | "AddV2" | "Sub" | "Mul" | "BiasAdd" => self.arithmetic(node),
            "FusedBatchNorm" | "FusedBatchNormV2" | "FusedBatchNormV3" => self.batch_norm(node),
            "Relu6" | "Relu" => self.rectifier(node),
            "Shape" => {
                let [channels, height, width] = self.planes_input(node, 0)?.shape;
                Ok(Value::Integers(vec![
                    1,
                    height as i64,
                    width as i64,
                    channels as i64,
                ]))
            }
            "StridedSlice" => self.slice(node),
            "Pack" => {
                let parts: Result<Vec<_>, _> = (0..node.data_inputs().count())
                    .map(|index| self.integers(node, index))
                    .collect();
                Ok(Value::Integers(parts?.concat()))
            }
            "Reshape" => self.reshape(node),
            "ConcatV2" => self.concat(node),
            "Squeeze" => self.squeeze(node),
            _ => Err(unsupported(node, "this operation is not converted").into()),
        }
    }

    /// a ∘ b of constants; a convolution with a constant, folded; or the sum of two maps.
    fn arithmetic(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        let (left, right) = (self.input(node, 0)?, self.input(node, 1)?);
        let op = node.op.as_str();
        match (left, right) {
            (Value::Constant(_) | Value::Floats(_), Value::Constant(_) | Value::Floats(_)) => {
                let (left, right) = (self.floats(node, 0)?, self.floats(node, 1)?);
                let width = left.len().max(right.len());
                let (left, right) = (spread(node, &left, width)?, spread(node, &right, width)?);
                let join = |(a, b): (&f32, &f32)| match op {
                    "Mul" => a * b,
                    "Sub" => a - b,
                    _ => a + b,
                };
                Ok(Value::Floats(left.iter().zip(&right).map(join).collect()))
            }
            (Value::Convolution(mut convolution), Value::Constant(_) | Value::Floats(_)) => {
                let constant = spread(node, &self.floats(node, 1)?, convolution.bias.len())?;
                for (channel, &value) in constant.iter().enumerate() {
                    match op {
                        "Mul" => {
                            convolution.scale[channel] *= value;
                            convolution.bias[channel] *= value;
                        }
                        "Sub" => convolution.bias[channel] -= value,
                        _ => convolution.bias[channel] += value,
                    }
                }
                Ok(Value::Convolution(convolution))
            }
            (
                left @ (Value::Convolution(_) | Value::Planes(_)),
                right @ (Value::Convolution(_) | Value::Planes(_)),
            ) if op.starts_with("Add") => {
                let inputs: Vec<&str> = node.data_inputs().collect();
                let left = self.named_planes(node, inputs[0], left)?;
                let right = self.named_planes(node, inputs[1], right)?;
                if left.shape != right.shape {
                    return Err(unsupported(
                        node,
                        format!("adds shapes {:?} and {:?}", left.shape, right.shape),
                    )
                    .into());
                }
                self.graph.node(Node::new(
                    "Add",
                    &[&left.value, &right.value],
                    &[&node.name],
                ));
                Ok(Value::Planes(Planes {
                    value: node.name.clone(),
                    shape: left.shape,
                }))
            }
            _ => Err(unsupported(
                node,
                "only constants, a convolution with a constant, or the sum of two maps",
            )
            .into()),
        }
    }

    fn convolution(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        let planes = self.planes_input(node, 0)?;
        let Value::Constant(weights) = self.input(node, 1)? else {
            return Err(unsupported(node, "weights must be a constant").into());
        };
        Ok(Value::Convolution(Convolution::read(
            node, planes, weights,
        )?))
    }

    /// (x − mean)·γ/√(variance + ε) + β, folded.
    fn batch_norm(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        if node.flag("is_training", true)? {
            return Err(unsupported(node, "still in training").into());
        }
        let Value::Convolution(mut convolution) = self.input(node, 0)? else {
            return Err(unsupported(node, "does not follow a convolution").into());
        };
        let epsilon = node.float("epsilon")?;
        let channels = convolution.bias.len();
        let mut constants = [const { Vec::new() }; 4];
        for (index, constant) in constants.iter_mut().enumerate() {
            *constant = spread(node, &self.floats(node, index + 1)?, channels)?;
        }
        let [gammas, betas, means, variances] = constants;
        for (channel, gamma) in gammas.into_iter().enumerate() {
            let factor = gamma / (variances[channel] + epsilon).sqrt();
            convolution.scale[channel] *= factor;
            convolution.bias[channel] =
                (convolution.bias[channel] - means[channel]) * factor + betas[channel];
        }
        Ok(Value::Convolution(convolution))
    }

    fn rectifier(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        let planes = self.planes_input(node, 0)?;
        if node.op == "Relu" {
            self.graph
                .node(Node::new("Relu", &[&planes.value], &[&node.name]));
        } else {
            if !self.has_clip_bounds {
                self.graph.floats("clip.low", &[], &[0.0]);
                self.graph.floats("clip.high", &[], &[6.0]);
                self.has_clip_bounds = true;
            }
            self.graph.node(Node::new(
                "Clip",
                &[&planes.value, "clip.low", "clip.high"],
                &[&node.name],
            ));
        }
        Ok(Value::Planes(Planes {
            value: node.name.clone(),
            shape: planes.shape,
        }))
    }

    /// One element of a list of integers, which is all that shapes need.
    fn slice(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        let list = self.integers(node, 0)?;
        let begin = self.integers(node, 1)?;
        let masks = ["begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask"];
        let is_plain = masks.iter().all(|mask| node.integer(mask) == Ok(0))
            && node.integer("shrink_axis_mask") == Ok(1);
        let element = match begin[..] {
            [begin] if is_plain => usize::try_from(begin)
                .ok()
                .and_then(|begin| list.get(begin)),
            _ => None,
        };
        match element {
            Some(element) => Ok(Value::Integers(vec![*element])),
            None => Err(unsupported(node, "only one element of a list of integers").into()),
        }
    }

    /// A map to rows, in TensorFlow's order of elements.
    fn reshape(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        let planes = self.planes_input(node, 0)?;
        let target = self.integers(node, 1)?;
        let [channels, height, width] = planes.shape;
        let elements = channels * height * width;
        let known = target
            .iter()
            .filter(|&&size| size != -1)
            .try_fold(1_i64, |product, &size| product.checked_mul(size))
            .filter(|&known| known > 0);
        let open = target.iter().filter(|&&size| size == -1).count();
        let dims: Option<Vec<usize>> = known.and_then(|known| {
            let rest = (elements as i64)
                .checked_rem(known)
                .filter(|&rest| rest == 0)
                .map(|_| elements as i64 / known)?;
            let sizes = target
                .iter()
                .map(|&size| usize::try_from(if size == -1 { rest } else { size }).ok());
            if open == 1 || (open == 0 && rest == 1) {
                sizes.collect()
            } else {
                None
            }
        });
        let Some(dims) = dims else {
            return Err(
                unsupported(node, format!("shape {:?} to {target:?}", planes.shape)).into(),
            );
        };
        let (rows, shape) = (
            format!("{}.nhwc", node.name),
            format!("{}.shape", node.name),
        );
        let sizes: Vec<i64> = dims.iter().map(|&size| size as i64).collect();
        self.graph.integers(&shape, &[sizes.len() as i64], &sizes);
        self.graph
            .node(Node::new("Transpose", &[&planes.value], &[&rows]).ints("perm", &[0, 2, 3, 1]));
        self.graph
            .node(Node::new("Reshape", &[&rows, &shape], &[&node.name]));
        Ok(Value::Rows(Rows {
            value: node.name.clone(),
            dims,
            maps: vec![[height, width]],
        }))
    }

    /// Rows one after the other.
    fn concat(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        let count = node.data_inputs().count().saturating_sub(1);
        let axis = match self.integers(node, count)?[..] {
            [axis] => usize::try_from(axis).ok(),
            _ => None,
        };
        let mut parts = Vec::new();
        for index in 0..count {
            match self.input(node, index)? {
                Value::Rows(rows) => parts.push(rows),
                _ => return Err(unsupported(node, "only of rows").into()),
            }
        }
        let Some((axis, first)) = axis
            .zip(parts.first())
            .filter(|(axis, first)| *axis < first.dims.len())
        else {
            return Err(unsupported(node, "axis or inputs are missing").into());
        };
        let mut dims = first.dims.clone();
        dims[axis] = 0;
        for part in &parts {
            let mut others = part.dims.clone();
            if others.len() != dims.len() {
                return Err(unsupported(node, "of different ranks").into());
            }
            others[axis] = dims[axis];
            if others != dims {
                return Err(unsupported(node, "of different shapes").into());
            }
            dims[axis] += part.dims[axis];
        }
        let inputs: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        self.graph
            .node(Node::new("Concat", &inputs, &[&node.name]).int("axis", axis as i64));
        Ok(Value::Rows(Rows {
            value: node.name.clone(),
            dims,
            maps: parts.iter().flat_map(|part| part.maps.clone()).collect(),
        }))
    }

    /// Rows without the dimensions of size 1 that are named.
    fn squeeze(&mut self, node: &'a NodeDef) -> Result<Value<'a>, ForgeError> {
        let Value::Rows(rows) = self.input(node, 0)? else {
            return Err(unsupported(node, "only of rows").into());
        };
        let axes = node.list("squeeze_dims")?;
        let is_one = |axis: &i64| {
            usize::try_from(*axis)
                .ok()
                .and_then(|axis| rows.dims.get(axis))
                == Some(&1)
        };
        if axes.is_empty() || !axes.iter().all(is_one) {
            return Err(
                unsupported(node, format!("axes {axes:?} of shape {:?}", rows.dims)).into(),
            );
        }
        let dims = rows
            .dims
            .iter()
            .enumerate()
            .filter(|(axis, _)| !axes.contains(&(*axis as i64)))
            .map(|(_, &size)| size)
            .collect();
        let name = format!("{}.axes", node.name);
        self.graph.integers(&name, &[axes.len() as i64], axes);
        self.graph
            .node(Node::new("Squeeze", &[&rows.value, &name], &[&node.name]));
        Ok(Value::Rows(Rows {
            value: node.name.clone(),
            dims,
            maps: rows.maps,
        }))
    }

    /// The value of an input.
    fn input(&self, node: &NodeDef, index: usize) -> Result<Value<'a>, ForgeError> {
        let value = node
            .data_inputs()
            .nth(index)
            .and_then(|name| self.values.get(name));
        value
            .cloned()
            .ok_or_else(|| unsupported(node, format!("input {index} is missing")).into())
    }

    fn floats(&self, node: &NodeDef, index: usize) -> Result<Vec<f32>, ForgeError> {
        match self.input(node, index)? {
            Value::Floats(floats) => Ok(floats),
            Value::Constant(constant) if constant.dims.len() <= 1 => Ok(constant.floats()?),
            _ => Err(
                unsupported(node, format!("input {index} is no constant list of floats")).into(),
            ),
        }
    }

    fn integers(&self, node: &NodeDef, index: usize) -> Result<Vec<i64>, ForgeError> {
        match self.input(node, index)? {
            Value::Integers(integers) => Ok(integers),
            Value::Constant(constant) if constant.is_integer() && constant.dims.len() <= 1 => {
                Ok(constant.integers()?)
            }
            _ => Err(unsupported(
                node,
                format!("input {index} is no constant list of integers"),
            )
            .into()),
        }
    }

    fn planes_input(&mut self, node: &'a NodeDef, index: usize) -> Result<Planes, ForgeError> {
        let value = self.input(node, index)?;
        let name = node
            .data_inputs()
            .nth(index)
            .unwrap_or_default()
            .to_string();
        self.named_planes(node, &name, value)
    }

    /// The planes that `value`, made by the node `name`, stands for.
    fn named_planes(
        &mut self,
        reader: &NodeDef,
        name: &str,
        value: Value<'a>,
    ) -> Result<Planes, ForgeError> {
        match value {
            Value::Planes(planes) => Ok(planes),
            Value::Convolution(convolution) => Ok(convolution.emit(name, &mut self.graph)),
            _ => Err(unsupported(reader, format!("{name} is no feature map")).into()),
        }
    }

    fn planes(&mut self, node: &NodeDef, value: Value<'a>) -> Result<Planes, ForgeError> {
        self.named_planes(node, &node.name, value)
    }
}

/// One value per channel: a single one holds for all.
fn spread(node: &NodeDef, values: &[f32], channels: usize) -> Result<Vec<f32>, ForgeError> {
    match values {
        [value] => Ok(vec![*value; channels]),
        _ if values.len() == channels => Ok(values.to_vec()),
        _ => Err(unsupported(
            node,
            format!("{} values for {channels} channels", values.len()),
        )
        .into()),
    }
}

pub(super) fn unsupported(node: &NodeDef, what: impl Into<String>) -> SsdError {
    SsdError::Unsupported {
        node: node.name.clone(),
        op: node.op.clone(),
        what: what.into(),
    }
}
