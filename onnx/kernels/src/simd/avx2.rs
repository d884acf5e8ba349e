//! AVX2: two registers are sixteen floats, and there are 16 of them.

use std::arch::x86_64::*;

use super::{Simd, clamp_i8};
use crate::activation::Bunch;
use crate::pack::Format;

/// AVX2 with FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

type Pair = [__m256; 2];

// SAFETY of all blocks below: callers enable the features (see the trait), and promise what they point to.
impl Simd for Avx2 {
    type F = Pair;

    const BUNCH_ROWS: usize = 4;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Pair {
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Pair {
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(x: Pair, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Pair {
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_f16(x: Pair, to: *mut u16) {
        unsafe {
            let [low, high] = [
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]),
            ];
            _mm_storeu_si128(to.cast(), low);
            _mm_storeu_si128(to.add(8).cast(), high);
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Pair {
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_i8(x: Pair, to: *mut i8) {
        unsafe {
            let [low, high] = clamp_i8::<Self>(x).map(|x| _mm256_cvtps_epi32(x));
            // Packing works in halves of a register: words come out as 0 2 | 1 3 and are put in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(to.cast(), bytes);
        }
    }

    #[inline(always)]
    fn add(x: Pair, y: Pair) -> Pair {
        unsafe { [_mm256_add_ps(x[0], y[0]), _mm256_add_ps(x[1], y[1])] }
    }

    #[inline(always)]
    fn sub(x: Pair, y: Pair) -> Pair {
        unsafe { [_mm256_sub_ps(x[0], y[0]), _mm256_sub_ps(x[1], y[1])] }
    }

    #[inline(always)]
    fn mul(x: Pair, y: Pair) -> Pair {
        unsafe { [_mm256_mul_ps(x[0], y[0]), _mm256_mul_ps(x[1], y[1])] }
    }

    #[inline(always)]
    fn div(x: Pair, y: Pair) -> Pair {
        unsafe { [_mm256_div_ps(x[0], y[0]), _mm256_div_ps(x[1], y[1])] }
    }

    #[inline(always)]
    fn fma(x: Pair, y: Pair, z: Pair) -> Pair {
        unsafe {
            [
                _mm256_fmadd_ps(x[0], y[0], z[0]),
                _mm256_fmadd_ps(x[1], y[1], z[1]),
            ]
        }
    }

    #[inline(always)]
    fn max(x: Pair, y: Pair) -> Pair {
        unsafe { [_mm256_max_ps(x[0], y[0]), _mm256_max_ps(x[1], y[1])] }
    }

    #[inline(always)]
    fn min(x: Pair, y: Pair) -> Pair {
        unsafe { [_mm256_min_ps(x[0], y[0]), _mm256_min_ps(x[1], y[1])] }
    }

    #[inline(always)]
    fn abs(x: Pair) -> Pair {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, x[0]), _mm256_andnot_ps(sign, x[1])]
        }
    }

    #[inline(always)]
    fn round(x: Pair) -> Pair {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe {
            [
                _mm256_round_ps::<NEAREST>(x[0]),
                _mm256_round_ps::<NEAREST>(x[1]),
            ]
        }
    }

    #[inline(always)]
    fn scale(x: Pair, n: Pair) -> Pair {
        unsafe {
            let power = |n: __m256| {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            };
            [
                _mm256_mul_ps(x[0], power(n[0])),
                _mm256_mul_ps(x[1], power(n[1])),
            ]
        }
    }

    #[inline(always)]
    fn sum(x: Pair) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(x[0], x[1]);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn largest(x: Pair) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(x[0], x[1]);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn to_bytes(low: Pair, high: Pair, inverse: f32) -> ([u32; 8], i32) {
        unsafe {
            let inverse = _mm256_set1_ps(inverse);
            let whole = |x: __m256| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
            let [a, b, c, d] = [whole(low[0]), whole(low[1]), whole(high[0]), whole(high[1])];
            // Packing works in halves of a register, so words come out as 0 2 4 6 | 1 3 5 7 and are put in order.
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let mut words = [0_u32; 8];
            let ordered = _mm256_permutevar8x32_epi32(bytes, order);
            _mm256_storeu_si256(words.as_mut_ptr().cast(), ordered);
            let eight = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
            let four = _mm_add_epi32(
                _mm256_castsi256_si128(eight),
                _mm256_extracti128_si256::<1>(eight),
            );
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
            (words, _mm_cvtsi128_si32(one))
        }
    }

    #[inline(always)]
    unsafe fn product(
        format: Format,
        group: *const u8,
        tiles: usize,
        bunch: &Bunch,
        out: *mut f32,
    ) {
        unsafe { crate::product::avx2::product(format, group, tiles, bunch, out) }
    }
}
