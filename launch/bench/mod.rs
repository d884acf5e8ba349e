//! Benchmarks: numbers that the README may quote, printed by the command that measured them.

pub mod bus;
pub mod cdr;
mod child;
pub mod compress;
pub mod model;
pub mod nodes;
