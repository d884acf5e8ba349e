//! The fused graph of a decoder: one operator of our own per layer, over packed matrices that are read in place.
//!
//! Tokens of many sequences stand together in one step. Keys and values live in pages that the engine owns and the operators
//! reach by the number of the layer, so they are no tensors of the graph.
//!
//! ```text
//!   input_ids i64[rows] · positions i32[rows] · sequences i32[rows] · pages i32[sequences,pages] · outputs i32[scored]
//!     Embedding ─► x ─► DecoderBlock 0 ─► DecoderBlock 1 ─► … ─► Head ─► logits f32[scored,vocab]
//!     RotaryAngles(positions), one per base, ──┴──────────┘
//! ```

use llmasos_kernels::pack::GROUP_ROWS;

use super::{
    Activation, Coding, DecoderSpec, LayerPart, LayerSpec, Linear, NormKind, Place, Storage, tiles,
};
use crate::error::ForgeError;
use crate::graph::{Dim, Graph, GraphBuilder, Node, TensorSpec, float_bytes};
use crate::matrix::{Matrix, Vector};
use crate::proto::onnx::DataType;
use crate::quantize::CodeFormat;
use crate::weights::Weights;

/// Whether the fused operators can compute this model in this storage: all matrices in blocks, and sizes that fill groups.
pub fn fused_is_possible(spec: &DecoderSpec, coding: &dyn Coding) -> bool {
    let layers = 0..spec.layers.len();
    let mut places = layers.flat_map(|index| LayerPart::ALL.map(|part| Place::layer(index, part)));
    let widths = spec.layers.iter().map(LayerSpec::feed_forward);
    format_of(coding, Place::Embedding).is_some()
        && (spec.head.is_none() || format_of(coding, Place::Head).is_some())
        && places.all(|place| format_of(coding, place).is_some())
        && spec.head_dim.is_multiple_of(GROUP_ROWS)
        && widths
            .into_iter()
            .all(|width| width.is_multiple_of(GROUP_ROWS))
        && spec.check_layer_blocks().is_ok()
        && spec.embedding.check_blocks().is_ok()
}

fn format_of(coding: &dyn Coding, place: Place) -> Option<CodeFormat> {
    match coding.storage(place).in_blocks() {
        Storage::Blocks(format) => Some(format),
        Storage::Dynamic | Storage::Fp32 | Storage::Fp16 => None,
    }
}

/// Builds the graph, or nothing if it is not possible ([`fused_is_possible`]). Weights are read when the graph is written.
///
/// # Errors
/// [`ForgeError::Matrix`] or [`ForgeError::Decoder`] if a tensor is missing, superfluous or of the wrong shape.
pub fn fused<'a>(
    weights: &'a dyn Weights,
    spec: &DecoderSpec,
    coding: &'a dyn Coding,
) -> Result<Option<Graph<'a>>, ForgeError> {
    spec.check(weights)?;
    if !fused_is_possible(spec, coding) {
        return Ok(None);
    }
    let mut builder = Builder {
        spec,
        weights,
        coding,
        graph: GraphBuilder::new(&spec.architecture),
    };
    builder.build();
    Ok(Some(builder.graph.finish()?))
}

struct Builder<'a, 's> {
    spec: &'s DecoderSpec,
    weights: &'a dyn Weights,
    coding: &'a dyn Coding,
    graph: GraphBuilder<'a>,
}

impl Builder<'_, '_> {
    fn build(&mut self) {
        self.inputs();
        self.embedding();
        for (index, rotary) in self.spec.rotary.iter().enumerate() {
            let frequencies: Vec<f32> = rotary
                .inverse_frequencies
                .iter()
                .map(|frequency| *frequency as f32)
                .collect();
            let name = format!("rope.{index}.frequencies");
            self.graph
                .floats(&name, &[frequencies.len() as i64], &frequencies);
            let inputs = ["positions", name.as_str()];
            let output = angles(index);
            self.graph
                .node(Node::llmasos("RotaryAngles", &inputs, &[&output]));
        }
        let mut value = "embedding".to_string();
        for (index, layer) in self.spec.layers.iter().enumerate() {
            value = self.block(index, layer, &value);
        }
        self.scores(&value);
    }

