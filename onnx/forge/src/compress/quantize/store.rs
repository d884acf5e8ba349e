//! The work folder of a quantization: a file for each finished layer, so that a stopped run goes on where it was.
//!
//! ```text
//!   WORK/layer.0003.safetensors   qkv.codes u8 · qkv.scales f32 · qkv.zeros u8 · qkv.minima f32 · qkv.fold f32 · … · changed vectors under their own names
//!        layer.0003.json          what it is (fingerprint of model, texts and options), its report, and its time; written last
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::MatrixReport;
use crate::decoder::LayerPart;
use crate::error::ForgeError;
use crate::folder::{hex, write_file};
use crate::mapped::MappedFile;
use crate::quantize::{CodeFormat, Codes};
use crate::safetensors;

/// Longest description of a layer.
const MAX_DESCRIPTION_BYTES: usize = 1 << 20;

/// What was made of a layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct LayerCodes {
    /// Codes of its matrices.
    pub(super) matrices: BTreeMap<LayerPart, (CodeFormat, Codes)>,
    /// Vectors that scales were folded into, by canonical name.
    pub(super) vectors: BTreeMap<String, Vec<f32>>,
    /// Scales folded, of each channel of a matrix' input.
    pub(super) folds: BTreeMap<LayerPart, Vec<f32>>,
    /// What it cost.
    pub(super) reports: Vec<MatrixReport>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    fingerprint: String,
    formats: Vec<(LayerPart, CodeFormat)>,
    folded: Vec<LayerPart>,
    reports: Vec<MatrixReport>,
    /// Time from the layer before it, or from the opening of the folder.
    seconds: f64,
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Store {
    dir: PathBuf,
    fingerprint: String,
    /// When the last layer was finished, or the folder opened.
    since: Cell<Instant>,
}

impl Store {
    /// Opens or creates the folder. Layers of another fingerprint are not seen.
    ///
    /// # Errors
    /// [`ForgeError::Io`].
    pub(super) fn open(dir: &Path, fingerprint: String) -> Result<Store, ForgeError> {
        fs::create_dir_all(dir).map_err(ForgeError::io("create", dir))?;
        Ok(Store {
            dir: dir.to_path_buf(),
            fingerprint,
            since: Cell::new(Instant::now()),
        })
    }

    /// Opens or creates another folder, for what is made of the layers of this one.
    ///
    /// # Errors
    /// [`ForgeError::Io`].
    pub(super) fn derived(&self, dir: &Path, what: &str) -> Result<Store, ForgeError> {
        let mut hash = Sha256::new();
        hash.update(&self.fingerprint);
        hash.update(what);
        Store::open(dir, hex(&hash.finalize()))
    }

    /// The folder's path.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn paths(&self, index: usize) -> (PathBuf, PathBuf) {
        let path = |ending: &str| self.dir.join(format!("layer.{index:04}.{ending}"));
        (path("safetensors"), path("json"))
    }

    /// Writes a layer; it counts once its description is there.
    ///
    /// # Errors
    /// [`ForgeError::Io`].
    pub(super) fn save(&self, index: usize, layer: &LayerCodes) -> Result<(), ForgeError> {
        let (data, description) = self.paths(index);
        if description.exists() {
            fs::remove_file(&description).map_err(ForgeError::io("remove", &description))?;
        }
        write_file(&data, &tensors(layer))?;
        let formats = layer.matrices.iter();
        let described = Description {
            fingerprint: self.fingerprint.clone(),
            formats: formats
                .map(|(part, (format, _))| (*part, *format))
                .collect(),
            folded: layer.folds.keys().copied().collect(),
            reports: layer.reports.clone(),
            seconds: self.since.replace(Instant::now()).elapsed().as_secs_f64(),
        };
        let text = serde_json::to_vec(&described).map_err(|error| ForgeError::Io {
            action: "serialize",
            path: description.clone(),
            source: error.into(),
        })?;
        let draft = description.with_extension("json.partial");
        write_file(&draft, &text)?;
        fs::rename(&draft, &description).map_err(ForgeError::io("rename", &draft))
    }

    /// Reads a layer back; `None` if it is not there, or not of this run.
    ///
    /// # Errors
    /// [`ForgeError::Io`], [`ForgeError::Safetensors`] for a damaged file.
    pub(super) fn load(&self, index: usize) -> Result<Option<LayerCodes>, ForgeError> {
        let (data, _) = self.paths(index);
        let Some(found) = self.described(index)? else {
            return Ok(None);
        };
        let file = MappedFile::open(&data)?;
        let bytes = file.bytes();
        let header = safetensors::parse(bytes)
            .map_err(ForgeError::from)
            .map_err(ForgeError::in_file(&data))?;
        let tensor = |name: &str| -> Option<&[u8]> {
            let info = header.tensors.get(name)?;
            bytes
                .get(header.data_start..)?
                .get(info.begin as usize..info.end as usize)
        };
        let mut matrices = BTreeMap::new();
        let mut own = Vec::new();
        for (part, format) in found.formats {
            let names = ["codes", "scales", "zeros", "minima"].map(|kind| tensor_name(part, kind));
            let [Some(codes), Some(scales), Some(zeros), Some(minima)] =
                names.each_ref().map(|name| tensor(name))
            else {
                return Ok(None);
            };
            let codes = Codes {
                codes: codes.to_vec(),
                scales: floats(scales),
                zero_points: zeros.to_vec(),
                minima: floats(minima),
            };
            matrices.insert(part, (format, codes));
            own.extend(names);
        }
        let mut folds = BTreeMap::new();
        for part in found.folded {
            let name = tensor_name(part, "fold");
            let Some(scales) = tensor(&name) else {
                return Ok(None);
            };
            folds.insert(part, floats(scales));
            own.push(name);
        }
        let others = header.tensors.keys().filter(|name| !own.contains(name));
        let vectors = others
            .map(|name| (name.clone(), floats(tensor(name).unwrap_or_default())))
            .collect();
        Ok(Some(LayerCodes {
            matrices,
            vectors,
            folds,
            reports: found.reports,
        }))
    }

    /// Time that a finished layer took, in the run that made it.
    ///
    /// # Errors
    /// [`ForgeError::Io`].
    pub(super) fn seconds(&self, index: usize) -> Result<Option<f64>, ForgeError> {
        Ok(self.described(index)?.map(|found| found.seconds))
    }

    /// What is said about a layer of this run.
    fn described(&self, index: usize) -> Result<Option<Description>, ForgeError> {
        let (_, description) = self.paths(index);
        if !description.is_file() {
            return Ok(None);
        }
        let text = MappedFile::open(&description)?;
        let text = text.bytes();
        // A description that cannot be read is of no run that finished the layer.
        let found: Option<Description> = (text.len() <= MAX_DESCRIPTION_BYTES)
            .then(|| serde_json::from_slice(text).ok())
            .flatten();
        Ok(found.filter(|found| found.fingerprint == self.fingerprint))
    }
}

