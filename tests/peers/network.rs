//! A network of one's own for processes that discover each other by multicast: a loopback with multicast, and nothing leaves it.
//!
//! DDS nodes find each other by multicast on fixed ports. Inside a network namespace they find those of one test and no others, whatever
//! else runs on the computer, and every port is free. It takes root, or user namespaces that the kernel permits; where neither is
//! there the test fails and says so.

use std::{process::Command, time::Duration};

use nix::unistd::Uid;

use crate::harness::Process;

/// For bringing up a loopback.
const LIMIT: Duration = Duration::from_secs(10);
const UP: &str = "ip link set lo up && ip link set lo multicast on && ip route add 224.0.0.0/4 dev lo && echo up && exec sleep infinity";

/// A network namespace, alive as long as this guard or a process inside.
pub(crate) struct Network {
    holder: Process,
}

impl Network {
    /// Makes one.
    pub(crate) fn private() -> Network {
        let mut command = Command::new("unshare");
        command.arg("--net");
        if !Uid::effective().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-c", UP]);
        let holder = Process::start(&mut command);
        holder.wait_for_line(
            "a private network namespace (needs root, or user namespaces that the kernel permits, and the command ip)",
            LIMIT,
            |line| line == "up",
        );
        Network { holder }
    }

    /// The same command, to be run inside.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.holder.pid().to_string(), "--net"]);
        if !Uid::effective().is_root() {
            inside.args(["--user", "--preserve-credentials"]);
        }
        inside
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }
}