    fn inputs(&mut self) {
        let graph = &mut self.graph;
        let rows = [Dim::Named("rows")];
        graph.input("input_ids", DataType::Int64, &rows);
        graph.input("positions", DataType::Int32, &rows);
        graph.input("sequences", DataType::Int32, &rows);
        let pages = [Dim::Named("sequences"), Dim::Named("pages")];
        graph.input("pages", DataType::Int32, &pages);
        graph.input("outputs", DataType::Int32, &[Dim::Named("scored")]);
        let scores = [Dim::Named("scored"), Dim::Fixed(self.spec.vocab as i64)];
        graph.output("logits", DataType::Float, &scores);
    }

    fn embedding(&mut self) {
        let spec = self.spec;
        let embedding = vec![(Place::Embedding, spec.embedding.clone())];
        self.tiles("embedding.weight", embedding);
        let mut inputs = vec!["input_ids", "embedding.weight"];
        if let Some(part) = &spec.positions {
            let (weights, table) = (self.weights, Matrix::one(spec.hidden, part.clone()));
            let dims = [table.rows() as i64, spec.hidden as i64];
            let tensors = vec![TensorSpec::new("positions.weight", DataType::Float, &dims)];
            self.graph.payload(tensors, move || {
                Ok(vec![float_bytes(&table.floats(weights)?)])
            });
            inputs.extend(["positions", "positions.weight"]);
        }
        let node = Node::llmasos("Embedding", &inputs, &["embedding"])
            .int("rows", spec.vocab as i64)
            .int("columns", spec.hidden as i64);
        self.graph.node(node.float("scale", spec.embedding_scale));
    }

    fn block(&mut self, index: usize, layer: &LayerSpec, input: &str) -> String {
        let spec = self.spec;
        let name = |part: &str| format!("layers.{index}.{part}");
        let mut inputs: Vec<String> = [input, "positions", "sequences", "pages"]
            .map(str::to_string)
            .to_vec();
        inputs.push(layer.rotary.map(angles).unwrap_or_default());
        let norm = &layer.input_norm;
        inputs.push(self.vector(name("attention.norm.weight"), Some(&norm.weight)));
        inputs.push(self.vector(name("attention.norm.bias"), norm.bias.as_ref()));
        let place = |part| Place::layer(index, part);
        let qkv = [(place(LayerPart::Qkv), &layer.qkv)];
        inputs.extend(self.linear(name("attention.qkv"), &qkv));
        inputs.push(self.vector(name("attention.query.norm"), layer.query_norm.as_ref()));
        inputs.push(self.vector(name("attention.key.norm"), layer.key_norm.as_ref()));
        let output = [(place(LayerPart::Output), &layer.output)];
        inputs.extend(self.linear(name("attention.output"), &output));
        let norm = layer.post_attention_norm.as_ref();
        inputs.push(self.vector(name("attention.post_norm"), norm));
        let norm = &layer.ffn_norm;
        inputs.push(self.vector(name("feed_forward.norm.weight"), Some(&norm.weight)));
        inputs.push(self.vector(name("feed_forward.norm.bias"), norm.bias.as_ref()));
        let gate = layer.gate.iter().map(|gate| (place(LayerPart::Gate), gate));
        let up: Vec<_> = gate.chain([(place(LayerPart::Up), &layer.up)]).collect();
        inputs.extend(self.linear(name("feed_forward.up"), &up));
        let down = [(place(LayerPart::Down), &layer.down)];
        inputs.extend(self.linear(name("feed_forward.down"), &down));
        inputs.push(self.vector(name("feed_forward.post_norm"), layer.post_ffn_norm.as_ref()));
        inputs.push(self.kv_scales(name("kv.scales"), layer.kv_scales.as_ref()));
        let output = name("residual");
        let node = Node::llmasos("DecoderBlock", &without_tail(&inputs), &[&output])
            .int("layer", index as i64)
            .int("heads", spec.heads as i64)
            .int("kv_heads", spec.kv_heads as i64)
            .int("head_dim", spec.head_dim as i64)
            .int("ffn", layer.feed_forward() as i64)
            .float("epsilon", spec.epsilon)
            .text("norm", norm_name(spec.norm))
            .text("activation", activation_name(spec.activation))
            .int("gated", layer.gate.is_some().into())
            .int("window", layer.window.unwrap_or(0) as i64);
        self.graph.node(node.float("scale", layer.scale));
        output
    }

