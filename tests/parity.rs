//! The language model against llama.cpp: the same weights must give the same words.
//!
//! The expected ids come from llama.cpp by `tests/data/llama_cpp/make.py`, which also says which build and which weights. Activations are
//! float32 on both sides: with 8-bit ones a near-tie may fall either way, and the test would compare rounding.

use std::path::Path;

use llmasos_engine::text::{GraphChoice, LanguageModel, LoadOptions, Request};
use serde::Deserialize;

use crate::models::{model, runtime};

/// Of six prompts, how many must agree to the last token.
const PROMPTS_EQUAL_MIN: usize = 5;

#[derive(Deserialize)]
struct Reference {
    tokens: usize,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    name: String,
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
}

fn reference() -> Reference {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llama_cpp/greedy.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn greedy_ids_equal_those_of_llama_cpp() {
    let reference = reference();
    assert_eq!((reference.prompts.len(), reference.tokens), (6, 32));
    let options = LoadOptions {
        context: 512,
        // With activations as floats, as the reference has them.
        graph: GraphChoice::Portable,
        ..LoadOptions::default()
    };
    let mut language = LanguageModel::load(&runtime(), &model("smollm2-q4-0"), &options).unwrap();
    let mut equal = 0;
    for prompt in &reference.prompts {
        assert_eq!(
            language.tokenize(&prompt.prompt).unwrap(),
            prompt.prompt_ids,
            "{}: the tokenizer must agree first",
            prompt.name
        );
        let request = Request {
            prompt: prompt.prompt.clone(),
            max_tokens: reference.tokens,
            ..Request::default()
        };
        let ids: Vec<u32> = language
            .generate(&request)
            .unwrap()
            .map(|piece| piece.unwrap().token)
            .collect();
        // Either side stops at an end token, which the other may list.
        let same = ids
            .iter()
            .zip(&prompt.greedy_ids)
            .take_while(|(a, b)| a == b)
            .count();
        let whole =
            same == ids.len().min(prompt.greedy_ids.len()) && same + 1 >= prompt.greedy_ids.len();
        eprintln!(
            "{}: {same} of {} tokens",
            prompt.name,
            prompt.greedy_ids.len()
        );
        equal += usize::from(whole);
    }
    assert!(
        equal >= PROMPTS_EQUAL_MIN,
        "expected {PROMPTS_EQUAL_MIN} equal prompts, found {equal}"
    );
}
