//! From a described language model to the files of its folder: graphs, tokenizer, chat template, and the settings beside them.
//!
//! ```text
//!   GGUF file ───┐                          ┌─► model.onnx (+ .data)   stock operators
//!                ├─► Model, Weights, Text ──┼─► fused.onnx (+ .data)   our own, where block formats and sizes allow
//!   HF folder ───┘                          └─► tokenizer.json · chat_template.jinja · config
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::architecture::{self, Model};
use crate::checkpoint::Checkpoint;
use crate::decoder::{self, Coding, DecoderConfig, DecoderSpec, Options};
use crate::encoder::{self, EncoderConfig, EncoderSpec};
use crate::error::ForgeError;
use crate::folder::{Watch, write_file};
use crate::gguf::Gguf;
use crate::huggingface::Folder;
use crate::mapped::MappedFile;
use crate::tokenizer::Vocabulary;
use crate::weights::{MappedGguf, Weights, letting_go};
use crate::writer::{FUSED_FILE, MODEL_FILE, write_model};

/// Metadata key of the chat template.
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// Metadata key of how an encoder's vectors become one, behind the architecture.
const POOLING: &str = "bert.pooling_type";

/// Tokens that begin and end texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// The token that begins a text.
    pub bos: u64,
    /// Whether a text has to begin with `bos`.
    pub add_bos: bool,
    /// Tokens that end an answer.
    pub eos: Vec<u64>,
}

/// What surrounds the graph.
pub(crate) struct Text {
    pub(crate) tokenizer: Vec<u8>,
    pub(crate) chat_template: Option<Vec<u8>>,
    pub(crate) ends: Ends,
    pub(crate) pooling: &'static str,
}

/// Does something with the parts of a source while it is open.
pub(crate) type Use<'u, T> =
    &'u mut dyn FnMut(&Model, &dyn Weights, &Text) -> Result<T, ForgeError>;

/// What was built, for `llmasos.json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Built {
    pub(crate) role: &'static str,
    /// Which engine code runs it: all decoders have the inputs of a llama.
    pub(crate) family: &'static str,
    pub(crate) config: serde_json::Value,
}

