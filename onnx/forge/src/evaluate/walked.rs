//! A checkpoint that reads all sequences of an evaluation at once, layer by layer: the original in 32-bit floats needs the memory of one
//! layer, whatever its size.

use std::path::Path;

use llmasos_engine::Runtime;

use super::{EvaluateError, Hear, Predict, check, progress};
use crate::checkpoint::Checkpoint;
use crate::decoder::Coding;
use crate::error::ForgeError;
use crate::folder::Watch;
use crate::walk::{Head, Walk};

/// Hidden states of all sequences behind the last layer, and the head that makes scores of them.
pub struct Walked {
    sequences: Vec<Vec<u32>>,
    hidden: Vec<Vec<f32>>,
    head: Head,
    vocab: usize,
}

impl Walked {
    /// Takes the sequences through all layers, whose matrices are computed as `coding` stores them
    /// ([`Options::FP32`](crate::decoder::Options::FP32) for the float reference). `scratch` is an existing folder that nothing else writes to meanwhile.
    ///
    /// # Errors
    /// [`EvaluateError`], those of the walk, [`ForgeError::Cancelled`].
    pub fn new(
        (checkpoint, coding): (&Checkpoint, &dyn Coding),
        sequences: &[Vec<u32>],
        runtime: &Runtime,
        scratch: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Walked, ForgeError> {
        let spec = checkpoint.spec();
        check(sequences, spec.vocab)?;
        let model = (spec, checkpoint.weights());
        let walk = Walk::new(runtime, model, coding, scratch);
        let texts = sequences.iter();
        let mut hidden: Vec<Vec<f32>> = texts
            .map(|text| walk.embed(text))
            .collect::<Result<_, _>>()?;
        let layers = spec.layers.len();
        for index in 0..layers {
            progress(watch, "layers", index as u64, layers as u64)?;
            walk.layer(index, &mut hidden)?;
        }
        Ok(Walked {
            sequences: sequences.to_vec(),
            hidden,
            head: walk.head()?,
            vocab: spec.vocab,
        })
    }
}

impl Predict for Walked {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn predict(
        &mut self,
        index: usize,
        tokens: &[u32],
        from: usize,
        hear: &mut Hear<'_>,
    ) -> Result<(), ForgeError> {
        if self
            .sequences
            .get(index)
            .is_none_or(|walked| walked != tokens)
        {
            return Err(EvaluateError::Sequences {
                what: "sequence",
                expected: format!(
                    "one of the {} that were walked through",
                    self.sequences.len()
                ),
                found: format!("number {index} of {} tokens", tokens.len()),
            }
            .into());
        }
        self.head.scores(&self.hidden[index], from, hear)
    }
}
