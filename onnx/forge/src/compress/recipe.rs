//! What is to be done to a model to make it smaller: steps in an order that makes sense, with all choices written down.
//!
//! A recipe holds no paths: the texts it needs are an argument, so the same recipe means the same on every computer. It is written into
//! the folder it made. Unknown fields are errors. What cannot make sense is refused before anything runs, with the reason:
//!
//! ```text
//!   degrid? ─► { prune | distil }* ─► mask? ─► quantize?      distil only after a prune: a student equal to its teacher has nothing to learn
//!                                                             masks behind all that changes weights
//!                                                             quantize last: there are no floats left to change behind it
//! ```

mod distilled;
mod pruned;

use serde::{Deserialize, Serialize};

use crate::error::ForgeError;
use crate::static_int8::StaticOptions;
pub(super) use distilled::counterparts;
pub use distilled::{DistilStep, GENERATED_TOKENS};
pub use pruned::{PruneStep, Pruned, Score};

/// Most steps of a recipe.
pub const MAX_STEPS: usize = 16;
/// Tokens of a sequence, for calibration and evaluation.
const LENGTH: std::ops::RangeInclusive<usize> = 80..=8192;
/// Sequences of an evaluation.
const SEQUENCES: std::ops::RangeInclusive<usize> = 1..=4096;
/// Tokens of calibration and of distillation.
const TOKENS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000;

/// Steps, seed, and how the result is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompressRecipe {
    /// Orders texts, and seeds every step that needs chance.
    pub seed: u64,
    /// The steps, in order.
    pub steps: Vec<CompressStep>,
    /// Text that steps are calibrated with.
    pub calibration: Calibration,
    /// How the result is judged.
    pub evaluate: Judgement,
}

/// How much text statistics are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Tokens in all.
    pub tokens: u64,
    /// Tokens of a sequence.
    pub length: usize,
}

/// How the result is judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Largest increase of perplexity that is accepted, as a fraction; none accepts all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_perplexity_increase: Option<f64>,
    /// Least agreement with the original that is accepted of a detector (mean average precision) or an encoder (mean cosine), 0 to 1;
    /// none accepts all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agreement: Option<f64>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CompressStep {
    /// Rescales channels at random, which changes no prediction, so that weights that were quantized once do not lie on that grid.
    Degrid {
        /// Chance.
        seed: u64,
    },
    /// Takes a part away.
    Prune(PruneStep),
    /// Teaches the smaller model what the original says.
    Distil(DistilStep),
    /// Stores weights with fewer bits.
    Quantize(QuantizeStep),
}

/// How weights are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizeStep {
    /// The matrices.
    pub weights: Bits,
    /// How codes are chosen.
    pub method: Method,
    /// Largest graph of those that are mapped, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// Keys and values in 8 bits with one scale a channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<KvBits>,
    /// What is calibrated, and how: for int8-static.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<StaticOptions>,
}

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bits {
    /// 4 bits and a zero point per block of 32; embedding and head 8 bits.
    Int4,
    /// 4 bits, a scale and a minimum per block of 32: 5 bits a weight, exact for weights that were published so.
    Int4Minima,
    /// 8 bits per block of 32.
    Int8,
    /// 4 bits, and 8 bits where they help most.
    Mixed,
    /// 8 bits a row, activations quantized as they come: fastest prompts.
    Int8Dynamic,
    /// 16-bit floats; computed in 32.
    Fp16,
    /// 32-bit floats.
    Fp32,
    /// 8 bits for weights and activations, calibrated: detectors and encoders.
    Int8Static,
}

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// To the nearest: no text is read.
    Rtn,
    /// Least error weighted by how large the inputs are.
    Importance,
    /// Channels scaled so that the important ones lose less.
    Awq,
    /// Each column's error made good by the columns after it.
    Gptq,
    /// All of them, and refined.
    Best,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvBits {
    /// 8 bits, one scale per channel.
    Int8,
}

impl Default for CompressRecipe {
    fn default() -> CompressRecipe {
        CompressRecipe {
            seed: 1,
            steps: Vec::new(),
            calibration: Calibration {
                tokens: 32 << 10,
                length: crate::evaluate::LENGTH,
            },
            evaluate: Judgement {
                sequences: 8,
                length: crate::evaluate::LENGTH,
                max_perplexity_increase: None,
                min_agreement: None,
            },
        }
    }
}

