//! Figures over rounds: the median, and how far the rounds were apart.
//!
//! A figure has one key, such as `decode_512`, that names it in JSON, in a round's report and in the table. A round gives one number for
//! each; what is printed is the median with the smallest and the largest.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::observe::report::percentile;

/// Numbers of one round by key.
pub(crate) type Round = BTreeMap<String, f64>;

/// Rounds of one engine with one instruction set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series(BTreeMap<String, Vec<f64>>);

/// A figure of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// How many.
    pub(crate) rounds: usize,
}

impl Series {
    /// Adds a round.
    pub(crate) fn add(&mut self, round: &Round) {
        for (key, value) in round {
            self.0.entry(key.clone()).or_default().push(*value);
        }
    }

    /// Takes out a figure.
    pub(crate) fn take(&mut self, key: &str) -> Option<Vec<f64>> {
        self.0.remove(key)
    }

    /// Puts in a figure.
    pub(crate) fn put(&mut self, key: String, values: Vec<f64>) {
        self.0.insert(key, values);
    }

    /// Keys, in the order of the table.
    pub(crate) fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.0.keys().map(String::as_str).collect();
        keys.sort_by_key(|key| order(key));
        keys
    }

    /// A figure.
    pub(crate) fn spread(&self, key: &str) -> Option<Spread> {
        let values = self.0.get(key)?;
        Some(Spread {
            median: percentile(values, 0.5)?,
            min: percentile(values, 0.0)?,
            max: percentile(values, 1.0)?,
            rounds: values.len(),
        })
    }
}

/// Beginnings of keys with unit and meaning, in the order of the table; `#` stands for the number after the beginning.
const KINDS: &[(&str, &str, &str)] = &[
    ("load_cold", "ms", "load, files not in the page cache"),
    ("load_warm", "ms", "load, files in the page cache"),
    ("first_token_cold", "ms", "first token, nothing cached"),
    (
        "first_token_cached",
        "ms",
        "first token, 300 of the tokens cached",
    ),
    ("prefill_", "tokens/s", "prefill of # tokens"),
    ("decode_", "tokens/s", "decode after # tokens"),
    ("between_p50", "ms", "between two tokens, p50"),
    ("between_p99", "ms", "between two tokens, p99"),
    ("cpu_token", "ms", "processor time of a token"),
    ("grammar_schema", "%", "JSON schema, part of a decode step"),
    ("grammar_choice", "%", "choice, part of a decode step"),
    ("grammar_regex", "%", "regex, part of a decode step"),
    ("new_schema", "%", "JSON schema, its first answer"),
    ("new_choice", "%", "choice, its first answer"),
    ("new_regex", "%", "regex, its first answer"),
    (
        "throughput_",
        "tokens/s",
        "all tokens while # requests decode",
    ),
    ("memory_unique", "MiB", "memory of its own"),
    ("memory_runtime", "MiB", "of it, before the model is loaded"),
    ("memory_loaded", "MiB", "of it, after it was loaded"),
    ("memory_warm", "MiB", "of it, after the warm-up"),
    ("memory_cache", "MiB", "of it, keys and values at most"),
    ("memory_file", "MiB", "memory shared with files"),
    ("kl", "nats", "KL divergence from float32"),
];

fn kind(key: &str) -> Option<(usize, &'static str, &'static str)> {
    let at = KINDS
        .iter()
        .position(|(begin, ..)| key.starts_with(begin))?;
    Some((at, KINDS[at].1, KINDS[at].2))
}

/// Kind first, then the number in the key.
fn order(key: &str) -> (usize, u64) {
    let number = key.rsplit('_').next().and_then(|text| text.parse().ok());
    (
        kind(key).map_or(KINDS.len(), |(at, ..)| at),
        number.unwrap_or(0),
    )
}

/// The unit of a figure.
pub(crate) fn unit(key: &str) -> &'static str {
    kind(key).map_or("", |(_, unit, _)| unit)
}

/// What a figure is, in words.
pub(crate) fn words(key: &str) -> String {
    let number = key.rsplit('_').next().unwrap_or_default();
    kind(key).map_or_else(|| key.to_owned(), |(.., words)| words.replace('#', number))
}

/// One object of `--json`.
pub(crate) fn json(engine: &str, isa: &str, key: &str, spread: &Spread) -> Value {
    json!({
        "engine": engine, "isa": isa, "name": key, "unit": unit(key), "median": round(spread.median), "min": round(spread.min),
        "max": round(spread.max), "rounds": spread.rounds,
    })
}

/// One line of the table: ours, and theirs beside it where they have the figure.
pub(crate) fn line(key: &str, ours: Option<&Spread>, theirs: Option<&Spread>) -> String {
    let cell = |spread: Option<&Spread>| {
        spread.map_or_else(String::new, |spread| {
            format!(
                "{:>9} [{}, {}]",
                short(spread.median),
                short(spread.min),
                short(spread.max)
            )
        })
    };
    let ratio = match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs.median > 0.0 => {
            format!("{:>6.2}", ours.median / theirs.median)
        }
        _ => String::new(),
    };
    let line = format!(
        "  {:<38}{:<9}{:<29}{:<29}{ratio}",
        words(key),
        unit(key),
        cell(ours),
        cell(theirs)
    );
    line.trim_end().to_owned()
}

/// Three or four digits, whatever the size.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Six digits after the point: a divergence is small.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(key: &str, values: &[f64]) -> Series {
        let mut series = Series::default();
        for value in values {
            series.add(&Round::from([(key.to_owned(), *value)]));
        }
        series
    }

    #[test]
    fn a_figure_is_the_median_between_the_extremes() {
        let series = rounds("decode_0", &[9.0, 1.0, 5.0]);
        let expected = Spread {
            median: 5.0,
            min: 1.0,
            max: 9.0,
            rounds: 3,
        };
        assert_eq!(series.spread("decode_0"), Some(expected));
        assert_eq!(series.spread("decode_512"), None);
        let object = json("llmasos", "amx", "decode_0", &expected);
        assert_eq!(object["unit"], "tokens/s");
        assert_eq!(object["median"], 5.0);
    }

    #[test]
    fn keys_come_in_the_order_of_the_table_and_by_number() {
        let mut series = Series::default();
        for key in [
            "memory_unique",
            "prefill_512",
            "decode_0",
            "prefill_128",
            "load_cold",
            "odd",
        ] {
            series.put(key.to_owned(), vec![1.0]);
        }
        let expected = [
            "load_cold",
            "prefill_128",
            "prefill_512",
            "decode_0",
            "memory_unique",
            "odd",
        ];
        assert_eq!(series.keys(), expected);
        assert_eq!(words("prefill_512"), "prefill of 512 tokens");
        assert_eq!(words("odd"), "odd");
    }

    #[test]
    fn a_line_has_a_ratio_only_when_both_measured() {
        let [ours, theirs] =
            [200.0, 100.0].map(|value| rounds("decode_0", &[value]).spread("decode_0"));
        assert!(line("decode_0", ours.as_ref(), theirs.as_ref()).ends_with("2.00"));
        assert!(line("decode_0", ours.as_ref(), None).ends_with("200 [200, 200]"));
    }
}
