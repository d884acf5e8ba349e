//! Matrices in the layout of the fused operators ([`llmasos_kernels::pack`]), from the same codes that the portable graph has.
//!
//! Codes lie two to a byte and are packed from one a byte, so a matrix is taken in pieces of whole groups of 16 rows.
//!
//! ```text
//!   gate ─ codes ─┐  rows in turns of 16: gate[0..16] up[0..16] gate[16..32] …
//!   up   ─ codes ─┴─► lines of 16 rows ─► unpack ─► pack ─► u8 [groups, group_bytes]
//! ```

use llmasos_kernels::pack::{Format, GROUP_ROWS, Unpacked, pack};

use crate::error::ForgeError;
use crate::quantize::{BLOCK, CodeFormat, Codes};

/// Codes unpacked at once.
const PIECE_CODES: usize = 4 << 20;

/// The kernels' name of a format.
pub(super) fn format_of(format: CodeFormat) -> Format {
    match format {
        CodeFormat::Int4Symmetric => Format::Int4,
        CodeFormat::Int4 => Format::Int4Zeros,
        CodeFormat::Int4Minima => Format::Int4Minima,
        CodeFormat::Int8 => Format::Int8,
    }
}

/// Shape of a packed matrix: [groups, group_bytes].
#[must_use]
pub fn dims(rows: usize, columns: usize, format: CodeFormat) -> [i64; 2] {
    let group_bytes = format_of(format).group_bytes(columns);
    [rows.div_ceil(GROUP_ROWS) as i64, group_bytes as i64]
}

/// Packs the codes of several matrices of `rows` and `columns` each: of one, in order; of several, in turns of 16 rows.
///
/// # Errors
/// [`ForgeError::Pack`].
pub(super) fn packed(
    matrices: &[Codes],
    (rows, columns): (usize, usize),
    format: CodeFormat,
) -> Result<Vec<u8>, ForgeError> {
    let [groups, group_bytes] = dims(rows, columns, format);
    let mut out = Vec::with_capacity(groups as usize * matrices.len() * group_bytes as usize);
    let step = if matrices.len() == 1 {
        (PIECE_CODES / columns.max(1) / GROUP_ROWS).max(1) * GROUP_ROWS
    } else {
        GROUP_ROWS
    };
    for start in (0..rows).step_by(step) {
        let piece = start..(start + step).min(rows);
        for codes in matrices {
            out.append(&mut pack_rows(codes, piece.clone(), columns, format)?);
        }
    }
    Ok(out)
}

/// Elements of vectors that belong to the rows of several matrices, in the order of [`packed`].
pub(super) fn in_turns(vectors: &[Vec<f32>]) -> Vec<f32> {
    let groups = vectors
        .iter()
        .map(|vector| vector.chunks(GROUP_ROWS))
        .collect::<Vec<_>>();
    let count = groups.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    let mut out = Vec::new();
    for group in 0..count {
        for mut chunks in groups.iter().cloned() {
            out.extend(chunks.nth(group).unwrap_or_default());
        }
    }
    out
}

fn pack_rows(
    codes: &Codes,
    rows: std::ops::Range<usize>,
    columns: usize,
    format: CodeFormat,
) -> Result<Vec<u8>, ForgeError> {
    let blocks = columns / BLOCK;
    let row_bytes = blocks * format.block_bytes();
    let bytes = &codes.codes[rows.start * row_bytes..rows.end * row_bytes];
    let nibbles = |bytes: &[u8]| -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|byte| [byte & 15, byte >> 4])
            .collect()
    };
    let unpacked = match format {
        CodeFormat::Int4Symmetric | CodeFormat::Int4 | CodeFormat::Int4Minima => nibbles(bytes),
        CodeFormat::Int8 => bytes.to_vec(),
    };
    let mut zeros = Vec::new();
    if format.has_zero_points() {
        let row_zeros = blocks.div_ceil(2);
        for row in
            codes.zero_points[rows.start * row_zeros..rows.end * row_zeros].chunks_exact(row_zeros)
        {
            zeros.extend(nibbles(row).into_iter().take(blocks));
        }
    }
    let range = rows.start * blocks..rows.end * blocks;
    let minima = if format.has_minima() {
        &codes.minima[range.clone()]
    } else {
        &[]
    };
    Ok(pack(&Unpacked {
        rows: rows.len(),
        columns,
        codes: &unpacked,
        scales: &codes.scales[range],
        zeros: &zeros,
        minima,
        format: format_of(format),
    })?)
}

