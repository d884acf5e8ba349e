//! Architectures: each reads the configuration of its family, checks it, and describes the model for the graph writers.
//!
//! The same family comes in two forms that name settings and tensors differently: a GGUF file, and a Hugging Face folder. Both
//! become the same description. What a configuration asks for and no graph can do is refused by its key, never left out.
//!
//! ```text
//!   general.architecture | model_type ──► llama · qwen2 · qwen3 · gemma3 · gpt2 · gpt_neo ──► DecoderSpec
//!                                    └──► bert ───────────────────────────────────────────► EncoderSpec
//! ```

mod bert;
mod gated;
mod gemma3;
mod gpt2;
mod gpt_neo;
mod keys;
mod llama;
mod qwen2;
mod qwen3;
mod rotary;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod toys;

use serde_json::{Map, Value as Json};

use crate::decoder::DecoderSpec;
use crate::encoder::EncoderSpec;
use crate::error::ForgeError;
use crate::gguf::Gguf;
use crate::matrix::{Matrix, Order, Part, Vector};
use crate::weights::Weights;

use keys::Keys;

/// Upper bound of every size in the configuration; what is larger does not run on a vehicle.
pub const MAX_SIZE: u64 = 1 << 20;
/// Longest context that a model is built for (16 MiB of rotary tables at a head size of 64). A model that states a longer one is
/// cut to this; its first positions are the same.
pub const MAX_CONTEXT: u64 = 65_536;
/// Longest context that a configuration may state.
pub const MAX_STATED_CONTEXT: u64 = 1 << 24;
/// Most layers.
pub const MAX_LAYERS: u64 = 1024;

/// A model that no architecture here can describe.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ArchitectureError {
    /// Another architecture.
    #[error("expected architecture {expected}, found {found:?}")]
    Unknown {
        /// Those that can be built.
        expected: &'static str,
        /// The architecture.
        found: String,
    },
    /// A setting out of range, inconsistent with another, or one that no graph here can follow.
    #[error("{key}: expected {expected}, found {found}")]
    Config {
        /// The key, and where it stands.
        key: String,
        /// What is possible.
        expected: String,
        /// What there is.
        found: String,
    },
}

/// A described model.
#[derive(Debug, Clone, PartialEq)]
pub enum Model {
    /// It writes text.
    Decoder(Box<DecoderSpec>),
    /// It reads text.
    Encoder(Box<EncoderSpec>),
}

impl Model {
    /// Rows of its embedding.
    pub fn vocab(&self) -> usize {
        match self {
            Model::Decoder(spec) => spec.vocab,
            Model::Encoder(spec) => spec.vocab,
        }
    }
}

/// Describes a GGUF file.
///
/// # Errors
/// [`ForgeError::Architecture`] or [`ForgeError::Gguf`] if it is no known architecture, incomplete, or inconsistent.
pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Model, ForgeError> {
    let name = gguf.string("general.architecture")?;
    let open = |architecture| File {
        keys: Keys::Gguf(gguf, architecture),
        weights: gguf,
    };
    let decoder = |spec| Model::Decoder(Box::new(spec));
    Ok(match name {
        "llama" => decoder(llama::describe(&open("llama"))?),
        "qwen2" => decoder(qwen2::describe(&open("qwen2"))?),
        "qwen3" => decoder(qwen3::describe(&open("qwen3"))?),
        "gemma3" => decoder(gemma3::describe(&open("gemma3"))?),
        "gpt2" => decoder(gpt2::describe(&open("gpt2"))?),
        "bert" => Model::Encoder(Box::new(bert::describe(&open("bert"))?)),
        other => {
            return Err(ArchitectureError::Unknown {
                expected: "\"llama\", \"qwen2\", \"qwen3\", \"gemma3\", \"gpt2\" or \"bert\"",
                found: other.to_string(),
            }
            .into());
        }
    })
}

