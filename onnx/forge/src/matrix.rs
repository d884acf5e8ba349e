//! Matrices and vectors of a graph: rows of one or more named tensors, put in order and stored anew when the writer asks.
//!
//! Matrices that read the same input are one, so their rows come from several tensors. Some files keep rows in another order
//! than the kernels: GGUF stores query and key of a llama for rotary embeddings of neighbouring pairs, GPT-2's checkpoints
//! store [inputs, outputs]. Tensors are taken in pieces of a few megabytes, so that a large table needs no second copy.
//!
//! ```text
//!   tensor attn_q ─ rows (head, i, half) → (head, half, i) ─┐
//!   tensor attn_k ─ the same ───────────────────────────────┼─► Matrix qkv ─► codes | f32
//!   tensor attn_v ─ as stored ──────────────────────────────┘
//! ```

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::ForgeError;
use crate::gguf::GgufError;
use crate::parallel::quantize_rows;
use crate::quantize::{CodeFormat, Codes, repack};
use crate::weights::Weights;

/// Elements read at once; 16 MiB of f32.
const PIECE_ELEMENTS: usize = 4 << 20;

/// A tensor with another shape than the configuration says, or one that blocks cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// Another shape.
    #[error("tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Sizes, slowest first.
        expected: Vec<u64>,
        /// Sizes, slowest first.
        found: Vec<u64>,
    },
    /// A tensor that is needed and absent.
    #[error("tensor {tensor} is missing")]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// Rows that blocks of 32 do not fill.
    #[error(
        "tensor {tensor}: block formats need columns that are a multiple of {block}, found {found}"
    )]
    Columns {
        /// The tensor.
        tensor: String,
        /// Weights of a block.
        block: usize,
        /// Columns.
        found: usize,
    },
}

/// How a tensor's rows stand to those of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// [rows, columns] in order.
    Stored,
    /// [rows, columns] with the rows of each head as pairs (i, half), which become halves (half, i).
    Pairs {
        /// Rows of a head.
        head_dim: usize,
    },
    /// [columns, rows], as GPT-2's checkpoints have it.
    Transposed,
}

/// A tensor and what to do with it on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name in the source.
    pub tensor: String,
    /// Rows that it gives: the outputs.
    pub rows: usize,
    /// Order of its rows.
    pub order: Order,
}

impl Part {
    /// A tensor as stored.
    pub fn stored(tensor: impl Into<String>, rows: usize) -> Part {
        Part {
            tensor: tensor.into(),
            rows,
            order: Order::Stored,
        }
    }
}

/// A matrix of the graph: [rows, columns], the rows of its parts one below the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// Inputs.
    pub columns: usize,
    /// Where the rows come from.
    pub parts: Vec<Part>,
}

