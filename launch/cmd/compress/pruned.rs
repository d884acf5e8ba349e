//! What is taken away, as people write it: `neurons=25%`, `neurons:activation=25%`, `layers=3`, `mask:wanda=50%`, `mask:2:4`.

use llmasos_forge::compress::{
    prune::Pattern,
    recipe::{PruneStep, Pruned, Score},
};

use super::quantity;

/// Scores by their words.
pub(super) const SCORES: &[(&str, Score)] = &[
    ("magnitude", Score::Magnitude),
    ("activation", Score::Activation),
    ("wanda", Score::Wanda),
    ("surgeon", Score::Surgeon),
    ("influence", Score::Influence),
    ("divergence", Score::Divergence),
];

/// A part, by which score, and how many; `:` and `=` mean the same. What is left is fitted where that can be.
///
/// # Errors
/// A sentence with what is expected and what was found.
pub(super) fn pruned(text: &str) -> Result<PruneStep, String> {
    let expected = || {
        format!(
            "expected neurons=25%, heads=1, query-heads=1, layers=3, a score in between as in neurons:activation=25%, or mask:wanda=50%, \
             found '{text}'"
        )
    };
    let (what, rest) = text.split_once([':', '=']).ok_or_else(expected)?;
    if what == "mask" {
        return Ok(PruneStep::new(Pruned::Mask(mask(rest)?)));
    }
    let (score, number) = match rest.split_once([':', '=']) {
        None => (None, rest),
        Some((word, number)) => {
            let found = SCORES.iter().find(|(name, _)| *name == word);
            let (_, score) = found.ok_or_else(|| {
                let words: Vec<&str> = SCORES.iter().map(|(name, _)| *name).collect();
                format!("expected a score ({}), found '{word}'", words.join(", "))
            })?;
            (Some(*score), number)
        }
    };
    let count = || {
        let count = quantity::count(number)?;
        usize::try_from(count).map_err(|_| expected())
    };
    let what = match what {
        "neurons" => Pruned::Neurons(quantity::fraction(number)?),
        "heads" => Pruned::Heads(count()?),
        "query-heads" => Pruned::QueryHeads(count()?),
        "layers" => Pruned::Layers(count()?),
        _ => return Err(expected()),
    };
    Ok(PruneStep {
        score,
        ..PruneStep::new(what)
    })
}

/// `magnitude=50%`, `wanda=50%` or `2:4`.
///
/// # Errors
/// As [`pruned`].
pub(super) fn mask(text: &str) -> Result<Pattern, String> {
    let expected = || format!("expected magnitude=50%, wanda=50% or 2:4, found '{text}'");
    if text == "2:4" {
        return Ok(Pattern::TwoOfFour);
    }
    let (word, part) = text.split_once([':', '=']).ok_or_else(expected)?;
    match word {
        "magnitude" => Ok(Pattern::Magnitude(quantity::fraction(part)?)),
        "wanda" => Ok(Pattern::Wanda(quantity::fraction(part)?)),
        _ => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms() {
        let cases: [(&str, Pruned, Option<Score>); 8] = [
            ("neurons=25%", Pruned::Neurons(0.25), None),
            (
                "neurons:magnitude:0.25",
                Pruned::Neurons(0.25),
                Some(Score::Magnitude),
            ),
            (
                "heads:activation=1",
                Pruned::Heads(1),
                Some(Score::Activation),
            ),
            ("query-heads=2", Pruned::QueryHeads(2), None),
            (
                "layers:influence=3",
                Pruned::Layers(3),
                Some(Score::Influence),
            ),
            (
                "mask:magnitude:0.5",
                Pruned::Mask(Pattern::Magnitude(0.5)),
                None,
            ),
            ("mask:wanda=50%", Pruned::Mask(Pattern::Wanda(0.5)), None),
            ("mask:2:4", Pruned::Mask(Pattern::TwoOfFour), None),
        ];
        for (text, what, score) in cases {
            let refit = !matches!(what, Pruned::Mask(_));
            assert_eq!(pruned(text), Ok(PruneStep { what, refit, score }), "{text}");
        }
        for (text, expected) in [
            ("neurons", "expected neurons=25%"),
            (
                "neurons:size=25%",
                "expected a score (magnitude, activation",
            ),
            ("layers=many", "expected a number"),
            ("tails=1", "found 'tails=1'"),
            (
                "mask=50%",
                "expected magnitude=50%, wanda=50% or 2:4, found '50%'",
            ),
            ("mask:size=50%", "found 'size=50%'"),
        ] {
            let error = pruned(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
