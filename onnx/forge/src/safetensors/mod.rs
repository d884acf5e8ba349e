//! safetensors, the file format of Hugging Face checkpoints: a JSON header, then the elements of all tensors.
//!
//! The whole header is checked when the file is opened: types, shapes against extents, order, gaps, and that no two tensors share
//! a byte, so that whoever asks for a tensor later can rely on it. Elements are read in place from the mapped file.
//!
//! ```text
//!   header length u64 (little-endian) · header JSON {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …} · data
//! ```

#[cfg(test)]
pub(crate) mod sample;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::gguf::BlockFormat;

pub use shards::Shards;

/// Longest header; published files of 1,000 tensors have about 100 KB.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Most tensors of a file.
pub const MAX_TENSORS: usize = 65_536;
/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;
/// Longest name of a tensor.
pub const MAX_NAME_BYTES: usize = 1024;
/// The one entry of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// What is wrong with a safetensors file, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SafetensorsError {
    /// The file ends before its header does.
    #[error("header: expected {expected} bytes, found {found}")]
    Truncated {
        /// Bytes that the header needs.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// A count or a length beyond its limit.
    #[error("{what}: expected at most {limit}, found {found}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// The value.
        found: u64,
    },
    /// A header, or an index, that is not the JSON it should be.
    #[error("{what}: {reason}")]
    Json {
        /// Which JSON.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// A tensor whose extent does not lie inside the data.
    #[error("tensor {tensor}: bytes {begin} to {end} of {length}")]
    Extent {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// End.
        end: u64,
        /// Length of the data.
        length: u64,
    },
    /// A tensor whose extent is not what its shape and type need.
    #[error(
        "tensor {tensor}: shape {shape:?} of {dtype}: expected {expected}, found {found} bytes"
    )]
    Length {
        /// The tensor.
        tensor: String,
        /// Its sizes, slowest first.
        shape: Vec<u64>,
        /// Its type.
        dtype: String,
        /// What the shape needs.
        expected: String,
        /// Bytes of the extent.
        found: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors {first} and {second} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// A name that occurs twice, in one file or in two shards.
    #[error("tensor {tensor} occurs twice")]
    Duplicate {
        /// The name.
        tensor: String,
    },
    /// A type this reader does not know.
    #[error("tensor {tensor}: type {found} is not supported")]
    Type {
        /// The tensor.
        tensor: String,
        /// The type.
        found: String,
    },
    /// A tensor that is needed and absent.
    #[error("tensor {tensor} is missing")]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// The index and the shards do not fit together.
    #[error("index: {reason}")]
    Index {
        /// What does not fit.
        reason: String,
    },
}

/// Type, shape and place of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How elements are stored; `None` for integers and truth values, which no graph needs.
    pub format: Option<BlockFormat>,
    /// Name of the type as the file has it.
    pub dtype: String,
    /// Sizes, slowest first.
    pub shape: Vec<u64>,
    /// First byte, from the beginning of the data.
    pub begin: u64,
    /// End.
    pub end: u64,
}

/// A row of the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header with its rows in order, so that a name that occurs twice is seen.
struct Rows(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Rows, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Rows;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Rows, A::Error> {
                let mut rows = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<BTreeMap<String, String>>()?;
                    } else {
                        rows.push((name, map.next_value()?));
                    }
                }
                Ok(Rows(rows))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A checked header and where the data begin.
#[derive(Debug)]
pub struct Header {
    /// All tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// First byte of the data.
    pub data_start: usize,
}

/// Reads and checks the header of a whole file.
///
/// # Errors
/// [`SafetensorsError`] names the first thing that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Header, SafetensorsError> {
    let truncated = |expected| SafetensorsError::Truncated {
        expected,
        found: bytes.len() as u64,
    };
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or(truncated(8))?;
    let length = u64::from_le_bytes(*length);
    limit("header bytes", MAX_HEADER_BYTES, length)?;
    let json = rest.get(..length as usize).ok_or(truncated(8 + length))?;
    let data = &rest[length as usize..];
    let Rows(rows) = serde_json::from_slice(json).map_err(|error| SafetensorsError::Json {
        what: "header",
        reason: error.to_string(),
    })?;
    limit("tensors", MAX_TENSORS as u64, rows.len() as u64)?;
    let mut tensors = BTreeMap::new();
    for (name, entry) in rows {
        let info = tensor(&name, entry, data.len() as u64)?;
        if tensors.insert(name.clone(), info).is_some() {
            return Err(SafetensorsError::Duplicate { tensor: name });
        }
    }
    check_overlaps(&tensors)?;
    Ok(Header {
        tensors,
        data_start: 8 + length as usize,
    })
}

fn limit(what: &'static str, limit: u64, found: u64) -> Result<(), SafetensorsError> {
    if found <= limit {
        return Ok(());
    }
    Err(SafetensorsError::Limit { what, limit, found })
}

/// Checks a row of the header against a data section of `length` bytes.
fn tensor(name: &str, entry: Entry, length: u64) -> Result<TensorInfo, SafetensorsError> {
    let Entry {
        dtype,
        shape,
        data_offsets: [begin, end],
    } = entry;
    limit("bytes of a name", MAX_NAME_BYTES as u64, name.len() as u64)?;
    limit("dimensions", MAX_RANK as u64, shape.len() as u64)?;
    let (format, element_bytes) = match dtype.as_str() {
        "F32" => (Some(BlockFormat::F32), 4),
        "F16" => (Some(BlockFormat::F16), 2),
        "BF16" => (Some(BlockFormat::Bf16), 2),
        "I64" | "U64" | "F64" => (None, 8),
        "I32" | "U32" => (None, 4),
        "I16" | "U16" => (None, 2),
        "I8" | "U8" | "BOOL" => (None, 1),
        _ => {
            return Err(SafetensorsError::Type {
                tensor: name.to_string(),
                found: dtype,
            });
        }
    };
    if begin > end || end > length {
        return Err(SafetensorsError::Extent {
            tensor: name.to_string(),
            begin,
            end,
            length,
        });
    }
    let expected = shape.iter().try_fold(element_bytes, |product: u64, &size| {
        product.checked_mul(size)
    });
    if expected != Some(end - begin) {
        return Err(SafetensorsError::Length {
            tensor: name.to_string(),
            shape,
            dtype,
            expected: expected.map_or_else(|| "more than 2^64".into(), |bytes| bytes.to_string()),
            found: end - begin,
        });
    }
    Ok(TensorInfo {
        format,
        dtype,
        shape,
        begin,
        end,
    })
}

fn check_overlaps(tensors: &BTreeMap<String, TensorInfo>) -> Result<(), SafetensorsError> {
    let mut extents: Vec<_> = tensors
        .iter()
        .map(|(name, info)| (info.begin, info.end, name))
        .collect();
    extents.sort();
    for pair in extents.windows(2) {
        if pair[0].1 > pair[1].0 {
            return Err(SafetensorsError::Overlap {
                first: pair[0].2.clone(),
                second: pair[1].2.clone(),
            });
        }
    }
    Ok(())
}
