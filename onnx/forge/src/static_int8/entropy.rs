//! The range whose 8-bit histogram tells the least apart from the original one.
//!
//! For each candidate threshold t, values beyond t are counted at t (clipping), and what is below is told apart only by as many
//! levels as there are codes. The Kullback-Leibler divergence between the two distributions is the information lost; the t with the
//! least wins. S. Migacz, "8-bit Inference with TensorRT", GTC 2017.
//!
//! Two things differ from the slides: exact zeros, which every range represents without error and of which ReLU makes many, are not
//! counted; and where the coarse distribution has nothing under a bin that is not empty, a small count stands in, because the
//! divergence would be infinite.

use super::histogram::Histogram;

/// Bins over the magnitudes, as in the source.
const BINS: usize = 2048;
/// Distance of two candidates, in bins.
const STRIDE: usize = 8;
/// Codes of an activation that is never negative, and magnitudes of one with a sign.
const LEVELS: [usize; 2] = [256, 128];
/// What stands for an empty bin of the coarse distribution, in counts.
const SMALL: f64 = 1e-4;

/// The range of least divergence, with zero in it.
pub(super) fn range(histogram: &Histogram) -> [f32; 2] {
    let [min, max] = histogram.extremes();
    let levels = LEVELS[usize::from(min < 0.0)];
    let magnitudes = histogram.magnitudes(BINS);
    let candidates = (levels..=BINS).step_by(STRIDE);
    let best = candidates
        .map(|bins| (divergence(&magnitudes, bins, levels), bins))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(BINS, |(_, bins)| bins);
    let threshold = max.max(-min) * (best as f32 / BINS as f32);
    [min.max(-threshold), max.min(threshold)]
}

/// KL divergence between the first `bins` counts, with all later ones in the last, and the same told apart by `levels` only.
fn divergence(counts: &[f64], bins: usize, levels: usize) -> f64 {
    let (inside, outside) = counts.split_at(bins);
    let clipped: f64 = outside.iter().sum();
    let total: f64 = inside.iter().sum();
    if total <= 0.0 {
        return f64::INFINITY;
    }
    let mut coarse = vec![0.0; bins];
    for level in 0..levels {
        let group = level * bins / levels..(level + 1) * bins / levels;
        let filled = inside[group.clone()].iter().filter(|count| **count > 0.0);
        let mean = inside[group.clone()].iter().sum::<f64>() / filled.count().max(1) as f64;
        for bin in group {
            if inside[bin] > 0.0 {
                coarse[bin] = mean;
            }
        }
    }
    let mut sum = 0.0;
    for (bin, &count) in inside.iter().enumerate() {
        let fine = if bin + 1 == bins {
            count + clipped
        } else {
            count
        };
        if fine > 0.0 {
            let fine = fine / (total + clipped);
            sum += fine * (fine / (coarse[bin].max(SMALL) / total)).ln();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.add("x", values).unwrap();
        histogram
    }

    #[test]
    fn an_outlier_is_cut_off_and_a_plain_distribution_is_not() {
        let even: Vec<f32> = (0..100_000).map(|at| at as f32 / 100_000.0).collect();
        let [low, high] = range(&of(&even));
        assert!(low == 0.0 && high > 0.97, "{high}");
        let outlier: Vec<f32> = even.iter().copied().chain([40.0]).collect();
        let [_, high] = range(&of(&outlier));
        assert!(
            high < 8.0,
            "one value in 100,000 must not cost five bits: {high}"
        );
    }

    #[test]
    fn the_sign_decides_about_both_sides() {
        let signed: Vec<f32> = (-50_000..25_000).map(|at| at as f32 / 50_000.0).collect();
        let [low, high] = range(&of(&signed));
        assert!(low < -0.95 && high > 0.48 && high <= 0.5, "{low} {high}");
        assert_eq!(range(&of(&[0.0; 5])), [0.0, 0.0]);
        assert_eq!(range(&of(&[])), [0.0, 0.0]);
    }

    #[test]
    fn divergence_is_zero_where_nothing_is_lost() {
        // As many levels as bins, and nothing clipped.
        let counts: Vec<f64> = (1..=256).map(f64::from).collect();
        assert!(divergence(&counts, 256, 256).abs() < 1e-12);
        // Two levels for four bins, by hand: P = 1 3 2 2 of 8, Q = 2 2 2 2 of 8.
        let expected = 0.125 * (0.125_f64 / 0.25).ln() + 0.375 * (0.375_f64 / 0.25).ln();
        assert!((divergence(&[1.0, 3.0, 2.0, 2.0], 4, 2) - expected).abs() < 1e-12);
    }
}
