//! A source file mapped into memory: pages come in when they are read and go again under pressure, so that the size of a model
//! does not matter. The one place of the forge that needs `unsafe`.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

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

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
