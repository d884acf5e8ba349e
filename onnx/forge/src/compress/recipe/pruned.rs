//! What a recipe can take away, and by which score it is chosen.
//!
//! ```text
//!   neurons      magnitude · activation · wanda · surgeon      matrices get smaller: faster and smaller
//!   heads        activation · surgeon                          the same; query-heads leave keys and values as they are
//!   layers       influence · divergence                        the same
//!   mask         magnitude · wanda · 2:4                       weights become 0: no faster, and smaller only in a zip
//! ```
//!
//! A mask is the last change of weights: a fit, a training or a quantizer with feedback behind it would put other numbers where its zeros
//! are.

use serde::{Deserialize, Serialize};

use super::{Bits, CompressStep, Method, word, wrong};
use crate::compress::prune::{
    self, Amount, HeadScore, HeadUnit, LayerScore, NeuronScore, Pattern, PruneOptions, Refit,
    Spread,
};
use crate::error::ForgeError;

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneStep {
    /// Which parts, and how many.
    pub what: Pruned,
    /// Whether what is left is fitted to what the whole did, by least squares; never behind a mask.
    pub refit: bool,
    /// How parts are chosen; the best way there is for them if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
}

/// Parts of a model that can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pruned {
    /// A fraction of the neurons of the feed-forward networks, 0 < f < 1.
    Neurons(f64),
    /// Groups of heads of each layer: key and value head with its query heads.
    Heads(usize),
    /// Query heads of each group; keys and values stay.
    QueryHeads(usize),
    /// Whole layers.
    Layers(usize),
    /// Single weights, which become 0.
    Mask(Pattern),
}

/// What says which parts go: those with the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// Size of the weights. Reads no text.
    Magnitude,
    /// Size of what a part adds.
    Activation,
    /// Activation times the sum of the absolute weights.
    Wanda,
    /// What is lost after all others have made good what they can.
    Surgeon,
    /// How much a layer turns the hidden states.
    Influence,
    /// How much predictions change without a layer.
    Divergence,
}

impl Pruned {
    /// The word it has in recipes.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Pruned::Neurons(_) => "neurons",
            Pruned::Heads(_) => "heads",
            Pruned::QueryHeads(_) => "query-heads",
            Pruned::Layers(_) => "layers",
            Pruned::Mask(_) => "mask",
        }
    }

    /// Scores it can be chosen by, the best first.
    fn scores(&self) -> &'static [Score] {
        use Score::{Activation, Divergence, Influence, Magnitude, Surgeon, Wanda};
        match self {
            Pruned::Neurons(_) => &[Surgeon, Activation, Wanda, Magnitude],
            Pruned::Heads(_) | Pruned::QueryHeads(_) => &[Surgeon, Activation],
            Pruned::Layers(_) => &[Divergence, Influence],
            Pruned::Mask(_) => &[],
        }
    }
}

impl PruneStep {
    /// By the best score, and fitted where that can be.
    #[must_use]
    pub fn new(what: Pruned) -> PruneStep {
        PruneStep {
            what,
            refit: !matches!(what, Pruned::Mask(_)),
            score: None,
        }
    }

    /// Whether weights become 0 and matrices stay as large as they are.
    #[must_use]
    pub fn is_mask(&self) -> bool {
        matches!(self.what, Pruned::Mask(_))
    }

    /// Whether it reads calibration text.
    #[must_use]
    pub fn reads_calibration(&self) -> bool {
        let is_by_size = match self.what {
            Pruned::Neurons(_) => self.score == Some(Score::Magnitude),
            Pruned::Mask(pattern) => matches!(pattern, Pattern::Magnitude(_)),
            Pruned::Heads(_) | Pruned::QueryHeads(_) | Pruned::Layers(_) => false,
        };
        self.refit || !is_by_size
    }

    /// Refuses what an encoder is not offered.
    pub(super) fn check_for_encoder(&self) -> Result<(), ForgeError> {
        let (expected, found) = match (self.what, self.score) {
            (Pruned::Layers(_), None) => return Ok(()),
            (Pruned::Layers(_), Some(_)) => (
                "no score for an encoder: what stays is spread evenly",
                "a score",
            ),
            (_, _) => ("layers of an encoder", "other parts"),
        };
        Err(wrong("prune", expected.into(), found.into()))
    }

