//! The larger models of the catalogue against llama.cpp and PyTorch: half a gigabyte each, so they are fetched only here.

#[path = "../families/published.rs"]
mod published;
#[path = "../families/sentences.rs"]
mod sentences;

use crate::{alone, models::model};
use published::{Bounds, check};

#[test]
fn qwen_says_what_llama_cpp_says() {
    let _alone = alone();
    let bounds = Bounds {
        worst: 1.0,
        mean: 0.2,
        other_choices: 1,
        greedy: [8, 8],
    };
    check("qwen2.5-coder-0.5b", &model("qwen2.5-coder-0.5b"), &bounds);
}

#[test]
fn gemma_says_what_llama_cpp_says() {
    let _alone = alone();
    let bounds = Bounds {
        worst: 1.0,
        mean: 0.2,
        other_choices: 1,
        greedy: [8, 8],
    };
    check("gemma3-270m", &model("gemma3-270m"), &bounds);
}

#[test]
fn minilm_of_float_weights_says_what_pytorch_says() {
    sentences::check(&model("minilm-l6-v2-fp32"), 0.999_99);
}
