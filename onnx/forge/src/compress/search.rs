//! Finds the smallest of models that grow step by step and get better by it, with few measurements.
//!
//! Each step raises one more group of matrices to 8 bits, the one that saves most loss for its bytes first. What that loss is was measured for
//! each group alone; what the whole costs in perplexity is about proportional to the sum of what is left, so a straight line between two
//! measurements says where to look next. Only measurements count in the end.
//!
//! ```text
//!   increase │ •                       • measured
//!            │    ╲                    the line says where the limit is met; the next measurement is there
//!      limit ┼──────╲───────
//!            │        •
//!            └──────────────► groups raised
//! ```

/// Where measurements stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// Loss that is left with so many groups raised, `[groups + 1]`, falling.
    losses: Vec<f64>,
    limit: f64,
    most: usize,
    tried: Vec<(usize, f64)>,
}

impl Search {
    /// Among the models with 0..losses.len() groups raised, `losses` being what is left of the loss that was measured for each alone; the
    /// increase of perplexity may be `limit` as a fraction, and `most` models are measured.
    #[must_use]
    pub fn new(losses: Vec<f64>, limit: f64, most: usize) -> Search {
        Search {
            losses,
            limit,
            most,
            tried: Vec::new(),
        }
    }

    /// The model to measure next, as a number of groups; none when the search is over.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        let last = self.losses.len().checked_sub(1)?;
        if self.tried.is_empty() {
            return Some(0);
        }
        let (low, high) = (self.lower(), self.upper());
        let left = self.most.saturating_sub(self.tried.len());
        let (Some(low), true) = (low, left > 0) else {
            return None;
        };
        let end = high.map_or(last + 1, |(count, _)| count);
        if low.0 + 1 >= end {
            return None;
        }
        // The best there is, before no measurement is left.
        if high.is_none() && left == 1 {
            return Some(last);
        }
        let next = match high {
            // The line was wrong to the same side twice: half of what is left.
            Some(high) if self.is_stuck() => low.0.midpoint(high.0),
            Some(high) => self.on_the_line(low, high, self.limit),
            // To no loss and no increase; further each time that this was not enough.
            None => {
                let end = (last, 0.0);
                let halvings = self.tried.len() as i32 - 1;
                self.on_the_line(low, end, self.limit * 0.5_f64.powi(halvings))
            }
        };
        Some(next.clamp(low.0 + 1, end - 1))
    }

    /// Tells what was measured.
    pub fn heard(&mut self, count: usize, increase: f64) {
        self.tried.push((count, increase));
    }

    /// The smallest model within the limit, or else the one that comes nearest to it.
    #[must_use]
    pub fn best(&self) -> Option<(usize, f64)> {
        let nearest = self.tried.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        self.upper().or_else(|| nearest.copied())
    }

    /// What was measured, in order: groups raised, and the increase of perplexity.
    #[must_use]
    pub fn tried(&self) -> &[(usize, f64)] {
        &self.tried
    }

    /// The smallest within the limit.
    fn upper(&self) -> Option<(usize, f64)> {
        let met = self.tried.iter().filter(|(_, found)| self.is_met(*found));
        met.min_by_key(|(count, _)| *count).copied()
    }

    /// The largest outside of it that is smaller.
    fn lower(&self) -> Option<(usize, f64)> {
        let end = self.upper().map_or(usize::MAX, |(count, _)| count);
        let tried = self.tried.iter();
        let missed = tried.filter(|(count, found)| *count < end && !self.is_met(*found));
        missed.max_by_key(|(count, _)| *count).copied()
    }

    /// Not for an increase that is no number.
    fn is_met(&self, increase: f64) -> bool {
        increase <= self.limit
    }

    fn is_stuck(&self) -> bool {
        match self.tried.as_slice() {
            [_, .., (_, before), (_, last)] => self.is_met(*before) == self.is_met(*last),
            _ => false,
        }
    }

    /// The first model whose loss is no larger than where the line from `low` to `high` meets `limit`.
    fn on_the_line(&self, low: (usize, f64), high: (usize, f64), limit: f64) -> usize {
        let (from, to) = (self.losses[low.0], self.losses[high.0]);
        let wanted = to + (limit - high.1) / (low.1 - high.1) * (from - to);
        let first = self.losses.iter().position(|loss| *loss <= wanted);
        first.unwrap_or(self.losses.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses of 100 groups, the first of which cost most.
    fn losses() -> Vec<f64> {
        (0..=100_i32)
            .map(|count| 0.97_f64.powi(count) - 0.97_f64.powi(100))
            .collect()
    }

    fn run(limit: f64, most: usize, measure: &dyn Fn(usize) -> f64) -> Search {
        let mut search = Search::new(losses(), limit, most);
        while let Some(count) = search.next() {
            let tried = search.tried().iter();
            assert!(
                tried.clone().all(|(other, _)| *other != count),
                "{search:?}"
            );
            search.heard(count, measure(count));
        }
        search
    }

    #[test]
    fn a_few_measurements_find_the_smallest() {
        let losses = losses();
        // (what it costs, why)
        type Case<'c> = (&'c dyn Fn(usize) -> f64, &'static str);
        let cases: [Case<'_>; 4] = [
            (&|count| 0.08 * losses[count], "as the line says"),
            (&|count| 0.08 * losses[count].powi(2), "less than it says"),
            (&|count| 0.08 * losses[count].sqrt(), "more than it says"),
            (
                &|count| 0.08 * losses[count] + 0.002,
                "8 bits cost something too",
            ),
        ];
        for (measure, why) in cases {
            for limit in [0.01, 0.03, 0.06] {
                let search = run(limit, 5, measure);
                let (count, found) = search.best().unwrap();
                assert!(
                    search.tried().len() <= 5 && found <= limit,
                    "{why}: {search:?}"
                );
                let smallest = (0..=100).find(|count| measure(*count) <= limit).unwrap();
                assert!(
                    count - smallest <= 8,
                    "{why}: {count} instead of {smallest}: {search:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_good_enough_at_once_is_measured_once() {
        let search = run(0.1, 5, &|_| 0.05);
        assert_eq!(search.tried(), [(0, 0.05)]);
        assert_eq!(search.best(), Some((0, 0.05)));
    }

    #[test]
    fn what_cannot_be_met_ends_with_the_best_there_is() {
        let search = run(0.001, 5, &|count| 0.08 - 0.0005 * count as f64);
        assert!(search.tried().len() <= 5);
        assert_eq!(search.best().unwrap().0, 100, "{search:?}");
        // A model that answers nothing sensible is not within any limit.
        let search = run(0.03, 3, &|_| f64::NAN);
        assert!(search.best().unwrap().1.is_nan() && search.upper().is_none());
    }

    #[test]
    fn without_groups_there_is_one_model() {
        let mut search = Search::new(vec![0.0], 0.01, 5);
        assert_eq!(search.next(), Some(0));
        search.heard(0, 0.5);
        assert_eq!(search.next(), None);
        assert_eq!(Search::new(Vec::new(), 0.01, 5).next(), None);
    }
}
