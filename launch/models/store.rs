//! The cache on disk: where things lie, who may touch them, and whether they are as they were written.
//!
//! Every name in the cache appears by a rename, so a file that is there is whole, and a process that dies leaves at most a `.part` or a
//! hidden folder that the next one uses or removes. Two processes never do the same work: each file and each model has a lock of the
//! operating system, which vanishes with its holder, so a lock cannot go stale.
//!
//! ```text
//! $LLMASOS_HOME | $XDG_CACHE_HOME/llmasos | ~/.cache/llmasos
//! ├── downloads/  x.whl         whole and checked       x.whl.part   resumable
//! ├── models/     smollm2-5f0c…/   llmasos.json + files   smollm2 → smollm2-5f0c…  (a link for people)
//! ├── data/       street-images-…/
//! ├── scratch/    unpacked sources while a recipe runs
//! └── locks/      one empty file per download and per model
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};

use llmasos_forge::compress::report::CompressReport;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::catalogue::{Catalogue, Distribution, Entry, Pin, Role};
use super::error::ModelError;
use super::report::{Event, Reporter};

/// Name of the manifest in a model folder.
const MANIFEST: &str = "llmasos.json";
/// Largest manifest read.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Room that must stay free beyond what is about to be written, so that logs and other programs go on.
const SPARE_BYTES: u64 = 64 << 20;
/// How long to wait between two looks at a lock that somebody else holds.
const LOCK_POLL: std::time::Duration = std::time::Duration::from_millis(200);
/// Bytes hashed between two looks at Ctrl-C.
const CHUNK_BYTES: usize = 1 << 20;

/// The cache.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// Whether a model can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The folder is there and its files have the sizes they were written with.
    Ready {
        /// Sum of the files' sizes.
        bytes: u64,
    },
    /// Nothing is there.
    Absent,
    /// Some of what must be downloaded is there.
    Partial {
        /// Bytes here.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The folder is there but not as it was written.
    Damaged {
        /// What differs.
        problem: String,
    },
}

impl State {
    /// One word: `ready`, `absent`, `partial` or `damaged`.
    pub fn word(&self) -> &'static str {
        match self {
            State::Ready { .. } => "ready",
            State::Absent => "absent",
            State::Partial { .. } => "partial",
            State::Damaged { .. } => "damaged",
        }
    }
}

/// A lock held until dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

/// The part of a manifest that says which files must be there.
#[derive(Debug, Deserialize)]
pub(crate) struct FileList {
    pub(crate) files: std::collections::BTreeMap<String, FilePin>,
}

