//! all-MiniLM-L6-v2 against PyTorch: the vectors of six sentences. The expected values come from `tests/data/families/minilm.py`.

use std::path::Path;

use llmasos_engine::ModelFolder;
use llmasos_engine::text::Encoder;
use serde::Deserialize;

use crate::models::runtime;

#[derive(Deserialize)]
struct Reference {
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

/// Checks that each sentence has PyTorch's tokens and a vector whose cosine with PyTorch's is at least `least`.
pub(crate) fn check(folder: &ModelFolder, least: f32) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/families/published/minilm-l6-v2.json");
    let reference: Reference =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(reference.sentences.len(), 6);
    let mut encoder = Encoder::load(&runtime(), folder).unwrap();
    for sentence in &reference.sentences {
        let text = &sentence.text;
        assert_eq!(encoder.tokenize(text).unwrap(), sentence.ids, "{text}");
        let vector = encoder.embed(text).unwrap();
        assert_eq!(vector.len(), sentence.vector.len());
        let cosine: f32 = vector
            .iter()
            .zip(&sentence.vector)
            .map(|(a, b)| a * b)
            .sum();
        eprintln!("{}: cosine {cosine:.6}: {text}", encoder.name());
        assert!(
            cosine >= least,
            "{}: cosine {cosine}: {text}",
            encoder.name()
        );
    }
}
