//! GGUF, the file format of llama.cpp: typed metadata and quantized tensors in one file.
//!
//! The file is mapped and read in place; only metadata is copied. Everything is checked when the file is opened (counts, types,
//! nesting, alignment, extents, overlap), so that what asks for a tensor later can rely on it. Layout, little-endian, versions
//! 2 and 3 (ggml, `docs/gguf.md`):
//!
//! ```text
//!   "GGUF" · version u32 · tensor count u64 · metadata count u64
//!   metadata:  key string · type u32 · value            (string = length u64 + bytes; array = type u32 + count u64 + items)
//!   tensors:   name string · rank u32 · dims u64… · type u32 · offset u64      (first dim is the fastest: [columns, rows])
//!   padding to `general.alignment` (32 if absent)
//!   tensor data at its offsets from here
//! ```

mod blocks;
mod cursor;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

pub use blocks::BlockFormat;
use cursor::Cursor;
pub use write::{GgufWriteError, write_f32, write_f32_with};

/// Most metadata entries; published files have fewer than 100.
pub const MAX_METADATA: u64 = 4096;
/// Most tensors; a model of 126 layers has about 1,100.
pub const MAX_TENSORS: u64 = 65_536;
/// Longest string; chat templates are the longest, at some 10 KiB.
pub const MAX_STRING_BYTES: u64 = 1 << 20;
/// Longest key or tensor name.
pub const MAX_NAME_BYTES: u64 = 1024;
/// Most array items in the whole file; a vocabulary of 262,144 needs three arrays of that.
pub const MAX_ITEMS: u64 = 4 << 20;
/// Deepest nesting of arrays; published files have 1.
pub const MAX_ARRAY_DEPTH: u32 = 4;
/// Most dimensions of a tensor.
pub const MAX_RANK: u32 = 4;
/// Largest alignment accepted.
pub const MAX_ALIGNMENT: u64 = 1 << 20;
/// Alignment if the file states none.
pub const DEFAULT_ALIGNMENT: u64 = 32;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";

/// What is wrong with a GGUF file, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are not "GGUF".
    #[error("expected magic \"GGUF\", found {found:02x?}")]
    Magic {
        /// The bytes.
        found: Vec<u8>,
    },
    /// Neither version 2 nor 3.
    #[error("expected version 2 or 3, found {found}")]
    Version {
        /// The version.
        found: u32,
    },
    /// The file ends too early.
    #[error("{what} at byte {offset} needs {needed} bytes, {left} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        offset: u64,
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        left: u64,
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
    /// A string that is not UTF-8.
    #[error("string at byte {offset} is not UTF-8")]
    Utf8 {
        /// Where.
        offset: u64,
    },
    /// A metadata type that does not exist.
    #[error("metadata {key}: unknown value type {found}")]
    ValueType {
        /// The key.
        key: String,
        /// The number.
        found: u32,
    },
    /// A truth value that is neither 0 nor 1.
    #[error("metadata {key}: expected a truth value 0 or 1, found {found}")]
    Bool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// A key or tensor name that occurs twice.
    #[error("{name} occurs twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// An alignment that is not a power of two in range.
    #[error("alignment: expected a power of two up to {MAX_ALIGNMENT}, found {found}")]
    Alignment {
        /// The alignment.
        found: u64,
    },
    /// A tensor type this reader does not decode.
    #[error("tensor {tensor}: type {found} is not supported")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// ggml's number of the type.
        found: u32,
    },
    /// A tensor shape that cannot be.
    #[error(
        "tensor {tensor}: shape {dims:?} overflows, is empty, or its first size is no multiple of {block}"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its sizes, fastest first.
        dims: Vec<u64>,
        /// Elements of one block.
        block: u64,
    },
    /// A tensor offset that is not aligned.
    #[error("tensor {tensor}: offset {offset} is no multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A tensor that ends behind the end of the file.
    #[error("tensor {tensor}: ends at byte {end} of the data, which has {length}")]
    OutOfFile {
        /// The tensor.
        tensor: String,
        /// Its end.
        end: u64,
        /// Length of the data section.
        length: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors {first} and {second} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// Metadata that is needed and absent or of another type.
    #[error("metadata {key}: expected {expected}, found {found}")]
    Metadata {
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What there is.
        found: String,
    },
    /// A tensor that is needed and absent.
    #[error("tensor {tensor} is missing")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A weight that is infinite or not a number.
    #[error("tensor {tensor}: weight {index} is {value}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Index of the element within what was decoded.
        index: usize,
        /// Its value.
        value: f32,
    },
}

