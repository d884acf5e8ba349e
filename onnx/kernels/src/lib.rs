//! The arithmetic of a decoder: packed matrices, attention over pages of keys and values, norms, by instruction set.
//!
//! A language model on a small computer is bound by two things: reading every weight once a token, and everything between
//! two matrices. So a whole decoder block is one call here: threads meet a few times a block instead of once an operator,
//! nothing is copied, and weights are read in place from the mapped file in the one layout that every instruction set
//! understands. This crate knows no runtime, no file and no thread pool; a caller brings slices and a way to run a function
//! on several threads.
//!
//! It is the only crate with `unsafe` code (vector instructions, and rows that threads share), so that no other needs it.
//!
//! ```text
//!   pack ──► matrix in tiles ─────────────┐
//!   block: norm ▸ product ▸ rotate ▸ attention(pool) ▸ product ▸ norm ▸ product ▸ activation ▸ product
//!            │        │                      │                       team: threads take tasks, phase after phase
//!            │        └ product: portable, avx2, avx512, amx, neon
//!            └ activation: rows as bytes
//! ```

mod activation;
mod attention;
pub mod block;
pub mod head;
mod isa;
pub mod norm;
pub mod pack;
pub mod pool;
mod product;
mod simd;
mod step;
mod team;
mod workspace;

pub use isa::{ALL, Isa, IsaError};
pub use step::{Step, StepError};
pub use team::{Alone, Threads};
pub use workspace::Workspace;
