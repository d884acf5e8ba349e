//! The QoS of an endpoint as one chunk of its liveliness token.
//!
//! ```text
//! <reliability>:<durability>:<history>,<depth>:<deadline s>,<ns>:<lifespan s>,<ns>:<liveliness>,<lease s>,<ns>
//! ```
//!
//! A field that equals rmw_zenoh's default is left out: reliable, volatile, keep last 42, no deadline, no lifespan, automatic
//! liveliness without lease. A reliable publisher of depth 10 is `::,10:,:,:,,`. Zenoh matches any two profiles.

use std::fmt;

use thiserror::Error;

/// Depth that is left out.
const DEPTH_DEFAULT: u32 = 42;
/// Longest chunk that is read, in bytes.
const CHUNK_BYTES_MAX: usize = 256;

/// Whether lost samples are sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reliability {
    /// They are.
    #[default]
    Reliable,
    /// They are not.
    BestEffort,
}

/// Whether a subscriber that comes late gets earlier samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// It does not.
    #[default]
    Volatile,
    /// It gets those the publisher keeps.
    TransientLocal,
}

/// How many samples are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum History {
    /// The newest `depth`.
    #[default]
    KeepLast,
    /// All.
    KeepAll,
}

/// A QoS profile, as far as rmw_zenoh acts on it. Deadline, lifespan and liveliness are read and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QosProfile {
    /// Resend or not.
    pub reliability: Reliability,
    /// For late subscribers or not.
    pub durability: Durability,
    /// Newest or all.
    pub history: History,
    /// How many, with [`History::KeepLast`].
    pub depth: u32,
}

impl Default for QosProfile {
    /// ROS 2's default: reliable, volatile, keep last 10.
    fn default() -> Self {
        QosProfile {
            reliability: Reliability::Reliable,
            durability: Durability::Volatile,
            history: History::KeepLast,
            depth: 10,
        }
    }
}

/// Text that is no QoS chunk.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("QoS `{found}`: expected {expected}")]
pub struct QosError {
    found: String,
    expected: &'static str,
}

impl QosProfile {
    /// Reads a chunk.
    ///
    /// # Errors
    /// [`QosError`] with what was expected where.
    pub fn parse(chunk: &str) -> Result<QosProfile, QosError> {
        let wrong = |expected| QosError {
            found: chunk.chars().take(CHUNK_BYTES_MAX).collect(),
            expected,
        };
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(wrong("at most 256 bytes"));
        }
        let fields: Vec<&str> = chunk.split(':').collect();
        let [
            reliability,
            durability,
            history,
            deadline,
            lifespan,
            liveliness,
        ] = fields[..]
        else {
            return Err(wrong("six fields between colons"));
        };
        let reliability = match reliability {
            "" | "0" | "1" => Reliability::Reliable,
            "2" => Reliability::BestEffort,
            _ => return Err(wrong("reliability 1 or 2")),
        };
        let durability = match durability {
            "" | "0" | "2" => Durability::Volatile,
            "1" => Durability::TransientLocal,
            _ => return Err(wrong("durability 1 or 2")),
        };
        let (kind, depth) = history
            .split_once(',')
            .ok_or_else(|| wrong("history and depth"))?;
        let history = match kind {
            "" | "0" | "1" => History::KeepLast,
            "2" => History::KeepAll,
            _ => return Err(wrong("history 1 or 2")),
        };
        let depth = match depth {
            "" => DEPTH_DEFAULT,
            number => number.parse().map_err(|_| wrong("a depth"))?,
        };
        let times = [(deadline, 2), (lifespan, 2), (liveliness, 3)];
        let sound = times.iter().all(|(text, parts)| {
            text.split(',').count() == *parts
                && text
                    .split(',')
                    .all(|part| part.is_empty() || part.parse::<u64>().is_ok())
        });
        if !sound {
            return Err(wrong("seconds and nanoseconds"));
        }
        Ok(QosProfile {
            reliability,
            durability,
            history,
            depth,
        })
    }
}

impl fmt::Display for QosProfile {
    /// The chunk. Times are never written: they are always the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reliability = match self.reliability {
            Reliability::Reliable => "",
            Reliability::BestEffort => "2",
        };
        let durability = match self.durability {
            Durability::Volatile => "",
            Durability::TransientLocal => "1",
        };
        let history = match self.history {
            History::KeepLast => "",
            History::KeepAll => "2",
        };
        write!(f, "{reliability}:{durability}:{history},")?;
        if self.depth != DEPTH_DEFAULT {
            write!(f, "{}", self.depth)?;
        }
        f.write_str(":,:,:,,")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENSOR: QosProfile = QosProfile {
        reliability: Reliability::BestEffort,
        durability: Durability::Volatile,
        history: History::KeepLast,
        depth: 5,
    };
    const LATCHED: QosProfile = QosProfile {
        reliability: Reliability::Reliable,
        durability: Durability::TransientLocal,
        history: History::KeepLast,
        depth: 1,
    };

    #[test]
    fn chunks_are_those_of_a_real_node() {
        for (profile, chunk, why) in [
            (
                QosProfile::default(),
                "::,10:,:,:,,",
                "a publisher of depth 10",
            ),
            (SENSOR, "2::,5:,:,:,,", "sensor data"),
            (LATCHED, ":1:,1:,:,:,,", "latched"),
        ] {
            assert_eq!(profile.to_string(), chunk, "{why}");
            assert_eq!(QosProfile::parse(chunk), Ok(profile), "{why}");
        }
        let rosout = QosProfile::parse(":1:,1000:,:10,0:,,").unwrap();
        assert_eq!(
            (rosout.depth, rosout.durability),
            (1000, Durability::TransientLocal)
        );
        assert_eq!(QosProfile::parse("::,:,:,:,,").unwrap().depth, 42);
    }

    #[test]
    fn other_text_is_refused() {
        for chunk in [
            "",
            ":",
            "::,10:,:,:,",
            "3::,10:,:,:,,",
            ":7:,10:,:,:,,",
            "::9,10:,:,:,,",
            "::10:,:,:,,",
            "::,-1:,:,:,,",
            "::,10:x,:,:,,",
            "::,4294967296:,:,:,,",
        ] {
            assert!(QosProfile::parse(chunk).is_err(), "{chunk}");
        }
        assert!(QosProfile::parse(&":".repeat(10_000)).is_err());
    }
}
