//! `llmasos topic delay`: how old messages are on arrival, by header.stamp.
//!
//! The stamp of most types is the first thing in the payload: eight bytes are read and the rest is left alone.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use llmasos_msgs::sniff;
use llmasos_nodes::{bus::Arrival, clock};
use serde_json::{Value, json};

use super::{
    measure::{MeasureArgs, Meter, measure, summarize, window},
    payload::{Content, StampAt, content, first_stamp_ns, stamp_at, stamp_ns},
    series::{Series, Spread, rounded},
    typing::{Types, TypesFrom},
};
use crate::descriptor::findings::shorten;

/// Arguments of `llmasos topic delay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic delay /camera/image
  llmasos topic delay /odometry --type nav_msgs/Odometry --duration 10 --json

The type needs header.stamp, or stamp. Both computers' clocks must agree; a negative delay says they do not.")]
pub(super) struct Args {
    #[command(flatten)]
    measure: MeasureArgs,
    /// Messages of which the delay is the average
    #[arg(short, long, value_name = "N", default_value_t = 10_000)]
    window: usize,
    #[command(flatten)]
    types: TypesFrom,
}

/// Delays in seconds.
struct Delay {
    types: Types,
    delays: Series,
    fault: Option<String>,
}

impl Meter for Delay {
    fn see(&mut self, arrival: &Arrival, _now: Instant) {
        match self.stamp(arrival) {
            Ok(stamp_ns) => {
                let delay_ns = clock::wall_ns(arrival.received).saturating_sub(stamp_ns);
                self.delays.add(delay_ns as f64 / 1e9);
            }
            Err(fault) => self.fault = Some(fault),
        }
    }

    fn report(&self) -> Option<(String, Value)> {
        let Spread {
            mean,
            min,
            max,
            std_dev,
            count,
        } = self.delays.spread()?;
        let text = format!(
            "average delay: {mean:.3}\n\tmin: {min:.3}s max: {max:.3}s std dev: {std_dev:.5}s window: {count}"
        );
        let value = json!({
            "delay_s": rounded(mean, 6), "min_s": rounded(min, 6), "max_s": rounded(max, 6), "std_dev_s": rounded(std_dev, 6), "window": count,
        });
        Some((text, value))
    }

    fn fault(&self) -> Option<String> {
        self.fault.clone()
    }
}

impl Delay {
    /// The stamp of a message, or why it has none.
    fn stamp(&self, arrival: &Arrival) -> Result<i64, String> {
        let told = self.types.of(&arrival.key, &arrival.encoding);
        let registry = &self.types.registry;
        let found = told
            .as_ref()
            .and_then(|told| told.id.as_deref())
            .and_then(|id| registry.find(id));
        let without = |name: &str| format!("expected a type with header.stamp, found {name}");
        if let Some(found) = found {
            let bytes = arrival.payload.to_bytes();
            let is_cdr = || sniff::classify(&arrival.encoding, &bytes) == Ok(sniff::Form::Cdr);
            match stamp_at(found) {
                None => return Err(without(&found.name)),
                Some(StampAt::First) if is_cdr() => {
                    return first_stamp_ns(&bytes)
                        .ok_or_else(|| format!("{} bytes are too few for a stamp", bytes.len()));
                }
                Some(StampAt::First | StampAt::Inside) => {}
            }
        }
        match content(registry, told.as_ref(), arrival) {
            Content::Value(value) => {
                stamp_ns(&value).ok_or_else(|| without(&shorten(&value.to_string())))
            }
            Content::Unreadable(problem) => Err(problem),
        }
    }
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let window = window(args.window)?;
    let mut types = args.types.load(None)?;
    let measured = measure(&args.measure, None, false, |network, _| {
        types.learn(network);
        Ok(Delay {
            types,
            delays: Series::new(window),
            fault: None,
        })
    })
    .await?;
    summarize(args.measure.json, &measured, json!({}))?;
    if let Some(fault) = measured.meter.fault {
        anyhow::bail!("{}: {fault}", measured.topic);
    }
    Ok(ExitCode::SUCCESS)
}
