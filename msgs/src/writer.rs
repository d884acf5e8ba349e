//! Writes CDR for the dynamic path, where the type is known only at run time.
//!
//! The same bytes as the crate `cdr` writes for the generated structs (a test compares them): little-endian, plain
//! CDR, padding of zeros, alignment counted from after the header.

use crate::limits::MAX_MESSAGE_BYTES;
use crate::reader::{HEADER, HEADER_BYTES};

/// A message being written.
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// The message would become larger than [`MAX_MESSAGE_BYTES`].
#[derive(Debug)]
pub(crate) struct Full;

impl Writer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: HEADER.to_vec(),
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// A scalar, given as its little-endian bytes.
    pub(crate) fn scalar<const N: usize>(&mut self, bytes: [u8; N]) -> Result<(), Full> {
        let at = self.bytes.len() - HEADER_BYTES;
        let aligned = at.next_multiple_of(N) + HEADER_BYTES;
        self.room(aligned - self.bytes.len() + N)?;
        self.bytes.resize(aligned, 0);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    pub(crate) fn length(&mut self, length: usize) -> Result<(), Full> {
        let length = u32::try_from(length).map_err(|_| Full)?;
        self.scalar(length.to_le_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.room(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Full> {
        self.length(text.len() + 1)?;
        self.bytes(text.as_bytes())?;
        self.bytes(&[0])
    }

    fn room(&self, more: usize) -> Result<(), Full> {
        if self.bytes.len() + more > MAX_MESSAGE_BYTES {
            Err(Full)
        } else {
            Ok(())
        }
    }
}
