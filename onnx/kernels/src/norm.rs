//! Norms and the elementwise functions between products.

use crate::simd::{LANES, Simd, exp};

/// Which norm a model uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean(x²) + ε) · w (Zhang and Sennrich 2019, equation 4).
    Rms,
    /// (x − mean(x)) / √(var(x) + ε) · w + b (Ba et al. 2016).
    Layer,
}

/// A norm with its weights.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Which.
    pub kind: NormKind,
    /// ε.
    pub epsilon: f32,
    /// w, as wide as what it is applied to; a multiple of 16.
    pub weight: &'a [f32],
    /// b, if there is one.
    pub bias: Option<&'a [f32]>,
}

/// What stands between the two products of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// ½x·(1 + tanh(√(2/π)(x + 0.044715x³))) (Hendrycks and Gimpel 2016), which is x·σ(2·√(2/π)(…)).
    GeluTanh,
}

/// The norm of `x` into `out`; both of the weight's width.
///
/// # Safety
/// `x` and `out` have as many elements as the weight; they may be the same.
#[inline(always)]
pub(crate) unsafe fn norm<S: Simd>(norm: &Norm<'_>, x: *const f32, out: *mut f32) {
    let width = norm.weight.len();
    // SAFETY: all accesses are below the width.
    unsafe {
        let mut total = S::splat(0.0);
        let mut squares = S::splat(0.0);
        for i in (0..width).step_by(LANES) {
            let v = S::load(x.add(i));
            total = S::add(total, v);
            squares = S::fma(v, v, squares);
        }
        let mean = match norm.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => S::sum(total) / width as f32,
        };
        if norm.kind == NormKind::Layer {
            // Of the differences: the difference of the means of squares would lose digits where the mean is large.
            squares = S::splat(0.0);
            for i in (0..width).step_by(LANES) {
                let v = S::sub(S::load(x.add(i)), S::splat(mean));
                squares = S::fma(v, v, squares);
            }
        }
        let factor = S::splat(1.0 / (S::sum(squares) / width as f32 + norm.epsilon).sqrt());
        for i in (0..width).step_by(LANES) {
            let v = S::sub(S::load(x.add(i)), S::splat(mean));
            let v = S::mul(S::mul(v, factor), S::load(norm.weight.as_ptr().add(i)));
            let v = match norm.bias {
                Some(bias) => S::add(v, S::load(bias.as_ptr().add(i))),
                None => v,
            };
            S::store(v, out.add(i));
        }
    }
}

/// See [`Activation`].
#[inline(always)]
pub(crate) fn activate<S: Simd>(activation: Activation, x: S::F) -> S::F {
    let inner = match activation {
        Activation::Silu => x,
        Activation::GeluTanh => {
            // 2·√(2/π)
            let cubic = S::fma(S::mul(S::mul(x, x), S::splat(0.044_715)), x, x);
            S::mul(cubic, S::splat(1.595_769))
        }
    };
    let one = S::splat(1.0);
    S::div(x, S::add(one, exp::<S>(S::sub(S::splat(0.0), inner))))
}

/// cos and sin of each position and frequency: `[positions][2·frequencies]`, cosines first (Su et al. 2021, section 3.4.2).
pub fn rotary_angles(positions: &[i32], inverse_frequencies: &[f32], out: &mut [f32]) {
    let half = inverse_frequencies.len();
    for (position, row) in positions.iter().zip(out.chunks_exact_mut(2 * half)) {
        let (cos, sin) = row.split_at_mut(half);
        for (i, frequency) in inverse_frequencies.iter().enumerate() {
            let angle = f64::from(*position) * f64::from(*frequency);
            (cos[i], sin[i]) = (angle.cos() as f32, angle.sin() as f32);
        }
    }
}

/// Rotates the halves of a head: (a, b) → (a·cos − b·sin, b·cos + a·sin).
///
/// # Safety
/// `head` has as many elements as `angles`, an even number.
#[inline(always)]
pub(crate) unsafe fn rotate(head: *mut f32, angles: &[f32]) {
    let half = angles.len() / 2;
    let (cos, sin) = angles.split_at(half);
    for i in 0..half {
        // SAFETY: i and i + half are below the width.
        unsafe {
            let (a, b) = (*head.add(i), *head.add(half + i));
            *head.add(i) = a * cos[i] - b * sin[i];
            *head.add(half + i) = b * cos[i] + a * sin[i];
        }
    }
}