/// Describes a checkpoint by its `config.json`.
///
/// # Errors
/// [`ForgeError::Architecture`] or [`ForgeError::Safetensors`] if it is no known architecture, incomplete, or inconsistent.
pub fn from_checkpoint(
    config: &Map<String, Json>,
    weights: &dyn Weights,
) -> Result<Model, ForgeError> {
    let keys = Keys::Json(config, String::new());
    let name = keys.text(("", "model_type"))?.unwrap_or("nothing");
    let file = File { keys, weights };
    let decoder = |spec| Model::Decoder(Box::new(spec));
    Ok(match name {
        "llama" | "mistral" => decoder(llama::describe(&file)?),
        "qwen2" => decoder(qwen2::describe(&file)?),
        "qwen3" => decoder(qwen3::describe(&file)?),
        "gemma3_text" => decoder(gemma3::describe(&file)?),
        "gpt2" => decoder(gpt2::describe(&file)?),
        "gpt_neo" => decoder(gpt_neo::describe(&file)?),
        "bert" => Model::Encoder(Box::new(bert::describe(&file)?)),
        other => {
            return Err(ArchitectureError::Unknown {
                expected: "\"llama\", \"mistral\", \"qwen2\", \"qwen3\", \"gemma3_text\", \"gpt2\", \"gpt_neo\" or \"bert\"",
                found: other.to_string(),
            }
            .into());
        }
    })
}

/// A model file under description.
struct File<'a> {
    keys: Keys<'a>,
    weights: &'a dyn Weights,
}

impl File<'_> {
    fn is_gguf(&self) -> bool {
        matches!(self.keys, Keys::Gguf(..))
    }

    /// Rows of a matrix, which the configuration may state under `key` too.
    fn vocab(&self, embedding: &str, key: keys::Key) -> Result<usize, ForgeError> {
        let shape = self.weights.shape(embedding);
        let rows = match shape.as_deref() {
            Some([rows, _]) if (1..=MAX_SIZE).contains(rows) => *rows as usize,
            Some(other) => {
                return Err(self.keys.wrong(
                    key,
                    format!("a table of 1 to {MAX_SIZE} rows"),
                    &format!("{embedding} of shape {other:?}"),
                ));
            }
            None => {
                return Err(crate::matrix::MatrixError::Missing {
                    tensor: embedding.to_string(),
                }
                .into());
            }
        };
        let stated = self.keys.optional_size(key, MAX_SIZE)?.unwrap_or(rows);
        let expected = format!("{rows}, the rows of {embedding}");
        self.keys.rule(stated == rows, key, &expected, stated)?;
        Ok(rows)
    }

    /// The longest context, cut to [`MAX_CONTEXT`].
    fn context(&self, key: keys::Key) -> Result<usize, ForgeError> {
        Ok(self
            .keys
            .size(key, MAX_STATED_CONTEXT)?
            .min(MAX_CONTEXT as usize))
    }

    /// A norm's weight and bias.
    fn layer_norm(&self, name: &str, length: usize) -> crate::decoder::Norm {
        crate::decoder::Norm {
            weight: Vector::stored(format!("{name}.weight"), length),
            bias: Some(Vector::stored(format!("{name}.bias"), length)),
        }
    }

    /// Rows of several `name.weight`, and of their `name.bias`: if they have one, or in any case if it is `required`.
    fn linear(
        &self,
        columns: usize,
        parts: &[(String, usize, Order)],
        required: bool,
    ) -> crate::decoder::Linear {
        let all = |what: &str| -> Vec<Part> {
            let part = |(name, rows, order): &(String, usize, Order)| Part {
                tensor: format!("{name}.{what}"),
                rows: *rows,
                order: *order,
            };
            parts.iter().map(part).collect()
        };
        let biases = all("bias");
        let has_bias = required || biases.iter().any(|part| self.weights.has(&part.tensor));
        let in_order = |mut part: Part| {
            // A vector has no columns to be transposed with.
            if part.order == Order::Transposed {
                part.order = Order::Stored;
            }
            part
        };
        crate::decoder::Linear {
            matrix: Matrix {
                columns,
                parts: all("weight"),
            },
            bias: has_bias.then(|| Vector {
                parts: biases.into_iter().map(in_order).collect(),
                plus: 0.0,
            }),
        }
    }

    /// Whether there is an output head besides the embedding, and the tensor that is there and not used. A head that is the
    /// embedding once more, bit by bit, is not kept twice.
    fn head(&self, name: &str, embedding: &str) -> Result<(bool, Option<String>), ForgeError> {
        let is_there = self.weights.has(name);
        let is_copy = is_there
            && self.weights.shape(name) == self.weights.shape(embedding)
            && self.weights.raw(name)? == self.weights.raw(embedding)?;
        Ok(match self.keys.flag(("", "tie_word_embeddings"))? {
            Some(true) => (false, is_there.then(|| name.to_string())),
            _ if is_copy => (false, Some(name.to_string())),
            Some(false) => (true, None),
            None => (is_there, None),
        })
    }
}
