//! The weights of a checkpoint: one safetensors file, or several with an index that says which tensor stands in which.
//!
//! ```text
//!   model.safetensors
//!   model.safetensors.index.json {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors", …}}
//!   model-00001-of-00002.safetensors   model-00002-of-00002.safetensors
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{SafetensorsError, TensorInfo, limit, parse};
use crate::error::ForgeError;
use crate::gguf::BlockFormat;
use crate::mapped::MappedFile;
use crate::weights::Weights;

/// Name of the only file.
const SINGLE: &str = "model.safetensors";
/// Name of the index of several files.
const INDEX: &str = "model.safetensors.index.json";
/// Longest index; 1,000 tensors need about 100 KB.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Most shards.
const MAX_SHARDS: usize = 256;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// A mapped file and where its data begin.
#[derive(Debug)]
struct Shard {
    file: MappedFile,
    data_start: usize,
}

/// The tensors of all shards.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    /// By name: number of the shard, and the place in it.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

impl Shards {
    /// Opens the weights among the files of a folder, given by name.
    ///
    /// # Errors
    /// [`ForgeError::Sources`] if there is neither a single file nor an index, [`ForgeError::In`] around a
    /// [`SafetensorsError`] of one file, [`ForgeError::Io`].
    pub fn open(files: &BTreeMap<String, PathBuf>) -> Result<Shards, ForgeError> {
        let (index, names) = match (files.get(SINGLE), files.get(INDEX)) {
            (Some(_), _) => (None, vec![SINGLE.to_string()]),
            (None, Some(path)) => {
                let index = read_index(path)?;
                let mut names: Vec<String> = index.weight_map.values().cloned().collect();
                names.sort();
                names.dedup();
                limit("shards", MAX_SHARDS as u64, names.len() as u64)?;
                (Some(index), names)
            }
            (None, None) => {
                return Err(ForgeError::Sources {
                    recipe: "huggingface",
                    expected: format!("{SINGLE} or {INDEX}"),
                    found: files.keys().cloned().collect::<Vec<_>>().join(", "),
                });
            }
        };
        let mut checkpoint = Shards {
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for name in &names {
            let path = files.get(name).ok_or_else(|| SafetensorsError::Index {
                reason: format!("shard {name} is missing"),
            })?;
            checkpoint
                .add(MappedFile::open(path)?)
                .map_err(|error| ForgeError::in_file(path)(error.into()))?;
        }
        if let Some(index) = index {
            checkpoint.check(&index, &names)?;
        }
        Ok(checkpoint)
    }

    fn add(&mut self, file: MappedFile) -> Result<(), SafetensorsError> {
        let header = parse(file.bytes())?;
        let number = self.shards.len();
        for (name, info) in header.tensors {
            if self.tensors.insert(name.clone(), (number, info)).is_some() {
                return Err(SafetensorsError::Duplicate { tensor: name });
            }
        }
        self.shards.push(Shard {
            file,
            data_start: header.data_start,
        });
        Ok(())
    }

    /// Every tensor where the index says it is, and none that it does not know.
    fn check(&self, index: &Index, names: &[String]) -> Result<(), SafetensorsError> {
        let wrong = |reason| Err(SafetensorsError::Index { reason });
        for (tensor, shard) in &index.weight_map {
            match self.tensors.get(tensor) {
                Some((number, _)) if names[*number] == *shard => (),
                Some((number, _)) => {
                    return wrong(format!(
                        "tensor {tensor}: expected in {shard}, found in {}",
                        names[*number]
                    ));
                }
                None => return wrong(format!("tensor {tensor} is not in {shard}")),
            }
        }
        match self
            .tensors
            .keys()
            .find(|tensor| !index.weight_map.contains_key(*tensor))
        {
            None => Ok(()),
            Some(tensor) => wrong(format!(
                "tensor {tensor} is in a shard and not in the index"
            )),
        }
    }

    fn info(&self, name: &str) -> Result<&(usize, TensorInfo), SafetensorsError> {
        self.tensors
            .get(name)
            .ok_or_else(|| SafetensorsError::Missing {
                tensor: name.to_string(),
            })
    }
}

impl Weights for Shards {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.tensors.get(name).map(|(_, info)| info.shape.clone())
    }

    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
        let (number, info) = self.info(name)?;
        let format = info.format.ok_or_else(|| SafetensorsError::Type {
            tensor: name.to_string(),
            found: info.dtype.clone(),
        })?;
        let shard = &self.shards[*number];
        let data = &shard.file.bytes()[shard.data_start..];
        Ok((format, &data[info.begin as usize..info.end as usize]))
    }

    fn release(&self) {
        self.shards.iter().for_each(|shard| shard.file.release());
    }
}

fn read_index(path: &std::path::Path) -> Result<Index, ForgeError> {
    let file = MappedFile::open(path)?;
    let read = || -> Result<Index, SafetensorsError> {
        limit("index bytes", MAX_INDEX_BYTES, file.bytes().len() as u64)?;
        serde_json::from_slice(file.bytes()).map_err(|error| SafetensorsError::Json {
            what: "index",
            reason: error.to_string(),
        })
    };
    read().map_err(|error| ForgeError::in_file(path)(error.into()))
}
