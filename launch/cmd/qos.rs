//! The QoS flags of ros2's topic verbs.

use clap::ValueEnum;
use llmasos_msgs::rmw_zenoh::{Durability, History, QosProfile, Reliability};

/// How samples are kept and sent again.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "QoS")]
pub(super) struct QosFlags {
    /// Where the other flags start from
    #[arg(long = "qos-profile", value_enum, value_name = "PROFILE")]
    profile: Option<Profile>,
    /// Samples that are kept
    #[arg(long = "qos-depth", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    depth: Option<u32>,
    /// The newest, or all
    #[arg(long = "qos-history", value_enum, value_name = "HISTORY")]
    history: Option<HistoryFlag>,
    /// Whether lost samples are sent again
    #[arg(long = "qos-reliability", value_enum, value_name = "RELIABILITY")]
    reliability: Option<ReliabilityFlag>,
    /// Whether a late subscriber gets earlier samples
    #[arg(long = "qos-durability", value_enum, value_name = "DURABILITY")]
    durability: Option<DurabilityFlag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Profile {
    /// Reliable, volatile, 10
    Default,
    /// The same
    SystemDefault,
    /// Best effort, volatile, 5
    SensorData,
    /// Reliable, volatile, 10
    ServicesDefault,
    /// Reliable, volatile, 1000
    Parameters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum HistoryFlag {
    KeepLast,
    KeepAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum ReliabilityFlag {
    Reliable,
    BestEffort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum DurabilityFlag {
    Volatile,
    TransientLocal,
}

impl QosFlags {
    /// Whether any of them was given.
    pub(super) fn is_given(&self) -> bool {
        let Self {
            profile,
            depth,
            history,
            reliability,
            durability,
        } = self;
        profile.is_some()
            || depth.is_some()
            || history.is_some()
            || reliability.is_some()
            || durability.is_some()
    }

    /// The profile that the flags give, starting from `usual` where none is named.
    pub(super) fn over(&self, usual: QosProfile) -> QosProfile {
        let from = match self.profile {
            None => usual,
            Some(Profile::Default | Profile::SystemDefault | Profile::ServicesDefault) => {
                QosProfile::default()
            }
            Some(Profile::SensorData) => QosProfile {
                reliability: Reliability::BestEffort,
                depth: 5,
                ..QosProfile::default()
            },
            Some(Profile::Parameters) => QosProfile {
                depth: 1000,
                ..QosProfile::default()
            },
        };
        QosProfile {
            reliability: self
                .reliability
                .map_or(from.reliability, |flag| match flag {
                    ReliabilityFlag::Reliable => Reliability::Reliable,
                    ReliabilityFlag::BestEffort => Reliability::BestEffort,
                }),
            durability: self.durability.map_or(from.durability, |flag| match flag {
                DurabilityFlag::Volatile => Durability::Volatile,
                DurabilityFlag::TransientLocal => Durability::TransientLocal,
            }),
            history: self.history.map_or(from.history, |flag| match flag {
                HistoryFlag::KeepLast => History::KeepLast,
                HistoryFlag::KeepAll => History::KeepAll,
            }),
            depth: self.depth.unwrap_or(from.depth),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_flags_win_over_the_profile() {
        let latched = QosProfile {
            durability: Durability::TransientLocal,
            depth: 1,
            ..QosProfile::default()
        };
        assert_eq!(QosFlags::default().over(latched), latched, "no flag");
        let sensor = QosFlags {
            profile: Some(Profile::SensorData),
            ..QosFlags::default()
        };
        assert_eq!(
            sensor.over(latched).to_string(),
            "2::,5:,:,:,,",
            "ros2's sensor data"
        );
        let both = QosFlags {
            depth: Some(7),
            durability: Some(DurabilityFlag::TransientLocal),
            ..sensor
        };
        assert_eq!(both.over(latched).to_string(), "2:1:,7:,:,:,,");
    }
}
