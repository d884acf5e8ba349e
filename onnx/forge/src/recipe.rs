//! Recipes: how the sources of a model become a model folder.
//!
//! A recipe stands in the catalogue beside the pinned sources and is the whole of what can be chosen: it has no paths, no
//! addresses, and no code. Unknown fields are errors, so that a typing mistake does not silently build another model.
//!
//! ```yaml
//! recipe: { kind: gguf, weights: int4, accuracy_level: 4, head: int8 }
//! recipe: { kind: huggingface, weights: int8, accuracy_level: 4, head: int8 }
//! recipe: { kind: tensorflow-ssd }
//! recipe: { kind: copy, role: voice-activity, family: silero-vad, config: {}, files: { silero_vad_16k_op15.onnx: model.onnx } }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::decoder::{Options, Storage};
use crate::error::ForgeError;
use crate::folder::{Description, Draft, ModelFolderSummary, Provenance, Watch, copy_file};
use crate::language;
use crate::mapped::MappedFile;
use crate::quantize::CodeFormat;
use crate::ssd;
use crate::tensorflow::GraphDef;
use crate::writer::{MODEL_FILE, write_model};

/// How matrices are stored: those of the layers, or embedding and head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightFormat {
    /// 4 bits, blocks of 32, symmetric: bit-equal to llama.cpp's Q4_0 of the same weights.
    #[serde(rename = "int4-symmetric")]
    Int4Symmetric,
    /// 4 bits, blocks of 32, an integer zero point per block, fitted by least error.
    #[serde(rename = "int4")]
    Int4,
    /// 4 bits, blocks of 32, a minimum in half precision per block: GGUF's Q4_1 without loss, others fitted by least error.
    #[serde(rename = "int4-minima")]
    Int4Minima,
    /// 8 bits, blocks of 32, symmetric.
    #[serde(rename = "int8")]
    Int8,
    /// 32-bit floats: the reference the others are measured against.
    #[serde(rename = "fp32")]
    Fp32,
}

/// How a model folder is made. Sources are named by the caller; see each kind for which it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Recipe {
    /// A GGUF file to ONNX, with tokenizer and chat template; the file says which architecture it is. Exactly one source, any
    /// name.
    Gguf {
        /// Storage of the layers' matrices.
        weights: WeightFormat,
        /// `accuracy_level` of MatMulNBits: 0 (the kernel's choice), 1 (fp32 activations) or 4 (int8 activations).
        accuracy_level: u8,
        /// Storage of embedding and head.
        head: WeightFormat,
    },
    /// A Hugging Face folder to ONNX; its config.json says which architecture it is. Sources have the names of the folder's
    /// files: config.json, tokenizer.json, model.safetensors or an index and its shards, and what else there is.
    Huggingface {
        /// Storage of the layers' matrices.
        weights: WeightFormat,
        /// `accuracy_level` of MatMulNBits, as above.
        accuracy_level: u8,
        /// Storage of embedding and head.
        head: WeightFormat,
    },
    /// A frozen TensorFlow SSD detector to ONNX. Exactly one source, any name.
    TensorflowSsd {},
    /// Files as they are. `files` maps source names to names in the folder.
    Copy {
        /// Source name → file name in the folder.
        files: BTreeMap<String, String>,
        /// Role in `llmasos.json`.
        role: String,
        /// Family in `llmasos.json`.
        family: String,
        /// Config in `llmasos.json`.
        #[serde(default)]
        config: serde_json::Map<String, serde_json::Value>,
    },
}

impl Recipe {
    /// The `kind` as it is written in the catalogue.
    pub fn kind(&self) -> &'static str {
        match self {
            Recipe::Gguf { .. } => "gguf",
            Recipe::Huggingface { .. } => "huggingface",
            Recipe::TensorflowSsd {} => "tensorflow-ssd",
            Recipe::Copy { .. } => "copy",
        }
    }
}

