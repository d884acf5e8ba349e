//! A language model: a prompt goes in, tokens come out.
//!
//! The generator is a plain iterator over a trait of five methods (`TokenModel`), so everything about stopping, sampling,
//! grammars and cancelling is tested on a model of a few lines, and the ONNX half only has to get the numbers right.
//!
//! ```text
//! messages ─ chat ─► prompt ─ tokenizer ─► tokens ─┐
//!                                                  ▼
//!        decoder (graph + KV buffers) ◄─ append ─ generate ─► piece, piece, piece … ─► finished
//!                     └──── scores ────► grammar mask ─ sampler ─┘
//! ```

mod chat;
mod decoder;
mod encoder;
mod generate;
#[cfg(test)]
mod generate_tests;
mod grammar;
mod kv;
mod language_model;
mod rate;
mod request;
mod sampler;
mod tail;
#[cfg(test)]
mod tiny;
mod tokenizer;

pub use chat::{ChatMessage, MAX_MESSAGES, Role};
pub use decoder::LlamaConfig;
pub use encoder::{Encoder, EncoderConfig, Pooling};
pub use generate::Generation;
pub use grammar::{Grammar, MAX_CHOICES, MAX_GRAMMAR_BYTES};
pub use language_model::{LanguageModel, LoadOptions};
pub use rate::Rate;
pub use request::{
    CancelToken, FinishReason, Finished, MAX_PROMPT_BYTES, MAX_STOP_BYTES, MAX_STOPS, Piece,
    Request,
};
pub use sampler::Sampling;
