//! Named tensors of a model, whatever file they stand in.
//!
//! Graph writers ask for a tensor by name and take its rows in pieces, so that a table of gigabytes never stands in memory as
//! floats. Shapes read like the checkpoint's own: the slowest size first, a matrix is [outputs, inputs].
//!
//! ```text
//!   GGUF file ─────────────┐
//!                          ├─► Weights { names, shape, rows, raw } ──► decoder, encoder
//!   safetensors shards ────┘
//! ```

use std::ops::Range;

use crate::error::ForgeError;
use crate::gguf::{BlockFormat, Gguf, GgufError};

/// A source of named tensors.
pub trait Weights {
    /// All names, sorted.
    fn names(&self) -> Vec<&str>;

    /// Sizes, slowest first; `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<u64>>;

    /// Bytes as stored, and how; rows follow each other without gaps.
    ///
    /// # Errors
    /// If there is no such tensor, or it holds no weights (integers, truth values).
    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError>;

    /// Elements of the given rows as f32. A row is the last size of the shape.
    ///
    /// # Errors
    /// As [`Weights::raw`], and if a weight is infinite or not a number.
    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>, ForgeError> {
        let (format, bytes) = self.raw(name)?;
        let columns = self
            .shape(name)
            .and_then(|shape| shape.last().copied())
            .unwrap_or(1);
        let row_bytes = (columns / format.block_elements() * format.block_bytes()) as usize;
        let piece = bytes
            .get(rows.start * row_bytes..rows.end * row_bytes)
            .unwrap_or_default();
        let weights = format.dequantize(piece);
        match weights.iter().position(|weight| !weight.is_finite()) {
            None => Ok(weights),
            Some(index) => Err(GgufError::NotFinite {
                tensor: name.to_string(),
                index: rows.start * columns as usize + index,
                value: weights[index],
            }
            .into()),
        }
    }

    /// All elements as f32.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    fn floats(&self, name: &str) -> Result<Vec<f32>, ForgeError> {
        let shape = self.shape(name).unwrap_or_default();
        let rows = shape
            .split_last()
            .map_or(1, |(_, outer)| outer.iter().product());
        self.rows(name, 0..rows as usize)
    }

    /// Whether there is such a tensor.
    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

impl Weights for Gguf<'_> {
    fn names(&self) -> Vec<&str> {
        self.tensors().keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        let info = self.tensors().get(name)?;
        Some(info.dims.iter().rev().copied().collect())
    }

    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
        Ok((self.tensor(name)?.format, Gguf::raw(self, name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::sample::Sample;

    #[test]
    fn rows_are_the_last_size() {
        let values: Vec<f32> = (0..12_u8).map(f32::from).collect();
        let bytes = Sample::default()
            .floats("w", &[3, 4], &values)
            .floats("v", &[2], &[1.0, f32::NAN])
            .bytes(0);
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.shape("w"), Some(vec![4, 3]));
        assert_eq!(gguf.rows("w", 1..3).unwrap(), values[3..9]);
        assert_eq!(gguf.floats("w").unwrap(), values);
        let message = gguf.floats("v").unwrap_err().to_string();
        assert!(message.contains("tensor v: weight 1 is NaN"), "{message}");
    }
}
