//! The published language models against llama.cpp with the same weights: tokens, scores, greedy answers.
//!
//! The expected values come from `tests/data/families/published.py`: each weight of the GGUF file as float32, activations as float32.
//! A folder of the catalogue has 8-bit weights of its own rounding and may round activations too, so its scores differ; by how much is
//! measured and stated per model. llama.cpp itself, run on the quantized file, differs from its float32 run by `native`.

use std::path::Path;

use llmasos_engine::ModelFolder;
use llmasos_engine::text::{LanguageModel, LoadOptions, Request};
use serde::Deserialize;

use crate::models::runtime;

/// Room for the longest prompt and its answer.
const CONTEXT: usize = 128;

#[derive(Deserialize)]
struct Reference {
    texts: Vec<Text>,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Prompt {
    name: String,
    prompt: String,
    prompt_ids: Vec<u32>,
    scores: Vec<Scores>,
    greedy_ids: Vec<u32>,
    #[serde(rename = "largest_difference_native")]
    native: f32,
}

/// The likeliest tokens after the first `tokens` of a prompt, likeliest first.
#[derive(Deserialize)]
struct Scores {
    tokens: usize,
    ids: Vec<usize>,
    logprobs: Vec<f32>,
}

/// What a model may differ by.
pub(crate) struct Bounds {
    /// Largest difference of log-probability of one of the 32 likeliest tokens.
    pub(crate) worst: f32,
    /// Mean of those differences.
    pub(crate) mean: f32,
    /// At how many of the 8 places the likeliest token is another.
    pub(crate) other_choices: usize,
    /// Tokens of each greedy answer that must be the same, in the order of the prompts.
    pub(crate) greedy: [usize; 2],
}

/// Compares the folder of a model with what llama.cpp said.
pub(crate) fn check(name: &str, folder: &ModelFolder, bounds: &Bounds) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/families/published")
        .join(format!("{name}.json"));
    let reference: Reference =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!((reference.texts.len(), reference.prompts.len()), (15, 2));
    let options = LoadOptions {
        context: CONTEXT,
        ..LoadOptions::default()
    };
    let mut model = LanguageModel::load(&runtime(), folder, &options).unwrap();
    for text in &reference.texts {
        let found = model.tokenize(&text.text).unwrap();
        // Behind the token in front, if the model begins with one.
        let begin = found.len().saturating_sub(text.ids.len()).min(1);
        assert_eq!(found[begin..], text.ids, "{name}: {:?}", text.text);
    }
    let mut over = scores(name, &mut model, &reference, bounds);
    for (prompt, least) in reference.prompts.iter().zip(bounds.greedy) {
        let found = model.tokenize(&prompt.prompt).unwrap();
        assert_eq!(found, prompt.prompt_ids, "{name}, {}", prompt.name);
        let request = Request {
            prompt: prompt.prompt.clone(),
            max_tokens: prompt.greedy_ids.len(),
            ..Request::default()
        };
        let ids: Vec<u32> = model
            .generate(&request)
            .unwrap()
            .map(|piece| piece.unwrap().token)
            .collect();
        let same = ids
            .iter()
            .zip(&prompt.greedy_ids)
            .take_while(|(a, b)| a == b)
            .count();
        eprintln!(
            "{name}, {}: {same} of {} tokens",
            prompt.name,
            prompt.greedy_ids.len()
        );
        if same < least {
            over.push(format!(
                "{}: {same} tokens are the same, expected {least}",
                prompt.name
            ));
        }
    }
    assert!(over.is_empty(), "{name}: {over:#?}");
}

/// What of the scores differs by more than it may.
fn scores(
    name: &str,
    model: &mut LanguageModel,
    reference: &Reference,
    bounds: &Bounds,
) -> Vec<String> {
    let (mut worst, mut sum, mut count, mut others) = (0.0_f32, 0.0, 0, 0);
    for prompt in &reference.prompts {
        let first = prompt.scores[0].tokens - 1;
        let (mut here, mut heard) = (0.0_f32, 0);
        let mut hear = |position: usize, scores: &[f32]| {
            let Some(expected) = prompt.scores.iter().find(|one| one.tokens == position + 1) else {
                return;
            };
            heard += 1;
            let found = log_probabilities(scores);
            for (id, logprob) in expected.ids.iter().zip(&expected.logprobs) {
                let difference = (found[*id] - logprob).abs();
                here = here.max(difference);
                sum += difference;
                count += 1;
            }
            let choice = expected.ids[0];
            others += usize::from(found.iter().any(|score| *score > found[choice]));
        };
        model.score(&prompt.prompt_ids, first, &mut hear).unwrap();
        assert_eq!(heard, prompt.scores.len());
        eprintln!(
            "{name}, {}: largest difference {here:.4}, native {}",
            prompt.name, prompt.native
        );
        worst = worst.max(here);
    }
    let mean = sum / count as f32;
    eprintln!("{name}: largest {worst:.4}, mean {mean:.4}, {others} other choices of 8");
    let measured = [
        ("largest difference", worst, bounds.worst),
        ("mean difference", mean, bounds.mean),
        ("other choices", others as f32, bounds.other_choices as f32),
    ];
    let over = measured.iter().filter(|(_, found, most)| found > most);
    over.map(|(what, found, most)| format!("{what}: {found}, expected at most {most}"))
        .collect()
}

fn log_probabilities(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores
        .iter()
        .map(|score| f64::from(score - most).exp())
        .sum();
    let log = sum.ln() as f32;
    scores.iter().map(|score| score - most - log).collect()
}