/// A metadata value. Integers of all widths are widened; f32 becomes f64 without loss.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8 to u64.
    Unsigned(u64),
    /// i8 to i64.
    Signed(i64),
    /// f32 and f64.
    Float(f64),
    /// bool.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Items of one type.
    Array(Vec<Value>),
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Value::Unsigned(value) => value.to_string(),
            Value::Signed(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::String(_) => "a string".into(),
            Value::Array(items) => format!("an array of {}", items.len()),
        }
    }
}

/// Shape, type and place of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, fastest first: `[columns, rows]` of a matrix that maps columns to rows.
    pub dims: Vec<u64>,
    /// How the elements are stored.
    pub format: BlockFormat,
    /// First byte, from the beginning of the data section.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// Size of a row (the fastest dimension).
    pub fn columns(&self) -> usize {
        self.dims.first().map_or(1, |&size| size as usize)
    }

    /// Product of all other sizes.
    pub fn rows(&self) -> usize {
        self.dims.iter().skip(1).product::<u64>() as usize
    }
}

/// A checked GGUF file over borrowed bytes.
#[derive(Debug)]
pub struct Gguf<'a> {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    data: &'a [u8],
}

impl<'a> Gguf<'a> {
    /// Reads header, metadata and tensor table, and checks that every tensor lies inside the file and none overlap.
    ///
    /// # Errors
    /// [`GgufError`] names the first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.take("magic", 4)?;
        if magic != MAGIC {
            return Err(GgufError::Magic {
                found: magic.to_vec(),
            });
        }
        let version = cursor.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = cursor.count("tensors", MAX_TENSORS)?;
        let metadata_count = cursor.count("metadata entries", MAX_METADATA)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let (key, value) = cursor.entry()?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufError::Duplicate { name: key });
            }
        }
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= MAX_ALIGNMENT => {
                *value
            }
            Some(Value::Unsigned(value)) => return Err(GgufError::Alignment { found: *value }),
            Some(other) => {
                return Err(wrong_type(
                    ALIGNMENT_KEY,
                    "an unsigned integer",
                    Some(other),
                ));
            }
        };
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let (name, info) = tensor_info(&mut cursor, alignment)?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(GgufError::Duplicate { name });
            }
        }
        let data_start = cursor
            .offset()
            .next_multiple_of(alignment)
            .min(bytes.len() as u64);
        let data = &bytes[data_start as usize..];
        check_extents(&tensors, data.len() as u64)?;
        Ok(Gguf {
            metadata,
            tensors,
            data,
        })
    }

    /// All metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A tensor's description.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensors
            .get(name)
            .ok_or_else(|| GgufError::MissingTensor {
                tensor: name.to_string(),
            })
    }

    /// A tensor's bytes as stored.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn raw(&self, name: &str) -> Result<&'a [u8], GgufError> {
        let info = self.tensor(name)?;
        Ok(&self.data[info.offset as usize..(info.offset + info.bytes) as usize])
    }

    /// A tensor's elements as f32, row after row.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`], or [`GgufError::NotFinite`] if a weight is infinite or not a number.
    pub fn dequantize(&self, name: &str) -> Result<Vec<f32>, GgufError> {
        let info = self.tensor(name)?;
        let weights = info.format.dequantize(self.raw(name)?);
        match weights.iter().position(|weight| !weight.is_finite()) {
            None => Ok(weights),
            Some(index) => Err(GgufError::NotFinite {
                tensor: name.to_string(),
                index,
                value: weights[index],
            }),
        }
    }

    /// An unsigned metadata value (non-negative signed ones count).
    ///
    /// # Errors
    /// [`GgufError::Metadata`] if absent or of another type.
    pub fn unsigned(&self, key: &str) -> Result<u64, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Unsigned(value)) => Ok(*value),
            Some(Value::Signed(value)) if *value >= 0 => Ok(value.unsigned_abs()),
            other => Err(wrong_type(key, "an unsigned integer", other)),
        }
    }

    /// A floating-point metadata value.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] if absent or of another type.
    pub fn float(&self, key: &str) -> Result<f64, GgufError> {
        match self.metadata.get(key) {
            Some(Value::Float(value)) => Ok(*value),
            other => Err(wrong_type(key, "a float", other)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] if absent or of another type.
    pub fn string(&self, key: &str) -> Result<&str, GgufError> {
        match self.metadata.get(key) {
            Some(Value::String(value)) => Ok(value),
            other => Err(wrong_type(key, "a string", other)),
        }
    }

    /// An array of texts.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] if absent or of another type.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        const EXPECTED: &str = "an array of strings";
        let Some(Value::Array(items)) = self.metadata.get(key) else {
            return Err(wrong_type(key, EXPECTED, self.metadata.get(key)));
        };
        let texts = items.iter().map(|item| match item {
            Value::String(text) => Ok(text.as_str()),
            other => Err(wrong_type(key, EXPECTED, Some(other))),
        });
        texts.collect()
    }

    /// An array of floats.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] if absent or of another type.
    pub fn numbers(&self, key: &str) -> Result<Vec<f64>, GgufError> {
        const EXPECTED: &str = "an array of floats";
        let Some(Value::Array(items)) = self.metadata.get(key) else {
            return Err(wrong_type(key, EXPECTED, self.metadata.get(key)));
        };
        let float = |item: &Value| match item {
            Value::Float(value) => Ok(*value),
            other => Err(wrong_type(key, EXPECTED, Some(other))),
        };
        items.iter().map(float).collect()
    }

    /// An array of integers.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] if absent or of another type.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, GgufError> {
        const EXPECTED: &str = "an array of integers";
        let Some(Value::Array(items)) = self.metadata.get(key) else {
            return Err(wrong_type(key, EXPECTED, self.metadata.get(key)));
        };
        let integer = |item: &Value| match item {
            Value::Signed(value) => Ok(*value),
            Value::Unsigned(value) => {
                i64::try_from(*value).map_err(|_| wrong_type(key, EXPECTED, Some(item)))
            }
            other => Err(wrong_type(key, EXPECTED, Some(other))),
        };
        items.iter().map(integer).collect()
    }
}

