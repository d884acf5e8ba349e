//! What a distillation may be told, and the limits of each value.

use serde::{Deserialize, Serialize};

use super::DistilError;
use super::graph::{Distance, LossTerms};

/// Longest sequence: attention in training grows with its square.
pub const MAX_LENGTH: usize = 4096;
/// Most tokens of one batch: what layers keep for the way back grows with it.
pub const MAX_BATCH_TOKENS: usize = 1 << 16;

/// Most batches of a step.
const MAX_ACCUMULATE: usize = 4096;

/// Name of an option, whether it is in its range, the range, and the value.
type Check = (&'static str, bool, &'static str, String);

/// Parameters that are not trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frozen {
    /// The token embedding, and with it a head that shares its matrix.
    Embedding,
    /// A head of its own.
    Head,
    /// All norms.
    Norms,
    /// Query, key and value of all layers.
    Qkv,
    /// The output matrix of attention.
    Output,
    /// Gate, up and down of all layers.
    FeedForward,
}

/// A comparison of hidden states beside the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    /// Pairs of a student's and a teacher's layer whose outputs are compared, counted from 0.
    pub layers: Vec<(usize, usize)>,
    /// How.
    pub distance: Distance,
    /// Factor of the sum of their distances beside the loss of the logits; > 0.
    pub weight: f32,
}

/// How a student is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistilOptions {
    /// Training ends after about this many tokens, rounded up to whole steps; > 0.
    pub tokens: u64,
    /// α: weight of the cross entropy with the text; 1 − α is that of the divergence from the teacher. 0..=1.
    pub hard: f32,
    /// T; > 0, at most 100.
    pub temperature: f32,
    /// Whether the divergence is multiplied by T², which keeps the balance of both terms when T is changed.
    pub keeps_scale: bool,
    /// Tokens of a sequence.
    pub length: usize,
    /// Sequences of a batch.
    pub batch: usize,
    /// Batches whose gradients are added up before a step.
    pub accumulate: usize,
    /// Highest learning rate.
    pub rate: f32,
    /// Part of the steps in which the rate rises from 0; 0..1.
    pub warm_up: f32,
    /// What the rate falls to along a cosine, as a part of `rate`; 0..=1.
    pub final_rate: f32,
    /// Decay of the matrices, as a part per step of the rate; 0..=1.
    pub decay: f32,
    /// Longest gradient; a longer one is shortened to it. > 0.
    pub clip: f32,
    /// Parameters that stay as they are.
    pub frozen: Vec<Frozen>,
    /// Comparison of hidden states.
    pub matching: Option<Matching>,
    /// Keeps the teacher's best tokens of each position when texts repeat, so that it runs only once over each. Tokens beyond them
    /// share what probability is left. 0: the teacher runs every time.
    pub teacher_top: usize,
    /// Steps between two looks at the held-out texts.
    pub evaluate_every: u32,
    /// Looks without a better loss after which training ends; 0: never.
    pub patience: u32,
    /// Sequences of the held-out texts that are looked at.
    pub held_out: usize,
    /// Steps between two states that a stopped run can go on from; 0: none.
    pub save_every: u32,
    /// Seed of the order of the texts.
    pub seed: u64,
}

impl Default for DistilOptions {
    fn default() -> DistilOptions {
        DistilOptions {
            tokens: 100_000,
            hard: 0.0,
            temperature: 1.0,
            keeps_scale: true,
            length: 128,
            batch: 8,
            accumulate: 1,
            rate: 3e-4,
            warm_up: 0.1,
            final_rate: 0.0,
            decay: 0.01,
            clip: 1.0,
            frozen: vec![Frozen::Embedding, Frozen::Head],
            matching: None,
            teacher_top: 0,
            evaluate_every: 25,
            patience: 0,
            held_out: 16,
            save_every: 0,
            seed: 0,
        }
    }
}

impl DistilOptions {
    /// Checks all values.
    ///
    /// # Errors
    /// [`DistilError::Option`] names the first one out of its range.
    pub fn check(&self) -> Result<(), DistilError> {
        let counts = self.counts().into_iter();
        let numbers = self.numbers().into_iter();
        let mut wrong = counts.chain(numbers).filter(|(_, is_good, ..)| !is_good);
        match wrong.next() {
            None => Ok(()),
            Some((option, _, expected, found)) => Err(DistilError::Option {
                option,
                expected,
                found,
            }),
        }
    }

    fn counts(&self) -> [Check; 5] {
        let tokens = self.batch.saturating_mul(self.length);
        let (is_length, is_count) = (2..=MAX_LENGTH, 1..=MAX_ACCUMULATE);
        let batch = format!("{} of {} tokens", self.batch, self.length);
        let is_batch = self.batch > 0 && tokens <= MAX_BATCH_TOKENS;
        let every = self.evaluate_every;
        [
            (
                "tokens",
                self.tokens > 0,
                "at least 1",
                self.tokens.to_string(),
            ),
            (
                "length",
                is_length.contains(&self.length),
                "2..=4096",
                self.length.to_string(),
            ),
            (
                "batch",
                is_batch,
                "at least 1, and at most 65536 tokens a batch",
                batch,
            ),
            (
                "accumulate",
                is_count.contains(&self.accumulate),
                "1..=4096",
                self.accumulate.to_string(),
            ),
            ("evaluate_every", every > 0, "at least 1", every.to_string()),
        ]
    }

