//! The tiny models of tests/data/families: what PyTorch says about them, and their folders as the forge makes them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use llmasos_engine::ModelFolder;
use llmasos_forge::{ImportOptions, WeightFormat, import};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What PyTorch says about a decoder.
#[derive(Deserialize)]
pub(crate) struct Decoder {
    pub(crate) prompt: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) continuation: Vec<u32>,
    /// Positions in `ids` followed by `continuation`, ascending.
    pub(crate) positions: Vec<usize>,
    /// Scores of the next token at each of them, by id.
    pub(crate) logits: Vec<Vec<f32>>,
    /// What a greedy reader adds to `ids`.
    pub(crate) greedy: Vec<u32>,
    pub(crate) texts: Vec<Text>,
}

/// A text and its tokens.
#[derive(Deserialize)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
}

/// What PyTorch says about an encoder.
#[derive(Deserialize)]
pub(crate) struct Encoder {
    pub(crate) texts: Vec<Embedded>,
}

/// A text, its tokens, the vectors of all or the first of them, and the one of the text.
#[derive(Deserialize)]
pub(crate) struct Embedded {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) hidden: Vec<Vec<f32>>,
    pub(crate) pooled: Vec<f32>,
}

/// The folder as it would be published.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/families")
        .join(name)
}

/// Its reference.json.
pub(crate) fn reference<T: DeserializeOwned>(name: &str) -> T {
    let path = source(name).join("reference.json");
    let text = std::fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A model folder that vanishes with the value.
pub(crate) struct Imported {
    pub(crate) folder: ModelFolder,
    _root: tempfile::TempDir,
}

/// Imports a tiny model with all its matrices in one format, and activations in float32.
pub(crate) fn imported(name: &str, weights: WeightFormat) -> Imported {
    let root = tempfile::tempdir().unwrap();
    let options = ImportOptions {
        weights,
        head: weights,
        accuracy_level: 0,
        license: Some("made by tests/data/families/make.py".into()),
    };
    let out = root.path().join(name);
    import(&source(name), &options, &out, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap_or_else(|error| panic!("{name}: {error}"));
    Imported {
        folder: ModelFolder::open(&out).unwrap(),
        _root: root,
    }
}

/// The largest difference of two rows.
pub(crate) fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (found - expected).abs())
        .fold(0.0, f32::max)
}

/// The first of the largest values.
pub(crate) fn largest(scores: &[f32]) -> usize {
    let best = scores
        .iter()
        .enumerate()
        .max_by(|(a, x), (b, y)| x.total_cmp(y).then(b.cmp(a)));
    best.unwrap().0
}
