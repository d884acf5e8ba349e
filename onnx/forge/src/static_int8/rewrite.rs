//! The graph with 8-bit nodes, in the form that ONNX Runtime turns into integer kernels on the CPU.
//!
//! A value v that is stored in 8 bits is quantized once, behind its maker. 8-bit nodes and everybody else who reads a value of an
//! 8-bit node read it dequantized; an optimizer then finds DequantizeLinear → node → QuantizeLinear and puts one integer kernel in
//! its place. Products read the codes themselves.
//!
//! ```text
//!   v ─ QuantizeLinear ─ v.codes ─ DequantizeLinear ─ v.back ─ Conv ─ Clip ─ QuantizeLinear ─ …
//!                          │          weight codes ─ DequantizeLinear ┘
//!                          └─ MatMulIntegerToFloat (codes, weight codes, scales, bias) ─ floats
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::codes::{Affine, bias, least_scales, pair_scales, per_channel};
use super::options::{ProductForm, StaticOptions};
use super::plan::{Kind, Lookup, Plan, Weighted};
use super::scratch::Scratch;
use super::wires::{Wires, int};
use crate::error::ForgeError;
use crate::graph::{GraphError, Node, TensorSpec, float_bytes};
use crate::matrix::transpose;
use crate::proto::onnx::{DataType, NodeProto, ValueInfoProto};

/// Largest block of a table's row that shares a scale.
const MAX_BLOCK: i64 = 128;

/// Names of the constants that stand for a node's weights, and how well they do.
#[derive(Debug, Clone)]
pub(crate) struct Coded {
    weight: String,
    scales: String,
    zero_point: String,
    bias: Option<[String; 2]>,
    pub(crate) signal_to_noise_db: Option<f64>,
}

/// Names of the constants that describe a quantized value.
#[derive(Debug, Clone)]
struct Steps {
    scale: String,
    zero_point: String,
}

/// Everything that is the same for all graphs made from one: codes of weights and steps of values.
#[derive(Debug)]
pub(crate) struct Coder {
    /// Stands in every new name and in no old one.
    mark: String,
    pub(crate) nodes: BTreeMap<usize, Coded>,
    values: BTreeMap<String, Steps>,
}

impl Coder {
    /// For a graph with these values.
    pub(crate) fn new(nodes: &[NodeProto], wires: &Wires, inputs: &[ValueInfoProto]) -> Coder {
        let mut mark = "/q8".to_string();
        let outputs = nodes.iter().flat_map(|node| &node.output);
        let inputs = inputs.iter().map(|input| &input.name);
        for name in outputs.chain(wires.constants.keys()).chain(inputs) {
            while name.contains(&mark) {
                mark.push('_');
            }
        }
        Coder {
            mark,
            nodes: BTreeMap::new(),
            values: BTreeMap::new(),
        }
    }

    fn name(&self, base: &str, what: &str) -> String {
        format!("{base}{}.{what}", self.mark)
    }

    /// Stores the steps of a value.
    pub(crate) fn value(
        &mut self,
        value: &str,
        affine: Affine,
        scratch: &mut Scratch,
    ) -> Result<(), ForgeError> {
        let steps = Steps {
            scale: self.name(value, "scale"),
            zero_point: self.name(value, "zero_point"),
        };
        let scale = TensorSpec::new(&steps.scale, DataType::Float, &[]);
        scratch.add(scale, float_bytes(&[affine.scale]))?;
        let zero = TensorSpec::new(&steps.zero_point, DataType::Uint8, &[]);
        scratch.add(zero, vec![affine.zero_point])?;
        self.values.insert(value.to_string(), steps);
        Ok(())
    }

