//! Ticks in a clock's own time.
//!
//! On the wall they are tokio's. On a followed clock a tick is due when the clock reaches the next multiple of the period: a pause stops
//! them, a leap forward gives one and not a thousand, a jump back arms them anew, and between two moves of the clock nobody wakes up.

use std::time::Duration;

use tokio::{
    task::AbortHandle,
    time::{Interval, MissedTickBehavior},
};

use super::{Clock, Moves, Reading, nanos};

/// When the next tick is due: a pure function of the readings.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    period_ns: i64,
    /// Time and epoch of the next tick; none before the time is known.
    next: Option<(i64, u32)>,
}

impl Schedule {
    fn every(period: Duration) -> Schedule {
        Schedule {
            period_ns: nanos(period).max(1),
            next: None,
        }
    }

    /// Whether a tick is due, which then counts as given.
    fn due(&mut self, now: Reading) -> bool {
        if !now.is_known() {
            return false;
        }
        let due = self
            .next
            .is_none_or(|(next_ns, epoch)| epoch != now.epoch || now.now_ns >= next_ns);
        if due {
            let since_ns = now.now_ns.rem_euclid(self.period_ns);
            let next_ns = (now.now_ns - since_ns).saturating_add(self.period_ns);
            self.next = Some((next_ns, now.epoch));
        }
        due
    }
}

/// Ticks with a period in the clock's time, the first one as soon as the time is known.
pub struct Ticker(Source);

enum Source {
    Wall(Interval),
    Followed {
        clock: Clock,
        moves: Moves,
        schedule: Schedule,
    },
}

impl Ticker {
    /// Ticks of `clock` every `period`. On the wall, must be called on a tokio runtime.
    pub fn new(clock: &Clock, period: Duration) -> Ticker {
        Ticker(match clock.moves() {
            None => {
                let mut interval = tokio::time::interval(period.max(Duration::from_nanos(1)));
                // Ticks are multiples of the period: a late one does not delay those after it.
                interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
                Source::Wall(interval)
            }
            Some(moves) => Source::Followed {
                clock: clock.clone(),
                moves,
                schedule: Schedule::every(period),
            },
        })
    }

    /// Resolves at the next tick. Dropping the future loses no tick.
    pub async fn tick(&mut self) {
        match &mut self.0 {
            Source::Wall(interval) => {
                interval.tick().await;
            }
            Source::Followed {
                clock,
                moves,
                schedule,
            } => {
                while !schedule.due(clock.reading()) {
                    moves.next().await;
                }
            }
        }
    }
}

/// A task that is called at every tick; ends when dropped.
pub struct Ticking(AbortHandle);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Clock {
    /// Calls `on` at every tick of `period` in this clock's time until the returned value is dropped. `on` may only hand over.
    pub fn every(&self, period: Duration, mut on: impl FnMut() + Send + 'static) -> Ticking {
        let mut ticker = Ticker::new(self, period);
        let task = tokio::spawn(async move {
            loop {
                ticker.tick().await;
                on();
            }
        });
        Ticking(task.abort_handle())
    }

