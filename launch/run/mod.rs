//! A graph, running: what `llmasos launch` starts and what `llmasos try` borrows from it.

pub mod configure;
pub mod gate_process;
pub mod models;
pub mod system;