impl Matrix {
    /// A matrix of one tensor.
    pub fn one(columns: usize, part: Part) -> Matrix {
        Matrix {
            columns,
            parts: vec![part],
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Checks that all parts are there, in the shape they should have.
    ///
    /// # Errors
    /// [`MatrixError::Shape`] or [`MatrixError::Missing`].
    pub fn check(&self, weights: &dyn Weights) -> Result<(), MatrixError> {
        for part in &self.parts {
            let (rows, columns) = (part.rows as u64, self.columns as u64);
            let expected = match part.order {
                Order::Stored | Order::Pairs { .. } => [rows, columns],
                Order::Transposed => [columns, rows],
            };
            check_shape(weights, &part.tensor, &expected)?;
        }
        Ok(())
    }

    /// Checks that blocks of codes can hold it.
    ///
    /// # Errors
    /// [`MatrixError::Columns`].
    pub fn check_blocks(&self) -> Result<(), MatrixError> {
        let block = crate::quantize::BLOCK;
        if self.columns.is_multiple_of(block) {
            return Ok(());
        }
        Err(MatrixError::Columns {
            tensor: self
                .parts
                .first()
                .map_or_else(String::new, |part| part.tensor.clone()),
            block,
            found: self.columns,
        })
    }

    /// Codes of all rows.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn codes(&self, weights: &dyn Weights, format: CodeFormat) -> Result<Codes, ForgeError> {
        let mut all = Codes::default();
        for part in &self.parts {
            self.part_codes(weights, part, format, &mut all)?;
        }
        Ok(all)
    }

    /// Weights of all rows: f32 [rows, columns].
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn floats(&self, weights: &dyn Weights) -> Result<Vec<f32>, ForgeError> {
        let mut all = Vec::with_capacity(self.rows() * self.columns);
        for part in &self.parts {
            if part.order == Order::Transposed {
                all.append(&mut transpose(&weights.floats(&part.tensor)?, part.rows));
                continue;
            }
            for piece in self.pieces(part) {
                let rows = weights.rows(&part.tensor, piece)?;
                all.append(&mut ordered(part.order, rows, self.columns));
            }
        }
        Ok(all)
    }

    /// Weights of one row, of a table whose parts are stored as they are.
    ///
    /// # Errors
    /// As [`Weights::rows`]; [`MatrixError::Missing`] beyond the last row, or where rows are stored in another order.
    pub fn row(&self, weights: &dyn Weights, row: usize) -> Result<Vec<f32>, ForgeError> {
        let mut begin = 0;
        for part in &self.parts {
            if row < begin + part.rows && part.order == Order::Stored {
                let row = row - begin;
                return weights.rows(&part.tensor, row..row + 1);
            }
            begin += part.rows;
        }
        Err(MatrixError::Missing {
            tensor: format!("row {row} of {begin}"),
        }
        .into())
    }

    fn part_codes(
        &self,
        weights: &dyn Weights,
        part: &Part,
        format: CodeFormat,
        all: &mut Codes,
    ) -> Result<(), ForgeError> {
        if part.order == Order::Transposed {
            let rows = transpose(&weights.floats(&part.tensor)?, part.rows);
            let codes = quantize_rows(&rows, self.columns, format);
            check_scales(&part.tensor, &codes)?;
            all.append(codes);
            return Ok(());
        }
        let (stored, raw) = weights.raw(&part.tensor)?;
        let row_bytes = raw.len() / part.rows;
        for piece in self.pieces(part) {
            let bytes = &raw[piece.start * row_bytes..piece.end * row_bytes];
            let reordered = match part.order {
                Order::Pairs { head_dim } => Some(halves(bytes, row_bytes, head_dim)),
                Order::Stored | Order::Transposed => None,
            };
            let codes = match repack(reordered.as_deref().unwrap_or(bytes), stored, format) {
                Some(codes) => codes,
                None => {
                    let rows = weights.rows(&part.tensor, piece)?;
                    quantize_rows(
                        &ordered(part.order, rows, self.columns),
                        self.columns,
                        format,
                    )
                }
            };
            check_scales(&part.tensor, &codes)?;
            all.append(codes);
        }
        Ok(())
    }

    /// Ranges of rows of about [`PIECE_ELEMENTS`], whole heads where rows of a head change places.
    fn pieces(&self, part: &Part) -> impl Iterator<Item = Range<usize>> + use<> {
        let unit = match part.order {
            Order::Pairs { head_dim } => head_dim.max(1),
            Order::Stored | Order::Transposed => 1,
        };
        let rows = part.rows;
        let step = (PIECE_ELEMENTS / self.columns.max(1) / unit).max(1) * unit;
        (0..rows)
            .step_by(step)
            .map(move |start| start..(start + step).min(rows))
    }
}

/// A vector of the graph, such as a bias or the weight of a norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vector {
    /// Where the elements come from; a part's rows are its elements.
    pub parts: Vec<Part>,
    /// Added to each element: 1 where a norm multiplies by 1 + w.
    pub plus: f32,
}

impl Vector {
    /// A vector of one tensor as stored.
    pub fn stored(tensor: impl Into<String>, length: usize) -> Vector {
        Vector {
            parts: vec![Part::stored(tensor, length)],
            plus: 0.0,
        }
    }

