//! Time: stamps follow wall time, deadlines follow the monotonic clock, and the two never mix.
//!
//! Stamps on the bus are nanoseconds since the Unix epoch. A node asks this module rather than the system, so that a simulation's
//! clock can later stand in one place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far in the future a stamp may lie before it is taken for a lie: clocks of one vehicle agree better than this.
pub const FUTURE_TOLERANCE: Duration = Duration::from_millis(50);

/// Wall time now, in ns since the Unix epoch.
pub fn now_ns() -> i64 {
    wall_ns(SystemTime::now())
}

/// A wall time in ns since the Unix epoch; before it counts as zero, which every freshness rule refuses.
pub fn wall_ns(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// How old a stamp is at `now_ns`; a stamp in the future has no age.
pub fn age(stamp_ns: i64, now_ns: i64) -> Option<Duration> {
    u64::try_from(now_ns.checked_sub(stamp_ns)?)
        .ok()
        .map(Duration::from_nanos)
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
}