    /// Resolves when the clock has run to `steady_ns` ([`Reading::steady_ns`]) and the time is known.
    pub async fn until(&self, steady_ns: i64) {
        let Some(mut moves) = self.moves() else {
            let ahead_ns = steady_ns.saturating_sub(self.reading().steady_ns);
            let ahead = Duration::from_nanos(u64::try_from(ahead_ns).unwrap_or(0));
            return tokio::time::sleep(ahead).await;
        };
        loop {
            let now = self.reading();
            if now.is_known() && now.steady_ns >= steady_ns {
                return;
            }
            moves.next().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::clock::course::Course;

    const MS: i64 = 1_000_000;
    const PERIOD: Duration = Duration::from_millis(100);

    #[test]
    fn ticks_are_due_when_the_clock_says_so() {
        // (values of the clock in ms, ticks, why)
        let cases: &[(&[i64], u32, &str)] = &[
            (&[0, 0, 0], 0, "before the time is known nothing is due"),
            (&[1_000], 1, "the first time is a tick"),
            (&[1_000, 1_050, 1_099], 1, "not before the period is over"),
            (&[1_000, 1_100, 1_200], 3, "a clock of the same rate"),
            (
                &[1_030, 1_100, 1_200],
                3,
                "ticks are multiples of the period",
            ),
            (&[1_000, 1_000, 1_000], 1, "a pause"),
            (&[1_000, 99_000], 2, "a leap gives one tick, not a thousand"),
            (&[1_000, 99_000, 99_100], 3, "and goes on from there"),
            (&[9_000, 1_000], 2, "a jump back arms anew"),
            (&[9_000, 1_000, 1_099, 1_100], 3, "in the time that is now"),
            (
                &[9_000, 0, 0, 50],
                2,
                "a reset waits until the time is known",
            ),
            (
                &[9_080, 9_110, 9_090, 9_120],
                2,
                "swapped messages tick once",
            ),
            (&[200, 400, 600], 3, "a clock slower than the period"),
        ];
        for (values, ticks, why) in cases {
            let (mut course, mut schedule) = (Course::new(), Schedule::every(PERIOD));
            let given = values
                .iter()
                .filter(|value| {
                    course.advance(**value * MS);
                    schedule.due(course.reading())
                })
                .count();
            assert_eq!(given, *ticks as usize, "{why}");
        }
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let (mut course, mut schedule) = (Course::new(), Schedule::every(PERIOD));
        course.advance(i64::MAX);
        assert!(schedule.due(course.reading()));
        assert!(
            Schedule::every(Duration::ZERO).due(course.reading()),
            "nor does no period"
        );
    }

    /// Lets every task run until it waits.
    async fn settle() {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_task_ticks_with_a_clock_that_runs_pauses_and_jumps() {
        let (clock, follower) = Clock::followed("/clock");
        let ticks = Arc::new(AtomicU32::new(0));
        let ticking = clock.every(PERIOD, {
            let ticks = Arc::clone(&ticks);
            move || {
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let given = || ticks.swap(0, Ordering::Relaxed);
        settle().await;
        assert_eq!(given(), 0, "the time is unknown");
        // 1000 Hz for one second.
        for ms in 1..=1_000 {
            follower.set((5_000 + ms) * MS);
            settle().await;
        }
        assert_eq!(given(), 11, "the first one, and ten multiples");
        for _ in 0..100 {
            follower.set(6_000 * MS);
            settle().await;
        }
        assert_eq!(given(), 0, "a paused clock that is still published");
        follower.set(3_600_000 * MS);
        settle().await;
        assert_eq!(given(), 1, "a leap");
        follower.set(1_000 * MS);
        settle().await;
        assert_eq!(given(), 1, "a jump back");
        follower.set(1_100 * MS);
        settle().await;
        assert_eq!(given(), 1, "and on from there");
        drop(ticking);
        follower.set(2_000 * MS);
        settle().await;
        assert_eq!(given(), 0, "nobody is left");
    }

    #[tokio::test]
    async fn a_move_between_two_looks_is_not_missed() {
        let (clock, follower) = Clock::followed("/clock");
        let mut ticker = Ticker::new(&clock, PERIOD);
        follower.set(1_000 * MS);
        ticker.tick().await;
        follower.set(1_100 * MS);
        // The clock stands still from here: the move came before anybody waited for it.
        tokio::time::timeout(Duration::from_secs(5), ticker.tick())
            .await
            .expect("it was due");
        assert!(
            tokio::time::timeout(Duration::from_millis(20), ticker.tick())
                .await
                .is_err(),
            "and is given once"
        );
    }

    #[tokio::test]
    async fn waiting_for_a_time_counts_what_the_clock_ran() {
        let (clock, follower) = Clock::followed("/clock");
        let wait = tokio::spawn({
            let clock = clock.clone();
            async move { clock.until(1_000 * MS).await }
        });
        for (ms, done, why) in [
            (500_000, false, "where a clock begins is not how far it ran"),
            (500_600, false, "600 ms"),
            (1_000, false, "a jump back is no way forward"),
            (1_399, false, "999 ms"),
            (1_400, true, "1000 ms"),
        ] {
            follower.set(ms * MS);
            settle().await;
            assert_eq!(wait.is_finished(), done, "{why}");
        }
    }
}
