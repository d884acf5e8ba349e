//! Attention of a few queries over the pages of one sequence: softmax(q·Kᵀ)·V for one key and value head.
//!
//! Queries that share a key head (Ainslie et al. 2023) and neighbouring rows are done together, so that a page is read and
//! widened to single precision once for all of them. Scores stand in full before the softmax: a context of 8192 tokens is
//! 32 KiB a query, which stays in the second cache. A long past can be cut into ranges that different threads take; each
//! leaves its largest score and its sum, from which the parts are joined exactly.

use crate::pool::{PAGE_TOKENS, Pool, Stored};
use crate::simd::{LANES, Simd, exp};

/// Queries done together.
pub(crate) const QUERIES: usize = 8;

/// Where keys and values are.
#[derive(Clone, Copy)]
pub(crate) struct Past<'a> {
    pub(crate) pool: &'a Pool,
    /// Pages of the sequence, checked.
    pub(crate) pages: &'a [i32],
    pub(crate) layer: usize,
    pub(crate) head: usize,
    /// Tokens to look at.
    pub(crate) begin: usize,
    pub(crate) end: usize,
    /// What the values of this head are worth, `[head_dim]`, where they are bytes. Those of keys are in the queries.
    pub(crate) value_scales: Option<&'a [f32]>,
}

/// A query's largest score and the sum of exponentials above it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    pub(crate) largest: f32,
    pub(crate) sum: f32,
}

/// What one query may see: tokens from..=position.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sight {
    pub(crate) from: usize,
    pub(crate) position: usize,
}

/// Runs a kernel for a number of queries known when compiling.
macro_rules! by_queries {
    ($count:expr, $n:ident => $call:expr) => {
        match $count {
            1 => {
                const $n: usize = 1;
                $call
            }
            2 => {
                const $n: usize = 2;
                $call
            }
            3 => {
                const $n: usize = 3;
                $call
            }
            4 => {
                const $n: usize = 4;
                $call
            }
            5 => {
                const $n: usize = 5;
                $call
            }
            6 => {
                const $n: usize = 6;
                $call
            }
            7 => {
                const $n: usize = 7;
                $call
            }
            _ => {
                const $n: usize = 8;
                $call
            }
        }
    };
}

/// Attends over a pool of `E`. `queries` is `[head_dim][count]`, rotated and scaled; `scores` has `count` rows of the range
/// rounded up to pages; `out[i]` receives `head_dim` floats.
///
/// # Safety
/// `sight.len() == out.len() == weights.len() <= QUERIES`; pages cover the range; all buffers are as large as said.
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd, E: Stored>(
    past: &Past<'_>,
    queries: *const f32,
    sight: &[Sight],
    scores: *mut f32,
    out: &[*mut f32],
    weights: &mut [Weight],
) {
    let count = sight.len();
    let width = past.pool.head_dim();
    let first = past.begin / PAGE_TOKENS;
    let last = (past.end - 1) / PAGE_TOKENS;
    let base = first * PAGE_TOKENS;
    let stride = (last + 1 - first) * PAGE_TOKENS;
    // SAFETY: as the caller promises.
    unsafe {
        for (index, page) in past.pages[first..=last].iter().enumerate() {
            let (keys, _) = past.pool.head::<E>(*page as usize, past.layer, past.head);
            let to = scores.add(index * PAGE_TOKENS);
            by_queries!(count, N => dot::<S, E, N>(queries, keys, width, to, stride));
        }
        for (i, sight) in sight.iter().enumerate() {
            let from = sight.from.max(past.begin) - base;
            let to = (sight.position + 1).min(past.end).saturating_sub(base);
            weights[i] = softmax::<S>(scores.add(i * stride), from, to, stride);
        }
        let mut done = 0;
        while done < count {
            let step = (count - done).min(if S::WIDE { 4 } else { 2 });
            let (scores, out) = (scores.add(done * stride), &out[done..]);
            let weights = &weights[done..];
            match step {
                1 => weigh::<S, E, 1>(past, scores, stride, out, weights),
                2 => weigh::<S, E, 2>(past, scores, stride, out, weights),
                3 => weigh::<S, E, 3>(past, scores, stride, out, weights),
                _ => weigh::<S, E, 4>(past, scores, stride, out, weights),
            }
            done += step;
        }
    }
}

