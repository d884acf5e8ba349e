//! Pieces of a decoder as graphs of their own: one layer, or the head. Whoever looks into a model, or changes it layer by layer,
//! runs these one after the other, so that a model of any size needs the memory of one layer.
//!
//! ```text
//!   layer l   hidden_in f32[1,S,D] · seqlens_k i32[1] = S−1 · total_sequence_length i32 = S ─► hidden_out f32[1,S,D]
//!             inputs of its matrices: as they are     qkv|output|up|down.input f32[1,S,K]
//!                                     or their Gram   qkv|output|up|down.gram  f32[1,K,K] = Σ_s x_s·x_sᵀ
//!             or what attention keeps                 present.l.key|value f32[1,kv_heads,S,head_dim]
//!             or the stream between its matrices      qkv|middle|up.stream f32[1,S,D]
//!             or Gram matrices, and what is missing to another stream t, which is fed as qkv|middle|up|after.toward f32[1,S,D]:
//!                                                     qkv|up.cross      f32[1,D,D] = Σ_s (t_s − x_s)·x_sᵀ
//!                                                     output|down.cross f32[1,D,K] = Σ_s (t_s − stream behind it)·x_sᵀ
//!   head      hidden_in f32[1,S,D] ─► logits f32[1,S,V], the final norm before
//! ```

use super::portable::{Builder, heads_value, inner_value};
use super::{Coding, DecoderSpec, LayerSpec, Place};
use crate::error::ForgeError;
use crate::graph::{Dim, Graph, Node, TensorSpec};
use crate::proto::onnx::DataType;
use crate::weights::Weights;

/// What is seen of the inputs of a layer's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Away,
    /// All of them, a row for each token.
    Inputs,
    /// The sums of their products, which is all that a quadratic error needs: xᵀx over the tokens.
    Gram,
    /// Not them, but the keys (rotated) and values that attention keeps.
    Cache,
    /// The stream at three places: what query, key and value read, what is behind attention, and what gate and up read.
    Stream,
    /// As [`Look::Gram`], and what is missing to another stream that is fed.
    Toward,
}

/// Places of [`Look::Stream`], in the order of computation; what is behind the layer is its output.
pub(crate) const STREAM: [&str; 3] = ["qkv", "middle", "up"];

/// Names of the four different inputs, in the order of computation; gate and up read the same.
const INPUTS: [&str; 4] = ["qkv", "output", "up", "down"];

/// The graph of layer `index`. Weights are read when the graph is written.
///
/// # Errors
/// As [`super::portable`].
pub fn layer<'a>(
    weights: &'a dyn Weights,
    spec: &DecoderSpec,
    index: usize,
    coding: &'a dyn Coding,
    look: Look,
) -> Result<Graph<'a>, ForgeError> {
    let mut builder = Builder::new(weights, spec, coding);
    inputs(&mut builder, index);
    builder.rotary_tables();
    builder.shapes();
    let layer = &spec.layers[index];
    let name = format!("layers.{index}.attention.norm");
    let normed = builder
        .stock
        .norm(spec.norm, &name, "hidden_in", &layer.input_norm);
    let attention = builder.attention(index, layer, &normed)?;
    let sum = format!("layers.{index}.attention.residual");
    let name = format!("layers.{index}.feed_forward.norm");
    let both = ["hidden_in", attention.as_str()];
    let between = builder
        .stock
        .skip_norm(spec.norm, &name, both, &layer.ffn_norm, Some(&sum));
    let delta = builder.feed_forward(index, layer, &between)?;
    let graph = &mut builder.stock.graph;
    graph.node(Node::new("Add", &[&sum, &delta], &["hidden_out"]));
    let stream = [Dim::Fixed(1), Dim::Named("sequence"), hidden(spec)];
    graph.output("hidden_out", DataType::Float, &stream);
    let places = [normed.as_str(), &sum, &between, "hidden_out"];
    match look {
        Look::Stream => streams(&mut builder, &places[..3]),
        Look::Toward => missing(&mut builder, places, index, layer),
        Look::Away | Look::Inputs | Look::Gram | Look::Cache => {}
    }
    let seen = [
        normed,
        heads_value(index),
        between,
        inner_value(index, layer),
    ];
    if look == Look::Cache {
        for kind in ["key", "value"] {
            let sizes = [1, spec.kv_heads as i64, 0, spec.head_dim as i64].map(Dim::Fixed);
            let shape = [sizes[0], sizes[1], Dim::Named("sequence"), sizes[3]];
            let name = format!("present.{index}.{kind}");
            builder.stock.graph.output(&name, DataType::Float, &shape);
        }
    }
    for ((name, value), width) in INPUTS.iter().zip(&seen).zip(widths(spec, layer)) {
        show(&mut builder, look, (name, value), width);
    }
    Ok(builder.stock.graph.finish()?)
}

