//! Products with AVX-512 VNNI: a register holds four inputs of each of the 16 rows, one instruction multiplies and adds them.
//!
//! Twelve rows of activations fit beside the weights in 32 registers (an integer and a float sum each). A matrix-vector product
//! waits for memory, so the weights are asked for [`AHEAD`] bytes before they are used: 512 gave 22 GB/s on two threads, 2048
//! 27, 4096 28, 8192 28.6.

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
            4 => $kernel::<4, $format>($($argument),*),
            5 => $kernel::<5, $format>($($argument),*),
            6 => $kernel::<6, $format>($($argument),*),
            7 => $kernel::<7, $format>($($argument),*),
            8 => $kernel::<8, $format>($($argument),*),
            9 => $kernel::<9, $format>($($argument),*),
            10 => $kernel::<10, $format>($($argument),*),
            11 => $kernel::<11, $format>($($argument),*),
            _ => $kernel::<12, $format>($($argument),*),
        }
    };
}

/// See [`Simd::product`](crate::simd::Simd::product).
///
/// # Safety
/// As there, on a processor with these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
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
        let nibble = _mm512_set1_epi8(15);
        let mut sums = [_mm512_setzero_ps(); R];
        let (mut data, mut fix, mut scales) = (bunch.data, bunch.fix, bunch.scales);
        let zeros = group.add(tiles * Format::Int4Zeros.tile_bytes());
        for index in 0..tiles {
            let tile = group.add(index * format.tile_bytes());
            for line in 0..format.tile_bytes() / 64 {
                _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(AHEAD + 64 * line).cast());
            }
            for block in 0..2 {
                let mut dots = [_mm512_setzero_si512(); R];
                if OFFSET == ZEROS {
                    let zero = zero_points(zeros.add(index * ZERO_BYTES), block);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        // The low halves of both words: zero · (−Σ bytes), which fits 16 bits.
                        let sum = _mm512_set1_epi32(*fix.add(row) & 0xffff);
                        *dot = _mm512_dpwssd_epi32(*dot, zero, sum);
                    }
                } else if OFFSET == EIGHTS {
                    for (row, dot) in dots.iter_mut().enumerate() {
                        *dot = _mm512_set1_epi32(*fix.add(row));
                    }
                }
                let lines = tile.add(format.codes_at() + 256 * block);
                for line in 0..4 {
                    let both = _mm512_loadu_si512(lines.add(64 * line).cast());
                    let low = _mm512_and_si512(both, nibble);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        let bytes = _mm512_set1_epi32(*data.add(2 * line * R + row) as i32);
                        *dot = _mm512_dpbusd_epi32(*dot, low, bytes);
                    }
                    for (row, dot) in dots.iter_mut().enumerate() {
                        let bytes = _mm512_set1_epi32(*data.add((2 * line + 1) * R + row) as i32);
                        *dot = _mm512_dpbusd_epi32(*dot, high, bytes);
                    }
                }
                let steps = halves(tile.add(32 * block));
                if OFFSET == MINIMA {
                    let minima = halves(tile.add(SCALE_BYTES + 32 * block));
                    for row in 0..R {
                        let sum = _mm512_cvtepi32_ps(_mm512_set1_epi32(*fix.add(row)));
                        let low = _mm512_mul_ps(minima, sum);
                        let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[row]), steps, low);
                        sums[row] =
                            _mm512_fmadd_ps(value, _mm512_set1_ps(*scales.add(row)), sums[row]);
                    }
                } else {
                    for row in 0..R {
                        let step = _mm512_mul_ps(steps, _mm512_set1_ps(*scales.add(row)));
                        sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[row]), step, sums[row]);
                    }
                }
                (data, fix, scales) = (data.add(8 * R), fix.add(R), scales.add(R));
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(out.add(16 * row), sum);
        }
    }
}

/// Sixteen scales or minima.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn halves(from: *const u8) -> __m512 {
    // SAFETY: 32 bytes, as the caller promises.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
}

/// The zero points of a block, one a 32-bit lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn zero_points(zeros: *const u8, block: usize) -> __m512i {
    // SAFETY: 16 bytes a tile.
    let both = unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(zeros.cast())) };
    if block == 0 {
        _mm512_and_si512(both, _mm512_set1_epi32(15))
    } else {
        _mm512_srli_epi32::<4>(both)
    }
}

/// `UNUSED` only gives both kernels the same shape for the macro.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn int8<const R: usize, const UNUSED: bool>(
    group: *const u8,
    tiles: usize,
    bunch: &Bunch,
    out: *mut f32,
) {
    // SAFETY: `tiles` whole tiles; two blocks of R rows of activations a tile.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); R];
        let (mut data, mut fix, mut scales) = (bunch.data, bunch.fix, bunch.scales);
        for index in 0..tiles {
            let tile = group.add(index * Format::Int8.tile_bytes());
            for line in 0..17 {
                _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(AHEAD + 64 * line).cast());
            }
            for block in 0..2 {
                let mut dots = [_mm512_setzero_si512(); R];
                for (row, dot) in dots.iter_mut().enumerate() {
                    *dot = _mm512_set1_epi32(*fix.add(row));
                }
                let lines = tile.add(SCALE_BYTES + 512 * block);
                for line in 0..8 {
                    let codes = _mm512_loadu_si512(lines.add(64 * line).cast());
                    for (row, dot) in dots.iter_mut().enumerate() {
                        let bytes = _mm512_set1_epi32(*data.add(line * R + row) as i32);
                        *dot = _mm512_dpbusd_epi32(*dot, codes, bytes);
                    }
                }
                let steps = halves(tile.add(32 * block));
                for row in 0..R {
                    let step = _mm512_mul_ps(steps, _mm512_set1_ps(*scales.add(row)));
                    sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[row]), step, sums[row]);
                }
                (data, fix, scales) = (data.add(8 * R), fix.add(R), scales.add(R));
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(out.add(16 * row), sum);
        }
    }
}
