//! The launcher: descriptors, command line, model catalogue. Starts and watches, decides nothing.

pub mod bench;
pub mod cmd;
pub mod descriptor;
pub mod models;
pub mod observe;
pub mod run;