fn wrong_type(key: &str, expected: &'static str, found: Option<&Value>) -> GgufError {
    GgufError::Metadata {
        key: key.to_string(),
        expected,
        found: found.map_or_else(|| "nothing".to_string(), Value::describe),
    }
}

/// Reads one row of the tensor table.
fn tensor_info(cursor: &mut Cursor<'_>, alignment: u64) -> Result<(String, TensorInfo), GgufError> {
    let tensor = cursor.string("tensor name", MAX_NAME_BYTES)?;
    let rank = cursor.u32("tensor rank")?;
    if rank > MAX_RANK {
        return Err(GgufError::Limit {
            what: "tensor rank",
            limit: MAX_RANK.into(),
            found: rank.into(),
        });
    }
    let mut dims = Vec::new();
    for _ in 0..rank {
        dims.push(cursor.u64("tensor size")?);
    }
    let number = cursor.u32("tensor type")?;
    let offset = cursor.u64("tensor offset")?;
    let Some(format) = BlockFormat::from_number(number) else {
        return Err(GgufError::TensorType {
            tensor,
            found: number,
        });
    };
    let block = format.block_elements();
    let elements = dims
        .iter()
        .try_fold(1_u64, |product, &size| product.checked_mul(size))
        .filter(|&product| product > 0);
    let is_whole = dims.first().copied().unwrap_or(1).is_multiple_of(block);
    let bytes = elements
        .and_then(|elements| (elements / block).checked_mul(format.block_bytes()))
        .filter(|&bytes| bytes <= i64::MAX as u64);
    let (Some(bytes), true) = (bytes, is_whole) else {
        return Err(GgufError::Shape {
            tensor,
            dims,
            block,
        });
    };
    if !offset.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned {
            tensor,
            offset,
            alignment,
        });
    }
    Ok((
        tensor,
        TensorInfo {
            dims,
            format,
            offset,
            bytes,
        },
    ))
}

/// Every tensor inside the data, no two sharing a byte.
fn check_extents(tensors: &BTreeMap<String, TensorInfo>, length: u64) -> Result<(), GgufError> {
    let mut extents = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let end = info.offset.saturating_add(info.bytes);
        if end > length {
            return Err(GgufError::OutOfFile {
                tensor: name.clone(),
                end,
                length,
            });
        }
        extents.push((info.offset, end, name));
    }
    extents.sort();
    for pair in extents.windows(2) {
        if pair[0].1 > pair[1].0 {
            return Err(GgufError::Overlap {
                first: pair[0].2.clone(),
                second: pair[1].2.clone(),
            });
        }
    }
    Ok(())
}
