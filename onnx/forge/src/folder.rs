//! The model folder: files, `llmasos.json`, and the promise that it is there whole or not at all.
//!
//! A conversion takes seconds and can be stopped, run out of disk, or lose its power. So everything is written into a hidden
//! sibling (`.<name>.<pid>.partial`), hashed, described, flushed, and renamed into place in one step. A reader that finds the
//! folder finds all of it; on any error the sibling is removed.
//!
//! ```text
//!   models/.smollm2.4711.partial/   model.onnx  model.onnx.data  tokenizer.json  ...
//!            │  sha256 of each file → llmasos.json
//!            ▼  rename
//!   models/smollm2/
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ForgeError;

/// Value of `format` in `llmasos.json`.
pub const FORMAT: &str = "llmasos-model/v1";

/// Name of the description inside a model folder.
pub const MANIFEST_FILE: &str = "llmasos.json";

/// Bytes moved between two progress reports while copying and hashing.
const CHUNK_BYTES: usize = 1 << 20;

/// What the forge is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Reading and checking a source; `done` and `total` are bytes.
    Read,
    /// Building and writing the graph and its weights; `done` and `total` are bytes written.
    Convert,
    /// Looking at pictures; `done` and `total` are pictures.
    Look,
    /// Dividing articles into tokens; `done` and `total` are articles.
    Tokenize,
    /// Letting models read a text; `done` and `total` are sequences or layers.
    Evaluate,
    /// Taking parts of a model away; `done` and `total` are layers.
    Prune,
    /// Letting a model write; `done` and `total` are tokens.
    Generate,
    /// Training a model; `done` and `total` are tokens.
    Train,
    /// Copying a file as it is; `done` and `total` are bytes.
    Copy,
    /// Finding codes for a model's matrices; `done` and `total` are layers.
    Quantize,
    /// Measuring what a model loses; `done` and `total` are layers.
    Measure,
    /// Computing the sha256 of the finished files; `done` and `total` are bytes.
    Hash,
}

impl Step {
    /// A word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Step::Read => "reading",
            Step::Convert => "converting",
            Step::Look => "looking at pictures",
            Step::Tokenize => "dividing into tokens",
            Step::Evaluate => "evaluating",
            Step::Generate => "generating",
            Step::Train => "training",
            Step::Prune => "pruning",
            Step::Quantize => "quantizing",
            Step::Measure => "measuring",
            Step::Copy => "copying",
            Step::Hash => "hashing",
        }
    }

    /// Whether its units are bytes.
    #[must_use]
    pub fn counts_bytes(self) -> bool {
        matches!(self, Step::Read | Step::Convert | Step::Copy | Step::Hash)
    }
}

/// One report to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub step: Step,
    /// The file or tensor it is being done to.
    pub item: &'a str,
    /// Units done; see [`Step`].
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// The caller's callback: sees progress, and stops the conversion by answering `ControlFlow::Break(())`.
pub type Watch<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// Reports and turns the caller's wish to stop into an error.
///
/// # Errors
/// [`ForgeError::Cancelled`] if the callback breaks.
pub(crate) fn report(watch: &mut Watch<'_>, progress: Progress<'_>) -> Result<(), ForgeError> {
    match watch(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ForgeError::Cancelled),
    }
}

/// Where one source file came from, as it stands in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// Registry package, or `local`.
    pub package: String,
    /// Version of the package.
    pub version: String,
    /// Path inside the package.
    pub path: String,
    /// sha256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// What the catalogue knows about a model and the forge only passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Name of the model in the catalogue.
    pub name: String,
    /// Licence as stated by the source.
    pub license: String,
    /// The sources, in the catalogue's order.
    pub sources: Vec<SourceRecord>,
}

/// Size and hash of a file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// sha256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Size of the file.
    pub bytes: u64,
}

/// What was built.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFolderSummary {
    /// The finished folder.
    pub dir: PathBuf,
    /// Name of the model.
    pub name: String,
    /// What it is for: `language`, `speech-recognition`, `voice-activity`, `detector`, `encoder`.
    pub role: String,
    /// Which engine code runs it: `llama`, `moonshine`, `silero-vad`, `ssd`, `bert`.
    pub family: String,
    /// Its files (without `llmasos.json`).
    pub files: BTreeMap<String, FileRecord>,
    /// Sum of the files' sizes.
    pub bytes: u64,
}

/// What a conversion says about the files it has written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Description {
    pub(crate) role: String,
    pub(crate) family: String,
    pub(crate) config: serde_json::Value,
    pub(crate) recipe: serde_json::Value,
}

