//! Steps that make models smaller. Each reads a [`Checkpoint`](crate::Checkpoint) and writes the next, or a model folder.
//!
//! ```text
//!   recipe ─► job ─┬─ change: degrid, prune, distil ─► checkpoint ─► …
//!                  └─ finish: quantize (coding), kv ─► model folder ─► report
//!   detectors, encoders: model folder ─ ready ─► model folder ─► report
//! ```

mod coding;
pub mod degrid;
mod export;
mod job;
pub mod kv;
pub mod prune;
pub mod quantize;
mod random;
mod ready;
pub mod recipe;
pub mod report;
mod solve;

pub use coding::Chosen;
pub use degrid::degrid;
pub use export::write_gguf;
pub use job::{Tools, change, finish, key, parameters, source_hashes};
pub use kv::kv_int8;
pub use prune::{PruneOptions, PruneReport, prune};
pub use ready::{Ready, ReadyTools, finish_graph, graph_parameters};
pub use report::attach;
