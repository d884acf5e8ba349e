//! Moves the matrices of a layer, before neurons of it are chosen, so that they make good what the layers before it changed.
//!
//! ```text
//!   original  ─ t ─ layer ─ streams of it ─┐ what is missing in front of qkv and up, and behind output
//!   pruned    ─ x ─ layer ─ Gram matrices ─┴► least squares (`toward`) ─► new qkv, output, gate, up; down is fitted with the cut
//! ```

use super::PruneError;
use super::overlay::Changed;
use super::side::Side;
use crate::checkpoint::layer_weight;
use crate::compress::toward::{Amount, PLACES, moved};
use crate::decoder::LayerPart;
use crate::error::ForgeError;

/// Part of what is missing that matrices make good, as the quantizer has it: each is moved as if the others were not.
const SHARE: f64 = 0.6;
/// Of the Gram matrices, in units of the middle of their diagonals.
const DAMPING: f64 = 0.01;

impl Side<'_> {
    /// Takes the original's states to behind layer `index`, and gives that layer's corrected matrices but for down; none of them if
    /// the original is not followed, or nothing before the layer has been changed.
    pub(super) fn correct(&mut self, index: usize) -> Result<Changed, ForgeError> {
        let mut changed = Changed::new();
        let Some((grams, missing)) = self.missing(index)? else {
            return Ok(changed);
        };
        let spec = &self.ground.model.spec().layers[index];
        let parts = LayerPart::ALL.into_iter();
        let matrices = parts
            .map(|part| match spec.linear(part) {
                Some(_) => self.ground.matrix(index, part),
                None => Ok(Vec::new()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let matrix = |part: LayerPart| {
            let mut all = LayerPart::ALL.into_iter().zip(&matrices);
            let found = all.find(|(other, _)| *other == part);
            found.map_or(&[][..], |(_, elements)| elements)
        };
        let amount = Amount {
            share: SHARE * self.ground.refit.map_or(0.0, |refit| refit.stream),
            damping: DAMPING,
        };
        let places = PLACES.split_last().map_or(&[][..], |(_, before)| before);
        let moved = moved(spec, &matrix, (&grams, &missing), places, amount).map_err(|part| {
            PruneError::NotPositiveDefinite {
                place: layer_weight(index, part),
                damping: DAMPING,
            }
        })?;
        for (part, weights) in moved {
            let name = match part {
                LayerPart::Qkv => "qkv.weight",
                LayerPart::Output => "output.weight",
                LayerPart::Gate => "gate.weight",
                LayerPart::Up => "up.weight",
                LayerPart::Down => "down.weight",
            };
            changed.insert(name, weights);
        }
        Ok(changed)
    }
}
