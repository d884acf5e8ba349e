//! The pace of what is played: on the wall in real time, on a followed clock in that clock's time.
//!
//! A paused simulation hears and sees nothing new, one at ten times the speed is played to at ten times the speed. A message is dated with
//! the time it was due, so that a clock of 10 Hz does not give the chunks of a sound in 50 Hz five times the same stamp. After a leap of
//! the clock a source goes on where it stood: what lies between is neither sent at once nor skipped one by one.

use std::time::Duration;

use llmasos_nodes::clock::{self, Clock};
use tokio::time::{Instant, sleep_until};

/// How late something may be due; a clock that ran on by more than that has leapt.
const LATE_MAX: Duration = Duration::from_secs(1);

/// When something is due that counts its time from a start.
#[derive(Clone)]
pub struct Pace {
    clock: Clock,
    start: Instant,
    start_steady_ns: i64,
}

impl Pace {
    /// Counts from `start` on the wall, and from now on a followed clock.
    pub fn from(start: Instant, clock: &Clock) -> Pace {
        Pace {
            clock: clock.clone(),
            start,
            start_steady_ns: clock.reading().steady_ns,
        }
    }

    /// The same start on the wall: for the source of a clock, which cannot follow itself.
    pub fn on_wall(&self) -> Pace {
        Pace::from(self.start, &Clock::wall())
    }

    /// Resolves `after` the start, with the stamp of what is due then, in ns.
    pub async fn until(&mut self, after: Duration) -> i64 {
        if self.clock.topic().is_none() {
            sleep_until(self.start + after).await;
            return self.clock.now_ns();
        }
        let due_ns = self.start_steady_ns.saturating_add(clock::nanos(after));
        self.clock.until(due_ns).await;
        let now = self.clock.reading();
        let late_ns = now.steady_ns.saturating_sub(due_ns).max(0);
        if late_ns > clock::nanos(LATE_MAX) {
            self.start_steady_ns = self.start_steady_ns.saturating_add(late_ns);
            return now.now_ns;
        }
        // A clock that has just jumped back had not begun then.
        now.now_ns.saturating_sub(late_ns).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[tokio::test]
    async fn what_is_due_follows_the_clock_and_is_dated_by_it() {
        let (clock, follower) = Clock::followed("/clock");
        follower.set(50_000 * MS);
        let mut pace = Pace::from(Instant::now(), &clock);
        for (after_ms, clock_ms, stamp_ms, why) in [
            (0, 50_000, 50_000, "the start"),
            (20, 50_100, 50_020, "a chunk of sound on a 10 Hz clock"),
            (40, 50_100, 50_040, "and the next one, with its own date"),
            (200, 90_000, 90_000, "a leap"),
            (300, 90_100, 90_100, "leaves nothing to make up for"),
            (300, 1_000, 1_000, "a jump back is no time that ran"),
            (400, 1_100, 1_100, "and goes on from there"),
        ] {
            follower.set(clock_ms * MS);
            let stamp_ns = pace.until(Duration::from_millis(after_ms)).await;
            assert_eq!(stamp_ns, stamp_ms * MS, "{why}");
        }
        let paused = pace.until(Duration::from_millis(500));
        assert!(
            tokio::time::timeout(Duration::from_millis(20), paused)
                .await
                .is_err(),
            "a paused simulation is not played to"
        );
        let wall_ns = pace.on_wall().until(Duration::ZERO).await;
        assert!(wall_ns > 1_000_000_000 * 1_000 * MS, "the wall goes on");
    }
}