impl Default for QuantizeStep {
    fn default() -> QuantizeStep {
        QuantizeStep {
            weights: Bits::Int4,
            method: Method::Rtn,
            budget_bytes: None,
            kv: None,
            activations: None,
        }
    }
}

impl CompressStep {
    /// The word it has in recipes.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            CompressStep::Degrid { .. } => "degrid",
            CompressStep::Prune(_) => "prune",
            CompressStep::Distil(_) => "distil",
            CompressStep::Quantize(_) => "quantize",
        }
    }

    /// Whether it reads calibration text.
    #[must_use]
    pub fn reads_calibration(&self) -> bool {
        match self {
            CompressStep::Degrid { .. } | CompressStep::Distil(_) => false,
            CompressStep::Prune(step) => step.reads_calibration(),
            CompressStep::Quantize(step) => {
                step.method != Method::Rtn
                    || step.kv.is_some()
                    || matches!(step.weights, Bits::Mixed | Bits::Int8Static)
            }
        }
    }
}

impl CompressRecipe {
    /// The step that quantizes, if there is one.
    #[must_use]
    pub fn quantize(&self) -> Option<&QuantizeStep> {
        match self.steps.last() {
            Some(CompressStep::Quantize(step)) => Some(step),
            _ => None,
        }
    }

    /// Refuses what cannot make sense.
    ///
    /// # Errors
    /// [`ForgeError::Recipe`] with the field, what is possible, and what was found.
    pub fn check(&self) -> Result<(), ForgeError> {
        let range = |field, is_good: bool, expected: String, found: String| match is_good {
            true => Ok(()),
            false => Err(wrong(field, expected, found)),
        };
        let steps = self.steps.len();
        let words = |range: &std::ops::RangeInclusive<usize>| {
            format!("{}..={}", range.start(), range.end())
        };
        range(
            "steps",
            (1..=MAX_STEPS).contains(&steps),
            format!("1..={MAX_STEPS}"),
            steps.to_string(),
        )?;
        range(
            "calibration.tokens",
            TOKENS.contains(&self.calibration.tokens),
            format!("{}..={}", TOKENS.start(), TOKENS.end()),
            self.calibration.tokens.to_string(),
        )?;
        for (field, length) in [
            ("calibration.length", self.calibration.length),
            ("evaluate.length", self.evaluate.length),
        ] {
            range(
                field,
                LENGTH.contains(&length),
                words(&LENGTH),
                length.to_string(),
            )?;
        }
        let sequences = self.evaluate.sequences;
        range(
            "evaluate.sequences",
            SEQUENCES.contains(&sequences),
            words(&SEQUENCES),
            sequences.to_string(),
        )?;
        if let Some(most) = self.evaluate.max_perplexity_increase {
            range(
                "evaluate.max_perplexity_increase",
                most.is_finite() && most >= 0.0,
                "0 % or more".into(),
                format!("{} %", most * 100.0),
            )?;
        }
        if let Some(least) = self.evaluate.min_agreement {
            range(
                "evaluate.min_agreement",
                (0.0..=1.0).contains(&least),
                "0..=1".into(),
                least.to_string(),
            )?;
        }
        self.check_order()?;
        self.steps.iter().try_for_each(CompressStep::check)
    }

    /// Refuses what a model of this kind is not offered with, beyond [`CompressRecipe::check`].
    ///
    /// # Errors
    /// [`ForgeError::Recipe`], with what is possible instead.
    pub fn check_for(&self, kind: ModelKind) -> Result<(), ForgeError> {
        let judgement = match kind {
            ModelKind::Language => self.evaluate.min_agreement.map(|_| {
                (
                    "evaluate.min_agreement",
                    "nothing for a language model: max_perplexity_increase says it there",
                )
            }),
            ModelKind::Detector | ModelKind::Encoder => {
                self.evaluate.max_perplexity_increase.map(|_| {
                    (
                        "evaluate.max_perplexity_increase",
                        "nothing for a model that writes no text: min_agreement says it there",
                    )
                })
            }
        };
        if let Some((field, expected)) = judgement {
            return Err(wrong(field, expected.into(), "given".into()));
        }
        let mut words: Vec<&str> = Vec::new();
        for step in &self.steps {
            match (kind, step) {
                (_, CompressStep::Quantize(step)) => step.check_for(kind)?,
                (ModelKind::Language, _) => {}
                (ModelKind::Encoder, CompressStep::Prune(step)) => step.check_for_encoder()?,
                (ModelKind::Encoder, CompressStep::Distil(step)) => step.check_for_encoder()?,
                (ModelKind::Encoder | ModelKind::Detector, other) => {
                    return Err(wrong("steps", possible(kind).into(), other.word().into()));
                }
            }
            if kind != ModelKind::Language && words.contains(&step.word()) {
                let found = format!("{} twice", step.word());
                return Err(wrong("steps", possible(kind).into(), found));
            }
            words.push(step.word());
        }
        Ok(())
    }

