//! What an instruction set has to offer: sixteen floats at a time, half-precision loads, and products of packed rows.
//!
//! Everything between two products is written once over this trait, as functions that are always inlined into one function
//! per instruction set that enables its features. So a block is one text compiled for each of them, and the instruction sets
//! differ in the few operations here and in `product`.

pub(crate) mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

use std::ops::Range;

use crate::activation::{Bunch, Shaped};
use crate::pack::{Format, GROUP_ROWS};

/// Floats of a vector.
pub(crate) const LANES: usize = 16;

/// Most rows of one call of [`Simd::products`].
pub(crate) const MAX_TOGETHER_ROWS: usize = 128;

/// An instruction set.
///
/// Its functions are called only inside functions that enable its features (see `block::run`), on a computer that has them.
/// Pointers need not be aligned; loads and stores are of sixteen elements.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen floats.
    type F: Copy;

    /// Rows that one call of [`Simd::product`] multiplies at once.
    const BUNCH_ROWS: usize;
    /// Whether there are 32 registers for sixteen floats each, and not 16 for eight: how much a kernel keeps in them.
    const WIDE: bool;
    /// From how many rows on their bytes are laid out for tiles, in bunches of at most 16 rows.
    const TILED_FROM: usize = usize::MAX;
    /// Bunches that one call of [`Simd::products`] takes, at most [`MAX_TOGETHER_ROWS`] rows.
    const TOGETHER: usize = 1;

    fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(x: Self::F, to: *mut f32);
    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn store_f16(x: Self::F, to: *mut u16);
    unsafe fn load_i8(from: *const i8) -> Self::F;
    /// Each to the nearest whole number from −127 to 127.
    unsafe fn store_i8(x: Self::F, to: *mut i8);

    fn add(x: Self::F, y: Self::F) -> Self::F;
    fn sub(x: Self::F, y: Self::F) -> Self::F;
    fn mul(x: Self::F, y: Self::F) -> Self::F;
    fn div(x: Self::F, y: Self::F) -> Self::F;
    /// `x·y + z`, in one rounding where the instruction set can.
    fn fma(x: Self::F, y: Self::F, z: Self::F) -> Self::F;
    /// The larger one; `y` if either is not a number.
    fn max(x: Self::F, y: Self::F) -> Self::F;
    fn min(x: Self::F, y: Self::F) -> Self::F;
    fn abs(x: Self::F) -> Self::F;
    /// To the nearest integer.
    fn round(x: Self::F) -> Self::F;
    /// `x·2ⁿ` for integers `n` from −126 to 127.
    fn scale(x: Self::F, n: Self::F) -> Self::F;
    fn sum(x: Self::F) -> f32;
    fn largest(x: Self::F) -> f32;

    /// `round(x·inverse)` of 32 floats as bytes, and their sum.
    fn to_bytes(low: Self::F, high: Self::F, inverse: f32) -> ([u32; 8], i32);

    /// Products of one group of 16 packed rows and a bunch of activations: `out[row][16]`.
    ///
    /// # Safety
    /// `group` has `tiles` tiles of `format`, the bunch as many blocks, `out` room for 16 floats a row.
    unsafe fn product(format: Format, group: *const u8, tiles: usize, bunch: &Bunch, out: *mut f32);

    /// Products of one group and at most [`Simd::TOGETHER`] bunches that follow each other, `out[row][16]`.
    ///
    /// # Safety
    /// As [`Simd::product`]; where [`Simd::TILED_FROM`] is a number, this thread's tiles are configured.
    #[inline(always)]
    unsafe fn products(
        format: Format,
        group: *const u8,
        tiles: usize,
        (bytes, bunches): (&Shaped, Range<usize>),
        out: *mut f32,
    ) {
        // SAFETY: as the caller promises.
        unsafe { one_by_one::<Self>(format, group, tiles, (bytes, bunches), out) }
    }
}

/// Each bunch for itself.
///
/// # Safety
/// See [`Simd::products`].
#[inline(always)]
unsafe fn one_by_one<S: Simd>(
    format: Format,
    group: *const u8,
    tiles: usize,
    (bytes, bunches): (&Shaped, Range<usize>),
    mut out: *mut f32,
) {
    for index in bunches {
        let bunch = bytes.bunch(index);
        // SAFETY: as the caller promises.
        unsafe {
            S::product(format, group, tiles, &bunch, out);
            out = out.add(bunch.rows * GROUP_ROWS);
        }
    }
}

/// What a byte can hold; −128 is left out, so that a number and its negative are equally far from it.
#[inline(always)]
pub(crate) fn clamp_i8<S: Simd>(x: S::F) -> S::F {
    S::min(S::max(x, S::splat(-127.0)), S::splat(127.0))
}

/// eˣ to about two units in the last place: 2ⁿ·p(r) with x = n·ln 2 + r (Cody and Waite), p the polynomial of Cephes' expf.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: S::F) -> S::F {
    // Below −87 the result is below the smallest normal number: small enough to be 1.6e-38 instead. A NaN stays one.
    let x = S::min(S::splat(88.0), S::max(S::splat(-87.0), x));
    let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
    let r = S::fma(n, S::splat(-0.693_359_4), x);
    let r = S::fma(n, S::splat(2.121_944_4e-4), r);
    let mut p = S::splat(1.987_569_1e-4);
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = S::fma(p, r, S::splat(coefficient));
    }
    let p = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
    S::scale(p, n)
}
