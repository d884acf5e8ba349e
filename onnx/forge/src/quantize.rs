//! Block quantizers: rows of f32 to 4- or 8-bit codes with a scale per 32 weights, laid out for ONNX Runtime's MatMulNBits.
//!
//! A block's error is paid by every token, its search once, so the asymmetric format searches: for a few integer zero points
//! and steps it assigns codes, refits the step by least squares, and keeps what errs least. The symmetric formats follow
//! llama.cpp's rules to the bit, so that both engines can be compared on the very same weights.
//!
//! ```text
//!   int4-symmetric  d = signed absmax / −8 (f16)   q = ⌊x/d + 8.5⌋ in 0..15     w = d·(q−8)     = llama.cpp Q4_0
//!   int4            step s (f16), zero z in 0..15   q = ⌊x/s + z + ½⌋ in 0..15  w = s·(q−z)     fitted by least error
//!   int8            d = absmax / 127 (f16)          q = round(x/d) + 128        w = d·(q−128)   = llama.cpp Q8_0
//!
//!   codes   u8 [rows, blocks, 16 or 32]   element 2i in the low nibble of byte i, 2i+1 in the high one
//!   scales  f32 [rows, blocks]
//!   zeros   u8 [rows, ⌈blocks/2⌉]         block 2i in the low nibble
//! ```

use half::f16;
use serde::{Deserialize, Serialize};

use crate::gguf::BlockFormat;

/// Weights per scale.
pub const BLOCK: usize = 32;

/// Zero point of the symmetric 4-bit format.
const INT4_ZERO: u8 = 8;
/// Zero point of the 8-bit format.
const INT8_ZERO: i16 = 128;
/// Steps tried per zero point, as factors of the step that just spans the block. Less than 1 clips the ends: a smaller step for
/// the many is often worth a larger error of the one.
const STEP_FACTORS: [f32; 8] = [1.0, 0.975, 0.95, 0.925, 0.9, 0.86, 0.82, 1.03];

/// A block format that MatMulNBits computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodeFormat {
    /// 4 bits, zero point 8.
    Int4Symmetric,
    /// 4 bits, a zero point per block.
    Int4,
    /// 8 bits, zero point 128.
    Int8,
}

impl CodeFormat {
    /// Bits of a code.
    pub fn bits(self) -> i64 {
        match self {
            CodeFormat::Int4Symmetric | CodeFormat::Int4 => 4,
            CodeFormat::Int8 => 8,
        }
    }

    /// Bytes of a block's codes.
    pub fn block_bytes(self) -> usize {
        BLOCK * self.bits() as usize / 8
    }

    /// Whether zero points are stored.
    pub fn has_zero_points(self) -> bool {
        self == CodeFormat::Int4
    }
}

/// A quantized matrix; see the module for the layout.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Codes {
    /// Packed codes.
    pub codes: Vec<u8>,
    /// One scale per block.
    pub scales: Vec<f32>,
    /// Packed zero points; empty in the symmetric formats.
    pub zero_points: Vec<u8>,
}

impl Codes {
    /// Appends the rows of `other`.
    pub fn append(&mut self, mut other: Codes) {
        self.codes.append(&mut other.codes);
        self.scales.append(&mut other.scales);
        self.zero_points.append(&mut other.zero_points);
    }
}

/// Codes, step and zero point of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Block {
    codes: [u8; BLOCK],
    scale: f32,
    zero: u8,
}

/// Quantizes rows of `columns` weights; `columns` must be a multiple of [`BLOCK`] and the weights finite.
pub fn quantize(weights: &[f32], columns: usize, format: CodeFormat) -> Codes {
    let mut out = Codes::default();
    for row in weights.chunks_exact(columns) {
        let mut zeros = Vec::new();
        for block in row.as_chunks::<BLOCK>().0 {
            let block = match format {
                CodeFormat::Int4Symmetric => int4_symmetric(block),
                CodeFormat::Int4 => int4(block),
                CodeFormat::Int8 => int8(block),
            };
            push(&mut out, &block, format);
            zeros.push(block.zero);
        }
        if format.has_zero_points() {
            out.zero_points.extend(
                zeros
                    .chunks(2)
                    .map(|pair| pair[0] | pair.get(1).copied().unwrap_or(0) << 4),
            );
        }
    }
    out
}

/// Takes a tensor over without loss if its storage already is `format`; `None` if it has to be quantized.
pub fn repack(raw: &[u8], stored: BlockFormat, format: CodeFormat) -> Option<Codes> {
    let mut out = Codes::default();
    match (stored, format) {
        (BlockFormat::Q4_0, CodeFormat::Int4Symmetric) => {
            for block in raw.as_chunks::<18>().0 {
                let mut codes = [0; BLOCK];
                for (j, byte) in block[2..].iter().enumerate() {
                    (codes[j], codes[j + BLOCK / 2]) = (byte & 15, byte >> 4);
                }
                push(
                    &mut out,
                    &Block {
                        codes,
                        scale: half_scale(block),
                        zero: INT4_ZERO,
                    },
                    format,
                );
            }
        }
        (BlockFormat::Q8_0, CodeFormat::Int8) => {
            for block in raw.as_chunks::<34>().0 {
                let mut codes = [0; BLOCK];
                for (code, &byte) in codes.iter_mut().zip(&block[2..]) {
                    *code = (i16::from(byte as i8) + INT8_ZERO) as u8;
                }
                push(
                    &mut out,
                    &Block {
                        codes,
                        scale: half_scale(block),
                        zero: 0,
                    },
                    format,
                );
            }
        }
        _ => return None,
    }
    Some(out)
}

