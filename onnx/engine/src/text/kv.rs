//! The key and value cache of a decoder: buffers that the graph reads and extends in place.
//!
//! Each layer's key and value tensor is bound as input and output at once, which is how GroupQueryAttention is told to
//! write the new rows into the buffer instead of copying it. How many rows count is said by the sequence length of each
//! run, so going back to an earlier length costs nothing and what lies beyond is never read (checked with ONNX Runtime 1.32:
//! NaN beyond the length changes no score, and neither does another division of the prompt into runs).

use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::Tensor;

use super::decoder::LlamaConfig;
use crate::error::{EngineError, Result};

/// Most memory of one cache.
pub(crate) const MAX_CACHE_BYTES: usize = 8 << 30;

/// Buffers of all layers.
pub(crate) struct KvCache {
    /// Key of layer 0, value of layer 0, key of layer 1, …; each `[1, kv_heads, context, head_dim]`.
    tensors: Vec<Tensor<f32>>,
    bytes: usize,
}

impl KvCache {
    /// Allocates for `context` tokens. The rows are not touched, so the memory becomes resident only as it is filled.
    pub(crate) fn new(config: &LlamaConfig, context: usize) -> Result<Self> {
        let bytes = Self::bytes_for(config, context)
            .filter(|bytes| *bytes <= MAX_CACHE_BYTES)
            .ok_or_else(|| EngineError::Option {
                option: "context",
                expected: format!("a key and value cache of at most {MAX_CACHE_BYTES} bytes"),
                found: format!("{context} tokens of {} layers", config.layers),
            })?;
        let allocator = Allocator::default();
        let tensors = (0..config.layers * 2)
            .map(|_| Tensor::<f32>::new(&allocator, [1, config.kv_heads, context, config.head_dim]))
            .collect::<ort::Result<Vec<_>>>()
            .map_err(|error| EngineError::Start {
                reason: format!("key and value cache of {bytes} bytes: {error}"),
            })?;
        Ok(Self { tensors, bytes })
    }

    /// Binds every buffer as past and present of its layer.
    pub(crate) fn bind(&mut self, binding: &mut IoBinding) -> ort::Result<()> {
        for (index, tensor) in self.tensors.iter_mut().enumerate() {
            let (past, present) = (past_name(index), present_name(index));
            binding.bind_input(past, &*tensor)?;
            binding.bind_output(present, tensor)?;
        }
        Ok(())
    }

    /// Size of the buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn bytes_for(config: &LlamaConfig, context: usize) -> Option<usize> {
        [
            2,
            config.kv_heads,
            context,
            config.head_dim,
            size_of::<f32>(),
        ]
        .into_iter()
        .try_fold(config.layers, |product, factor| product.checked_mul(factor))
    }
}

/// Graph input of the buffer at `index` (see [`KvCache::tensors`]).
pub(crate) fn past_name(index: usize) -> String {
    format!("past_key_values.{}.{}", index / 2, part(index))
}

/// Graph output of the buffer at `index`.
pub(crate) fn present_name(index: usize) -> String {
    format!("present.{}.{}", index / 2, part(index))
}

const fn part(index: usize) -> &'static str {
    if index.is_multiple_of(2) {
        "key"
    } else {
        "value"
    }
}