/// Size and hash of a file of a model folder.
#[derive(Debug, Deserialize)]
pub(crate) struct FilePin {
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

impl Store {
    /// The cache of this user: `$LLMASOS_HOME`, else `$XDG_CACHE_HOME/llmasos`, else `~/.cache/llmasos`.
    ///
    /// # Errors
    /// [`ModelError::NoHome`] if none of the three variables holds an absolute path.
    pub fn from_environment() -> Result<Store, ModelError> {
        let absolute = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("LLMASOS_HOME")
            .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("llmasos")))
            .or_else(|| absolute("HOME").map(|path| path.join(".cache").join("llmasos")))
            .map(Store::at)
            .ok_or(ModelError::NoHome)
    }

    /// The cache in this folder; nothing is created yet.
    pub fn at(root: impl Into<PathBuf>) -> Store {
        Store { root: root.into() }
    }

    /// The folder of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where whole distributions lie; also where people put them by hand.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// Where a distribution lies or will lie.
    pub fn download(&self, distribution: &Distribution) -> PathBuf {
        self.downloads().join(&distribution.file)
    }

    /// Where a distribution is written while it is fetched.
    pub(crate) fn part(&self, distribution: &Distribution) -> PathBuf {
        self.downloads().join(format!("{}.part", distribution.file))
    }

    /// The model folder of an entry, whether it is there or not.
    pub fn folder(&self, entry: &Entry) -> PathBuf {
        self.shelf(entry)
            .join(format!("{}-{}", entry.name, entry.build_id()))
    }

    /// The link `models/<name>` to the newest folder of a name.
    pub(crate) fn link(&self, entry: &Entry) -> PathBuf {
        self.shelf(entry).join(&entry.name)
    }

    fn shelf(&self, entry: &Entry) -> PathBuf {
        self.root.join(if entry.role == Role::Data {
            "data"
        } else {
            "models"
        })
    }

    /// Where the sources of an entry are unpacked while its recipe runs.
    pub(crate) fn scratch(&self, entry: &Entry) -> PathBuf {
        self.root
            .join("scratch")
            .join(format!("{}-{}", entry.name, entry.build_id()))
    }

    /// Waits until this process alone may work on `key`.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`] while waiting; [`ModelError::Io`].
    pub(crate) fn lock(&self, key: &str, reporter: &mut dyn Reporter) -> Result<Held, ModelError> {
        let folder = self.root.join("locks");
        create_dir(&folder)?;
        let path = folder.join(format!("{key}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| ModelError::io("opening", &path, e))?;
        let mut has_said_so = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Held { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    if !has_said_so {
                        reporter.event(Event::Waiting { what: key });
                        has_said_so = true;
                    }
                    if reporter.is_cancelled() {
                        return Err(ModelError::Cancelled);
                    }
                    std::thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::Error(e)) => return Err(ModelError::io("locking", &path, e)),
            }
        }
    }

    /// Looks at names and sizes only; [`Store::verify`] reads every byte.
    pub fn state(&self, entry: &Entry) -> State {
        let folder = self.folder(entry);
        if folder.is_dir() {
            return match check_sizes(&folder) {
                Ok(bytes) => State::Ready { bytes },
                Err(problem) => State::Damaged { problem },
            };
        }
        let (mut done, mut total) = (0, 0);
        for distribution in entry.distributions() {
            total += distribution.pin.bytes;
            done += self.present_bytes(distribution);
        }
        if done == 0 {
            State::Absent
        } else {
            State::Partial { done, total }
        }
    }

    /// Bytes of a distribution that need not be fetched again.
    pub(crate) fn present_bytes(&self, distribution: &Distribution) -> u64 {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let whole = size(self.download(distribution));
        if whole == distribution.pin.bytes {
            whole
        } else {
            size(self.part(distribution)).min(distribution.pin.bytes)
        }
    }

    /// Reads every byte of a model folder and compares it with what was written. Returns the sum of the files' sizes.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] with the first difference, [`ModelError::Cancelled`].
    pub fn verify(&self, entry: &Entry, reporter: &mut dyn Reporter) -> Result<u64, ModelError> {
        let dir = self.folder(entry);
        check_content(&dir, reporter, |problem| ModelError::Damaged {
            name: entry.name.clone(),
            dir: dir.clone(),
            problem,
        })
    }

    /// The manifest of a model folder as it was written.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] if it is not there or not JSON.
    pub fn manifest(&self, entry: &Entry) -> Result<serde_json::Value, ModelError> {
        let dir = self.folder(entry);
        let parsed = read_manifest(&dir)
            .and_then(|text| serde_json::from_slice(&text).map_err(|e| format!("{MANIFEST}: {e}")));
        parsed.map_err(|problem| ModelError::Damaged {
            name: entry.name.clone(),
            dir,
            problem,
        })
    }

    /// Removes what a dead process left of this entry. Call with the entry's lock held.
    pub(crate) fn sweep(&self, entry: &Entry) {
        let hidden = format!(".{}-{}.", entry.name, entry.build_id());
        let shelf = fs::read_dir(self.shelf(entry))
            .into_iter()
            .flatten()
            .flatten();
        for left in shelf.filter(|item| item.file_name().to_string_lossy().starts_with(&hidden)) {
            // What cannot be removed is only space; the build goes on and reports what really stops it.
            let _ = fs::remove_dir_all(left.path());
        }
        let _ = fs::remove_dir_all(self.scratch(entry));
    }

    /// Folders of the shelf that belong to no entry of the catalogue as it is now (older recipes), with their sizes.
    pub fn leftovers(&self, catalogue: &Catalogue) -> Vec<(PathBuf, u64)> {
        let current: Vec<PathBuf> = catalogue
            .entries()
            .iter()
            .map(|entry| self.folder(entry))
            .collect();
        let mut found = Vec::new();
        for shelf in ["models", "data"] {
            for item in fs::read_dir(self.root.join(shelf))
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = item.path();
                let is_folder = item.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder && !current.contains(&path) {
                    found.push((path.clone(), folder_bytes(&path)));
                }
            }
        }
        found.sort();
        found
    }

    /// Fails unless `needed` bytes and some spare can be written.
    ///
    /// # Errors
    /// [`ModelError::NoRoom`].
    pub(crate) fn require_room(&self, needed: u64) -> Result<(), ModelError> {
        create_dir(&self.root)?;
        // A file system that does not say how much room it has is tried: writing reports a full disk as well.
        let Ok(stat) = nix::sys::statvfs::statvfs(&self.root) else {
            return Ok(());
        };
        // 32 bits wide on 32-bit computers.
        #[allow(clippy::useless_conversion, reason = "the width depends on the target")]
        let available =
            u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
        if needed.saturating_add(SPARE_BYTES) > available {
            return Err(ModelError::NoRoom {
                dir: self.root.clone(),
                needed: needed.saturating_add(SPARE_BYTES),
                available,
            });
        }
        Ok(())
    }
}

