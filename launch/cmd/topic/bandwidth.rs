//! `llmasos topic bw`: how many bytes a topic carries, counted without decoding them.

use std::{collections::VecDeque, process::ExitCode, time::Instant};

use anyhow::Result;
use llmasos_nodes::bus::Arrival;
use serde_json::{Value, json};

use super::{
    measure::{MeasureArgs, Meter, measure, summarize, window},
    series::{Series, Spread, rounded},
};

/// Arguments of `llmasos topic bw`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic bw /camera/image
  llmasos topic bw 'ego/**' --duration 10 --json

Bytes are those of the payloads; kB and MB are powers of ten.")]
pub(super) struct Args {
    #[command(flatten)]
    measure: MeasureArgs,
    /// Messages of which the bandwidth is the average
    #[arg(short, long, value_name = "N", default_value_t = 100)]
    window: usize,
}

/// Sizes and the times they came at.
struct Bandwidth {
    size: usize,
    sizes: Series,
    times: VecDeque<Instant>,
    total_bytes: u64,
}

impl Meter for Bandwidth {
    fn see(&mut self, arrival: &Arrival, now: Instant) {
        let bytes = arrival.payload.len();
        self.total_bytes = self.total_bytes.saturating_add(bytes as u64);
        self.sizes.add(bytes as f64);
        if self.times.len() == self.size {
            self.times.pop_front();
        }
        self.times.push_back(now);
    }

    fn report(&self) -> Option<(String, Value)> {
        let Spread {
            mean,
            min,
            max,
            count,
            ..
        } = self.sizes.spread()?;
        // As ros2 does: to now, so that a topic that falls silent fades.
        let seconds = self.times.front()?.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 {
            mean * count as f64 / seconds
        } else {
            0.0
        };
        let text = format!(
            "{}/s from {count} messages\n\tMessage size mean: {} min: {} max: {}",
            size(rate),
            size(mean),
            size(min),
            size(max)
        );
        let value = json!({
            "bytes_per_s": rounded(rate, 1), "mean_bytes": rounded(mean, 1), "min_bytes": min, "max_bytes": max, "window": count,
        });
        Some((text, value))
    }
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let size = window(args.window)?;
    let make = |_: &_, _: &_| {
        Ok(Bandwidth {
            size,
            sizes: Series::new(size),
            times: VecDeque::new(),
            total_bytes: 0,
        })
    };
    let measured = measure(&args.measure, None, false, make).await?;
    let total = measured.meter.total_bytes;
    summarize(args.measure.json, &measured, json!({ "bytes": total }))?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes for the eye.
fn size(bytes: f64) -> String {
    match bytes {
        small if small < 1e3 => format!("{small:.0} B"),
        kilo if kilo < 1e6 => format!("{:.2} kB", kilo / 1e3),
        mega if mega < 1e9 => format!("{:.2} MB", mega / 1e6),
        giga => format!("{:.2} GB", giga / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1500.0, "1.50 kB"),
            (6_220_800.0, "6.22 MB"),
            (2e9, "2.00 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
