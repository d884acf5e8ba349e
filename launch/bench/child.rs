//! This program once more, in a process of its own: what it costs is then its own too.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::models::Reporter;

/// Pause between two looks at the child. Longer than a figure takes is of no harm, shorter would disturb it.
const POLL: Duration = Duration::from_millis(100);

/// This program, to be given arguments.
///
/// # Errors
/// When it cannot be found.
pub(super) fn this_program() -> Result<Command> {
    let program = std::env::current_exe().context("finding this program")?;
    Ok(Command::new(program))
}

/// Runs a child to its end: how it ended, and what it printed. Its errors stand where ours do.
///
/// # Errors
/// When it cannot be started or read, and after Ctrl-C, which ends it.
pub(super) fn run(
    command: &mut Command,
    reporter: &mut dyn Reporter,
) -> Result<(ExitStatus, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting this program")?;
    // Read as it comes: a pipe that is full would hold the child up.
    let out = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let read = out.map(|mut out| out.read_to_string(&mut text));
        read.transpose().map(|_| text)
    });
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for this program")? {
            break status;
        }
        if reporter.is_cancelled() {
            // Already gone is as good as killed; waiting reaps it either way.
            let _ = child.kill();
            let _ = child.wait();
            bail!("stopped");
        }
        std::thread::sleep(POLL);
    };
    let text = match reading.join() {
        Ok(read) => read.context("reading what it printed")?,
        Err(_) => bail!("reading what it printed failed"),
    };
    Ok((status, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Event;

    struct Listener {
        is_cancelled: bool,
    }

    impl Reporter for Listener {
        fn event(&mut self, _: Event<'_>) {}

        fn is_cancelled(&self) -> bool {
            self.is_cancelled
        }
    }

    #[test]
    fn all_that_a_child_prints_is_heard_and_a_stop_ends_it() {
        let mut quiet = Listener {
            is_cancelled: false,
        };
        let script = "head -c 300000 /dev/zero; exit 3";
        let mut command = Command::new("sh");
        let (status, text) = run(command.args(["-c", script]), &mut quiet).unwrap();
        assert_eq!((status.code(), text.len()), (Some(3), 300_000));
        let mut stopped = Listener { is_cancelled: true };
        let error = run(Command::new("sleep").arg("600"), &mut stopped).unwrap_err();
        assert_eq!(error.to_string(), "stopped");
    }
}