    fn check_order(&self) -> Result<(), ForgeError> {
        let mut before: Vec<&str> = Vec::new();
        for step in &self.steps {
            let word = step.word();
            let reason = match step {
                _ if before.contains(&"quantize") => {
                    Some("nothing after quantize: the weights are codes then")
                }
                CompressStep::Degrid { .. } if !before.is_empty() => {
                    Some("degrid first: it is there for the weights as they were published")
                }
                CompressStep::Distil(_) if !before.contains(&"prune") => {
                    Some("distil after prune: before it the student is the teacher itself")
                }
                _ => None,
            };
            if let Some(reason) = reason {
                let mut found = before.join(", ");
                found.push_str(if found.is_empty() { "" } else { ", " });
                found.push_str(word);
                return Err(wrong("steps", reason.into(), found));
            }
            before.push(word);
        }
        pruned::check_behind_masks(&self.steps)
    }
}

impl CompressStep {
    fn check(&self) -> Result<(), ForgeError> {
        match self {
            CompressStep::Degrid { .. } => Ok(()),
            CompressStep::Prune(step) => step.check(),
            CompressStep::Distil(step) => step.check(),
            CompressStep::Quantize(step) => step.check(),
        }
    }
}

impl QuantizeStep {
    fn check(&self) -> Result<(), ForgeError> {
        let (is_possible, possible) = match self.weights {
            Bits::Int4 | Bits::Int4Minima | Bits::Mixed => (true, "any"),
            Bits::Int8Dynamic => (
                matches!(self.method, Method::Rtn | Method::Awq),
                "rtn, or awq, which moves large activations into weights first,",
            ),
            Bits::Int8 | Bits::Int8Static | Bits::Fp16 | Bits::Fp32 => {
                (self.method == Method::Rtn, "rtn")
            }
        };
        if !is_possible {
            return Err(wrong(
                "quantize.method",
                format!(
                    "{possible} for {}: other methods choose 4-bit codes",
                    word(self.weights)
                ),
                word(self.method),
            ));
        }
        if let Some(budget) = self.budget_bytes
            && (self.weights != Bits::Mixed || budget == 0)
        {
            return Err(wrong(
                "quantize.budget",
                "a size, for weights: mixed: only there bits can be traded".into(),
                format!("{budget} bytes for {}", word(self.weights)),
            ));
        }
        if self.kv.is_some()
            && !matches!(
                self.weights,
                Bits::Int4 | Bits::Int4Minima | Bits::Mixed | Bits::Int8
            )
        {
            return Err(wrong(
                "quantize.kv",
                "int4, mixed or int8 weights: only the fused graph stores keys and values in 8 bits".into(),
                word(self.weights),
            ));
        }
        self.check_activations()
    }

    /// Options of activations belong to weights that are used with codes of activations, and have to be in their ranges.
    fn check_activations(&self) -> Result<(), ForgeError> {
        let Some(options) = &self.activations else {
            return Ok(());
        };
        let only_names = StaticOptions {
            keep_float: options.keep_float.clone(),
            ..StaticOptions::default()
        };
        let is_possible = match self.weights {
            Bits::Int8Static => true,
            Bits::Int8Dynamic => *options == only_names,
            _ => false,
        };
        if !is_possible {
            return Err(wrong(
                "quantize.activations",
                "int8-static weights: only there are ranges chosen before (int8-dynamic takes keep_float)".into(),
                word(self.weights),
            ));
        }
        Ok(options.check()?)
    }

