//! AVX-512: a register is sixteen floats, and there are 32 of them.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Simd, clamp_i8, one_by_one};
use crate::activation::{Bunch, Shaped};
use crate::pack::Format;

/// AVX-512 with VNNI, and with tiles for the products of many rows or without.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const TILES: bool>;

/// Without.
pub(crate) type Avx512Vnni = Avx512<false>;

/// With.
pub(crate) type Amx = Avx512<true>;

// SAFETY of all blocks below: callers enable the features (see the trait), and promise what they point to.
impl<const TILES: bool> Simd for Avx512<TILES> {
    type F = __m512;

    const BUNCH_ROWS: usize = 12;
    const WIDE: bool = true;
    const TILED_FROM: usize = if TILES { 32 } else { usize::MAX };
    const TOGETHER: usize = if TILES { 8 } else { 1 };

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(x: __m512, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f16(x: __m512, to: *mut u16) {
        unsafe {
            _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_i8(x: __m512, to: *mut i8) {
        unsafe {
            let whole = _mm512_cvtps_epi32(clamp_i8::<Self>(x));
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(whole));
        }
    }

    #[inline(always)]
    fn add(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_add_ps(x, y) }
    }

    #[inline(always)]
    fn sub(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(x, y) }
    }

    #[inline(always)]
    fn mul(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(x, y) }
    }

    #[inline(always)]
    fn div(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_div_ps(x, y) }
    }

    #[inline(always)]
    fn fma(x: __m512, y: __m512, z: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(x, y, z) }
    }

    #[inline(always)]
    fn max(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_max_ps(x, y) }
    }

    #[inline(always)]
    fn min(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_min_ps(x, y) }
    }

    #[inline(always)]
    fn abs(x: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(x) }
    }

    #[inline(always)]
    fn round(x: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x) }
    }

    #[inline(always)]
    fn scale(x: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(x, n) }
    }

    #[inline(always)]
    fn sum(x: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(x) }
    }

    #[inline(always)]
    fn largest(x: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    fn to_bytes(low: __m512, high: __m512, inverse: f32) -> ([u32; 8], i32) {
        unsafe {
            let inverse = _mm512_set1_ps(inverse);
            let low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
            let high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
            let mut words = [0_u32; 8];
            _mm_storeu_si128(words.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(words.as_mut_ptr().add(4).cast(), _mm512_cvtepi32_epi8(high));
            (words, _mm512_reduce_add_epi32(_mm512_add_epi32(low, high)))
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
        unsafe { crate::product::avx512::product(format, group, tiles, bunch, out) }
    }

    #[inline(always)]
    unsafe fn products(
        format: Format,
        group: *const u8,
        tiles: usize,
        (bytes, bunches): (&Shaped, Range<usize>),
        out: *mut f32,
    ) {
        unsafe {
            if TILES && bytes.tiled {
                crate::product::amx::products(format, group, tiles, (bytes, bunches), out);
            } else {
                one_by_one::<Self>(format, group, tiles, (bytes, bunches), out);
            }
        }
    }
}
