//! Products with NEON's dot product: one instruction multiplies four inputs of four rows, four of them a line of all 16 rows.
//!
//! Both operands are signed. 4-bit codes are small enough to be taken as such; 8-bit ones are made signed by turning their
//! first bit, and need no zero point then. The integer sums of four rows of activations and 16 outputs are 16 of the 32
//! registers; the float sums stay in `out`, which a block of 32 inputs touches once.
//!
//! The intrinsic is not stable in Rust, so the instruction is written out.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::activation::Bunch;
use crate::pack::{Format, GROUP_ROWS, SCALE_BYTES, ZERO_BYTES};
use crate::simd::neon::widen;

/// How far ahead of use weights are prefetched, in bytes.
const AHEAD: usize = 4096;

/// Sums of 16 outputs.
type Dots = [int32x4_t; 4];

/// Runs the kernel for the bunch's number of rows.
macro_rules! by_rows {
    ($rows:expr, $kernel:ident $arguments:tt) => {
        match $rows {
            1 => $kernel::<1> $arguments,
            2 => $kernel::<2> $arguments,
            3 => $kernel::<3> $arguments,
            _ => $kernel::<4> $arguments,
        }
    };
}

/// See [`Simd::product`](crate::simd::Simd::product).
///
/// # Safety
/// As there, on a processor with these features.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn product(
    format: Format,
    group: *const u8,
    tiles: usize,
    bunch: &Bunch,
    out: *mut f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        match format {
            Format::Int4 | Format::Int4Zeros | Format::Int4Minima => {
                by_rows!(bunch.rows, int4(format, group, tiles, bunch, out));
            }
            Format::Int8 => by_rows!(bunch.rows, int8(group, tiles, bunch, out)),
        }
    }
}

