//! The course of a clock that comes as messages: a pure function of the values received.
//!
//! ```text
//! value > now                     onward; the largest step of late says how much the clock may lag
//! value = now                     a pause
//! value < now, within tolerance   two messages that swapped places: now is the value, nothing else changes
//! value < now                     a jump back: a new epoch
//! value ≫ now                     a leap forward (a bag that was wound on): told, otherwise ordinary
//! zero                            the time is unknown (again): a simulator that has not begun
//! ```

use std::time::Duration;

use super::{FUTURE_TOLERANCE, Reading, nanos};

/// Largest step a clock is believed to have; ROS tools publish at 10 Hz and more.
const STEP_MAX: Duration = Duration::from_millis(200);
/// A step from here on is told as a leap.
const LEAP: Duration = Duration::from_secs(5);

/// What a value meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The time became known.
    Began,
    /// Nothing to tell.
    Onward,
    /// Much later than before.
    Leap(Duration),
    /// Earlier than before: a new epoch.
    Back(Duration),
}

/// Where a clock stands.
#[derive(Debug)]
pub(super) struct Course {
    reading: Reading,
    /// Latest time of this epoch.
    high_ns: i64,
    /// Largest step of late; forgets slowly.
    step_ns: i64,
}

impl Course {
    pub(super) fn new() -> Course {
        Course {
            reading: Reading {
                now_ns: 0,
                steady_ns: 0,
                epoch: 0,
                ahead_ns: nanos(FUTURE_TOLERANCE),
            },
            high_ns: 0,
            step_ns: 0,
        }
    }

    pub(super) fn reading(&self) -> Reading {
        self.reading
    }

    /// Takes the next value, in ns, not negative.
    pub(super) fn advance(&mut self, value_ns: i64) -> Move {
        let step_ns = value_ns.saturating_sub(self.high_ns);
        let was_known = self.reading.is_known();
        self.reading.now_ns = value_ns;
        if step_ns < 0 && -step_ns > nanos(FUTURE_TOLERANCE) {
            self.reading.epoch = self.reading.epoch.saturating_add(1);
            self.high_ns = value_ns;
            return Move::Back(Duration::from_nanos(step_ns.unsigned_abs()));
        }
        if !was_known {
            self.high_ns = value_ns;
            return if value_ns > 0 {
                Move::Began
            } else {
                Move::Onward
            };
        }
        if step_ns <= 0 {
            return Move::Onward;
        }
        self.high_ns = value_ns;
        self.reading.steady_ns = self.reading.steady_ns.saturating_add(step_ns);
        let forgotten_ns = self.step_ns - self.step_ns / 16;
        self.step_ns = step_ns.min(nanos(STEP_MAX)).max(forgotten_ns);
        self.reading.ahead_ns = nanos(FUTURE_TOLERANCE) + self.step_ns;
        if step_ns >= nanos(LEAP) {
            Move::Leap(Duration::from_nanos(step_ns.unsigned_abs()))
        } else {
            Move::Onward
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;
    const S: i64 = 1_000 * MS;

    #[test]
    fn a_course_is_what_its_values_say() {
        let back = |ms| Move::Back(Duration::from_millis(ms));
        let leap = |s| Move::Leap(Duration::from_secs(s));
        /// Values; the last move; time, time run and epoch after it; why.
        type Case = (&'static [i64], Move, (i64, i64, u32), &'static str);
        let cases: &[Case] = &[
            (&[0], Move::Onward, (0, 0, 0), "zero: not begun"),
            (
                &[0, 50 * MS],
                Move::Began,
                (50 * MS, 0, 0),
                "the first time",
            ),
            (
                &[S, S + 100 * MS],
                Move::Onward,
                (S + 100 * MS, 100 * MS, 0),
                "an ordinary step",
            ),
            (&[S, S], Move::Onward, (S, 0, 0), "a pause"),
            (
                &[S, 2 * S, 2 * S - 20 * MS],
                Move::Onward,
                (2 * S - 20 * MS, S, 0),
                "swapped messages",
            ),
            (
                &[S, 2 * S, 2 * S - 20 * MS, 2 * S + 10 * MS],
                Move::Onward,
                (2 * S + 10 * MS, S + 10 * MS, 0),
                "time between swapped messages counts once",
            ),
            (
                &[S, 9 * S, 2 * S],
                back(7_000),
                (2 * S, 8 * S, 1),
                "a bag that starts again",
            ),
            (
                &[S, 9 * S, 0],
                back(9_000),
                (0, 8 * S, 1),
                "a scenario reset to zero",
            ),
            (
                &[S, 9 * S, 0, 50 * MS],
                Move::Began,
                (50 * MS, 8 * S, 1),
                "and begun again",
            ),
            (
                &[S, 61 * S],
                leap(60),
                (61 * S, 60 * S, 0),
                "a bag that was wound on",
            ),
            (
                &[i64::MAX],
                Move::Began,
                (i64::MAX, 0, 0),
                "no overflow at the end of time",
            ),
            (
                &[S, i64::MAX, S],
                Move::Back(Duration::from_nanos((i64::MAX - S).unsigned_abs())),
                (S, i64::MAX - S, 1),
                "nor on the way back",
            ),
        ];
        for (values, last, (now_ns, steady_ns, epoch), why) in cases {
            let mut course = Course::new();
            let moves: Vec<Move> = values.iter().map(|ns| course.advance(*ns)).collect();
            let reading = course.reading();
            assert_eq!(moves.last(), Some(last), "{why}");
            assert_eq!(
                (reading.now_ns, reading.steady_ns, reading.epoch),
                (*now_ns, *steady_ns, *epoch),
                "{why}"
            );
        }
    }

    #[test]
    fn a_slow_clock_lets_stamps_run_ahead_of_it_by_its_step() {
        for (step_ms, ahead_ms, why) in [
            (1, 51, "1000 Hz: hardly"),
            (100, 150, "10 Hz: by one step"),
            (3_000, 250, "0.3 Hz: not without limit"),
        ] {
            let mut course = Course::new();
            for round in 1..20 {
                course.advance(S + round * step_ms * MS);
            }
            assert_eq!(course.reading().ahead_ns, ahead_ms * MS, "{why}");
        }
    }
}
