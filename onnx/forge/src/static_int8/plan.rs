//! Which nodes compute in 8 bits, and which values are therefore stored in 8 bits.
//!
//! Time goes into nodes with constant weights, so these decide. What lies between two of them joins in, because going to float and
//! back would cost more than the node; what lies behind the last one stays in float, where nothing is gained and precision counts
//! most (box decoding, scores, softmax, norms, attention).
//!
//! ```text
//!   weighted   Conv, MatMul, Gemm with a constant matrix            decide
//!   fused      Relu, Clip behind one                                vanish in the codes' range
//!   joint      Add, Mul, Concat, pools, Sigmoid, LeakyRelu          join if all inputs are 8-bit already and a weighted node follows
//!   same       Reshape, Transpose, MaxPool, …                       the same, with the scale of their input
//!   float      Softmax, LayerNormalization, attention, …            known, never quantized
//!   others                                                          unknown: untouched, and named
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::wires::{Wires, float, int, is_standard, label};
use crate::onnx_file::operator;
use crate::proto::onnx::NodeProto;

/// Standard operators that move or add values and have 8-bit kernels.
const JOINT: [&str; 7] = [
    "Add",
    "Mul",
    "Concat",
    "AveragePool",
    "GlobalAveragePool",
    "Sigmoid",
    "LeakyRelu",
];
/// Standard operators that only move values: input and output have one scale.
const SAME: [&str; 7] = [
    "MaxPool",
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "DepthToSpace",
];
/// Operators that are known to be better left alone.
const FLOAT: [&str; 71] = [
    "Abs",
    "And",
    "ArgMax",
    "ArgMin",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Constant",
    "ConstantOfShape",
    "Cos",
    "CumSum",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "If",
    "InstanceNormalization",
    "LayerNormalization",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "Loop",
    "Max",
    "Min",
    "Mish",
    "Mod",
    "Neg",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "Or",
    "Pad",
    "Pow",
    "QuantizeLinear",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Resize",
    "Round",
    "Scan",
    "ScatterND",
    "Shape",
    "Sin",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Sub",
    "Tanh",
    "Tile",
    "TopK",
    "Where",
    "Upsample",
];
/// The same of ONNX Runtime's own.
const FLOAT_MICROSOFT: [&str; 10] = [
    "Attention",
    "BiasGelu",
    "EmbedLayerNormalization",
    "FastGelu",
    "FusedMatMul",
    "Gelu",
    "MultiHeadAttention",
    "QuickGelu",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// What a weighted node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Weights `[out, in / groups, …]`, a channel is an outermost row.
    Convolution,
    /// Weights `[in, out]`, a channel is a column.
    Product,
    /// Weights `[out, in]`, a channel is a row.
    TransposedProduct,
}

/// A node with constant weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weighted {
    pub(crate) kind: Kind,
    /// The value multiplied.
    pub(crate) input: String,
    pub(crate) weight: String,
    pub(crate) bias: Option<String>,
    /// An Add of the bias that becomes part of the node.
    pub(crate) addition: Option<usize>,
    /// The value that holds the result: that of the node, of the addition, or of a fused activation.
    pub(crate) output: String,
}

/// A table that is looked up by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lookup {
    pub(crate) table: String,
    pub(crate) rows: i64,
    pub(crate) columns: i64,
}

/// A node that was left as it is, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Left {
    pub(crate) node: usize,
    pub(crate) reason: String,
    /// Whether its operator is not known here.
    pub(crate) is_unknown: bool,
}

/// The decisions about a graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Plan {
    pub(crate) weighted: BTreeMap<usize, Weighted>,
    /// Joint and same nodes that take part, with the value that holds their result.
    pub(crate) between: BTreeMap<usize, String>,
    pub(crate) lookups: BTreeMap<usize, Lookup>,
    /// Values stored in 8 bits; each with the one whose scale it has, mostly itself.
    pub(crate) values: BTreeMap<String, String>,
    /// Those of them that an 8-bit node makes: everybody reads them from the codes.
    pub(crate) made: BTreeSet<String>,
    pub(crate) left: Vec<Left>,
}

/// What the planner may decide.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice {
    /// Nodes that stay in float.
    pub(crate) excluded: BTreeSet<usize>,
    /// Whether tables are quantized.
    pub(crate) lookups: bool,
    /// Whether an Add becomes part of a product.
    pub(crate) merges_bias: bool,
}

impl Plan {
    /// Decides about all nodes.
    pub(crate) fn new(nodes: &[NodeProto], wires: &Wires, choice: &Choice) -> Plan {
        let mut planner = Planner {
            nodes,
            wires,
            choice,
            plan: Plan::default(),
        };
        planner.weighted();
        planner.between();
        planner.values();
        planner.plan
    }

    /// Whether a node computes on codes.
    pub(crate) fn is_quantized(&self, node: usize) -> bool {
        self.weighted.contains_key(&node) || self.between.contains_key(&node)
    }
}

struct Planner<'a> {
    nodes: &'a [NodeProto],
    wires: &'a Wires,
    choice: &'a Choice,
    plan: Plan,
}

