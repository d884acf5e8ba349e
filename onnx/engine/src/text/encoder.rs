//! A sentence encoder of the BERT family: text goes in, one vector comes out.
//!
//! Every token sees every other, so there is no cache and no order of work: a text is one run. The vector of a text is what the model's
//! source says, mostly the mean of its tokens' vectors, at length one: the product of two vectors is the cosine of their angle. Texts are run one by one, each at
//! its own length: padding several to one length would cost more than it saves on a few cores.
//!
//! ```text
//! text ─ tokenizer ─► [CLS] … [SEP] ─► input_ids ──────┐
//!                                      attention_mask ─┼─► graph ─► last_hidden_state [1,S,hidden] ─ pool, norm ─► [hidden]
//!                                      token_type_ids ─┘
//! ```

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::decoder::MAX_CONTEXT;
use super::request::MAX_PROMPT_BYTES;
use super::tokenizer::MAX_TOKENIZER_BYTES;
use crate::error::{EngineError, Result};
use crate::folder::{MANIFEST, ModelFolder};
use crate::runtime::Runtime;
use crate::session::{Dim, Feed, Kind, Session, SessionSpec, TensorSpec, Terminator, Threads};

const FAMILY: &str = "bert";
const GRAPH: &str = "model.onnx";
const TOKENIZER: &str = "tokenizer.json";
const OUTPUT: &str = "last_hidden_state";
/// Widest vector: no encoder for an edge computer comes near.
const MAX_HIDDEN: usize = 1 << 14;
/// Special tokens around a text; what is left of the context must hold at least one of its own.
const MIN_CONTEXT: usize = 4;

/// The settings of a model folder of family `bert`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EncoderConfig {
    /// Width of a vector.
    pub hidden: usize,
    /// Most tokens of a text, with those that the tokenizer adds.
    pub context: usize,
    /// How the vectors of the tokens become one.
    #[serde(default)]
    pub pooling: Pooling,
}

/// How the vectors of the tokens become one of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one, which stands for the whole text.
    Cls,
    /// The model's source does not say: there are only the vectors of the tokens.
    #[default]
    None,
}

impl EncoderConfig {
    /// The first thing wrong with it, if there is one.
    fn check(&self) -> Result<(), String> {
        let ranges = [
            ("hidden", self.hidden, 1, MAX_HIDDEN),
            ("context", self.context, MIN_CONTEXT, MAX_CONTEXT),
        ];
        match ranges
            .iter()
            .find(|(_, found, least, most)| !(least..=most).contains(&found))
        {
            Some((field, found, least, most)) => Err(format!(
                "config: {field}: expected {least}..={most}, found {found}"
            )),
            None => Ok(()),
        }
    }
}

/// A sentence encoder that is ready. It reads one text at a time.
pub struct Encoder {
    name: String,
    config: EncoderConfig,
    tokenizer: Tokenizer,
    session: Session,
}

impl Encoder {
    /// Opens a model folder of family `bert`.
    ///
    /// # Errors
    /// Those of [`ModelFolder`] and [`Session`] for its files, [`EngineError::Manifest`] for settings out of range,
    /// [`EngineError::Tokenizer`].
    pub fn load(runtime: &Runtime, folder: &ModelFolder) -> Result<Encoder> {
        folder.expect_family(FAMILY)?;
        let name = folder.manifest.name.as_str();
        let config: EncoderConfig = folder.config()?;
        config.check().map_err(|reason| EngineError::Manifest {
            path: folder.dir.join(MANIFEST),
            reason,
        })?;
        let tokenizer = read_tokenizer(name, &folder.read(TOKENIZER, MAX_TOKENIZER_BYTES)?)?;
        let ids = [Dim::Any, Dim::Any];
        let vectors = [Dim::Any, Dim::Any, Dim::Is(config.hidden)];
        let spec = SessionSpec {
            inputs: &[
                TensorSpec::new("input_ids", Kind::I64, &ids),
                TensorSpec::new("attention_mask", Kind::I64, &ids),
                TensorSpec::new("token_type_ids", Kind::I64, &ids),
            ],
            outputs: &[TensorSpec::new(OUTPUT, Kind::F32, &vectors)],
        };
        let session = Session::open(runtime, name, &folder.path(GRAPH)?, &spec, Threads::Shared)?;
        Ok(Encoder {
            name: name.to_owned(),
            config,
            tokenizer,
            session,
        })
    }