/// Builds the model folder `out` from fetched and unpacked sources.
///
/// `sources` maps the source names that the recipe speaks of to files on the disk. The folder appears whole or not at all; an
/// older folder of the same name is replaced at the end. `watch` is called often enough for a progress bar.
///
/// # Errors
/// [`ForgeError`]: a source that is missing, unreadable or malformed; a recipe outside what can be built; no space; cancelled.
pub fn build(
    recipe: &Recipe,
    sources: &BTreeMap<String, PathBuf>,
    out: &Path,
    about: &Provenance,
    watch: &mut Watch<'_>,
) -> Result<ModelFolderSummary, ForgeError> {
    let draft = Draft::create(out)?;
    let json = serde_json::to_value(recipe).map_err(|error| ForgeError::Recipe {
        recipe: recipe.kind(),
        field: "recipe",
        expected: "a JSON value".into(),
        found: error.to_string(),
    })?;
    let what = match recipe {
        Recipe::Copy {
            files,
            role,
            family,
            config,
        } => {
            copy_sources(files, sources, draft.dir(), watch)?;
            Description {
                role: role.clone(),
                family: family.clone(),
                config: config.clone().into(),
                recipe: json,
            }
        }
        Recipe::Gguf {
            weights,
            accuracy_level,
            head,
        } => {
            let options = options(recipe.kind(), *weights, *accuracy_level, *head)?;
            let source = only_source(recipe.kind(), sources)?;
            let built = language::from_gguf(source, options, draft.dir(), watch)
                .map_err(ForgeError::in_file(source))?;
            described(built, json)
        }
        Recipe::Huggingface {
            weights,
            accuracy_level,
            head,
        } => {
            let options = options(recipe.kind(), *weights, *accuracy_level, *head)?;
            described(
                language::from_folder(sources, options, draft.dir(), watch)?,
                json,
            )
        }
        Recipe::TensorflowSsd {} => {
            let source = only_source(recipe.kind(), sources)?;
            let config =
                build_ssd(source, draft.dir(), watch).map_err(ForgeError::in_file(source))?;
            Description {
                role: "detector".into(),
                family: "ssd".into(),
                config,
                recipe: json,
            }
        }
    };
    draft.publish(about, &what, watch)
}

fn described(built: language::Built, recipe: serde_json::Value) -> Description {
    Description {
        role: built.role.into(),
        family: built.family.into(),
        config: built.config,
        recipe,
    }
}

/// The recipe's choices as the graph's.
fn options(
    recipe: &'static str,
    weights: WeightFormat,
    accuracy_level: u8,
    head: WeightFormat,
) -> Result<Options, ForgeError> {
    if ![0, 1, 4].contains(&accuracy_level) {
        let found = accuracy_level.to_string();
        return Err(ForgeError::Recipe {
            recipe,
            field: "accuracy_level",
            expected: "0, 1 or 4".into(),
            found,
        });
    }
    Ok(Options {
        layers: weights.storage(),
        head: head.storage(),
        accuracy_level,
    })
}

impl WeightFormat {
    fn storage(self) -> Storage {
        match self {
            WeightFormat::Int4Symmetric => Storage::Blocks(CodeFormat::Int4Symmetric),
            WeightFormat::Int4 => Storage::Blocks(CodeFormat::Int4),
            WeightFormat::Int4Minima => Storage::Blocks(CodeFormat::Int4Minima),
            WeightFormat::Int8 => Storage::Blocks(CodeFormat::Int8),
            WeightFormat::Fp32 => Storage::Fp32,
        }
    }
}

/// Frozen graph → model.onnx, model.onnx.data; returns the config for `llmasos.json`.
fn build_ssd(
    source: &Path,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<serde_json::Value, ForgeError> {
    let file = MappedFile::open(source)?;
    let nodes = GraphDef::parse(file.bytes())?;
    let detector = ssd::detector(&nodes)?;
    write_model(detector.graph, dir, MODEL_FILE, watch)?;
    Ok(
        serde_json::json!({ "input": ssd::INPUT_PX, "classes": detector.classes, "labels": "coco-90" }),
    )
}

/// The one source of a recipe that needs one.
fn only_source<'a>(
    recipe: &'static str,
    sources: &'a BTreeMap<String, PathBuf>,
) -> Result<&'a Path, ForgeError> {
    let mut paths = sources.values();
    match (paths.next(), paths.next()) {
        (Some(path), None) => Ok(path),
        _ => Err(ForgeError::Sources {
            recipe,
            expected: "exactly one source".into(),
            found: names(sources),
        }),
    }
}

