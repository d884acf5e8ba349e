//! Steps that make models smaller. Each reads a [`Checkpoint`](crate::Checkpoint) and writes the next, or a model folder.
//!
//! ```text
//!   recipe ─► job ─┬─ change: degrid, prune, distil ─► checkpoint ─► …
//!                  └─ finish: quantize (coding, mixing), kv ─► model folder ─► report
//!   detectors, encoders: (published files ─ shorter ─►) model folder ─ ready ─► model folder ─► report
//! ```

mod coding;
pub mod degrid;
mod export;
mod job;
pub mod kv;
mod mixing;
pub mod prune;
pub mod quantize;
pub(crate) mod random;
mod ready;
pub mod recipe;
pub mod report;
mod search;
mod shorter;
mod smooth;
mod solve;
mod toward;

pub use coding::Chosen;
pub use degrid::degrid;
pub use export::write_gguf;
pub use job::{Tools, change, folder, key, parameters, source_hashes};
pub use kv::kv_int8;
pub use mixing::Mixes;
pub use prune::{PruneOptions, PruneReport, prune};
pub use ready::{Ready, ReadyTools, finish_graph, graph_parameters};
pub use report::attach;
pub use search::Search;
pub use shorter::Shorter;