    fn numbers(&self) -> [Check; 8] {
        let part = |option, value: f32| {
            (
                option,
                (0.0..=1.0).contains(&value),
                "0..=1",
                value.to_string(),
            )
        };
        let positive = |option, value: f32, most: f32, expected| {
            (
                option,
                value > 0.0 && value <= most,
                expected,
                value.to_string(),
            )
        };
        let weight = self
            .matching
            .as_ref()
            .map_or(1.0, |matching| matching.weight);
        let warm_up = self.warm_up;
        [
            part("hard", self.hard),
            part("final_rate", self.final_rate),
            part("decay", self.decay),
            (
                "warm_up",
                (0.0..1.0).contains(&warm_up),
                "0..1",
                warm_up.to_string(),
            ),
            positive(
                "temperature",
                self.temperature,
                100.0,
                "above 0, at most 100",
            ),
            positive("rate", self.rate, 1.0, "above 0, at most 1"),
            positive("clip", self.clip, f32::MAX, "above 0"),
            positive("matching.weight", weight, f32::MAX, "above 0"),
        ]
    }

    /// Tokens of one step.
    pub(super) fn step_tokens(&self) -> u64 {
        (self.batch * self.length * self.accumulate) as u64
    }

    /// Steps of the whole run.
    pub(super) fn steps(&self) -> u32 {
        let steps = self.tokens.div_ceil(self.step_tokens());
        u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// The learning rate of a step, from 0: a straight rise, then half a cosine (Loshchilov and Hutter 2017).
    pub(super) fn rate_of(&self, step: u32) -> f32 {
        let (step, steps) = (f64::from(step), f64::from(self.steps()));
        let warm = (f64::from(self.warm_up) * steps).round();
        let part = if step < warm {
            (step + 1.0) / warm
        } else {
            let done = (step - warm) / (steps - warm).max(1.0);
            let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
            let floor = f64::from(self.final_rate);
            floor + (1.0 - floor) * cosine
        };
        (f64::from(self.rate) * part) as f32
    }

    pub(super) fn terms(&self) -> LossTerms {
        LossTerms {
            hard: self.hard,
            temperature: self.temperature,
            keeps_scale: self.keeps_scale,
        }
    }

    /// Whether a parameter is trained; `name` is that of the checkpoint.
    pub(super) fn trains(&self, name: &str) -> bool {
        let role = match name.strip_prefix("layers.") {
            Some(rest) => rest.split_once('.').map_or(rest, |(_, role)| role),
            None => name,
        };
        !self.frozen.iter().any(|frozen| match frozen {
            Frozen::Embedding => role.starts_with("embedding") || role.starts_with("positions"),
            Frozen::Head => role.starts_with("head"),
            Frozen::Norms => role.contains("norm"),
            Frozen::Qkv => role.starts_with("qkv"),
            Frozen::Output => role.starts_with("output"),
            Frozen::FeedForward => ["gate", "up", "down"]
                .iter()
                .any(|part| role.split('.').next() == Some(part)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let options = DistilOptions {
            tokens: 100 * 1024,
            rate: 1.0,
            warm_up: 0.1,
            final_rate: 0.2,
            ..DistilOptions::default()
        };
        assert_eq!(options.steps(), 100);
        let at = |step| options.rate_of(step);
        assert!((at(0) - 0.1).abs() < 1e-6 && (at(9) - 1.0).abs() < 1e-6);
        assert!((at(10) - 1.0).abs() < 1e-6, "the cosine begins at the top");
        assert!((at(55) - 0.6).abs() < 1e-6, "half-way down");
        assert!(at(99) < 0.202 && at(99) >= 0.2);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let good = DistilOptions::default();
        good.check().unwrap();
        let cases = [
            (
                "hard",
                DistilOptions {
                    hard: 1.5,
                    ..good.clone()
                },
            ),
            (
                "hard",
                DistilOptions {
                    hard: f32::NAN,
                    ..good.clone()
                },
            ),
            (
                "temperature",
                DistilOptions {
                    temperature: 0.0,
                    ..good.clone()
                },
            ),
            (
                "length",
                DistilOptions {
                    length: 1,
                    ..good.clone()
                },
            ),
            (
                "batch",
                DistilOptions {
                    batch: usize::MAX,
                    ..good.clone()
                },
            ),
            (
                "rate",
                DistilOptions {
                    rate: -1.0,
                    ..good.clone()
                },
            ),
            (
                "clip",
                DistilOptions {
                    clip: f32::INFINITY,
                    ..good.clone()
                },
            ),
            (
                "tokens",
                DistilOptions {
                    tokens: 0,
                    ..good.clone()
                },
            ),
        ];
        for (name, options) in cases {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn frozen_parts_are_those_of_their_names() {
        use Frozen::*;
        const CASES: &[(Frozen, &str, bool)] = &[
            (Embedding, "embedding.weight", false),
            (Embedding, "head.weight", true),
            (Head, "head.weight", false),
            (Norms, "layers.3.input_norm.weight", false),
            (Norms, "final_norm.weight", false),
            (Qkv, "layers.12.qkv.weight", false),
            (Qkv, "layers.12.output.weight", true),
            (FeedForward, "layers.1.up.weight", false),
            (FeedForward, "layers.1.ffn_norm.weight", true),
        ];
        for (frozen, name, trains) in CASES {
            let options = DistilOptions {
                frozen: vec![*frozen],
                ..DistilOptions::default()
            };
            assert_eq!(options.trains(name), *trains, "{frozen:?} {name}");
        }
    }
}
