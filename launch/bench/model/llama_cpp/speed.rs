//! `llama-bench`: how it is asked, and what its JSON means.
//!
//! Flash attention changes its speed both ways, depending on instruction set and depth. So both settings run in every round, and for each
//! figure the one with the better median counts.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::super::series::{Round, Series};

/// Endings of keys without and with flash attention.
const ATTENTION: [&str; 2] = ["@fa0", "@fa1"];

/// One measurement of `llama-bench -o json`; it has many more fields.
#[derive(Deserialize)]
struct Test {
    n_prompt: u64,
    n_gen: u64,
    n_depth: u64,
    flash_attn: Flag,
    avg_ts: f64,
}

/// A number in some versions, a truth value in others.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Number(i64),
}

impl Flag {
    fn is_on(&self) -> bool {
        match self {
            Flag::Bool(is_on) => *is_on,
            Flag::Number(number) => *number > 0,
        }
    }
}

/// Figures of one output: `prefill_<tokens>` and `decode_<depth>`, each with its setting of flash attention.
///
/// # Errors
/// When it is not the JSON of `llama-bench`, or a speed is not a positive number.
pub(super) fn parse(output: &str) -> Result<Round> {
    let tests: Vec<Test> =
        serde_json::from_str(output).context("reading the JSON of llama-bench")?;
    let mut round = Round::new();
    for test in tests {
        let figure = match (test.n_prompt, test.n_gen) {
            (tokens, 0) if test.n_depth == 0 => format!("prefill_{tokens}"),
            (0, _) => format!("decode_{}", test.n_depth),
            _ => continue,
        };
        anyhow::ensure!(
            test.avg_ts.is_finite() && test.avg_ts > 0.0,
            "llama-bench: {figure}: expected tokens per second, found {}",
            test.avg_ts
        );
        let ending = ATTENTION[usize::from(test.flash_attn.is_on())];
        round.insert(format!("{figure}{ending}"), test.avg_ts);
    }
    Ok(round)
}

/// Replaces the two settings of each figure by the one with the better median.
pub(in super::super) fn keep_better(series: &mut Series) {
    let figures: Vec<String> = series
        .keys()
        .iter()
        .filter_map(|key| key.split_once('@').map(|(figure, _)| figure.to_owned()))
        .collect();
    for figure in figures {
        let best = ATTENTION
            .iter()
            .map(|ending| format!("{figure}{ending}"))
            .filter_map(|key| series.spread(&key).map(|spread| (spread.median, key)))
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        let Some((_, best)) = best else { continue };
        let values = series.take(&best);
        for ending in ATTENTION {
            series.take(&format!("{figure}{ending}"));
        }
        series.put(figure, values.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llama-bench printed, shortened to a few of its fields.
    const OUTPUT: &str = r#"[
      {"build_commit": "x", "n_threads": 2, "flash_attn": 0, "n_prompt": 128, "n_gen": 0, "n_depth": 0, "avg_ts": 702.42, "samples_ts": [702.42]},
      {"flash_attn": 1, "n_prompt": 128, "n_gen": 0, "n_depth": 0, "avg_ts": 625.95},
      {"flash_attn": true, "n_prompt": 0, "n_gen": 64, "n_depth": 512, "avg_ts": 114.97},
      {"flash_attn": false, "n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 99.5},
      {"flash_attn": 0, "n_prompt": 512, "n_gen": 128, "n_depth": 0, "avg_ts": 1.0}
    ]"#;

    #[test]
    fn measurements_have_the_keys_of_ours() {
        let round = parse(OUTPUT).unwrap();
        let expected = Round::from([
            ("prefill_128@fa0".to_owned(), 702.42),
            ("prefill_128@fa1".to_owned(), 625.95),
            ("decode_512@fa1".to_owned(), 114.97),
            ("decode_0@fa0".to_owned(), 99.5),
        ]);
        assert_eq!(round, expected, "a mixed test is none of ours");
    }

    #[test]
    fn the_better_setting_over_all_rounds_counts() {
        let mut series = Series::default();
        series.put("decode_0@fa0".into(), vec![100.0, 101.0, 300.0]);
        series.put("decode_0@fa1".into(), vec![110.0, 111.0, 1.0]);
        series.put("prefill_128@fa0".into(), vec![5.0]);
        series.put("kl".into(), vec![0.1]);
        keep_better(&mut series);
        assert_eq!(series.keys(), ["prefill_128", "decode_0", "kl"]);
        assert_eq!(series.spread("decode_0").unwrap().median, 110.0);
    }

    #[test]
    fn other_outputs_are_refused() {
        for (output, expected) in [
            ("", "reading the JSON"),
            ("error: unknown argument", "reading the JSON"),
            (r#"[{"n_prompt": 1}]"#, "reading the JSON"),
            (
                r#"[{"flash_attn": 0, "n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 0.0}]"#,
                "decode_0: expected tokens per second, found 0",
            ),
        ] {
            let error = format!("{:#}", parse(output).unwrap_err());
            assert!(error.contains(expected), "{output}: {error}");
        }
    }
}
