//! Counts what a file contains before it is decoded: a few bytes can ask for an object of hundreds.
//!
//! An empty node takes two bytes in the file and some two hundred in memory, so that a file of a few megabytes could use up all of
//! it. The scan walks the same messages as the decoder, allocates nothing, and stops at the first number that is too large.
//!
//! ```text
//!   model ─ 7 graph ─┬─ 1 node ─ 5 attribute ─┬─ 6, 11 graph (deeper, up to MAX_DEPTH)
//!                    ├─ 5 constant            └─ 5, 10 tensor
//!                    └─ 11, 12, 13 value ─ …
//! ```

use super::{
    MAX_CONSTANTS, MAX_DEPTH, MAX_FIELDS, MAX_LIST_BYTES, MAX_MODEL_BYTES, MAX_NODES, OnnxFileError,
};

/// Checks the numbers of a whole model.
///
/// # Errors
/// [`OnnxFileError::Limit`], or [`OnnxFileError::Wire`] for bytes that are no protobuf.
pub(super) fn model(bytes: &[u8]) -> Result<(), OnnxFileError> {
    within("bytes of the file", MAX_MODEL_BYTES, bytes.len() as u64)?;
    let mut counts = Counts::default();
    for field in Fields(bytes) {
        let (tag, value) = field?;
        counts.field()?;
        if let (7, Value::Bytes(graph)) = (tag, value) {
            counts.graph(graph, 0)?;
        }
    }
    Ok(())
}

fn within(what: &str, limit: u64, found: u64) -> Result<(), OnnxFileError> {
    if found > limit {
        return Err(OnnxFileError::Limit {
            what: what.to_string(),
            limit,
            found,
        });
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    fields: usize,
    nodes: usize,
    constants: usize,
    list_bytes: u64,
}

impl Counts {
    fn field(&mut self) -> Result<(), OnnxFileError> {
        self.fields += 1;
        within("fields", MAX_FIELDS as u64, self.fields as u64)
    }

    fn graph(&mut self, bytes: &[u8], depth: usize) -> Result<(), OnnxFileError> {
        within("graphs inside graphs", MAX_DEPTH as u64, depth as u64)?;
        for field in Fields(bytes) {
            let (tag, value) = field?;
            self.field()?;
            let Value::Bytes(inner) = value else { continue };
            match tag {
                1 => {
                    self.nodes += 1;
                    within("nodes", MAX_NODES as u64, self.nodes as u64)?;
                    self.node(inner, depth)?;
                }
                5 => {
                    self.constants += 1;
                    within("constants", MAX_CONSTANTS as u64, self.constants as u64)?;
                    self.tensor(inner)?;
                }
                11..=13 => self.value(inner)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, bytes: &[u8], depth: usize) -> Result<(), OnnxFileError> {
        for field in Fields(bytes) {
            let (tag, value) = field?;
            self.field()?;
            if let (5, Value::Bytes(attribute)) = (tag, value) {
                for field in Fields(attribute) {
                    let (tag, value) = field?;
                    self.field()?;
                    let Value::Bytes(inner) = value else { continue };
                    match tag {
                        5 | 10 => self.tensor(inner)?,
                        6 | 11 => self.graph(inner, depth + 1)?,
                        8 => self.list(inner)?,
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn tensor(&mut self, bytes: &[u8]) -> Result<(), OnnxFileError> {
        for field in Fields(bytes) {
            let (tag, value) = field?;
            self.field()?;
            if let (1 | 5 | 7 | 11, Value::Bytes(list)) = (tag, value) {
                self.list(list)?;
            }
        }
        Ok(())
    }

    /// A packed list of integers.
    fn list(&mut self, bytes: &[u8]) -> Result<(), OnnxFileError> {
        self.list_bytes += bytes.len() as u64;
        within("bytes of lists", MAX_LIST_BYTES, self.list_bytes)
    }

    /// Name and type of a value, down to the dimensions.
    fn value(&mut self, bytes: &[u8]) -> Result<(), OnnxFileError> {
        // value ─ 2 type ─ 1 tensor ─ 2 shape ─ 1 dimension
        const WAY: [u64; 3] = [2, 1, 2];
        let mut level = vec![bytes];
        for step in WAY {
            let mut next = Vec::new();
            for message in level {
                for field in Fields(message) {
                    let (tag, value) = field?;
                    self.field()?;
                    if let Value::Bytes(inner) = value
                        && tag == step
                    {
                        next.push(inner);
                    }
                }
            }
            level = next;
        }
        for shape in level {
            for field in Fields(shape) {
                field?;
                self.field()?;
            }
        }
        Ok(())
    }
}

/// What a field holds.
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), OnnxFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| OnnxFileError::Wire {
            reason: "a field is cut off, or is of no kind that protobuf has".into(),
        }))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => {
                self.varint()?;
                Value::Number
            }
            1 => {
                self.take(8)?;
                Value::Number
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => {
                self.take(4)?;
                Value::Number
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
