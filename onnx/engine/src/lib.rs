//! A model that runs: ONNX Runtime sessions, text, audio, vision.
//!
//! Synchronous and silent: nothing here knows the bus, starts a task, prints, or reads the environment. A caller owns a
//! model on a thread of its own, gives it data and gets data back; whoever watches that thread holds a
//! [`Terminator`](session::Terminator).
//!
//! ```text
//! runtime ─ one ONNX Runtime per process, one pool of inference threads
//!    └─ session ─ one graph, its tensors checked by name, type and shape
//!          ├─ text    prompt → tokens          (on a stock graph, or on operators of our own: fused)
//!          ├─ audio   samples → speech → words (silero-vad, moonshine)
//!          └─ vision  picture → objects        (ssd)
//! folder ─ the files of a model and what llmasos.json says about them
//! ```

pub mod audio;
pub mod error;
pub mod folder;
mod fused;
pub mod runtime;
pub mod session;
mod tensor;
pub mod text;
#[cfg(test)]
mod tiny_graph;
pub mod vision;

pub use error::{EngineError, Result};
pub use folder::{Manifest, ModelFolder};
pub use llmasos_kernels::{Isa, IsaError};
pub use runtime::{BUILT_LIBRARY, Runtime, RuntimeOptions, Spin};