/// Copies the sources named in `files`; target names must be plain file names.
fn copy_sources(
    files: &BTreeMap<String, String>,
    sources: &BTreeMap<String, PathBuf>,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(), ForgeError> {
    for (from, to) in files {
        if !is_plain_file_name(to) {
            return Err(ForgeError::Recipe {
                recipe: "copy",
                field: "files",
                expected: "plain file names as targets".into(),
                found: to.clone(),
            });
        }
        let source = sources.get(from).ok_or_else(|| ForgeError::Sources {
            recipe: "copy",
            expected: format!("a source named {from}"),
            found: names(sources),
        })?;
        copy_file(source, &dir.join(to), watch)?;
    }
    Ok(())
}

/// True for a name that stays inside its folder and does not overwrite the description.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(std::path::Component::Normal(_)), None)
    ) && name != crate::folder::MANIFEST_FILE
        && !name.contains('/')
}

fn names(sources: &BTreeMap<String, PathBuf>) -> String {
    if sources.is_empty() {
        return "no sources".into();
    }
    sources
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn about() -> Provenance {
        Provenance {
            name: "m".into(),
            license: "MIT".into(),
            sources: vec![],
        }
    }

    fn run(
        recipe: &str,
        sources: &[(&str, &Path)],
        out: &Path,
    ) -> Result<ModelFolderSummary, ForgeError> {
        let recipe: Recipe = serde_json::from_str(recipe).unwrap();
        let sources = sources
            .iter()
            .map(|(name, path)| (name.to_string(), path.to_path_buf()))
            .collect();
        build(&recipe, &sources, out, &about(), &mut |_| {
            ControlFlow::Continue(())
        })
    }

    const COPY: &str = r#"{"kind":"copy","role":"voice-activity","family":"silero-vad","files":{"in.onnx":"model.onnx"}}"#;

    #[test]
    fn copies_files_under_their_new_names() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("source");
        std::fs::write(&source, b"weights").unwrap();
        let summary = run(COPY, &[("in.onnx", &source)], &root.path().join("m")).unwrap();
        assert_eq!((summary.family.as_str(), summary.bytes), ("silero-vad", 7));
        assert_eq!(
            std::fs::read(root.path().join("m/model.onnx")).unwrap(),
            b"weights"
        );
    }

    #[test]
    fn unknown_fields_are_errors() {
        let cases = [
            r#"{"kind":"tensorflow-ssd","scale":2}"#,
            r#"{"kind":"gguf","weights":"int4","accuracy_level":4,"head":"int8","extra":1}"#,
            r#"{"kind":"gguf","weights":"int3","accuracy_level":4,"head":"int8"}"#,
            r#"{"kind":"run","command":"sh"}"#,
        ];
        for case in cases {
            assert!(serde_json::from_str::<Recipe>(case).is_err(), "{case}");
        }
    }

    #[test]
    fn recipes_that_cannot_be_built_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("m");
        let escape = COPY.replace("model.onnx", "../model.onnx");
        let manifest = COPY.replace("model.onnx", "llmasos.json");
        let gguf = |level: u8| {
            format!(r#"{{"kind":"gguf","weights":"int4","accuracy_level":{level},"head":"int8"}}"#)
        };
        let absent = root.path().join("absent");
        /// Recipe, sources, and what the message must contain.
        type Case<'a> = (&'a str, &'a [(&'a str, &'a Path)], &'a str);
        let cases: [Case<'_>; 6] = [
            (COPY, &[], "needs a source named in.onnx, found no sources"),
            (&escape, &[("in.onnx", &absent)], "files is ../model.onnx"),
            (&manifest, &[("in.onnx", &absent)], "files is llmasos.json"),
            (
                &gguf(2),
                &[("a", &absent)],
                "accuracy_level is 2, expected 0, 1 or 4",
            ),
            (
                &gguf(4),
                &[("a", &absent), ("b", &absent)],
                "exactly one source, found a, b",
            ),
            (&gguf(4), &[("a", &absent)], "cannot open"),
        ];
        for (recipe, sources, expected) in cases {
            let message = run(recipe, sources, &out).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
