//! How a recipe teaches the smaller model, and what training makes of it.
//!
//! ```text
//!   tokens ─────────────── steps of batch · accumulate sequences of length tokens, the rate rising and falling to nothing
//!   alpha, temperature ─── α·CE(text) + (1 − α)·KL(original ‖ student)
//!   hidden_states ──────── + weight · Σ (1 − cosine) of the states behind each layer and behind its counterpart
//!   patience ───────────── ends early, and keeps the best student
//! ```

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{TOKENS, wrong};
use crate::distil::{Distance, DistilOptions, Generate, MAX_GENERATED, Matching};
use crate::error::ForgeError;

/// Tokens that the original writes unless somebody says otherwise: some dozens of texts, read many times.
pub const GENERATED_TOKENS: u64 = 8_192;
/// Sequences of a batch, and batches of a step.
const BATCH: RangeInclusive<usize> = 1..=64;
/// Tokens of a sequence.
const LENGTH: RangeInclusive<usize> = 16..=4096;
/// Largest weight of the comparison of states.
const MAX_WEIGHT: f64 = 1000.0;
/// Steps between two states that a stopped run goes on from.
const SAVE_EVERY: u32 = 50;
/// Looks at the held-out sequences during a training.
const LOOKS: u32 = 8;

/// How the smaller model is taught.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilStep {
    /// Tokens seen.
    pub tokens: u64,
    /// Share of the loss that is the text itself; the rest is the original's predictions.
    pub alpha: f64,
    /// Temperature of both distributions.
    pub temperature: f64,
    /// Largest learning rate of AdamW; the step's own choice if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Sequences of a batch; the step's own choice if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Batches whose gradients are added up before the student moves: as a larger batch, in the memory of a small one. 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<usize>,
    /// Tokens of a sequence; the step's own choice if there is none. What is judged on long texts has to learn from long ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// Weight of the comparison of hidden states, by cosine, behind every layer; none are compared if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_states: Option<f64>,
    /// Looks at held-out text, 8 in a run, without a lower loss after which training ends; then, and at the end, the best student is
    /// taken. If not said, all tokens are seen and the last student is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    /// Text that the original writes itself, instead of text that is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<Generate>,
}

impl Default for DistilStep {
    fn default() -> DistilStep {
        DistilStep {
            tokens: 100_000,
            alpha: 0.1,
            temperature: 1.0,
            learning_rate: None,
            batch: None,
            accumulate: None,
            length: None,
            hidden_states: None,
            patience: None,
            generated: None,
        }
    }
}

impl DistilStep {
    pub(super) fn check(&self) -> Result<(), ForgeError> {
        let within = |range: RangeInclusive<usize>, value: Option<usize>| {
            let shown = format!("{}..={}", range.start(), range.end());
            let is_good = value.is_none_or(|value| range.contains(&value));
            (is_good, shown, value.unwrap_or_default().to_string())
        };
        let (rate, weight) = (self.learning_rate, self.hidden_states);
        let (tokens, heat) = self
            .generated
            .map_or((GENERATED_TOKENS, 1.0), |g| (g.tokens, g.temperature));
        let said = |is_good: bool, expected: &str, found: String| (is_good, expected.into(), found);
        let cases = [
            (
                "distil.tokens",
                said(
                    TOKENS.contains(&self.tokens),
                    "1000..=1000000000",
                    self.tokens.to_string(),
                ),
            ),
            (
                "distil.alpha",
                said(
                    (0.0..=1.0).contains(&self.alpha),
                    "0..=1",
                    self.alpha.to_string(),
                ),
            ),
            (
                "distil.temperature",
                said(
                    (0.1..=20.0).contains(&self.temperature),
                    "0.1..=20",
                    self.temperature.to_string(),
                ),
            ),
            (
                "distil.learning_rate",
                said(
                    rate.is_none_or(|rate| rate > 0.0 && rate <= 1.0),
                    "more than 0, at most 1",
                    rate.unwrap_or_default().to_string(),
                ),
            ),
            ("distil.batch", within(BATCH, self.batch)),
            ("distil.accumulate", within(BATCH, self.accumulate)),
            ("distil.length", within(LENGTH, self.length)),
            (
                "distil.hidden_states",
                said(
                    weight.is_none_or(|weight| weight > 0.0 && weight <= MAX_WEIGHT),
                    "more than 0, at most 1000",
                    weight.unwrap_or_default().to_string(),
                ),
            ),
            (
                "distil.patience",
                within(
                    1..=LOOKS as usize,
                    self.patience.map(|looks| looks as usize),
                ),
            ),
            (
                "distil.generated.tokens",
                said(
                    (*TOKENS.start()..=MAX_GENERATED).contains(&tokens),
                    "1000..=1048576",
                    tokens.to_string(),
                ),
            ),
            (
                "distil.generated.temperature",
                said((0.1..=10.0).contains(&heat), "0.1..=10", heat.to_string()),
            ),
        ];
        match cases.into_iter().find(|(_, (is_good, _, _))| !is_good) {
            Some((field, (_, expected, found))) => Err(wrong(field, expected, found)),
            None => Ok(()),
        }
    }

