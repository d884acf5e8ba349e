//! How the matrices of a compressed model are stored: what a quantize step means for each of them.

use serde_json::{Value, json};

use super::job::Tools;
use super::kv::kv_int8;
use super::recipe::{Bits, KvBits, Method, QuantizeStep, word};
use crate::checkpoint::Checkpoint;
use crate::decoder::{Coding, LayerPart, Options, Place, Storage};
use crate::error::ForgeError;
use crate::folder::Watch;
use crate::quantize::CodeFormat;

/// `accuracy_level` of a graph with codes: 8-bit activations.
const ACTIVATIONS_INT8: u8 = 4;

/// Tokens with which keys and values are measured: the largest value of a channel is found early.
const KV_TOKENS: usize = 4096;

/// A coding, and what the step that chose it says.
pub struct Chosen {
    coding: Box<dyn Coding>,
    /// The model that the codes belong to, where choosing them changed it.
    changed: Option<Checkpoint>,
    detail: Value,
    is_dynamic: bool,
}

impl Chosen {
    /// Chooses codes, which may take long.
    ///
    /// # Errors
    /// Those of the quantizers; [`ForgeError::Recipe`] for weights that a decoder is not offered with.
    pub(super) fn new(
        step: &QuantizeStep,
        input: &Checkpoint,
        tools: &Tools<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Chosen, ForgeError> {
        let detail = json!({ "weights": word(step.weights), "method": word(step.method) });
        let plain = |layers, head, accuracy_level| {
            let options = Options {
                layers,
                head,
                accuracy_level,
            };
            Box::new(options) as Box<dyn Coding>
        };
        let blocks = Storage::Blocks;
        let coding = match (step.weights, step.method) {
            (Bits::Int4, Method::Rtn) => plain(
                blocks(CodeFormat::Int4),
                blocks(CodeFormat::Int8),
                ACTIVATIONS_INT8,
            ),
            (Bits::Int8, _) => plain(
                blocks(CodeFormat::Int8),
                blocks(CodeFormat::Int8),
                ACTIVATIONS_INT8,
            ),
            (Bits::Int4Minima, _) => plain(
                blocks(CodeFormat::Int4Minima),
                blocks(CodeFormat::Int8),
                ACTIVATIONS_INT8,
            ),
            (Bits::Fp32, _) => plain(Storage::Fp32, Storage::Fp32, 0),
            (Bits::Int8Dynamic, _) => Box::new(FastPrompts),
            (weights, method) => {
                return Err(ForgeError::Recipe {
                    recipe: "compress",
                    field: "quantize.weights",
                    expected:
                        "int4 by rtn, int4-minima, int8, int8-dynamic or fp32 for a language model"
                            .into(),
                    found: format!("{} by {}", word(weights), word(method)),
                });
            }
        };
        let mut chosen = Chosen {
            coding,
            changed: None,
            detail,
            is_dynamic: step.weights == Bits::Int8Dynamic,
        };
        if let Some(KvBits::Int8) = step.kv {
            // Last: scales that were moved between matrices change values.
            let texts = beginning(tools.calibration, KV_TOKENS);
            let place = tools.kept.join("kv");
            let model = chosen.checkpoint(input);
            let made = kv_int8(model, texts, tools.runtime, (&place, tools.scratch), watch)?;
            if let Some(fields) = chosen.detail.as_object_mut() {
                fields.insert("kv".into(), json!("int8"));
            }
            chosen.changed = Some(made);
        }
        Ok(chosen)
    }

    /// How matrices are stored.
    #[must_use]
    pub fn coding(&self) -> &dyn Coding {
        self.coding.as_ref()
    }

    /// The model that is stored so: the one that was given, or one in which scales were moved from one matrix to another.
    #[must_use]
    pub fn checkpoint<'c>(&'c self, given: &'c Checkpoint) -> &'c Checkpoint {
        self.changed.as_ref().unwrap_or(given)
    }

    /// What the step says.
    #[must_use]
    pub fn detail(&self) -> &Value {
        &self.detail
    }

    /// Whether what is peculiar about it is in the portable graph only, so that this is the one to judge.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.is_dynamic
    }
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
/// that are a hundred times larger than the others, and one scale for all of them leaves nothing of the rest.
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
