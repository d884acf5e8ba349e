//! The last so many numbers of a kind, and what they are on average.

use std::collections::VecDeque;

/// Largest window that may be asked for.
pub(super) const WINDOW_MAX: usize = 1_000_000;

/// A window of numbers.
#[derive(Clone, Debug)]
pub(super) struct Series {
    size: usize,
    values: VecDeque<f64>,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// Mean.
    pub(super) mean: f64,
    /// Smallest.
    pub(super) min: f64,
    /// Largest.
    pub(super) max: f64,
    /// Standard deviation, of the whole and not of a sample, as ros2 computes it.
    pub(super) std_dev: f64,
    /// How many.
    pub(super) count: usize,
}

impl Series {
    /// Keeps the last `size`, at least one.
    pub(super) fn new(size: usize) -> Series {
        Series {
            size: size.max(1),
            values: VecDeque::new(),
        }
    }

    /// Adds a number; the oldest goes when the window is full.
    pub(super) fn add(&mut self, value: f64) {
        if self.values.len() == self.size {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// What the window holds; `None` when it is empty.
    pub(super) fn spread(&self) -> Option<Spread> {
        let count = self.values.len();
        if count == 0 {
            return None;
        }
        let mean = self.values.iter().sum::<f64>() / count as f64;
        let squares: f64 = self.values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Spread {
            mean,
            min: self.values.iter().copied().fold(f64::INFINITY, f64::min),
            max: self
                .values
                .iter()
                .copied()
                .fold(f64::NEG_INFINITY, f64::max),
            std_dev: (squares / count as f64).sqrt(),
            count,
        })
    }
}

/// Three decimals, for numbers that people and scripts read.
pub(super) fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_the_oldest() {
        let mut series = Series::new(3);
        assert_eq!(series.spread(), None);
        for value in [100.0, 1.0, 2.0, 3.0] {
            series.add(value);
        }
        let spread = series.spread().unwrap();
        assert_eq!(
            (spread.mean, spread.min, spread.max, spread.count),
            (2.0, 1.0, 3.0, 3)
        );
        assert!((spread.std_dev - (2.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(rounded(2.0 / 3.0, 3), 0.667);
    }
}
