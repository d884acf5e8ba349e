//! The graph of an encoder, operator by operator, in the order of the picture in [`super`].

use super::{EncoderLayer, EncoderSpec};
use crate::decoder::{Coding, LayerPart, NormKind, Place};
use crate::error::ForgeError;
use crate::graph::{Dim, Graph, GraphBuilder, Node};
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
    spec: &EncoderSpec,
    coding: &'a dyn Coding,
) -> Result<Graph<'a>, ForgeError> {
    spec.check(weights)?;
    let mut stock = Operators {
        graph: GraphBuilder::new(spec.architecture),
        weights,
        coding,
        epsilon: spec.epsilon,
    };
    inputs(&mut stock.graph, spec);
    let mut value = embedding(&mut stock, spec)?;
    for (index, layer) in spec.layers.iter().enumerate() {
        value = encode(&mut stock, spec, (index, layer), &value)?;
    }
    let outputs = ["last_hidden_state"];
    stock.graph.node(Node::new("Identity", &[&value], &outputs));
    Ok(stock.graph.finish()?)
}

fn inputs(graph: &mut GraphBuilder<'_>, spec: &EncoderSpec) {
    let text = [Dim::Named("batch"), Dim::Named("sequence")];
    for name in ["input_ids", "attention_mask", "token_type_ids"] {
        graph.input(name, DataType::Int64, &text);
    }
    let vectors = [text[0], text[1], Dim::Fixed(spec.hidden as i64)];
    graph.output("last_hidden_state", DataType::Float, &vectors);
    let width = spec.hidden as i64;
    graph.integers("attention.split", &[3], &[width; 3]);
    let mask = Node::new("Cast", &["attention_mask"], &["attention.mask"]);
    graph.node(mask.int("to", DataType::Int32 as i64));
}

/// The normed sum of word, position and kind.
fn embedding(stock: &mut Operators<'_>, spec: &EncoderSpec) -> Result<String, ForgeError> {
    let storage = stock.table("embedding.weight", Place::Embedding, &spec.embedding)?;
    stock.table("positions.weight", Place::Table, &spec.positions)?;
    stock.table("types.weight", Place::Table, &spec.token_types)?;
    stock.lookup("embedding.weight", "input_ids", storage, "embedding.words");
    let graph = &mut stock.graph;
    graph.integers("positions.axis", &[1], &[1]);
    graph.integers("positions.start", &[1], &[0]);
    graph.node(Node::new("Shape", &["input_ids"], &["positions.shape"]));
    let size = ["positions.shape", "positions.axis"];
    graph.node(Node::new("Gather", &size, &["positions.count"]));
    let slice = [
        "positions.weight",
        "positions.start",
        "positions.count",
        "positions.start", // the axis, which is 0 too
    ];
    graph.node(Node::new("Slice", &slice, &["positions.rows"]));
    let types = ["types.weight", "token_type_ids"];
    graph.node(Node::new("Gather", &types, &["types.rows"]));
    let placed = ["embedding.words", "positions.rows"];
    graph.node(Node::new("Add", &placed, &["embedding.placed"]));
    let sum = ["embedding.placed", "types.rows"];
    graph.node(Node::new("Add", &sum, &["embedding.sum"]));
    let norm = &spec.embedding_norm;
    Ok(stock.norm(NormKind::Layer, "embedding.norm", "embedding.sum", norm))
}

fn encode(
    stock: &mut Operators<'_>,
    spec: &EncoderSpec,
    (index, layer): (usize, &EncoderLayer),
    input: &str,
) -> Result<String, ForgeError> {
    let value = |name: &str| format!("layers.{index}.{name}");
    let place = |part| Place::layer(index, part);
    let qkv = stock.linear(
        &value("attention.qkv"),
        input,
        &[(place(LayerPart::Qkv), &layer.qkv)],
    )?;
    let parts = ["query", "key", "value"].map(|name| value(&format!("attention.{name}")));
    let outputs = parts.each_ref().map(String::as_str);
    let split = Node::new("Split", &[&qkv, "attention.split"], &outputs);
    stock.graph.node(split.int("axis", -1));
    let [query, key, values] = outputs;
    let heads = value("attention.heads");
    let inputs = [query, key, values, "", "attention.mask"];
    let attention = Node::microsoft("MultiHeadAttention", &inputs, &[&heads]);
    stock
        .graph
        .node(attention.int("num_heads", spec.heads as i64));
    let delta = stock.linear(
        &value("attention.output"),
        &heads,
        &[(place(LayerPart::Output), &layer.output)],
    )?;
    let name = value("attention.norm");
    let sum = [input, delta.as_str()];
    let middle = stock.skip_norm(NormKind::Layer, &name, sum, &layer.attention_norm, None);
    let up = stock.linear(
        &value("feed_forward.up"),
        &middle,
        &[(place(LayerPart::Up), &layer.up)],
    )?;
    let active = value("feed_forward.active");
    stock.activation(spec.activation, &up, &active);
    let delta = stock.linear(
        &value("feed_forward.down"),
        &active,
        &[(place(LayerPart::Down), &layer.down)],
    )?;
    let name = value("feed_forward.norm");
    let sum = [middle.as_str(), &delta];
    Ok(stock.skip_norm(NormKind::Layer, &name, sum, &layer.ffn_norm, None))
}
