//! A checkpoint as a GGUF file of 32-bit floats: other people's tools are to be judged on the very same weights.
//!
//! The file it came from says how tensors are called and in which order their rows stand; the way back is the way of the import,
//! part by part. Sizes must be those of the file, so a pruned model has no such file.
//!
//! ```text
//!   checkpoint: layers.3.qkv.weight  rows (head, half, i) ─┬─ 0..576   ─► blk.3.attn_q.weight  rows (head, i, half)
//!                                                          ├─ 576..768 ─► blk.3.attn_k.weight
//!                                                          └─ 768..960 ─► blk.3.attn_v.weight  as they are
//! ```

use std::collections::HashMap;
use std::io::Write;

use crate::architecture::{self, Model};
use crate::checkpoint::{Checkpoint, Constant, constants};
use crate::error::ForgeError;
use crate::gguf::{Gguf, GgufWriteError, write_f32_with};
use crate::matrix::{Order, Part};

/// Where the elements of one tensor of the file stand in the checkpoint.
struct Origin {
    /// Canonical name.
    name: String,
    /// First element.
    begin: usize,
    /// Elements of a row.
    columns: usize,
    rows: usize,
    order: Order,
    /// What the import added.
    plus: f32,
}

/// Writes the GGUF file `source`, from which `checkpoint` was imported, to `out` with the checkpoint's weights as f32.
///
/// # Errors
/// [`ForgeError::Gguf`] and [`ForgeError::Architecture`] for a source that is no decoder, [`ForgeError::Recipe`] for a checkpoint of
/// other sizes, [`GgufWriteError`] as an I/O error of `out`.
pub fn write_gguf(
    source: &[u8],
    checkpoint: &Checkpoint,
    out: &mut dyn Write,
) -> Result<(), ForgeError> {
    let gguf = Gguf::parse(source)?;
    let other = |expected: String, found: String| ForgeError::Recipe {
        recipe: "gguf",
        field: "checkpoint",
        expected,
        found,
    };
    let Model::Decoder(spec) = architecture::from_gguf(&gguf)? else {
        return Err(other("a decoder".into(), "an encoder".into()));
    };
    let mut origins = HashMap::new();
    let (before, now) = (constants(&spec), constants(checkpoint.spec()));
    let is_same = before.len() == now.len()
        && before
            .iter()
            .zip(&now)
            .all(|((a, one), (b, two))| a == b && one.shape() == two.shape());
    if !is_same {
        return Err(other("the sizes of the file".into(), "other ones".into()));
    }
    for (name, constant) in before {
        let (parts, columns, plus) = match constant {
            Constant::Matrix(matrix) => (matrix.parts, matrix.columns, 0.0),
            Constant::Vector(vector) => (vector.parts, 1, vector.plus),
        };
        let mut begin = 0;
        for Part {
            tensor,
            rows,
            order,
        } in parts
        {
            let origin = Origin {
                name: name.clone(),
                begin,
                columns,
                rows,
                order,
                plus,
            };
            origins.insert(tensor, origin);
            begin += rows * columns;
        }
    }
    let mut failed = None;
    let mut values = |tensor: &str| {
        let origin = origins.get(tensor)?;
        match checkpoint.tensor(&origin.name) {
            Ok(elements) => Some(origin.back(&elements)),
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    };
    let written = write_f32_with(source, out, &mut values);
    match (failed, written) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        (None, Err(GgufWriteError::Source(error))) => Err(error.into()),
        (None, Err(error)) => Err(ForgeError::Io {
            action: "write",
            path: "the GGUF file".into(),
            source: std::io::Error::other(error),
        }),
    }
}

impl Origin {
    /// The tensor's elements as the file has them.
    fn back(&self, all: &[f32]) -> Vec<f32> {
        let length = self.rows * self.columns;
        let elements = all.get(self.begin..self.begin + length).unwrap_or_default();
        let mut out: Vec<f32> = match self.order {
            Order::Stored => elements.to_vec(),
            Order::Transposed => (0..length)
                .map(|at| elements[at % self.rows * self.columns + at / self.rows])
                .collect(),
            Order::Pairs { head_dim } => {
                let half = head_dim / 2;
                let row = |at: usize| {
                    let (head, inside) = (at / head_dim, at % head_dim);
                    head * head_dim + inside % 2 * half + inside / 2
                };
                (0..self.rows)
                    .flat_map(|at| &elements[row(at) * self.columns..][..self.columns])
                    .copied()
                    .collect()
            }
        };
        out.iter_mut().for_each(|element| *element -= self.plus);
        out
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::architecture::toys;
    use crate::compress::degrid;
    use crate::folder::Progress;
    use crate::import_checkpoint;

    fn go_on(_: Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn the_file_gives_the_checkpoint_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("toy.gguf");
        let source = toys::vocabulary(toys::llama_tensors(toys::llama_metadata())).bytes(0);
        std::fs::write(&path, &source).unwrap();
        let import = |path: &std::path::Path, name: &str| {
            import_checkpoint(path, name, "MIT", &root.path().join(name), &mut go_on).unwrap()
        };
        let published = import(&path, "published");
        let moved = degrid(&published, 3, &root.path().join("moved"), &mut go_on).unwrap();
        let mut written = Vec::new();
        write_gguf(&source, &moved, &mut written).unwrap();
        let path = root.path().join("moved.gguf");
        std::fs::write(&path, &written).unwrap();
        let again = import(&path, "again");
        let mut differ = 0;
        for (name, _) in constants(moved.spec()) {
            assert_eq!(
                moved.tensor(&name).unwrap(),
                again.tensor(&name).unwrap(),
                "{name}"
            );
            differ += usize::from(moved.tensor(&name).unwrap() != published.tensor(&name).unwrap());
        }
        assert!(
            differ > 4,
            "other weights than the published ones: {differ}"
        );
    }

    #[test]
    fn a_model_of_other_sizes_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let source = toys::vocabulary(toys::llama_tensors(toys::llama_metadata())).bytes(0);
        let other = crate::checkpoint::tests::imported(
            &root.path().join("other"),
            &toys::gated("llama", 2),
        );
        let error = write_gguf(&source, &other, &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("expected the sizes of the file"), "{error}");
    }
}
