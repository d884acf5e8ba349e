//! Steps that make models smaller. Each reads a [`Checkpoint`](crate::Checkpoint) and writes the next, or a model folder.

mod coding;
pub mod degrid;
pub mod kv;
mod export;
mod job;
pub mod quantize;
mod random;
pub mod recipe;
pub mod report;
pub mod prune;
mod random;
mod solve;

pub use coding::Chosen;
pub use degrid::degrid;
pub use kv::kv_int8;
pub use export::write_gguf;
pub use job::{Tools, change, finish, key, parameters, source_hashes};
pub use report::attach;
pub use prune::{PruneOptions, PruneReport, prune};
