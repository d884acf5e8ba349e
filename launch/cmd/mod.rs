//! The verbs of the command line, one file each.

pub mod bench;
pub mod check;
pub mod compress;
mod connect;
pub mod expand;
pub mod gate;
pub mod graph;
pub mod launch;
pub mod model;
pub mod msg;
mod network;
pub mod node;
mod output;
pub(crate) mod progress;
mod qos;
pub mod schema;
mod stoppable;
pub mod topic;
pub mod try_node;
mod types;
mod usage;