    fn scores(&mut self, input: &str) {
        let spec = self.spec;
        let norm = &spec.final_norm;
        let mut inputs = vec![input.to_string(), "outputs".to_string()];
        inputs.push(self.vector("final_norm.weight".into(), Some(&norm.weight)));
        inputs.push(self.vector("final_norm.bias".into(), norm.bias.as_ref()));
        inputs.push(match &spec.head {
            None => "embedding.weight".to_string(),
            Some(head) => self.tiles("head.weight", vec![(Place::Head, head.clone())]),
        });
        inputs.push(self.vector("head.bias".into(), spec.head_bias.as_ref()));
        let node = Node::llmasos("Head", &without_tail(&inputs), &["logits"])
            .float("epsilon", spec.epsilon)
            .text("norm", norm_name(spec.norm));
        self.graph.node(node.int("rows", spec.vocab as i64));
    }

    /// Registers the rows of all `linears` in turns; returns the names of matrix and bias.
    fn linear(&mut self, name: String, linears: &[(Place, &Linear)]) -> [String; 2] {
        let matrices = linears
            .iter()
            .map(|(place, linear)| (*place, linear.matrix.clone()));
        self.tiles(&name, matrices.collect());
        let biases: Option<Vec<Vector>> = linears
            .iter()
            .map(|(_, linear)| linear.bias.clone())
            .collect();
        let Some(biases) = biases else {
            return [name, String::new()];
        };
        let (weights, bias) = (self.weights, format!("{name}.bias"));
        let length: usize = biases.iter().map(Vector::length).sum();
        let tensors = vec![TensorSpec::new(&bias, DataType::Float, &[length as i64])];
        self.graph.payload(tensors, move || {
            let vectors = biases
                .iter()
                .map(|bias| bias.floats(weights))
                .collect::<Result<Vec<_>, _>>()?;
            let elements = match &vectors[..] {
                [one] => one.clone(),
                several => tiles::in_turns(several),
            };
            Ok(vec![float_bytes(&elements)])
        });
        [name, bias]
    }

    /// Registers a packed matrix of the rows of several in turns, in the format of the first; returns its name.
    fn tiles(&mut self, name: &str, matrices: Vec<(Place, Matrix)>) -> String {
        let first = matrices.first();
        let columns = first.map_or(0, |(_, matrix)| matrix.columns);
        let format = first
            .and_then(|(place, _)| format_of(self.coding, *place))
            .unwrap_or(CodeFormat::Int8);
        let rows = matrices.iter().map(|(_, matrix)| matrix.rows()).sum();
        let dims = tiles::dims(rows, columns, format);
        let (weights, coding) = (self.weights, self.coding);
        let tensors = vec![TensorSpec::new(name, DataType::Uint8, &dims)];
        self.graph.payload(tensors, move || {
            let codes = matrices
                .iter()
                .map(|(place, matrix)| coding.codes(*place, matrix, weights, format))
                .collect::<Result<Vec<_>, _>>()?;
            let rows = matrices.first().map_or(0, |(_, matrix)| matrix.rows());
            Ok(vec![tiles::packed(&codes, (rows, columns), format)?])
        });
        name.to_string()
    }

    /// Registers a vector; returns its name, or an empty one if there is none.
    fn vector(&mut self, name: String, vector: Option<&Vector>) -> String {
        let length = vector.map_or(0, Vector::length);
        self.shaped(name, vector, &[length as i64])
    }

    /// Registers scales of keys and values, one row each.
    fn kv_scales(&mut self, name: String, scales: Option<&Vector>) -> String {
        self.shaped(name, scales, &[2, self.spec.kv_width() as i64])
    }

    fn shaped(&mut self, name: String, vector: Option<&Vector>, dims: &[i64]) -> String {
        let Some(vector) = vector.cloned() else {
            return String::new();
        };
        let weights = self.weights;
        let tensors = vec![TensorSpec::new(&name, DataType::Float, dims)];
        self.graph.payload(tensors, move || {
            Ok(vec![float_bytes(&vector.floats(weights)?)])
        });
        name
    }
}

/// Inputs without the optional ones at the end that are absent.
fn without_tail(inputs: &[String]) -> Vec<&str> {
    let count = inputs
        .iter()
        .rposition(|name| !name.is_empty())
        .map_or(0, |last| last + 1);
    inputs[..count].iter().map(String::as_str).collect()
}

fn angles(rotary: usize) -> String {
    format!("rope.{rotary}.angles")
}

fn norm_name(kind: NormKind) -> &'static str {
    match kind {
        NormKind::Rms => "rms",
        NormKind::Layer => "layer",
    }
}

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_tanh",
    }
}
