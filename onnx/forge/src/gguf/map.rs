//! A GGUF file on the disk, mapped into memory: pages come in when a tensor is read and go again under pressure, so that the
//! size of the model does not matter.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::Gguf;
use crate::error::ForgeError;

/// An open, mapped GGUF file; [`GgufFile::parse`] reads it.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
}

impl GgufFile {
    /// Opens and maps a file.
    ///
    /// # Errors
    /// [`ForgeError::Io`] if it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<GgufFile, ForgeError> {
        let file = File::open(path).map_err(ForgeError::io("open", path))?;
        // The catalogue writes its files once, under a temporary name, and never changes them after the rename. Another process
        // that truncated the file while it is read would end this one with SIGBUS; that is the price of not copying it.
        #[allow(
            unsafe_code,
            reason = "mapping a file is unsafe because others may change it; catalogue files are never changed in place"
        )]
        let map = unsafe { Mmap::map(&file) }.map_err(ForgeError::io("map", path))?;
        Ok(GgufFile {
            path: path.to_path_buf(),
            map,
        })
    }

    /// Reads and checks metadata and tensor table.
    ///
    /// # Errors
    /// [`ForgeError::Gguf`] with what is wrong and where.
    pub fn parse(&self) -> Result<Gguf<'_>, ForgeError> {
        Gguf::parse(&self.map).map_err(|source| ForgeError::Gguf {
            path: self.path.clone(),
            source,
        })
    }
}
