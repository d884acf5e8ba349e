//! The verbs of the command line, one file each.

pub mod bench;
pub mod check;
pub mod expand;
pub mod gate;
pub mod graph;
pub mod launch;
pub mod model;
pub mod msg;
pub mod node;
mod output;
pub mod schema;
pub mod topic;
pub mod try_node;
mod types;
mod usage;