    pub(super) fn check(&self) -> Result<(), ForgeError> {
        let is_part = |part: f64| part > 0.0 && part < 1.0;
        let (field, is_good, expected, found) = match self.what {
            Pruned::Neurons(part) => ("prune.neurons", is_part(part), PART, percent(part)),
            Pruned::Heads(count) => ("prune.heads", count > 0, COUNT, count.to_string()),
            Pruned::QueryHeads(count) => ("prune.query-heads", count > 0, COUNT, count.to_string()),
            Pruned::Layers(count) => ("prune.layers", count > 0, COUNT, count.to_string()),
            Pruned::Mask(Pattern::Magnitude(part) | Pattern::Wanda(part)) => {
                ("prune.mask", is_part(part), PART, percent(part))
            }
            Pruned::Mask(Pattern::TwoOfFour) => ("prune.mask", true, PART, String::new()),
        };
        if !is_good {
            return Err(wrong(field, expected.into(), found));
        }
        if self.is_mask() && self.refit {
            return Err(wrong(
                "prune.refit",
                "false for a mask: a fit would put other numbers in the place of its zeros".into(),
                "true".into(),
            ));
        }
        let scores = self.what.scores();
        match self.score {
            Some(score) if !scores.contains(&score) => {
                let words: Vec<String> = scores.iter().map(word).collect();
                let expected = match words.as_slice() {
                    [] => "none for a mask: its kind says by what it is chosen".into(),
                    words => format!("{} for {}", words.join(", "), self.what.word()),
                };
                Err(wrong("prune.score", expected, word(score)))
            }
            _ => Ok(()),
        }
    }

    /// What the step does. Scores that do not fit are refused by the recipe before.
    pub(in crate::compress) fn options(&self) -> PruneOptions {
        let heads = |unit, count| prune::Pruned::Heads {
            unit,
            count,
            score: match self.score {
                Some(Score::Activation) => HeadScore::Activation,
                _ => HeadScore::Surgeon,
            },
        };
        let what = match self.what {
            Pruned::Neurons(part) => prune::Pruned::Neurons {
                amount: Amount::Fraction(part),
                score: match self.score {
                    Some(Score::Magnitude) => NeuronScore::Magnitude,
                    Some(Score::Activation) => NeuronScore::Activation,
                    Some(Score::Wanda) => NeuronScore::Wanda,
                    _ => NeuronScore::Surgeon,
                },
                // Weights alone can be compared without any text, and only within a layer.
                spread: match (self.score, self.refit) {
                    (Some(Score::Magnitude), false) => Spread::Uniform,
                    _ => Spread::Global,
                },
            },
            Pruned::Heads(count) => heads(HeadUnit::Group, count),
            Pruned::QueryHeads(count) => heads(HeadUnit::Query, count),
            Pruned::Layers(count) => prune::Pruned::Layers {
                count,
                score: match self.score {
                    Some(Score::Influence) => LayerScore::Influence,
                    _ => LayerScore::Divergence,
                },
            },
            Pruned::Mask(pattern) => prune::Pruned::Weights { pattern },
        };
        PruneOptions {
            what,
            refit: self.refit.then(Refit::default),
        }
    }
}

const PART: &str = "more than 0 % and less than 100 %";
const COUNT: &str = "at least 1";

fn percent(part: f64) -> String {
    format!("{} %", part * 100.0)
}

