//! Finding out where a distribution is: the user's own package installer knows, so it is asked.
//!
//! Companies have mirrors, cars have none, and the address of a registry is no business of this code. `pip` knows which index the user
//! has configured (file, environment, or its own default), so its settings are read with two of its documented verbs, and the index is
//! asked for the page of the project. Asking pip for the address itself (`install --dry-run --report`) is not done: before pip 25.3 a
//! dry run fetches the whole archive first, and every model would come twice.
//!
//! What the page cannot give (a private index behind a keyring, a folder of wheels, a client certificate) is left to `pip download`,
//! which knows everything the user has told it. It can neither resume nor show progress, so it comes second. Nothing of a package is
//! run: only wheels are accepted.
//!
//! ```text
//! pip config list ─┬─ index-url ─────────────┐
//!                  └─ none: pip download -h ─┴─► <index>/<project>/ ─► address ─► fetch.rs
//!                                  any failure └─► pip download ─► file
//! ```

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::catalogue::Distribution;
use super::error::{ModelError, Unresolved};
use super::http::{self, Address};
use super::index;
use super::report::{Event, Reporter};
use super::store::create_dir;

/// Longest time pip may take to print its settings.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time pip may take to fetch one distribution.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// Most output of pip that is kept.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;
/// Pause between two looks at a running pip.
const POLL: Duration = Duration::from_millis(20);
/// Most indexes asked.
const MAX_INDEXES: usize = 8;

/// Asks pip, once, and remembers.
#[derive(Debug)]
pub(crate) struct Resolver {
    python: PathBuf,
    indexes: Option<Result<Vec<Address>, String>>,
}

/// How a run of pip ended.
struct Finished {
    is_success: bool,
    stdout: String,
    stderr: String,
}

/// Why pip did not run to its end.
enum PipFailure {
    NoPython(String),
    NoPip,
    TimedOut,
    Cancelled,
    Other(String),
}

impl Resolver {
    /// With `python3` of the path.
    pub(crate) fn new() -> Resolver {
        Resolver::with_python("python3")
    }

    /// With this interpreter.
    pub(crate) fn with_python(python: impl Into<PathBuf>) -> Resolver {
        Resolver {
            python: python.into(),
            indexes: None,
        }
    }