    /// Stores the codes of a weighted node.
    pub(crate) fn node(
        &mut self,
        (index, node): (usize, &NodeProto),
        weighted: &Weighted,
        input: Affine,
        options: &StaticOptions,
        scratch: &mut Scratch,
    ) -> Result<(), ForgeError> {
        let mut weights = scratch.floats(&weighted.weight)?;
        let dims = scratch.spec(&weighted.weight).map(|spec| spec.dims.clone());
        let mut dims = dims.unwrap_or_default();
        let is_convolution = weighted.kind == Kind::Convolution;
        let is_integer = options.products == ProductForm::IntegerToFloat;
        if weighted.kind == Kind::TransposedProduct && is_integer {
            let columns = dims[1] as usize;
            weights = transpose(&weights, columns);
            dims.reverse();
        }
        let by_row = channel_axis(weighted.kind, options.products) == 0;
        let channels = dims[if by_row { 0 } else { 1 }] as usize;
        let stride = weights.len() / channels.max(1);
        let biases = match &weighted.bias {
            Some(bias) if is_convolution => scratch.floats(bias)?,
            _ => Vec::new(),
        };
        let channel = |at: usize| if by_row { at / stride } else { at % channels };
        let mut least = least_scales(&biases, input.scale);
        if options.pairs_fit && !is_depthwise(node, &dims, weighted.kind) {
            least.resize(channels, 0.0);
            let pairs = pair_scales(&weights, channels, channel);
            least
                .iter_mut()
                .zip(pairs)
                .for_each(|(scale, pair)| *scale = scale.max(pair));
        }
        let coded = per_channel(&weighted.weight, &weights, channels, channel, &least)?;
        let base = &node.output[0]; // unlike names of nodes, those of values are unique
        let mut names = Coded {
            weight: self.name(base, "weight"),
            scales: self.name(base, "weight_scale"),
            zero_point: self.name(base, "weight_zero_point"),
            bias: None,
            signal_to_noise_db: coded.signal_to_noise_db,
        };
        let count = channels as i64;
        let codes = coded
            .codes
            .iter()
            .map(|code| code.cast_unsigned())
            .collect();
        scratch.add(TensorSpec::new(&names.weight, DataType::Int8, &dims), codes)?;
        let scales = TensorSpec::new(&names.scales, DataType::Float, &[count]);
        scratch.add(scales, float_bytes(&coded.scales))?;
        let zeros = TensorSpec::new(&names.zero_point, DataType::Int8, &[count]);
        scratch.add(zeros, vec![0; channels])?;
        if let Some(tensor) = weighted.bias.as_ref().filter(|_| is_convolution) {
            let (codes, scales) = bias(tensor, &biases, input.scale, &coded.scales)?;
            let [codes_name, scales_name] =
                ["bias", "bias_scale"].map(|what| self.name(base, what));
            let bytes = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
            scratch.add(
                TensorSpec::new(&codes_name, DataType::Int32, &[count]),
                bytes,
            )?;
            let spec = TensorSpec::new(&scales_name, DataType::Float, &[count]);
            scratch.add(spec, float_bytes(&scales))?;
            names.bias = Some([codes_name, scales_name]);
        }
        self.nodes.insert(index, names);
        Ok(())
    }

    /// Stores the codes of a table: blocks of a row have scales of their own, codes begin at zero.
    pub(crate) fn lookup(
        &mut self,
        (index, node): (usize, &NodeProto),
        lookup: &Lookup,
        scratch: &mut Scratch,
    ) -> Result<(), ForgeError> {
        let table = scratch.floats(&lookup.table)?;
        let columns = lookup.columns as usize;
        let block = block(lookup.columns) as usize;
        let blocks = columns.div_ceil(block);
        let channel = |at: usize| at / columns * blocks + at % columns / block;
        let count = lookup.rows as usize * blocks;
        let coded = per_channel(&lookup.table, &table, count, channel, &[])?;
        let base = &node.output[0]; // unlike names of nodes, those of values are unique
        let names = Coded {
            weight: self.name(base, "table"),
            scales: self.name(base, "table_scale"),
            zero_point: String::new(),
            bias: None,
            signal_to_noise_db: coded.signal_to_noise_db,
        };
        // The operator takes unsigned codes around 128.
        let codes = coded
            .codes
            .iter()
            .map(|code| code.cast_unsigned() ^ 0x80)
            .collect();
        let dims = [lookup.rows, lookup.columns];
        scratch.add(
            TensorSpec::new(&names.weight, DataType::Uint8, &dims),
            codes,
        )?;
        let spec = TensorSpec::new(
            &names.scales,
            DataType::Float,
            &[lookup.rows, blocks as i64],
        );
        scratch.add(spec, float_bytes(&coded.scales))?;
        self.nodes.insert(index, names);
        Ok(())
    }
}

/// Whether each channel is convolved on its own. Kernels for that add in 32 bits on every computer (tried with ONNX Runtime 1.32: exact
/// with codes of 127 where all other convolutions were not), and with nine weights a channel they need every bit.
fn is_depthwise(node: &NodeProto, dims: &[i64], kind: Kind) -> bool {
    let groups = int(node, "group").unwrap_or(1);
    kind == Kind::Convolution
        && groups > 1
        && dims.first() == Some(&groups)
        && dims.get(1) == Some(&1)
}

