//! Products in plain Rust: slow, short, and what the others are tested against.

use half::f16;

use crate::activation::Bunch;
use crate::pack::{BLOCK, Format, GROUP_ROWS, SCALE_BYTES, ZERO_BYTES};

/// See [`Simd::product`](crate::simd::Simd::product).
///
/// # Safety
/// As there.
pub(crate) unsafe fn product(
    format: Format,
    group: *const u8,
    tiles: usize,
    bunch: &Bunch,
    out: *mut f32,
) {
    let tile_bytes = format.tile_bytes();
    // SAFETY: the caller promises a whole group.
    let bytes = unsafe { std::slice::from_raw_parts(group, format.group_bytes(tiles * 2 * BLOCK)) };
    let (codes, zeros) = bytes.split_at(tiles * tile_bytes);
    for row in 0..bunch.rows {
        let mut sums = [0.0_f32; GROUP_ROWS];
        for (index, tile) in codes.chunks_exact(tile_bytes).enumerate() {
            for block in 0..2 {
                let at = (2 * index + block) * bunch.rows + row;
                // SAFETY: the bunch has two blocks a tile.
                let (fix, scale, words) = unsafe {
                    (
                        *bunch.fix.add(at),
                        *bunch.scales.add(at),
                        bunch.data.add((2 * index + block) * 8 * bunch.rows + row),
                    )
                };
                let half = (tile_bytes - format.codes_at()) / 2;
                let lines = &tile[format.codes_at() + block * half..][..half];
                for (out, sum) in sums.iter_mut().enumerate() {
                    let at = 2 * (block * GROUP_ROWS + out);
                    let step = half_at(tile, at);
                    // SAFETY: eight words a block and row.
                    let dot = unsafe { dot(format, lines, out, words, bunch.rows) };
                    *sum += match format {
                        Format::Int4 | Format::Int8 => (fix + dot) as f32 * (step * scale),
                        Format::Int4Zeros => {
                            let zero = zeros[index * ZERO_BYTES + out] >> (4 * block) & 15;
                            (fix * i32::from(zero) + dot) as f32 * (step * scale)
                        }
                        Format::Int4Minima => {
                            let minimum = half_at(tile, SCALE_BYTES + at);
                            (dot as f32 * step + minimum * fix as f32) * scale
                        }
                    };
                }
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            // SAFETY: room for 16 floats a row.
            unsafe { out.add(row * GROUP_ROWS + index).write(sum) };
        }
    }
}

/// The half-precision number at a byte of a tile.
fn half_at(tile: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32()
}

/// Σ code·byte of one block.
unsafe fn dot(format: Format, lines: &[u8], row: usize, words: *const u32, stride: usize) -> i32 {
    (0..8)
        .map(|word| {
            // SAFETY: as the caller promises.
            let bytes = unsafe { *words.add(word * stride) }.to_le_bytes();
            (0..4)
                .map(|i| {
                    let code = match format {
                        Format::Int8 => lines[word * 64 + row * 4 + i],
                        Format::Int4 | Format::Int4Zeros | Format::Int4Minima => {
                            lines[word / 2 * 64 + row * 4 + i] >> (4 * (word % 2)) & 15
                        }
                    };
                    i32::from(code) * i32::from(bytes[i] as i8)
                })
                .sum::<i32>()
        })
        .sum()
}