/// Scores of N queries for the 32 tokens of a page.
#[inline(always)]
unsafe fn dot<S: Simd, E: Stored, const N: usize>(
    queries: *const f32,
    keys: *const E::Bits,
    width: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: `[width][32]` keys, `[width][N]` queries, 32 scores a query.
    unsafe {
        let mut sums = [[S::splat(0.0); 2]; N];
        for feature in 0..width {
            let low = E::load::<S>(keys.add(feature * PAGE_TOKENS));
            let high = E::load::<S>(keys.add(feature * PAGE_TOKENS + LANES));
            for (i, sum) in sums.iter_mut().enumerate() {
                let query = S::splat(*queries.add(feature * N + i));
                sum[0] = S::fma(low, query, sum[0]);
                sum[1] = S::fma(high, query, sum[1]);
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            S::store(sum[0], out.add(i * stride));
            S::store(sum[1], out.add(i * stride + LANES));
        }
    }
}

/// Turns the scores from..to of a row into exponentials, all others into (almost) nothing.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: *mut f32, from: usize, to: usize, length: usize) -> Weight {
    // SAFETY: `length` scores, a multiple of 32; from and to are at most that.
    unsafe {
        if from >= to {
            for i in (0..length).step_by(LANES) {
                S::store(S::splat(0.0), scores.add(i));
            }
            return Weight {
                largest: f32::NEG_INFINITY,
                sum: 0.0,
            };
        }
        for i in (0..from).chain(to..length) {
            *scores.add(i) = f32::NEG_INFINITY;
        }
        let mut largest = S::splat(f32::NEG_INFINITY);
        for i in (0..length).step_by(LANES) {
            largest = S::max(largest, S::load(scores.add(i)));
        }
        let largest = S::largest(largest);
        let mut sum = S::splat(0.0);
        for i in (0..length).step_by(LANES) {
            let weight = exp::<S>(S::sub(S::load(scores.add(i)), S::splat(largest)));
            sum = S::add(sum, weight);
            S::store(weight, scores.add(i));
        }
        Weight {
            largest,
            sum: S::sum(sum),
        }
    }
}

/// Values of the range, weighed, for N queries.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Stored, const N: usize>(
    past: &Past<'_>,
    scores: *const f32,
    stride: usize,
    out: &[*mut f32],
    weights: &[Weight],
) {
    let width = past.pool.head_dim();
    let mut feature = 0;
    // SAFETY: features stay below the width.
    unsafe {
        while S::WIDE && feature + 4 * LANES <= width {
            weigh_features::<S, E, N, 4>(past, scores, stride, out, weights, feature);
            feature += 4 * LANES;
        }
        while feature + 2 * LANES <= width {
            weigh_features::<S, E, N, 2>(past, scores, stride, out, weights, feature);
            feature += 2 * LANES;
        }
        if feature < width {
            weigh_features::<S, E, N, 1>(past, scores, stride, out, weights, feature);
        }
    }
}

/// As [`weigh`], for 16·W features.
#[inline(always)]
unsafe fn weigh_features<S: Simd, E: Stored, const N: usize, const W: usize>(
    past: &Past<'_>,
    scores: *const f32,
    stride: usize,
    out: &[*mut f32],
    weights: &[Weight],
    feature: usize,
) {
    let width = past.pool.head_dim();
    let base = past.begin / PAGE_TOKENS * PAGE_TOKENS;
    let mut token = past.begin;
    // SAFETY: pages cover the range; scores and outputs are as large as the caller says.
    unsafe {
        let mut sums = [[S::splat(0.0); W]; N];
        while token < past.end {
            let page = past.pages[token / PAGE_TOKENS] as usize;
            let (_, values) = past.pool.head::<E>(page, past.layer, past.head);
            let until = past.end.min((token / PAGE_TOKENS + 1) * PAGE_TOKENS);
            for token in token..until {
                let row = values.add(token % PAGE_TOKENS * width + feature);
                let mut value = [S::splat(0.0); W];
                for (i, value) in value.iter_mut().enumerate() {
                    *value = E::load::<S>(row.add(i * LANES));
                }
                for (i, sum) in sums.iter_mut().enumerate() {
                    let weight = S::splat(*scores.add(i * stride + token - base));
                    for (sum, value) in sum.iter_mut().zip(value) {
                        *sum = S::fma(value, weight, *sum);
                    }
                }
            }
            token = until;
        }
        for (i, sum) in sums.into_iter().enumerate() {
            let factor = if weights[i].sum > 0.0 || weights[i].sum.is_nan() {
                1.0 / weights[i].sum
            } else {
                0.0
            };
            for (j, sum) in sum.into_iter().enumerate() {
                let at = feature + j * LANES;
                let mut sum = S::mul(sum, S::splat(factor));
                if let Some(scales) = past.value_scales {
                    sum = S::mul(sum, S::load(scales.as_ptr().add(at)));
                }
                S::store(sum, out[i].add(at));
            }
        }
    }
}

/// Joins what several ranges gave for one query: Σ oᵢ·lᵢ·exp(mᵢ − m) / Σ lᵢ·exp(mᵢ − m) (Milakov and Gimelshein 2018).
///
/// # Safety
/// Each part has `width` floats, `out` too.
#[inline(always)]
pub(crate) unsafe fn join<S: Simd>(parts: &[(*const f32, Weight)], width: usize, out: *mut f32) {
    let largest = parts
        .iter()
        .fold(f32::NEG_INFINITY, |m, (_, weight)| m.max(weight.largest));
    let share = |weight: &Weight| {
        if weight.sum == 0.0 {
            0.0
        } else {
            weight.sum * (weight.largest - largest).exp()
        }
    };
    let total: f32 = parts.iter().map(|(_, weight)| share(weight)).sum();
    // SAFETY: features stay below the width.
    unsafe {
        for feature in (0..width).step_by(LANES) {
            let mut sum = S::splat(0.0);
            for (part, weight) in parts {
                sum = S::fma(
                    S::load(part.add(feature)),
                    S::splat(share(weight) / total),
                    sum,
                );
            }
            S::store(sum, out.add(feature));
        }
    }
}
