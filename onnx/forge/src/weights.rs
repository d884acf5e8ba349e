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

use std::ops::{ControlFlow, Range};

use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch};
use crate::gguf::{BlockFormat, Gguf, GgufError};
use crate::mapped::MappedFile;

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

    /// Lets go of the memory of what was read, where that is possible. Reading again is slower, and gives the same.
    fn release(&self) {}

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

/// The tensors of a GGUF file that is mapped.
pub(crate) struct MappedGguf<'g> {
    /// What is in it.
    pub(crate) gguf: &'g Gguf<'g>,
    /// The file.
    pub(crate) file: &'g MappedFile,
}

impl Weights for MappedGguf<'_> {
    fn names(&self) -> Vec<&str> {
        self.gguf.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.gguf.shape(name)
    }

    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
        Weights::raw(self.gguf, name)
    }

    fn release(&self) {
        self.file.release();
    }
}

/// Bytes written between two times that what was read is let go.
const RELEASE_BYTES: u64 = 16 << 20;

/// A callback that lets go of what was read from `weights` as the writing gets on, and hands everything to `watch`.
pub(crate) fn letting_go<'w>(
    weights: &'w dyn Weights,
    watch: &'w mut Watch<'_>,
) -> impl FnMut(Progress<'_>) -> ControlFlow<()> + 'w {
    let mut last = 0;
    move |progress| {
        if progress.step == Step::Convert && progress.done.abs_diff(last) >= RELEASE_BYTES {
            weights.release();
            last = progress.done;
        }
        watch(progress)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::gguf::sample::Sample;

    struct Counted(Cell<u32>);

    impl Weights for Counted {
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }

        fn shape(&self, _: &str) -> Option<Vec<u64>> {
            None
        }

        fn raw(&self, _: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
            Ok((BlockFormat::F32, &[]))
        }

        fn release(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn what_was_read_is_let_go_now_and_then() {
        let weights = Counted(Cell::new(0));
        let heard = Cell::new(0);
        let mut watch = |_: Progress<'_>| {
            heard.set(heard.get() + 1);
            ControlFlow::Continue(())
        };
        let mut letting_go = letting_go(&weights, &mut watch);
        // Two graphs are written, so that the bytes begin anew; hashing reads no weights.
        for (step, mebibytes) in [
            (Step::Convert, 1),
            (Step::Convert, 20),
            (Step::Convert, 30),
            (Step::Convert, 40),
            (Step::Convert, 1),
            (Step::Hash, 90),
        ] {
            let progress = Progress {
                step,
                item: "w",
                done: mebibytes << 20,
                total: 100 << 20,
            };
            assert!(letting_go(progress).is_continue());
        }
        assert_eq!((weights.0.get(), heard.get()), (3, 6));
    }

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
