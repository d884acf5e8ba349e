//! The portable graph of a decoder, operator by operator, in stock operators of ONNX Runtime.
//!
//! One sequence; keys and values of the past are inputs and outputs that may share one buffer. Matrices that read the same input
//! are one: query|key|value and gate|up, because on few cores a kernel costs as much to start as to run. Norms are fused with the
//! residual sum before them. Only the last position meets the output head.
//!
//! ```text
//!   input_ids i64[1,S] · seqlens_k i32[1] = length − 1 · total_sequence_length i32 = length
//!   past_key_values.l.key|value f32[1,kv_heads,past,head_dim]
//!     ─► logits f32[1,1,vocab] · present.l.key|value
//!
//!   Embedding     GatherBlockQuantized | Gather (Mul by its factor)
//!   Positions     Gather of total − S … total − 1, Add
//!   Norm          SimplifiedLayerNormalization | LayerNormalization, later with the sum before: Skip…
//!   Products      MatMulNBits | MatMul, Add
//!   Head norms    Split, Reshape [0, −1, head_dim], SimplifiedLayerNormalization, Reshape back
//!   Attention     GroupQueryAttention, which rotates, masks the window, and appends to the past
//!   Activation    QuickGelu(α = 1) | Gelu, and Mul with the other half
//! ```

use std::collections::BTreeSet;

use super::{Coding, DecoderSpec, LayerPart, LayerSpec, Norm, NormKind, Place};
use crate::error::ForgeError;
use crate::graph::{Dim, Graph, GraphBuilder, Node, TensorSpec};
use crate::matrix::{Matrix, Vector};
use crate::operators::Operators;
use crate::proto::onnx::DataType;
use crate::weights::Weights;

/// Builds the graph. Weights are read when the graph is written.
///
/// # Errors
/// [`ForgeError::Matrix`] or [`ForgeError::Decoder`] if a tensor is missing, superfluous, of the wrong shape, or too narrow for
/// the storage.
pub fn portable<'a>(
    weights: &'a dyn Weights,
    spec: &DecoderSpec,
    coding: &'a dyn Coding,
) -> Result<Graph<'a>, ForgeError> {
    spec.check(weights)?;
    let mut builder = Builder::new(weights, spec, coding);
    builder.build()?;
    Ok(builder.stock.graph.finish()?)
}

/// A graph under construction; pieces of it are built by [`super::pieces`] too.
pub(super) struct Builder<'a, 's> {
    pub(super) spec: &'s DecoderSpec,
    pub(super) stock: Operators<'a>,
}

impl<'a, 's> Builder<'a, 's> {
    pub(super) fn new(
        weights: &'a dyn Weights,
        spec: &'s DecoderSpec,
        coding: &'a dyn Coding,
    ) -> Builder<'a, 's> {
        Builder {
            spec,
            stock: Operators {
                graph: GraphBuilder::new(&spec.architecture),
                weights,
                coding,
                epsilon: spec.epsilon,
            },
        }
    }

    fn build(&mut self) -> Result<(), ForgeError> {
        self.inputs();
        self.rotary_tables();
        self.shapes();
        let spec = self.spec;
        let mut residual = self.embedding()?;
        let mut normed = match spec.layers.first() {
            Some(first) => self.stock.norm(
                spec.norm,
                "layers.0.attention.norm",
                &residual,
                &first.input_norm,
            ),
            None => self
                .stock
                .norm(spec.norm, "final_norm", &residual, &spec.final_norm),
        };
        for (index, layer) in spec.layers.iter().enumerate() {
            let attention = self.attention(index, layer, &normed)?;
            let sum = format!("layers.{index}.attention.residual");
            let name = format!("layers.{index}.feed_forward.norm");
            let both = [residual.as_str(), &attention];
            let norm = self
                .stock
                .skip_norm(spec.norm, &name, both, &layer.ffn_norm, Some(&sum));
            let delta = self.feed_forward(index, layer, &norm)?;
            let next = spec.layers.get(index + 1);
            let after = format!("layers.{index}.residual");
            let (name, weights, goes_on) = match next {
                Some(next) => (
                    format!("layers.{}.attention.norm", index + 1),
                    &next.input_norm,
                    Some(after.as_str()),
                ),
                None => ("final_norm".to_string(), &spec.final_norm, None),
            };
            normed = self
                .stock
                .skip_norm(spec.norm, &name, [&sum, &delta], weights, goes_on);
            residual = after;
        }
        self.head(&normed)
    }

