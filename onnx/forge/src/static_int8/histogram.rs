//! The distribution of an activation in bounded memory, whatever the number and order of samples.
//!
//! Bins lie evenly over −R…R, where R is a power of two. A value outside doubles R until it fits, and every pair of bins becomes one.
//! Since the bins of a larger R are unions of those of a smaller one, the result depends only on the values, not on their order.
//!
//! ```text
//!   R = 1   │··│··│··│··┊··│··│··│··│           a value of 1.7 comes
//!   R = 2   │··│··│··│··│··│··┊··│··│··│··│··│··│   bins twice as wide, counts added in pairs
//! ```

use super::StaticError;

/// Bins on each side of zero.
const HALF: usize = 8192;
/// Smallest R, as a power of two: below, everything is zero for practical purposes.
const LEAST_EXPONENT: i32 = -40;

/// A streaming histogram of finite numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Histogram {
    /// R is 2 to this.
    exponent: i32,
    /// `2 * HALF` counts from −R to R.
    bins: Vec<u64>,
    count: u64,
    /// Exact zeros among them: every range represents them without error.
    zeros: u64,
    min: f32,
    max: f32,
    sum_of_squares: f64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            exponent: LEAST_EXPONENT,
            bins: vec![0; 2 * HALF],
            count: 0,
            zeros: 0,
            min: 0.0,
            max: 0.0,
            sum_of_squares: 0.0,
        }
    }
}

impl Histogram {
    /// Adds the elements of the value `name`.
    ///
    /// # Errors
    /// [`StaticError::NotFinite`] at the first NaN or infinity.
    pub(crate) fn add(&mut self, name: &str, values: &[f32]) -> Result<(), StaticError> {
        let mut largest = 0.0_f32;
        for (at, &value) in values.iter().enumerate() {
            if !value.is_finite() {
                return Err(StaticError::NotFinite {
                    what: "value",
                    name: name.to_string(),
                    found: value,
                    at,
                });
            }
            largest = largest.max(value.abs());
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
        while f64::from(largest) >= self.reach() {
            self.widen();
        }
        let scale = HALF as f64 / self.reach();
        for &value in values {
            // Below R by the loop above, so the index is below 2 HALF; −R itself is bin 0.
            let bin = (f64::from(value) * scale).floor() as i64 + HALF as i64;
            self.bins[bin.clamp(0, 2 * HALF as i64 - 1) as usize] += 1;
            self.zeros += u64::from(value == 0.0);
            self.sum_of_squares += f64::from(value) * f64::from(value);
        }
        self.count += values.len() as u64;
        Ok(())
    }

    /// Least and greatest value, with zero between them.
    pub(crate) fn extremes(&self) -> [f32; 2] {
        [self.min, self.max]
    }

    /// The range that leaves out at most 1 − `percent` / 100 of the values: half of them on each side, or all above if none is
    /// below zero.
    pub(crate) fn percentile(&self, percent: f64) -> [f32; 2] {
        let outside = self.count as f64 * (1.0 - percent / 100.0);
        let allowed = if self.min < 0.0 && self.max > 0.0 {
            outside / 2.0
        } else {
            outside
        };
        // The first bin that may not be left out, from below or from above.
        let cut = |is_from_above: bool| {
            let mut left = 0.0;
            (0..2 * HALF)
                .map(|at| if is_from_above { 2 * HALF - 1 - at } else { at })
                .find(|bin| {
                    left += self.bins[*bin] as f64;
                    left > allowed
                })
        };
        let low = cut(false).map_or(self.min, |bin| self.edge(bin));
        let high = cut(true).map_or(self.max, |bin| self.edge(bin + 1));
        [
            low.clamp(self.min, self.max).min(0.0),
            high.clamp(self.min, self.max).max(0.0),
        ]
    }

    /// Counts of |value| over `bins` even bins from 0 to the greatest |value|, exact zeros left out.
    pub(crate) fn magnitudes(&self, bins: usize) -> Vec<f64> {
        let mut out = vec![0.0; bins];
        let top = f64::from(self.max.max(-self.min));
        if top <= 0.0 {
            return out;
        }
        for (bin, &count) in self
            .bins
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let middle = (bin as f64 + 0.5 - HALF as f64).abs() * self.reach() / HALF as f64;
            let place = (middle / top * bins as f64) as usize;
            let count = if bin == HALF {
                count - self.zeros
            } else {
                count
            };
            out[place.min(bins - 1)] += count as f64;
        }
        out
    }