#[cfg(test)]
mod tests {
    use llmasos_kernels::pack::Packed;

    use super::*;
    use crate::gguf::sample::Sample;
    use crate::gguf::{BlockFormat, Gguf};
    use crate::matrix::{Matrix, Part};

    #[test]
    fn rows_of_two_matrices_take_turns() {
        let value = |at: usize| (at * 37 % 101) as f32 / 50.0 - 1.0;
        let values: Vec<f32> = (0..2 * 20 * 32).map(value).collect();
        let (gate, up) = values.split_at(20 * 32);
        let alternate: Vec<f32> = [
            &gate[..16 * 32],
            &up[..16 * 32],
            &gate[16 * 32..],
            &up[16 * 32..],
        ]
        .concat();
        let bytes = Sample::default()
            .floats("gate", &[32, 20], gate)
            .floats("up", &[32, 20], up)
            .floats("first", &[32, 32], &alternate[..32 * 32])
            .floats("second", &[32, 8], &alternate[32 * 32..])
            .bytes(0);
        let gguf = Gguf::parse(&bytes).unwrap();
        let codes = |name: &str, rows, format| {
            let matrix = Matrix::one(32, Part::stored(name, rows));
            matrix.codes(&gguf, format).unwrap()
        };
        for format in [
            CodeFormat::Int4Symmetric,
            CodeFormat::Int4,
            CodeFormat::Int4Minima,
            CodeFormat::Int8,
        ] {
            let both = [codes("gate", 20, format), codes("up", 20, format)];
            let both = packed(&both, (20, 32), format).unwrap();
            let group = format_of(format).group_bytes(32);
            assert_eq!(both.len(), 4 * group, "{format:?}: two groups of each");
            let first = packed(&[codes("first", 32, format)], (32, 32), format).unwrap();
            assert_eq!(both[..2 * group], first, "{format:?}");
            assert_eq!(dims(20, 32, format), [2, group as i64]);
        }
        let ones: Vec<f32> = (0..20_u8).map(f32::from).collect();
        let order = in_turns(&[ones.clone(), ones.iter().map(|one| one + 100.0).collect()]);
        assert_eq!(
            (order[15], order[16], order[32], order[36]),
            (15.0, 100.0, 16.0, 116.0)
        );
    }

    #[test]
    fn weights_of_a_q4_1_file_are_kept_to_the_bit() {
        let blocks = 20 * 3;
        let raw: Vec<u8> = (0..blocks)
            .flat_map(|block: u16| {
                let scale = half::f16::from_f32(0.01 + f32::from(block) / 999.0);
                let minimum = half::f16::from_f32(f32::from(block) / 77.0 - 0.4321);
                let codes = (0..16).map(move |i| (block * 31 + i * 97) as u8);
                let head = [scale.to_le_bytes(), minimum.to_le_bytes()].concat();
                head.into_iter().chain(codes)
            })
            .collect();
        let expected = BlockFormat::Q4_1.dequantize(&raw);
        // 3 is ggml's number of Q4_1.
        let mut bytes = Sample::default()
            .tensor("w", &[96, 20], 3, 0)
            .bytes(raw.len());
        let begin = bytes.len() - raw.len();
        bytes[begin..].copy_from_slice(&raw);
        let gguf = Gguf::parse(&bytes).unwrap();
        let matrix = Matrix::one(96, Part::stored("w", 20));
        let codes = matrix.codes(&gguf, CodeFormat::Int4Minima).unwrap();
        let bytes = packed(&[codes], (20, 96), CodeFormat::Int4Minima).unwrap();
        let read = Packed::new(&bytes, 20, 96).unwrap();
        assert_eq!(read.format(), Format::Int4Minima);
        let mut row = vec![0.0; 96];
        for (index, expected) in expected.chunks_exact(96).enumerate() {
            read.read_row(index, 1.0, &mut row);
            assert_eq!(row, expected, "row {index}");
        }
    }
}
