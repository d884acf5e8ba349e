//! The elements of constants: inline, in one of the typed lists, or in another file of the same folder.
//!
//! Whatever form they have, they become little-endian bytes in the order of the shape, which is the one form the forge writes. Places
//! in other files are checked here, once, against that file's size; the bytes themselves are read when the graph is written.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Bytes, MAX_EXTERNAL_FILES, MAX_RANK, OnnxFileError};
use crate::error::ForgeError;
use crate::graph::TensorSpec;
use crate::mapped::MappedFile;
use crate::proto::onnx::{DataLocation, DataType, TensorProto};

/// A constant of a file.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    pub(super) spec: TensorSpec,
    pub(super) bytes: Bytes,
}

/// The mapped files of a folder, each opened once.
pub(super) struct ExternalFiles<'a> {
    folder: &'a Path,
    open: BTreeMap<PathBuf, Arc<MappedFile>>,
}

impl<'a> ExternalFiles<'a> {
    pub(super) fn new(folder: &'a Path) -> ExternalFiles<'a> {
        ExternalFiles {
            folder,
            open: BTreeMap::new(),
        }
    }

    /// A file by the name a constant gives; one that leads out of the folder is refused before anything is opened.
    fn get(&mut self, tensor: &str, location: &str) -> Result<Arc<MappedFile>, ForgeError> {
        let mut parts = Path::new(location).components();
        let is_plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        ) && !location.contains(['/', '\\', '\0']);
        if !is_plain {
            let expected = "the name of a file in the same folder";
            return Err(wrong(tensor, "location", expected, format!("{location:?}")).into());
        }
        let path = self.folder.join(location);
        if let Some(file) = self.open.get(&path) {
            return Ok(Arc::clone(file));
        }
        if self.open.len() >= MAX_EXTERNAL_FILES {
            return Err(OnnxFileError::Limit {
                what: "files with constants".into(),
                limit: MAX_EXTERNAL_FILES as u64,
                found: self.open.len() as u64 + 1,
            }
            .into());
        }
        let file = Arc::new(MappedFile::open(&path)?);
        self.open.insert(path, Arc::clone(&file));
        Ok(file)
    }
}

/// Whether the elements are strings, which have no fixed size.
pub(super) fn is_text(tensor: &TensorProto) -> bool {
    tensor.data_type == i32::from(DataType::String)
}

/// Reads one constant.
///
/// # Errors
/// [`OnnxFileError::Constant`] with the constant's name; [`ForgeError::Io`] if its file cannot be opened.
pub(super) fn read(
    tensor: TensorProto,
    files: &mut ExternalFiles<'_>,
) -> Result<Constant, ForgeError> {
    let data_type = DataType::try_from(tensor.data_type)
        .ok()
        .filter(|data_type| data_type.bits().is_some())
        .ok_or_else(|| {
            wrong(
                &tensor.name,
                "type",
                "one of the element types of ONNX 1.16",
                tensor.data_type,
            )
        })?;
    if tensor.dims.len() > MAX_RANK {
        let expected = format!("at most {MAX_RANK} axes");
        return Err(wrong(&tensor.name, "shape", expected, tensor.dims.len()).into());
    }
    let spec = TensorSpec::new(tensor.name.clone(), data_type, &tensor.dims);
    let expected = spec.bytes()?;
    let is_external = tensor.data_location == Some(DataLocation::External.into());
    let bytes = if is_external {
        external(&tensor, expected, files)?
    } else {
        Bytes::Inline(Arc::new(inline(tensor, data_type, expected)?))
    };
    Ok(Constant { spec, bytes })
}

fn external(
    tensor: &TensorProto,
    expected: u64,
    files: &mut ExternalFiles<'_>,
) -> Result<Bytes, ForgeError> {
    let name = &tensor.name;
    let mut entries: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in &tensor.external_data {
        if entries.insert(&entry.key, &entry.value).is_some() {
            return Err(wrong(name, "place", "each key once", entry.key.clone()).into());
        }
    }
    let number = |key: &'static str, default: u64| match entries.get(key) {
        None => Ok(default),
        Some(text) => text
            .parse::<u64>()
            .map_err(|_| wrong(name, key, "a whole number", format!("{text:?}"))),
    };
    let location = entries
        .get("location")
        .ok_or_else(|| wrong(name, "location", "the name of a file", "none"))?;
    let (offset, length) = (number("offset", 0)?, number("length", expected)?);
    if length != expected {
        let expected = format!("{expected} bytes by shape and type");
        return Err(wrong(name, "length", expected, length).into());
    }
    let file = files.get(name, location)?;
    let size = file.bytes().len() as u64;
    let end = offset.checked_add(length).filter(|end| *end <= size);
    let range = end.and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
    let range = range.ok_or_else(|| {
        let expected = format!("{length} bytes inside the {size} of {location}");
        wrong(name, "offset", expected, offset)
    })?;
    Ok(Bytes::External(file, range))
}

/// Bytes of a constant that stands in the graph's file.
fn inline(
    tensor: TensorProto,
    data_type: DataType,
    expected: u64,
) -> Result<Vec<u8>, OnnxFileError> {
    let name = tensor.name;
    let bytes = if let Some(raw) = tensor.raw_data.filter(|raw| !raw.is_empty()) {
        raw
    } else {
        let bits = data_type.bits().unwrap_or_default();
        let bytes = |bits: u64| (bits / 8).max(1) as usize;
        // Which list holds which type: onnx.proto3, TensorProto.
        match data_type {
            DataType::Float | DataType::Complex64 => flat(&tensor.float_data, f32::to_le_bytes, 4),
            DataType::Double | DataType::Complex128 => {
                flat(&tensor.double_data, f64::to_le_bytes, 8)
            }
            DataType::Int64 => flat(&tensor.int64_data, i64::to_le_bytes, 8),
            DataType::Uint32 | DataType::Uint64 => {
                flat(&tensor.uint64_data, u64::to_le_bytes, bytes(bits))
            }
            // 4-bit types hold two values in each entry, which is one byte here too.
            _ => flat(&tensor.int32_data, i32::to_le_bytes, bytes(bits)),
        }
    };
    if bytes.len() as u64 != expected {
        let expected = format!("{expected} bytes by shape and type");
        return Err(wrong(
            &name,
            "elements",
            expected,
            format!("{} bytes", bytes.len()),
        ));
    }
    Ok(bytes)
}

/// The first `keep` bytes of each value.
fn flat<T: Copy, const N: usize>(values: &[T], bytes: fn(T) -> [u8; N], keep: usize) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| bytes(*value).into_iter().take(keep))
        .collect()
}

fn wrong(
    tensor: &str,
    field: &'static str,
    expected: impl ToString,
    found: impl ToString,
) -> OnnxFileError {
    OnnxFileError::Constant {
        tensor: tensor.chars().take(200).collect(),
        field,
        expected: expected.to_string(),
        found: found.to_string().chars().take(200).collect(),
    }
}