    /// Signal to noise, in decibels, of the values in `levels` steps over the range: rounding inside, clipping outside. `None`
    /// without a signal.
    pub(crate) fn signal_to_noise_db(&self, [low, high]: [f32; 2], levels: u32) -> Option<f64> {
        let (low, high) = (f64::from(low), f64::from(high));
        let step = (high - low) / f64::from(levels);
        let width = self.reach() / HALF as f64;
        let mut noise = 0.0;
        for (bin, &count) in self
            .bins
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let middle = (bin as f64 + 0.5 - HALF as f64) * width;
            let beyond = (low - middle).max(middle - high).max(0.0);
            let count = if bin == HALF {
                count - self.zeros
            } else {
                count
            };
            // A uniform error of one step has the variance step² / 12.
            noise += count as f64 * (beyond * beyond + step * step / 12.0);
        }
        (self.sum_of_squares > 0.0 && noise > 0.0)
            .then(|| 10.0 * (self.sum_of_squares / noise).log10())
    }

    fn reach(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    fn edge(&self, bin: usize) -> f32 {
        ((bin as f64 - HALF as f64) * self.reach() / HALF as f64) as f32
    }

    fn widen(&mut self) {
        self.exponent += 1;
        let mut bins = vec![0; 2 * HALF];
        for (bin, count) in self.bins.iter().enumerate() {
            bins[HALF / 2 + bin / 2] += count;
        }
        self.bins = bins;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.add("x", values).unwrap();
        histogram
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        // 0, 1, … 9999: 99 % of them end at 9899.
        let rising: Vec<f32> = (0..10_000).map(|value| value as f32).collect();
        let [low, high] = of(&rising).percentile(99.0);
        assert!(
            low == 0.0 && (9_899.0..9_903.0).contains(&high),
            "{low} {high}"
        );
        // As many below zero: half a percent is cut off on each side.
        let both: Vec<f32> = (-5_000..5_000).map(|value| value as f32).collect();
        let [low, high] = of(&both).percentile(99.0);
        assert!((-4_952.0..=-4_949.0).contains(&low), "{low}");
        assert!((4_949.0..=4_952.0).contains(&high), "{high}");
        assert_eq!(of(&both).percentile(100.0), [-5_000.0, 4_999.0]);
        assert_eq!(of(&[]).percentile(99.0), [0.0, 0.0], "nothing seen");
        assert_eq!(
            of(&[2.0; 9]).percentile(99.0),
            [0.0, 2.0],
            "zero belongs to it"
        );
    }

    #[test]
    fn noise_is_that_of_the_codes() {
        let values: Vec<f32> = (0..4_000)
            .map(|at| ((at * 7919) % 4_001) as f32 / 400.0 - 3.0)
            .collect();
        let histogram = of(&values);
        for range in [[-3.0_f32, 7.0], [-1.0, 7.0], [-3.0, 5.5]] {
            let step = (range[1] - range[0]) / 255.0;
            let noise: f64 = values
                .iter()
                .map(|value| {
                    let code = ((value - range[0]) / step).round().clamp(0.0, 255.0);
                    f64::from(value - (range[0] + code * step)).powi(2)
                })
                .sum();
            let signal: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
            let expected = 10.0 * (signal / noise).log10();
            let found = histogram.signal_to_noise_db(range, 255).unwrap();
            assert!(
                (found - expected).abs() < 0.3,
                "{range:?}: {found} {expected}"
            );
        }
        assert_eq!(of(&[0.0; 4]).signal_to_noise_db([0.0, 0.0], 255), None);
    }

    #[test]
    fn numbers_that_are_none_have_a_place() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = Histogram::default().add("relu", &[1.0, bad]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("value relu") && text.contains("element 1"),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn order_and_portions_do_not_matter(mut values in prop::collection::vec(-1e6_f32..1e6, 1..300), small in 0.0_f32..1.0, cut in any::<prop::sample::Index>()) {
            values.iter_mut().step_by(2).for_each(|value| *value *= small / 1e3);
            let whole = of(&values);
            let at = cut.index(values.len());
            let mut parts = of(&values[at..]);
            parts.add("x", &values[..at]).unwrap();
            prop_assert_eq!(&whole.bins, &parts.bins);
            prop_assert_eq!(whole.extremes(), parts.extremes());
            prop_assert_eq!(whole.bins.iter().sum::<u64>(), values.len() as u64);
        }

        #[test]
        fn any_floats_are_taken_or_refused(bits in prop::collection::vec(any::<u32>(), 0..50)) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let mut histogram = Histogram::default();
            let is_finite = values.iter().all(|value| value.is_finite());
            prop_assert_eq!(histogram.add("x", &values).is_ok(), is_finite);
            let [low, high] = histogram.percentile(99.9);
            prop_assert!(low <= 0.0 && high >= 0.0);
        }
    }
}
