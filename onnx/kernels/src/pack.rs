//! The one layout of a quantized matrix that all instruction sets read in place from the mapped file.
//!
//! Sixteen rows stand side by side, four inputs of each in one 32-bit word: that is at once the operand of VNNI's products
//! by fours, two of AVX2's, and a row of an AMX tile. So a model is packed once, when it is made, and processes that load it
//! share its pages. Scales stand before their codes: a product reads one stream from front to back.
//!
//! ```text
//!   matrix  [groups = ⌈rows/16⌉][tiles = ⌈columns/64⌉]        tile = 16 rows × 64 inputs = two blocks of 32
//!   tile    16 scales f16 of block 0 │ 16 of block 1 │ codes of block 0 │ codes of block 1
//!   int4    4 lines of 64 bytes a block: byte 4r+i of line c holds inputs 8c+i (low nibble) and 8c+4+i (high) of row r
//!   int8    8 lines of 64 bytes a block: byte 4r+i of line c holds input 4c+i of row r
//!   zeros   int4 with zero points only, after a group's tiles: 16 bytes a tile, block 0 in the low nibble, block 1 in the high
//!   minima  int4 with minima only, between scales and codes: 16 f16 of block 0 │ 16 of block 1
//!
//!   weight = scale · (code − zero)      zero: 8 for int4, 128 for int8, or the stored one
//!          = scale · code + minimum     with minima
//! ```
//!
//! The format is not stored: it follows from the size of a group, so no two formats may have groups of one size.

use half::f16;

/// Rows of a group.
pub const GROUP_ROWS: usize = 16;
/// Inputs that share a scale.
pub const BLOCK: usize = 32;
/// Inputs of a tile.
pub const TILE_COLUMNS: usize = 64;
/// Bytes of the scales of a tile, and of its minima.
pub(crate) const SCALE_BYTES: usize = 64;
/// Bytes of the zero points of a tile.
pub(crate) const ZERO_BYTES: usize = 16;

/// How codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 4 bits, zero point 8: 4.5 bits a weight.
    Int4,
    /// 4 bits, a zero point per block: 4.625 bits a weight.
    Int4Zeros,
    /// 4 bits, a minimum in half precision per block, which a zero point only has to a whole step: 5 bits a weight. What
    /// llama.cpp calls Q4_1.
    Int4Minima,
    /// 8 bits, zero point 128: 8.5 bits a weight.
    Int8,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 4] = [
        Format::Int4,
        Format::Int4Zeros,
        Format::Int4Minima,
        Format::Int8,
    ];

    /// Bits of a code.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Format::Int4 | Format::Int4Zeros | Format::Int4Minima => 4,
            Format::Int8 => 8,
        }
    }

    /// Bytes of a tile.
    #[must_use]
    pub const fn tile_bytes(self) -> usize {
        self.codes_at() + GROUP_ROWS * TILE_COLUMNS * self.bits() / 8
    }

    /// Where a tile's codes begin: behind its scales and minima.
    pub(crate) const fn codes_at(self) -> usize {
        match self {
            Format::Int4Minima => 2 * SCALE_BYTES,
            Format::Int4 | Format::Int4Zeros | Format::Int8 => SCALE_BYTES,
        }
    }

    /// Bytes of 16 rows of `columns` inputs.
    #[must_use]
    pub const fn group_bytes(self, columns: usize) -> usize {
        let tiles = columns.div_ceil(TILE_COLUMNS);
        let tail = match self {
            Format::Int4Zeros => (tiles * ZERO_BYTES).next_multiple_of(64),
            // A single tile would be as large as one with its zero points.
            Format::Int4Minima if tiles == 1 => 64,
            Format::Int4 | Format::Int4Minima | Format::Int8 => 0,
        };
        tiles * self.tile_bytes() + tail
    }

    /// The format whose groups of `columns` inputs have this size.
    #[must_use]
    pub fn of_group(columns: usize, group_bytes: usize) -> Option<Format> {
        Format::ALL
            .into_iter()
            .find(|format| format.group_bytes(columns) == group_bytes)
    }

    /// What the codes of padding are, and all codes' zero point where none is stored.
    #[must_use]
    pub const fn zero(self) -> u8 {
        match self {
            Format::Int4 | Format::Int4Zeros => 8,
            Format::Int4Minima => 0,
            Format::Int8 => 128,
        }
    }

    /// What a block's activations keep for a product: minus this times the sum of their bytes.
    pub(crate) const fn fix(self) -> i32 {
        match self {
            Format::Int4 | Format::Int8 => self.zero() as i32,
            // Each block has its own zero point, or minimum, to multiply the sum with.
            Format::Int4Zeros => 1,
            Format::Int4Minima => -1,
        }
    }
}

/// A quantized matrix, row by row, one code a byte.
#[derive(Debug, Clone, Copy)]
pub struct Unpacked<'a> {
    /// Outputs.
    pub rows: usize,
    /// Inputs, a multiple of [`BLOCK`].
    pub columns: usize,
    /// `[rows, columns]`, each below 16 or 256.
    pub codes: &'a [u8],
    /// `[rows, columns / 32]`; stored in half precision.
    pub scales: &'a [f32],
    /// `[rows, columns / 32]`, each below 16; for [`Format::Int4Zeros`] only, else empty.
    pub zeros: &'a [u8],
    /// `[rows, columns / 32]`, stored in half precision; for [`Format::Int4Minima`] only, else empty.
    pub minima: &'a [f32],
    /// How it is to be stored.
    pub format: Format,
}