/// Refuses what would fill the zeros of a mask again.
pub(super) fn check_behind_masks(steps: &[CompressStep]) -> Result<(), ForgeError> {
    let is_mask = |step: &CompressStep| matches!(step, CompressStep::Prune(step) if step.is_mask());
    let Some(first) = steps.iter().position(is_mask) else {
        return Ok(());
    };
    for step in &steps[first + 1..] {
        match step {
            step if is_mask(step) => {}
            CompressStep::Quantize(step) => {
                if matches!(step.method, Method::Gptq | Method::Best) {
                    return Err(wrong(
                        "quantize.method",
                        "rtn, importance or awq behind a mask: feedback would fill its zeros"
                            .into(),
                        word(step.method),
                    ));
                }
                if step.weights == Bits::Int4Minima {
                    return Err(wrong(
                        "quantize.weights",
                        "int4, int8 or floats behind a mask: with minima there is no code for 0"
                            .into(),
                        word(step.weights),
                    ));
                }
            }
            other => {
                return Err(wrong(
                    "steps",
                    "nothing but quantize behind a mask: its zeros would be filled again".into(),
                    format!("mask, {}", other.word()),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(json: &str) -> PruneStep {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn scores_belong_to_parts() {
        let cases = [
            (r#"{"what":{"neurons":0.25},"refit":true}"#, None),
            (
                r#"{"what":{"neurons":0.25},"refit":true,"score":"magnitude"}"#,
                None,
            ),
            (
                r#"{"what":{"heads":1},"refit":true,"score":"activation"}"#,
                None,
            ),
            (
                r#"{"what":{"query-heads":1},"refit":false,"score":"surgeon"}"#,
                None,
            ),
            (
                r#"{"what":{"layers":3},"refit":true,"score":"influence"}"#,
                None,
            ),
            (r#"{"what":{"mask":{"wanda":0.5}},"refit":false}"#, None),
            (r#"{"what":{"mask":"two-of-four"},"refit":false}"#, None),
            (
                r#"{"what":{"layers":3},"refit":true,"score":"wanda"}"#,
                Some("prune.score is wanda, expected divergence, influence for layers"),
            ),
            (
                r#"{"what":{"mask":{"wanda":0.5}},"refit":false,"score":"wanda"}"#,
                Some("expected none for a mask"),
            ),
            (
                r#"{"what":{"mask":{"magnitude":1.0}},"refit":false}"#,
                Some("prune.mask is 100 %"),
            ),
            (
                r#"{"what":{"mask":"two-of-four"},"refit":true}"#,
                Some("prune.refit is true, expected false for a mask"),
            ),
            (
                r#"{"what":{"query-heads":0},"refit":true}"#,
                Some("prune.query-heads is 0"),
            ),
        ];
        for (json, expected) in cases {
            match (step(json).check(), expected) {
                (Ok(()), None) => {
                    let again = serde_json::to_string(&step(json)).unwrap();
                    assert_eq!(again, json, "reports are read again");
                }
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{json}: {error}");
                }
                (found, _) => panic!("{json}: {found:?}"),
            }
        }
    }

    #[test]
    fn the_options_are_those_of_the_words() {
        let of = |json: &str| step(json).options();
        assert_eq!(
            of(r#"{"what":{"neurons":0.5},"refit":false,"score":"wanda"}"#).what,
            prune::Pruned::Neurons {
                amount: Amount::Fraction(0.5),
                score: NeuronScore::Wanda,
                spread: Spread::Global
            }
        );
        assert_eq!(
            of(r#"{"what":{"neurons":0.5},"refit":false,"score":"magnitude"}"#).what,
            prune::Pruned::Neurons {
                amount: Amount::Fraction(0.5),
                score: NeuronScore::Magnitude,
                spread: Spread::Uniform
            },
            "no text is read"
        );
        let plain = [
            (
                r#"{"what":{"neurons":0.5},"refit":true}"#,
                prune::Pruned::neurons(0.5),
            ),
            (
                r#"{"what":{"heads":2},"refit":true}"#,
                prune::Pruned::groups(2),
            ),
            (
                r#"{"what":{"layers":2},"refit":true}"#,
                prune::Pruned::layers(2),
            ),
        ];
        for (json, expected) in plain {
            assert_eq!(of(json).what, expected, "{json}");
            assert_eq!(of(json).refit, Some(Refit::default()));
        }
        let mask = PruneStep::new(Pruned::Mask(Pattern::Wanda(0.5)));
        assert_eq!(mask.options().refit, None);
        assert!(mask.reads_calibration());
        assert!(!PruneStep::new(Pruned::Mask(Pattern::Magnitude(0.5))).reads_calibration());
    }

    #[test]
    fn zeros_stay_zeros() {
        const MASK: &str = r#"{"step":"prune","what":{"mask":{"magnitude":0.5}},"refit":false}"#;
        let behind = [
            (MASK, None),
            (
                r#"{"step":"quantize","weights":"int4","method":"awq"}"#,
                None,
            ),
            (
                r#"{"step":"quantize","weights":"int4","method":"best"}"#,
                Some("feedback would fill its zeros"),
            ),
            (
                r#"{"step":"quantize","weights":"int4-minima","method":"rtn"}"#,
                Some("no code for 0"),
            ),
            (
                r#"{"step":"distil","tokens":100000,"alpha":0.1,"temperature":1}"#,
                Some("steps is mask, distil"),
            ),
            (
                r#"{"step":"prune","what":{"layers":3},"refit":true}"#,
                Some("steps is mask, prune"),
            ),
        ];
        for (next, expected) in behind {
            let steps: Vec<CompressStep> =
                serde_json::from_str(&format!("[{MASK},{next}]")).unwrap();
            match (check_behind_masks(&steps), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{next}: {found:?}"),
            }
        }
    }
}
