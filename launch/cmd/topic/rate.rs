//! `llmasos topic hz`: how often messages come, counted without decoding them.

use std::{
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::Result;
use llmasos_nodes::bus::Arrival;
use serde_json::{Value, json};

use super::{
    super::output::line,
    measure::{MeasureArgs, Measured, Meter, measure, summarize, window},
    series::{Series, Spread, rounded},
};

/// How long is listened for an expectation where nothing else is said.
const ASSERT_USUAL: Duration = Duration::from_secs(5);
/// An expectation was missed.
const EXIT_MISSED: u8 = 3;
/// A silence at the end of so many periods belongs to the rate; a shorter one is only the wait for the next message.
const SILENT_PERIODS: f64 = 2.0;

/// Arguments of `llmasos topic hz`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic hz /ego/llmasos/gate/verdict
  llmasos topic hz /camera/image --window 100 --duration 10 --json
  llmasos topic hz /ego/llmasos/gate/verdict --assert 9..11     exit code 3 when it is slower or faster, 5 s unless --duration says else

The rate of the summary and of --assert is that of the whole time: messages behind the first, by the time from the first to the last, and
to the end if the topic fell silent.")]
pub(super) struct Args {
    #[command(flatten)]
    measure: MeasureArgs,
    /// Messages of which the rate is the average
    #[arg(short, long, value_name = "N", default_value_t = 10_000)]
    window: usize,
    /// Expect a rate, such as 9..11, 9.. or ..11; exit code 3 when it is missed
    #[arg(long, value_name = "MIN..MAX")]
    assert: Option<Range>,
}

/// A rate that is expected, both ends included, in Hz.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    min: f64,
    max: f64,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let wrong = || format!("expected a rate in Hz such as 9..11, 9.. or ..11, found {text}");
        let (min, max) = text.split_once("..").ok_or_else(wrong)?;
        let number = |part: &str, open: f64| match part.trim() {
            "" => Some(open),
            part => part
                .parse::<f64>()
                .ok()
                .filter(|value| value.is_finite() && *value >= 0.0),
        };
        let (min, max) = (
            number(min, 0.0),
            number(max.trim_start_matches('='), f64::INFINITY),
        );
        match (min, max) {
            (Some(min), Some(max)) if min <= max && text.trim() != ".." => Ok(Range { min, max }),
            _ => Err(wrong()),
        }
    }
}

impl Range {
    fn has(self, hz: f64) -> bool {
        (self.min..=self.max).contains(&hz)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.max.is_finite() {
            true => write!(f, "{}..{}", self.min, self.max),
            false => write!(f, "{}..", self.min),
        }
    }
}

/// Times between messages.
struct Rate {
    periods: Series,
    first: Option<Instant>,
    last: Option<Instant>,
    count: u64,
}

impl Rate {
    fn new(window: usize) -> Rate {
        Rate {
            periods: Series::new(window - 1),
            first: None,
            last: None,
            count: 0,
        }
    }

    /// Rate over the whole time, in Hz.
    fn overall_hz(&self, ended: Instant) -> f64 {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return 0.0;
        };
        let behind = self.count.saturating_sub(1) as f64;
        let between = last.duration_since(first).as_secs_f64();
        let silence = ended.saturating_duration_since(last).as_secs_f64();
        let is_silent = silence > SILENT_PERIODS * between / behind.max(1.0);
        let time = if is_silent {
            between + silence
        } else {
            between
        };
        if time > 0.0 { behind / time } else { 0.0 }
    }
}

impl Meter for Rate {
    fn see(&mut self, _arrival: &Arrival, now: Instant) {
        if let Some(last) = self.last {
            self.periods
                .add(now.saturating_duration_since(last).as_secs_f64());
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.count += 1;
    }

    fn report(&self) -> Option<(String, Value)> {
        let Spread {
            mean,
            min,
            max,
            std_dev,
            count,
        } = self.periods.spread()?;
        let hz = if mean > 0.0 { 1.0 / mean } else { 0.0 };
        let text = format!(
            "average rate: {hz:.3}\n\tmin: {min:.3}s max: {max:.3}s std dev: {std_dev:.5}s window: {}",
            count + 1
        );
        let value = json!({
            "rate_hz": rounded(hz, 3), "min_s": rounded(min, 6), "max_s": rounded(max, 6), "std_dev_s": rounded(std_dev, 6), "window": count + 1,
        });
        Some((text, value))
    }
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let window = window(args.window)?;
    let usual = args.assert.map(|_| ASSERT_USUAL);
    let measured = measure(&args.measure, usual, args.assert.is_some(), |_, _| {
        Ok(Rate::new(window))
    })
    .await?;
    let hz = measured.meter.overall_hz(measured.ended);
    let Some(expected) = args.assert else {
        summarize(
            args.measure.json,
            &measured,
            json!({ "overall_hz": rounded(hz, 3) }),
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    let met = expected.has(hz);
    let facts =
        json!({ "overall_hz": rounded(hz, 3), "expected": expected.to_string(), "met": met });
    summarize(args.measure.json, &measured, facts)?;
    tell(args, &measured, expected, hz, met)?;
    Ok(if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_MISSED)
    })
}

fn tell(args: &Args, measured: &Measured<Rate>, expected: Range, hz: f64, met: bool) -> Result<()> {
    let topic = &measured.topic;
    match (met, args.measure.json) {
        (true, true) => {}
        (true, false) => line(&format!("{topic}: {hz:.3} Hz is within {expected}"))?,
        (false, _) => eprintln!("missed: {topic}: expected {expected} Hz, found {hz:.3} Hz"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, min, max) in [
            ("9..11", 9.0, 11.0),
            ("9..=11", 9.0, 11.0),
            ("9.5..", 9.5, f64::INFINITY),
            ("..11", 0.0, 11.0),
            ("10..10", 10.0, 10.0),
        ] {
            assert_eq!(text.parse(), Ok(Range { min, max }), "{text}");
        }
        for text in ["", "..", "9", "11..9", "a..b", "-1..", "nan..", "9..inf"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }

    #[test]
    fn silence_at_the_end_belongs_to_the_rate() {
        let first = Instant::now();
        let at = |ms: u64| first + Duration::from_millis(ms);
        let rate = |count, last_ms| Rate {
            periods: Series::new(9),
            first: (count > 0).then_some(first),
            last: (count > 0).then(|| at(last_ms)),
            count,
        };
        for (count, last_ms, ended_ms, hz, why) in [
            (0, 0, 1000, 0.0, "nothing came"),
            (1, 0, 1000, 0.0, "one message has no rate"),
            (
                11,
                1000,
                1050,
                10.0,
                "the wait for the next one does not count",
            ),
            (11, 1000, 2000, 5.0, "it fell silent"),
        ] {
            let found = rate(count, last_ms).overall_hz(at(ended_ms));
            assert!((found - hz).abs() < 1e-9, "{why}: {found}");
        }
    }
}