    fn check_for(&self, kind: ModelKind) -> Result<(), ForgeError> {
        let (possible, next): (&[Bits], _) = match kind {
            ModelKind::Language => {
                if self.weights == Bits::Int8Static {
                    return Err(wrong(
                        "quantize.weights",
                        "int8 or int8-dynamic for a language model: fixed ranges of its activations lose too much".into(),
                        word(self.weights),
                    ));
                }
                if self.activations.is_some() {
                    return Err(wrong(
                        "quantize.activations",
                        "nothing for a language model: which of its matrices are int8-dynamic is known from measurements".into(),
                        "options".into(),
                    ));
                }
                return Ok(());
            }
            ModelKind::Detector => (&[Bits::Int8Static, Bits::Fp16], "int8-static or fp16"),
            ModelKind::Encoder => (
                &[Bits::Int8Static, Bits::Int8Dynamic, Bits::Fp16],
                "int8-static, int8-dynamic or fp16",
            ),
        };
        if !possible.contains(&self.weights) {
            let expected = format!("{next} for {}", kind.words());
            return Err(wrong("quantize.weights", expected, word(self.weights)));
        }
        if self.method != Method::Rtn {
            return Err(wrong(
                "quantize.method",
                format!("rtn for {}", kind.words()),
                word(self.method),
            ));
        }
        Ok(())
    }
}

/// Steps that models which are one graph are offered.
fn possible(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Language => "any",
        ModelKind::Encoder => "prune layers, distil and quantize for an encoder, each once at most",
        ModelKind::Detector => "quantize alone for a detector",
    }
}

/// What a model is for, as far as it decides what can be done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// Writes text.
    Language,
    /// Finds objects in pictures.
    Detector,
    /// Turns sentences into vectors.
    Encoder,
}

impl ModelKind {
    /// The kind of a role in `llmasos.json`, if models of this role are compressed.
    #[must_use]
    pub fn of_role(role: &str) -> Option<ModelKind> {
        match role {
            "language" => Some(ModelKind::Language),
            "detector" => Some(ModelKind::Detector),
            "encoder" => Some(ModelKind::Encoder),
            _ => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            ModelKind::Language => "a language model",
            ModelKind::Detector => "a detector",
            ModelKind::Encoder => "an encoder",
        }
    }
}

/// The word a choice has in recipes.
pub(crate) fn word(choice: impl Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(word)) => word,
        other => other.map(|value| value.to_string()).unwrap_or_default(),
    }
}

