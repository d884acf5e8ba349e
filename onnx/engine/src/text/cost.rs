//! What a step costs, by its number of rows: measured, so that chunks and admissions follow the computer and its load.
//!
//! One point per power of two, each a running mean. Between points the time is a straight line; beyond them it grows with
//! the rows. A line through all points would be simpler and wrong: a few rows cost almost what one costs, because the
//! weights are read once, and many cost what their arithmetic costs.

use std::time::Duration;

/// Weight of the newest step: about the last ten of a size count.
const NEWEST: f64 = 0.1;
/// How many times longer than usual a step counts at most: one that the computer interrupted says little about the next.
const OUTLIER: f64 = 4.0;
/// Powers of two that have a point: up to 65,535 rows.
const POINTS: usize = 16;

/// Running estimate of the time of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepCost {
    points: [Option<Point>; POINTS],
}

#[derive(Debug, Clone, Copy)]
struct Point {
    rows: f64,
    seconds: f64,
}

impl StepCost {
    /// Takes in one step.
    pub(crate) fn record(&mut self, rows: usize, took: Duration) {
        let Some(power) = rows.checked_ilog2() else {
            return;
        };
        let (rows, seconds) = (rows as f64, took.as_secs_f64());
        match &mut self.points[(power as usize).min(POINTS - 1)] {
            Some(point) => {
                point.rows += NEWEST * (rows - point.rows);
                let counted = seconds.min(OUTLIER * point.seconds);
                point.seconds += NEWEST * (counted - point.seconds);
            }
            slot => *slot = Some(Point { rows, seconds }),
        }
    }

    /// Time of a step of so many rows, in seconds; `None` before the first measurement.
    pub(crate) fn seconds(&self, rows: usize) -> Option<f64> {
        let rows = rows as f64;
        let mut below: Option<Point> = None;
        for point in self.points.iter().flatten() {
            // A larger step that was measured faster was measured under less load: not a reason to count on it.
            let seconds = below.map_or(point.seconds, |below| below.seconds.max(point.seconds));
            let point = Point {
                rows: point.rows,
                seconds,
            };
            if rows <= point.rows {
                let from = below.unwrap_or(Point {
                    rows: 0.0,
                    seconds: 0.0,
                });
                let share = (rows - from.rows) / (point.rows - from.rows);
                return Some(from.seconds + share * (point.seconds - from.seconds));
            }
            below = Some(point);
        }
        below.map(|last| last.seconds * rows / last.rows)
    }

    /// Most rows, up to `most`, of a step that takes at most `seconds`; `None` before the first measurement.
    pub(crate) fn rows_within(&self, seconds: f64, most: usize) -> Option<usize> {
        self.seconds(1)?;
        let (mut fits, mut too_many) = (0, most + 1);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if self.seconds(middle)? <= seconds {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        Some(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(points: &[(usize, u64)]) -> StepCost {
        let mut cost = StepCost::default();
        for (rows, ms) in points {
            cost.record(*rows, Duration::from_millis(*ms));
        }
        cost
    }

    #[test]
    fn time_lies_between_what_was_measured() {
        let cost = measured(&[(1, 4), (8, 8), (128, 68)]);
        for (rows, ms) in [(1, 4.0), (8, 8.0), (68, 38.0), (128, 68.0), (256, 136.0)] {
            let found = cost.seconds(rows).unwrap() * 1e3;
            assert!((found - ms).abs() < 1e-9, "{rows} rows: {found}");
        }
        assert_eq!(cost.rows_within(0.030, 512), Some(52));
        assert_eq!(cost.rows_within(0.030, 16), Some(16), "most");
        assert_eq!(cost.rows_within(0.001, 512), Some(0), "not even one");
        assert_eq!(StepCost::default().rows_within(1.0, 8), None);
    }

    #[test]
    fn more_rows_never_take_less_time() {
        let cost = measured(&[(1, 10), (2, 3), (4, 20)]);
        let times: Vec<f64> = (1..20).filter_map(|rows| cost.seconds(rows)).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
    }

    #[test]
    fn the_mean_follows_the_load() {
        let mut cost = measured(&[(1, 10)]);
        for _ in 0..40 {
            cost.record(1, Duration::from_millis(20));
        }
        let found = cost.seconds(1).unwrap();
        assert!((0.0195..0.0201).contains(&found), "{found}");
        cost.record(1, Duration::from_secs(9));
        assert!(
            cost.seconds(1).unwrap() < 0.03,
            "an interruption is not the usual"
        );
        let mut cost = measured(&[(1, 20)]);
        cost.record(0, Duration::from_secs(9));
        assert!(
            cost.seconds(1).unwrap() < 0.021,
            "a step of nothing tells nothing"
        );
    }
}
