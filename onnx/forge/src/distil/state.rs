//! The state of a run that was stopped: everything that decides how it goes on, in one file that is there whole or not at all.
//!
//! ```text
//!   8 bytes length ─ JSON { format, fingerprint, step, looks, losses, … } ─ f32 little-endian: weights, means, squares, and
//!       best weights if there are any, of each trained tensor in the student's order
//! ```

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::student::Student;
use super::{DistilError, Look};
use crate::error::ForgeError;

/// Value of `format`.
const FORMAT: &str = "llmasos-distil/v1";
/// Longest header: a million looks would be shorter.
const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Floats that are moved between file and memory at once.
const PIECE: usize = 1 << 16;

/// What a run has done so far, beside the student itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {
    pub(super) step: u32,
    pub(super) looks: Vec<Look>,
    pub(super) losses: Vec<f64>,
    pub(super) teacher_perplexity: f64,
    /// Looks since the best one.
    pub(super) waited: u32,
    /// Bits of its loss: text would round it.
    pub(super) best_loss_bits: u64,
}

impl Default for Done {
    fn default() -> Done {
        Done {
            step: 0,
            looks: Vec::new(),
            losses: Vec::new(),
            teacher_perplexity: 0.0,
            waited: 0,
            best_loss_bits: f64::INFINITY.to_bits(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    /// Hash of everything that must be equal for going on: models, options, texts.
    fingerprint: String,
    floats: u64,
    /// Whether the weights of the best look follow those of the last step.
    has_best: bool,
    done: Done,
}

/// Writes the state beside its final name and renames it.
///
/// # Errors
/// [`ForgeError::Io`].
pub(super) fn save(
    path: &Path,
    fingerprint: &str,
    (done, best): (&Done, Option<&[Vec<f32>]>),
    student: &mut Student,
) -> Result<(), ForgeError> {
    let partial = Partial(path.with_extension("partial"));
    let file = File::create(&partial.0).map_err(ForgeError::io("create", &partial.0))?;
    let mut file = BufWriter::new(file);
    let header = Header {
        format: FORMAT.into(),
        fingerprint: fingerprint.into(),
        floats: floats(student, best.is_some()),
        has_best: best.is_some(),
        done: done.clone(),
    };
    let header = serde_json::to_vec(&header).map_err(|error| ForgeError::Io {
        action: "serialize",
        path: path.to_path_buf(),
        source: error.into(),
    })?;
    let mut result = file
        .write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(&header));
    let mut best = best.into_iter().flatten();
    student.each_trained(&mut |tensor, moments| {
        let all = [&tensor.values, &moments.mean, &moments.square];
        for values in all.into_iter().chain(best.next()) {
            for piece in values.chunks(PIECE) {
                if result.is_ok() {
                    result = file.write_all(&crate::graph::float_bytes(piece));
                }
            }
        }
    });
    result
        .and_then(|()| file.flush())
        .and_then(|()| file.get_ref().sync_all())
        .map_err(ForgeError::io("write", &partial.0))?;
    fs::rename(&partial.0, path).map_err(ForgeError::io("rename", &partial.0))
}

/// What a state says besides the student, and the weights of the best look.
type Found = (Done, Option<Vec<Vec<f32>>>);

/// Reads a state into the student, if there is one.
///
/// # Errors
/// [`DistilError::State`] if it belongs to another run or is damaged, [`ForgeError::Io`].
pub(super) fn load(
    path: &Path,
    fingerprint: &str,
    student: &mut Student,
) -> Result<Option<Found>, ForgeError> {
    if !path.exists() {
        return Ok(None);
    }
    let file = File::open(path).map_err(ForgeError::io("open", path))?;
    let length = file
        .metadata()
        .map_err(ForgeError::io("inspect", path))?
        .len();
    let mut file = BufReader::new(file);
    let (header, taken) = header(path, &mut file)?;
    let wrong = |expected: String, found: String| DistilError::State {
        path: path.display().to_string(),
        expected,
        found,
    };
    if header.format != FORMAT || header.fingerprint != fingerprint {
        let found = format!("{} {}", header.format, header.fingerprint);
        return Err(wrong(format!("{FORMAT} {fingerprint}"), found).into());
    }
    let floats = floats(student, header.has_best);
    if header.floats != floats || length != taken + floats * 4 {
        let found = format!("{} floats in {length} bytes", header.floats);
        return Err(wrong(
            format!("{floats} floats in {} bytes", taken + floats * 4),
            found,
        )
        .into());
    }
    let (mut result, mut best) = (Ok(()), Vec::new());
    student.each_trained(&mut |tensor, moments| {
        if header.has_best {
            best.push(vec![0.0; tensor.values.len()]);
        }
        let all = [&mut tensor.values, &mut moments.mean, &mut moments.square];
        let last = best.last_mut().filter(|_| header.has_best);
        for values in all.into_iter().chain(last) {
            for piece in values.chunks_mut(PIECE) {
                if result.is_ok() {
                    result = read_floats(&mut file, piece);
                }
            }
        }
    });
    result.map_err(ForgeError::io("read", path))?;
    Ok(Some((header.done, header.has_best.then_some(best))))
}

fn floats(student: &Student, has_best: bool) -> u64 {
    student.trained() * if has_best { 4 } else { 3 }
}

/// The header, and the bytes before the floats.
fn header(path: &Path, file: &mut impl Read) -> Result<(Header, u64), ForgeError> {
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(ForgeError::io("read", path))?;
    let size = u64::from_le_bytes(size);
    let damaged = |found: String| DistilError::State {
        path: path.display().to_string(),
        expected: format!("a header of at most {MAX_HEADER_BYTES} bytes"),
        found,
    };
    if size > MAX_HEADER_BYTES {
        return Err(damaged(format!("{size} bytes")).into());
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes)
        .map_err(ForgeError::io("read", path))?;
    let header = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    Ok((header, 8 + size))
}

fn read_floats(file: &mut impl Read, values: &mut [f32]) -> std::io::Result<()> {
    let mut bytes = vec![0; values.len() * 4];
    file.read_exact(&mut bytes)?;
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
    Ok(())
}

/// A file under a temporary name; removed when dropped unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove, and that is fine.
        let _ = fs::remove_file(&self.0);
    }
}
