//! The attachment: who sent a sample, which one it is, and when.
//!
//! ```text
//! byte 0   i64 LE   sequence number, from 1
//! byte 8   i64 LE   source time, ns since the Unix epoch
//! byte 16  u8       16, the length of what follows
//! byte 17  [u8;16]  GID of the publisher, client or server
//! ```
//!
//! rmw_zenoh drops a sample without one, and a process of it aborts over one that is too short: what leaves here is always whole.
//! A GID is the XXH3-128 of the liveliness token of its entity, low half first.

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

/// Length of an attachment.
pub const ATTACHMENT_BYTES: usize = 33;

/// Length prefix of the GID.
const GID_PREFIX: u8 = 16;

/// The identity of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    /// The GID of the endpoint with this liveliness token.
    #[must_use]
    pub fn of_token(token: &str) -> Gid {
        // As a little-endian number the low half comes first.
        Gid(xxh3_128(token.as_bytes()).to_le_bytes())
    }
}

/// What stands beside a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Number of the sample, from 1.
    pub sequence: i64,
    /// When it was sent, ns since the Unix epoch.
    pub stamp_ns: i64,
    /// Who sent it.
    pub gid: Gid,
}

/// Bytes that are no attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AttachmentError {
    /// Another length.
    #[error("attachment of {found} bytes, expected {ATTACHMENT_BYTES}")]
    Length {
        /// The bytes there.
        found: usize,
    },
    /// Another length of the GID.
    #[error("attachment with a GID of {found} bytes, expected {GID_PREFIX}")]
    GidLength {
        /// The length it states.
        found: u8,
    },
}

impl Attachment {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; ATTACHMENT_BYTES] {
        let mut bytes = [0; ATTACHMENT_BYTES];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.stamp_ns.to_le_bytes());
        bytes[16] = GID_PREFIX;
        bytes[17..].copy_from_slice(&self.gid.0);
        bytes
    }

    /// Reads the bytes of the wire.
    ///
    /// # Errors
    /// [`AttachmentError`] with both lengths.
    pub fn decode(bytes: &[u8]) -> Result<Attachment, AttachmentError> {
        let length = AttachmentError::Length { found: bytes.len() };
        let bytes: &[u8; ATTACHMENT_BYTES] = bytes.try_into().map_err(|_| length)?;
        let (sequence, rest) = bytes.split_first_chunk::<8>().ok_or(length)?;
        let (stamp, rest) = rest.split_first_chunk::<8>().ok_or(length)?;
        let (prefix, gid) = rest.split_first().ok_or(length)?;
        if *prefix != GID_PREFIX {
            return Err(AttachmentError::GidLength { found: *prefix });
        }
        Ok(Attachment {
            sequence: i64::from_le_bytes(*sequence),
            stamp_ns: i64::from_le_bytes(*stamp),
            gid: Gid(gid.try_into().map_err(|_| length)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Captured from rmw_zenoh_cpp 0.2.10.
    const CAPTURED: &str = "010000000000000096f0c82b5fb9ea181047424974f70098f774cc7db1e4ed2e04";

    #[test]
    fn a_captured_attachment_is_read_and_written() {
        let captured = bytes(CAPTURED);
        let attachment = Attachment::decode(&captured).unwrap();
        assert_eq!(attachment.sequence, 1);
        assert_eq!(attachment.stamp_ns, 0x18ea_b95f_2bc8_f096);
        assert_eq!(attachment.encode().as_slice(), captured);
    }

    #[test]
    fn the_gid_is_the_hash_of_the_token() {
        let empty = Gid::of_token("");
        assert_eq!(
            u128::from_le_bytes(empty.0),
            0x99aa_06d3_0147_98d8_6001_c324_468d_497f,
            "XXH3-128 of nothing, from the published test vectors"
        );
    }

    #[test]
    fn anything_else_is_refused_with_both_numbers() {
        for length in [0, 1, 32, 34, 64] {
            let error = Attachment::decode(&vec![16; length]).unwrap_err();
            assert_eq!(error, AttachmentError::Length { found: length });
        }
        let mut wrong = [0; ATTACHMENT_BYTES];
        wrong[16] = 15;
        assert_eq!(
            Attachment::decode(&wrong),
            Err(AttachmentError::GidLength { found: 15 })
        );
    }
}
