//! Block quantizers: rows of f32 to 4- or 8-bit codes with a scale per 32 weights, laid out for ONNX Runtime's MatMulNBits.
//!
//! A block's error is paid by every token, its search once, so the asymmetric formats search: for a few zero points or minima
//! and steps they assign codes, refit by least squares, and keep what errs least. The symmetric formats follow llama.cpp's
//! rules to the bit, so that both engines can be compared on the very same weights.
//!
//! ```text
//!   int4-symmetric  d = signed absmax / −8 (f16)   q = ⌊x/d + 8.5⌋ in 0..15     w = d·(q−8)     = llama.cpp Q4_0
//!   int4            step s (f16), zero z in 0..15   q = ⌊x/s + z + ½⌋ in 0..15  w = s·(q−z)     fitted by least error
//!   int4-minima     step s (f16), minimum m (f16)   q = ⌊(x−m)/s + ½⌋ in 0..15      w = s·q + m    fitted; the form of llama.cpp Q4_1
//!   int8            d = absmax / 127 (f16)          q = round(x/d) + 128        w = d·(q−128)   = llama.cpp Q8_0
//!
//!   codes   u8 [rows, blocks, 16 or 32]   element 2i in the low nibble of byte i, 2i+1 in the high one
//!   scales  f32 [rows, blocks]
//!   zeros   u8 [rows, ⌈blocks/2⌉]         block 2i in the low nibble
//!   minima  f32 [rows, blocks]
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
/// Where a range of codes that is shorter than its block begins: at the lowest weight, in the middle, or so that it ends at
/// the highest one. As shares of what it is shorter by.
const RANGE_PLACES: [f32; 3] = [0.0, 0.5, 1.0];
/// Most times that codes and their line are fitted to each other in turns; two or three settle nearly all blocks.
const MAX_TURNS: usize = 4;

/// A block format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodeFormat {
    /// 4 bits, zero point 8.
    Int4Symmetric,
    /// 4 bits, a zero point per block.
    Int4,
    /// 4 bits, a minimum in half precision per block.
    Int4Minima,
    /// 8 bits, zero point 128.
    Int8,
}

impl CodeFormat {
    /// Bits of a code.
    pub fn bits(self) -> i64 {
        match self {
            CodeFormat::Int4Symmetric | CodeFormat::Int4 | CodeFormat::Int4Minima => 4,
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

    /// Whether minima are stored.
    pub fn has_minima(self) -> bool {
        self == CodeFormat::Int4Minima
    }
}

/// A quantized matrix; see the module for the layout.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Codes {
    /// Packed codes.
    pub codes: Vec<u8>,
    /// One scale per block.
    pub scales: Vec<f32>,
    /// Packed zero points; for [`CodeFormat::Int4`] only, else empty.
    pub zero_points: Vec<u8>,
    /// One minimum per block; for [`CodeFormat::Int4Minima`] only, else empty.
    pub minima: Vec<f32>,
}

impl Codes {
    /// Appends the rows of `other`.
    pub fn append(&mut self, mut other: Codes) {
        self.codes.append(&mut other.codes);
        self.scales.append(&mut other.scales);
        self.zero_points.append(&mut other.zero_points);
        self.minima.append(&mut other.minima);
    }

