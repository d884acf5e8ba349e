//! A model of which one layer has been changed, before it is on the disk: for walking through that layer.

use std::collections::BTreeMap;

use crate::error::ForgeError;
use crate::gguf::BlockFormat;
use crate::graph::float_bytes;
use crate::weights::Weights;

/// New tensors of one layer, by what comes behind `layers.N.` in their names.
pub(super) type Changed = BTreeMap<&'static str, Vec<f32>>;

/// Weights of a checkpoint, but for those that were changed; their sizes may have changed too.
pub(super) struct Overlay<'a> {
    base: &'a dyn Weights,
    changed: BTreeMap<String, (Vec<u64>, Vec<u8>)>,
}

impl<'a> Overlay<'a> {
    /// Changes tensors of layer `index`. Matrices have `columns(part)` columns; everything else is a vector.
    pub(super) fn new(
        base: &'a dyn Weights,
        index: usize,
        changed: &Changed,
        columns: &dyn Fn(&str) -> Option<usize>,
    ) -> Overlay<'a> {
        let tensors = changed.iter().map(|(part, elements)| {
            let length = elements.len() as u64;
            let shape = match columns(part) {
                Some(columns) => vec![length / columns.max(1) as u64, columns as u64],
                None => vec![length],
            };
            let name = format!("layers.{index}.{part}");
            (name, (shape, float_bytes(elements)))
        });
        Overlay {
            base,
            changed: tensors.collect(),
        }
    }
}

impl Weights for Overlay<'_> {
    fn names(&self) -> Vec<&str> {
        self.base.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        match self.changed.get(name) {
            Some((shape, _)) => Some(shape.clone()),
            None => self.base.shape(name),
        }
    }

    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
        match self.changed.get(name) {
            Some((_, bytes)) => Ok((BlockFormat::F32, bytes)),
            None => self.base.raw(name),
        }
    }
}