    fn inputs(&mut self) {
        let spec = self.spec;
        let graph = &mut self.stock.graph;
        let ids = [Dim::Fixed(1), Dim::Named("sequence")];
        graph.input("input_ids", DataType::Int64, &ids);
        graph.input("seqlens_k", DataType::Int32, &[Dim::Fixed(1)]);
        graph.input("total_sequence_length", DataType::Int32, &[]);
        let scores = [Dim::Fixed(1), Dim::Fixed(1), Dim::Fixed(spec.vocab as i64)];
        graph.output("logits", DataType::Float, &scores);
        for layer in 0..spec.layers.len() {
            for kind in ["key", "value"] {
                let shape = |length| {
                    [
                        Dim::Fixed(1),
                        Dim::Fixed(spec.kv_heads as i64),
                        Dim::Named(length),
                        Dim::Fixed(spec.head_dim as i64),
                    ]
                };
                let (past, present) = (
                    format!("past_key_values.{layer}.{kind}"),
                    format!("present.{layer}.{kind}"),
                );
                graph.input(&past, DataType::Float, &shape("past"));
                graph.output(&present, DataType::Float, &shape("present"));
            }
        }
    }

    /// cos and sin of position·frequency for each rotary embedding: f32 [context, head_dim/2] each.
    pub(super) fn rotary_tables(&mut self) {
        let context = self.spec.context;
        for (index, rotary) in self.spec.rotary.iter().enumerate() {
            let dims = [context as i64, rotary.inverse_frequencies.len() as i64];
            for (name, function) in [("cos", f64::cos as fn(f64) -> f64), ("sin", f64::sin)] {
                let frequencies = rotary.inverse_frequencies.clone();
                let name = rotary_table(index, name);
                let tensors = vec![TensorSpec::new(name, DataType::Float, &dims)];
                self.stock.graph.payload(tensors, move || {
                    let values = (0..context).flat_map(|position| {
                        frequencies
                            .iter()
                            .map(move |frequency| function(position as f64 * frequency) as f32)
                    });
                    Ok(vec![values.flat_map(f32::to_le_bytes).collect()])
                });
            }
        }
    }

    /// Constants that layers share.
    pub(super) fn shapes(&mut self) {
        let spec = self.spec;
        let (q, kv) = (spec.query_width() as i64, spec.kv_width() as i64);
        let graph = &mut self.stock.graph;
        let any_norm = |layer: &LayerSpec| layer.query_norm.is_some() || layer.key_norm.is_some();
        if spec.layers.iter().any(any_norm) {
            graph.integers("attention.split", &[3], &[q, kv, kv]);
            graph.integers("attention.by_head", &[3], &[0, -1, spec.head_dim as i64]);
            graph.integers("attention.query", &[3], &[0, -1, q]);
            graph.integers("attention.key", &[3], &[0, -1, kv]);
        }
        let gated = spec.layers.iter().filter(|layer| layer.gate.is_some());
        let widths: BTreeSet<usize> = gated.map(LayerSpec::feed_forward).collect();
        for width in widths {
            graph.integers(&halves(width), &[2], &[width as i64; 2]);
        }
    }

    /// The embedding of the ids, with its factor and positions.
    fn embedding(&mut self) -> Result<String, ForgeError> {
        let spec = self.spec;
        let stock = &mut self.stock;
        let storage = stock.table("embedding.weight", Place::Embedding, &spec.embedding)?;
        stock.lookup("embedding.weight", "input_ids", storage, "embedding");
        let mut value = "embedding";
        if spec.embedding_scale != 1.0 {
            let scale = [spec.embedding_scale];
            stock.graph.floats("embedding.scale", &[], &scale);
            let inputs = [value, "embedding.scale"];
            stock
                .graph
                .node(Node::new("Mul", &inputs, &["embedding.scaled"]));
            value = "embedding.scaled";
        }
        if let Some(part) = &spec.positions {
            let table = Matrix::one(spec.hidden, part.clone());
            stock.table("positions.weight", Place::Table, &table)?;
            positions(&mut stock.graph);
            let rows = ["positions.weight", "positions"];
            stock
                .graph
                .node(Node::new("Gather", &rows, &["positions.rows"]));
            let inputs = [value, "positions.rows"];
            stock
                .graph
                .node(Node::new("Add", &inputs, &["embedding.placed"]));
            value = "embedding.placed";
        }
        Ok(value.to_string())
    }

