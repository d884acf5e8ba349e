//! Writing GGUF: the same model with every weight as a 32-bit float.
//!
//! The reference against which quantized engines are judged is the model that they both approximate, computed in float32. That
//! is the published file with its blocks dequantized, which any other engine can then quantize its own way. Metadata is copied
//! byte for byte, because its integer widths carry meaning to readers; only `general.file_type` changes, to "all F32".
//!
//! ```text
//!   header, version 3 ─ metadata as it was, file_type 0 ─ tensor table, type F32, new offsets ─ padding ─ f32 …, padded each
//! ```

use std::io::{self, Write};

use super::cursor::Cursor;
use super::{
    ALIGNMENT_KEY, BlockFormat, DEFAULT_ALIGNMENT, Gguf, GgufError, MAGIC, MAX_METADATA,
    MAX_TENSORS,
};

/// Version written.
const VERSION: u32 = 3;
/// What the file as a whole contains, by llama.cpp's numbers (`llama_ftype`): 0 is "all F32".
const FILE_TYPE_KEY: &str = "general.file_type";
/// ggml's number of an unsigned 32-bit value.
const UNSIGNED_32: u32 = 4;
/// ggml's number of f32 tensors.
const FLOAT_32: u32 = 0;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum GgufWriteError {
    /// The source is damaged.
    #[error(transparent)]
    Source(#[from] GgufError),
    /// Other weights than the tensor has room for.
    #[error("tensor {tensor}: expected {expected} elements, found {found}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Elements of the tensor.
        expected: u64,
        /// Elements given.
        found: u64,
    },
    /// The destination refused.
    #[error("writing: {0}")]
    Io(#[from] io::Error),
}

/// Writes the GGUF file `bytes` to `out` with all tensors as f32.
///
/// # Errors
/// [`GgufWriteError::Source`] for a damaged file or a weight that is not finite, [`GgufWriteError::Io`] from `out`.
pub fn write_f32(bytes: &[u8], out: &mut dyn Write) -> Result<(), GgufWriteError> {
    write_f32_with(bytes, out, &mut |_| None)
}

/// Writes the GGUF file `bytes` to `out` with all tensors as f32, some with other weights: `values` is asked for each tensor by
/// name, and answers with as many elements as the tensor has, in its order, or `None` to keep what the file has.
///
/// # Errors
/// As [`write_f32`], and [`GgufWriteError::Length`] for an answer of another length.
pub fn write_f32_with(
    bytes: &[u8],
    out: &mut dyn Write,
    values: &mut dyn FnMut(&str) -> Option<Vec<f32>>,
) -> Result<(), GgufWriteError> {
    let source = Gguf::parse(bytes)?;
    let alignment = match source.unsigned(ALIGNMENT_KEY) {
        Ok(alignment) => alignment,
        Err(_) => DEFAULT_ALIGNMENT,
    } as usize;
    let metadata = metadata(bytes)?;
    let mut header = Vec::from(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend((source.tensors().len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    header.extend(metadata.concat());
    let mut offset = 0_u64;
    for (name, info) in source.tensors() {
        text(&mut header, name);
        header.extend((info.dims.len() as u32).to_le_bytes());
        header.extend(info.dims.iter().flat_map(|size| size.to_le_bytes()));
        header.extend(FLOAT_32.to_le_bytes());
        header.extend(offset.to_le_bytes());
        let elements: u64 = info.dims.iter().product();
        offset += (elements * BlockFormat::F32.block_bytes()).next_multiple_of(alignment as u64);
    }
    header.resize(header.len().next_multiple_of(alignment), 0);
    out.write_all(&header)?;
    let mut data = Vec::new();
    for (name, info) in source.tensors() {
        data.clear();
        let weights = match values(name) {
            Some(weights) => weights,
            None => source.dequantize(name)?,
        };
        let expected: u64 = info.dims.iter().product();
        if weights.len() as u64 != expected {
            return Err(GgufWriteError::Length {
                tensor: name.clone(),
                expected,
                found: weights.len() as u64,
            });
        }
        for weight in weights {
            data.extend(weight.to_le_bytes());
        }
        data.resize(data.len().next_multiple_of(alignment), 0);
        out.write_all(&data)?;
    }
    Ok(out.flush()?)
}

/// Every metadata entry as bytes, in its order, with the file type replaced.
fn metadata(bytes: &[u8]) -> Result<Vec<Vec<u8>>, GgufError> {
    let mut cursor = Cursor::new(bytes);
    cursor.take("magic", MAGIC.len() as u64)?;
    cursor.u32("version")?;
    cursor.count("tensors", MAX_TENSORS)?;
    let count = cursor.count("metadata entries", MAX_METADATA)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let start = cursor.offset() as usize;
        let (key, _) = cursor.entry()?;
        if key != FILE_TYPE_KEY {
            entries.push(bytes[start..cursor.offset() as usize].to_vec());
        }
    }
    let mut file_type = Vec::new();
    text(&mut file_type, FILE_TYPE_KEY);
    file_type.extend(UNSIGNED_32.to_le_bytes());
    file_type.extend(0_u32.to_le_bytes());
    entries.push(file_type);
    Ok(entries)
}

/// A length-prefixed text.
fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::sample::Sample;
    use super::*;

    /// 1.0 as f16.
    const ONE: [u8; 2] = [0x00, 0x3c];

    /// A file with one Q8_0 matrix of 2 × 32 and one f32 vector of 3.
    fn sample() -> Vec<u8> {
        let mut block = ONE.to_vec();
        block.extend((0..32).map(|value| value as u8));
        let blocks = [block.clone(), block].concat();
        let mut file = Sample::default()
            .string("general.architecture", "llama")
            .entry("llama.head_count", 2, &7_u16.to_le_bytes())
            .unsigned(FILE_TYPE_KEY, 7)
            .strings("tokenizer.ggml.tokens", &["a", "b"])
            .floats("norm.weight", &[3], &[1.0, 2.0, 3.0])
            .tensor("a.weight", &[32, 2], 8, 32)
            .bytes(32 + blocks.len());
        let start = file.len() - blocks.len();
        file[start..].copy_from_slice(&blocks);
        file
    }

    #[test]
    fn every_weight_and_every_value_comes_back_and_only_the_file_type_differs() {
        let source = sample();
        let mut written = Vec::new();
        write_f32(&source, &mut written).unwrap();
        let (before, after) = (
            Gguf::parse(&source).unwrap(),
            Gguf::parse(&written).unwrap(),
        );
        assert_eq!(after.tensors().len(), 2);
        for (name, info) in after.tensors() {
            assert_eq!(info.format, BlockFormat::F32, "{name}");
            assert_eq!(info.dims, before.tensor(name).unwrap().dims, "{name}");
            assert_eq!(
                after.dequantize(name).unwrap(),
                before.dequantize(name).unwrap(),
                "{name}"
            );
        }
        let mut expected = before.metadata().clone();
        expected.insert(FILE_TYPE_KEY.to_owned(), Value::Unsigned(0));
        assert_eq!(*after.metadata(), expected);
        let width = [
            &b"llama.head_count"[..],
            &2_u32.to_le_bytes(),
            &7_u16.to_le_bytes(),
        ]
        .concat();
        assert!(
            written.windows(width.len()).any(|bytes| bytes == width),
            "a 16-bit value stays a 16-bit value"
        );
    }

    #[test]
    fn a_damaged_source_and_a_full_disk_are_told_apart() {
        let mut source = sample();
        let end = source.len();
        source[end - 68..end - 66].copy_from_slice(&[0x00, 0x7c]); // an infinite scale
        let error = write_f32(&source, &mut Vec::new()).unwrap_err();
        assert!(
            matches!(
                error,
                GgufWriteError::Source(GgufError::NotFinite { ref tensor, .. }) if tensor == "a.weight"
            ),
            "{error}"
        );
        let mut room = [0_u8; 100];
        let error = write_f32(&sample(), &mut &mut room[..]).unwrap_err();
        assert!(matches!(error, GgufWriteError::Io(_)), "{error}");
    }
}
