//! A matrix as codes on grids, one code a byte: what the quantizers read and improve before it is packed.
//!
//! ```text
//!   block of 32 weights:  w ≈ s·(q − z)     q in 0..=15 or 0..=255, s as half precision holds it; z an integer,
//!                                           or with minima m = −s·z any number for which half precision holds m
//!   codes  u8 [rows, columns]     scales f32 [rows, columns/32]     zeros f32 [rows, columns/32]
//! ```

use half::f16;

use crate::quantize::{BLOCK, CodeFormat, Codes};

/// Zero point of the symmetric 4-bit format.
const INT4_ZERO: u8 = 8;
/// Zero point of the 8-bit format.
const INT8_ZERO: u8 = 128;

/// Most steps between 0 and the lowest weight of a block with a minimum.
pub(super) const MAX_ZERO: f32 = 2048.0;

/// A quantized matrix, unpacked; see the module for the layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Inputs of the matrix, a multiple of [`BLOCK`].
    pub columns: usize,
    /// The format that the codes fit.
    pub format: CodeFormat,
    /// `[rows, columns]`.
    pub codes: Vec<u8>,
    /// `[rows, columns / 32]`, each a half-precision number.
    pub scales: Vec<f32>,
    /// `[rows, columns / 32]`; the format's own zero point everywhere, unless it stores them or minima.
    pub zeros: Vec<f32>,
}

/// Rows of a [`Grid`] that one thread works on.
pub(super) struct GridRows<'a> {
    pub(super) codes: &'a mut [u8],
    pub(super) scales: &'a mut [f32],
    pub(super) zeros: &'a mut [f32],
}

impl GridRows<'_> {
    /// Step and zero point of a block.
    #[inline(always)]
    pub(super) fn step(&self, block: usize) -> (f32, f32) {
        (self.scales[block], self.zeros[block])
    }

    /// Sets them.
    pub(super) fn set_block(&mut self, block: usize, scale: f32, zero: f32) {
        self.scales[block] = scale;
        self.zeros[block] = zero;
    }
}

/// Largest code of a format.
pub(super) fn largest_code(format: CodeFormat) -> f32 {
    match format {
        CodeFormat::Int4Symmetric | CodeFormat::Int4 | CodeFormat::Int4Minima => 15.0,
        CodeFormat::Int8 => 255.0,
    }
}

/// The zero point where the format stores none, and the middle where it does.
pub(super) fn middle_code(format: CodeFormat) -> u8 {
    match format {
        CodeFormat::Int4Symmetric | CodeFormat::Int4 | CodeFormat::Int4Minima => INT4_ZERO,
        CodeFormat::Int8 => INT8_ZERO,
    }
}

