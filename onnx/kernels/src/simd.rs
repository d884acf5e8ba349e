//! What an instruction set has to offer: sixteen floats at a time, half-precision loads, and products of packed rows.
//!
//! Everything except the integer products is written once, over arrays of sixteen lanes that the compiler turns into the
//! registers of whatever features the enclosing function enables. So a block is one generic function, compiled three times,
//! and the instruction sets differ in a few hundred lines of `product`.

use half::f16;

use crate::activation::Bunch;
use crate::pack::Format;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// An instruction set. Its functions are called only inside functions that enable its features.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Rows that one call of [`Simd::product`] multiplies at once.
    const BUNCH_ROWS: usize;
    /// Query vectors whose scores are computed at once.
    const QUERIES: usize;

    /// Sixteen half-precision numbers.
    ///
    /// # Safety
    /// 32 readable bytes.
    unsafe fn load_f16(from: *const u16) -> V;

    /// Stores sixteen numbers in half precision.
    ///
    /// # Safety
    /// 32 writable bytes.
    unsafe fn store_f16(v: V, to: *mut u16);

    /// `x·y + z`.
    fn fma(x: f32, y: f32, z: f32) -> f32;

    /// Products of one group of 16 packed rows and a bunch of activations: `out[row][16]`.
    ///
    /// # Safety
    /// `group` has `tiles` tiles of `format`, the bunch as many blocks, `out` room for 16 floats a row.
    unsafe fn product(format: Format, group: *const u8, tiles: usize, bunch: &Bunch, out: *mut f32);
}

/// Sixteen floats.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct V(pub(crate) [f32; LANES]);

impl V {
    #[inline(always)]
    pub(crate) fn splat(x: f32) -> V {
        V([x; LANES])
    }

    /// The first sixteen of a slice.
    #[inline(always)]
    pub(crate) fn load(from: &[f32]) -> V {
        let mut lanes = [0.0; LANES];
        lanes.copy_from_slice(&from[..LANES]);
        V(lanes)
    }

    #[inline(always)]
    pub(crate) fn store(self, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&self.0);
    }

    #[inline(always)]
    pub(crate) fn map(self, f: impl Fn(f32) -> f32) -> V {
        let mut lanes = self.0;
        for lane in &mut lanes {
            *lane = f(*lane);
        }
        V(lanes)
    }

    #[inline(always)]
    pub(crate) fn zip(self, other: V, f: impl Fn(f32, f32) -> f32) -> V {
        let mut lanes = self.0;
        for (lane, other) in lanes.iter_mut().zip(other.0) {
            *lane = f(*lane, other);
        }
        V(lanes)
    }

    #[inline(always)]
    pub(crate) fn add(self, other: V) -> V {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    pub(crate) fn mul(self, other: V) -> V {
        self.zip(other, |a, b| a * b)
    }

    /// `self·y + z`.
    #[inline(always)]
    pub(crate) fn mul_add<S: Simd>(self, y: V, z: V) -> V {
        let mut lanes = [0.0; LANES];
        for (index, lane) in lanes.iter_mut().enumerate() {
            *lane = S::fma(self.0[index], y.0[index], z.0[index]);
        }
        V(lanes)
    }

    #[inline(always)]
    pub(crate) fn abs(self) -> V {
        self.map(f32::abs)
    }

    /// The larger one, or `self`'s NaN: what is not a number must not vanish in a comparison.
    #[inline(always)]
    pub(crate) fn max_or_nan(self, other: V) -> V {
        self.zip(other, max_or_nan)
    }

    #[inline(always)]
    pub(crate) fn reduce_max_or_nan(self) -> f32 {
        self.fold(max_or_nan)
    }

    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }

    /// Folds halves onto each other, the same way on every instruction set.
    #[inline(always)]
    fn fold(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let v = self.0;
        let mut eight = [0.0; 8];
        for i in 0..8 {
            eight[i] = f(v[i], v[i + 8]);
        }
        let mut four = [0.0; 4];
        for i in 0..4 {
            four[i] = f(eight[i], eight[i + 4]);
        }
        f(f(four[0], four[2]), f(four[1], four[3]))
    }
}

#[inline(always)]
fn max_or_nan(a: f32, b: f32) -> f32 {
    // Both comparisons with a NaN are false: a NaN in `a` stays because of the first, one in `b` because of the second.
    if a >= b || a.is_nan() { a } else { b }
}

/// Plain Rust, for every processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    const BUNCH_ROWS: usize = 4;
    const QUERIES: usize = 2;

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> V {
        let mut lanes = [0.0; LANES];
        for (index, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            *lane = f16::from_bits(unsafe { from.add(index).read_unaligned() }).to_f32();
        }
        V(lanes)
    }

    #[inline(always)]
    unsafe fn store_f16(v: V, to: *mut u16) {
        for (index, lane) in v.0.into_iter().enumerate() {
            // SAFETY: as the caller promises.
            unsafe { to.add(index).write_unaligned(f16::from_f32(lane).to_bits()) };
        }
    }

    #[inline(always)]
    fn fma(x: f32, y: f32, z: f32) -> f32 {
        // Not `mul_add`: without the instruction that is a call of a library.
        x * y + z
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