/// [`Store::verify`] for a model folder that lies anywhere.
///
/// # Errors
/// [`ModelError::DamagedFolder`] with the first difference, [`ModelError::Cancelled`].
pub fn verify_folder(dir: &Path, reporter: &mut dyn Reporter) -> Result<u64, ModelError> {
    check_content(dir, reporter, |problem| ModelError::DamagedFolder {
        dir: dir.to_owned(),
        problem,
    })
}

fn check_content(
    dir: &Path,
    reporter: &mut dyn Reporter,
    damaged: impl Fn(String) -> ModelError,
) -> Result<u64, ModelError> {
    check_sizes(dir).map_err(&damaged)?;
    check_report(dir).map_err(&damaged)?;
    let list = read_file_list(dir).map_err(&damaged)?;
    let mut bytes = 0;
    for (name, pin) in &list.files {
        let found = sha256_file(&dir.join(name), reporter)?;
        if found != pin.sha256 {
            return Err(damaged(format!(
                "{name}: expected sha256 {}, found {found}",
                pin.sha256
            )));
        }
        bytes += pin.bytes;
    }
    Ok(bytes)
}

/// What a compressed model says about how it was made must be readable: nobody can judge it otherwise.
fn check_report(dir: &Path) -> Result<(), String> {
    let manifest: serde_json::Value =
        serde_json::from_slice(&read_manifest(dir)?).map_err(|e| format!("{MANIFEST}: {e}"))?;
    if let Some(report) = manifest.get("report") {
        CompressReport::parse(report).map_err(|problem| format!("{MANIFEST}: {problem}"))?;
    }
    Ok(())
}

/// The manifest's bytes, bounded.
fn read_manifest(dir: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let file = File::open(dir.join(MANIFEST)).map_err(|e| format!("{MANIFEST}: {e}"))?;
    file.take(MAX_MANIFEST_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|e| format!("{MANIFEST}: {e}"))?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(format!(
            "{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes"
        ));
    }
    Ok(text)
}

/// The files a folder must have, by its manifest.
pub(crate) fn read_file_list(dir: &Path) -> Result<FileList, String> {
    let text = read_manifest(dir)?;
    let list: FileList = serde_json::from_slice(&text).map_err(|e| format!("{MANIFEST}: {e}"))?;
    match list
        .files
        .keys()
        .find(|name| name.contains('/') || name.starts_with('.'))
    {
        Some(name) => Err(format!(
            "{MANIFEST} names a file outside the folder: {name}"
        )),
        None => Ok(list),
    }
}

fn check_sizes(dir: &Path) -> Result<u64, String> {
    let mut sum = 0u64;
    for (name, pin) in read_file_list(dir)?.files {
        let found = fs::metadata(dir.join(&name))
            .map_err(|e| format!("{name}: {e}"))?
            .len();
        if found != pin.bytes {
            return Err(format!(
                "{name}: expected {} bytes, found {found}",
                pin.bytes
            ));
        }
        sum = sum.saturating_add(found);
    }
    Ok(sum)
}

fn folder_bytes(dir: &Path) -> u64 {
    let items = fs::read_dir(dir).into_iter().flatten().flatten();
    items
        .filter_map(|item| item.metadata().ok())
        .filter(|meta| meta.is_file())
        .map(|meta| meta.len())
        .sum()
}

/// Creates a folder and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<(), ModelError> {
    fs::create_dir_all(path).map_err(|e| ModelError::io("creating", path, e))
}

/// Removes a file that may not be there.
pub(crate) fn remove_file(path: &Path) -> Result<(), ModelError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(ModelError::io("removing", path, e))
        }
        _ => Ok(()),
    }
}

/// Whether a file has the pinned size and content.
///
/// # Errors
/// [`ModelError::Size`] or [`ModelError::Hash`] with `next` as the next step.
pub(crate) fn check_pin(
    path: &Path,
    pin: &Pin,
    next: &str,
    reporter: &mut dyn Reporter,
) -> Result<(), ModelError> {
    let file = path.display().to_string();
    let found = fs::metadata(path)
        .map_err(|e| ModelError::io("reading", path, e))?
        .len();
    if found != pin.bytes {
        return Err(ModelError::Size {
            file,
            expected: pin.bytes,
            found,
            next: next.to_owned(),
        });
    }
    let found = sha256_file(path, reporter)?;
    if found != pin.sha256 {
        return Err(ModelError::Hash {
            file,
            expected: pin.sha256.clone(),
            found,
            next: next.to_owned(),
        });
    }
    Ok(())
}

/// sha256 of a file as hex.
pub(crate) fn sha256_file(path: &Path, reporter: &mut dyn Reporter) -> Result<String, ModelError> {
    let mut file = File::open(path).map_err(|e| ModelError::io("opening", path, e))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if reporter.is_cancelled() {
            return Err(ModelError::Cancelled);
        }
        match file
            .read(&mut chunk)
            .map_err(|e| ModelError::io("reading", path, e))?
        {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&chunk[..n]),
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