/// Columns of a row that share a scale: the largest power of two up to [`MAX_BLOCK`] that divides a row evenly, or 32.
fn block(columns: i64) -> i64 {
    let mut block = MAX_BLOCK;
    while block > 32 && columns % block != 0 {
        block /= 2;
    }
    block
}

/// Along which axis of the stored weights channels lie.
fn channel_axis(kind: Kind, products: ProductForm) -> i64 {
    match (kind, products) {
        (Kind::Convolution, _) | (Kind::TransposedProduct, ProductForm::Qdq) => 0,
        (Kind::Product | Kind::TransposedProduct, _) => 1,
    }
}

/// The nodes of the graph that `plan` describes.
///
/// # Errors
/// [`ForgeError::Graph`] for a node or value that has no codes.
pub(crate) fn rewrite(
    nodes: &[NodeProto],
    inputs: &[ValueInfoProto],
    wires: &Wires,
    plan: &Plan,
    coder: &Coder,
    products: ProductForm,
) -> Result<Vec<NodeProto>, ForgeError> {
    let mut writer = Writer {
        wires,
        plan,
        coder,
        out: Vec::with_capacity(nodes.len() * 2),
        back: BTreeSet::new(),
    };
    let swallowed: BTreeSet<usize> = plan
        .weighted
        .values()
        .filter_map(|it| it.addition)
        .collect();
    for input in inputs {
        writer.store(&input.name)?;
    }
    for (index, node) in nodes.iter().enumerate() {
        match plan.weighted.get(&index) {
            _ if swallowed.contains(&index) => continue,
            Some(weighted) if weighted.kind == Kind::Convolution => {
                writer.dequantized(index, node, weighted)?;
            }
            Some(weighted) if products == ProductForm::Qdq => {
                writer.dequantized(index, node, weighted)?;
            }
            Some(weighted) => writer.product(index, weighted)?,
            None => match plan.lookups.get(&index) {
                Some(lookup) => writer.lookup(index, node, lookup)?,
                None => writer.plain(index, node)?,
            },
        }
        let outputs = match plan.weighted.get(&index) {
            Some(weighted) if weighted.addition.is_some() => vec![weighted.output.clone()],
            _ => node.output.clone(),
        };
        for output in outputs {
            writer.store(&output)?;
        }
    }
    Ok(writer.out)
}

struct Writer<'a> {
    wires: &'a Wires,
    plan: &'a Plan,
    coder: &'a Coder,
    out: Vec<NodeProto>,
    /// Values that have been dequantized already.
    back: BTreeSet<String>,
}

