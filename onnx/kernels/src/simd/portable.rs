//! Plain Rust, for every processor; arrays that the compiler may or may not turn into registers.

use half::f16;

use super::{LANES, Simd, clamp_i8};
use crate::activation::Bunch;
use crate::pack::Format;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(x: [f32; LANES], y: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(x[i], y[i]))
}

/// Folds halves onto each other, as the instruction sets do.
#[inline(always)]
fn fold(x: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| f(x[i], x[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| f(eight[i], eight[i + 4]));
    f(f(four[0], four[2]), f(four[1], four[3]))
}

impl Simd for Portable {
    type F = [f32; LANES];

    const BUNCH_ROWS: usize = 4;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        // SAFETY: as the caller promises.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(x: Self::F, to: *mut f32) {
        // SAFETY: as the caller promises.
        unsafe { to.cast::<Self::F>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // SAFETY: as the caller promises.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn store_f16(x: Self::F, to: *mut u16) {
        let bits = x.map(|x| f16::from_f32(x).to_bits());
        // SAFETY: as the caller promises.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::F {
        // SAFETY: as the caller promises.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store_i8(x: Self::F, to: *mut i8) {
        let bytes = clamp_i8::<Self>(x).map(|x| x.round_ties_even() as i8);
        // SAFETY: as the caller promises.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    fn add(x: Self::F, y: Self::F) -> Self::F {
        zip(x, y, |x, y| x + y)
    }

    #[inline(always)]
    fn sub(x: Self::F, y: Self::F) -> Self::F {
        zip(x, y, |x, y| x - y)
    }

    #[inline(always)]
    fn mul(x: Self::F, y: Self::F) -> Self::F {
        zip(x, y, |x, y| x * y)
    }

    #[inline(always)]
    fn div(x: Self::F, y: Self::F) -> Self::F {
        zip(x, y, |x, y| x / y)
    }

    #[inline(always)]
    fn fma(x: Self::F, y: Self::F, z: Self::F) -> Self::F {
        // Not `mul_add`: where there is no such instruction, that calls a library.
        std::array::from_fn(|i| x[i] * y[i] + z[i])
    }

    #[inline(always)]
    fn max(x: Self::F, y: Self::F) -> Self::F {
        zip(x, y, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn min(x: Self::F, y: Self::F) -> Self::F {
        zip(x, y, |x, y| if x < y { x } else { y })
    }

    #[inline(always)]
    fn abs(x: Self::F) -> Self::F {
        x.map(f32::abs)
    }

    #[inline(always)]
    fn round(x: Self::F) -> Self::F {
        x.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn scale(x: Self::F, n: Self::F) -> Self::F {
        // A NaN becomes 0 as an integer, and x, which came from the same number, keeps it.
        zip(x, n, |x, n| {
            x * f32::from_bits(((n as i32 + 127) as u32) << 23)
        })
    }

    #[inline(always)]
    fn sum(x: Self::F) -> f32 {
        fold(x, |x, y| x + y)
    }

    #[inline(always)]
    fn largest(x: Self::F) -> f32 {
        fold(x, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn to_bytes(low: Self::F, high: Self::F, inverse: f32) -> ([u32; 8], i32) {
        let mut bytes = [0_i8; 2 * LANES];
        for (byte, x) in bytes.iter_mut().zip(low.into_iter().chain(high)) {
            *byte = (x * inverse).round_ties_even() as i8;
        }
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| bytes[4 * i + j] as u8));
        (
            std::array::from_fn(word),
            bytes.iter().map(|byte| i32::from(*byte)).sum(),
        )
    }

    #[inline(always)]
    unsafe fn product(
        format: Format,
        group: *const u8,
        tiles: usize,
        bunch: &Bunch,
        out: *mut f32,
    ) {
        // SAFETY: as the caller promises.
        unsafe { crate::product::portable::product(format, group, tiles, bunch, out) }
    }
}
