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

use super::{Activation, DecoderSpec, LayerSpec, Linear, NormKind, Options, Storage, tiles};
use crate::error::ForgeError;
use crate::graph::{Dim, Graph, GraphBuilder, Node, TensorSpec, float_bytes};
use crate::matrix::{Matrix, Vector};
use crate::proto::onnx::DataType;
use crate::quantize::CodeFormat;
use crate::weights::Weights;

/// Whether the fused operators can compute this model in this storage: all matrices in blocks, and sizes that fill groups.
pub fn fused_is_possible(spec: &DecoderSpec, options: Options) -> bool {
    formats(options).is_some()
        && spec.head_dim.is_multiple_of(GROUP_ROWS)
        && spec.feed_forward.is_multiple_of(GROUP_ROWS)
        && spec.check_layer_blocks().is_ok()
        && spec.embedding.check_blocks().is_ok()
}

fn formats(options: Options) -> Option<[CodeFormat; 2]> {
    match (options.layers, options.head) {
        (Storage::Blocks(layers), Storage::Blocks(head)) => Some([layers, head]),
        _ => None,
    }
}

/// Builds the graph, or nothing if it is not possible ([`fused_is_possible`]). Weights are read when the graph is written.
///
/// # Errors
/// [`ForgeError::Matrix`] or [`ForgeError::Decoder`] if a tensor is missing, superfluous or of the wrong shape.
pub fn fused<'a>(
    weights: &'a dyn Weights,
    spec: &DecoderSpec,
    options: Options,
) -> Result<Option<Graph<'a>>, ForgeError> {
    spec.check(weights)?;
    let Some([layers, head]) = formats(options).filter(|_| fused_is_possible(spec, options)) else {
        return Ok(None);
    };
    let mut builder = Builder {
        spec,
        weights,
        layers,
        head,
        graph: GraphBuilder::new(spec.architecture),
    };
    builder.build();
    Ok(Some(builder.graph.finish()?))
}

struct Builder<'a, 's> {
    spec: &'s DecoderSpec,
    weights: &'a dyn Weights,
    /// Of the layers' matrices.
    layers: CodeFormat,
    /// Of embedding and head.
    head: CodeFormat,
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
        self.tiles("embedding.weight", vec![spec.embedding.clone()], self.head);
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
        inputs.extend(self.linear(name("attention.qkv"), &[&layer.qkv]));
        inputs.push(self.vector(name("attention.query.norm"), layer.query_norm.as_ref()));
        inputs.push(self.vector(name("attention.key.norm"), layer.key_norm.as_ref()));
        inputs.extend(self.linear(name("attention.output"), &[&layer.output]));
        let norm = layer.post_attention_norm.as_ref();
        inputs.push(self.vector(name("attention.post_norm"), norm));
        let norm = &layer.ffn_norm;
        inputs.push(self.vector(name("feed_forward.norm.weight"), Some(&norm.weight)));
        inputs.push(self.vector(name("feed_forward.norm.bias"), norm.bias.as_ref()));
        let up: Vec<&Linear> = layer.gate.iter().chain([&layer.up]).collect();
        inputs.extend(self.linear(name("feed_forward.up"), &up));
        inputs.extend(self.linear(name("feed_forward.down"), &[&layer.down]));
        inputs.push(self.vector(name("feed_forward.post_norm"), layer.post_ffn_norm.as_ref()));
        inputs.push(self.kv_scales(name("kv.scales"), layer.kv_scales.as_ref()));
        let output = name("residual");
        let node = Node::llmasos("DecoderBlock", &without_tail(&inputs), &[&output])
            .int("layer", index as i64)
            .int("heads", spec.heads as i64)
            .int("kv_heads", spec.kv_heads as i64)
            .int("head_dim", spec.head_dim as i64)
            .int("ffn", spec.feed_forward as i64)
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
            Some(head) => self.tiles("head.weight", vec![head.clone()], self.head),
        });
        inputs.push(self.vector("head.bias".into(), spec.head_bias.as_ref()));
        let node = Node::llmasos("Head", &without_tail(&inputs), &["logits"])
            .float("epsilon", spec.epsilon)
            .text("norm", norm_name(spec.norm));
        self.graph.node(node.int("rows", spec.vocab as i64));
    }

    /// Registers the rows of all `linears` in turns; returns the names of matrix and bias.
    fn linear(&mut self, name: String, linears: &[&Linear]) -> [String; 2] {
        let matrices = linears.iter().map(|linear| linear.matrix.clone());
        self.tiles(&name, matrices.collect(), self.layers);
        let biases: Option<Vec<Vector>> =
            linears.iter().map(|linear| linear.bias.clone()).collect();
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

    /// Registers a packed matrix; returns its name.
    fn tiles(&mut self, name: &str, matrices: Vec<Matrix>, format: CodeFormat) -> String {
        let columns = matrices.first().map_or(0, |matrix| matrix.columns);
        let rows = matrices.iter().map(Matrix::rows).sum();
        let dims = tiles::dims(rows, columns, format);
        let weights = self.weights;
        let tensors = vec![TensorSpec::new(name, DataType::Uint8, &dims)];
        self.graph.payload(tensors, move || {
            Ok(vec![tiles::packed(weights, &matrices, format)?])
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
