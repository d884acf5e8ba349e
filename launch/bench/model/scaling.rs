//! Several threads beside one, phase by phase: what `--against one-thread` is for.
//!
//! Both are ours and run by turns, so a ratio says what the other threads bring. Below one they cost more than they do: sharing is
//! then the wrong choice for that phase, and the table says so.

use super::{
    ratio::Pair,
    series::{round, words},
};

/// Name of the one thread in results.
pub(super) const NAME: &str = "one thread";

/// Beginnings of the figures that are phases, and whether more is better.
const PHASES: [(&str, bool); 5] = [
    ("first_token_cold", false),
    ("first_token_cached", false),
    ("prefill_", true),
    ("decode_", true),
    ("throughput_", true),
];

/// How many times as fast each phase is with all threads, in the order of the table.
pub(super) fn ratios(pair: &Pair) -> Vec<(String, f64)> {
    let ratio = |key: &str| {
        let (_, more) = PHASES.iter().find(|(begin, _)| key.starts_with(begin))?;
        let (ours, theirs) = (
            pair.ours.spread(key)?.median,
            pair.theirs.spread(key)?.median,
        );
        let ratio = if *more { ours / theirs } else { theirs / ours };
        ratio.is_finite().then(|| (key.to_owned(), ratio))
    };
    pair.ours.keys().into_iter().filter_map(ratio).collect()
}

/// What the ratios say.
pub(super) fn lines(pair: &Pair, threads: usize) -> Vec<String> {
    let ratios = ratios(pair);
    let mut lines = vec![format!("{threads} threads beside one, times as fast:")];
    lines.extend(ratios.iter().map(|(key, ratio)| {
        let note = if *ratio < 1.0 {
            "  slower than one"
        } else {
            ""
        };
        format!("  {:<38}{:<9}{ratio:>9.2}{note}", words(key), "")
    }));
    lines
}

/// The same for `--json`: `{"threads": N, "times": {figure: ratio}}`.
pub(super) fn json(pair: &Pair, isa: &str, threads: usize) -> serde_json::Value {
    let times: serde_json::Map<String, serde_json::Value> = ratios(pair)
        .into_iter()
        .map(|(key, ratio)| (key, round(ratio).into()))
        .collect();
    serde_json::json!({ "isa": isa, "threads": threads, "times": times })
}

#[cfg(test)]
mod tests {
    use super::super::series::Round;
    use super::*;

    fn pair(figures: &[(&str, f64, f64)]) -> Pair {
        let mut pair = Pair::default();
        for (key, ours, theirs) in figures {
            pair.ours.add(&Round::from([((*key).to_owned(), *ours)]));
            pair.theirs
                .add(&Round::from([((*key).to_owned(), *theirs)]));
        }
        pair
    }

    #[test]
    fn times_and_speeds_count_in_their_own_direction() {
        let pair = pair(&[
            ("decode_0", 90.0, 100.0),
            ("first_token_cold", 20.0, 30.0),
            ("memory_unique", 50.0, 40.0),
            ("prefill_128", 380.0, 200.0),
        ]);
        let found = ratios(&pair);
        let expected = [
            ("first_token_cold".to_owned(), 1.5),
            ("prefill_128".to_owned(), 1.9),
            ("decode_0".to_owned(), 0.9),
        ];
        assert_eq!(found, expected);
        let text = lines(&pair, 2).join("\n");
        assert_eq!(text.matches("slower than one").count(), 1, "{text}");
        assert_eq!(json(&pair, "avx2", 2)["times"]["prefill_128"], 1.9);
    }
}