    /// Refuses what only a model that writes text can be taught by.
    pub(super) fn check_for_encoder(&self) -> Result<(), ForgeError> {
        let default = DistilStep::default();
        let cases = [
            ("distil.alpha", self.alpha != default.alpha),
            (
                "distil.temperature",
                self.temperature != default.temperature,
            ),
            ("distil.hidden_states", self.hidden_states.is_some()),
            ("distil.patience", self.patience.is_some()),
            ("distil.generated", self.generated.is_some()),
        ];
        match cases.into_iter().find(|(_, is_given)| *is_given) {
            Some((field, _)) => {
                let expected = "nothing for an encoder: its vectors are compared with the original's, by cosine";
                Err(wrong(field, expected.into(), "given".into()))
            }
            None => Ok(()),
        }
    }

    /// What training is told; `layers` are those of the student and of its teacher.
    pub(in crate::compress) fn options(&self, layers: (usize, usize), seed: u64) -> DistilOptions {
        let default = DistilOptions::default();
        let length = self.length.unwrap_or(default.length);
        // As many tokens to a step, and to a look, whatever their length.
        let some = |default: usize| (default / length).max(1);
        let batch = self
            .batch
            .unwrap_or_else(|| some(default.batch * default.length));
        let accumulate = self.accumulate.unwrap_or(default.accumulate);
        let steps = self.tokens / (batch * accumulate * length) as u64;
        DistilOptions {
            tokens: self.tokens,
            hard: self.alpha as f32,
            temperature: self.temperature as f32,
            rate: self.learning_rate.map_or(default.rate, |rate| rate as f32),
            batch,
            accumulate,
            length,
            matching: self.hidden_states.map(|weight| Matching {
                layers: counterparts(layers),
                distance: Distance::Cosine,
                weight: weight as f32,
            }),
            patience: self.patience.unwrap_or(default.patience),
            held_out: some(default.held_out * default.length),
            evaluate_every: u32::try_from(steps / u64::from(LOOKS))
                .unwrap_or(u32::MAX)
                .max(1),
            seed,
            save_every: SAVE_EVERY,
            ..default
        }
    }
}

/// Each of the student's layers with one of the teacher's, spread evenly, last with last (Jiao et al. 2020, uniform).
pub(in crate::compress) fn counterparts((student, teacher): (usize, usize)) -> Vec<(usize, usize)> {
    let behind = |layer: usize| ((layer + 1) * teacher / student.max(1)).saturating_sub(1);
    (0..student).map(|layer| (layer, behind(layer))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_compared_with_those_at_the_same_depth() {
        assert_eq!(counterparts((3, 3)), [(0, 0), (1, 1), (2, 2)]);
        assert_eq!(counterparts((2, 6)), [(0, 2), (1, 5)]);
        assert_eq!(counterparts((3, 4)), [(0, 0), (1, 1), (2, 3)]);
    }

    #[test]
    fn what_is_said_reaches_training() {
        let plain = DistilStep::default().options((2, 4), 3);
        assert!(plain.matching.is_none());
        assert_eq!((plain.accumulate, plain.patience, plain.seed), (1, 0, 3));
        // A step has 1,024 tokens: eight looks in 97 steps.
        assert_eq!(
            (plain.batch * plain.length, plain.evaluate_every),
            (1_024, 12)
        );
        let step = DistilStep {
            length: Some(512),
            batch: Some(1),
            accumulate: Some(4),
            hidden_states: Some(0.5),
            patience: Some(2),
            ..DistilStep::default()
        };
        let options = step.options((2, 4), 3);
        options.check().unwrap();
        assert_eq!((options.accumulate, options.patience), (4, 2));
        assert_eq!(options.evaluate_every, 6);
        let matching = options.matching.unwrap();
        assert_eq!(matching.layers, [(0, 1), (1, 3)]);
        assert_eq!(
            (matching.weight, matching.distance),
            (0.5, Distance::Cosine)
        );
    }

    #[test]
    fn an_encoder_is_taught_by_vectors_alone() {
        let good = DistilStep {
            learning_rate: Some(1e-4),
            batch: Some(4),
            length: Some(64),
            ..DistilStep::default()
        };
        good.check_for_encoder().unwrap();
        for (field, step) in [
            ("distil.alpha", DistilStep { alpha: 0.5, ..good }),
            (
                "distil.temperature",
                DistilStep {
                    temperature: 2.0,
                    ..good
                },
            ),
            (
                "distil.patience",
                DistilStep {
                    patience: Some(2),
                    ..good
                },
            ),
        ] {
            let error = step.check_for_encoder().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let good = DistilStep::default();
        good.check().unwrap();
        let cases = [
            (
                "distil.accumulate is 0, expected 1..=64",
                DistilStep {
                    accumulate: Some(0),
                    ..good
                },
            ),
            (
                "distil.patience is 9, expected 1..=8",
                DistilStep {
                    patience: Some(9),
                    ..good
                },
            ),
            (
                "distil.hidden_states is NaN, expected more than 0",
                DistilStep {
                    hidden_states: Some(f64::NAN),
                    ..good
                },
            ),
        ];
        for (expected, step) in cases {
            let error = step.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
