//! Sizes of a llama, read from GGUF metadata and checked before anything is computed from them.

use super::{ARCHITECTURE, EMBEDDING, LlamaError, MAX_CONTEXT, MAX_LAYERS, MAX_SIZE};
use crate::error::ForgeError;
use crate::gguf::Gguf;
use crate::quantize::BLOCK;

const KV_HEADS: &str = "llama.attention.head_count_kv";
const KEY_LENGTH: &str = "llama.attention.key_length";
const ROPE_BASE: &str = "llama.rope.freq_base";
const ROPE_SCALING: &str = "llama.rope.scaling.type";
const ROTARY: &str = "llama.rope.dimension_count";
const EPSILON: &str = "llama.attention.layer_norm_rms_epsilon";
/// Sizes of a llama.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// Base of the rotary embedding.
    pub rope_base: f64,
    /// ε of the RMS norms.
    pub epsilon: f32,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`ForgeError::Llama`] or [`ForgeError::Gguf`] if it is not a llama, incomplete, or inconsistent.
    pub fn read(gguf: &Gguf<'_>) -> Result<Config, ForgeError> {
        let architecture = gguf.string("general.architecture")?;
        if architecture != ARCHITECTURE {
            return Err(LlamaError::Architecture {
                found: architecture.to_string(),
            }
            .into());
        }
        let heads = size(gguf, "llama.attention.head_count", MAX_SIZE)?;
        let hidden = size(gguf, "llama.embedding_length", MAX_SIZE)?;
        let kv_heads = if gguf.metadata().contains_key(KV_HEADS) {
            size(gguf, KV_HEADS, MAX_SIZE)?
        } else {
            heads
        };
        let config = Config {
            layers: size(gguf, "llama.block_count", MAX_LAYERS)?,
            hidden,
            feed_forward: size(gguf, "llama.feed_forward_length", MAX_SIZE)?,
            heads,
            kv_heads,
            head_dim: if gguf.metadata().contains_key(KEY_LENGTH) {
                size(gguf, KEY_LENGTH, MAX_SIZE)?
            } else {
                hidden / heads
            },
            vocab: gguf.tensor(EMBEDDING)?.rows(),
            context: size(gguf, "llama.context_length", MAX_CONTEXT)?,
            rope_base: if gguf.metadata().contains_key(ROPE_BASE) {
                gguf.float(ROPE_BASE)?
            } else {
                10_000.0
            },
            epsilon: gguf.float(EPSILON)? as f32,
        };
        config.check(gguf)?;
        Ok(config)
    }

    fn check(&self, gguf: &Gguf<'_>) -> Result<(), ForgeError> {
        let rotary = if gguf.metadata().contains_key(ROTARY) {
            gguf.unsigned(ROTARY)?
        } else {
            self.head_dim as u64
        };
        let scaling = if gguf.metadata().contains_key(ROPE_SCALING) {
            gguf.string(ROPE_SCALING)?
        } else {
            "none"
        };
        let rules: [(bool, &'static str, &str, String); 7] = [
            (
                self.heads.is_multiple_of(self.kv_heads),
                KV_HEADS,
                "a divisor of the number of heads",
                self.kv_heads.to_string(),
            ),
            (
                self.head_dim.is_multiple_of(2) && self.head_dim > 0,
                KEY_LENGTH,
                "an even, positive width",
                self.head_dim.to_string(),
            ),
            (
                rotary == self.head_dim as u64,
                ROTARY,
                "the width of a head",
                rotary.to_string(),
            ),
            (scaling == "none", ROPE_SCALING, "none", scaling.to_string()),
            (
                self.rope_base.is_finite() && self.rope_base > 1.0,
                ROPE_BASE,
                "a finite number above 1",
                self.rope_base.to_string(),
            ),
            (
                self.epsilon.is_finite() && self.epsilon > 0.0,
                EPSILON,
                "a finite positive number",
                self.epsilon.to_string(),
            ),
            (
                self.vocab as u64 <= MAX_SIZE,
                "tokenizer.ggml.tokens",
                "at most 1048576 tokens",
                self.vocab.to_string(),
            ),
        ];
        for (holds, key, expected, found) in rules {
            if !holds {
                return Err(LlamaError::Config {
                    key,
                    expected: expected.to_string(),
                    found,
                }
                .into());
            }
        }
        self.check_widths()
    }

    /// MatMulNBits reads whole blocks along these widths.
    fn check_widths(&self) -> Result<(), ForgeError> {
        let widths = [
            ("llama.embedding_length", self.hidden),
            ("llama.feed_forward_length", self.feed_forward),
            (KEY_LENGTH, self.heads * self.head_dim),
        ];
        for (key, width) in widths {
            if !width.is_multiple_of(BLOCK) {
                return Err(LlamaError::Config {
                    key,
                    expected: format!("a multiple of {BLOCK}"),
                    found: width.to_string(),
                }
                .into());
            }
        }
        Ok(())
    }

    pub(super) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
/// A positive size of at most `limit`.
fn size(gguf: &Gguf<'_>, key: &'static str, limit: u64) -> Result<usize, ForgeError> {
    let found = gguf.unsigned(key)?;
    if found == 0 || found > limit {
        return Err(LlamaError::Config {
            key,
            expected: format!("1 to {limit}"),
            found: found.to_string(),
        }
        .into());
    }
    Ok(found as usize)
}