/// A matrix whose parts do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("matrix of {rows} rows and {columns} columns: expected {expected} {what}, found {found}")]
pub struct PackError {
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Which part.
    pub what: &'static str,
    /// How many there should be.
    pub expected: usize,
    /// How many there are.
    pub found: usize,
}

/// Packs a matrix into groups of 16 rows: `[⌈rows/16⌉, group_bytes]`.
///
/// # Errors
/// [`PackError`] when columns are not a multiple of 32, or codes, scales, zero points or minima are too few or too many.
pub fn pack(matrix: &Unpacked<'_>) -> Result<Vec<u8>, PackError> {
    check(matrix)?;
    let &Unpacked {
        rows,
        columns,
        format,
        ..
    } = matrix;
    let groups = rows.div_ceil(GROUP_ROWS);
    let mut out = Vec::with_capacity(groups * format.group_bytes(columns));
    for group in 0..groups {
        let begin = out.len();
        for tile in 0..columns.div_ceil(TILE_COLUMNS) {
            for block in 0..2 {
                push_halves(matrix, matrix.scales, group, 2 * tile + block, &mut out);
            }
            if format == Format::Int4Minima {
                for block in 0..2 {
                    push_halves(matrix, matrix.minima, group, 2 * tile + block, &mut out);
                }
            }
            for block in 0..2 {
                push_codes(matrix, group, 2 * tile + block, &mut out);
            }
        }
        if format == Format::Int4Zeros {
            push_zeros(matrix, group, &mut out);
        }
        out.resize(begin + format.group_bytes(columns), 0);
    }
    Ok(out)
}

fn check(matrix: &Unpacked<'_>) -> Result<(), PackError> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let blocks = rows.saturating_mul(columns / BLOCK);
    let only = |format: Format| {
        if matrix.format == format { blocks } else { 0 }
    };
    let parts = [
        ("inputs beyond whole blocks of 32", 0, columns % BLOCK),
        ("codes", rows.saturating_mul(columns), matrix.codes.len()),
        ("scales", blocks, matrix.scales.len()),
        ("zero points", only(Format::Int4Zeros), matrix.zeros.len()),
        ("minima", only(Format::Int4Minima), matrix.minima.len()),
    ];
    match parts
        .into_iter()
        .find(|(_, expected, found)| expected != found)
    {
        None => Ok(()),
        Some((what, expected, found)) => Err(PackError {
            rows,
            columns,
            what,
            expected,
            found,
        }),
    }
}

/// The row and its block, if both are inside the matrix; padding otherwise.
fn inside(matrix: &Unpacked<'_>, group: usize, row: usize, block: usize) -> Option<(usize, usize)> {
    let row = group * GROUP_ROWS + row;
    (row < matrix.rows && block < matrix.columns / BLOCK).then_some((row, block))
}

/// Scales, or minima, of a block.
fn push_halves(matrix: &Unpacked<'_>, all: &[f32], group: usize, block: usize, out: &mut Vec<u8>) {
    for row in 0..GROUP_ROWS {
        let value = inside(matrix, group, row, block).map_or(0.0, |(row, block)| {
            all[row * (matrix.columns / BLOCK) + block]
        });
        out.extend(f16::from_f32(value).to_le_bytes());
    }
}

fn push_codes(matrix: &Unpacked<'_>, group: usize, block: usize, out: &mut Vec<u8>) {
    let code = |row: usize, input: usize| {
        inside(matrix, group, row, block).map_or(matrix.format.zero(), |(row, block)| {
            matrix.codes[row * matrix.columns + block * BLOCK + input]
        })
    };
    let lines = BLOCK * matrix.format.bits() / 32;
    for line in 0..lines {
        for row in 0..GROUP_ROWS {
            for i in 0..4 {
                out.push(match matrix.format {
                    Format::Int8 => code(row, 4 * line + i),
                    Format::Int4 | Format::Int4Zeros | Format::Int4Minima => {
                        (code(row, 8 * line + i) & 15) | (code(row, 8 * line + 4 + i) << 4)
                    }
                });
            }
        }
    }
}

fn push_zeros(matrix: &Unpacked<'_>, group: usize, out: &mut Vec<u8>) {
    for tile in 0..matrix.columns.div_ceil(TILE_COLUMNS) {
        for row in 0..GROUP_ROWS {
            let [low, high] = [0, 1].map(|block| {
                inside(matrix, group, row, 2 * tile + block).map_or(8, |(row, block)| {
                    matrix.zeros[row * (matrix.columns / BLOCK) + block] & 15
                })
            });
            out.push(low | high << 4);
        }
    }
}

/// A packed matrix, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    rows: usize,
    columns: usize,
    format: Format,
}

