//! `llmasos topic` and `llmasos node` in graphs of others: what rclpy, pyzeros and hiroz announce and publish, as a person sees it.
//!
//! The same commands in both kinds of graph, because the person should not have to know which one it is.

use std::process::Command;

use crate::{
    STEP_LIMIT,
    harness::{Process, llmasos},
    network::Network,
};

/// Where the commands are typed.
pub(crate) struct Shell<'a> {
    /// The router.
    pub(crate) endpoint: &'a str,
    /// `ROS_DOMAIN_ID`.
    pub(crate) domain: &'a str,
    /// Inside this network, or outside.
    pub(crate) network: Option<&'a Network>,
}

impl Shell<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = llmasos();
        // A quoted text is one word.
        let mut quoted = line.split('\'');
        while let Some(plain) = quoted.next() {
            command.args(plain.split_whitespace()).args(quoted.next());
        }
        command
            .args(["--connect", self.endpoint])
            .env("ROS_DOMAIN_ID", self.domain);
        match self.network {
            Some(network) => network.inside(&command),
            None => command,
        }
    }

    /// Runs a line that must end well, and say each of these.
    pub(crate) fn says(&self, line: &str, expected: &[&str]) {
        let finished = Process::start(&mut self.command(line)).finish(STEP_LIMIT);
        for word in expected {
            assert!(
                finished.stdout.contains(word),
                "llmasos {line}: expected {word:?}, found\n{}\n-- stderr\n{}",
                finished.stdout,
                finished.stderr
            );
        }
        let finished = finished.expect_code(0);
        drop(finished);
    }

    /// Looks at a graph in which `driver` drives at 20 Hz and our launch decides at 10 Hz.
    pub(crate) fn looks_around(&self, nodes: &[&str], driver: &str) {
        self.says("node list", nodes);
        self.says(
            "topic list -t",
            &[
                "/ego/odometry",
                "nav_msgs/msg/Odometry",
                "/ego/llmasos/gate/verdict",
                "llmasos_msgs/msg/GateVerdict",
            ],
        );
        self.says("topic type /ego/odometry", &["nav_msgs/msg/Odometry"]);
        self.says("topic find nav_msgs/Odometry", &["/ego/odometry"]);
        self.says(
            "topic info -v /ego/odometry",
            &["nav_msgs/msg/Odometry", driver],
        );
        self.says("topic echo /ego/odometry --once", &["base_link", "8.0"]);
        self.says("topic hz /ego/odometry --duration 3 --assert 10..30", &[]);
        self.says("topic delay /ego/odometry --duration 1", &[]);
        self.says("topic bw /ego/odometry --duration 1", &[]);
        // Published by two routes where the launch takes part in rmw_zenoh's graph, and counted once.
        self.says(
            "topic hz /ego/llmasos/gate/verdict --duration 3 --assert 7..14",
            &[],
        );
        self.says("node info /ego/gate", &["/ego/llmasos/gate/verdict"]);
    }
}
