//! A Hugging Face folder: which files a model needs of it, and what they say about its tokens.
//!
//! ```text
//!   config.json             sizes, for the architecture
//!   model*.safetensors      weights (and their index)
//!   tokenizer.json          taken over as it is
//!   tokenizer_config.json   chat template, whether texts begin with a token        optional
//!   chat_template.jinja     chat template                                          optional
//!   generation_config.json  tokens that end an answer                              optional
//!   1_Pooling/config.json   how an encoder's vectors become one                    optional
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::architecture::{self, ArchitectureError, Model};
use crate::error::ForgeError;
use crate::language::Ends;
use crate::mapped::MappedFile;
use crate::safetensors::{SafetensorsError, Shards};
use crate::tokenizer::END_TOKENS;

/// Files of a folder that an import takes, besides the shards of weights.
pub(crate) const FILES: [&str; 8] = [
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TEMPLATE,
    GENERATION,
    POOLING,
    "model.safetensors",
    "model.safetensors.index.json",
];

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";
const POOLING: &str = "1_Pooling/config.json";

/// Longest JSON file; the tokenizer of 262,144 tokens has 33 MB.
const MAX_JSON_BYTES: usize = 64 << 20;
/// Longest chat template.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Most tokens that end an answer.
const MAX_ENDS: usize = 16;

/// An open folder.
pub(crate) struct Folder {
    files: BTreeMap<String, PathBuf>,
    config: Map<String, Json>,
    /// The weights.
    pub(crate) checkpoint: Shards,
}

impl Folder {
    /// Opens the files of a folder, given by name.
    ///
    /// # Errors
    /// [`ForgeError`] names the file that is missing or malformed.
    pub(crate) fn open(files: &BTreeMap<String, PathBuf>) -> Result<Folder, ForgeError> {
        let config = files.get(CONFIG).ok_or_else(|| missing(files, CONFIG))?;
        Ok(Folder {
            config: object(config)?,
            checkpoint: Shards::open(files)?,
            files: files.clone(),
        })
    }

    /// Describes the model.
    ///
    /// # Errors
    /// As [`architecture::from_checkpoint`].
    pub(crate) fn model(&self) -> Result<Model, ForgeError> {
        architecture::from_checkpoint(&self.config, &self.checkpoint)
            .map_err(ForgeError::in_file(&self.files[CONFIG]))
    }

    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// [`ForgeError::Sources`] if there is none.
    pub(crate) fn tokenizer(&self) -> Result<Vec<u8>, ForgeError> {
        let path = self
            .files
            .get(TOKENIZER)
            .ok_or_else(|| missing(&self.files, TOKENIZER))?;
        let file = MappedFile::open(path)?;
        Ok(bounded(path, file.bytes(), MAX_JSON_BYTES)?.to_vec())
    }

    /// Tokens that begin and end texts, for a model that has scores for `vocab`.
    ///
    /// # Errors
    /// [`ForgeError::Architecture`] if an id is outside the vocabulary, or there is none that ends a text.
    pub(crate) fn ends(&self, vocab: usize) -> Result<Ends, ForgeError> {
        let generation = self.optional(GENERATION)?;
        let added = self.added_tokens()?;
        let mut eos = ids(&generation, "eos_token_id", GENERATION, vocab)?;
        eos.extend(ids(&self.config, "eos_token_id", CONFIG, vocab)?);
        let ends = END_TOKENS.iter().filter_map(|text| added.get(*text));
        eos.extend(ends.copied().filter(|id| *id < vocab as u64));
        let mut seen = BTreeSet::new();
        eos.retain(|id| seen.insert(*id));
        if eos.is_empty() || eos.len() > MAX_ENDS {
            let expected = format!("1 to {MAX_ENDS} tokens that end a text");
            return Err(wrong("config.json eos_token_id", &expected, eos.len()));
        }
        let bos = ids(&self.config, "bos_token_id", CONFIG, vocab)?;
        Ok(Ends {
            add_bos: !bos.is_empty() && self.adds_bos(&added, &bos)?,
            bos: bos.first().copied().unwrap_or(eos[0]),
            eos,
        })
    }