impl<'a> Packed<'a> {
    /// Takes the bytes of a packed matrix of `rows` outputs and `columns` inputs; the format follows from their number.
    ///
    /// # Errors
    /// [`PackError`] when no format has groups of that size.
    pub fn new(bytes: &'a [u8], rows: usize, columns: usize) -> Result<Packed<'a>, PackError> {
        let groups = rows.div_ceil(GROUP_ROWS);
        let wrong = PackError {
            rows,
            columns,
            what: "bytes of 4-bit groups (or those of another format)",
            expected: groups.saturating_mul(Format::Int4.group_bytes(columns.min(1 << 32))),
            found: bytes.len(),
        };
        if rows == 0 || columns == 0 || columns > 1 << 32 || !bytes.len().is_multiple_of(groups) {
            return Err(wrong);
        }
        let format = Format::of_group(columns, bytes.len() / groups).ok_or(wrong)?;
        Ok(Packed {
            bytes,
            rows,
            columns,
            format,
        })
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How it is stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Groups of 16 rows.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP_ROWS)
    }

    /// Bytes of one group.
    pub(crate) fn group(&self, index: usize) -> &'a [u8] {
        let size = self.format.group_bytes(self.columns);
        &self.bytes[index * size..(index + 1) * size]
    }

    /// Tiles of a group.
    pub(crate) fn tiles(&self) -> usize {
        self.columns.div_ceil(TILE_COLUMNS)
    }

    /// The weights of one row times `scale`, into `out` of [`Packed::columns`] elements.
    pub fn read_row(&self, row: usize, scale: f32, out: &mut [f32]) {
        let group = self.group(row / GROUP_ROWS);
        let row = row % GROUP_ROWS;
        let tile_bytes = self.format.tile_bytes();
        for (index, out) in out.chunks_mut(BLOCK).enumerate() {
            let (tile, block) = (index / 2, index % 2);
            let bytes = &group[tile * tile_bytes..(tile + 1) * tile_bytes];
            let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32() * scale;
            let at = 2 * (block * GROUP_ROWS + row);
            let step = half(at);
            let minimum = match self.format {
                Format::Int4Minima => half(SCALE_BYTES + at),
                Format::Int4 | Format::Int4Zeros | Format::Int8 => 0.0,
            };
            let zero = match self.format {
                Format::Int4Zeros => {
                    let zeros = &group[self.tiles() * tile_bytes + tile * ZERO_BYTES..];
                    zeros[row] >> (4 * block) & 15
                }
                format => format.zero(),
            };
            let codes_at = self.format.codes_at();
            let codes = &bytes[codes_at + block * (tile_bytes - codes_at) / 2..];
            for (input, out) in out.iter_mut().enumerate() {
                let code = match self.format {
                    Format::Int8 => codes[input / 4 * 64 + row * 4 + input % 4],
                    Format::Int4 | Format::Int4Zeros | Format::Int4Minima => {
                        let byte = codes[input / 8 * 64 + row * 4 + input % 4];
                        if input % 8 < 4 { byte & 15 } else { byte >> 4 }
                    }
                };
                *out = step * (f32::from(code) - f32::from(zero)) + minimum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_tells_its_format_by_its_size() {
        for columns in (BLOCK..64 * BLOCK).step_by(BLOCK) {
            for format in Format::ALL {
                let found = Format::of_group(columns, format.group_bytes(columns));
                assert_eq!(found, Some(format), "{columns} columns");
            }
        }
    }

    #[test]
    fn minima_are_read_back_to_the_bit() {
        // Steps and minima that half precision holds; rows and columns that end inside a group and a tile.
        let (rows, columns) = (21, 96);
        let codes: Vec<u8> = (0..rows * columns).map(|i| (i * 7 % 16) as u8).collect();
        let blocks = rows * columns / BLOCK;
        let scales: Vec<f32> = (0..blocks).map(|i| 0.25 + i as f32 / 256.0).collect();
        let minima: Vec<f32> = (0..blocks).map(|i| i as f32 / 64.0 - 0.6875).collect();
        let matrix = Unpacked {
            rows,
            columns,
            codes: &codes,
            scales: &scales,
            zeros: &[],
            minima: &minima,
            format: Format::Int4Minima,
        };
        let bytes = pack(&matrix).unwrap();
        assert_eq!(bytes.len(), 2 * 2 * 640, "two groups of two tiles");
        let packed = Packed::new(&bytes, rows, columns).unwrap();
        assert_eq!(packed.format(), Format::Int4Minima);
        let mut row = vec![0.0; columns];
        for index in 0..rows {
            packed.read_row(index, 2.0, &mut row);
            for (input, found) in row.iter().enumerate() {
                let at = index * columns + input;
                let expected =
                    2.0 * (scales[at / BLOCK] * f32::from(codes[at]) + minima[at / BLOCK]);
                assert_eq!(*found, expected, "row {index}, input {input}");
            }
        }
        let error = pack(&Unpacked {
            minima: &minima[1..],
            ..matrix
        });
        assert_eq!(
            error.unwrap_err().to_string(),
            "matrix of 21 rows and 96 columns: expected 63 minima, found 62"
        );
    }
}
