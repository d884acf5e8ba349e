//! Graphs as sessions: written to a scratch file, opened, and run with parameters that stay where they are.

use std::fs;
use std::path::PathBuf;

use llmasos_engine::Runtime;
use llmasos_engine::session::{
    Dim as Axis, Feed, Held, Kind, Outputs, Session, SessionSpec, TensorSpec, Threads,
};

use super::matching::MatchKind;
use super::values::dims_of;
use super::{HeadKind, LossTerms, Shape, Slot, Values};
use crate::differentiate::{differentiate, needed_between, pull_back, second_part};
use crate::error::ForgeError;
use crate::graph::{Graph, GraphBuilder, Node};
use crate::proto::onnx::{DataType, TypeValue};
use crate::writer::write_model;

/// A value that goes from the forward to the backward part, with its sizes; `None` is a size that differs between layers.
pub(in crate::distil) type Kept = (&'static str, Vec<Option<usize>>);

/// What a layer graph is made from.
pub(in crate::distil) trait Layer {
    /// Width of x and y.
    fn hidden(&self) -> usize;
    /// Parameters, in the order of the graph's inputs.
    fn slots(&self) -> &[Slot];
    /// Sizes of the input `mask`, if there is one.
    fn mask(&self, shape: Shape) -> Option<Vec<usize>>;
    /// Values that are worth keeping for the backward part.
    fn kept(&self, shape: Shape) -> Vec<Kept>;
    /// Writes the layer from `x` to `y`.
    fn write(&self, v: &mut Values<'_>, shape: Shape);
}

/// Where sessions are made.
pub(in crate::distil) struct Workshop {
    pub(in crate::distil) runtime: Runtime,
    /// A folder for graph files, which live only while they are opened.
    pub(in crate::distil) dir: PathBuf,
}

/// A value for an input, with the name by which a graph may turn out not to have it.
#[derive(Debug, Clone, Copy)]
pub(in crate::distil) struct Fed<'f> {
    name: &'f str,
    feed: Feed<'f>,
}

impl<'f> Fed<'f> {
    pub(in crate::distil) fn f32(name: &'f str, dims: &'f [usize], data: &'f [f32]) -> Fed<'f> {
        let feed = Feed::f32(name, dims, data);
        Fed { name, feed }
    }

    pub(in crate::distil) fn i64(name: &'f str, dims: &'f [usize], data: &'f [i64]) -> Fed<'f> {
        let feed = Feed::i64(name, dims, data);
        Fed { name, feed }
    }

    pub(in crate::distil) fn held(name: &'f str, held: &'f Held) -> Fed<'f> {
        let feed = Feed::held(name, held);
        Fed { name, feed }
    }
}

/// An opened graph.
pub(in crate::distil) struct Part {
    session: Session,
    /// Names of the inputs, all of which have to be fed.
    pub(in crate::distil) inputs: Vec<String>,
}

impl Part {
    /// Runs it. Feeds of inputs that the graph does not have are left out, so that one list serves several parts.
    pub(in crate::distil) fn run<'s>(
        &'s mut self,
        feeds: &[Fed<'_>],
    ) -> Result<Outputs<'s>, ForgeError> {
        let known = |fed: &&Fed<'_>| self.inputs.iter().any(|input| input == fed.name);
        let feeds: Vec<Feed<'_>> = feeds.iter().filter(known).map(|fed| fed.feed).collect();
        Ok(self.session.run(&feeds)?)
    }
}

/// The graphs of all layers of one kind.
pub(in crate::distil) struct LayerGraphs {
    pub(in crate::distil) forward: Part,
    pub(in crate::distil) backward: Part,
    /// Names of the values that go from the first to the second.
    pub(in crate::distil) kept: Vec<&'static str>,
}

impl LayerGraphs {
    /// Runs the forward part: y, and what the backward part needs.
    pub(in crate::distil) fn forward(
        &mut self,
        feeds: &[Fed<'_>],
    ) -> Result<(Held, Vec<Held>), ForgeError> {
        let mut outputs = self.forward.run(feeds)?;
        let kept = self.kept.iter().map(|name| outputs.take(name));
        let kept = kept.collect::<Result<Vec<Held>, _>>()?;
        Ok((outputs.take("y")?, kept))
    }
}

impl Workshop {
    /// A layer that is not trained: x to y.
    pub(in crate::distil) fn inference(
        &self,
        layer: &dyn Layer,
        shape: Shape,
    ) -> Result<Part, ForgeError> {
        let mut v = Values::new("layer");
        layer.write(&mut v, shape);
        output(&mut v.graph, "y");
        self.open(v.graph.finish()?)
    }

    /// A layer that is trained. `trained` names the parameters that need gradients.
    pub(in crate::distil) fn training(
        &self,
        layer: &dyn Layer,
        shape: Shape,
        trained: &[&'static str],
    ) -> Result<LayerGraphs, ForgeError> {
        let candidates = layer.kept(shape);
        let names: Vec<&str> = candidates.iter().map(|(name, _)| *name).collect();
        let mut v = Values::new("layer.backward");
        layer.write(&mut v, shape);
        let nodes = v.graph.so_far().nodes.len();
        v.input("d.y", &[shape.tokens(), layer.hidden()]);
        let parameters: Vec<&str> = [&["x"], trained].concat();
        let gradients = pull_back(&mut v.graph, &[("y", "d.y")], &parameters)?;
        for (gradient, parameter) in gradients.iter().zip(&parameters) {
            give(&mut v.graph, gradient, parameter);
        }
        let mut graph = v.graph.finish()?;
        let needed = needed_between(&graph, nodes, &names);
        let kept: Vec<_> = candidates
            .into_iter()
            .filter(|(name, _)| needed.iter().any(|needed| needed == name))
            .map(|(name, sizes)| (name, dims_of(&sizes)))
            .collect();
        let given: Vec<_> = kept.iter().map(|(name, dims)| (*name, &dims[..])).collect();
        second_part(&mut graph, &given);
        let backward = self.open(graph)?;
        let mut v = Values::new("layer.forward");
        layer.write(&mut v, shape);
        output(&mut v.graph, "y");
        for (name, _) in &kept {
            output(&mut v.graph, name);
        }
        Ok(LayerGraphs {
            forward: self.open(v.graph.finish()?)?,
            backward,
            kept: kept.iter().map(|(name, _)| *name).collect(),
        })
    }

    /// Norm and head: x to logits.
    pub(in crate::distil) fn logits(
        &self,
        head: &HeadKind,
        tokens: usize,
    ) -> Result<Part, ForgeError> {
        let mut v = Values::new("head");
        head.write_logits(&mut v, tokens);
        output(&mut v.graph, "logits");
        self.open(v.graph.finish()?)
    }

    /// The loss of a piece of a batch. Gradients `d.x` and `d.NAME` of `trained` come with it, unless `trained` is `None`.
    pub(in crate::distil) fn loss(
        &self,
        head: &HeadKind,
        tokens: usize,
        terms: LossTerms,
        trained: Option<&[&'static str]>,
    ) -> Result<Part, ForgeError> {
        let mut v = Values::new("loss");
        head.write_logits(&mut v, tokens);
        head.write_loss(&mut v, tokens, terms);
        for name in ["cross_entropy", "divergence", "loss"] {
            output(&mut v.graph, name);
        }
        if let Some(trained) = trained {
            gradients(&mut v.graph, "loss", trained)?;
        }
        self.open(v.graph.finish()?)
    }

    /// A comparison of hidden states, with gradients.
    pub(in crate::distil) fn matching(
        &self,
        kind: &MatchKind,
        rows: usize,
    ) -> Result<Part, ForgeError> {
        let mut v = Values::new("matching");
        kind.write(&mut v, rows);
        output(&mut v.graph, "distance");
        let slots = kind.slots();
        let trained: Vec<&'static str> = slots.iter().map(|slot| slot.role).collect();
        gradients(&mut v.graph, "distance", &trained)?;
        self.open(v.graph.finish()?)
    }

    fn open(&self, graph: Graph<'_>) -> Result<Part, ForgeError> {
        let inputs = graph.input_names();
        let kinds: Vec<(Kind, Vec<Axis>)> = graph
            .inputs
            .iter()
            .map(
                |input| match &input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
                    Some(TypeValue::Tensor(tensor)) => {
                        let is_float = tensor.elem_type == DataType::Float as i32;
                        let rank = tensor.shape.as_ref().map_or(0, |shape| shape.dim.len());
                        let kind = if is_float { Kind::F32 } else { Kind::I64 };
                        (kind, vec![Axis::Any; rank])
                    }
                    None => (Kind::F32, Vec::new()),
                },
            )
            .collect();
        let specs: Vec<TensorSpec<'_>> = inputs
            .iter()
            .zip(&kinds)
            .map(|(name, (kind, axes))| TensorSpec::new(name, *kind, axes))
            .collect();
        let (model, file) = (graph.name.clone(), format!("{}.onnx", graph.name));
        let quiet = &mut |_: crate::folder::Progress<'_>| std::ops::ControlFlow::Continue(());
        write_model(graph, &self.dir, &file, quiet)?;
        let spec = SessionSpec {
            inputs: &specs,
            outputs: &[],
        };
        let path = self.dir.join(&file);
        let session = Session::open(&self.runtime, &model, &path, &spec, Threads::Shared)?;
        for path in [path, self.dir.join(format!("{file}.data"))] {
            if path.exists() {
                fs::remove_file(&path).map_err(ForgeError::io("remove", &path))?;
            }
        }
        Ok(Part { session, inputs })
    }
}

/// Announces a float output whose sizes the runtime finds out.
fn output(graph: &mut GraphBuilder<'_>, name: &str) {
    graph.output_of_any_shape(name, DataType::Float);
}

/// Announces a gradient as `d.PARAMETER`.
fn give(graph: &mut GraphBuilder<'_>, gradient: &str, parameter: &str) {
    let name = format!("d.{parameter}");
    graph.node(Node::new("Identity", &[gradient], &[&name]));
    output(graph, &name);
}

/// Gradients of `loss` by `x` and `trained`.
fn gradients(
    graph: &mut GraphBuilder<'_>,
    loss: &str,
    trained: &[&'static str],
) -> Result<(), ForgeError> {
    let parameters: Vec<&str> = [&["x"], trained].concat();
    let gradients = differentiate(graph, loss, &parameters)?;
    for (gradient, parameter) in gradients.iter().zip(&parameters) {
        give(graph, gradient, parameter);
    }
    Ok(())
}
