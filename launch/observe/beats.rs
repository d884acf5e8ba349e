//! The expectations of a descriptor, held against what is seen while it runs.

use std::time::{Duration, Instant};

use super::watch::Seen;
use crate::descriptor::expect::{Expect, Outcome, Tally};

/// All expectations of a run.
pub struct Beats {
    expected: Vec<(Expect, Tally, Outcome)>,
    start: Instant,
}

/// An expectation whose outcome has just become known.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// What it proves.
    pub name: String,
    /// Passed or missed.
    pub passed: bool,
    /// What was expected, in words.
    pub wanted: String,
    /// How many messages matched.
    pub matched: u64,
    /// When the first one did, since the start.
    pub first: Option<Duration>,
}

impl Beats {
    /// Times count from `start`: the moment all nodes are ready.
    pub fn new(expected: &[Expect], start: Instant) -> Self {
        Beats {
            expected: expected
                .iter()
                .map(|expect| (expect.clone(), Tally::default(), Outcome::Pending))
                .collect(),
            start,
        }
    }

    /// Takes note of a message.
    pub fn see(&mut self, seen: &Seen) {
        let Some(arrived) = seen.arrived.checked_duration_since(self.start) else {
            return;
        };
        for (expect, tally, _) in self.expected.iter_mut().filter(|(expect, _, outcome)| {
            expect.topic == seen.topic && *outcome != Outcome::Missed
        }) {
            tally.see(expect, arrived, &seen.data, seen.latency);
        }
    }

    /// The expectations settled since the last call; with `ended`, all that were open are.
    pub fn settle(&mut self, ended: bool) -> Vec<Settled> {
        let now = self.start.elapsed();
        let mut settled = Vec::new();
        for (expect, tally, outcome) in &mut self.expected {
            if *outcome != Outcome::Pending {
                continue;
            }
            *outcome = tally.outcome(expect, now, ended);
            if *outcome != Outcome::Pending {
                settled.push(Settled {
                    name: expect.name.clone(),
                    passed: *outcome == Outcome::Passed,
                    wanted: expect.describe(),
                    matched: tally.matched,
                    first: tally.first,
                });
            }
        }
        settled
    }

    /// How many passed, and how many there are.
    pub fn score(&self) -> (usize, usize) {
        (
            self.expected
                .iter()
                .filter(|(_, _, outcome)| *outcome == Outcome::Passed)
                .count(),
            self.expected.len(),
        )
    }

    /// Whether any was missed.
    pub fn missed(&self) -> bool {
        self.expected
            .iter()
            .any(|(_, _, outcome)| *outcome == Outcome::Missed)
    }
}
