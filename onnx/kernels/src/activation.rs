//! The other operand of a product: rows of activations as bytes, interleaved for the registers that read them.
//!
//! A block of 32 inputs becomes `round(127·x / max|x|)` with the scale `max|x| / 127`, as llama.cpp's Q8_0 does: a block has
//! its own scale, so that an outlier only coarsens its neighbours. Rows are handed to the products in bunches, as many as an
//! instruction set has registers for, and a bunch stands interleaved by words of four inputs: the product then reads it
//! from front to back, and a single row is simply its bytes in order. Tiles (AMX) want rows of 32 bytes instead, one after the
//! other.
//!
//! ```text
//!   bunch of R rows      data   [columns/4][R] words of four i8        fix [columns/32][R] i32 = −f·Σ bytes
//!     for tiles          data   [columns/32][R] rows of 32 i8          scales [columns/32][R] f32
//! ```
//!
//! f is the zero point of the matrix; where each of its blocks has its own zero point 1, where it has a minimum −1.

use crate::pack::{BLOCK, TILE_COLUMNS};
use crate::simd::{LANES, Simd};

/// Words after the last row: a tile is read whole, 16 rows of 32 bytes, also where a bunch has fewer.
const BEYOND: usize = 128;

/// Words of a cache line: with those before the first whole line, no row of a tile lies in two.
const LINE: usize = 16;

/// Rows of a bunch for tiles.
const TILE_ROWS: usize = 16;

/// Memory for some rows of activations.
pub(crate) struct Activations {
    data: Vec<u32>,
    fix: Vec<i32>,
    scales: Vec<f32>,
}

impl Activations {
    /// For products of at most `rows` rows of at most `columns` inputs.
    pub(crate) fn new(rows: usize, columns: usize) -> Activations {
        let columns = columns.next_multiple_of(TILE_COLUMNS);
        Activations {
            data: vec![0; rows * columns / 4 + BEYOND + LINE],
            fix: vec![0; rows * columns / BLOCK],
            scales: vec![0.0; rows * columns / BLOCK],
        }
    }

    /// Inputs that fit, all rows together.
    pub(crate) fn room(&self) -> usize {
        (self.data.len() - BEYOND - LINE) * 4
    }

    /// The same memory for `rows` rows of `columns` inputs, in bunches as the instruction set wants them.
    pub(crate) fn shape<S: Simd>(&mut self, rows: usize, columns: usize) -> Shaped {
        let columns = columns.next_multiple_of(TILE_COLUMNS);
        let tiled = rows >= S::TILED_FROM;
        let bunch_rows = if tiled { TILE_ROWS } else { S::BUNCH_ROWS };
        assert!(
            rows * columns <= self.room(),
            "{rows} rows of {columns} activations do not fit"
        );
        let bunches = rows.div_ceil(bunch_rows).max(1);
        Shaped {
            data: self
                .data
                .as_mut_ptr()
                .wrapping_add(self.data.as_ptr().align_offset(4 * LINE).min(LINE)),
            fix: self.fix.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            columns,
            bunches,
            base: rows / bunches,
            longer: rows % bunches,
            tiled,
        }
    }
}

/// Activations of a product: written row by row by the threads that prepare it, then only read.
#[derive(Clone, Copy)]
pub(crate) struct Shaped {
    data: *mut u32,
    fix: *mut i32,
    scales: *mut f32,
    /// Inputs, a multiple of 64: what is beyond the matrix is zero.
    columns: usize,
    bunches: usize,
    /// Rows of the shorter bunches; the first `longer` ones have one more.
    base: usize,
    longer: usize,
    /// Whether rows are laid out for tiles.
    pub(crate) tiled: bool,
}

// SAFETY: rows are disjoint; a phase writes each of them once, and they are read after the end of that phase.
unsafe impl Send for Shaped {}
// SAFETY: as above.
unsafe impl Sync for Shaped {}

/// Some rows, as a product reads them.
#[derive(Clone, Copy)]
pub(crate) struct Bunch {
    /// First row.
    pub(crate) first: usize,
    /// Number of rows.
    pub(crate) rows: usize,
    pub(crate) data: *const u32,
    pub(crate) fix: *const i32,
    pub(crate) scales: *const f32,
}

impl Shaped {
    pub(crate) fn bunches(&self) -> usize {
        self.bunches
    }

    pub(crate) fn bunch(&self, index: usize) -> Bunch {
        let first = index * self.base + index.min(self.longer);
        // SAFETY: `shape` checked that all rows fit.
        unsafe {
            Bunch {
                first,
                rows: self.base + usize::from(index < self.longer),
                data: self.data.add(first * self.columns / 4),
                fix: self.fix.add(first * self.columns / BLOCK),
                scales: self.scales.add(first * self.columns / BLOCK),
            }
        }
    }

    fn bunch_of(&self, row: usize) -> Bunch {
        let in_longer = self.longer * (self.base + 1);
        self.bunch(if row < in_longer {
            row / (self.base + 1)
        } else {
            self.longer + (row - in_longer) / self.base.max(1)
        })
    }

    /// Quantizes one row for a matrix whose format has this [`Format::fix`](crate::pack::Format::fix).
    ///
    /// # Safety
    /// Nobody else touches this row meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn quantize_row<S: Simd>(&self, row: usize, x: &[f32], fix: i32) {
        let bunch = self.bunch_of(row);
        let (at, rows) = (row - bunch.first, bunch.rows);
        let (row_words, step) = if self.tiled { (8, 1) } else { (1, rows) };
        for block in 0..self.columns / BLOCK {
            let (words, sum, scale) = match x.as_chunks::<BLOCK>().0.get(block) {
                Some(values) => quantize_block::<S>(values),
                None => ([0; 8], 0, 0.0),
            };
            // SAFETY: the bunch has room for all its rows and blocks; the caller owns this row.
            unsafe {
                let data = bunch.data.cast_mut().add(block * 8 * rows + at * row_words);
                for (index, word) in words.iter().enumerate() {
                    data.add(index * step).write(*word);
                }
                bunch
                    .fix
                    .cast_mut()
                    .add(block * rows + at)
                    .write(-fix * sum);
                bunch.scales.cast_mut().add(block * rows + at).write(scale);
            }
        }
    }
}

/// What is smaller is zero: the inverse of its scale would not be finite.
const NOTHING: f32 = 1e-30;

/// Words of four bytes, their sum, and the scale.
#[inline(always)]
fn quantize_block<S: Simd>(x: &[f32; BLOCK]) -> ([u32; 8], i32, f32) {
    // SAFETY: 32 floats.
    let [low, high] = unsafe { [S::load(x.as_ptr()), S::load(x.as_ptr().add(LANES))] };
    let largest = S::largest(S::max(S::abs(low), S::abs(high)));
    // A comparison can lose what is not a number, a sum cannot: it must reach the scores to be noticed.
    let nothing = S::sum(S::mul(S::add(low, high), S::splat(0.0)));
    if nothing.is_nan() {
        return ([0; 8], 0, f32::NAN);
    }
    let inverse = if largest > NOTHING {
        127.0 / largest
    } else {
        0.0
    };
    let (words, sum) = S::to_bytes(low, high, inverse);
    (words, sum, largest / 127.0)
}
