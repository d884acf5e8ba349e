//! Steps that make models smaller. Each reads a [`Checkpoint`](crate::Checkpoint) and writes the next, or a model folder.

pub mod degrid;
pub mod quantize;
mod random;

pub use degrid::degrid;
