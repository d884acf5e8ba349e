//! The teacher: runs forward, layer by layer, and gives logits piece by piece.

use llmasos_engine::session::Held;

use super::DistilError;
use super::graph::{Fed, Part, Shape, Slot, Workshop};
use super::net::{Net, Tensor};
use crate::error::ForgeError;

/// Most positions whose logits are in memory at once.
const MAX_PIECE: usize = 256;

/// Activations between layers: made here, or by a run.
pub(super) enum State {
    Own(Vec<f32>),
    Held(Held),
}

impl State {
    pub(super) fn feed<'f>(&'f self, name: &'f str, dims: &'f [usize]) -> Fed<'f> {
        match self {
            State::Own(values) => Fed::f32(name, dims, values),
            State::Held(held) => Fed::held(name, held),
        }
    }

    pub(super) fn data(&self) -> &[f32] {
        match self {
            State::Own(values) => values,
            State::Held(held) => held.f32().map_or(&[], |view| view.data),
        }
    }
}

/// Positions of a piece: as many of `tokens` as divide it and fit.
pub(super) fn piece_of(tokens: usize) -> usize {
    let mut pieces = (1..=tokens.min(MAX_PIECE)).rev();
    pieces
        .find(|piece| tokens.is_multiple_of(*piece))
        .unwrap_or(1)
}

/// Feeds of a layer's parameters.
pub(super) fn parameters<'f>(slots: &'f [Slot], tensors: &'f [Tensor]) -> Vec<Fed<'f>> {
    let pairs = slots.iter().zip(tensors);
    pairs
        .map(|(slot, tensor)| Fed::f32(slot.role, &tensor.dims, &tensor.values))
        .collect()
}

/// Feeds of the head's parameters.
pub(super) fn head_parameters(net: &Net) -> Vec<Fed<'_>> {
    let mut feeds: Vec<Fed<'_>> = net
        .ends
        .iter()
        .map(|(name, tensor)| Fed::f32(name, &tensor.dims, &tensor.values))
        .collect();
    if net.is_tied() {
        let head = net.head_matrix();
        feeds.push(Fed::f32("head.weight", &head.dims, &head.values));
    }
    feeds
}

/// A model that is listened to.
pub(super) struct Teacher {
    pub(super) net: Net,
    shape: Shape,
    layers: Vec<Part>,
    head: Part,
}

impl Teacher {
    pub(super) fn new(net: Net, shape: Shape, workshop: &Workshop) -> Result<Teacher, ForgeError> {
        let kinds = net.layers.kinds.iter();
        let layers = kinds
            .map(|kind| workshop.inference(kind.as_ref(), shape))
            .collect::<Result<Vec<Part>, _>>()?;
        let head = workshop.logits(&net.head, piece_of(shape.tokens()))?;
        Ok(Teacher {
            net,
            shape,
            layers,
            head,
        })
    }

    /// What the last layer gives for a batch, and what the `wanted` layers give.
    pub(super) fn run(
        &mut self,
        ids: &[u32],
        wanted: &[usize],
    ) -> Result<(State, Vec<Vec<f32>>), ForgeError> {
        let dims = [self.shape.tokens(), self.net.hidden];
        let mut x = State::Own(self.net.embed(ids, self.shape.length));
        let mut states = vec![Vec::new(); wanted.len()];
        for (index, (kind, tensors)) in self.net.layers.all.iter().enumerate() {
            let mut feeds = parameters(self.net.layers.kinds[*kind].slots(), tensors);
            feeds.push(x.feed("x", &dims));
            let y = self.layers[*kind].run(&feeds)?.take("y")?;
            drop(feeds);
            x = State::Held(y);
            for (state, _) in states
                .iter_mut()
                .zip(wanted)
                .filter(|(_, at)| **at == index)
            {
                *state = x.data().to_vec();
            }
        }
        Ok((x, states))
    }

    /// Logits of a piece of what the last layer gave: hands [positions, vocab] to `read`.
    pub(super) fn logits<T>(
        &mut self,
        x: &[f32],
        read: impl FnOnce(&[f32]) -> Result<T, ForgeError>,
    ) -> Result<T, ForgeError> {
        let dims = [x.len() / self.net.hidden, self.net.hidden];
        let mut feeds = head_parameters(&self.net);
        feeds.push(Fed::f32("x", &dims, x));
        let outputs = self.head.run(&feeds)?;
        read(outputs.f32("logits")?.data)
    }
}

/// Checks that one can teach the other.
///
/// # Errors
/// [`DistilError::Pair`].
pub(super) fn check_pair(teacher: &Net, student: &Net) -> Result<(), DistilError> {
    if teacher.vocab == student.vocab {
        return Ok(());
    }
    Err(DistilError::Pair {
        what: "vocabularies",
        teacher: format!("{} tokens", teacher.vocab),
        student: format!("{} tokens", student.vocab),
    })
}
