//! `llmasos topic` and `llmasos node` beside another process that speaks Zenoh as ROS 2 does.
//!
//! That process is the test: a session of its own, with tokens, keys and attachments written by hand as rmw_zenoh and
//! zenoh-bridge-ros2dds put them on the wire. The product is started as a user starts it and talks to it over loopback.

mod hearing;
mod manners;
mod peer;
mod speaking;
