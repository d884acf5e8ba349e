//! How the matrices of a compressed model are stored: what a quantize step means for each of them.

use serde_json::{Value, json};

use super::job::Tools;
use super::kv::kv_int8;
use super::mixing::mixed;
use super::quantize::{QuantizeOptions, QuantizeReport, Quantized, quantize};
use super::recipe::{Bits, KvBits, Method, QuantizeStep, word};
use super::smooth::smooth;
use crate::checkpoint::Checkpoint;
use crate::decoder::{Coding, LayerPart, Options, Place, Storage};
use crate::error::ForgeError;
use crate::folder::Watch;
use crate::quantize::CodeFormat;

/// `accuracy_level` of a graph with codes: 8-bit activations.
const ACTIVATIONS_INT8: u8 = 4;
/// Tokens with which keys and values are measured: the largest value of a channel is found early.
const KV_TOKENS: usize = 4096;
/// Tokens with which activations are measured, for the same reason.
const SMOOTH_TOKENS: usize = 8192;

/// A coding, and what the step that chose it says.
pub struct Chosen {
    coding: Stored,
    /// The same model with what its keys and values need to be stored in 8 bits.
    with_kv: Option<Checkpoint>,
    detail: Value,
}

/// How it came about.
enum Stored {
    /// To the nearest, in passing.
    Plain(Options),
    /// Activations quantized as they come; of the model in which their large channels were moved into weights, if they were.
    Fast(Option<Box<Checkpoint>>),
    /// Codes that were searched, and the model they belong to.
    Searched(Box<Quantized>),
}