    /// The weights that the codes stand for: f32 [rows, columns].
    ///
    /// # Panics
    /// When these are no codes of `format` in rows of `columns`.
    pub fn weights(&self, columns: usize, format: CodeFormat) -> Vec<f32> {
        let blocks = columns / BLOCK;
        let mut out = Vec::with_capacity(self.scales.len() * BLOCK);
        for (index, codes) in self.codes.chunks_exact(format.block_bytes()).enumerate() {
            let (row, block) = (index / blocks, index % blocks);
            let zero = match format {
                CodeFormat::Int4Symmetric => INT4_ZERO,
                CodeFormat::Int4 => {
                    self.zero_points[row * blocks.div_ceil(2) + block / 2] >> (block % 2 * 4) & 15
                }
                CodeFormat::Int4Minima => 0,
                CodeFormat::Int8 => INT8_ZERO as u8,
            };
            let minimum = match format {
                CodeFormat::Int4Minima => self.minima[index],
                CodeFormat::Int4Symmetric | CodeFormat::Int4 | CodeFormat::Int8 => 0.0,
            };
            let scale = self.scales[index];
            let weight = |code: u8| scale * (f32::from(code) - f32::from(zero)) + minimum;
            match format.bits() {
                4 => out.extend(
                    codes
                        .iter()
                        .flat_map(|byte| [weight(byte & 15), weight(byte >> 4)]),
                ),
                _ => out.extend(codes.iter().map(|code| weight(*code))),
            }
        }
        out
    }
}

/// Codes, step, and zero point or minimum of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Block {
    codes: [u8; BLOCK],
    scale: f32,
    zero: u8,
    minimum: f32,
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
                CodeFormat::Int4Minima => int4_minima(block),
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
                let block = Block {
                    codes: nibbles(&block[2..]),
                    scale: half_at(block, 0),
                    zero: INT4_ZERO,
                    minimum: 0.0,
                };
                push(&mut out, &block, format);
            }
        }
        (BlockFormat::Q4_1, CodeFormat::Int4Minima) => {
            for block in raw.as_chunks::<20>().0 {
                let block = Block {
                    codes: nibbles(&block[4..]),
                    scale: half_at(block, 0),
                    zero: 0,
                    minimum: half_at(block, 2),
                };
                push(&mut out, &block, format);
            }
        }
        (BlockFormat::Q8_0, CodeFormat::Int8) => {
            for block in raw.as_chunks::<34>().0 {
                let mut codes = [0; BLOCK];
                for (code, &byte) in codes.iter_mut().zip(&block[2..]) {
                    *code = (i16::from(byte as i8) + INT8_ZERO) as u8;
                }
                let block = Block {
                    codes,
                    scale: half_at(block, 0),
                    zero: 0,
                    minimum: 0.0,
                };
                push(&mut out, &block, format);
            }
        }
        _ => return None,
    }
    Some(out)
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// ggml's order: the low nibbles are the first half of a block.
fn nibbles(bytes: &[u8]) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    for (j, byte) in bytes.iter().enumerate() {
        (codes[j], codes[j + BLOCK / 2]) = (byte & 15, byte >> 4);
    }
    codes
}

/// Packs a block's codes, scale and minimum.
fn push(out: &mut Codes, block: &Block, format: CodeFormat) {
    match format {
        CodeFormat::Int4Symmetric | CodeFormat::Int4 | CodeFormat::Int4Minima => out.codes.extend(
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
    if format.has_minima() {
        out.minima.push(block.minimum);
    }
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
        minimum: 0.0,
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
        minimum: 0.0,
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
            minimum: 0.0,
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
            minimum: 0.0,
        },
        error,
    )
}

/// 4 bits with a minimum, fitted by least squared error: codes for a few ranges, the line through each, and in the end codes
/// and line in turns.
fn int4_minima(block: &[f32; BLOCK]) -> Block {
    let lowest = block.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let span = highest - lowest;
    // A zero point is a minimum too, so the result never errs more than that format's by more than a rounding of its minimum.
    let (mut best, mut best_error) = line(block, int4(block).codes);
    for factor in STEP_FACTORS {
        let step = span / 15.0 * factor;
        for place in RANGE_PLACES {
            let low = lowest + (span - 15.0 * step) * place;
            let (candidate, error) = line(block, on_line(block, step, low));
            if error < best_error {
                (best, best_error) = (candidate, error);
            }
        }
    }
    for _ in 0..MAX_TURNS {
        let (candidate, error) = line(block, on_line(block, best.scale, best.minimum));
        if error >= best_error {
            break;
        }
        (best, best_error) = (candidate, error);
    }
    best
}

/// The codes nearest to the weights.
fn on_line(block: &[f32; BLOCK], step: f32, minimum: f32) -> [u8; BLOCK] {
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    block.map(|weight| ((weight - minimum) * inverse + 0.5).clamp(0.0, 15.0) as u8)
}

