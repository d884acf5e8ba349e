//! Products with AVX2: pairs of bytes are multiplied and added in 16 bits, which 4-bit codes allow for a whole block.
//!
//! A sum of two products is at most 2·15·127, and eight of them still fit 16 bits, so a block needs one widening. 8-bit codes
//! have no such room: they are made signed, the sign goes over to the activations, and each pair is widened at once. A group's
//! 16 rows are two halves of eight: 16 registers hold the sums in 16 bits of four rows of activations for both, with four registers
//! of codes and two of activations beside them. The sums in floats wait in the first cache meanwhile.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{EIGHTS, MINIMA, ZEROS};
use crate::activation::Bunch;
use crate::pack::{Format, SCALE_BYTES, ZERO_BYTES};

/// How far ahead of use weights are prefetched, in bytes.
const AHEAD: usize = 4096;

/// Runs the kernel for the bunch's number of rows.
macro_rules! by_rows {
    ($rows:expr, $kernel:ident::<$format:tt>($($argument:expr),*)) => {
        match $rows {
            1 => $kernel::<1, $format>($($argument),*),
            2 => $kernel::<2, $format>($($argument),*),
            3 => $kernel::<3, $format>($($argument),*),
            _ => $kernel::<4, $format>($($argument),*),
        }
    };
}

/// See [`Simd::product`](crate::simd::Simd::product).
///
/// # Safety
/// As there, on a processor with these features.
#[target_feature(enable = "avx2,fma,f16c")]
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
            Format::Int4 => by_rows!(bunch.rows, int4::<EIGHTS>(group, tiles, bunch, out)),
            Format::Int4Zeros => by_rows!(bunch.rows, int4::<ZEROS>(group, tiles, bunch, out)),
            Format::Int4Minima => by_rows!(bunch.rows, int4::<MINIMA>(group, tiles, bunch, out)),
            Format::Int8 => by_rows!(bunch.rows, int8::<false>(group, tiles, bunch, out)),
        }
    }
}

/// Adds `dots · (steps · scale)` to the sums of each row and half.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale<const R: usize>(
    sums: &mut [__m256; R],
    dots: &[__m256i; R],
    steps: *const u8,
    scales: *const f32,
) {
    // SAFETY: 16 bytes of steps, R scales.
    unsafe {
        let steps = _mm256_cvtph_ps(_mm_loadu_si128(steps.cast()));
        for row in 0..R {
            let step = _mm256_mul_ps(steps, _mm256_broadcast_ss(&*scales.add(row)));
            sums[row] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[row]), step, sums[row]);
        }
    }
}

