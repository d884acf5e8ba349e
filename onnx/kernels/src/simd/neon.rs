//! NEON: four registers are sixteen floats, and there are 32 of them.
//!
//! Half precision is converted by the two instructions themselves, as their intrinsics need a type that is not stable in every
//! Rust this crate is built with; every processor with NEON has them.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Simd, clamp_i8};
use crate::activation::Bunch;
use crate::pack::Format;

/// NEON with products of bytes by fours (`dotprod`).
#[derive(Clone, Copy)]
pub(crate) struct NeonDot;

type Four = [float32x4_t; 4];

/// Four floats of half precision.
///
/// # Safety
/// The processor has NEON, and `from` points to four elements.
#[inline(always)]
pub(crate) unsafe fn widen(from: *const u16) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: as the caller promises.
    unsafe {
        let half = vld1_u16(from);
        asm!("fcvtl {wide:v}.4s, {half:v}.4h", wide = lateout(vreg) wide, half = in(vreg) half,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

#[inline(always)]
unsafe fn narrow(x: float32x4_t, to: *mut u16) {
    let half: uint16x4_t;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("fcvtn {half:v}.4h, {wide:v}.4s", half = lateout(vreg) half, wide = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
        vst1_u16(to, half);
    }
}

#[inline(always)]
fn zip(x: Four, y: Four, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Four {
    [f(x[0], y[0]), f(x[1], y[1]), f(x[2], y[2]), f(x[3], y[3])]
}

// SAFETY of all blocks below: callers enable the features (see the trait), and promise what they point to.
impl Simd for NeonDot {
    type F = Four;

    const BUNCH_ROWS: usize = 4;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Four {
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Four {
        unsafe {
            [
                vld1q_f32(from),
                vld1q_f32(from.add(4)),
                vld1q_f32(from.add(8)),
                vld1q_f32(from.add(12)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(x: Four, to: *mut f32) {
        for (index, part) in x.into_iter().enumerate() {
            unsafe { vst1q_f32(to.add(4 * index), part) };
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Four {
        unsafe {
            [
                widen(from),
                widen(from.add(4)),
                widen(from.add(8)),
                widen(from.add(12)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_f16(x: Four, to: *mut u16) {
        for (index, part) in x.into_iter().enumerate() {
            unsafe { narrow(part, to.add(4 * index)) };
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Four {
        unsafe {
            let bytes = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vget_low_s16(low),
                vget_high_s16(low),
                vget_low_s16(high),
                vget_high_s16(high),
            ]
            .map(|four| vcvtq_f32_s32(vmovl_s16(four)))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(x: Four, to: *mut i8) {
        unsafe {
            let [a, b, c, d] = clamp_i8::<Self>(x).map(|x| vqmovn_s32(vcvtnq_s32_f32(x)));
            let (low, high) = (vcombine_s16(a, b), vcombine_s16(c, d));
            vst1q_s8(to, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
        }
    }

    #[inline(always)]
    fn add(x: Four, y: Four) -> Four {
        zip(x, y, |x, y| unsafe { vaddq_f32(x, y) })
    }

    #[inline(always)]
    fn sub(x: Four, y: Four) -> Four {
        zip(x, y, |x, y| unsafe { vsubq_f32(x, y) })
    }

    #[inline(always)]
    fn mul(x: Four, y: Four) -> Four {
        zip(x, y, |x, y| unsafe { vmulq_f32(x, y) })
    }

    #[inline(always)]
    fn div(x: Four, y: Four) -> Four {
        zip(x, y, |x, y| unsafe { vdivq_f32(x, y) })
    }

    #[inline(always)]
    fn fma(x: Four, y: Four, z: Four) -> Four {
        unsafe {
            [
                vfmaq_f32(z[0], x[0], y[0]),
                vfmaq_f32(z[1], x[1], y[1]),
                vfmaq_f32(z[2], x[2], y[2]),
                vfmaq_f32(z[3], x[3], y[3]),
            ]
        }
    }

    /// Compared and selected: the instruction for it gives what is not a number, wherever it stands.
    #[inline(always)]
    fn max(x: Four, y: Four) -> Four {
        zip(x, y, |x, y| unsafe { vbslq_f32(vcgtq_f32(x, y), x, y) })
    }

    #[inline(always)]
    fn min(x: Four, y: Four) -> Four {
        zip(x, y, |x, y| unsafe { vbslq_f32(vcltq_f32(x, y), x, y) })
    }

    #[inline(always)]
    fn abs(x: Four) -> Four {
        x.map(|x| unsafe { vabsq_f32(x) })
    }

    #[inline(always)]
    fn round(x: Four) -> Four {
        x.map(|x| unsafe { vrndnq_f32(x) })
    }

    #[inline(always)]
    fn scale(x: Four, n: Four) -> Four {
        zip(x, n, |x, n| unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        })
    }

    #[inline(always)]
    fn sum(x: Four) -> f32 {
        unsafe {
            let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn largest(x: Four) -> f32 {
        unsafe {
            // Numbers win over what is none, as in `max`.
            let four = vmaxnmq_f32(vmaxnmq_f32(x[0], x[2]), vmaxnmq_f32(x[1], x[3]));
            vmaxnmvq_f32(four)
        }
    }

    #[inline(always)]
    fn to_bytes(low: Four, high: Four, inverse: f32) -> ([u32; 8], i32) {
        unsafe {
            let whole = |x: float32x4_t| vcvtnq_s32_f32(vmulq_n_f32(x, inverse));
            let mut words = [0_u32; 8];
            let mut sums = vdupq_n_s32(0);
            for (half, x) in [low, high].into_iter().enumerate() {
                let [a, b, c, d] = x.map(whole);
                let first = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
                let second = vcombine_s16(vqmovn_s32(c), vqmovn_s32(d));
                let bytes = vcombine_s8(vqmovn_s16(first), vqmovn_s16(second));
                vst1q_s8(words.as_mut_ptr().add(4 * half).cast(), bytes);
                sums = vaddq_s32(sums, vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
            }
            (words, vaddvq_s32(sums))
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
        unsafe { crate::product::neon::product(format, group, tiles, bunch, out) }
    }
}
