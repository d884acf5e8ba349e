//! What ends an answer, in which order, and how many runs of the model it takes; one at a time, on a model without weights.

use std::time::{Duration, Instant};

use serde_json::json;

use super::generation::Generation;
use super::grammar::Grammar;
use super::request::{CancelToken, FinishReason, Finished, Piece, Request};
use super::sampler::Sampling;
use super::tiny::{Bench, END};
use crate::error::{EngineError, Result};

/// Most tokens of a run of the model here, and of the stock graph.
const PREFILL_CHUNK: usize = 128;

fn asking(prompt: &str) -> Request {
    Request {
        prompt: prompt.to_owned(),
        max_tokens: 200,
        ..Request::default()
    }
}

fn with<R>(
    model: &mut Bench,
    request: &Request,
    use_it: impl FnOnce(Generation<'_>) -> R,
) -> Result<R> {
    model.generate(request).map(use_it)
}

fn answer(model: &mut Bench, request: &Request) -> Result<Finished> {
    model.answer(request)
}

#[test]
fn an_answer_comes_token_by_token_and_ends_with_the_model() {
    let mut model = Bench::saying(100, "né");
    let pieces: Vec<Piece> = with(&mut model, &asking("ab>"), |generation| {
        generation.map(Result::unwrap).collect()
    })
    .unwrap();
    let texts: Vec<_> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(texts, ["n", "", "é"], "half a character is not shown");
    let done = answer(&mut Bench::saying(100, "né"), &asking("ab>")).unwrap();
    assert_eq!(
        (done.text.as_str(), done.reason, done.complete),
        ("né", FinishReason::Stop, true)
    );
    assert_eq!(
        (done.tokens_in, done.tokens_cached, done.tokens_out),
        (3, 0, 3)
    );
}

#[test]
fn the_text_ends_before_a_stop_string() {
    let stop = |stop: &str| Request {
        stop: vec![stop.to_owned()],
        ..asking(">")
    };
    for (why, stop, expected) in [
        ("across tokens", stop("\n\n"), "one"),
        ("never appears", stop("three"), "one\n\ntwo"),
        (
            "its beginning is the end of the text",
            stop("two!"),
            "one\n\ntwo",
        ),
    ] {
        let mut model = Bench::saying(100, "one\n\ntwo");
        let mut shown = String::new();
        with(&mut model, &stop, |generation| {
            generation.for_each(|piece| shown.push_str(&piece.unwrap().text))
        })
        .unwrap();
        assert_eq!(shown, expected, "{why}");
        let done = answer(&mut Bench::saying(100, "one\n\ntwo"), &stop).unwrap();
        assert_eq!(
            (done.text.as_str(), done.reason),
            (expected, FinishReason::Stop),
            "{why}"
        );
    }
}

#[test]
fn length_ends_an_answer_at_the_limit_or_the_end_of_the_context() {
    let done = answer(
        &mut Bench::saying(100, "abcdef"),
        &Request {
            max_tokens: 2,
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!(
        (done.text.as_str(), done.reason, done.complete),
        ("ab", FinishReason::Length, false)
    );
    let done = answer(&mut Bench::saying(5, "abcdef"), &asking("x>")).unwrap();
    assert_eq!(
        (done.text.as_str(), done.reason),
        ("abc", FinishReason::Length)
    );
}

#[test]
fn requests_that_cannot_be_answered_have_named_errors() {
    let mut model = Bench::saying(4, "a");
    let mut refused = |request: Request| answer(&mut model, &request).unwrap_err();
    assert!(matches!(refused(asking("")), EngineError::PromptEmpty));
    let error = refused(asking("xyz>"));
    assert!(
        matches!(
            error,
            EngineError::PromptTooLong {
                prompt_tokens: 4,
                context_tokens: 4
            }
        ),
        "{error}"
    );
    assert!(matches!(
        refused(asking(&"x".repeat(2 << 20))),
        EngineError::PromptTooLarge { .. }
    ));
    assert!(matches!(
        refused(Request {
            max_tokens: 0,
            ..asking(">")
        }),
        EngineError::Request {
            field: "max_tokens",
            ..
        }
    ));
    assert!(matches!(
        refused(Request {
            stop: vec![String::new()],
            ..asking(">")
        }),
        EngineError::Request { field: "stop", .. }
    ));
    let sampling = Sampling::Sample {
        temperature: f32::NAN,
        top_k: 0,
        top_p: 1.0,
        seed: 0,
    };
    assert!(matches!(
        refused(Request {
            sampling,
            ..asking(">")
        }),
        EngineError::Request { .. }
    ));
}

#[test]
fn a_deadline_in_the_past_runs_nothing() {
    let mut model = Bench::saying(100, "abc");
    let done = answer(
        &mut model,
        &Request {
            deadline: Some(Instant::now()),
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!((done.reason, done.tokens_out), (FinishReason::Deadline, 0));
    assert!(model.runs().is_empty());
}

#[test]
fn a_deadline_between_tokens_keeps_what_there_is() {
    let mut model = Bench::new(1_000, |_, scores| {
        std::thread::sleep(Duration::from_millis(5));
        scores[usize::from(b'a')] = 1.0;
        Ok(())
    });
    let deadline = Some(Instant::now() + Duration::from_millis(40));
    let done = answer(
        &mut model,
        &Request {
            deadline,
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!(
        (done.reason, done.complete),
        (FinishReason::Deadline, false)
    );
    assert_eq!(done.text, "a".repeat(done.tokens_out));
    assert!((1..=8).contains(&done.tokens_out), "{}", done.tokens_out);
}

#[test]
fn a_token_over_its_budget_is_the_last_one() {
    let mut model = Bench::new(1_000, |seen, scores| {
        if seen.len() == 4 {
            std::thread::sleep(Duration::from_millis(60));
        }
        scores[usize::from(b'a')] = 1.0;
        Ok(())
    });
    let budget = Some(Duration::from_millis(30));
    let done = answer(
        &mut model,
        &Request {
            token_budget: budget,
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!(
        (done.reason, done.text.as_str()),
        (FinishReason::Deadline, "aaaa")
    );
}

#[test]
fn cancelling_ends_between_two_tokens() {
    let cancel = CancelToken::new();
    let mut model = Bench::saying(100, "abcdef");
    let request = Request {
        cancel: cancel.clone(),
        ..asking(">")
    };
    let done = with(&mut model, &request, |mut generation| {
        generation.next().unwrap().unwrap();
        cancel.cancel("superseded");
        cancel.cancel("a later reason changes nothing");
        generation.finish().unwrap()
    })
    .unwrap();
    assert_eq!(
        (done.reason, done.text.as_str()),
        (FinishReason::Cancelled, "a")
    );
    assert_eq!(request.cancel.reason(), Some("superseded"));
}

#[test]
fn a_long_prompt_runs_in_parts_and_is_cancelled_between_them() {
    let prompt = format!("{}>", "x".repeat(2 * PREFILL_CHUNK + 43));
    let mut model = Bench::saying(1_000, "a");
    answer(&mut model, &asking(&prompt)).unwrap();
    assert_eq!(model.runs(), [PREFILL_CHUNK, PREFILL_CHUNK, 44, 1]);

    let cancel = CancelToken::new();
    let thrown = cancel.clone();
    let mut model = Bench::new(1_000, move |_, _| {
        thrown.cancel("now");
        Ok(())
    });
    let done = answer(
        &mut model,
        &Request {
            cancel,
            ..asking(&prompt)
        },
    )
    .unwrap();
    assert_eq!(
        (done.reason, model.runs()),
        (FinishReason::Cancelled, vec![PREFILL_CHUNK])
    );
}

#[test]
fn a_repeated_beginning_is_not_computed_again() {
    let mut model = Bench::saying(1_000, "ok");
    let system = "s".repeat(100);
    answer(&mut model, &asking(&format!("{system}first>"))).unwrap();
    model.runs();
    let done = answer(&mut model, &asking(&format!("{system}second>"))).unwrap();
    assert_eq!(
        (done.tokens_in, done.tokens_cached, done.text.as_str()),
        (107, 100, "ok")
    );
    assert_eq!(model.runs(), [7, 1, 1]);
    model.runs();
    let done = answer(&mut model, &asking(&format!("{system}second>"))).unwrap();
    assert_eq!(
        (done.tokens_cached, done.text.as_str()),
        (106, "ok"),
        "the last token runs for its scores"
    );
    assert_eq!(model.runs(), [1, 1, 1]);
}

#[test]
fn a_schema_decides_and_forced_tokens_share_a_run() {
    let schema = json!({"type": "object", "properties": {"action": {"enum": ["STOP", "SLOW"]}, "speed": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["action", "speed"], "additionalProperties": false});
    // The model would like to say "7L" for ever.
    let mut model = Bench::new(1_000, |_, scores| {
        scores[usize::from(b'7')] = 2.0;
        scores[usize::from(b'L')] = 1.0;
        Ok(())
    });
    let done = answer(
        &mut model,
        &Request {
            grammar: Some(Grammar::JsonSchema(schema)),
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!(done.text, r#"{"action": "SLOW", "speed": 7}"#);
    assert_eq!((done.reason, done.complete), (FinishReason::Stop, true));
    assert_eq!(done.tokens_out, done.text.len());
    let (chosen, runs) = (done.tokens_out - done.tokens_forced, model.runs());
    assert!(
        runs.len() <= chosen + 1,
        "{} runs for {chosen} choices: {runs:?}",
        runs.len(),
    );
    assert!(runs.len() < 6, "{runs:?}");
}

#[test]
fn other_grammars_decide_too() {
    let cases = [
        (
            Grammar::Choice(vec!["go".into(), "go on".into(), "halt".into()]),
            "go",
        ),
        (
            Grammar::Choice(vec!["say \"hi\"\\ ü".into()]),
            "say \"hi\"\\ ü",
        ),
        (Grammar::Regex("[a-c]{2}th/[0-9]".into()), "aath/0"),
        (
            Grammar::Lark("start: \"x\" digit digit\ndigit: /[5-9]/".into()),
            "x55",
        ),
    ];
    for (grammar, expected) in cases {
        // Prefers to end, then low ids: with equal scores the lowest allowed token wins.
        let mut model = Bench::new(1_000, |_, scores| {
            scores[END as usize] = 1.0;
            Ok(())
        });
        let done = answer(
            &mut model,
            &Request {
                grammar: Some(grammar.clone()),
                ..asking(">")
            },
        )
        .unwrap();
        assert_eq!(
            (done.text.as_str(), done.complete),
            (expected, true),
            "{grammar:?}"
        );
    }
}

#[test]
fn a_grammar_that_does_not_fit_the_limit_says_so() {
    let grammar = Some(Grammar::Regex("[a-z]{40}".into()));
    let done = answer(
        &mut Bench::saying(1_000, "a"),
        &Request {
            grammar,
            max_tokens: 10,
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!(
        (done.reason, done.complete, done.tokens_out),
        (FinishReason::Length, false, 10)
    );
    let forced = Some(Grammar::Choice(vec!["0123456789abcdef".into()]));
    let done = answer(
        &mut Bench::saying(1_000, "a"),
        &Request {
            grammar: forced,
            max_tokens: 10,
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!(
        (done.reason, done.complete, done.text.as_str()),
        (FinishReason::Length, false, "0123456789")
    );
}

#[test]
fn grammars_that_cannot_be_are_refused_before_anything_runs() {
    let mut model = Bench::saying(100, "a");
    for grammar in [
        Grammar::JsonSchema(json!(true)),
        Grammar::JsonSchema(json!({"type": "no such type"})),
        Grammar::JsonSchema(json!({"allOf": [{"type": "string"}, {"type": "integer"}]})),
        Grammar::Regex("(".into()),
        Grammar::Lark("begin: \"x\"".into()),
        Grammar::Choice(vec![]),
        Grammar::Choice(vec![String::new()]),
        Grammar::Lark("x".repeat(300_000)),
    ] {
        let error = answer(
            &mut model,
            &Request {
                grammar: Some(grammar.clone()),
                ..asking(">")
            },
        )
        .unwrap_err();
        assert!(
            matches!(error, EngineError::Grammar { .. }),
            "{grammar:?}: {error}"
        );
    }
    assert!(model.runs().is_empty());
}

#[test]
fn scores_that_are_no_numbers_are_an_error_once() {
    let mut model = Bench::new(100, |seen, scores| {
        scores.fill(if seen.len() < 3 { 1.0 } else { f32::NAN });
        Ok(())
    });
    with(&mut model, &asking(">"), |mut generation| {
        assert!(generation.next().unwrap().is_ok());
        assert!(generation.next().unwrap().is_ok());
        assert!(matches!(
            generation.next(),
            Some(Err(EngineError::NotFinite { .. }))
        ));
        assert!(generation.next().is_none());
        let done = generation.finish().unwrap();
        assert_eq!(
            (done.reason, done.tokens_out, done.complete),
            (FinishReason::Failed, 2, false)
        );
    })
    .unwrap();
}

#[test]
fn a_run_ended_from_outside_is_a_cancellation_only_if_somebody_cancelled() {
    let cancel = CancelToken::new();
    let thrown = cancel.clone();
    let mut model = Bench::new(100, move |_, _| {
        thrown.cancel("watchdog");
        Err(EngineError::Terminated {
            model: "tiny".to_owned(),
        })
    });
    let done = answer(
        &mut model,
        &Request {
            cancel,
            ..asking(">")
        },
    )
    .unwrap();
    assert_eq!(done.reason, FinishReason::Cancelled);
    let error = answer(&mut model, &asking(">")).unwrap_err();
    assert!(matches!(error, EngineError::Terminated { .. }), "{error}");
}

#[test]
fn sampling_changes_with_the_seed_and_with_the_scores() {
    let say = |seed, favourite: u8| {
        let mut model = Bench::new(100, move |_, scores| {
            scores[usize::from(b'a')..=usize::from(b'z')].fill(8.0);
            scores[usize::from(favourite)] = 11.0;
            Ok(())
        });
        let sampling = Sampling::Sample {
            temperature: 1.0,
            top_k: 30,
            top_p: 0.99,
            seed,
        };
        answer(
            &mut model,
            &Request {
                sampling,
                max_tokens: 30,
                ..asking(">")
            },
        )
        .unwrap()
        .text
    };
    assert_eq!(say(1, b'a'), say(1, b'a'));
    assert_ne!(say(1, b'a'), say(2, b'a'));
    assert_ne!(say(1, b'a'), say(1, b'q'));
}