/// Adds the products of four bytes in each lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sums: int32x4_t, codes: int8x16_t, bytes: int8x16_t) -> int32x4_t {
    // SAFETY: registers only.
    unsafe {
        asm!("sdot {sums:v}.4s, {codes:v}.16b, {bytes:v}.16b",
            sums = inout(vreg) sums, codes = in(vreg) codes, bytes = in(vreg) bytes,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Adds the products of a line of codes and one word of each row.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_line<const R: usize>(
    dots: &mut [Dots; R],
    codes: &[int8x16_t; 4],
    words: *const u32,
) {
    for (row, dots) in dots.iter_mut().enumerate() {
        // SAFETY: a word for each row.
        let bytes = unsafe { vreinterpretq_s8_u32(vld1q_dup_u32(words.add(row))) };
        for (sums, codes) in dots.iter_mut().zip(codes) {
            *sums = dot(*sums, *codes, bytes);
        }
    }
}

/// Adds `dots · (steps · scale)` to the sums of each row.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn scale<const R: usize>(
    out: *mut f32,
    dots: &[Dots; R],
    steps: *const u8,
    scales: *const f32,
) {
    for part in 0..4 {
        // SAFETY: 16 steps in half precision, R scales, 16 floats a row.
        unsafe {
            let steps = widen(steps.add(8 * part).cast());
            for (row, dots) in dots.iter().enumerate() {
                let sum = out.add(GROUP_ROWS * row + 4 * part);
                let step = vmulq_n_f32(steps, *scales.add(row));
                vst1q_f32(
                    sum,
                    vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(dots[part]), step),
                );
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn int4<const R: usize>(
    format: Format,
    group: *const u8,
    tiles: usize,
    bunch: &Bunch,
    out: *mut f32,
) {
    // SAFETY: `tiles` whole tiles, then their zero points; two blocks of R rows of activations a tile; 16 floats a row.
    unsafe {
        out.write_bytes(0, R * GROUP_ROWS);
        let nibble = vdupq_n_u8(15);
        let zeros = group.add(tiles * format.tile_bytes());
        for index in 0..tiles {
            let tile = group.add(index * format.tile_bytes());
            prefetch(tile, format.tile_bytes());
            for block in 0..2 {
                let at = 2 * index + block;
                let fix = bunch.fix.add(at * R);
                let mut dots: [Dots; R] =
                    std::array::from_fn(|row| [vdupq_n_s32(*fix.add(row)); 4]);
                if format == Format::Int4Minima {
                    dots = [[vdupq_n_s32(0); 4]; R];
                } else if format == Format::Int4Zeros {
                    let zeros = zero_points(zeros.add(index * ZERO_BYTES), block);
                    for sums in dots.iter_mut().flat_map(|dots| dots.iter_mut().zip(zeros)) {
                        *sums.0 = vmulq_s32(*sums.0, sums.1);
                    }
                }
                let lines = tile.add(format.codes_at() + 256 * block);
                let words = bunch.data.add(8 * at * R);
                for line in 0..4 {
                    let both: [uint8x16_t; 4] =
                        std::array::from_fn(|part| vld1q_u8(lines.add(64 * line + 16 * part)));
                    let low = both.map(|both| vreinterpretq_s8_u8(vandq_u8(both, nibble)));
                    add_line(&mut dots, &low, words.add(2 * line * R));
                    let high = both.map(|both| vreinterpretq_s8_u8(vshrq_n_u8::<4>(both)));
                    add_line(&mut dots, &high, words.add((2 * line + 1) * R));
                }
                let (steps, scales) = (tile.add(2 * GROUP_ROWS * block), bunch.scales.add(at * R));
                if format == Format::Int4Minima {
                    scale_with_minima(out, &dots, steps, (scales, fix));
                } else {
                    scale(out, &dots, steps, scales);
                }
            }
        }
    }
}

/// Adds `(dots · steps + minima · fix) · scale` to the sums of each row; minima stand behind both blocks' steps.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn scale_with_minima<const R: usize>(
    out: *mut f32,
    dots: &[Dots; R],
    steps: *const u8,
    (scales, fix): (*const f32, *const i32),
) {
    for part in 0..4 {
        // SAFETY: 16 steps and minima in half precision, R scales and sums of bytes, 16 floats a row.
        unsafe {
            let minima = widen(steps.add(SCALE_BYTES + 8 * part).cast());
            let steps = widen(steps.add(8 * part).cast());
            for (row, dots) in dots.iter().enumerate() {
                let sum = out.add(GROUP_ROWS * row + 4 * part);
                let below = vmulq_n_f32(minima, *fix.add(row) as f32);
                let value = vfmaq_f32(below, vcvtq_f32_s32(dots[part]), steps);
                vst1q_f32(sum, vfmaq_n_f32(vld1q_f32(sum), value, *scales.add(row)));
            }
        }
    }
}

/// The zero points of a block, one a 32-bit lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn zero_points(zeros: *const u8, block: usize) -> [int32x4_t; 4] {
    // SAFETY: 16 bytes a tile.
    let both = unsafe { vld1q_u8(zeros) };
    let zeros = if block == 0 {
        vandq_u8(both, vdupq_n_u8(15))
    } else {
        vshrq_n_u8::<4>(both)
    };
    let (low, high) = (vmovl_u8(vget_low_u8(zeros)), vmovl_u8(vget_high_u8(zeros)));
    [
        vget_low_u16(low),
        vget_high_u16(low),
        vget_low_u16(high),
        vget_high_u16(high),
    ]
    .map(|four| vreinterpretq_s32_u32(vmovl_u16(four)))
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn int8<const R: usize>(group: *const u8, tiles: usize, bunch: &Bunch, out: *mut f32) {
    // SAFETY: `tiles` whole tiles; two blocks of R rows of activations a tile; 16 floats a row.
    unsafe {
        out.write_bytes(0, R * GROUP_ROWS);
        let flip = vdupq_n_u8(128);
        for index in 0..tiles {
            let tile = group.add(index * Format::Int8.tile_bytes());
            prefetch(tile, Format::Int8.tile_bytes());
            for block in 0..2 {
                let at = 2 * index + block;
                let mut dots = [[vdupq_n_s32(0); 4]; R];
                let lines = tile.add(SCALE_BYTES + 512 * block);
                let words = bunch.data.add(8 * at * R);
                for line in 0..8 {
                    let codes: [int8x16_t; 4] = std::array::from_fn(|part| {
                        let codes = vld1q_u8(lines.add(64 * line + 16 * part));
                        vreinterpretq_s8_u8(veorq_u8(codes, flip))
                    });
                    add_line(&mut dots, &codes, words.add(line * R));
                }
                scale(
                    out,
                    &dots,
                    tile.add(2 * GROUP_ROWS * block),
                    bunch.scales.add(at * R),
                );
            }
        }
    }
}

/// Asks for the weights [`AHEAD`] bytes after those of a tile.
#[inline]
fn prefetch(tile: *const u8, bytes: usize) {
    for line in 0..bytes / 64 {
        let from = tile.wrapping_add(AHEAD + 64 * line);
        // SAFETY: a prefetch of any address is allowed.
        unsafe {
            asm!("prfm pldl1keep, [{from}]", from = in(reg) from,
                options(nostack, readonly, preserves_flags));
        }
    }
}