    /// The address of a distribution on the first configured index that has it.
    ///
    /// # Errors
    /// A sentence without final stop: what was tried and what happened. The caller goes on with [`Resolver::download`].
    pub(crate) fn locate(
        &mut self,
        agent: &ureq::Agent,
        wanted: &Distribution,
        reporter: &mut dyn Reporter,
    ) -> Result<Address, String> {
        reporter.event(Event::Resolving { file: &wanted.file });
        if self.indexes.is_none() {
            self.indexes = Some(self.read_settings(reporter));
        }
        let indexes = match &self.indexes {
            Some(Ok(indexes)) => indexes,
            Some(Err(reason)) => return Err(reason.clone()),
            None => return Err("no index is known".into()),
        };
        let mut reasons = Vec::new();
        for address in indexes {
            match ask_index(agent, address, wanted) {
                Ok(found) => return Ok(found),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }

    /// Lets `pip download` put a distribution into `dir` and returns the file. The caller checks its content.
    ///
    /// # Errors
    /// [`ModelError::Resolve`] with pip's own last words and the next step, [`ModelError::Cancelled`].
    pub(crate) fn download(
        &self,
        wanted: &Distribution,
        dir: &Path,
        before: &str,
        reporter: &mut dyn Reporter,
    ) -> Result<PathBuf, ModelError> {
        create_dir(dir)?;
        reporter.event(Event::Note {
            text: &format!("{}: {before}; asking pip to fetch it", wanted.file),
        });
        let verb = [
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
            "--quiet",
            "--retries",
            "1",
        ];
        let mut command = self.pip(&verb);
        command
            .arg("--dest")
            .arg(dir)
            .args(tag_arguments(&wanted.file));
        command.arg(format!("{}=={}", wanted.package, wanted.version));
        let file = dir.join(&wanted.file);
        let (reason, next) = match run(command, DOWNLOAD_TIMEOUT, reporter) {
            Ok(finished) if finished.is_success && file.is_file() => return Ok(file),
            Ok(finished) if finished.is_success => {
                let next = "check which platforms your package index carries";
                ("pip fetched another file of this version".into(), next)
            }
            Ok(finished) => (
                format!("pip: {}", last_words(&finished.stderr)),
                next_step(&finished.stderr),
            ),
            Err(PipFailure::Cancelled) => return Err(ModelError::Cancelled),
            Err(PipFailure::NoPython(reason)) => (
                reason,
                "install Python 3 with pip (Debian, Ubuntu: apt install python3-pip)",
            ),
            Err(PipFailure::NoPip) => (
                "python3 has no pip".into(),
                "install pip (Debian, Ubuntu: apt install python3-pip)",
            ),
            Err(PipFailure::TimedOut) => (
                format!("pip did not finish in {} s", DOWNLOAD_TIMEOUT.as_secs()),
                "check the network",
            ),
            Err(PipFailure::Other(reason)) => (reason, "run the same command again"),
        };
        Err(unresolved(wanted, dir, before, reason, next))
    }

    /// The indexes in the order in which they are asked.
    fn read_settings(&self, reporter: &mut dyn Reporter) -> Result<Vec<Address>, String> {
        let listed = self.settings_of(&["config", "list"], reporter)?;
        let settings = Settings::from_list(&listed);
        if settings.has_no_index {
            return Err("pip is configured to ask no index".into());
        }
        let index = match settings.index {
            Some(index) => index,
            None => default_index(&self.settings_of(&["download", "--help"], reporter)?)
                .ok_or("pip does not say which index it uses")?,
        };
        let addresses = std::iter::once(index)
            .chain(settings.extra_indexes)
            .take(MAX_INDEXES);
        Ok(addresses
            .filter(|url| url.starts_with("http://") || url.starts_with("https://"))
            .map(|url| Address::new(&url))
            .collect())
    }

    fn settings_of(&self, verb: &[&str], reporter: &mut dyn Reporter) -> Result<String, String> {
        match run(self.pip(verb), SETTINGS_TIMEOUT, reporter) {
            Ok(finished) if finished.is_success => Ok(finished.stdout),
            Ok(finished) => Err(format!(
                "pip {}: {}",
                verb.join(" "),
                last_words(&finished.stderr)
            )),
            Err(PipFailure::NoPython(reason)) => Err(reason),
            Err(PipFailure::NoPip) => Err("python3 has no pip".into()),
            Err(PipFailure::TimedOut) => Err(format!(
                "pip {} did not answer in {} s",
                verb.join(" "),
                SETTINGS_TIMEOUT.as_secs()
            )),
            Err(PipFailure::Cancelled) => Err("stopped".into()),
            Err(PipFailure::Other(reason)) => Err(reason),
        }
    }

    fn pip(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        // A wide terminal, so that help texts do not break an address into two lines.
        command
            .args(["-m", "pip"])
            .args(arguments)
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("COLUMNS", "4000")
            .env("NO_COLOR", "1");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// The error that says what was tried first, what pip said then, and where to put the file by hand.
fn unresolved(
    wanted: &Distribution,
    dir: &Path,
    before: &str,
    reason: String,
    next: &str,
) -> ModelError {
    let is_said = before.contains(&reason);
    ModelError::Resolve(Box::new(Unresolved {
        file: wanted.file.clone(),
        package: wanted.package.clone(),
        version: wanted.version.clone(),
        reason: if is_said {
            before.to_owned()
        } else {
            format!("{before}; {reason}")
        },
        next: next.to_owned(),
        sha256: wanted.pin.sha256.clone(),
        dir: dir.parent().map(Path::to_owned).unwrap_or_default(),
    }))
}

/// Fetches the page of the project and finds the file on it.
fn ask_index(
    agent: &ureq::Agent,
    address: &Address,
    wanted: &Distribution,
) -> Result<Address, String> {
    let page_address = address.related(&index::page_url(&address.url, &wanted.package));
    let shown = &page_address.url;
    let mut response = http::get(agent, &page_address, &[("Accept", index::ACCEPT)])
        .map_err(|e| format!("no answer from {shown}: {e}"))?;
    if response.status().as_u16() != 200 {
        return Err(format!("{shown} answered {}", response.status().as_u16()));
    }
    let base = ureq::ResponseExt::get_uri(&response).to_string();
    let is_json = response
        .body()
        .mime_type()
        .is_some_and(|mime| mime.contains("json"));
    let page = response
        .body_mut()
        .with_config()
        .limit(index::MAX_PAGE_BYTES)
        .read_to_vec()
        .map_err(|e| format!("{shown}: {e}"))?;
    let url = index::find(&page, is_json, &base, wanted)?;
    Ok(page_address.related(&url))
}

/// Runs pip with a time limit; output is bounded, Ctrl-C ends it.
fn run(
    mut command: Command,
    limit: Duration,
    reporter: &mut dyn Reporter,
) -> Result<Finished, PipFailure> {
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => PipFailure::NoPython("python3 is not installed".into()),
        _ => PipFailure::NoPython(format!("python3 cannot be started: {e}")),
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = |from: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut from) = from {
                // A pipe that breaks has said what it had to say; the rest is read and dropped so that pip is not blocked.
                let _ = from.by_ref().take(MAX_OUTPUT_BYTES).read_to_end(&mut text);
                let _ = std::io::copy(&mut from, &mut std::io::sink());
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(stdout.map(|pipe| Box::new(pipe) as _));
    let stderr = read(stderr.map(|pipe| Box::new(pipe) as _));
    let until = Instant::now() + limit;
    let status = loop {
        let ended = child
            .try_wait()
            .map_err(|e| PipFailure::Other(format!("waiting for pip: {e}")))?;
        if let Some(status) = ended {
            break status;
        }
        let is_cancelled = reporter.is_cancelled();
        if is_cancelled || Instant::now() >= until {
            // Already gone is as good as killed; waiting reaps it either way.
            let _ = child.kill();
            let _ = child.wait();
            return Err(if is_cancelled {
                PipFailure::Cancelled
            } else {
                PipFailure::TimedOut
            });
        }
        std::thread::sleep(POLL);
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if stderr.contains("No module named pip") {
        return Err(PipFailure::NoPip);
    }
    Ok(Finished {
        is_success: status.success(),
        stdout,
        stderr,
    })
}

/// What `pip config list` says about indexes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    index: Option<String>,
    extra_indexes: Vec<String>,
    has_no_index: bool,
}

impl Settings {
    /// Lines such as `global.index-url='https://host/simple'`; the environment (`:env:.`) wins over a section of the verb, that over
    /// the global section, as pip itself orders them.
    fn from_list(text: &str) -> Settings {
        let mut settings = Settings::default();
        let rank = |section: &str| match section {
            ":env:" => 3,
            "download" => 2,
            "global" => 1,
            _ => 0,
        };
        let (mut index_rank, mut extra_rank, mut no_index_rank) = (0, 0, 0);
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let Some((section, name)) = key.trim().rsplit_once('.') else {
                continue;
            };
            let rank = rank(section);
            let value = value.trim().trim_matches(['\'', '"']).replace("\\n", " ");
            match name {
                "index-url" if rank > index_rank => {
                    (settings.index, index_rank) = (Some(value.trim().to_owned()), rank)
                }
                "extra-index-url" if rank > extra_rank => {
                    (settings.extra_indexes, extra_rank) =
                        (value.split_whitespace().map(str::to_owned).collect(), rank);
                }
                "no-index" if rank > no_index_rank => {
                    let is_on = matches!(
                        value.trim().to_ascii_lowercase().as_str(),
                        "1" | "true" | "yes" | "on" | "y" | "t"
                    );
                    (settings.has_no_index, no_index_rank) = (is_on, rank);
                }
                _ => {}
            }
        }
        settings
    }
}

/// The address in `-i, --index-url <url> … (default ADDRESS)` of pip's help.
fn default_index(help: &str) -> Option<String> {
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let after = words.split_once("--index-url")?.1;
    let default = after.split_once("(default ")?.1.split_once(')')?.0;
    // pip hides passwords here; an address with stars in it is no address.
    let is_usable = default.contains("://") && !default.contains("****") && !default.contains(' ');
    is_usable.then(|| default.to_owned())
}

/// The options that make pip choose the file by its own tags instead of this computer's (the archive holds data, not programs).
fn tag_arguments(wheel: &str) -> Vec<String> {
    let tags: Vec<&str> = wheel.trim_end_matches(".whl").rsplitn(4, '-').collect();
    let [platforms, abi, python, _] = tags.as_slice() else {
        return Vec::new();
    };
    let implementation: String = python
        .split('.')
        .next()
        .unwrap_or("py")
        .chars()
        .take(2)
        .collect();
    // Any version that the package accepts will do; a recent one is accepted by most.
    let mut arguments = vec![
        "--python-version".into(),
        "3.11".into(),
        "--implementation".into(),
        implementation,
        "--abi".into(),
        (*abi).to_owned(),
    ];
    for platform in platforms.split('.') {
        arguments.extend(["--platform".to_owned(), platform.to_owned()]);
    }
    arguments
}

/// The last line that pip calls an error, else its last line.
fn last_words(stderr: &str) -> String {
    let lines = || {
        stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let line = lines()
        .rfind(|line| line.starts_with("ERROR"))
        .or_else(|| lines().next_back())
        .unwrap_or("it failed without a word");
    line.chars().take(300).collect()
}

/// What to do about pip's complaint.
fn next_step(stderr: &str) -> &'static str {
    let has = |needles: &[&str]| needles.iter().any(|needle| stderr.contains(needle));
    if has(&[
        "NewConnectionError",
        "Name or service",
        "Temporary failure in name",
        "ConnectTimeout",
        "Network is unreachable",
        "ProxyError",
    ]) {
        "connect this computer to the network (behind a proxy set HTTPS_PROXY) and run the same command again"
    } else if has(&["CERTIFICATE_VERIFY_FAILED", "SSLError"]) {
        "point SSL_CERT_FILE at the certificates of your network"
    } else if has(&["No matching distribution", "Could not find a version"]) {
        "check that your package index carries this version"
    } else {
        "look at what pip says with `python3 -m pip download --no-deps PACKAGE==VERSION`"
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