/// The line through codes that errs least (simple linear regression), and its squared error.
fn line(block: &[f32; BLOCK], codes: [u8; BLOCK]) -> (Block, f32) {
    const COUNT: f32 = BLOCK as f32;
    let numbers = codes.map(f32::from);
    let mean_code = numbers.iter().sum::<f32>() / COUNT;
    let mean = block.iter().sum::<f32>() / COUNT;
    let (mut product, mut square) = (0.0_f32, 0.0_f32);
    for (code, weight) in numbers.iter().zip(block) {
        product += (code - mean_code) * (weight - mean);
        square += (code - mean_code) * (code - mean_code);
    }
    let slope = if square > 0.0 { product / square } else { 0.0 };
    // As they are stored; the minimum makes good what rounding the step has moved.
    let scale = f16::from_f32(slope).to_f32();
    let minimum = f16::from_f32(mean - scale * mean_code).to_f32();
    let error = block
        .iter()
        .zip(&numbers)
        .map(|(&weight, &code)| (weight - (scale * code + minimum)).powi(2))
        .sum();
    let block = Block {
        codes,
        scale,
        zero: 0,
        minimum,
    };
    (block, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(weights: &[f32], columns: usize, format: CodeFormat) -> f32 {
        let back = quantize(weights, columns, format).weights(columns, format);
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
        assert_eq!(codes.weights(96, CodeFormat::Int4), weights);
    }

    #[test]
    fn minima_lie_between_the_steps() {
        // A grid of step ¼ that begins at −1.9: a zero point would have to be 7.6.
        let grid: Vec<f32> = (0..32).map(|i| 0.25 * (i * 7 % 16) as f32 - 1.9).collect();
        let codes = quantize(&grid, 32, CodeFormat::Int4Minima);
        assert_eq!((codes.scales[0], codes.zero_points.len()), (0.25, 0));
        assert_eq!(codes.codes[..4], [0x70, 0x5e, 0x3c, 0x1a]);
        // Half precision has −1.9 to a thousandth.
        assert!((codes.minima[0] + 1.9).abs() < 1e-3, "{}", codes.minima[0]);
        let [with, without] =
            [CodeFormat::Int4Minima, CodeFormat::Int4].map(|format| error(&grid, 32, format));
        assert!(with < without / 1000.0, "{with} {without}");
    }

    #[test]
    fn constant_blocks_survive() {
        for value in [0.0, 3.0, -3.0, 1e-30] {
            for format in [
                CodeFormat::Int4Symmetric,
                CodeFormat::Int4,
                CodeFormat::Int4Minima,
                CodeFormat::Int8,
            ] {
                let back = quantize(&[value; BLOCK], BLOCK, format).weights(BLOCK, format);
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
            codes.weights(BLOCK, CodeFormat::Int4Symmetric),
            BlockFormat::Q4_0.dequantize(&raw)
        );
        let mut raw = vec![0x00, 0xb8]; // scale −0.5
        raw.extend((0..32_u8).map(|j| j.wrapping_mul(9).wrapping_sub(128)));
        let codes = repack(&raw, BlockFormat::Q8_0, CodeFormat::Int8).unwrap();
        assert_eq!(
            codes.weights(BLOCK, CodeFormat::Int8),
            BlockFormat::Q8_0.dequantize(&raw)
        );
        assert_eq!(repack(&raw, BlockFormat::Q8_0, CodeFormat::Int4), None);
        let mut raw = vec![0x55, 0x2e, 0x9a, 0xb7]; // scale 0.0989…, minimum −0.475…: no whole number of steps
        raw.extend((0..16).map(|j| j | (15 - j) << 4));
        let codes = repack(&raw, BlockFormat::Q4_1, CodeFormat::Int4Minima).unwrap();
        assert_eq!(
            codes.weights(BLOCK, CodeFormat::Int4Minima),
            BlockFormat::Q4_1.dequantize(&raw)
        );
        assert_eq!(repack(&raw, BlockFormat::Q4_1, CodeFormat::Int4), None);
    }

    proptest! {
        #[test]
        fn finer_formats_err_less(block in prop::collection::vec(-2.0_f32..2.0, BLOCK)) {
            let span: f32 = block.iter().fold(0.0, |span: f32, weight| span.max(weight.abs()));
            // A clipped end may err by a step, everything else by half of one.
            prop_assert!(error(&block, BLOCK, CodeFormat::Int8) <= BLOCK as f32 * (span / 127.0).powi(2));
            prop_assert!(error(&block, BLOCK, CodeFormat::Int4Symmetric) <= BLOCK as f32 * (span / 8.0 * 1.01).powi(2));
            // A minimum in half precision is off by less than a thousandth of it.
            prop_assert!(error(&block, BLOCK, CodeFormat::Int4Minima) <= error(&block, BLOCK, CodeFormat::Int4) + BLOCK as f32 * (span / 1000.0).powi(2));
            prop_assert!(error(&block, BLOCK, CodeFormat::Int4) <= error(&block, BLOCK, CodeFormat::Int4Symmetric) + 1e-4); // both round their step
        }
    }
}
