//! The integration tests, one binary: everything that needs a process, a socket or a real model.
//!
//! One binary links once, so a test more costs seconds and not a minute. `tidy` and `layers` hold the rules of the tree
//! itself; the other modules look at the product from outside, the way a user does.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy's own switch does not reach helpers of test crates"
)]

mod command_line;
mod compress;
mod families;
#[allow(dead_code, reason = "shared with tests/peers, which uses all of it")]
mod harness;
mod hearing;
mod hostile_models;
mod layers;
mod models;
mod outside;
mod parity;
mod running;
mod seeing;
mod sources;
mod tasks;
mod tidy;
mod topics;
