//! Models in, smaller or divided models out.
//!
//! The forge turns what is published (a GGUF file, a Hugging Face folder, a frozen TensorFlow graph, an ONNX file as it is) into a model folder that
//! the engine runs: an ONNX graph, its weights in one mapped file, a tokenizer, and `llmasos.json` which says what it is and
//! where it came from. Everything is written in Rust, synchronous, and silent: progress and cancellation go through one
//! callback, errors are values, and nothing here reads the environment.
//!
//! ```text
//!   GGUF ─► gguf ─────────────┐
//!   folder ─► safetensors ────┴─► architecture ─► decoder | encoder ─┐
//!   (huggingface)   (weights)     + tokenizer     (matrix, quantize) ├─► graph ──► writer ──► folder ──► engine
//!   GraphDef ─► tensorflow ─► ssd ───────────────────────────────────┘   (proto)   (*.onnx,    (llmasos.json,
//!   ready files ──────────────────────────────────────────────────────────────────► .data)      sha256, rename)
//!   *.onnx ─► onnx_file ─► graph ─► static_int8 (samples, engine) ─► graph ─► writer
//! ```
//!
//! Every input is untrusted. Readers check sizes before they allocate, use checked arithmetic, and name what is wrong.

pub mod architecture;
pub mod checkpoint;
pub mod compress;
pub mod corpus;
pub mod decoder;
pub mod differentiate;
pub mod distil;
pub mod encoder;
pub mod error;
pub mod evaluate;
pub mod folder;
pub mod gguf;
pub mod graph;
mod huggingface;
mod import;
mod language;
#[cfg(test)]
mod language_tests;
pub mod mapped;
pub mod matrix;
pub mod onnx_file;
mod operators;
mod parallel;
pub mod pictures;
pub mod proto;
pub mod quantize;
pub mod recipe;
pub mod safetensors;
pub mod ssd;
pub mod static_int8;
pub mod tensorflow;
pub mod tokenizer;
pub mod walk;
pub mod weights;
pub mod writer;

pub use checkpoint::Checkpoint;
pub use error::ForgeError;
pub use folder::{ModelFolderSummary, Progress, Provenance, SourceRecord, Step, Watch};
pub use import::{ImportOptions, import, import_checkpoint, is_encoder};
pub use language::Ends;
pub use recipe::{Recipe, WeightFormat, build};
