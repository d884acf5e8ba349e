//! Actors: where messages meet models.
//!
//! ```text
//! bus ─ the Zenoh session      port ─ a topic's contract held at a node's door     health ─ what everybody is doing
//! output ─ a node's topic on every lane    ros2 ─ its place in the ROS 2 graph    service ─ one question, one answer    clock ─ what stamps follow
//! model ─ one server per model, shared by the nodes   workers ─ what its thread does   supervise ─ who is restarted when
//! language ─ the language model's server, many answers at once   language_thread ─ what its thread does
//! speech · summary · advisor ─ the nodes; they meet on topics only      gate ─ decides without any model
//! ```

pub mod advisor;
pub mod bus;
pub mod clock;
pub mod contract;
pub mod frame;
pub mod gate;
pub mod health;
pub mod language;
mod language_thread;
pub mod model;
pub mod output;
pub mod port;
pub mod ros2;
pub mod service;
pub mod speech;
pub mod summary;
pub mod supervise;
pub mod wording;
pub mod workers;
