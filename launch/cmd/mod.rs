//! The verbs of the command line, one file each.

pub mod check;
pub mod expand;
pub mod graph;
pub mod model;
pub mod schema;
