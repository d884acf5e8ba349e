//! Whether the threads of a session work on a block together, or the calling one alone: what was faster lately.
//!
//! Threads meet ten times a block. On free cores that takes a few microseconds and halves the time; where another program
//! has one of the cores, every meeting can wait for the system's scheduler, and a token takes ten times as long as one
//! thread needs alone. So the time of each call is kept for both ways, and the other way is tried for a few calls now and
//! then: less and less often while it is worse, soon when working together takes longer than it used to.
//!
//! ```text
//!   together ◄─────────── faster ───────────┐
//!       │ after 16 calls, then 64, 128, … 4096; after 64 when in doubt
//!       ▼                                   │
//!   a few calls alone ── faster ──► alone ──┴─ after 64 calls, then 128, … 4096: a few calls together
//! ```
//!
//! Pure: durations come from the caller.

use std::time::Duration;

/// Calls of a trial.
const TRIAL_CALLS: u32 = 4;
/// Calls before the very first trial.
const FIRST_CALLS: u32 = 16;
/// Calls before the first trial of the other way after a change, and at most between two.
const PAUSE_CALLS: (u32, u32) = (64, 4_096);
/// Working together is doubted when it takes this many times its best.
const DOUBT: f64 = 1.5;
/// Weight of the newest call in the running mean.
const NEWEST: f64 = 1.0 / 32.0;
/// Steps are judged by size: one row, a few, a part of a prompt.
const CLASSES: usize = 3;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    classes: [Class; CLASSES],
}

/// What is known about steps of one size. Times are in seconds a row and call.
#[derive(Debug, Clone)]
struct Class {
    together: Mean,
    alone: Mean,
    /// The least mean of working together.
    best: Option<f64>,
    prefers_alone: bool,
    /// Calls until the other way may be tried, and how many it was the last time.
    pause: u32,
    last_pause: u32,
    /// Calls left of a trial.
    trial: u32,
}

impl Default for Class {
    fn default() -> Self {
        Self {
            together: Mean::default(),
            alone: Mean::default(),
            best: None,
            prefers_alone: false,
            pause: FIRST_CALLS,
            last_pause: FIRST_CALLS,
            trial: 0,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Mean {
    seconds: f64,
    calls: u32,
}

impl Mean {
    fn add(&mut self, seconds: f64) {
        self.calls = self.calls.saturating_add(1);
        // A plain mean at first, then one that forgets.
        let weight = (1.0 / f64::from(self.calls)).max(NEWEST);
        self.seconds += weight * (seconds - self.seconds);
    }
}

fn class_of(rows: usize) -> usize {
    match rows {
        0..=1 => 0,
        2..=8 => 1,
        _ => 2,
    }
}

impl Pace {
    /// Whether the next call is shared.
    pub(super) fn together(&self, rows: usize) -> bool {
        let class = &self.classes[class_of(rows)];
        class.prefers_alone == (class.trial > 0)
    }

    /// What it took.
    pub(super) fn record(&mut self, rows: usize, together: bool, took: Duration) {
        let seconds = took.as_secs_f64() / rows.max(1) as f64;
        self.classes[class_of(rows)].record(together, seconds);
    }
}

impl Class {
    fn record(&mut self, together: bool, seconds: f64) {
        if together {
            self.together.add(seconds);
            if self.together.calls >= TRIAL_CALLS {
                let mean = self.together.seconds;
                self.best = Some(self.best.map_or(mean, |best| best.min(mean)));
            }
        } else {
            self.alone.add(seconds);
        }
        if self.trial > 0 {
            self.trial -= 1;
            if self.trial == 0 {
                self.judge();
            }
            return;
        }
        self.pause = self.pause.saturating_sub(1);
        let waited = self.last_pause - self.pause;
        if self.pause == 0 || (self.is_in_doubt() && waited >= PAUSE_CALLS.0) {
            self.begin_trial();
        }
    }

    fn is_in_doubt(&self) -> bool {
        !self.prefers_alone
            && self
                .best
                .is_some_and(|best| self.together.seconds > DOUBT * best)
    }

    /// Tries the way that is not preferred, from a fresh mean.
    fn begin_trial(&mut self) {
        self.trial = TRIAL_CALLS;
        if self.prefers_alone {
            self.together = Mean::default();
        } else {
            self.alone = Mean::default();
        }
    }

    fn judge(&mut self) {
        let alone = self.alone.seconds < self.together.seconds;
        let (first, most) = PAUSE_CALLS;
        self.last_pause = if alone == self.prefers_alone {
            (2 * self.last_pause).clamp(first, most)
        } else {
            first
        };
        self.prefers_alone = alone;
        self.pause = self.last_pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs calls on a computer where working together takes `together` and alone `alone` µs; how many went alone, and the
    /// mean of all.
    fn run(pace: &mut Pace, calls: u32, together: u64, alone: u64) -> (u32, f64) {
        let (mut lonely, mut total) = (0, 0);
        for _ in 0..calls {
            let shared = pace.together(1);
            let took = if shared { together } else { alone };
            lonely += u32::from(!shared);
            total += took;
            pace.record(1, shared, Duration::from_micros(took));
        }
        (lonely, total as f64 / f64::from(calls))
    }

    #[test]
    fn free_cores_are_shared() {
        let mut pace = Pace::default();
        // Trials after 16, 64, 128, … 4096 calls.
        assert_eq!(run(&mut pace, 10_000, 70, 140).0, 8 * TRIAL_CALLS);
    }

    #[test]
    fn cores_that_were_never_free_are_left_too() {
        let (lonely, mean) = run(&mut Pace::default(), 10_000, 3_000, 150);
        assert!(lonely > 9_900 && mean < 200.0, "{lonely} alone, {mean} µs");
    }

    #[test]
    fn a_busy_core_is_left_and_tried_again_later() {
        let mut pace = Pace::default();
        run(&mut pace, 1_000, 70, 140);
        // Somebody takes a core: together a call takes 3 ms now.
        let (lonely, mean) = run(&mut pace, 20_000, 3_000, 150);
        assert!(lonely > 19_000 && mean < 200.0, "{lonely} alone, {mean} µs");
        // The core is free again: found within the longest pause.
        run(&mut pace, PAUSE_CALLS.1 + TRIAL_CALLS, 70, 150);
        assert!(run(&mut pace, 1_000, 70, 150).0 <= 4 * TRIAL_CALLS);
    }

    #[test]
    fn a_computer_that_is_slow_in_both_ways_stays_together() {
        let mut pace = Pace::default();
        run(&mut pace, 1_000, 70, 140);
        let (lonely, _) = run(&mut pace, 10_000, 200, 400);
        assert!(lonely <= 10_000 / PAUSE_CALLS.0 * TRIAL_CALLS, "{lonely}");
    }

    #[test]
    fn sizes_are_judged_apart() {
        let mut pace = Pace::default();
        run(&mut pace, 100, 70, 140);
        run(&mut pace, 2_000, 3_000, 140);
        assert!(!pace.together(1));
        assert!(pace.together(4) && pace.together(128));
    }
}
