//! A graph, running: what `llmasos launch` starts and what `llmasos try` borrows from it.

pub mod child_process;
pub mod configure;
pub mod describe;
pub mod environment;
pub mod last_word;
pub mod lone;
pub mod models;
pub mod system;