    /// Elements.
    pub fn length(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Checks that all parts are there, in the shape they should have.
    ///
    /// # Errors
    /// [`MatrixError::Shape`] or [`MatrixError::Missing`].
    pub fn check(&self, weights: &dyn Weights) -> Result<(), MatrixError> {
        for part in &self.parts {
            check_shape(weights, &part.tensor, &[part.rows as u64])?;
        }
        Ok(())
    }

    /// All elements.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn floats(&self, weights: &dyn Weights) -> Result<Vec<f32>, ForgeError> {
        let mut all = Vec::with_capacity(self.length());
        for part in &self.parts {
            let elements = ordered(part.order, weights.floats(&part.tensor)?, 1);
            all.extend(elements.iter().map(|element| element + self.plus));
        }
        Ok(all)
    }
}

/// Checks a tensor's shape.
fn check_shape(weights: &dyn Weights, tensor: &str, expected: &[u64]) -> Result<(), MatrixError> {
    let found = weights.shape(tensor).ok_or_else(|| MatrixError::Missing {
        tensor: tensor.to_string(),
    })?;
    if found == expected {
        return Ok(());
    }
    Err(MatrixError::Shape {
        tensor: tensor.to_string(),
        expected: expected.to_vec(),
        found,
    })
}

/// Codes that were taken over have not been looked at as numbers, and finite weights may need a step beyond half precision.
fn check_scales(tensor: &str, codes: &Codes) -> Result<(), GgufError> {
    for numbers in [&codes.scales, &codes.minima] {
        if let Some(block) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(GgufError::NotFinite {
                tensor: tensor.to_string(),
                index: block * crate::quantize::BLOCK,
                value: numbers[block],
            });
        }
    }
    Ok(())
}

fn ordered(order: Order, rows: Vec<f32>, columns: usize) -> Vec<f32> {
    match order {
        Order::Pairs { head_dim } => halves(&rows, columns, head_dim),
        Order::Stored | Order::Transposed => rows,
    }
}

/// Rows (head, i, half) → (head, half, i).
pub(crate) fn halves<T: Copy>(rows: &[T], columns: usize, head_dim: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * columns) {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                let row = 2 * i + half;
                out.extend_from_slice(&head[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

/// [rows, columns] → [columns, rows].
pub(crate) fn transpose(weights: &[f32], columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(weights.len());
    for column in 0..columns {
        out.extend(weights.iter().skip(column).step_by(columns));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;
    use crate::gguf::sample::Sample;

    #[test]
    fn pairs_become_halves_head_by_head() {
        // One head of 4 rows of 2: pairs (0,1) (2,3) become halves (0,2) (1,3).
        assert_eq!(
            halves(&[0, 0, 1, 1, 2, 2, 3, 3], 2, 4),
            [0, 0, 2, 2, 1, 1, 3, 3]
        );
        assert_eq!(
            halves(&[0, 1, 2, 3, 4, 5, 6, 7], 1, 4),
            [0, 2, 1, 3, 4, 6, 5, 7]
        );
    }

    #[test]
    fn transposed_tensors_give_their_columns() {
        let bytes = Sample::default()
            .floats("w", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
            .bytes(0);
        let gguf = Gguf::parse(&bytes).unwrap();
        let part = Part {
            tensor: "w".into(),
            rows: 3,
            order: Order::Transposed,
        };
        let matrix = Matrix::one(2, part);
        matrix.check(&gguf).unwrap();
        assert_eq!(
            matrix.floats(&gguf).unwrap(),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
        assert_eq!(
            matrix.check_blocks().unwrap_err().to_string(),
            "tensor w: block formats need columns that are a multiple of 32, found 2"
        );
    }

    #[test]
    fn pieces_cover_all_rows_in_whole_heads() {
        let part = Part {
            tensor: "w".into(),
            rows: 18,
            order: Order::Pairs { head_dim: 6 },
        };
        let matrix = Matrix::one(PIECE_ELEMENTS / 7, part.clone());
        assert_eq!(
            matrix.pieces(&part).collect::<Vec<_>>(),
            [0..6, 6..12, 12..18]
        );
        let part = Part::stored("w", 18);
        assert_eq!(
            matrix.pieces(&part).collect::<Vec<_>>(),
            [0..7, 7..14, 14..18]
        );
    }
}
