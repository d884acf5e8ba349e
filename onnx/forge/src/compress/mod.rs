//! Steps that make models smaller. Each reads a [`Checkpoint`](crate::Checkpoint) and writes the next, or a model folder.

pub mod degrid;
pub mod kv;
pub mod prune;
pub mod quantize;
mod random;
mod solve;

pub use degrid::degrid;
pub use kv::kv_int8;
pub use prune::{PruneOptions, PruneReport, prune};