/// `llmasos.json`, in the order people read it.
#[derive(Serialize)]
struct Manifest<'a> {
    format: &'a str,
    name: &'a str,
    role: &'a str,
    family: &'a str,
    license: &'a str,
    config: &'a serde_json::Value,
    sources: &'a [SourceRecord],
    recipe: &'a serde_json::Value,
    files: &'a BTreeMap<String, FileRecord>,
}

/// A folder under construction; removed when dropped before [`Draft::publish`].
pub(crate) struct Draft {
    dir: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl Draft {
    /// Creates the hidden sibling of `target`.
    ///
    /// # Errors
    /// [`ForgeError::Io`] if the parent cannot be created or written.
    pub(crate) fn create(target: &Path) -> Result<Draft, ForgeError> {
        let dir = sibling(target, "partial");
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(ForgeError::io("remove", &dir))?;
        }
        fs::create_dir_all(&dir).map_err(ForgeError::io("create", &dir))?;
        Ok(Draft {
            dir,
            target: target.to_path_buf(),
            is_published: false,
        })
    }

    /// Where the files go until the folder is published.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Hashes the files, writes `llmasos.json`, and renames the folder into place, replacing an older one.
    ///
    /// # Errors
    /// [`ForgeError::Io`], or [`ForgeError::Cancelled`] by the callback.
    pub(crate) fn publish(
        mut self,
        about: &Provenance,
        what: &Description,
        watch: &mut Watch<'_>,
    ) -> Result<ModelFolderSummary, ForgeError> {
        let files = hash_files(&self.dir, watch)?;
        let manifest = Manifest {
            format: FORMAT,
            name: &about.name,
            role: &what.role,
            family: &what.family,
            license: &about.license,
            config: &what.config,
            sources: &about.sources,
            recipe: &what.recipe,
            files: &files,
        };
        let mut json = serde_json::to_vec_pretty(&manifest).map_err(|error| ForgeError::Io {
            action: "serialize",
            path: self.dir.join(MANIFEST_FILE),
            source: error.into(),
        })?;
        json.push(b'\n');
        write_file(&self.dir.join(MANIFEST_FILE), &json)?;
        self.replace_target()?;
        self.is_published = true;
        Ok(ModelFolderSummary {
            dir: self.target.clone(),
            name: about.name.clone(),
            role: what.role.clone(),
            family: what.family.clone(),
            bytes: files.values().map(|file| file.bytes).sum(),
            files,
        })
    }

    /// Renames the folder into place as it is, replacing an older one.
    ///
    /// # Errors
    /// [`ForgeError::Io`].
    pub(crate) fn place(mut self) -> Result<(), ForgeError> {
        self.replace_target()?;
        self.is_published = true;
        Ok(())
    }

