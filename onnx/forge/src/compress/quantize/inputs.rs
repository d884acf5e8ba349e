//! Gram matrices of a layer's four inputs, as the quantizers take them.

use super::{Channels, Hessian, QuantizeError};
use crate::decoder::{DecoderSpec, LayerPart};
use crate::walk::{Gram, Grams};

/// Gram matrices of a layer's four inputs.
pub(super) struct Hessians([Hessian; 4]);

impl Hessians {
    /// Takes them from a walk.
    ///
    /// # Errors
    /// Those of [`Hessian::new`].
    pub(super) fn of(grams: Grams) -> Result<Hessians, QuantizeError> {
        // In units of a row, which single precision holds, however many there were.
        let single = |gram: &Gram| {
            let unit = 1.0 / gram.rows.max(1) as f64;
            let values = gram.sum.iter().map(|value| (value * unit) as f32);
            Hessian::new(gram.width, values.collect())
        };
        Ok(Hessians([
            single(&grams.qkv)?,
            single(&grams.output)?,
            single(&grams.up)?,
            single(&grams.down)?,
        ]))
    }

    fn number(part: LayerPart) -> usize {
        match part {
            LayerPart::Qkv => 0,
            LayerPart::Output => 1,
            LayerPart::Gate | LayerPart::Up => 2,
            LayerPart::Down => 3,
        }
    }

    /// Of what a part reads.
    pub(super) fn of_part(&self, part: LayerPart) -> &Hessian {
        &self.0[Hessians::number(part)]
    }

    /// Of the input of a part, divided by `scales`.
    pub(super) fn rescale(&mut self, part: LayerPart, scales: &[f32]) {
        let own = &mut self.0[Hessians::number(part)];
        *own = own.rescaled(scales);
    }
}

/// Which inputs of a matrix can only be scaled alike.
pub(super) fn channels(spec: &DecoderSpec, part: LayerPart, columns: usize) -> Channels {
    match part {
        LayerPart::Output => Channels::value_heads(spec.heads, spec.kv_heads, spec.head_dim),
        LayerPart::Qkv | LayerPart::Gate | LayerPart::Up | LayerPart::Down => {
            Channels::each(columns)
        }
    }
}