fn tensor_name(part: LayerPart, kind: &str) -> String {
    format!("{part:?}.{kind}").to_lowercase()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let numbers = bytes.as_chunks::<4>().0.iter();
    numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// A safetensors file of a layer.
fn tensors(layer: &LayerCodes) -> Vec<u8> {
    let mut header = Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut add = |name: String, kind: &str, size: usize, bytes: &[u8]| {
        let (begin, end) = (data.len(), data.len() + bytes.len());
        data.extend_from_slice(bytes);
        let entry =
            json!({"dtype": kind, "shape": [bytes.len() / size], "data_offsets": [begin, end]});
        header.insert(name, entry);
    };
    let bytes = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    for (part, (_, codes)) in &layer.matrices {
        add(
            tensor_name(*part, "scales"),
            "F32",
            4,
            &bytes(&codes.scales),
        );
        add(
            tensor_name(*part, "minima"),
            "F32",
            4,
            &bytes(&codes.minima),
        );
    }
    for (part, scales) in &layer.folds {
        add(tensor_name(*part, "fold"), "F32", 4, &bytes(scales));
    }
    for (name, values) in &layer.vectors {
        add(name.clone(), "F32", 4, &bytes(values));
    }
    for (part, (_, codes)) in &layer.matrices {
        add(tensor_name(*part, "codes"), "U8", 1, &codes.codes);
        add(tensor_name(*part, "zeros"), "U8", 1, &codes.zero_points);
    }
    let header = Json::Object(header).to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.into_bytes());
    out.append(&mut data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> LayerCodes {
        let codes = |seed: u8| Codes {
            codes: vec![seed; 32],
            scales: vec![f32::from(seed), 0.5],
            zero_points: if seed == 1 { vec![0x42] } else { Vec::new() },
            minima: if seed == 3 {
                vec![-0.5, 0.25]
            } else {
                Vec::new()
            },
        };
        LayerCodes {
            matrices: BTreeMap::from([
                (LayerPart::Qkv, (CodeFormat::Int4, codes(1))),
                (LayerPart::Down, (CodeFormat::Int8, codes(2))),
                (LayerPart::Up, (CodeFormat::Int4Minima, codes(3))),
            ]),
            vectors: BTreeMap::from([("layers.3.input_norm.weight".into(), vec![1.5, -2.0])]),
            folds: BTreeMap::from([(LayerPart::Down, vec![0.5, 2.0])]),
            reports: vec![MatrixReport {
                layer: 3,
                part: LayerPart::Down,
                format: CodeFormat::Int8,
                relative_error: 1e-4,
                fold: Some(0.3),
            }],
        }
    }

    #[test]
    fn a_layer_comes_back_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), "a".into()).unwrap();
        assert_eq!(store.load(3).unwrap(), None);
        store.save(3, &layer()).unwrap();
        assert_eq!(store.load(3).unwrap(), Some(layer()));
        assert_eq!(store.load(2).unwrap(), None);
        let seconds = store.seconds(3).unwrap().unwrap();
        assert!((0.0..60.0).contains(&seconds), "{seconds}");
        assert_eq!(store.seconds(2).unwrap(), None);
        let other = Store::open(root.path(), "b".into()).unwrap();
        assert_eq!(other.load(3).unwrap(), None, "of another run");
    }

    #[test]
    fn an_unfinished_layer_is_made_anew_and_a_damaged_one_named() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), "a".into()).unwrap();
        store.save(0, &layer()).unwrap();
        let (data, description) = store.paths(0);
        let whole = fs::read(&description).unwrap();
        fs::write(&description, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(store.load(0).unwrap(), None);
        fs::write(&description, &whole).unwrap();
        let bytes = fs::read(&data).unwrap();
        fs::write(&data, &bytes[..bytes.len() - 1]).unwrap();
        let message = store.load(0).unwrap_err().to_string();
        assert!(message.contains("layer.0000.safetensors"), "{message}");
    }
}