    /// Puts the new folder where the old one was. A directory cannot be renamed over a full one, so the old one steps aside
    /// first, and comes back if the second rename fails.
    fn replace_target(&self) -> Result<(), ForgeError> {
        let old = sibling(&self.target, "old");
        let had_old = self.target.exists();
        if had_old {
            fs::rename(&self.target, &old).map_err(ForgeError::io("rename", &self.target))?;
        }
        if let Err(error) = fs::rename(&self.dir, &self.target) {
            if had_old {
                fs::rename(&old, &self.target).map_err(ForgeError::io("restore", &self.target))?;
            }
            return Err(ForgeError::io("rename", &self.dir)(error));
        }
        if had_old {
            fs::remove_dir_all(&old).map_err(ForgeError::io("remove", &old))?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            // The error that led here is already on its way to the caller; a failed clean-up adds nothing to it.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// `.<name>.<pid>.<suffix>` beside `target`.
fn sibling(target: &Path, suffix: &str) -> PathBuf {
    let name = target
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    target.with_file_name(format!(".{name}.{}.{suffix}", std::process::id()))
}

/// Writes a small file and flushes it to the disk.
///
/// # Errors
/// [`ForgeError::Io`].
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ForgeError> {
    let mut file = File::create(path).map_err(ForgeError::io("create", path))?;
    file.write_all(bytes)
        .map_err(ForgeError::io("write", path))?;
    file.sync_all().map_err(ForgeError::io("flush", path))
}

/// Copies a file chunk by chunk, so that a large one can be watched and cancelled.
///
/// # Errors
/// [`ForgeError::Io`], or [`ForgeError::Cancelled`] by the callback.
pub(crate) fn copy_file(from: &Path, to: &Path, watch: &mut Watch<'_>) -> Result<(), ForgeError> {
    let mut reader = File::open(from).map_err(ForgeError::io("open", from))?;
    let total = reader
        .metadata()
        .map_err(ForgeError::io("inspect", from))?
        .len();
    let mut writer = File::create(to).map_err(ForgeError::io("create", to))?;
    let item = file_name(to);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    loop {
        let count = reader
            .read(&mut chunk)
            .map_err(ForgeError::io("read", from))?;
        if count == 0 {
            break;
        }
        writer
            .write_all(&chunk[..count])
            .map_err(ForgeError::io("write", to))?;
        done += count as u64;
        report(
            watch,
            Progress {
                step: Step::Copy,
                item: &item,
                done,
                total,
            },
        )?;
    }
    writer.sync_all().map_err(ForgeError::io("flush", to))
}

/// Size and sha256 of every file in `dir`, sorted by name.
fn hash_files(
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<BTreeMap<String, FileRecord>, ForgeError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(ForgeError::io("list", dir))? {
        paths.push(entry.map_err(ForgeError::io("list", dir))?.path());
    }
    paths.sort();
    let mut total = 0;
    for path in &paths {
        total += fs::metadata(path)
            .map_err(ForgeError::io("inspect", path))?
            .len();
    }
    let mut done = 0;
    let mut files = BTreeMap::new();
    for path in paths {
        let record = hash_part(&path, done, total, watch)?;
        done += record.bytes;
        files.insert(file_name(&path), record);
    }
    Ok(files)
}

/// Size and sha256 of one file.
///
/// # Errors
/// [`ForgeError::Io`], or [`ForgeError::Cancelled`] by the callback.
pub(crate) fn hash_file(path: &Path, watch: &mut Watch<'_>) -> Result<FileRecord, ForgeError> {
    let about = fs::metadata(path).map_err(ForgeError::io("inspect", path))?;
    hash_part(path, 0, about.len(), watch)
}

/// Size and sha256 of a file, which begins at byte `done` of the `total` that are being hashed.
fn hash_part(
    path: &Path,
    mut done: u64,
    total: u64,
    watch: &mut Watch<'_>,
) -> Result<FileRecord, ForgeError> {
    let item = file_name(path);
    let mut file = File::open(path).map_err(ForgeError::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let count = file
            .read(&mut chunk)
            .map_err(ForgeError::io("read", path))?;
        if count == 0 {
            break;
        }
        hasher.update(&chunk[..count]);
        bytes += count as u64;
        done += count as u64;
        let progress = Progress {
            step: Step::Hash,
            item: &item,
            done,
            total,
        };
        report(watch, progress)?;
    }
    Ok(FileRecord {
        sha256: hex(&hasher.finalize()),
        bytes,
    })
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> Provenance {
        let sha256 = "00".repeat(32);
        let source = SourceRecord {
            package: "local".into(),
            version: "1".into(),
            path: "a.bin".into(),
            sha256,
        };
        Provenance {
            name: "m".into(),
            license: "MIT".into(),
            sources: vec![source],
        }
    }

    fn what() -> Description {
        Description {
            role: "encoder".into(),
            family: "bert".into(),
            config: serde_json::json!({"hidden": 4}),
            recipe: serde_json::json!({"kind": "copy"}),
        }
    }

    #[test]
    fn publishes_whole_folder_and_replaces_older_one() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("m");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("stale"), b"old").unwrap();
        let draft = Draft::create(&target).unwrap();
        write_file(&draft.dir().join("a.bin"), b"abc").unwrap();
        let summary = draft
            .publish(&about(), &what(), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(summary.bytes, 3);
        // sha256("abc"), FIPS 180-2 appendix B.1.
        assert_eq!(
            summary.files["a.bin"].sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(!target.join("stale").exists());
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(target.join(MANIFEST_FILE)).unwrap()).unwrap();
        assert_eq!(manifest["format"], FORMAT);
        assert_eq!(manifest["files"]["a.bin"]["bytes"], 3);
        assert_eq!(manifest["sources"][0]["package"], "local");
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            1,
            "no sibling may stay behind"
        );
    }

    #[test]
    fn cancelling_leaves_the_old_folder_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("m");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("stale"), b"old").unwrap();
        let draft = Draft::create(&target).unwrap();
        write_file(&draft.dir().join("a.bin"), b"abc").unwrap();
        let error = draft
            .publish(&about(), &what(), &mut |_| ControlFlow::Break(()))
            .unwrap_err();
        assert!(matches!(error, ForgeError::Cancelled), "{error}");
        assert_eq!(fs::read(target.join("stale")).unwrap(), b"old");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn copy_reports_bytes() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::write(&from, vec![7; CHUNK_BYTES + 1]).unwrap();
        let mut seen = Vec::new();
        copy_file(&from, &to, &mut |progress| {
            seen.push((progress.done, progress.total));
            ControlFlow::Continue(())
        })
        .unwrap();
        let total = CHUNK_BYTES as u64 + 1;
        assert_eq!(seen, [(CHUNK_BYTES as u64, total), (total, total)]);
        assert_eq!(fs::read(&to).unwrap(), vec![7; CHUNK_BYTES + 1]);
    }
}
