//! What constrained decoding costs: the grammar's time of a token as a part of a decode step, for each kind of grammar.
//!
//! A node asks for the same few grammars again and again, so each is answered twice: the first answer finds nothing prepared but the
//! compiled grammar, the second what the first has left.

use std::time::Duration;

use anyhow::{Result, ensure};
use llmasos_engine::text::{Grammar, LanguageModel, Request};
use serde_json::json;

use super::{
    ours::{prompt, request},
    series::Round,
};

/// Tokens of the prompt.
const PROMPT_TOKENS: usize = 32;

/// Sentences to choose among: as many and as much alike as those of a scene.
const SENTENCES: [&str; 8] = [
    "There is a pedestrian crossing 59 m ahead.",
    "There is a pedestrian crossing 59 m ahead and a car 71 m ahead.",
    "There are 4 pedestrians ahead, nearest 4 m.",
    "There are 4 pedestrians ahead, nearest 4 m; the light is green.",
    "A car 71 m ahead is slowing down.",
    "A car 71 m ahead is slowing down; the light is red.",
    "The light is green.",
    "The road ahead is free.",
];

/// One of each kind by the figure's name.
fn grammars() -> [(&'static str, Grammar); 3] {
    let schema = json!({
        "type": "object",
        "properties": {
            "action": { "enum": ["keep", "slow down", "stop", "turn left", "turn right"] },
            "reasons": { "type": "array", "minItems": 3, "items": { "type": "string", "minLength": 20 } },
            "speed": { "type": "number" },
        },
        "required": ["action", "reasons", "speed"],
        "additionalProperties": false,
    });
    // Counted, because each repetition is another state of its automaton.
    let sentence = r"[A-Z][a-z ,']{20,120}(, [a-z ]{5,40})?\.";
    [
        ("schema", Grammar::JsonSchema(schema)),
        (
            "choice",
            Grammar::Choice(SENTENCES.map(str::to_owned).to_vec()),
        ),
        ("regex", Grammar::Regex(sentence.to_owned())),
    ]
}

/// Adds the figures: percent of a step of `step`.
///
/// # Errors
/// When an answer fails or is empty.
pub(super) fn measure(
    model: &mut LanguageModel,
    generated: usize,
    step: Duration,
    round: &mut Round,
) -> Result<()> {
    let prompt = prompt(model, PROMPT_TOKENS, 0)?;
    for (name, grammar) in grammars() {
        model.prepare_grammar(&grammar)?;
        let request = Request {
            grammar: Some(grammar),
            ..request(prompt.clone(), generated)
        };
        for key in ["new", "grammar"] {
            model.forget();
            let finished = model.generate(&request)?.finish()?;
            ensure!(finished.tokens_out > 0, "the answer of a {name} is empty");
            let share =
                finished.grammar.as_secs_f64() / finished.tokens_out as f64 / step.as_secs_f64();
            round.insert(format!("{key}_{name}"), 100.0 * share);
        }
    }
    Ok(())
}
