//! What can go wrong with a model: one enum, so that a caller sees which model, which tensor, and both numbers.
//!
//! Every message names the thing and what to do about it where there is something to do. Errors of the audio and vision
//! halves live beside their code; what they get from here they pass on unchanged.

use std::path::PathBuf;

/// Result of everything in this crate that runs a model.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An error of the runtime, a session, a model folder, or a text model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The shared library of ONNX Runtime is not there or is not usable.
    #[error(
        "cannot load ONNX Runtime from {path}: {reason}; set ORT_DYLIB_PATH to a libonnxruntime.so of version 1.17 or later"
    )]
    Library {
        /// The library that was asked for.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The runtime could not be set up.
    #[error("cannot start ONNX Runtime: {reason}")]
    Start {
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A runtime with other options runs already; a process has one.
    #[error(
        "ONNX Runtime was started with {running}, and cannot be started again with {asked}: a process has one"
    )]
    AlreadyStarted {
        /// Options of the running one.
        running: String,
        /// Options asked for.
        asked: String,
    },
    /// An option is outside its range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// The permitted range.
        expected: String,
        /// The value given.
        found: String,
    },
    /// A file of a model cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file is larger than the limit for its kind.
    #[error("{path} has {found_bytes} bytes; at most {limit_bytes} are accepted")]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A file of a model folder has another size than the manifest says: a broken download or copy.
    #[error(
        "{path}: expected {expected_bytes} bytes as llmasos.json says, found {found_bytes}; pull the model again"
    )]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Size in the manifest.
        expected_bytes: u64,
        /// Size on disk.
        found_bytes: u64,
    },
    /// A file of a model folder has another content than the manifest says.
    #[error("{path}: expected sha256 {expected}, found {found}; pull the model again")]
    FileHash {
        /// The file.
        path: PathBuf,
        /// Hash in the manifest.
        expected: String,
        /// Hash on disk.
        found: String,
    },
    /// `llmasos.json` is not a valid manifest.
    #[error("{path}: {reason}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The first thing wrong with it.
        reason: String,
    },
    /// A model of another kind was expected.
    #[error("model {model}: expected family {expected}, found {found}")]
    Family {
        /// Name of the model.
        model: String,
        /// The family the loader is for.
        expected: &'static str,
        /// The family in the manifest.
        found: String,
    },
    /// ONNX Runtime refused the graph: damaged, truncated, or with operators it does not have.
    #[error("model {model} cannot be loaded from {path}: {reason}")]
    Load {
        /// Name of the model.
        model: String,
        /// Its graph file.
        path: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// The graph lacks a tensor, or has an input that nobody feeds.
    #[error("model {model}: {direction} {tensor}: {reason}; the graph has {found}")]
    TensorName {
        /// Name of the model.
        model: String,
        /// `input` or `output`.
        direction: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        reason: &'static str,
        /// The names in the graph.
        found: String,
    },
    /// A tensor has another element type or shape than expected.
    #[error("model {model}: {direction} {tensor}: expected {expected}, found {found}")]
    Tensor {
        /// Name of the model.
        model: String,
        /// `input` or `output`.
        direction: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// Element type and shape expected.
        expected: String,
        /// Element type and shape found.
        found: String,
    },
    /// A run failed inside ONNX Runtime.
    #[error("model {model}: run failed: {reason}")]
    Run {
        /// Name of the model.
        model: String,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A run was ended from another thread through a [`Terminator`](crate::session::Terminator).
    #[error("model {model}: run was ended from outside")]
    Terminated {
        /// Name of the model.
        model: String,
    },
    /// The tokenizer file is missing something or is damaged.
    #[error("model {model}: tokenizer: {reason}")]
    Tokenizer {
        /// Name of the model.
        model: String,
        /// What is wrong.
        reason: String,
    },
    /// The chat template cannot be read or fails for these messages.
    #[error("model {model}: chat template: {reason}")]
    ChatTemplate {
        /// Name of the model.
        model: String,
        /// What is wrong.
        reason: String,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    PromptEmpty,
    /// The prompt has more bytes than are ever tokenized.
    #[error("the prompt has {found_bytes} bytes; at most {limit_bytes} are accepted")]
    PromptTooLarge {
        /// Size of the prompt.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The prompt is not text.
    #[error("the prompt is not UTF-8: byte {at_byte} begins no character")]
    PromptNotText {
        /// Bytes before it are text.
        at_byte: usize,
    },
    /// The prompt leaves no room for an answer in the context.
    #[error(
        "the prompt has {prompt_tokens} tokens; the context of {context_tokens} tokens leaves no room for an answer"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Size of the context.
        context_tokens: usize,
    },
    /// A text for an encoder has more tokens than it reads.
    #[error(
        "the text has {text_tokens} tokens; the model reads at most {context_tokens}: divide it into sentences"
    )]
    TextTooLong {
        /// Tokens of the text, with those around it.
        text_tokens: usize,
        /// The most that the model reads.
        context_tokens: usize,
    },
    /// The request itself is wrong: a value out of range.
    #[error("request: {field}: expected {expected}, found {found}")]
    Request {
        /// Name of the field.
        field: &'static str,
        /// The permitted range.
        expected: String,
        /// The value given.
        found: String,
    },
    /// The schema, expression or grammar cannot be compiled, or no text satisfies it.
    #[error("grammar: {reason}")]
    Grammar {
        /// What is wrong.
        reason: String,
    },
    /// All pages of keys and values are in use.
    #[error("expected {needed} free pages of keys and values, found {free} of {total}")]
    PagesFull {
        /// Pages asked for.
        needed: usize,
        /// Pages nobody holds.
        free: usize,
        /// Pages in all.
        total: usize,
    },
    /// As many requests wait as may.
    #[error("expected at most {limit} waiting requests, found {limit}")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// At the measured rate, behind and beside what runs now, the answer would come too late.
    #[error("cannot finish by the deadline: needs about {need_ms} ms, {left_ms} ms are left")]
    TooLate {
        /// Expected duration.
        need_ms: u64,
        /// Time until the deadline.
        left_ms: u64,
    },
    /// The model's output is not a number anywhere: broken weights or a broken kernel.
    #[error("model {model}: no token has a finite score")]
    NotFinite {
        /// Name of the model.
        model: String,
    },
}
