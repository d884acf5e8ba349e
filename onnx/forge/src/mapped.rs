//! A source file mapped into memory: pages come in when they are read and go again under pressure, so that the size of a model
//! does not matter. The one place of the forge that needs `unsafe`.
//!
//! Pages of a mapped file count as memory of the process until they go. A conversion that reads a model once from end to end would so
//! be charged with all of it, and lets go of what it has read instead.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use crate::error::ForgeError;

/// An open, mapped file.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Opens and maps a file.
    ///
    /// # Errors
    /// [`ForgeError::Io`] if it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<MappedFile, ForgeError> {
        let file = File::open(path).map_err(ForgeError::io("open", path))?;
        // The catalogue writes its files once, under a temporary name, and never changes them after the rename. Another process
        // that truncated the file while it is read would end this one with SIGBUS; that is the price of not copying it.
        #[allow(
            unsafe_code,
            reason = "others could change a mapped file; the catalogue's files are never changed in place"
        )]
        let map = unsafe { Mmap::map(&file) }.map_err(ForgeError::io("map", path))?;
        Ok(MappedFile(map))
    }

    /// Lets go of all pages that were read. They come in again when they are read again.
    pub fn release(&self) {
        // Only memory: where the system refuses, pages go under pressure, as they always do. The map is of a file and never written to, so
        // that what is let go is what is on the disk.
        #[cfg(unix)]
        #[allow(
            unsafe_code,
            reason = "this advice empties maps that are no files; a map of a file has its content again when it is read"
        )]
        let _ = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("weights");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let before = file.bytes();
        assert!(before == bytes);
        file.release();
        assert!(before == bytes, "also through a slice from before");
    }
}
