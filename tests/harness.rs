//! What a test needs to run the product as a user does: a process that never outlives the test, its output line by line,
//! a free port, a wait that has a deadline.
//!
//! Nothing here sleeps for a guessed time: a wait ends when the thing is there, or fails at its deadline with what was
//! seen until then. Each process leads its own process group, which dies with the guard, so a failing test leaves no
//! node behind.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// How often a condition is looked at that cannot wake its waiter.
const POLL: Duration = Duration::from_millis(10);

/// The product's command, ready for arguments.
pub(crate) fn llmasos() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmasos"));
    command
        .env("NO_COLOR", "1")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What a finished run left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// All of standard output.
    pub(crate) stdout: String,
    /// All of standard error.
    pub(crate) stderr: String,
}

impl Finished {
    /// The same, after checking the exit code; a wrong one shows what was printed.
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code\n-- stdout\n{}\n-- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as JSON, one object a line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
        };
        self.stdout
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(parse)
            .collect()
    }
}

/// Runs the product to its end; a run over `limit` is killed and fails the test.
pub(crate) fn run<S: AsRef<OsStr>>(args: &[S], limit: Duration) -> Finished {
    let mut command = llmasos();
    command.args(args);
    Process::start(&mut command).finish(limit)
}

/// Runs the product to its end with `input` on its standard input.
pub(crate) fn run_with_input<S: AsRef<OsStr>>(
    args: &[S],
    input: &[u8],
    limit: Duration,
) -> Finished {
    let mut command = llmasos();
    command.args(args);
    let mut process = Process::spawn(&mut command, Stdio::piped());
    let mut pipe = process.stdin.take().unwrap().into_inner().unwrap();
    let input = input.to_vec();
    // Beside the waiting: a product that does not read everything must not hold the test.
    std::thread::spawn(move || pipe.write_all(&input));
    process.finish(limit)
}

/// A running process; dropped, its whole process group is killed and the process reaped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<Mutex<ChildStdin>>,
    stdout: Captured,
    stderr: Captured,
}