    /// Adds what attention makes of a normed input; returns the name of the product with the output matrix, normed where the model
    /// does so.
    pub(super) fn attention(
        &mut self,
        index: usize,
        layer: &LayerSpec,
        input: &str,
    ) -> Result<String, ForgeError> {
        let value = |name: &str| format!("layers.{index}.attention.{name}");
        let place = |part| Place::layer(index, part);
        let qkv = [(place(LayerPart::Qkv), &layer.qkv)];
        let qkv = self.stock.linear(&value("qkv"), input, &qkv)?;
        let [query, key, values] = self.head_norms(&value, layer, qkv);
        let (past, present) = (
            ["key", "value"].map(|kind| format!("past_key_values.{index}.{kind}")),
            ["key", "value"].map(|kind| format!("present.{index}.{kind}")),
        );
        let tables = layer
            .rotary
            .map(|rotary| ["cos", "sin"].map(|name| rotary_table(rotary, name)));
        let mut inputs = vec![query.as_str(), &key, &values, &past[0], &past[1]];
        inputs.extend(["seqlens_k", "total_sequence_length"]);
        inputs.extend(tables.iter().flatten().map(String::as_str));
        let heads = heads_value(index);
        let outputs = [heads.as_str(), &present[0], &present[1]];
        let mut node = Node::microsoft("GroupQueryAttention", &inputs, &outputs)
            .int("num_heads", self.spec.heads as i64)
            .int("kv_num_heads", self.spec.kv_heads as i64)
            .int("do_rotary", layer.rotary.is_some().into())
            .int("rotary_interleaved", 0)
            .float("scale", layer.scale);
        if let Some(window) = layer.window {
            node = node.int("local_window_size", window as i64);
        }
        self.stock.graph.node(node);
        let output = [(place(LayerPart::Output), &layer.output)];
        let delta = self.stock.linear(&value("output"), &heads, &output)?;
        Ok(self.post_norm(
            &value("post_norm"),
            delta,
            layer.post_attention_norm.as_ref(),
        ))
    }

    /// The inputs query, key and value of attention: packed in the first, or apart with their heads normed.
    fn head_norms(
        &mut self,
        value: &dyn Fn(&str) -> String,
        layer: &LayerSpec,
        qkv: String,
    ) -> [String; 3] {
        if layer.query_norm.is_none() && layer.key_norm.is_none() {
            return [qkv, String::new(), String::new()];
        }
        let apart = ["query", "key", "value"].map(value);
        let outputs = [apart[0].as_str(), &apart[1], &apart[2]];
        let split = Node::new("Split", &[&qkv, "attention.split"], &outputs);
        self.stock.graph.node(split.int("axis", -1));
        let [query, key, values] = apart;
        let mut normed = |input: String, norm: &Option<Vector>, shape: &str| {
            let Some(norm) = norm else { return input };
            let (by_head, name) = (format!("{input}.by_head"), format!("{input}.norm"));
            let reshape = Node::new("Reshape", &[&input, "attention.by_head"], &[&by_head]);
            self.stock.graph.node(reshape);
            let norm = Norm {
                weight: norm.clone(),
                bias: None,
            };
            let heads = self.stock.norm(NormKind::Rms, &name, &by_head, &norm);
            let output = format!("{input}.normed");
            self.stock
                .graph
                .node(Node::new("Reshape", &[&heads, shape], &[&output]));
            output
        };
        [
            normed(query, &layer.query_norm, "attention.query"),
            normed(key, &layer.key_norm, "attention.key"),
            values,
        ]
    }

