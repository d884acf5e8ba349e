//! Writes CDR: little-endian, plain, padding of zeros, alignment counted from after the header.
//!
//! Generated messages say first how long they will be ([`crate::wire::Wire::end`]), so a message is one allocation of the
//! right size, and a picture in it is one copy. The dynamic path learns the length while it writes; a counter holds it
//! to the limit. The bytes are those of the crate `cdr` and of Fast-CDR with zeroed padding; tests compare them.

use crate::limits::MAX_MESSAGE_BYTES;
use crate::reader::{HEADER, HEADER_BYTES};

/// A message being written.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A writer with room for a body of so many bytes.
    #[must_use]
    pub fn with_capacity(body_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body_bytes);
        bytes.extend_from_slice(&HEADER);
        Self { bytes }
    }

    /// The payload, header included.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    #[inline]
    fn align(&mut self, alignment: usize) {
        let aligned = (self.bytes.len() - HEADER_BYTES).next_multiple_of(alignment) + HEADER_BYTES;
        if aligned != self.bytes.len() {
            self.bytes.resize(aligned, 0);
        }
    }

    /// A scalar, given as its little-endian bytes.
    #[inline]
    pub fn scalar<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.bytes.extend_from_slice(&bytes);
    }

    /// Scalars of `size` bytes each, given as their little-endian bytes: one copy.
    pub fn scalars(&mut self, size: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.align(size);
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The length of a sequence. A message under the size limit has none that `u32` cannot say.
    #[inline]
    pub fn length(&mut self, length: usize) {
        self.scalar(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// A string with its NUL.
    pub fn text(&mut self, text: &str) {
        self.length(text.len() + 1);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }
}

/// A writer that refuses to pass [`MAX_MESSAGE_BYTES`].
#[derive(Debug)]
pub(crate) struct Limited(Writer);

/// The message would become larger than [`MAX_MESSAGE_BYTES`].
#[derive(Debug)]
pub(crate) struct Full;

impl Limited {
    pub(crate) fn new() -> Self {
        Self(Writer::with_capacity(0))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.finish()
    }

    pub(crate) fn scalar<const N: usize>(&mut self, bytes: [u8; N]) -> Result<(), Full> {
        self.room(2 * N)?;
        self.0.scalar(bytes);
        Ok(())
    }

    pub(crate) fn length(&mut self, length: usize) -> Result<(), Full> {
        let length = u32::try_from(length).map_err(|_| Full)?;
        self.scalar(length.to_le_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.room(bytes.len())?;
        self.0.scalars(1, bytes);
        Ok(())
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Full> {
        self.room(text.len() + 8)?;
        self.0.text(text);
        Ok(())
    }

    /// Counts the padding as if it were needed: a limit need not be exact to the byte.
    fn room(&self, more: usize) -> Result<(), Full> {
        if self.0.bytes.len() + more > MAX_MESSAGE_BYTES {
            Err(Full)
        } else {
            Ok(())
        }
    }
}
