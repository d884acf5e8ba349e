//! What the original predicts, in a file: several candidates are judged and the original runs once.
//!
//! ```text
//!   "llmlogp1" · vocab u32 · sequences u32 · length u32 · from u32 · sha256 of all tokens (32 bytes)
//!   sequences × { log p f16[positions, vocab] · log p of the next word f32[positions] · likeliest word u32[positions] }
//! ```
//!
//! Little-endian. The file belongs to exactly these tokens: with others it is refused, not answered from.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use sha2::{Digest, Sha256};

use super::{
    EvaluateError, Live, Predict, Predictions, Reference, UNSCORED, check, progress, scored,
};
use crate::error::ForgeError;
use crate::folder::Watch;
use crate::mapped::MappedFile;

const MAGIC: &[u8; 8] = b"llmlogp1";
const HEADER_BYTES: usize = 8 + 4 * 4 + 32;
/// Largest vocabulary accepted.
const MAX_VOCAB: usize = 1 << 20;

/// A record of what the original predicts.
#[derive(Debug)]
pub struct Recorded {
    path: PathBuf,
    file: MappedFile,
    vocab: usize,
    sequences: usize,
    positions: usize,
}

impl Recorded {
    /// Bytes of such a file.
    #[must_use]
    pub fn bytes(vocab: usize, sequences: usize, length: usize) -> u64 {
        let positions = scored(length) as u64;
        HEADER_BYTES as u64 + sequences as u64 * positions * (2 * vocab as u64 + 8)
    }

    /// Lets the original read the sequences, which have one length, and writes down what it predicts. The file appears whole or
    /// not at all.
    ///
    /// # Errors
    /// Those of the model, [`EvaluateError`], [`ForgeError::Io`], [`ForgeError::Cancelled`].
    pub fn write(
        model: &mut dyn Predict,
        sequences: &[Vec<u32>],
        path: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Recorded, ForgeError> {
        check(sequences, model.vocab())?;
        let length = sequences[0].len();
        if let Some(other) = sequences.iter().find(|tokens| tokens.len() != length) {
            return Err(EvaluateError::Sequences {
                what: "tokens of a sequence",
                expected: format!("{length}, as in the first"),
                found: other.len().to_string(),
            }
            .into());
        }
        let part = path.with_extension("part");
        let result = write_part(model, sequences, &part, watch)
            .and_then(|()| fs::rename(&part, path).map_err(ForgeError::io("rename", &part)));
        if let Err(error) = result {
            // What is half written helps nobody; the error is already on its way.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        Recorded::open(path, sequences)
    }

    /// Opens the record of these sequences.
    ///
    /// # Errors
    /// [`EvaluateError::Recorded`] if it is damaged or of other sequences; [`ForgeError::Io`].
    pub fn open(path: &Path, sequences: &[Vec<u32>]) -> Result<Recorded, ForgeError> {
        let file = MappedFile::open(path)?;
        let wrong = |problem: String| EvaluateError::Recorded {
            path: path.to_path_buf(),
            problem,
        };
        let bytes = file.bytes();
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(wrong("this is no record of predictions".into()).into());
        }
        let number = |at: usize| number(bytes, 8 + 4 * at) as usize;
        let (vocab, count, length, from) = (number(0), number(1), number(2), number(3));
        let is_same = count == sequences.len()
            && from == UNSCORED
            && sequences.iter().all(|tokens| tokens.len() == length)
            && bytes[24..HEADER_BYTES] == hash(sequences);
        if !is_same || !(1..=MAX_VOCAB).contains(&vocab) {
            return Err(wrong("this is the record of another text".into()).into());
        }
        let expected = Recorded::bytes(vocab, count, length);
        if bytes.len() as u64 != expected {
            let found = bytes.len();
            return Err(wrong(format!("expected {expected} bytes, found {found}")).into());
        }
        Ok(Recorded {
            path: path.to_path_buf(),
            vocab,
            sequences: count,
            positions: scored(length),
            file,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Reference for Recorded {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn sequence(&mut self, index: usize, tokens: &[u32]) -> Result<Predictions, ForgeError> {
        if index >= self.sequences || scored(tokens.len()) != self.positions {
            return Err(EvaluateError::Sequences {
                what: "sequence",
                expected: format!("one of {} that were recorded", self.sequences),
                found: format!("number {index} of {} tokens", tokens.len()),
            }
            .into());
        }
        let one = self.positions * (2 * self.vocab + 8);
        let bytes = &self.file.bytes()[HEADER_BYTES + index * one..][..one];
        let (log_p, rest) = bytes.split_at(2 * self.positions * self.vocab);
        let (next, best) = rest.split_at(4 * self.positions);
        let halves = log_p.chunks_exact(2);
        let words = |bytes: &[u8]| -> Vec<u32> {
            let count = bytes.len() / 4;
            (0..count).map(|at| number(bytes, 4 * at)).collect()
        };
        Ok(Predictions {
            vocab: self.vocab,
            log_p: halves
                .map(|two| f16::from_le_bytes([two[0], two[1]]))
                .collect(),
            log_p_next: words(next).into_iter().map(f32::from_bits).collect(),
            best: words(best),
        })
    }
}

fn write_part(
    model: &mut dyn Predict,
    sequences: &[Vec<u32>],
    path: &Path,
    watch: &mut Watch<'_>,
) -> Result<(), ForgeError> {
    let file = File::create(path).map_err(ForgeError::io("create", path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let sizes = [model.vocab(), sequences.len(), sequences[0].len(), UNSCORED];
    let mut header = MAGIC.to_vec();
    for size in sizes {
        header.extend((size as u32).to_le_bytes());
    }
    header.extend(hash(sequences));
    out.write_all(&header)
        .map_err(ForgeError::io("write", path))?;
    for (index, tokens) in sequences.iter().enumerate() {
        progress(watch, "the original", index as u64, sequences.len() as u64)?;
        let found = Live(&mut *model).sequence(index, tokens)?;
        let mut bytes = Vec::with_capacity(2 * found.log_p.len() + 8 * found.best.len());
        for bits in found.log_p.reinterpret_cast() {
            bytes.extend(bits.to_le_bytes());
        }
        found
            .log_p_next
            .iter()
            .for_each(|log_p| bytes.extend(log_p.to_le_bytes()));
        found
            .best
            .iter()
            .for_each(|best| bytes.extend(best.to_le_bytes()));
        out.write_all(&bytes)
            .map_err(ForgeError::io("write", path))?;
    }
    out.flush().map_err(ForgeError::io("write", path))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn hash(sequences: &[Vec<u32>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for token in sequences.iter().flatten() {
        hash.update(token.to_le_bytes());
    }
    hash.finalize().into()
}