impl Process {
    /// Starts `command` as leader of its own process group with both outputs captured and nothing to read.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::spawn(command, Stdio::null())
    }

    /// The same, for a process that takes orders: see [`Process::order`].
    pub(crate) fn start_to_be_ordered(command: &mut Command) -> Self {
        Self::spawn(command, Stdio::piped())
    }

    fn spawn(command: &mut Command, stdin: Stdio) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let stdout = Captured::of(child.stdout.take().unwrap());
        let stderr = Captured::of(child.stderr.take().unwrap());
        let stdin = child.stdin.take().map(Mutex::new);
        Self {
            child,
            stdin,
            stdout,
            stderr,
        }
    }

    /// Writes one line to standard input.
    pub(crate) fn order(&self, line: &str) {
        let stdin = self.stdin.as_ref().expect("started to be ordered");
        writeln!(stdin.lock().unwrap(), "{line}")
            .unwrap_or_else(|error| panic!("{error}: {line}\n{}", self.seen()));
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Sends a signal to this process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// The first line of standard output that `wanted` accepts, from the start of the run.
    pub(crate) fn wait_for_line(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let found = self.stdout.wait(limit, |lines, _| {
            lines.iter().find(|line| wanted(line)).cloned()
        });
        found.unwrap_or_else(|| panic!("{what}: not within {limit:?}\n{}", self.seen()))
    }

    /// How many lines of standard output there are: what comes after is newer than this moment.
    pub(crate) fn mark(&self) -> usize {
        let count = self
            .stdout
            .wait(Duration::ZERO, |lines, _| Some(lines.len()));
        count.unwrap_or_default()
    }

    /// The first JSON line after `mark` that `wanted` accepts, with the mark behind it.
    pub(crate) fn wait_for_json_after(
        &self,
        mark: usize,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> (Value, usize) {
        let found = self.stdout.wait(limit, |lines, _| {
            let new = lines.iter().enumerate().skip(mark);
            new.filter_map(|(at, line)| Some((serde_json::from_str::<Value>(line).ok()?, at + 1)))
                .find(|(value, _)| wanted(value))
        });
        found.unwrap_or_else(|| panic!("{what}: not within {limit:?}\n{}", self.seen_after(mark)))
    }

    /// Whether one of the lines from `mark` to before `until` is a JSON line that `wanted` accepts.
    pub(crate) fn has_json_between(
        &self,
        mark: usize,
        until: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> bool {
        let found = self.stdout.wait(Duration::ZERO, |lines, _| {
            let mut values = lines[mark..until]
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok());
            values.any(|value| wanted(&value)).then_some(())
        });
        found.is_some()
    }

    /// Whether a line of standard output so far is one that `wanted` accepts.
    pub(crate) fn has_line(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.stdout
            .wait(Duration::ZERO, |lines, _| {
                lines.iter().any(|line| wanted(line)).then_some(())
            })
            .is_some()
    }

    /// The first JSON line of standard output that `wanted` accepts, from the start of the run.
    pub(crate) fn wait_for_json(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let parse = |line: &str| serde_json::from_str::<Value>(line).ok();
        let line = self.wait_for_line(what, limit, |line| {
            parse(line).is_some_and(|value| wanted(&value))
        });
        parse(&line).unwrap()
    }

    /// Waits for the end; over `limit` the test fails and the guard kills.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut ended = || self.child.try_wait().unwrap();
        match wait_until(limit, &mut ended) {
            Some(status) => status,
            None => panic!("still running after {limit:?}\n{}", self.seen()),
        }
    }

    /// Waits for the end and collects everything that was printed; there are no more orders.
    pub(crate) fn finish(mut self, limit: Duration) -> Finished {
        drop(self.stdin.take());
        let status = self.wait(limit);
        Finished {
            code: status.code(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }

    fn seen_after(&self, mark: usize) -> String {
        let lines = self.stdout.so_far();
        let new: Vec<&str> = lines.lines().skip(mark).collect();
        format!(
            "-- stdout after line {mark}\n{}\n-- stderr\n{}",
            new.join("\n"),
            self.stderr.so_far()
        )
    }

    fn seen(&self) -> String {
        format!(
            "-- stdout\n{}\n-- stderr\n{}",
            self.stdout.so_far(),
            self.stderr.so_far()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = killpg(self.pid(), Signal::SIGKILL);
        let _reaped = self.child.wait();
    }
}

/// Lines of a pipe, read by a thread so that the writer never blocks.
struct Captured {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

/// How long the pipes may stay open after the process itself has ended (a child may still hold them).
const DRAIN: Duration = Duration::from_secs(5);

impl Captured {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Lines::default()), Condvar::new()));
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            loop {
                line.clear();
                let ended = !matches!(pipe.read_until(b'\n', &mut line), Ok(1..));
                let mut captured = ours.0.lock().unwrap();
                if ended {
                    captured.ended = true;
                } else {
                    captured.lines.push(
                        String::from_utf8_lossy(&line)
                            .trim_end_matches('\n')
                            .to_owned(),
                    );
                }
                ours.1.notify_all();
                if ended {
                    return;
                }
            }
        });
        Self { shared }
    }

    /// What `look(lines, ended)` finds, asked again at every new line until `limit` or the end of the pipe.
    fn wait<T>(&self, limit: Duration, look: impl Fn(&[String], bool) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut captured = self.shared.0.lock().unwrap();
        loop {
            let found = look(&captured.lines, captured.ended);
            let left = deadline.saturating_duration_since(Instant::now());
            if found.is_some() || captured.ended || left.is_zero() {
                return found;
            }
            captured = self.shared.1.wait_timeout(captured, left).unwrap().0;
        }
    }

    fn all(&self) -> String {
        self.wait(DRAIN, |_, ended| ended.then_some(()));
        self.so_far()
    }

    fn so_far(&self) -> String {
        self.shared.0.lock().unwrap().lines.join("\n")
    }
}

/// What `look` finds, asked again and again until `limit`.
pub(crate) fn wait_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(POLL);
    }
}

/// A TCP port of the loopback nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Process ids of all descendants of `parent` that are still there.
pub(crate) fn descendants(parent: Pid) -> Vec<Pid> {
    let mut found = vec![];
    let mut next = vec![parent];
    while let Some(pid) = next.pop() {
        let children = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .flat_map(|task| {
                let listed =
                    std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                listed
                    .split_whitespace()
                    .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
                    .collect::<Vec<_>>()
            });
        let children: Vec<_> = children.collect();
        found.extend(&children);
        next.extend(children);
    }
    found
}

/// Whether the process is there and not a zombie.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, after)| !after.starts_with(['Z', 'X']))
}

#[test]
fn a_dropped_process_takes_its_children_along() {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & echo started; wait"]);
    let process = Process::start(&mut command);
    process.wait_for_line("the shell", Duration::from_secs(10), |line| {
        line == "started"
    });
    let all: Vec<_> = descendants(process.pid())
        .into_iter()
        .chain([process.pid()])
        .collect();
    assert_eq!(all.len(), 2, "a shell and its sleep");
    drop(process);
    let gone = wait_until(Duration::from_secs(10), || {
        all.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
    assert!(gone.is_some(), "still alive: {all:?}");
}

#[test]
fn output_and_code_are_captured() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo '{\"a\":1}'; echo two >&2; exit 3"]);
    let finished = Process::start(&mut command)
        .finish(Duration::from_secs(10))
        .expect_code(3);
    assert_eq!(finished.json_lines(), [serde_json::json!({"a": 1})]);
    assert_eq!(finished.stderr, "two");
}
