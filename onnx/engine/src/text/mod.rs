//! Language models: prompts go in, tokens come out, for many at once.
//!
//! One [`TextServer`] per model mixes the answers it is asked for: each step runs the next token of every answer and a part
//! of somebody's prompt. What decides is pure (`schedule`, `pages`, `prefix`, `answer`) and tested on a model of a few lines
//! behind the trait [`StepModel`]; the ONNX half only has to get the numbers right.
//!
//! ```text
//! messages ─ chat ─► prompt ─ tokenizer ─► answer a ─┐                         ┌─► scores ─► grammar mask ─ sampler ─► piece
//!                                          answer b ─┼─ schedule ─► step ──────┼─► scores ─► …
//!                                          answer c ─┘   store: pages, prefix  └─► …
//!
//! step      what runs: the fused graph, the stock decoder (decoder, kv), a few lines for tests (tiny)
//! schedule  who runs how much of it: priorities, deadlines, measured cost (cost, rate)
//! store     where keys and values are: pages held and shared, beginnings kept (pages, prefix)
//! answer    what comes of it: grammar, sampler, stop strings (tail), budget
//! server    all of them together; turn is its step, generation one answer of it as an iterator
//! ```

mod answer;
#[cfg(test)]
mod answer_tests;
mod chat;
mod cost;
mod decoder;
mod encoder;
mod generation;
mod grammar;
mod kv;
mod language_model;
mod pages;
mod prefix;
mod rate;
mod request;
mod sampler;
mod schedule;
mod score;
mod server;
#[cfg(test)]
mod server_tests;
mod step;
mod store;
mod tail;
#[cfg(test)]
mod tiny;
mod tokenizer;
mod turn;
mod warm_up;

pub use chat::{ChatMessage, MAX_MESSAGES, Role};
pub use decoder::{KvStorage, LlamaConfig};
pub use encoder::{Encoder, EncoderConfig, Pooling};
pub use generation::Generation;
pub use grammar::{Grammar, MAX_CHOICES, MAX_GRAMMAR_BYTES};
pub use language_model::{GraphChoice, LanguageModel, LanguageParts, LoadOptions};
pub use rate::Rate;
pub use request::{
    CancelToken, FinishReason, Finished, MAX_PROMPT_BYTES, MAX_STOP_BYTES, MAX_STOPS, Piece,
    Request,
};
pub use sampler::Sampling;
pub use server::{Event, Load, MAX_QUEUED, RequestId, TextServer};
pub use step::{Memory, Rows, StepModel};
pub use tokenizer::Tokenizer;