fn half_scale(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// Packs a block's codes and scale.
fn push(out: &mut Codes, block: &Block, format: CodeFormat) {
    match format {
        CodeFormat::Int4Symmetric | CodeFormat::Int4 => out.codes.extend(
            block
                .codes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|pair| pair[0] | pair[1] << 4),
        ),
        CodeFormat::Int8 => out.codes.extend(block.codes),
    }
    out.scales.push(block.scale);
}

/// llama.cpp's Q4_0: the weight of largest magnitude (the first, if several) becomes code 0.
fn int4_symmetric(block: &[f32; BLOCK]) -> Block {
    let mut largest = 0.0_f32;
    for &weight in block {
        if weight.abs() > largest.abs() {
            largest = weight;
        }
    }
    let step = largest / -8.0;
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    let code = |weight: f32| ((weight * inverse + 8.5) as u8).min(15);
    Block {
        codes: block.map(code),
        scale: f16::from_f32(step).to_f32(),
        zero: INT4_ZERO,
    }
}

/// llama.cpp's Q8_0.
fn int8(block: &[f32; BLOCK]) -> Block {
    let largest = block
        .iter()
        .fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    let step = largest / 127.0;
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    let code = |weight: f32| ((weight * inverse).round() as i16 + INT8_ZERO) as u8;
    Block {
        codes: block.map(code),
        scale: f16::from_f32(step).to_f32(),
        zero: 0,
    }
}

/// 4 bits with an integer zero point, fitted by least squared error.
fn int4(block: &[f32; BLOCK]) -> Block {
    let mut lowest = 0.0_f32;
    let mut highest = 0.0_f32;
    for &weight in block {
        lowest = lowest.min(weight);
        highest = highest.max(weight);
    }
    let span = highest - lowest;
    if span == 0.0 {
        return Block {
            codes: [INT4_ZERO; BLOCK],
            scale: 0.0,
            zero: INT4_ZERO,
        };
    }
    let middle = (-lowest * 15.0 / span).round() as i32;
    // The symmetric format's own grid is a candidate too, so that the result never errs more than it: the larger end gets 8
    // steps, whichever side it is on.
    let (zero, step) = if -lowest > highest {
        (8.0, -lowest / 8.0)
    } else {
        (7.0, highest / 8.0)
    };
    let (mut best, mut best_error) = fit(block, step, zero);
    for zero in (middle - 1).max(0)..=(middle + 1).min(15) {
        // The smallest step at which neither end is clipped for this zero point.
        let above = highest / (15 - zero).max(1) as f32;
        let below = -lowest / zero.max(1) as f32;
        let widest = above.max(below);
        for factor in STEP_FACTORS {
            let (candidate, error) = fit(block, widest * factor, zero as f32);
            if error < best_error {
                (best, best_error) = (candidate, error);
            }
        }
    }
    best
}

