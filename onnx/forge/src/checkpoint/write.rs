//! Writes the weights of a checkpoint: a header that is known from the description, then one tensor after the other.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::{CheckpointError, WEIGHTS_FILE, constants};
use crate::decoder::DecoderSpec;
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};

/// Data begin at a multiple of this, so that a mapped file can be read as floats.
const ALIGNMENT_BYTES: usize = 64;

/// Makes the elements of a tensor by its canonical name.
type Make<'m, 'w> = &'m mut dyn FnMut(&str) -> Result<Cow<'w, [f32]>, ForgeError>;

/// Writes the file of all tensors of `spec` into `dir`, asking `make` for one at a time, in order. Returns the sha256 of the file.
pub(super) fn weights<'w>(
    dir: &Path,
    spec: &DecoderSpec,
    make: Make<'_, 'w>,
    watch: &mut Watch<'_>,
) -> Result<String, ForgeError> {
    let constants = constants(spec);
    let path = dir.join(WEIGHTS_FILE);
    let failed = |error| ForgeError::io("write", &path)(error);
    let file = File::create(&path).map_err(ForgeError::io("create", &path))?;
    let mut file = Hashed {
        file: BufWriter::with_capacity(1 << 20, file),
        hash: Sha256::new(),
    };
    let (mut header, mut total) = (Map::new(), 0_u64);
    for (name, constant) in &constants {
        let end = total + 4 * constant.elements() as u64;
        header.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": constant.shape(), "data_offsets": [total, end]}),
        );
        total = end;
    }
    let mut header = Json::Object(header).to_string();
    let padded = (8 + header.len()).next_multiple_of(ALIGNMENT_BYTES) - 8;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    file.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    let mut done = 0;
    for (name, constant) in &constants {
        let elements = make(name)?;
        if elements.len() != constant.elements() {
            return Err(CheckpointError::Length {
                tensor: name.clone(),
                expected: constant.elements(),
                found: elements.len(),
            }
            .into());
        }
        check_finite(name, &elements)?;
        file.write_all(&bytes(&elements)).map_err(failed)?;
        done += 4 * elements.len() as u64;
        let progress = Progress {
            step: Step::Convert,
            item: name,
            done,
            total,
        };
        report(watch, progress)?;
    }
    let Hashed { file, hash } = file;
    let file = file
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(ForgeError::io("flush", &path))?;
    Ok(crate::folder::hex(&hash.finalize()))
}

/// A file that is hashed while it is written: afterwards it would have to be read once more.
struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
}

impl Hashed {
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

/// Refuses weights that are infinite or not a number: they would spread to every answer.
pub(super) fn check_finite(tensor: &str, elements: &[f32]) -> Result<(), ForgeError> {
    match elements.iter().position(|element| !element.is_finite()) {
        None => Ok(()),
        Some(index) => Err(CheckpointError::NotFinite {
            tensor: tensor.to_string(),
            index,
            value: elements[index].to_string(),
        }
        .into()),
    }
}

/// Little-endian bytes; in place where that is how the computer has them.
fn bytes(elements: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(elements));
    }
    Cow::Owned(crate::graph::float_bytes(elements))
}