pub(super) fn wrong(field: &'static str, expected: String, found: String) -> ForgeError {
    ForgeError::Recipe {
        recipe: "compress",
        field,
        expected,
        found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(steps: &str) -> CompressRecipe {
        CompressRecipe {
            steps: serde_json::from_str(steps).unwrap(),
            ..CompressRecipe::default()
        }
    }

    const DEGRID: &str = r#"{"step":"degrid","seed":1}"#;
    const PRUNE: &str = r#"{"step":"prune","what":{"neurons":0.25},"refit":true}"#;
    const DISTIL: &str = r#"{"step":"distil","tokens":100000,"alpha":0.1,"temperature":1}"#;
    const BEST: &str = r#"{"step":"quantize","weights":"int4","method":"best"}"#;

    #[test]
    fn orders_that_make_sense_and_others() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&[DEGRID], None),
            (&[BEST], None),
            (&[DEGRID, PRUNE, DISTIL, PRUNE, DISTIL, BEST], None),
            (&[PRUNE, PRUNE], None),
            (&[], Some("steps is 0, expected 1..=16")),
            (
                &[BEST, PRUNE],
                Some("steps is quantize, prune, expected nothing after quantize"),
            ),
            (&[BEST, BEST], Some("nothing after quantize")),
            (&[PRUNE, DEGRID], Some("degrid first")),
            (&[DEGRID, DISTIL], Some("distil after prune")),
        ];
        for (steps, expected) in cases {
            let found = recipe(&format!("[{}]", steps.join(","))).check();
            match (found, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{steps:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn choices_out_of_range_and_that_contradict_each_other() {
        let quantize = |more: &str| format!(r#"[{{"step":"quantize",{more}}}]"#);
        let cases = [
            (
                r#"[{"step":"prune","what":{"neurons":1.0},"refit":true}]"#.into(),
                "100 %",
            ),
            (
                r#"[{"step":"prune","what":{"neurons":-0.1},"refit":true}]"#.into(),
                "prune.neurons",
            ),
            (
                r#"[{"step":"prune","what":{"layers":0},"refit":true}]"#.into(),
                "prune.layers is 0",
            ),
            (
                format!(
                    r#"[{PRUNE},{{"step":"distil","tokens":100000,"alpha":0.1,"temperature":1,"generated":{{"tokens":10,"temperature":1}}}}]"#
                ),
                "distil.generated.tokens is 10, expected 1000..=1048576",
            ),
            (
                format!(
                    r#"[{PRUNE},{{"step":"distil","tokens":100000,"alpha":0.1,"temperature":1,"batch":0}}]"#
                ),
                "distil.batch is 0, expected 1..=64",
            ),
            (
                format!(
                    r#"[{PRUNE},{{"step":"distil","tokens":100000,"alpha":0.1,"temperature":1,"length":8}}]"#
                ),
                "distil.length is 8, expected 16..=4096",
            ),
            (
                quantize(r#""weights":"int8","method":"gptq""#),
                "quantize.method is gptq, expected rtn for int8",
            ),
            (
                quantize(r#""weights":"int4","method":"best","budget_bytes":5"#),
                "only there bits can be traded",
            ),
            (
                quantize(r#""weights":"fp16","method":"rtn","kv":"int8""#),
                "quantize.kv is fp16",
            ),
        ];
        for (steps, expected) in cases {
            let error = recipe(&steps).check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut long = recipe(&format!("[{BEST}]"));
        long.evaluate.max_perplexity_increase = Some(f64::NAN);
        assert!(long.check().is_err());
        long = recipe(&format!("[{BEST}]"));
        long.calibration.length = 10;
        let error = long.check().unwrap_err().to_string();
        assert!(
            error.contains("calibration.length is 10, expected 80..=8192"),
            "{error}"
        );
    }

    #[test]
    fn each_kind_of_model_has_its_own_choices() {
        const STATIC: &str = r#"{"step":"quantize","weights":"int8-static","method":"rtn","activations":{"ranges":"entropy"}}"#;
        const DYNAMIC: &str = r#"{"step":"quantize","weights":"int8-dynamic","method":"rtn","activations":{"keep_float":["a"]}}"#;
        const SMOOTH: &str = r#"{"step":"quantize","weights":"int8-dynamic","method":"awq"}"#;
        const FP16: &str = r#"{"step":"quantize","weights":"fp16","method":"rtn"}"#;
        const LAYERS: &str = r#"{"step":"prune","what":{"layers":1},"refit":true}"#;
        use ModelKind::{Detector, Encoder, Language};
        let cases = [
            (BEST, Language, None),
            (FP16, Language, None),
            (FP16, Detector, None),
            (STATIC, Detector, None),
            (STATIC, Encoder, None),
            (DYNAMIC, Encoder, None),
            (SMOOTH, Language, None),
            (SMOOTH, Encoder, Some("expected rtn for an encoder")),
            (STATIC, Language, Some("expected int8 or int8-dynamic")),
            (DYNAMIC, Language, Some("known from measurements")),
            (
                DYNAMIC,
                Detector,
                Some("expected int8-static or fp16 for a detector"),
            ),
            (
                BEST,
                Detector,
                Some("quantize.weights is int4, expected int8-static or fp16"),
            ),
            (BEST, Encoder, Some("for an encoder")),
            (PRUNE, Encoder, Some("expected layers of an encoder")),
            (
                PRUNE,
                Detector,
                Some("expected quantize alone for a detector"),
            ),
            (
                DEGRID,
                Encoder,
                Some("expected prune layers, distil and quantize"),
            ),
            (LAYERS, Encoder, None),
        ];
        for (step, kind, expected) in cases {
            let recipe = recipe(&format!("[{step}]"));
            recipe.check().unwrap();
            match (recipe.check_for(kind), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{step} {kind:?}: {found:?}"),
            }
        }
        for bad in [
            r#""weights":"int8-dynamic","activations":{"ranges":"entropy"}"#,
            r#""weights":"int8","activations":{}"#,
            r#""weights":"int8-static","activations":{"max_error":-1}"#,
        ] {
            let steps = format!(r#"[{{"step":"quantize","method":"rtn",{bad}}}]"#);
            assert!(recipe(&steps).check().is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_are_errors_and_recipes_come_back_from_their_json() {
        for bad in [
            r#"{"step":"degrid","seed":1,"extra":1}"#,
            r#"{"step":"quantize","weights":"int3","method":"rtn"}"#,
            r#"{"step":"shrink"}"#,
        ] {
            assert!(serde_json::from_str::<CompressStep>(bad).is_err(), "{bad}");
        }
        let whole = recipe(&format!("[{DEGRID},{PRUNE},{DISTIL},{BEST}]"));
        let json = serde_json::to_string(&whole).unwrap();
        assert_eq!(
            serde_json::from_str::<CompressRecipe>(&json).unwrap(),
            whole
        );
    }
}