impl Writer<'_> {
    fn steps(&self, value: &str) -> Result<&Steps, ForgeError> {
        let root = self.plan.values.get(value).map_or(value, String::as_str);
        Ok(self.coder.values.get(root).ok_or_else(|| undefined(root))?)
    }

    fn coded(&self, index: usize) -> Result<&Coded, ForgeError> {
        let coded = self.coder.nodes.get(&index);
        Ok(coded.ok_or_else(|| undefined(&format!("codes of node {index}")))?)
    }

    /// Quantizes a value behind its maker, if it is one that is stored in 8 bits.
    fn store(&mut self, value: &str) -> Result<(), ForgeError> {
        if !self.plan.values.contains_key(value) {
            return Ok(());
        }
        let steps = self.steps(value)?.clone();
        let (float, codes) = (self.float_name(value), self.codes_name(value));
        let inputs = [float.as_str(), &steps.scale, &steps.zero_point];
        self.out
            .push(Node::new("QuantizeLinear", &inputs, &[&codes]).into());
        if self.is_given(value) {
            self.dequantize(value)?;
        }
        Ok(())
    }

    /// Whether the caller gets what is stored in 8 bits.
    fn is_given(&self, value: &str) -> bool {
        self.plan.made.contains(value) && self.wires.outputs.contains(value)
    }

    /// What the maker of a value calls it: something else if the caller gets it from the codes.
    fn float_name(&self, value: &str) -> String {
        if self.is_given(value) {
            self.coder.name(value, "float")
        } else {
            value.to_string()
        }
    }

    fn codes_name(&self, value: &str) -> String {
        self.coder.name(value, "codes")
    }

    /// The name of a value that came back from its codes.
    fn dequantize(&mut self, value: &str) -> Result<String, ForgeError> {
        let name = if self.is_given(value) {
            value.to_string()
        } else {
            self.coder.name(value, "back")
        };
        if self.back.insert(value.to_string()) {
            let steps = self.steps(value)?.clone();
            let inputs = [self.codes_name(value), steps.scale, steps.zero_point];
            let inputs = inputs.each_ref().map(String::as_str);
            self.out
                .push(Node::new("DequantizeLinear", &inputs, &[&name]).into());
        }
        Ok(name)
    }

    /// A node as it is, but for the values that it reads from codes.
    fn plain(&mut self, index: usize, node: &NodeProto) -> Result<(), ForgeError> {
        let mut node = node.clone();
        let is_quantized = self.plan.is_quantized(index);
        for input in &mut node.input {
            let is_stored = self.plan.values.contains_key(input);
            if self.plan.made.contains(input) || (is_quantized && is_stored) {
                *input = self.dequantize(input)?;
            }
        }
        for output in &mut node.output {
            *output = self.float_name(output);
        }
        self.out.push(node);
        Ok(())
    }

    /// A weighted node whose weights come back from codes: of convolutions with the bias too.
    fn dequantized(
        &mut self,
        index: usize,
        node: &NodeProto,
        weighted: &Weighted,
    ) -> Result<(), ForgeError> {
        let coded = self.coded(index)?.clone();
        let axis = channel_axis(weighted.kind, ProductForm::Qdq);
        let weight = format!("{}_back", coded.weight);
        let inputs = [coded.weight.as_str(), &coded.scales, &coded.zero_point];
        let back = Node::new("DequantizeLinear", &inputs, &[&weight]).int("axis", axis);
        self.out.push(back.into());
        let mut node = node.clone();
        node.input[0] = self.dequantize(&weighted.input)?;
        node.input[1] = weight;
        if let Some([codes, scales]) = &coded.bias {
            let name = format!("{codes}_back");
            let back = Node::new("DequantizeLinear", &[codes, scales], &[&name]).int("axis", 0);
            self.out.push(back.into());
            node.input[2] = name;
        }
        for output in &mut node.output {
            *output = self.float_name(output);
        }
        self.out.push(node);
        Ok(())
    }

    fn product(&mut self, index: usize, weighted: &Weighted) -> Result<(), ForgeError> {
        let coded = self.coded(index)?;
        let steps = self.steps(&weighted.input)?;
        let codes = self.codes_name(&weighted.input);
        let mut inputs = vec![
            codes.as_str(),
            &coded.weight,
            &steps.scale,
            &coded.scales,
            &steps.zero_point,
        ];
        if let Some(bias) = &weighted.bias {
            // Zero points of the weights come before it; there are none.
            inputs.extend(["", bias]);
        }
        let output = self.float_name(&weighted.output);
        let node = Node::microsoft("MatMulIntegerToFloat", &inputs, &[&output]);
        self.out.push(node.into());
        Ok(())
    }

    fn lookup(
        &mut self,
        index: usize,
        node: &NodeProto,
        lookup: &Lookup,
    ) -> Result<(), ForgeError> {
        let coded = self.coded(index)?;
        let output = self.float_name(&node.output[0]);
        let inputs = [coded.weight.as_str(), &node.input[1], &coded.scales];
        let gather = Node::microsoft("GatherBlockQuantized", &inputs, &[&output])
            .int("bits", 8)
            .int("block_size", block(lookup.columns))
            .int("gather_axis", 0)
            .int("quantize_axis", 1);
        self.out.push(gather.into());
        Ok(())
    }
}

fn undefined(value: &str) -> GraphError {
    GraphError::Undefined {
        node: "the 8-bit graph".into(),
        value: value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_convolutions_of_single_channels_keep_all_bits() {
        // Kind, groups, shape of the weights, whether it is one, why.
        let cases: [(Kind, i64, &[i64], bool, &str); 5] = [
            (Kind::Convolution, 8, &[8, 1, 3, 3], true, "a channel each"),
            (
                Kind::Convolution,
                1,
                &[8, 4, 3, 3],
                false,
                "an ordinary one",
            ),
            (Kind::Convolution, 4, &[8, 2, 3, 3], false, "groups of two"),
            (
                Kind::Convolution,
                1,
                &[1, 1, 3, 3],
                false,
                "one channel is no group",
            ),
            (Kind::Product, 8, &[8, 1], false, "a product"),
        ];
        for (kind, groups, dims, expected, why) in cases {
            let node = Node::new("Conv", &["x", "w"], &["y"]).int("group", groups);
            assert_eq!(is_depthwise(&node.into(), dims, kind), expected, "{why}");
        }
    }
}
