//! Attention in operators that have derivatives.
//!
//! Query heads that share a key head are rows of one product, so that keys and values are never repeated:
//!
//! ```text
//!   q [batch, kv, group·length, d] · kᵀ [batch, kv, d, length] ─► [batch, kv, group, length, length] + mask ─► softmax
//! ```

use super::{Shape, Values};

/// Sizes of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) heads: usize,
    /// Key and value heads.
    pub(super) kv_heads: usize,
    /// Width of a head.
    pub(super) head_dim: usize,
    /// Factor of q·k.
    pub(super) scale: f32,
}

/// softmax(scale·q·kᵀ + mask)·v of q [batch, heads, length, d] and k, v [batch, kv_heads, length, d]: [tokens, heads·d].
///
/// The mask broadcasts to [batch, kv_heads, group, length, length].
pub(super) fn attend(
    v: &mut Values<'_>,
    [query, key, value]: [&str; 3],
    mask: &str,
    heads: Heads,
    shape: Shape,
) -> String {
    let Shape { batch, length } = shape;
    let (kv, d) = (heads.kv_heads, heads.head_dim);
    let group = heads.heads / kv;
    let query = v.scaled(query, heads.scale);
    let query = v.reshaped(&query, &[batch, kv, group * length, d]);
    let key = v.transposed(key, &[0, 1, 3, 2]);
    let scores = v.op("MatMul", &[&query, &key]);
    let scores = v.reshaped(&scores, &[batch, kv, group, length, length]);
    let scores = v.op("Add", &[&scores, mask]);
    let weights = v.op_with("Softmax", &[&scores], |node| node.int("axis", -1));
    let weights = v.reshaped(&weights, &[batch, kv, group * length, length]);
    let mixed = v.op("MatMul", &[&weights, value]);
    let mixed = v.reshaped(&mixed, &[batch, heads.heads, length, d]);
    let mixed = v.transposed(&mixed, &[0, 2, 1, 3]);
    v.reshaped(&mixed, &[shape.tokens(), heads.heads * d])
}

/// [tokens, heads·d] as [batch, length, heads, d].
pub(super) fn by_head(
    v: &mut Values<'_>,
    value: &str,
    heads: usize,
    head_dim: usize,
    shape: Shape,
) -> String {
    v.reshaped(value, &[shape.batch, shape.length, heads, head_dim])
}

/// What a token may see of its own text, added to scores: 0 or −∞, [length, length].
///
/// A token sees itself and those before it, at most `window` in all.
pub(super) fn causal_mask(length: usize, window: Option<usize>) -> Vec<f32> {
    let window = window.unwrap_or(usize::MAX);
    (0..length * length)
        .map(|index| (index / length, index % length))
        .map(|(query, key)| match key <= query && query - key < window {
            true => 0.0,
            false => f32::NEG_INFINITY,
        })
        .collect()
}

/// Turns the pairs (i, i + d/2) of [batch, heads, length, d] by position (Su et al. 2021).
pub(super) fn rotate(
    v: &mut Values<'_>,
    value: &str,
    [cos, sin]: [&str; 2],
    head_dim: usize,
) -> String {
    let halves = v.split(value, &[head_dim / 2; 2]);
    let (a, b) = (halves[0].as_str(), halves[1].as_str());
    let (a_cos, b_sin) = (v.op("Mul", &[a, cos]), v.op("Mul", &[b, sin]));
    let (b_cos, a_sin) = (v.op("Mul", &[b, cos]), v.op("Mul", &[a, sin]));
    let first = v.op("Sub", &[&a_cos, &b_sin]);
    let second = v.op("Add", &[&b_cos, &a_sin]);
    v.op_with("Concat", &[&first, &second], |node| node.int("axis", -1))
}
