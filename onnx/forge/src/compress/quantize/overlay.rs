//! A model with some of its tensors changed, for a walk through layers that are not on the disk yet.

use std::collections::BTreeMap;

use crate::error::ForgeError;
use crate::gguf::BlockFormat;
use crate::weights::Weights;

/// Weights of a checkpoint, but for those that were changed. Shapes stay.
pub(super) struct Overlay<'a> {
    base: &'a dyn Weights,
    changed: BTreeMap<String, Vec<u8>>,
}

impl<'a> Overlay<'a> {
    /// Changes the given tensors.
    pub(super) fn new<'t>(
        base: &'a dyn Weights,
        changed: impl IntoIterator<Item = (&'t String, &'t Vec<f32>)>,
    ) -> Overlay<'a> {
        let bytes = |elements: &[f32]| {
            elements
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        Overlay {
            base,
            changed: changed
                .into_iter()
                .map(|(name, elements)| (name.clone(), bytes(elements)))
                .collect(),
        }
    }
}

impl Weights for Overlay<'_> {
    fn names(&self) -> Vec<&str> {
        self.base.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.base.shape(name)
    }

    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
        match self.changed.get(name) {
            Some(bytes) => Ok((BlockFormat::F32, bytes)),
            None => self.base.raw(name),
        }
    }
}