    /// The chat template, if there is one: a file of its own, or the default one of the tokenizer's settings.
    ///
    /// # Errors
    /// [`ForgeError::Io`] or [`ForgeError::Architecture`] if it cannot be read.
    pub(crate) fn chat_template(&self) -> Result<Option<Vec<u8>>, ForgeError> {
        if let Some(path) = self.files.get(TEMPLATE) {
            let file = MappedFile::open(path)?;
            return Ok(Some(
                bounded(path, file.bytes(), MAX_TEMPLATE_BYTES)?.to_vec(),
            ));
        }
        let settings = self.optional(TOKENIZER_CONFIG)?;
        let template = match settings.get("chat_template") {
            Some(Json::String(text)) => Some(text.as_str()),
            Some(Json::Array(named)) => named
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str()),
            _ => None,
        };
        Ok(template.map(|text| text.as_bytes().to_vec()))
    }

    /// How an encoder's vectors become one.
    ///
    /// # Errors
    /// [`ForgeError`] if the file that says it is malformed.
    pub(crate) fn pooling(&self) -> Result<&'static str, ForgeError> {
        let settings = self.optional(POOLING)?;
        let is = |key: &str| settings.get(key).and_then(Json::as_bool) == Some(true);
        Ok(
            match (is("pooling_mode_mean_tokens"), is("pooling_mode_cls_token")) {
                (true, false) => "mean",
                (false, true) => "cls",
                _ => "none",
            },
        )
    }

    fn optional(&self, name: &str) -> Result<Map<String, Json>, ForgeError> {
        match self.files.get(name) {
            None => Ok(Map::new()),
            Some(path) => object(path),
        }
    }

    /// Texts and ids of the tokens that `tokenizer.json` matches first.
    fn added_tokens(&self) -> Result<BTreeMap<String, u64>, ForgeError> {
        let tokenizer = self.optional(TOKENIZER)?;
        let added = tokenizer.get("added_tokens").and_then(Json::as_array);
        let entry = |token: &Json| {
            let text = token["content"].as_str()?;
            Some((text.to_string(), token["id"].as_u64()?))
        };
        Ok(added.into_iter().flatten().filter_map(entry).collect())
    }

    /// Whether the tokenizer puts the first of `bos` in front of a text.
    fn adds_bos(&self, added: &BTreeMap<String, u64>, bos: &[u64]) -> Result<bool, ForgeError> {
        let settings = self.optional(TOKENIZER_CONFIG)?;
        if let Some(value) = settings.get("add_bos_token").and_then(Json::as_bool) {
            return Ok(value);
        }
        let tokenizer = self.optional(TOKENIZER)?;
        let is_bos = |text: &str| added.get(text).is_some_and(|id| bos.contains(id));
        let processor = &tokenizer.get("post_processor").cloned().unwrap_or_default();
        // Either one template, or a sequence of processors with one among them.
        let all = match processor["processors"].as_array() {
            Some(processors) => processors.iter().collect(),
            None => vec![processor],
        };
        Ok(all
            .iter()
            .filter_map(|processor| processor["single"][0]["SpecialToken"]["id"].as_str())
            .any(is_bos))
    }
}

/// The ids under a key that holds one, several, or none.
fn ids(
    map: &Map<String, Json>,
    key: &str,
    file: &str,
    vocab: usize,
) -> Result<Vec<u64>, ForgeError> {
    let values = match map.get(key) {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::Array(values)) => values.clone(),
        Some(value) => vec![value.clone()],
    };
    let id = |value: &Json| match value.as_u64().filter(|id| *id < vocab as u64) {
        Some(id) => Ok(id),
        None => {
            let expected = format!("ids below {vocab}");
            Err(wrong(&format!("{file} {key}"), &expected, value))
        }
    };
    values.iter().map(id).collect()
}

fn object(path: &Path) -> Result<Map<String, Json>, ForgeError> {
    let file = MappedFile::open(path)?;
    let bytes = bounded(path, file.bytes(), MAX_JSON_BYTES)?;
    serde_json::from_slice(bytes).map_err(|error| {
        let error = SafetensorsError::Json {
            what: "an object",
            reason: error.to_string(),
        };
        ForgeError::in_file(path)(error.into())
    })
}

fn bounded<'b>(path: &Path, bytes: &'b [u8], limit: usize) -> Result<&'b [u8], ForgeError> {
    if bytes.len() <= limit {
        return Ok(bytes);
    }
    let expected = format!("at most {limit} bytes");
    Err(ForgeError::in_file(path)(wrong(
        "size",
        &expected,
        bytes.len(),
    )))
}

fn wrong(key: &str, expected: &str, found: impl ToString) -> ForgeError {
    ArchitectureError::Config {
        key: key.to_string(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
    .into()
}

fn missing(files: &BTreeMap<String, PathBuf>, name: &str) -> ForgeError {
    ForgeError::Sources {
        recipe: "huggingface",
        expected: format!("a file {name}"),
        found: files.keys().cloned().collect::<Vec<_>>().join(", "),
    }
}
