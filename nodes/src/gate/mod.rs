//! The gate: the last word on what a language model advises, in a process that contains none.
//!
//! It is a pure function with a thin edge. Messages become facts (`convert`), facts are believed or refused (`state`), and ten times
//! a second, and whenever something arrives, one function says what may pass (`decide`): it allocates nothing, cannot fail, and takes the
//! time as an argument. Only `node` knows the bus and only `process` knows the operating system. What it may let through is data
//! (`policy`), and every verdict carries the fingerprint of the policy that judged it.
//!
//! ```text
//!   advice ─┐
//!  command ─┤ convert   ┌───────┐         ┌────────┐
//!  summary ─┼──────────►│ state │────────►│ decide │──► GateVerdict ──► VelocityLimit (autoware)
//!      ego ─┤  facts    └───┬───┘         └───▲────┘
//!    modes ─┘               │ refused:        │ rules, limits
//!                           ▼ counted     ┌───┴────┐
//!                       refusal           │ policy │
//!                                         └────────┘
//! ```
//!
//! The order of the decision, first match wins: a person drives or a minimum-risk manoeuvre runs (nothing is advised) · a spoken STOP or
//! PULL_OVER holds · who is in charge is unknown · the vehicle's own state is unknown · there is no advice that lives · somebody took it
//! back · it is not allowed · the road is not seen or the policy refuses · somebody has to confirm · speed is bounded. An advice
//! once refused stays refused for as long as it lives: it takes a new advice to try again.

pub mod autoware;
pub mod convert;
pub mod decide;
pub mod fact;
pub mod node;
pub mod policy;
pub mod process;
pub mod refusal;
pub mod rule;
pub mod state;
pub mod watchdog;

mod charge;
mod scene;
mod speed;

#[cfg(test)]
mod command_tests;
#[cfg(test)]
mod decide_tests;
#[cfg(test)]
mod invariant_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod state_tests;