/// Builds the files of a GGUF file.
///
/// # Errors
/// [`ForgeError`] names what is wrong with it.
pub(crate) fn from_gguf(
    source: &Path,
    options: Options,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Built, ForgeError> {
    open_gguf(source, &mut |model, weights, text| {
        write(model, weights, text, &options, dir, watch)
    })
}

/// Opens a GGUF file.
///
/// # Errors
/// [`ForgeError`] names what is wrong with it; and those of `then`.
pub(crate) fn open_gguf<T>(source: &Path, then: Use<'_, T>) -> Result<T, ForgeError> {
    let file = MappedFile::open(source)?;
    let gguf = Gguf::parse(file.bytes())?;
    let model = architecture::from_gguf(&gguf)?;
    let vocabulary = Vocabulary::read(&gguf, model.vocab())?;
    let template = match gguf.metadata().contains_key(CHAT_TEMPLATE) {
        true => Some(gguf.string(CHAT_TEMPLATE)?.as_bytes().to_vec()),
        false => None,
    };
    let text = Text {
        tokenizer: vocabulary.to_json(),
        chat_template: template,
        pooling: match gguf.unsigned(POOLING) {
            Ok(1) => "mean",
            Ok(2) => "cls",
            _ => "none",
        },
        ends: Ends {
            bos: vocabulary.bos,
            add_bos: vocabulary.add_bos,
            eos: vocabulary.eos,
        },
    };
    let (gguf, file) = (&gguf, &file);
    then(&model, &MappedGguf { gguf, file }, &text)
}

/// Builds the files of a Hugging Face folder, whose files are given by name.
///
/// # Errors
/// [`ForgeError`] names what is wrong with it.
pub(crate) fn from_folder(
    files: &BTreeMap<String, PathBuf>,
    options: Options,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Built, ForgeError> {
    open_folder(files, &mut |model, weights, text| {
        write(model, weights, text, &options, dir, watch)
    })
}

/// Opens a Hugging Face folder, whose files are given by name.
///
/// # Errors
/// [`ForgeError`] names what is wrong with it; and those of `then`.
pub(crate) fn open_folder<T>(
    files: &BTreeMap<String, PathBuf>,
    then: Use<'_, T>,
) -> Result<T, ForgeError> {
    let folder = Folder::open(files)?;
    let model = folder.model()?;
    let is_encoder = matches!(model, Model::Encoder(_));
    let text = Text {
        tokenizer: folder.tokenizer()?,
        chat_template: folder.chat_template()?,
        pooling: folder.pooling()?,
        ends: if is_encoder {
            // An encoder writes no text.
            Ends {
                bos: 0,
                add_bos: false,
                eos: Vec::new(),
            }
        } else {
            folder.ends(model.vocab())?
        },
    };
    then(&model, &folder.checkpoint, &text)
}

/// Builds the files of a checkpoint, its matrices stored as `coding` says.
///
/// # Errors
/// [`ForgeError`] names what is wrong with it.
pub(crate) fn from_checkpoint(
    checkpoint: &Checkpoint,
    coding: &dyn Coding,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Built, ForgeError> {
    let model = Model::Decoder(Box::new(checkpoint.spec().clone()));
    let text = checkpoint.text()?;
    write(&model, checkpoint.weights(), &text, coding, dir, watch)
}

/// Writes the files of a model.
///
/// # Errors
/// [`ForgeError`] names what is wrong with it.
pub(crate) fn write(
    model: &Model,
    weights: &dyn Weights,
    text: &Text,
    coding: &dyn Coding,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Built, ForgeError> {
    let watch: &mut Watch<'_> = &mut letting_go(weights, watch);
    let built = match model {
        Model::Decoder(spec) => write_decoder(spec, weights, text, coding, dir, watch)?,
        Model::Encoder(spec) => write_encoder(spec, weights, text, coding, dir, watch)?,
    };
    write_file(&dir.join("tokenizer.json"), &text.tokenizer)?;
    if let Some(template) = &text.chat_template {
        write_file(&dir.join("chat_template.jinja"), template)?;
    }
    Ok(built)
}

fn write_decoder(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    text: &Text,
    coding: &dyn Coding,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Built, ForgeError> {
    let portable = decoder::portable(weights, spec, coding)?;
    write_model(portable, dir, MODEL_FILE, watch)?;
    let fused = decoder::fused(weights, spec, coding)?;
    let has_fused = fused.is_some();
    if let Some(graph) = fused {
        write_model(graph, dir, FUSED_FILE, watch)?;
    }
    let config = DecoderConfig {
        layers: spec.layers.len(),
        hidden: spec.hidden,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        vocab: spec.vocab,
        context: spec.context,
        rope_base: spec.rope_base,
        bos: text.ends.bos,
        add_bos: text.ends.add_bos,
        eos: text.ends.eos.clone(),
        accuracy_level: coding.accuracy_level(),
        architecture: spec.architecture.to_string(),
        fused: has_fused,
        kv: (has_fused && spec.has_kv_scales()).then(|| "int8".to_string()),
    };
    Ok(Built {
        role: "language",
        family: "llama",
        config: json(&config),
    })
}

fn write_encoder(
    spec: &EncoderSpec,
    weights: &dyn Weights,
    text: &Text,
    coding: &dyn Coding,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Built, ForgeError> {
    let graph = encoder::portable(weights, spec, coding)?;
    write_model(graph, dir, MODEL_FILE, watch)?;
    let config = EncoderConfig {
        layers: spec.layers.len(),
        hidden: spec.hidden,
        vocab: spec.vocab,
        context: spec.context,
        pooling: text.pooling.to_string(),
        accuracy_level: coding.accuracy_level(),
        architecture: spec.architecture.to_string(),
    };
    Ok(Built {
        role: "encoder",
        family: "bert",
        config: json(&config),
    })
}

fn json(config: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(config).expect("numbers, texts and lists always serialize")
}
