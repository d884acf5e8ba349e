//! Programs of others: run with a log, stopped by Ctrl-C, and found or installed beside the peer when this computer has none.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::models::{Event, Models, Reporter};

/// Its presence says that the packages of a peer are installed.
const MARK: &str = "installed";
/// What to do when they cannot be.
const NEXT_PYTHON: &str = "Next: install Python 3 with venv and pip (Debian, Ubuntu: apt install python3-venv) and run the same command again where \
                    there is a network; or leave `--against` out";
/// Pause between two looks at a running program.
const POLL: Duration = Duration::from_millis(100);
/// Lines of a log that an error repeats.
const LAST_LINES: usize = 5;
/// Pinned build tools for computers without their own.
const TOOLS: [&str; 2] = ["cmake==4.4.5", "ninja==1.13.2"];

/// Runs a program to its end; all it says goes into the log.
///
/// # Errors
/// When it cannot be started or fails (with the end of its log), and after Ctrl-C.
pub(crate) fn run(
    mut command: Command,
    what: &str,
    log: &Path,
    reporter: &mut dyn Reporter,
) -> Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening {}", log.display()))?;
    let also = file.try_clone().context("opening the log twice")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(also)
        .spawn()
        .with_context(|| {
            format!(
                "{what}: {} cannot be started",
                command.get_program().display()
            )
        })?;
    loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("waiting for {what}"))?
        {
            if status.success() {
                return Ok(());
            }
            bail!(
                "{what} failed ({status}). Its log {} ends:\n{}",
                log.display(),
                last_lines(log)
            );
        }
        if reporter.is_cancelled() {
            // Already gone is as good as killed; waiting reaps it either way.
            let _ = child.kill();
            let _ = child.wait();
            bail!("{what}: stopped; the same command begins it again");
        }
        std::thread::sleep(POLL);
    }
}

/// What a program prints on its standard output and error.
///
/// # Errors
/// When it cannot be started or fails.
pub(super) fn output(mut command: Command, what: &str) -> Result<(String, String)> {
    let done = command.stdin(Stdio::null()).output().with_context(|| {
        format!(
            "{what}: {} cannot be started",
            command.get_program().display()
        )
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&done.stdout), text(&done.stderr));
    if !done.status.success() {
        bail!("{what} failed ({}): {}", done.status, tail(&stderr));
    }
    Ok((stdout, stderr))
}

fn last_lines(log: &Path) -> String {
    tail(&std::fs::read_to_string(log).unwrap_or_default())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// cmake, ninja and a compiler.
pub(super) struct BuildTools {
    /// cmake.
    pub(super) cmake: PathBuf,
    /// ninja.
    pub(super) ninja: PathBuf,
}

impl BuildTools {
    /// Those of this computer; cmake and ninja are installed into `dir` when it has none.
    ///
    /// # Errors
    /// Without a C++ compiler, and when Python cannot install the tools; each says what to do.
    pub(super) fn find(dir: &Path, log: &Path, reporter: &mut dyn Reporter) -> Result<BuildTools> {
        if !answers(Path::new("c++")) {
            bail!(
                "no C++ compiler: `c++` cannot be started, and llama.cpp is built from source. Next: install one (Debian, Ubuntu: apt \
                 install g++) and run the same command again; without `--against` none is needed."
            );
        }
        let own = |name: &str| PathBuf::from(name);
        if answers(&own("cmake")) && answers(&own("ninja")) {
            return Ok(BuildTools {
                cmake: own("cmake"),
                ninja: own("ninja"),
            });
        }
        let tools = BuildTools {
            cmake: dir.join("bin/cmake"),
            ninja: dir.join("bin/ninja"),
        };
        if !answers(&tools.cmake) || !answers(&tools.ninja) {
            reporter.event(Event::Note {
                text: "cmake and ninja are not installed; fetching them beside the peer",
            });
            const NEXT: &str = "Next: install cmake and ninja (Debian, Ubuntu: apt install cmake ninja-build), or Python with venv and \
                                pip (apt install python3-venv) and a network, and run the same command again";
            install(dir, &TOOLS, NEXT, log, reporter)?;
        }
        Ok(tools)
    }
}

/// Whether a program tells its version.
fn answers(program: &Path) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Numbers as an option takes them: `128,512`.
pub(super) fn list(numbers: &[usize]) -> String {
    let words: Vec<String> = numbers.iter().map(usize::to_string).collect();
    words.join(",")
}

/// The folder of a peer in the cache, whose `venv` has these Python packages: installed once, by one process at a time. `name` is what people
/// call it, `id` the folder's name.
///
/// # Errors
/// When Python cannot make a virtual environment or fetch the packages, with the next step.
pub(crate) fn python_peer(
    models: &Models,
    (name, id): (&str, &str),
    packages: &[&str],
    reporter: &mut dyn Reporter,
) -> Result<PathBuf> {
    let dir = models.store().root().join("peers").join(id);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let _held = models.store().lock(id, reporter)?;
    let (mark, wanted) = (dir.join(MARK), packages.join(" "));
    if !fs::read_to_string(&mark).is_ok_and(|text| text == wanted) {
        let text = &format!("installing {name} beside the cache");
        reporter.event(Event::Note { text });
        let log = dir.join("install.log");
        new_log(&log)?;
        install(&dir.join("venv"), packages, NEXT_PYTHON, &log, reporter)?;
        fs::write(&mark, wanted).with_context(|| format!("writing {}", mark.display()))?;
    }
    Ok(dir)
}

/// Python packages in a virtual environment of their own; errors end with `next`, the next step.
fn install(
    dir: &Path,
    packages: &[&str],
    next: &str,
    log: &Path,
    reporter: &mut dyn Reporter,
) -> Result<()> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(dir);
    run(venv, "python3 -m venv", log, reporter).map_err(|error| anyhow!("{error:#}. {next}"))?;
    let mut pip = Command::new(dir.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]);
    pip.args(packages);
    let what = format!("installing {}", packages.join(", "));
    run(pip, &what, log, reporter).map_err(|error| anyhow!("{error:#}. {next}"))
}

/// An empty log.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn new_log(path: &Path) -> Result<()> {
    File::create(path)
        .map(drop)
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Cancel, Silent};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_fails_shows_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        new_log(&log).unwrap();
        run(shell("echo fine"), "first", &log, &mut Silent::default()).unwrap();
        let script = "for n in 1 2 3 4 5 6 7; do echo line $n; done; exit 3";
        let error = run(shell(script), "second", &log, &mut Silent::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("second failed") && error.ends_with("line 7"),
            "{error}"
        );
        assert!(
            !error.contains("fine") && !error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn ctrl_c_ends_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let cancel = Cancel::default();
        cancel.raise();
        let error = run(
            shell("sleep 60"),
            "sleeping",
            &dir.path().join("log"),
            &mut Silent { cancel },
        )
        .unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }

    #[test]
    fn programs_that_are_not_there_have_names() {
        let error = output(Command::new("no-such-program-here"), "asking")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no-such-program-here cannot be started"),
            "{error}"
        );
        assert!(!answers(Path::new("no-such-program-here")));
        let (out, err) = output(shell("echo a; echo b >&2"), "telling").unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("a\n", "b\n"));
        let error = output(shell("echo why >&2; exit 1"), "refusing")
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("why"), "{error}");
    }
}
