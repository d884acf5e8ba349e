//! The last line of a comparison: how many times as fast, for each instruction set, and how far each is from float32.

use serde_json::{Map, Value, json};

use super::{
    isa::Isa,
    series::{Series, round},
};

/// Names of the ratios and the figures they are made of.
const RATIOS: [(&str, &str); 4] = [
    ("decode", "decode_0"),
    ("decode_512", "decode_512"),
    ("prefill_128", "prefill_128"),
    ("prefill_512", "prefill_512"),
];
/// The divergence's key.
const KL: &str = "kl";

/// Both engines with one instruction set.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    /// Ours.
    pub(crate) ours: Series,
    /// The other one.
    pub(crate) theirs: Series,
}

/// `{"ratio": {isa: {...}}, "kl": {"ours", "theirs"}}`: medians of ours divided by theirs. Of several instruction sets our largest
/// divergence stands against their smallest.
pub(crate) fn summary(pairs: &[(Isa, Pair)]) -> Value {
    let mut ratios = Map::new();
    let (mut ours, mut theirs): (Option<f64>, Option<f64>) = (None, None);
    for (isa, pair) in pairs {
        let ratio = RATIOS.iter().filter_map(|(name, key)| {
            let (ours, theirs) = (pair.ours.spread(key)?, pair.theirs.spread(key)?);
            let is_usable = ours.median > 0.0 && theirs.median > 0.0;
            is_usable.then(|| {
                (
                    (*name).to_owned(),
                    json!(round(ours.median / theirs.median)),
                )
            })
        });
        ratios.insert(isa.name().to_owned(), Value::Object(ratio.collect()));
        let kl = |series: &Series| series.spread(KL).map(|spread| spread.median);
        ours = kl(&pair.ours).into_iter().chain(ours).reduce(f64::max);
        theirs = kl(&pair.theirs).into_iter().chain(theirs).reduce(f64::min);
    }
    json!({ "ratio": ratios, "kl": { "ours": ours.map(round), "theirs": theirs.map(round) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[(&str, &[f64])]) -> Series {
        let mut series = Series::default();
        for (key, values) in values {
            series.put((*key).to_owned(), values.to_vec());
        }
        series
    }

    #[test]
    fn ratios_are_of_medians_and_only_of_what_both_measured() {
        let avx2 = Pair {
            ours: series(&[
                ("decode_0", &[1.0, 150.0, 151.0]),
                ("prefill_128", &[10.0]),
                ("kl", &[0.02]),
            ]),
            theirs: series(&[("decode_0", &[100.0, 100.0, 7.0]), ("kl", &[0.05])]),
        };
        let amx = Pair {
            ours: series(&[("prefill_512", &[30.0]), ("kl", &[0.03])]),
            theirs: series(&[("prefill_512", &[40.0]), ("kl", &[0.04])]),
        };
        let found = summary(&[(Isa::Avx2, avx2), (Isa::Amx, amx)]);
        let expected = json!({
            "ratio": { "avx2": { "decode": 1.5 }, "amx": { "prefill_512": 0.75 } },
            "kl": { "ours": 0.03, "theirs": 0.04 },
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_peer_that_measured_nothing_gives_no_ratio() {
        let found = summary(&[(
            Isa::Amx,
            Pair {
                ours: series(&[("decode_0", &[1.0])]),
                theirs: series(&[("decode_0", &[0.0])]),
            },
        )]);
        assert_eq!(
            found,
            json!({ "ratio": { "amx": {} }, "kl": { "ours": null, "theirs": null } })
        );
    }
}
