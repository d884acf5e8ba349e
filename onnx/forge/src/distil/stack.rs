//! The layers of a student: forward with what the way back needs, and back with gradients for all trained parameters.

use llmasos_engine::session::Held;

use super::adamw::Moments;
use super::graph::{Fed, LayerGraphs, Shape, Workshop};
use super::net::{Layers, Tensor};
use super::options::DistilOptions;
use super::teacher::{State, parameters};
use crate::error::ForgeError;

/// What a batch left behind on its way forward.
pub(super) struct Trail {
    /// What each layer read.
    inputs: Vec<State>,
    /// What each layer kept.
    kept: Vec<Vec<Held>>,
    /// What the last layer gave.
    pub(super) last: State,
}

impl Trail {
    /// What a layer gave.
    pub(super) fn after(&self, layer: usize) -> &State {
        self.inputs.get(layer + 1).unwrap_or(&self.last)
    }
}

/// Layers that are trained.
pub(super) struct Stack {
    shape: Shape,
    graphs: Vec<LayerGraphs>,
    /// Trained parameters of each layer, by slot; `None` is frozen.
    moments: Vec<Vec<Option<Moments>>>,
}

impl Stack {
    pub(super) fn new(
        layers: &Layers,
        shape: Shape,
        options: &DistilOptions,
        workshop: &Workshop,
    ) -> Result<Stack, ForgeError> {
        let mut graphs = Vec::new();
        for kind in &layers.kinds {
            let roles = kind.slots().iter().map(|slot| slot.role);
            let trained: Vec<&'static str> = roles.filter(|role| options.trains(role)).collect();
            graphs.push(workshop.training(kind.as_ref(), shape, &trained)?);
        }
        let moments = layers.all.iter().map(|(_, tensors)| {
            let trained = tensors.iter();
            let trained = trained.map(|t| options.trains(&t.name).then(|| Moments::of(t)));
            trained.collect()
        });
        Ok(Stack {
            shape,
            graphs,
            moments: moments.collect(),
        })
    }

    /// Takes `x` [tokens, hidden] through all layers.
    pub(super) fn forward(
        &mut self,
        layers: &Layers,
        x: Vec<f32>,
        mask: &[f32],
    ) -> Result<Trail, ForgeError> {
        let dims = [self.shape.tokens(), layers.hidden];
        let mask_dims = mask_dims(self.shape);
        let count = layers.all.len();
        let (mut inputs, mut all) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut x = State::Own(x);
        for (kind, tensors) in &layers.all {
            let mut feeds = parameters(layers.kinds[*kind].slots(), tensors);
            feeds.push(x.feed("x", &dims));
            feeds.push(Fed::f32("mask", &mask_dims, mask));
            let (y, kept) = self.graphs[*kind].forward(&feeds)?;
            drop(feeds);
            inputs.push(std::mem::replace(&mut x, State::Held(y)));
            all.push(kept);
        }
        Ok(Trail {
            inputs,
            kept: all,
            last: x,
        })
    }

    /// From the last layer to the first, from the gradient `arriving` at what the last one gave, with gradients `beside` that
    /// arrive at what other layers gave. What was kept goes as soon as it was used. Returns the gradient by the first `x`.
    pub(super) fn backward(
        &mut self,
        layers: &Layers,
        mut trail: Trail,
        arriving: Vec<f32>,
        beside: &[(usize, Vec<f32>)],
        mask: &[f32],
    ) -> Result<State, ForgeError> {
        let dims = [self.shape.tokens(), layers.hidden];
        let mask_dims = mask_dims(self.shape);
        let mut arriving = State::Own(arriving);
        for (index, (kind, tensors)) in layers.all.iter().enumerate().rev() {
            for (_, gradient) in beside.iter().filter(|(layer, _)| *layer == index) {
                let sum = arriving.data().iter().zip(gradient).map(|(a, b)| a + b);
                arriving = State::Own(sum.collect());
            }
            let slots = layers.kinds[*kind].slots();
            let (Some(x), Some(kept)) = (trail.inputs.pop(), trail.kept.pop()) else {
                break;
            };
            let graphs = &mut self.graphs[*kind];
            let mut feeds = parameters(slots, tensors);
            feeds.push(x.feed("x", &dims));
            feeds.push(arriving.feed("d.y", &dims));
            feeds.push(Fed::f32("mask", &mask_dims, mask));
            let kept_feeds = graphs.kept.iter().zip(&kept);
            feeds.extend(kept_feeds.map(|(name, held)| Fed::held(name, held)));
            let mut outputs = graphs.backward.run(&feeds)?;
            for (slot, moments) in slots.iter().zip(&mut self.moments[index]) {
                if let Some(moments) = moments {
                    moments.add(outputs.f32(&format!("d.{}", slot.role))?.data);
                }
            }
            let next = outputs.take("d.x")?;
            drop(outputs);
            drop(feeds);
            arriving = State::Held(next);
        }
        Ok(arriving)
    }

    /// All moments, always in the same order.
    pub(super) fn moments(&self) -> impl Iterator<Item = &Moments> {
        self.moments.iter().flatten().flatten()
    }

    /// All trained parameters with their moments, in the same order.
    pub(super) fn each_trained(
        &mut self,
        layers: &mut Layers,
        work: &mut dyn FnMut(&mut Tensor, &mut Moments),
    ) {
        for ((_, tensors), moments) in layers.all.iter_mut().zip(&mut self.moments) {
            for (tensor, moments) in tensors.iter_mut().zip(moments) {
                if let Some(moments) = moments {
                    work(tensor, moments);
                }
            }
        }
    }
}

/// Sizes of the mask of layers that have one.
pub(super) fn mask_dims(shape: Shape) -> [usize; 5] {
    [shape.batch, 1, 1, 1, shape.length]
}
