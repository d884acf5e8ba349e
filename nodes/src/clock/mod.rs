//! Time: what stamps, ages and lifespans are measured with. Deadlines of computation are not: they run on `Instant`.
//!
//! A graph has one [`Clock`]; it lives in the bus and its clones agree. It is the wall, or it follows a topic (`rosgraph_msgs/Clock`, as
//! simulators and bag players publish it): then now is the last value received, before the first one the time is unknown, a pause stops it
//! and a jump back begins a new epoch, of which whoever remembers stamps must take note.
//!
//! ```text
//! now_ns     ── the time: compared with stamps; may stand still and jump           0 = unknown
//! steady_ns  ── how far it has run: for periods, holds and time-outs; never back
//! epoch      ── how often it jumped back: stamps of two epochs cannot be compared
//! ```

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::follow::Followed;
pub use self::follow::{ClockReport, Follower, Moves};
pub use self::ticker::{Ticker, Ticking};

mod course;
mod follow;
mod ticker;

#[cfg(test)]
mod bus_tests;

/// How far in the future a stamp may lie before it is taken for a lie: clocks of one vehicle agree better than this.
pub const FUTURE_TOLERANCE: Duration = Duration::from_millis(50);

/// Where a graph takes its time from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClockSource {
    /// The computer's own clock.
    #[default]
    Wall,
    /// A topic of `rosgraph_msgs/msg/Clock`; names follow the same rule as those of other topics.
    Topic(String),
}

/// One look at a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The time in ns since its epoch, as stamps count; zero before it is known.
    pub now_ns: i64,
    /// How far the clock has run forward since it was made, in ns; never goes back.
    pub steady_ns: i64,
    /// How often it jumped back.
    pub epoch: u32,
    /// How far ahead of `now_ns` a truthful stamp may lie, in ns: a clock that comes as messages lags by up to one of its steps.
    pub ahead_ns: i64,
}

impl Reading {
    /// Whether the time is known.
    pub fn is_known(&self) -> bool {
        self.now_ns > 0
    }
}

/// The time of one graph. Clones agree.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    Wall { started: Instant },
    Followed(Arc<Followed>),
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock")
            .field(&self.topic().unwrap_or("wall"))
            .finish()
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::wall()
    }
}

impl Clock {
    /// The computer's own clock.
    pub fn wall() -> Clock {
        Clock(Kind::Wall {
            started: Instant::now(),
        })
    }

    /// A clock that goes as its [`Follower`] is told; `topic` is what it is called in reports.
    pub fn followed(topic: &str) -> (Clock, Follower) {
        let followed = Arc::new(Followed::new(topic));
        (
            Clock(Kind::Followed(Arc::clone(&followed))),
            Follower::new(followed),
        )
    }

    /// One consistent look.
    pub fn reading(&self) -> Reading {
        match &self.0 {
            Kind::Wall { started } => Reading {
                now_ns: now_ns(),
                steady_ns: nanos(started.elapsed()),
                epoch: 0,
                ahead_ns: nanos(FUTURE_TOLERANCE),
            },
            Kind::Followed(followed) => followed.reading(),
        }
    }

    /// The time in ns, for stamps; zero before it is known.
    pub fn now_ns(&self) -> i64 {
        self.reading().now_ns
    }

    /// The topic it follows; `None` for the wall.
    pub fn topic(&self) -> Option<&str> {
        match &self.0 {
            Kind::Wall { .. } => None,
            Kind::Followed(followed) => Some(followed.topic()),
        }
    }

    /// What to say while the time is unknown; `None` once it is known.
    pub fn waiting(&self) -> Option<String> {
        match &self.0 {
            Kind::Followed(followed) if !followed.reading().is_known() => {
                Some(format!("waiting for {}", followed.topic()))
            }
            Kind::Wall { .. } | Kind::Followed(_) => None,
        }
    }

    /// The moves of a followed clock from now on; `None` for the wall, which needs no telling.
    pub fn moves(&self) -> Option<Moves> {
        match &self.0 {
            Kind::Wall { .. } => None,
            Kind::Followed(followed) => Some(followed.moves()),
        }
    }

    /// How a followed clock does; takes its news along, which are told once. `None` for the wall.
    pub fn report(&self) -> Option<ClockReport> {
        match &self.0 {
            Kind::Wall { .. } => None,
            Kind::Followed(followed) => Some(followed.report()),
        }
    }

    /// Resolves when there is news for [`Clock::report`]; never for the wall.
    pub async fn news(&self) {
        match &self.0 {
            Kind::Wall { .. } => std::future::pending().await,
            Kind::Followed(followed) => followed.news().await,
        }
    }
}

/// Wall time now, in ns since the Unix epoch. For tools without a graph: a node asks the [`Clock`] of its bus.
pub fn now_ns() -> i64 {
    wall_ns(SystemTime::now())
}

/// A wall time in ns since the Unix epoch; before it counts as zero, which every freshness rule refuses.
pub fn wall_ns(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, nanos)
}

/// How old a stamp is at `now_ns`; a stamp in the future has no age.
pub fn age(stamp_ns: i64, now_ns: i64) -> Option<Duration> {
    u64::try_from(now_ns.checked_sub(stamp_ns)?)
        .ok()
        .map(Duration::from_nanos)
}

/// Nanoseconds of a duration, saturating.
pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_never_negative() {
        assert_eq!(age(5, 8), Some(Duration::from_nanos(3)));
        assert_eq!(age(8, 5), None, "the future has no age");
        assert_eq!(age(i64::MIN, i64::MAX), None, "no overflow");
    }

    #[test]
    fn the_wall_is_known_and_its_clones_agree() {
        let clock = Clock::wall();
        let (first, second) = (clock.reading(), clock.clone().reading());
        assert!(first.is_known());
        assert!(second.steady_ns >= first.steady_ns, "one start for both");
        assert_eq!((clock.waiting(), clock.topic()), (None, None));
        assert!(clock.report().is_none(), "the wall has no news");
    }
}