impl Chosen {
    /// Chooses codes, which may take long.
    ///
    /// # Errors
    /// Those of the quantizers; [`ForgeError::Recipe`] for weights that a decoder is not offered with.
    pub fn new(
        step: &QuantizeStep,
        input: &Checkpoint,
        tools: &Tools<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Chosen, ForgeError> {
        let detail = json!({ "weights": word(step.weights), "method": word(step.method) });
        let blocks = Storage::Blocks(CodeFormat::Int8);
        let plain = |layers, accuracy_level| {
            Stored::Plain(Options {
                layers,
                head: layers,
                accuracy_level,
            })
        };
        let unknown = |expected: &str, found: String| {
            Err(ForgeError::Recipe {
                recipe: "compress",
                field: "quantize.weights",
                expected: expected.into(),
                found,
            })
        };
        let (coding, detail) = match step.weights {
            Bits::Int4 => searched(step, CodeFormat::Int4, input, tools, watch)?,
            Bits::Int4Minima if step.method != Method::Rtn => {
                searched(step, CodeFormat::Int4Minima, input, tools, watch)?
            }
            // Without loss where the original is stored so.
            Bits::Mixed => return mixed(step, input, tools, watch),
            Bits::Int4Minima => (
                Stored::Plain(Options {
                    layers: Storage::Blocks(CodeFormat::Int4Minima),
                    head: blocks,
                    accuracy_level: ACTIVATIONS_INT8,
                }),
                detail,
            ),
            Bits::Int8 => (plain(blocks, ACTIVATIONS_INT8), detail),
            Bits::Fp32 => (plain(Storage::Fp32, 0), detail),
            Bits::Fp16 => (plain(Storage::Fp16, 0), half_detail(detail)),
            Bits::Int8Dynamic if step.method == Method::Rtn => (Stored::Fast(None), detail),
            Bits::Int8Dynamic => {
                let texts = beginning(tools.calibration, SMOOTH_TOKENS);
                let place = tools.kept.join("smooth");
                let made = smooth(input, texts, tools.runtime, (&place, tools.scratch), watch)?;
                (Stored::Fast(Some(Box::new(made))), detail)
            }
            Bits::Int8Static => {
                return unknown(
                    "int4, int4-minima, mixed, int8, int8-dynamic, fp16 or fp32 for a language model",
                    word(step.weights),
                );
            }
        };
        let chosen = Chosen {
            coding,
            with_kv: None,
            detail,
        };
        chosen.with_kv(step, input, tools, watch)
    }

    /// Codes that were searched.
    pub(super) fn searched(quantized: Quantized, detail: Value) -> Chosen {
        Chosen {
            coding: Stored::Searched(Box::new(quantized)),
            with_kv: None,
            detail,
        }
    }

    /// With what keys and values need, if the step wants them in 8 bits.
    pub(super) fn with_kv(
        mut self,
        step: &QuantizeStep,
        input: &Checkpoint,
        tools: &Tools<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Chosen, ForgeError> {
        if let Some(KvBits::Int8) = step.kv {
            // Last: scales that were moved between matrices change values.
            let place = tools.kept.join("kv");
            let texts = beginning(tools.calibration, KV_TOKENS);
            let model = self.checkpoint(input);
            let made = kv_int8(model, texts, tools.runtime, (&place, tools.scratch), watch)?;
            if let Some(fields) = self.detail.as_object_mut() {
                fields.insert("kv".into(), json!("int8"));
            }
            self.with_kv = Some(made);
        }
        Ok(self)
    }

    /// How matrices are stored.
    #[must_use]
    pub fn coding(&self) -> &dyn Coding {
        match &self.coding {
            Stored::Plain(options) => options,
            Stored::Fast(_) => &FastPrompts,
            Stored::Searched(quantized) => quantized.as_ref(),
        }
    }

    /// The model that is stored so: the one that was given, or one in which scales were moved from one matrix to another.
    #[must_use]
    pub fn checkpoint<'c>(&'c self, given: &'c Checkpoint) -> &'c Checkpoint {
        match (&self.with_kv, &self.coding) {
            (Some(made), _) => made,
            (None, Stored::Searched(quantized)) => quantized.checkpoint(),
            (None, Stored::Fast(Some(made))) => made,
            (None, Stored::Plain(_) | Stored::Fast(None)) => given,
        }
    }

    /// What the step says.
    #[must_use]
    pub fn detail(&self) -> &Value {
        &self.detail
    }

    /// Whether what is peculiar about it is in the portable graph only, so that this is the one to judge.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        matches!(self.coding, Stored::Fast(_))
    }
}

/// The quantizer's options of a recipe's method.
pub(super) fn options(method: Method) -> QuantizeOptions {
    use super::quantize::Method as Way;
    QuantizeOptions {
        method: match method {
            Method::Rtn => Way::Rtn,
            Method::Importance => Way::Importance,
            Method::Awq => Way::Awq,
            Method::Gptq => Way::Gptq,
            Method::Best => Way::Best,
        },
        ..QuantizeOptions::default()
    }
}

/// 4 bits everywhere.
fn searched(
    step: &QuantizeStep,
    layers: CodeFormat,
    input: &Checkpoint,
    tools: &Tools<'_>,
    watch: &mut Watch<'_>,
) -> Result<(Stored, Value), ForgeError> {
    let (found, report) = quantize(
        tools.runtime,
        input,
        tools.calibration,
        &QuantizeOptions {
            layers,
            ..options(step.method)
        },
        &tools.kept.join(word(step.weights)),
        watch,
    )?;
    let detail = detail(
        &report,
        &found.layer_seconds()?,
        &json!({ "weights": word(step.weights), "method": word(step.method) }),
    );
    Ok((Stored::Searched(Box::new(found)), detail))
}

/// What half precision does not do has to be said, because people expect it.
fn half_detail(mut detail: Value) -> Value {
    if let Some(fields) = detail.as_object_mut() {
        fields.insert("note".into(), json!(super::ready::HALF_NOTE));
    }
    detail
}

/// What a quantizer says, with the time that each layer took and the choices that led to it.
pub(super) fn detail(report: &QuantizeReport, seconds: &[f64], about: &Value) -> Value {
    let mut all = about.clone();
    let errors = report.matrices.iter().map(|matrix| matrix.relative_error);
    let mean = errors.sum::<f64>() / report.matrices.len().max(1) as f64;
    if let Some(fields) = all.as_object_mut() {
        fields.insert("tokens".into(), json!(report.tokens));
        fields.insert("resumed_layers".into(), json!(report.resumed_layers));
        fields.insert("mean_error".into(), json!(mean));
        fields.insert("layers_seconds".into(), json!(seconds.iter().sum::<f64>()));
        fields.insert("seconds_of_layers".into(), json!(seconds));
        fields.insert("matrices".into(), json!(report.matrices));
    }
    all
}

/// The first texts, as many as have about so many tokens.
fn beginning(texts: &[Vec<u32>], tokens: usize) -> &[Vec<u32>] {
    let mut sum = 0;
    let count = texts.iter().take_while(|text| {
        let is_wanted = sum < tokens;
        sum += text.len();
        is_wanted
    });
    &texts[..count.count()]
}

/// Bytes with one scale a row and products of bytes, but where that costs most: what the feed-forward part gives back has a few inputs
/// that are a hundred times larger than the others, and one scale for all of them leaves nothing of the rest. (Smoothed, with that one as
/// bytes too: KL .050 instead of .011 on SmolLM2, prompts 2.05 instead of 1.43 times as fast as with int8.)
struct FastPrompts;

impl Coding for FastPrompts {
    fn storage(&self, place: Place) -> Storage {
        match place {
            Place::Layer {
                part: LayerPart::Down,
                ..
            }
            | Place::Embedding
            | Place::Head => Storage::Blocks(CodeFormat::Int8),
            Place::Layer { .. } => Storage::Dynamic,
            Place::Table => Storage::Fp32,
        }
    }

    fn accuracy_level(&self) -> u8 {
        ACTIVATIONS_INT8
    }
}
