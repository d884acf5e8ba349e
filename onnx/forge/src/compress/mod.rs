//! Steps that make models smaller. Each reads a [`Checkpoint`](crate::Checkpoint) and writes the next, or a model folder.

pub mod degrid;
pub mod prune;
mod random;
mod solve;

pub use degrid::degrid;
pub use prune::{PruneOptions, PruneReport, prune};