/// Adds `(dots · steps + minima · sum of bytes) · scale` to the sums of each row and half.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale_minima<const R: usize>(
    sums: &mut [__m256; R],
    dots: &[__m256i; R],
    steps: *const u8,
    fix: *const i32,
    scales: *const f32,
) {
    // SAFETY: 16 bytes of steps, as many of minima where those of the tile are, R sums of bytes and scales.
    unsafe {
        let minima = _mm256_cvtph_ps(_mm_loadu_si128(steps.add(SCALE_BYTES).cast()));
        let steps = _mm256_cvtph_ps(_mm_loadu_si128(steps.cast()));
        for row in 0..R {
            let sum = _mm256_cvtepi32_ps(_mm256_set1_epi32(*fix.add(row)));
            let low = _mm256_mul_ps(minima, sum);
            let value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[row]), steps, low);
            sums[row] = _mm256_fmadd_ps(value, _mm256_broadcast_ss(&*scales.add(row)), sums[row]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int4<const R: usize, const OFFSET: u8>(
    group: *const u8,
    tiles: usize,
    bunch: &Bunch,
    out: *mut f32,
) {
    // SAFETY: `tiles` whole tiles, then their zero points; two blocks of R rows of activations a tile.
    unsafe {
        let format = if OFFSET == MINIMA {
            Format::Int4Minima
        } else {
            Format::Int4
        };
        let nibble = _mm256_set1_epi8(15);
        let ones = _mm256_set1_epi16(1);
        let zeros = group.add(tiles * Format::Int4Zeros.tile_bytes());
        let mut all = [[_mm256_setzero_ps(); R]; 2];
        for index in 0..tiles {
            let tile = group.add(index * format.tile_bytes());
            for line in 0..format.tile_bytes() / 64 {
                _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(AHEAD + 64 * line).cast());
            }
            for block in 0..2 {
                let at = 2 * index + block;
                let fix = bunch.fix.add(at * R);
                let mut data = bunch.data.add(8 * at * R);
                let mut lines = tile.add(format.codes_at() + 256 * block);
                let mut pairs = [[_mm256_setzero_si256(); R]; 2];
                // An end that the compiler does not know: a loop that stays one keeps its sums in registers.
                let end = unforeseen(lines.add(256));
                while lines != end {
                    // Codes of both halves are unpacked once for all rows, words of a row fetched once for both halves.
                    let near = _mm256_loadu_si256(lines.cast());
                    let far = _mm256_loadu_si256(lines.add(32).cast());
                    let low = [
                        _mm256_and_si256(near, nibble),
                        _mm256_and_si256(far, nibble),
                    ];
                    let high = [
                        _mm256_and_si256(_mm256_srli_epi16::<4>(near), nibble),
                        _mm256_and_si256(_mm256_srli_epi16::<4>(far), nibble),
                    ];
                    for row in 0..R {
                        let first = _mm256_set1_epi32(*data.add(row) as i32);
                        let second = _mm256_set1_epi32(*data.add(R + row) as i32);
                        for (half, pairs) in pairs.iter_mut().enumerate() {
                            let sum = _mm256_maddubs_epi16(low[half], first);
                            pairs[row] = _mm256_add_epi16(pairs[row], sum);
                            let sum = _mm256_maddubs_epi16(high[half], second);
                            pairs[row] = _mm256_add_epi16(pairs[row], sum);
                        }
                    }
                    (data, lines) = (data.add(2 * R), lines.add(64));
                }
                for (half, sums) in all.iter_mut().enumerate() {
                    let mut dots = [_mm256_setzero_si256(); R];
                    for (row, dot) in dots.iter_mut().enumerate() {
                        let start = if OFFSET == ZEROS {
                            let both = zeros.add(index * ZERO_BYTES + 8 * half);
                            let both = _mm256_cvtepu8_epi32(_mm_loadl_epi64(both.cast()));
                            let zero = if block == 0 {
                                _mm256_and_si256(both, _mm256_set1_epi32(15))
                            } else {
                                _mm256_srli_epi32::<4>(both)
                            };
                            _mm256_madd_epi16(zero, _mm256_set1_epi32(*fix.add(row) & 0xffff))
                        } else if OFFSET == EIGHTS {
                            _mm256_set1_epi32(*fix.add(row))
                        } else {
                            _mm256_setzero_si256()
                        };
                        *dot = _mm256_add_epi32(start, _mm256_madd_epi16(pairs[half][row], ones));
                    }
                    let steps = tile.add(32 * block + 16 * half);
                    let scales = bunch.scales.add(at * R);
                    if OFFSET == MINIMA {
                        scale_minima(sums, &dots, steps, fix, scales);
                    } else {
                        scale(sums, &dots, steps, scales);
                    }
                }
            }
        }
        store(&all, out);
    }
}

/// `UNUSED` only gives both kernels the same shape for the macro.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int8<const R: usize, const UNUSED: bool>(
    group: *const u8,
    tiles: usize,
    bunch: &Bunch,
    out: *mut f32,
) {
    // SAFETY: `tiles` whole tiles; two blocks of R rows of activations a tile.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let flip = _mm256_set1_epi8(i8::MIN);
        let mut all = [[_mm256_setzero_ps(); R]; 2];
        for index in 0..tiles {
            let tile = group.add(index * Format::Int8.tile_bytes());
            for line in 0..17 {
                _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(AHEAD + 64 * line).cast());
            }
            for (half, sums) in all.iter_mut().enumerate() {
                for block in 0..2 {
                    let at = 2 * index + block;
                    let mut data = bunch.data.add(8 * at * R);
                    let mut codes = tile.add(SCALE_BYTES + 512 * block + 32 * half);
                    let mut dots = [_mm256_setzero_si256(); R];
                    for _ in 0..8 {
                        (data, codes) = (unforeseen(data), unforeseen(codes));
                        let signed = _mm256_xor_si256(_mm256_loadu_si256(codes.cast()), flip);
                        let magnitude = _mm256_abs_epi8(signed);
                        for (row, dot) in dots.iter_mut().enumerate() {
                            let bytes = _mm256_set1_epi32(*data.add(row) as i32);
                            let bytes = _mm256_sign_epi8(bytes, signed);
                            let pair = _mm256_maddubs_epi16(magnitude, bytes);
                            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pair, ones));
                        }
                        (data, codes) = (data.add(R), codes.add(64));
                    }
                    let steps = tile.add(32 * block + 16 * half);
                    scale(sums, &dots, steps, bunch.scales.add(at * R));
                }
            }
        }
        store(&all, out);
    }
}

/// The same address, of which the compiler knows nothing more.
///
/// Else it unrolls the loop over lines, finds that all rows multiply the same codes, and keeps those of all lines at once: on
/// the stack, for they are twice as many as there are registers. One line after the other is 8 % faster with four rows of 8-bit
/// codes. Where a loop's end is such an address, it is not unrolled at all: with 4-bit codes that takes 12 % off two to eight
/// rows (an EPYC of the third generation, weights in its cache), and changes nothing for one.
#[allow(clippy::pointers_in_nomem_asm_block)] // the address is not followed
#[inline(always)]
fn unforeseen<T>(mut address: *const T) -> *const T {
    // SAFETY: no instruction, and the address comes back as it was.
    unsafe {
        asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags));
    }
    address
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store<const R: usize>(all: &[[__m256; R]; 2], out: *mut f32) {
    for (half, sums) in all.iter().enumerate() {
        for (row, sum) in sums.iter().enumerate() {
            // SAFETY: room for 16 floats a row.
            unsafe { _mm256_storeu_ps(out.add(16 * row + 8 * half), *sum) };
        }
    }
}
