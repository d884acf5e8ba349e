//! A matrix of the graph: rows of one or more GGUF tensors over the same input, decoded, put in order and stored anew when the
//! writer asks for it.

use super::{EMBEDDING, HEAD, Storage};
use crate::gguf::{Gguf, GgufError};
use crate::graph::{GraphBuilder, TensorSpec, float_bytes};
use crate::proto::onnx::DataType;
use crate::quantize::{BLOCK, CodeFormat, Codes, quantize, repack};

/// Rows of a GGUF matrix, and what to do with them on the way.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) tensor: String,
    pub(super) rows: usize,
    /// Heads whose rows are to be un-permuted; `None` leaves them.
    rotary_heads: Option<usize>,
}

impl Part {
    pub(super) fn plain(tensor: String, rows: usize) -> Part {
        Part {
            tensor,
            rows,
            rotary_heads: None,
        }
    }

    pub(super) fn rotary(tensor: String, heads: usize, head_dim: usize) -> Part {
        Part {
            tensor,
            rows: heads * head_dim,
            rotary_heads: Some(heads),
        }
    }
}

/// A matrix of the graph: the rows of one or more GGUF matrices over the same input.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    pub(super) name: String,
    pub(super) columns: usize,
    pub(super) parts: Vec<Part>,
}

impl Matrix {
    pub(super) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// True for embedding and head, which are looked up by row.
    pub(super) fn is_table(&self) -> bool {
        self.parts
            .iter()
            .any(|part| part.tensor == EMBEDDING || part.tensor == HEAD)
    }

    /// Shape of the codes: [rows, blocks, bytes of a block].
    pub(super) fn block_dims(&self, format: CodeFormat) -> [i64; 3] {
        [
            self.rows() as i64,
            (self.columns / BLOCK) as i64,
            format.block_bytes() as i64,
        ]
    }

    /// Registers the constants. Blocks: `name`, `name.scales` and, if there are any, `name.zero_points`. Floats: `name`, stored as
    /// MatMul wants it, [columns, rows]. Tables stay [rows, bytes] and [rows, columns].
    pub(super) fn register<'a>(
        &self,
        gguf: &'a Gguf<'a>,
        storage: Storage,
        graph: &mut GraphBuilder<'a>,
    ) {
        let (rows, columns, matrix) = (self.rows() as i64, self.columns as i64, self.clone());
        match storage {
            Storage::Blocks(format) => {
                let [_, blocks, block_bytes] = self.block_dims(format);
                let flat = [rows, blocks * block_bytes];
                let solid = [rows, blocks, block_bytes];
                let shape = if self.is_table() {
                    &flat[..]
                } else {
                    &solid[..]
                };
                let scales = format!("{}.scales", self.name);
                let mut tensors = vec![
                    TensorSpec::new(&self.name, DataType::Uint8, shape),
                    TensorSpec::new(scales, DataType::Float, &[rows, blocks]),
                ];
                if format.has_zero_points() {
                    let zeros = format!("{}.zero_points", self.name);
                    tensors.push(TensorSpec::new(
                        zeros,
                        DataType::Uint8,
                        &[rows, (blocks + 1) / 2],
                    ));
                }
                graph.payload(tensors, move || {
                    let codes = block_weights(gguf, &matrix, format)?;
                    let mut contents = vec![codes.codes, float_bytes(&codes.scales)];
                    if format.has_zero_points() {
                        contents.push(codes.zero_points);
                    }
                    Ok(contents)
                });
            }
            Storage::Fp32 => {
                let is_table = self.is_table();
                let dims = if is_table {
                    [rows, columns]
                } else {
                    [columns, rows]
                };
                let tensors = vec![TensorSpec::new(&self.name, DataType::Float, &dims)];
                graph.payload(tensors, move || {
                    let weights = float_weights(gguf, &matrix)?;
                    let weights = if is_table {
                        weights
                    } else {
                        transpose(&weights, matrix.columns)
                    };
                    Ok(vec![float_bytes(&weights)])
                });
            }
        }
    }
}
/// Codes of all parts, one below the other.
fn block_weights(gguf: &Gguf<'_>, matrix: &Matrix, format: CodeFormat) -> Result<Codes, GgufError> {
    let mut all = Codes::default();
    for part in &matrix.parts {
        let info = gguf.tensor(&part.tensor)?;
        let raw = gguf.raw(&part.tensor)?;
        let ordered = part
            .rotary_heads
            .map(|heads| unpermute(raw, raw.len() / info.rows(), heads));
        all.append(
            match repack(ordered.as_deref().unwrap_or(raw), info.format, format) {
                Some(codes) => codes,
                None => quantize(&rows(gguf, part, matrix.columns)?, matrix.columns, format),
            },
        );
    }
    Ok(all)
}

/// Weights of all parts, one below the other: f32 [rows, columns].
fn float_weights(gguf: &Gguf<'_>, matrix: &Matrix) -> Result<Vec<f32>, GgufError> {
    let mut all = Vec::new();
    for part in &matrix.parts {
        all.append(&mut rows(gguf, part, matrix.columns)?);
    }
    Ok(all)
}

/// A part's weights in the order of the original checkpoint.
fn rows(gguf: &Gguf<'_>, part: &Part, columns: usize) -> Result<Vec<f32>, GgufError> {
    let weights = gguf.dequantize(&part.tensor)?;
    Ok(match part.rotary_heads {
        None => weights,
        Some(heads) => unpermute(&weights, columns, heads),
    })
}

/// Rows (head, i, half) → (head, half, i); see the module.
pub(super) fn unpermute<T: Copy>(rows: &[T], columns: usize, heads: usize) -> Vec<T> {
    let head_dim = rows.len() / columns / heads;
    let mut out = Vec::with_capacity(rows.len());
    for head in 0..heads {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                let row = head * head_dim + 2 * i + half;
                out.extend_from_slice(&rows[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

/// [rows, columns] → [columns, rows].
pub(super) fn transpose(weights: &[f32], columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(weights.len());
    for column in 0..columns {
        out.extend(weights.iter().skip(column).step_by(columns));
    }
    out
}
