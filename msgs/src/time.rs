//! Times, durations and UUIDs: conversions that every node needs.
//!
//! ROS 2 counts seconds in an `int32` and nanoseconds in a `uint32`. Arithmetic is done in `i64` nanoseconds, which
//! hold every value of the wire; on the way back, values outside the range become the nearest one. Nothing here asks
//! a clock.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::builtin_interfaces::{Duration, Time};
use crate::unique_identifier_msgs::UUID;

const NANOS_PER_SEC: i64 = 1_000_000_000;

/// Seconds rounded down and the nanoseconds that remain, at the nearest representable value.
fn split(nanos: i64) -> (i32, u32) {
    let (sec, nanosec) = (
        nanos.div_euclid(NANOS_PER_SEC),
        nanos.rem_euclid(NANOS_PER_SEC),
    );
    match (i32::try_from(sec), u32::try_from(nanosec)) {
        (Ok(sec), Ok(nanosec)) => (sec, nanosec),
        _ if nanos < 0 => (i32::MIN, 0),
        _ => (i32::MAX, 999_999_999),
    }
}

/// Nanoseconds; a `nanosec` beyond a second, which nobody should send, counts as what it says.
fn join(sec: i32, nanosec: u32) -> i64 {
    i64::from(sec) * NANOS_PER_SEC + i64::from(nanosec)
}

impl Time {
    /// From nanoseconds since the clock's origin.
    #[must_use]
    pub fn from_nanos(nanos: i64) -> Self {
        let (sec, nanosec) = split(nanos);
        Self { sec, nanosec }
    }

    /// Nanoseconds since the clock's origin.
    #[must_use]
    pub fn to_nanos(self) -> i64 {
        join(self.sec, self.nanosec)
    }

    /// From the system's clock; before 1970 is 0.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// On the system's clock; before 1970 is 1970.
    #[must_use]
    pub fn to_system(self) -> SystemTime {
        let nanos = u64::try_from(self.to_nanos()).unwrap_or(0);
        UNIX_EPOCH + std::time::Duration::from_nanos(nanos)
    }

    /// True for the stamp that nobody set.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.sec == 0 && self.nanosec == 0
    }

    /// How much later this time is than another, in nanoseconds; negative if it is earlier.
    #[must_use]
    pub fn nanos_since(self, earlier: Self) -> i64 {
        self.to_nanos().saturating_sub(earlier.to_nanos())
    }

    /// This time and a duration.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_nanos(self.to_nanos().saturating_add(duration.to_nanos()))
    }
}

impl Duration {
    /// From nanoseconds.
    #[must_use]
    pub fn from_nanos(nanos: i64) -> Self {
        let (sec, nanosec) = split(nanos);
        Self { sec, nanosec }
    }

    /// Nanoseconds.
    #[must_use]
    pub fn to_nanos(self) -> i64 {
        join(self.sec, self.nanosec)
    }

    /// From a standard duration; the longest is 68 years.
    #[must_use]
    pub fn from_std(duration: std::time::Duration) -> Self {
        Self::from_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }

    /// As a standard duration; negative ones are zero.
    #[must_use]
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.to_nanos()).unwrap_or(0))
    }
}

impl UUID {
    /// All zeros: none.
    pub const NIL: Self = Self { uuid: [0; 16] };

    /// From its bytes.
    #[must_use]
    pub fn from_bytes(uuid: [u8; 16]) -> Self {
        Self { uuid }
    }

    /// True if it names nothing.
    #[must_use]
    pub fn is_nil(&self) -> bool {
        *self == Self::NIL
    }
}

/// The usual text, `67e55044-10b1-426f-9247-bb680e5fe0c8`.
impl fmt::Display for UUID {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.uuid.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A text that is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a UUID of 32 hexadecimal digits in groups of 8-4-4-4-12, found {found} characters that are not"
)]
pub struct UuidError {
    /// Characters of the text.
    pub found: usize,
}

impl FromStr for UUID {
    type Err = UuidError;

    /// Reads the usual text, or 32 digits without hyphens.
    fn from_str(text: &str) -> Result<Self, UuidError> {
        let wrong = UuidError {
            found: text.chars().count(),
        };
        let hyphens_fit = match text.len() {
            36 => text
                .bytes()
                .enumerate()
                .all(|(at, b)| (b == b'-') == matches!(at, 8 | 13 | 18 | 23)),
            32 => true,
            _ => false,
        };
        if !hyphens_fit {
            return Err(wrong);
        }
        let mut uuid = [0; 16];
        let mut digits = text.chars().filter(|&c| c != '-').map(|c| c.to_digit(16));
        for byte in &mut uuid {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(wrong);
            };
            *byte = u8::try_from(high * 16 + low).unwrap_or(0);
        }
        match digits.next() {
            None => Ok(Self { uuid }),
            Some(_) => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_through_nanoseconds() {
        const CASES: &[(i64, i32, u32)] = &[
            (0, 0, 0),
            (1_500_000_000, 1, 500_000_000),
            (-1, -1, 999_999_999),
            (-1_500_000_000, -2, 500_000_000),
            (i64::MAX, i32::MAX, 999_999_999),
            (i64::MIN, i32::MIN, 0),
        ];
        for &(nanos, sec, nanosec) in CASES {
            assert_eq!(Time::from_nanos(nanos), Time { sec, nanosec });
            if nanos.unsigned_abs() < 1 << 60 {
                assert_eq!(Time { sec, nanosec }.to_nanos(), nanos);
            }
        }
        let odd = Time {
            sec: i32::MIN,
            nanosec: u32::MAX,
        };
        assert_eq!(
            odd.to_nanos(),
            i64::from(i32::MIN) * NANOS_PER_SEC + i64::from(u32::MAX)
        );
        assert_eq!(Time::from_system(odd.to_system()), Time::default());
        let later = Time::from_nanos(5).plus(Duration::from_nanos(7));
        assert_eq!(later.nanos_since(Time::from_nanos(2)), 10);
        assert_eq!(Duration::from_nanos(-5).to_std(), std::time::Duration::ZERO);
    }

    #[test]
    fn uuids_have_their_usual_text() {
        let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let uuid: UUID = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(text.replace('-', "").parse(), Ok(uuid));
        assert!(!uuid.is_nil() && UUID::default().is_nil());
        for bad in [
            "",
            "67e55044",
            "67e5504410b1-426f-9247-bb680e5fe0c8-",
            "67e55044-10b1-426f-9247-bb680e5fe0cg",
            "67e5504410b1426f9247bb680e5fe0-8",
            "é7e55044-10b1-426f-9247-bb680e5fe0c",
        ] {
            assert!(bad.parse::<UUID>().is_err(), "{bad}");
        }
    }
}
