//! A position in untrusted bytes: every read is checked against what is left, and nothing is allocated before it is known to be
//! there.

use super::{GgufError, MAX_ARRAY_DEPTH, MAX_ITEMS, MAX_NAME_BYTES, MAX_STRING_BYTES, Value};

/// Reads GGUF's primitive types and metadata values.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
    items_left: u64,
}

/// Number of the array type; the others are scalars and strings.
const ARRAY: u32 = 9;

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor {
            bytes,
            offset: 0,
            items_left: MAX_ITEMS,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset as u64
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, what: &'static str, count: u64) -> Result<&'a [u8], GgufError> {
        let left = (self.bytes.len() - self.offset) as u64;
        if count > left {
            return Err(GgufError::Truncated {
                what,
                offset: self.offset(),
                needed: count,
                left,
            });
        }
        let end = self.offset + count as usize;
        let taken = &self.bytes[self.offset..end];
        self.offset = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(what, N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count that must not exceed `limit`.
    pub(super) fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let found = self.u64(what)?;
        if found > limit {
            Err(GgufError::Limit { what, limit, found })
        } else {
            Ok(found)
        }
    }

    /// A length-prefixed text of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let length = self.count(what, limit)?;
        let offset = self.offset();
        let bytes = self.take(what, length)?;
        std::str::from_utf8(bytes)
            .map(str::to_string)
            .map_err(|_| GgufError::Utf8 { offset })
    }

    /// A key and its value.
    pub(super) fn entry(&mut self) -> Result<(String, Value), GgufError> {
        let key = self.string("metadata key", MAX_NAME_BYTES)?;
        let kind = self.u32("metadata type")?;
        let value = self.value(&key, kind, 0)?;
        Ok((key, value))
    }

    /// A value of type `kind`, inside `depth` arrays. The numbers are ggml's `gguf_type`.
    fn value(&mut self, key: &str, kind: u32, depth: u32) -> Result<Value, GgufError> {
        const WHAT: &str = "metadata value";
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(WHAT)?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(WHAT)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(WHAT)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(WHAT)?).into()),
            4 => Value::Unsigned(self.u32(WHAT)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(WHAT)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(WHAT)?).into()),
            7 => match self.array::<1>(WHAT)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                found => {
                    return Err(GgufError::Bool {
                        key: key.to_string(),
                        found,
                    });
                }
            },
            8 => Value::String(self.string("metadata string", MAX_STRING_BYTES)?),
            ARRAY => self.items(key, depth + 1)?,
            10 => Value::Unsigned(self.u64(WHAT)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(WHAT)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(WHAT)?)),
            found => {
                return Err(GgufError::ValueType {
                    key: key.to_string(),
                    found,
                });
            }
        })
    }

    /// An array's items. The number of items in the whole file is limited, and so is the depth.
    fn items(&mut self, key: &str, depth: u32) -> Result<Value, GgufError> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(GgufError::Limit {
                what: "array depth",
                limit: MAX_ARRAY_DEPTH.into(),
                found: depth.into(),
            });
        }
        let kind = self.u32("array type")?;
        let count = self.count("array items", self.items_left)?;
        self.items_left -= count;
        let left = (self.bytes.len() - self.offset) as u64;
        // Every item has at least one byte, so that this reserves no more than the file can fill.
        let mut items = Vec::with_capacity(count.min(left) as usize);
        for _ in 0..count {
            items.push(self.value(key, kind, depth)?);
        }
        Ok(Value::Array(items))
    }
}