/// The graph of the final norm and the output head, for all positions.
///
/// # Errors
/// As [`super::portable`].
pub fn head<'a>(
    weights: &'a dyn Weights,
    spec: &DecoderSpec,
    coding: &'a dyn Coding,
) -> Result<Graph<'a>, ForgeError> {
    let mut builder = Builder::new(weights, spec, coding);
    let place = match &spec.head {
        None => Place::Embedding,
        Some(_) => Place::Head,
    };
    let stream = [Dim::Fixed(1), Dim::Named("sequence"), hidden(spec)];
    let scores = [stream[0], stream[1], Dim::Fixed(spec.vocab as i64)];
    let stock = &mut builder.stock;
    stock.graph.input("hidden_in", DataType::Float, &stream);
    stock.graph.output("logits", DataType::Float, &scores);
    let normed = stock.norm(spec.norm, "final_norm", "hidden_in", &spec.final_norm);
    let linear = super::Linear {
        matrix: spec.head_matrix().clone(),
        bias: spec.head_bias.clone(),
    };
    let product = stock.linear("head", &normed, &[(place, &linear)])?;
    let output = Node::new("Identity", &[&product], &["logits"]);
    stock.graph.node(output);
    Ok(builder.stock.graph.finish()?)
}

fn hidden(spec: &DecoderSpec) -> Dim<'static> {
    Dim::Fixed(spec.hidden as i64)
}

/// Widths of the four inputs of a layer's matrices.
pub(crate) fn widths(spec: &DecoderSpec, layer: &LayerSpec) -> [usize; 4] {
    [
        spec.hidden,
        spec.query_width(),
        spec.hidden,
        layer.feed_forward(),
    ]
}

/// Inputs of a layer; it has no past.
fn inputs(builder: &mut Builder<'_, '_>, index: usize) {
    let spec = builder.spec;
    let graph = &mut builder.stock.graph;
    let stream = [Dim::Fixed(1), Dim::Named("sequence"), hidden(spec)];
    graph.input("hidden_in", DataType::Float, &stream);
    graph.input("seqlens_k", DataType::Int32, &[Dim::Fixed(1)]);
    graph.input("total_sequence_length", DataType::Int32, &[]);
    let none = [1, spec.kv_heads as i64, 0, spec.head_dim as i64];
    for kind in ["key", "value"] {
        let name = format!("past_key_values.{index}.{kind}");
        let tensors = vec![TensorSpec::new(name, DataType::Float, &none)];
        graph.payload(tensors, || Ok(vec![Vec::new()]));
    }
}

/// Gives the stream at some places out.
fn streams(builder: &mut Builder<'_, '_>, places: &[&str]) {
    let stream = [Dim::Fixed(1), Dim::Named("sequence"), hidden(builder.spec)];
    let graph = &mut builder.stock.graph;
    for (name, value) in STREAM.iter().zip(places) {
        let output = format!("{name}.stream");
        graph.output(&output, DataType::Float, &stream);
        graph.node(Node::new("Identity", &[value], &[&output]));
    }
}

/// Takes another stream at the four places, and gives out what is missing to it, times what the matrices read.
fn missing(builder: &mut Builder<'_, '_>, places: [&str; 4], index: usize, layer: &LayerSpec) {
    let spec = builder.spec;
    let stream = [Dim::Fixed(1), Dim::Named("sequence"), hidden(spec)];
    let (heads, inner) = (heads_value(index), inner_value(index, layer));
    let read = [places[0], &heads, places[2], &inner];
    let graph = &mut builder.stock.graph;
    graph.input(
        "share",
        DataType::Float,
        &[stream[0], stream[1], Dim::Fixed(1)],
    );
    let fed = STREAM.iter().chain(&["after"]);
    let pairs = fed.zip(places).zip(INPUTS.iter().zip(read));
    for (((fed, place), (name, read)), width) in pairs.zip(widths(spec, layer)) {
        let (toward, missing) = (format!("{fed}.toward"), format!("{name}.missing"));
        let difference = format!("{name}.difference");
        let cross = format!("{name}.cross");
        graph.input(&toward, DataType::Float, &stream);
        graph.node(Node::new("Sub", &[&toward, place], &[&difference]));
        graph.node(Node::new("Mul", &[&difference, "share"], &[&missing]));
        let shape = [Dim::Fixed(1), hidden(spec), Dim::Fixed(width as i64)];
        graph.output(&cross, DataType::Float, &shape);
        let node = Node::microsoft("FusedMatMul", &[&missing, read], &[&cross]);
        graph.node(node.int("transA", 1).int("transB", 0));
    }
}

fn show(builder: &mut Builder<'_, '_>, look: Look, (name, value): (&str, &str), width: usize) {
    let graph = &mut builder.stock.graph;
    let width = Dim::Fixed(width as i64);
    match look {
        Look::Away | Look::Cache | Look::Stream => {}
        Look::Inputs => {
            let output = format!("{name}.input");
            let shape = [Dim::Fixed(1), Dim::Named("sequence"), width];
            graph.output(&output, DataType::Float, &shape);
            graph.node(Node::new("Identity", &[value], &[&output]));
        }
        Look::Gram | Look::Toward => {
            let output = format!("{name}.gram");
            graph.output(&output, DataType::Float, &[Dim::Fixed(1), width, width]);
            let node = Node::microsoft("FusedMatMul", &[value, value], &[&output]);
            graph.node(node.int("transA", 1).int("transB", 0));
        }
    }
}
