//! What can go wrong between a model's name and its folder: one enum, every message ends with what to do next.
//!
//! People meet these errors on a vehicle without a network or on a fresh machine with a full disk. So each names the file, both
//! numbers where two numbers disagree, and the next step; none leaves the cache worse than it was.

use std::path::{Path, PathBuf};

/// Why a model is not there.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The catalogue has a mistake.
    #[error("{file}:{line}:{column}: {message}")]
    Catalogue {
        /// File, or `models.yaml (built in)`.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong, with the nearest valid spelling where there is one.
        message: String,
    },
    /// No entry has this name.
    #[error(
        "no model is called '{name}'{hint} Next: `llmasos model list` prints the names; `--catalogue FILE` adds your own."
    )]
    Unknown {
        /// The name asked for.
        name: String,
        /// `"; did you mean 'x'?"`, or a full stop.
        hint: String,
    },
    /// The model is not in the cache and fetching is switched off.
    #[error(
        "{name} is not in the cache and fetching is off. Next: `llmasos model pull {name}` where there is a network ({bytes} bytes), \
         or put {files} into {} by hand.", dir.display()
    )]
    NotCached {
        /// Catalogue name.
        name: String,
        /// Bytes that are missing.
        bytes: u64,
        /// Distribution files that are missing, with their sha256.
        files: String,
        /// The cache's folder for distributions.
        dir: PathBuf,
    },
    /// The address of a distribution could not be found out, or the package installer could not get it.
    #[error(transparent)]
    Resolve(#[from] Box<Unresolved>),
    /// The server refused.
    #[error("{file}: the server answered {status} for {url}. Next: {next}")]
    Status {
        /// Distribution file name.
        file: String,
        /// Address without credentials.
        url: String,
        /// HTTP status.
        status: u16,
        /// What to do about it.
        next: &'static str,
    },
    /// The connection failed as often as we try.
    #[error(
        "{file}: gave up after {attempts} attempts, {done} of {total} bytes are here: {reason}. Next: run the same command again, it \
         goes on where it stopped; behind a proxy set HTTPS_PROXY; without a network put the file into {} by hand.", dir.display()
    )]
    Network {
        /// Distribution file name.
        file: String,
        /// Attempts made.
        attempts: u32,
        /// Bytes already in the `.part` file.
        done: u64,
        /// Bytes expected.
        total: u64,
        /// The last error.
        reason: String,
        /// The cache's folder for distributions.
        dir: PathBuf,
    },
    /// The size of a file is not the pinned one.
    #[error("{file}: expected {expected} bytes, found {found}. Next: {next}")]
    Size {
        /// File.
        file: String,
        /// Pinned size.
        expected: u64,
        /// Size seen.
        found: u64,
        /// What to do about it.
        next: String,
    },
    /// The content of a file is not the pinned one.
    #[error("{file}: expected sha256 {expected}, found {found}. Next: {next}")]
    Hash {
        /// File.
        file: String,
        /// Pinned sha256.
        expected: String,
        /// sha256 seen.
        found: String,
        /// What to do about it.
        next: String,
    },
    /// The disk has not enough room for what is about to be written.
    #[error(
        "not enough room in {}: {needed} bytes are needed, {available} are free. Next: free some, or point LLMASOS_HOME at a larger disk; \
         what is in the cache stays good.", dir.display()
    )]
    NoRoom {
        /// Where.
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free for this user.
        available: u64,
    },
    /// The disk became full while writing.
    #[error(
        "the disk is full: {doing} {}. Next: free some room, or point LLMASOS_HOME at a larger disk, and run the same command again; \
         what is in the cache stays good.", path.display()
    )]
    DiskFull {
        /// Verb and object, e.g. `writing`.
        doing: &'static str,
        /// File.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// Verb and object, e.g. `writing`.
        doing: &'static str,
        /// File.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An archive is not what the catalogue says, or is hostile.
    #[error("{archive}: {problem}")]
    Archive {
        /// Archive file name.
        archive: String,
        /// What is wrong, naming the member.
        problem: String,
    },
    /// The recipe that turns the sources into a model folder failed.
    #[error("{name}: recipe {recipe} failed: {reason}")]
    Recipe {
        /// Catalogue name.
        name: String,
        /// Kind of the recipe.
        recipe: String,
        /// The forge's error.
        reason: String,
    },
    /// A model folder is not as it was written.
    #[error("{}: {problem}. Next: `llmasos model pull {name}` builds it again from the files already downloaded.", dir.display())]
    Damaged {
        /// Catalogue name.
        name: String,
        /// Folder.
        dir: PathBuf,
        /// What differs.
        problem: String,
    },
    /// A model folder outside the cache is not as it was written, or is none.
    #[error("{}: {problem}. Next: make it again from its source, with `llmasos model import`.", dir.display())]
    DamagedFolder {
        /// Folder.
        dir: PathBuf,
        /// What differs.
        problem: String,
    },
    /// Neither LLMASOS_HOME nor XDG_CACHE_HOME nor HOME says where the cache is.
    #[error(
        "no place for the cache: none of LLMASOS_HOME, XDG_CACHE_HOME, HOME is set to an absolute path. Next: set LLMASOS_HOME."
    )]
    NoHome,
    /// Somebody pressed Ctrl-C.
    #[error("stopped; what was fetched so far stays, and the same command goes on from there")]
    Cancelled,
}

/// A distribution that no configured index gives.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot find where to fetch {file} ({package} {version}): {reason}. Next: {next}, or put the file (sha256 {sha256}) into {} by \
     hand and run the same command again.", dir.display()
)]
pub struct Unresolved {
    /// Distribution file name.
    pub file: String,
    /// Package name.
    pub package: String,
    /// Package version.
    pub version: String,
    /// What was tried and what happened.
    pub reason: String,
    /// What to do about it.
    pub next: String,
    /// Expected sha256 of the file.
    pub sha256: String,
    /// The cache's folder for distributions.
    pub dir: PathBuf,
}

impl ModelError {
    /// Names a file-system error; a full disk or quota gets its own variant because its next step differs.
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded => Self::DiskFull {
                doing,
                path: path.to_owned(),
            },
            _ => Self::Io {
                doing,
                path: path.to_owned(),
                source,
            },
        }
    }
}