impl Planner<'_> {
    fn weighted(&mut self) {
        for (index, node) in self.nodes.iter().enumerate() {
            if self.choice.excluded.contains(&index) {
                self.leave(index, "kept in float".into(), false);
                continue;
            }
            let found = match node.op_type.as_str() {
                "Conv" if is_standard(node) => self.convolution(index, node),
                "MatMul" if is_standard(node) => self.product(index, node),
                "Gemm" if is_standard(node) => self.gemm(node),
                "Gather" if is_standard(node) && self.choice.lookups => {
                    if let Some(lookup) = self.lookup(node) {
                        self.plan.lookups.insert(index, lookup);
                    }
                    continue;
                }
                _ => {
                    if !is_known(node) {
                        self.leave(index, "the operator is not known".into(), true);
                    }
                    continue;
                }
            };
            match found {
                Ok(weighted) => drop(self.plan.weighted.insert(index, weighted)),
                Err(reason) => self.leave(index, reason, false),
            }
        }
    }

    fn leave(&mut self, node: usize, reason: String, is_unknown: bool) {
        self.plan.left.push(Left {
            node,
            reason,
            is_unknown,
        });
    }

    fn convolution(&self, index: usize, node: &NodeProto) -> Result<Weighted, String> {
        let (input, weight) = self.operands(node)?;
        let dims = self.wires.floats(&weight).unwrap_or_default();
        if !(3..=5).contains(&dims.len()) {
            return Err(format!("its weights have shape {dims:?}"));
        }
        let bias = self.bias(node, dims[0])?;
        let output = self.carrier(index).ok_or("it has no output")?;
        Ok(Weighted {
            kind: Kind::Convolution,
            input,
            weight,
            bias,
            addition: None,
            output,
        })
    }

    fn product(&self, index: usize, node: &NodeProto) -> Result<Weighted, String> {
        let (input, weight) = self.operands(node)?;
        let dims = self.wires.floats(&weight).unwrap_or_default();
        let &[_, columns] = dims else {
            return Err(format!("its matrix has shape {dims:?}"));
        };
        let output = node.output.first().ok_or("it has no output")?;
        let mut weighted = Weighted {
            kind: Kind::Product,
            input,
            weight,
            bias: None,
            addition: None,
            output: output.clone(),
        };
        if let Some((addition, bias)) = self.addition(index, output, columns) {
            weighted.output = self.nodes[addition].output[0].clone();
            weighted.addition = Some(addition);
            weighted.bias = Some(bias);
        }
        Ok(weighted)
    }

    fn gemm(&self, node: &NodeProto) -> Result<Weighted, String> {
        let (input, weight) = self.operands(node)?;
        let dims = self.wires.floats(&weight).unwrap_or_default();
        let &[rows, columns] = dims else {
            return Err(format!("its matrix has shape {dims:?}"));
        };
        let is_plain = int(node, "transA").unwrap_or(0) == 0
            && float(node, "alpha").unwrap_or(1.0) == 1.0
            && float(node, "beta").unwrap_or(1.0) == 1.0;
        if !is_plain {
            return Err("it transposes its input, or scales".into());
        }
        let is_transposed = int(node, "transB").unwrap_or(0) != 0;
        let bias = self.bias(node, if is_transposed { rows } else { columns })?;
        let kind = if is_transposed {
            Kind::TransposedProduct
        } else {
            Kind::Product
        };
        let output = node.output.first().ok_or("it has no output")?;
        Ok(Weighted {
            kind,
            input,
            weight,
            bias,
            addition: None,
            output: output.clone(),
        })
    }

    /// The value and the constant matrix of a node.
    fn operands(&self, node: &NodeProto) -> Result<(String, String), String> {
        let (Some(input), Some(weight)) = (node.input.first(), node.input.get(1)) else {
            return Err("it has too few inputs".into());
        };
        if self.wires.is_constant(input) || self.wires.floats(weight).is_none() {
            return Err("its second input is no constant of 32-bit floats, or its first is".into());
        }
        Ok((input.clone(), weight.clone()))
    }

    /// The third input: nothing, or a constant with one number per channel.
    fn bias(&self, node: &NodeProto, channels: i64) -> Result<Option<String>, String> {
        match node.input.get(2).filter(|name| !name.is_empty()) {
            None => Ok(None),
            Some(bias) if self.wires.floats(bias) == Some(&[channels]) => Ok(Some(bias.clone())),
            Some(bias) => Err(format!(
                "its bias {bias} is no constant of {channels} floats"
            )),
        }
    }

    /// The Add of a constant vector that alone reads a product, and the vector.
    fn addition(&self, index: usize, output: &str, columns: i64) -> Option<(usize, String)> {
        let reader = self.wires.only_reader(output).filter(|it| *it > index)?;
        let node = &self.nodes[reader];
        let merges = self.choice.merges_bias
            && is_standard(node)
            && node.op_type == "Add"
            && !self.choice.excluded.contains(&reader)
            && node.output.len() == 1;
        let bias = node.input.iter().find(|input| *input != output)?;
        (merges && self.wires.floats(bias) == Some(&[columns])).then(|| (reader, bias.clone()))
    }

    /// The value that holds a node's result: its own, or that of a Relu or Clip that alone reads it.
    fn carrier(&self, index: usize) -> Option<String> {
        let node = &self.nodes[index];
        let output = node.output.first().filter(|name| !name.is_empty())?;
        let fused = self.wires.only_reader(output).and_then(|reader| {
            let reader = &self.nodes[reader];
            let is_bound = |input: &String| input.is_empty() || self.wires.is_constant(input);
            let fuses = is_standard(reader)
                && ["Relu", "Clip"].contains(&reader.op_type.as_str())
                && reader.input.first() == Some(output)
                && reader.input.iter().skip(1).all(is_bound);
            reader.output.first().filter(|_| fuses)
        });
        Some(fused.unwrap_or(output).clone())
    }

    fn lookup(&self, node: &NodeProto) -> Option<Lookup> {
        let table = node.input.first()?;
        let &[rows, columns] = self.wires.floats(table)? else {
            return None;
        };
        // Shared with a product or another reader, it would have to be stored twice.
        let is_alone = self
            .wires
            .readers
            .get(table)
            .is_some_and(|it| it.len() == 1)
            && !self.wires.captured.contains(table);
        let is_table = is_alone
            && int(node, "axis").unwrap_or(0) == 0
            && rows >= LEAST_ROWS
            && columns >= LEAST_COLUMNS;
        is_table.then(|| Lookup {
            table: table.clone(),
            rows,
            columns,
        })
    }

    /// Nodes between 8-bit nodes: candidates on the way down, those that are needed on the way up.
    fn between(&mut self) {
        let convolutions = self.plan.weighted.iter();
        // Products give floats.
        let mut made: BTreeSet<String> = convolutions
            .filter(|(_, weighted)| weighted.kind == Kind::Convolution)
            .map(|(_, weighted)| weighted.output.clone())
            .collect();
        let mut candidates: Vec<(usize, String)> = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if !is_standard(node) || self.choice.excluded.contains(&index) {
                continue;
            }
            let op = node.op_type.as_str();
            let first = node.input.first().is_some_and(|input| made.contains(input));
            let joins = JOINT.contains(&op)
                && !node.input.is_empty()
                && node.input.iter().all(|input| made.contains(input));
            let moves = SAME.contains(&op) && first && node.output.len() == 1;
            let output = if moves {
                node.output.first().cloned()
            } else {
                self.carrier(index)
            };
            if let Some(output) = output.filter(|_| joins || moves) {
                made.insert(output.clone());
                candidates.push((index, output));
            }
        }
        let mut needed: BTreeSet<&str> = self
            .plan
            .weighted
            .values()
            .map(|weighted| weighted.input.as_str())
            .collect();
        for (index, output) in candidates.iter().rev() {
            if needed.contains(output.as_str()) {
                let node = &self.nodes[*index];
                let count = if JOINT.contains(&node.op_type.as_str()) {
                    node.input.len()
                } else {
                    1
                };
                needed.extend(node.input.iter().take(count).map(String::as_str));
                self.plan.between.insert(*index, output.clone());
            }
        }
    }

    fn values(&mut self) {
        let plan = &mut self.plan;
        for weighted in plan.weighted.values() {
            plan.values
                .insert(weighted.input.clone(), weighted.input.clone());
            if weighted.kind == Kind::Convolution {
                plan.values
                    .insert(weighted.output.clone(), weighted.output.clone());
                plan.made.insert(weighted.output.clone());
            }
        }
        // In the order of the graph, so that the scale of an input is known before that of an output.
        for (index, output) in &plan.between {
            let node = &self.nodes[*index];
            let is_same = SAME.contains(&node.op_type.as_str());
            let root = if is_same {
                let input = &node.input[0];
                plan.values.get(input).unwrap_or(input).clone()
            } else {
                output.clone()
            };
            plan.values.insert(output.clone(), root);
            plan.made.insert(output.clone());
        }
    }
}

/// Rows below which a table is not worth a look-up of codes.
const LEAST_ROWS: i64 = 256;
/// Columns below which a block of codes is mostly scale.
const LEAST_COLUMNS: i64 = 32;

fn is_known(node: &NodeProto) -> bool {
    let op = node.op_type.as_str();
    if is_standard(node) {
        ["Relu", "Clip"].contains(&op)
            || [&JOINT[..], &SAME, &FLOAT]
                .iter()
                .any(|list| list.contains(&op))
    } else {
        node.domain == crate::graph::MICROSOFT && FLOAT_MICROSOFT.contains(&op)
    }
}

/// The first node whose operator is not known: what it is called, and the operator.
pub(crate) fn first_unknown(plan: &Plan, nodes: &[NodeProto]) -> Option<(String, String)> {
    let left = plan.left.iter().find(|left| left.is_unknown)?;
    let node = &nodes[left.node];
    Some((label(node).to_string(), operator(node)))
}