    /// Its name in the catalogue.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// A handle that ends a run from another thread.
    #[must_use]
    pub fn terminator(&self) -> Terminator {
        self.session.terminator()
    }

    /// Token ids of a text, with the tokens that the model expects around it.
    ///
    /// # Errors
    /// [`EngineError::PromptTooLarge`], [`EngineError::Tokenizer`].
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(EngineError::PromptTooLarge {
                found_bytes: text.len(),
                limit_bytes: MAX_PROMPT_BYTES,
            });
        }
        let encoding =
            self.tokenizer
                .encode_fast(text, true)
                .map_err(|error| EngineError::Tokenizer {
                    model: self.name.clone(),
                    reason: error.to_string(),
                })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The vector of a text: `[hidden]`, of length one.
    ///
    /// # Errors
    /// [`EngineError::TextTooLong`] for a text that the context does not hold: nothing is cut off silently. [`EngineError::Option`] if
    /// the model's source does not say how to pool. Those of [`Encoder::tokenize`] and [`Encoder::hidden`].
    pub fn embed(&mut self, text: &str) -> Result<Vec<f32>> {
        let width = self.config.hidden;
        let rows = match self.config.pooling {
            Pooling::Mean => usize::MAX,
            Pooling::Cls => 1,
            Pooling::None => {
                return Err(EngineError::Option {
                    option: "pooling",
                    expected: "mean or cls in llmasos.json, as the model's card says".to_owned(),
                    found: "none".to_owned(),
                });
            }
        };
        let ids = self.tokenize(text)?;
        let hidden = self.hidden(&ids)?;
        Ok(mean_at_length_one(
            &hidden[..hidden.len().min(width.saturating_mul(rows))],
            width,
        ))
    }

    /// The vectors of the tokens, `[tokens, hidden]` row by row, as the last layer leaves them.
    ///
    /// # Errors
    /// [`EngineError::PromptEmpty`], [`EngineError::TextTooLong`], [`EngineError::NotFinite`], and those of a run; a token that the
    /// model does not have is one of them.
    pub fn hidden(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        if ids.is_empty() {
            return Err(EngineError::PromptEmpty);
        }
        if ids.len() > self.config.context {
            return Err(EngineError::TextTooLong {
                text_tokens: ids.len(),
                context_tokens: self.config.context,
            });
        }
        let shape = [1, ids.len()];
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let (ones, zeros) = (vec![1; ids.len()], vec![0; ids.len()]);
        let outputs = self.session.run(&[
            Feed::i64("input_ids", &shape, &ids),
            Feed::i64("attention_mask", &shape, &ones),
            Feed::i64("token_type_ids", &shape, &zeros),
        ])?;
        let output = outputs.f32(OUTPUT)?;
        if output.data.len() != ids.len() * self.config.hidden {
            return Err(EngineError::Tensor {
                model: self.name.clone(),
                direction: "output",
                tensor: OUTPUT.to_owned(),
                expected: format!("f32[1,{},{}]", ids.len(), self.config.hidden),
                found: format!("f32{:?}", output.dims),
            });
        }
        if !output.data.iter().all(|value| value.is_finite()) {
            return Err(EngineError::NotFinite {
                model: self.name.clone(),
            });
        }
        Ok(output.data.to_vec())
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A `tokenizer.json` without padding and truncation: published ones often pad every text to one length, and cut it there.
fn read_tokenizer(model: &str, json: &[u8]) -> Result<Tokenizer> {
    let wrong = |reason: String| EngineError::Tokenizer {
        model: model.to_owned(),
        reason,
    };
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| wrong(error.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(tokenizer)
}

/// The mean of the rows, scaled to length one; zero stays zero.
fn mean_at_length_one(rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0_f32; width];
    for row in rows.chunks_exact(width) {
        for (sum, value) in mean.iter_mut().zip(row) {
            *sum += value;
        }
    }
    // The number of rows cancels out.
    let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        mean.iter_mut().for_each(|value| *value /= length);
    }
    mean
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
