//! The folder beside the result in which finished steps wait: a run that was stopped goes on behind the last of them.
//!
//! ```text
//!   models/small/             the result, whole or not at all
//!   models/.small.work/       lock · source-… · step-… · result-… · their reports · scratch     removed at the end
//! ```
//!
//! Every name has the key of what made it, so a folder left by another recipe is never taken for this one's.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Serialize, de::DeserializeOwned};

/// Room that must stay free beyond what is about to be written.
const SPARE_BYTES: u64 = 64 << 20;

/// The work folder of one result, held by this process alone.
#[derive(Debug)]
pub(crate) struct Work {
    dir: PathBuf,
    out: PathBuf,
    _lock: File,
}

impl Work {
    /// The work folder of the result `out`, made if need be; what a dead process left half done in it is removed.
    ///
    /// # Errors
    /// When the result is there already, another process works on it, or the file system refuses.
    pub(crate) fn open(out: &Path) -> Result<Work> {
        let name = out
            .file_name()
            .with_context(|| format!("{}: a folder needs a name", out.display()))?;
        if out.symlink_metadata().is_ok() {
            bail!(
                "{} is there already. Next: remove it, or choose another place with -o.",
                out.display()
            );
        }
        let dir = out.with_file_name(format!(".{}.work", name.to_string_lossy()));
        let scratch = dir.join("scratch");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another process is making {}. Next: wait for it, or choose another place with -o.",
                out.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        sweep(&dir)?;
        fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
        Ok(Work {
            dir,
            out: out.to_owned(),
            _lock: lock,
        })
    }

    /// Where steps put what only they need.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Where something of a kind with a key is or will be.
    pub(crate) fn place(&self, kind: &str, key: &str) -> PathBuf {
        self.dir.join(format!("{kind}-{key}"))
    }

    /// What was noted about something that is finished; nothing if it is not.
    pub(crate) fn noted<T: DeserializeOwned>(&self, kind: &str, key: &str) -> Option<T> {
        let place = self.place(kind, key);
        let note = fs::read(note(&place)).ok()?;
        place
            .exists()
            .then(|| serde_json::from_slice(&note).ok())
            .flatten()
    }

    /// Notes that something is finished.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn finished(&self, kind: &str, key: &str, about: &impl Serialize) -> Result<()> {
        let path = note(&self.place(kind, key));
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_vec(about)?)
            .and_then(|()| fs::rename(&part, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Fails unless so many bytes and some spare can be written.
    ///
    /// # Errors
    /// With both numbers.
    pub(crate) fn require_room(&self, needed: u64) -> Result<()> {
        let Ok(stat) = nix::sys::statvfs::statvfs(&self.dir) else {
            return Ok(());
        };
        #[allow(clippy::useless_conversion, reason = "the width depends on the target")]
        let free =
            u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
        if needed.saturating_add(SPARE_BYTES) > free {
            return Err(anyhow!(
                "not enough room in {}: {} are needed, {} are free. Next: free some, or choose another disk with -o.",
                self.dir.display(),
                crate::models::size_words(needed.saturating_add(SPARE_BYTES)),
                crate::models::size_words(free)
            ));
        }
        Ok(())
    }

    /// Removes everything.
    pub(crate) fn discard(self) {
        // Only space, and whoever made it has an answer already.
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Puts a finished folder in the place of the result and removes what led to it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn publish(self, result: &Path, keep: bool) -> Result<PathBuf> {
        if self.out.symlink_metadata().is_ok() {
            bail!(
                "{} has come up meanwhile; the result is in {}",
                self.out.display(),
                result.display()
            );
        }
        fs::rename(result, &self.out)
            .with_context(|| format!("renaming {} to {}", result.display(), self.out.display()))?;
        if !keep {
            fs::remove_dir_all(&self.dir)
                .with_context(|| format!("removing {}", self.dir.display()))?;
        }
        Ok(self.out)
    }
}

fn note(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!("{name}.json"))
}

/// Removes drafts, parts and scratch of a process that is gone.
fn sweep(dir: &Path) -> Result<()> {
    for item in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = item
            .with_context(|| format!("listing {}", dir.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_draft = name.starts_with('.')
            && [".partial", ".old", ".graphs"]
                .iter()
                .any(|end| name.ends_with(end));
        let is_half = is_draft || name.ends_with(".part") || name == "scratch";
        if !is_half {
            continue;
        }
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_things_are_found_again_and_half_done_ones_are_gone() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("small");
        {
            let work = Work::open(&out).unwrap();
            fs::create_dir(work.place("step", "abc")).unwrap();
            work.finished("step", "abc", &vec![1, 2]).unwrap();
            fs::create_dir(work.place("step", "unfinished")).unwrap();
            fs::create_dir(work.dir.join(".step-def.1.partial")).unwrap();
            fs::write(work.scratch().join("walk.onnx"), b"x").unwrap();
            let error = Work::open(&out).unwrap_err().to_string();
            assert!(error.contains("another process"), "{error}");
        }
        let work = Work::open(&out).unwrap();
        assert_eq!(work.noted::<Vec<u32>>("step", "abc"), Some(vec![1, 2]));
        assert_eq!(work.noted::<Vec<u32>>("step", "unfinished"), None);
        assert_eq!(work.noted::<Vec<u32>>("step", "other"), None);
        assert!(!work.dir.join(".step-def.1.partial").exists());
        assert_eq!(fs::read_dir(work.scratch()).unwrap().count(), 0);
        assert!(
            work.require_room(u64::MAX)
                .unwrap_err()
                .to_string()
                .contains("not enough room")
        );
        let result = work.place("step", "abc");
        assert_eq!(work.publish(&result, false).unwrap(), out);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        let error = Work::open(&out).unwrap_err().to_string();
        assert!(error.contains("is there already. Next:"), "{error}");
    }
}