    /// The same for the feed-forward part.
    pub(super) fn feed_forward(
        &mut self,
        index: usize,
        layer: &LayerSpec,
        input: &str,
    ) -> Result<String, ForgeError> {
        let value = |name: &str| format!("layers.{index}.feed_forward.{name}");
        let place = |part| Place::layer(index, part);
        let up = (place(LayerPart::Up), &layer.up);
        let inner = match &layer.gate {
            None => {
                let up = self.stock.linear(&value("up"), input, &[up])?;
                self.activation(&up, value("active"))
            }
            Some(gate) => {
                let both = [(place(LayerPart::Gate), gate), up];
                let both = self.stock.linear(&value("gate_up"), input, &both)?;
                let (gate, up, product) = (value("gate"), value("up"), value("product"));
                let split = Node::new(
                    "Split",
                    &[&both, &halves(layer.feed_forward())],
                    &[&gate, &up],
                );
                self.stock.graph.node(split.int("axis", -1));
                let active = self.activation(&gate, value("active"));
                let multiply = Node::new("Mul", &[&active, &up], &[&product]);
                self.stock.graph.node(multiply);
                product
            }
        };
        let down = [(place(LayerPart::Down), &layer.down)];
        let delta = self.stock.linear(&value("down"), &inner, &down)?;
        Ok(self.post_norm(&value("post_norm"), delta, layer.post_ffn_norm.as_ref()))
    }

    fn activation(&mut self, input: &str, output: String) -> String {
        self.stock.activation(self.spec.activation, input, &output);
        output
    }

    fn post_norm(&mut self, name: &str, delta: String, norm: Option<&Vector>) -> String {
        match norm {
            None => delta,
            Some(weight) => {
                let norm = Norm {
                    weight: weight.clone(),
                    bias: None,
                };
                self.stock.norm(NormKind::Rms, name, &delta, &norm)
            }
        }
    }

    /// Logits of the last position.
    fn head(&mut self, input: &str) -> Result<(), ForgeError> {
        let spec = self.spec;
        let (table, storage) = match &spec.head {
            None => {
                let storage = self.stock.coding.storage(Place::Embedding).in_blocks();
                ("embedding.weight", storage)
            }
            Some(head) => {
                let storage = self.stock.table("head.weight", Place::Head, head)?;
                ("head.weight", storage)
            }
        };
        let bias = spec.head_bias.as_ref().map(|bias| {
            self.stock.vector("head.bias", bias);
            "head.bias"
        });
        let matrix = (table, spec.head_matrix());
        self.stock
            .last_by_table(input, matrix, bias, storage, "logits");
        Ok(())
    }
}

/// Name of what attention gives to the output matrix.
pub(super) fn heads_value(index: usize) -> String {
    format!("layers.{index}.attention.heads")
}

/// Name of what the feed-forward part gives to its last matrix.
pub(super) fn inner_value(index: usize, layer: &LayerSpec) -> String {
    let name = if layer.gate.is_some() {
        "product"
    } else {
        "active"
    };
    format!("layers.{index}.feed_forward.{name}")
}

/// Name of the constant that halves a gated product.
fn halves(width: usize) -> String {
    format!("feed_forward.split.{width}")
}

/// i64 [S] of total − S … total − 1.
fn positions(graph: &mut GraphBuilder<'_>) {
    const INT64: i64 = DataType::Int64 as i64;
    graph.integers("positions.axis", &[], &[1]);
    graph.integers("positions.step", &[], &[1]);
    graph.node(Node::new("Shape", &["input_ids"], &["positions.shape"]));
    let sizes = ["positions.shape", "positions.axis"];
    graph.node(Node::new("Gather", &sizes, &["positions.count"]));
    let total = Node::new("Cast", &["total_sequence_length"], &["positions.end"]);
    graph.node(total.int("to", INT64));
    let ends = ["positions.end", "positions.count"];
    graph.node(Node::new("Sub", &ends, &["positions.start"]));
    let range = ["positions.start", "positions.end", "positions.step"];
    graph.node(Node::new("Range", &range, &["positions"]));
}

fn rotary_table(index: usize, name: &str) -> String {
    format!("rope.{index}.{name}")
}