/// Nearest number of half precision. A step that half precision cannot hold becomes 0 or its largest finite number: its block
/// errs, and is not infinite.
pub(super) fn half_scale(scale: f32) -> f32 {
    f16::from_f32(scale.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_f32()
}

/// The minimum of a block, as half precision holds it.
pub(super) fn minimum(scale: f32, zero: f32) -> f32 {
    half_scale(-scale * zero)
}

/// The place of 0 on a grid whose code 0 stands for `minimum`.
pub(super) fn zero_of(scale: f32, minimum: f32) -> f32 {
    match scale == 0.0 {
        true => 0.0,
        false => -minimum / scale,
    }
}

/// Whether a block's weights may lie so far from 0: beyond this many steps, a step is finer than what half precision holds of
/// the minimum.
pub(super) fn is_near(zero: f32) -> bool {
    zero.abs() <= MAX_ZERO
}

/// Rounds to the nearest integer, halves to even: adding 1.5·2²³ leaves no bits for a fraction. |value| must be below 2²².
#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The code nearest to `place`, a position on the grid in steps from code 0.
#[inline(always)]
pub(super) fn nearest(place: f32, largest: f32) -> f32 {
    round(place.clamp(0.0, largest))
}

impl Grid {
    /// A matrix of zeros.
    pub(super) fn zeros(rows: usize, columns: usize, format: CodeFormat) -> Grid {
        let middle = middle_code(format);
        Grid {
            columns,
            format,
            codes: vec![middle; rows * columns],
            scales: vec![0.0; rows * columns / BLOCK],
            zeros: vec![f32::from(middle); rows * columns / BLOCK],
        }
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.codes.len() / self.columns.max(1)
    }

    /// The weights that the codes stand for: f32 `[rows, columns]`.
    pub fn floats(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.codes.len());
        let steps = self.scales.iter().zip(&self.zeros);
        for (block, (&scale, &zero)) in self.codes.as_chunks::<BLOCK>().0.iter().zip(steps) {
            out.extend(block.iter().map(|&code| scale * (f32::from(code) - zero)));
        }
        out
    }

    /// The layout of the graph writers.
    pub fn pack(&self) -> Codes {
        let blocks = self.columns / BLOCK;
        let is_wide = self.format == CodeFormat::Int8;
        let pairs = |codes: &[u8]| -> Vec<u8> {
            let pair = |pair: &[u8]| pair[0] | pair.get(1).copied().unwrap_or(0) << 4;
            codes.chunks(2).map(pair).collect()
        };
        let mut zero_points = Vec::new();
        if self.format.has_zero_points() {
            let zeros: Vec<u8> = self.zeros.iter().map(|zero| *zero as u8).collect();
            for row in zeros.chunks_exact(blocks.max(1)) {
                zero_points.append(&mut pairs(row));
            }
        }
        let mut minima = Vec::new();
        if self.format.has_minima() {
            let steps = self.scales.iter().zip(&self.zeros);
            minima.extend(steps.map(|(scale, zero)| minimum(*scale, *zero)));
        }
        Codes {
            codes: if is_wide {
                self.codes.clone()
            } else {
                pairs(&self.codes)
            },
            scales: self.scales.clone(),
            zero_points,
            minima,
        }
    }

    /// Takes apart what [`Grid::pack`] put together.
    pub(super) fn unpack(codes: &Codes, columns: usize, format: CodeFormat) -> Grid {
        let blocks = columns / BLOCK;
        let nibbles = |bytes: &[u8]| -> Vec<u8> {
            let both = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
            both.collect()
        };
        let zeros = if format.has_zero_points() {
            (codes.zero_points.chunks_exact(blocks.div_ceil(2).max(1)))
                .flat_map(|row| nibbles(row).into_iter().take(blocks).map(f32::from))
                .collect()
        } else if format.has_minima() {
            let steps = codes.scales.iter().zip(&codes.minima);
            steps
                .map(|(scale, minimum)| zero_of(*scale, *minimum))
                .collect()
        } else {
            vec![f32::from(middle_code(format)); codes.scales.len()]
        };
        Grid {
            columns,
            format,
            codes: match format {
                CodeFormat::Int8 => codes.codes.clone(),
                CodeFormat::Int4Symmetric | CodeFormat::Int4 | CodeFormat::Int4Minima => {
                    nibbles(&codes.codes)
                }
            },
            scales: codes.scales.clone(),
            zeros,
        }
    }

    /// Shares the rows out in tiles of `tile` rows.
    pub(super) fn tiles(&mut self, tile: usize) -> impl Iterator<Item = GridRows<'_>> {
        let blocks = tile * (self.columns / BLOCK).max(1);
        let codes = self.codes.chunks_mut(tile * self.columns.max(1));
        let steps = self
            .scales
            .chunks_mut(blocks)
            .zip(self.zeros.chunks_mut(blocks));
        codes.zip(steps).map(|(codes, (scales, zeros))| GridRows {
            codes,
            scales,
            zeros,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::quantize;

    #[test]
    fn packs_as_the_block_quantizer_does() {
        // Three blocks a row, so that the last byte of zero points is half empty.
        let weights: Vec<f32> = (0..2 * 96)
            .map(|at| ((at * 37 % 101) as f32 - 31.0) / 64.0)
            .collect();
        for format in [
            CodeFormat::Int4Symmetric,
            CodeFormat::Int4,
            CodeFormat::Int4Minima,
            CodeFormat::Int8,
        ] {
            let codes = quantize(&weights, 96, format);
            let grid = Grid::unpack(&codes, 96, format);
            assert_eq!(grid.pack(), codes, "{format:?}");
            let worst = (grid.floats().iter().zip(&weights))
                .fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst < 0.1, "{format:?}: {worst}");
        }
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for (value, expected) in [
            (0.4, 0.0),
            (0.6, 1.0),
            (14.51, 15.0),
            (-3.2, 0.0),
            (99.0, 15.0),
        ] {
            assert_eq!(nearest(value, 15.0), expected, "{value}");
        }
        assert_eq!(half_scale(1e9), 65504.0);
    }
}