/// Codes for a given step and zero point, the step that then errs least, and its squared error.
fn fit(block: &[f32; BLOCK], step: f32, zero: f32) -> (Block, f32) {
    let inverse = 1.0 / step;
    let mut offsets = [0.0_f32; BLOCK];
    let (mut product, mut square) = (0.0_f32, 0.0_f32);
    for (offset, &weight) in offsets.iter_mut().zip(block) {
        // Adding a half and truncating rounds what is clamped to 0..=15.
        *offset = ((weight * inverse + (zero + 0.5)).clamp(0.0, 15.0) as u8) as f32 - zero;
        product += *offset * weight;
        square += *offset * *offset;
    }
    let best = if square > 0.0 { product / square } else { 0.0 };
    // As the packed matrices store it, so that both graphs of a model have the same weights.
    let scale = f16::from_f32(best).to_f32();
    let error = block
        .iter()
        .zip(&offsets)
        .map(|(&weight, &offset)| (weight - scale * offset).powi(2))
        .sum();
    let codes = offsets.map(|offset| (offset + zero) as u8);
    (
        Block {
            codes,
            scale,
            zero: zero as u8,
        },
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(codes: &Codes, columns: usize, format: CodeFormat) -> Vec<f32> {
        let blocks = columns / BLOCK;
        let mut out = Vec::new();
        for (index, &scale) in codes.scales.iter().enumerate() {
            let (row, block) = (index / blocks, index % blocks);
            let zero = match format {
                CodeFormat::Int4Symmetric => 8,
                CodeFormat::Int8 => 128,
                CodeFormat::Int4 => {
                    codes.zero_points[row * blocks.div_ceil(2) + block / 2] >> (block % 2 * 4) & 15
                }
            };
            let bytes =
                &codes.codes[index * format.block_bytes()..(index + 1) * format.block_bytes()];
            for element in 0..BLOCK {
                let code = if format == CodeFormat::Int8 {
                    bytes[element]
                } else {
                    bytes[element / 2] >> (element % 2 * 4) & 15
                };
                out.push(scale * (f32::from(code) - f32::from(zero)));
            }
        }
        out
    }

    fn error(weights: &[f32], columns: usize, format: CodeFormat) -> f32 {
        let back = decode(&quantize(weights, columns, format), columns, format);
        weights
            .iter()
            .zip(&back)
            .map(|(a, b)| (a - b).powi(2))
            .sum()
    }

    #[test]
    fn int4_symmetric_by_hand() {
        let mut block = [0.0; BLOCK];
        (block[0], block[1], block[2], block[3]) = (-8.0, 8.0, 1.0, -1.49);
        let codes = quantize(&block, BLOCK, CodeFormat::Int4Symmetric);
        // −8 comes first: step 1, code 0. +8 would be 16 and is clipped to 15. −1.49 rounds to −1.
        assert_eq!(codes.scales, [1.0]);
        assert_eq!(codes.codes[..3], [0xf0, 0x79, 0x88]);
        (block[0], block[1]) = (8.0, -8.0);
        let codes = quantize(&block, BLOCK, CodeFormat::Int4Symmetric);
        assert_eq!(
            (codes.scales[0], codes.codes[0]),
            (-1.0, 0xf0),
            "the first of two equal magnitudes decides the sign"
        );
    }

    #[test]
    fn int8_by_hand() {
        let mut block = [0.0; BLOCK];
        (block[0], block[1], block[2]) = (-127.0, 63.5, 0.4);
        let codes = quantize(&block, BLOCK, CodeFormat::Int8);
        // 63.5 rounds away from zero.
        assert_eq!(
            (codes.scales[0], &codes.codes[..4]),
            (1.0, &[1, 192, 128, 128][..])
        );
    }

    #[test]
    fn int4_finds_an_exact_grid_and_packs_zero_points_by_row() {
        let grid = |zero: i32| -> Vec<f32> {
            (0..32)
                .map(|i| 0.25 * ((i * 7 % 16) - zero) as f32)
                .collect()
        };
        // Three blocks a row: two bytes of zero points, the last nibble unused.
        let weights = [grid(3), grid(8), grid(12), grid(0), grid(15), grid(5)].concat();
        let codes = quantize(&weights, 96, CodeFormat::Int4);
        assert_eq!(codes.zero_points, [0x83, 0x0c, 0xf0, 0x05]);
        assert_eq!(codes.scales, [0.25; 6]);
        assert_eq!(decode(&codes, 96, CodeFormat::Int4), weights);
    }

    #[test]
    fn constant_blocks_survive() {
        for value in [0.0, 3.0, -3.0, 1e-30] {
            for format in [
                CodeFormat::Int4Symmetric,
                CodeFormat::Int4,
                CodeFormat::Int8,
            ] {
                let back = decode(&quantize(&[value; BLOCK], BLOCK, format), BLOCK, format);
                assert!(
                    back.iter()
                        .all(|&weight| (weight - value).abs() <= value.abs() * 1e-2 + 1e-20),
                    "{value} {format:?}: {back:?}"
                );
            }
        }
    }

    #[test]
    fn repacking_keeps_every_bit() {
        let mut raw = vec![0x00, 0x3c]; // scale 1
        raw.extend((0..16).map(|j| j | (15 - j) << 4));
        let codes = repack(&raw, BlockFormat::Q4_0, CodeFormat::Int4Symmetric).unwrap();
        assert_eq!(
            decode(&codes, BLOCK, CodeFormat::Int4Symmetric),
            BlockFormat::Q4_0.dequantize(&raw)
        );
        let mut raw = vec![0x00, 0xb8]; // scale −0.5
        raw.extend((0..32_u8).map(|j| j.wrapping_mul(9).wrapping_sub(128)));
        let codes = repack(&raw, BlockFormat::Q8_0, CodeFormat::Int8).unwrap();
        assert_eq!(
            decode(&codes, BLOCK, CodeFormat::Int8),
            BlockFormat::Q8_0.dequantize(&raw)
        );
        assert_eq!(repack(&raw, BlockFormat::Q8_0, CodeFormat::Int4), None);
    }

    proptest! {
        #[test]
        fn finer_formats_err_less(block in prop::collection::vec(-2.0_f32..2.0, BLOCK)) {
            let span: f32 = block.iter().fold(0.0, |span: f32, weight| span.max(weight.abs()));
            // A clipped end may err by a step, everything else by half of one.
            prop_assert!(error(&block, BLOCK, CodeFormat::Int8) <= BLOCK as f32 * (span / 127.0).powi(2));
            prop_assert!(error(&block, BLOCK, CodeFormat::Int4Symmetric) <= BLOCK as f32 * (span / 8.0 * 1.01).powi(2));
            prop_assert!(error(&block, BLOCK, CodeFormat::Int4) <= error(&block, BLOCK, CodeFormat::Int4Symmetric) + 1e-4); // both round their step
        }
    }
}
