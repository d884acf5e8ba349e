//! Many answers at once on a model without weights: each must come out as if it were alone, whatever happens to the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::grammar::Grammar;
use super::request::{CancelToken, FinishReason, Finished, Request};
use super::server::{Event, MAX_QUEUED, RequestId};
use super::tiny::{Bench, END, Shape, says};
use crate::error::{EngineError, Result};

/// Steps after which a test gives up.
const STEPS_MAX: usize = 20_000;
/// Text that the model cannot stand.
const POISON: u32 = b'!' as u32;

const SMALL: Shape = Shape {
    context: 200,
    page_tokens: 4,
    pages: 60,
    rows: 64,
    sequences: 4,
    scored: 3,
};

fn asking(prompt: &str) -> Request {
    Request {
        prompt: prompt.to_owned(),
        max_tokens: 100,
        ..Request::default()
    }
}

/// The next token depends on all tokens before it: any wrong page changes the text.
fn next(seen: &[u32]) -> u32 {
    let hash = seen.iter().fold(17_u32, |hash, token| {
        hash.wrapping_mul(31).wrapping_add(*token + 1)
    });
    match hash >> 8 {
        hash if hash.is_multiple_of(24) => END,
        hash => u32::from(b'a') + hash % 26,
    }
}

/// What the model says to a prompt, found without a server. No prompt here has a "th", which would be one token.
fn expected(prompt: &str, max_tokens: usize) -> String {
    let mut seen: Vec<u32> = prompt.bytes().map(u32::from).collect();
    let mut text = String::new();
    while text.len() < max_tokens {
        match next(&seen) {
            END => break,
            token => {
                seen.push(token);
                text.push(char::from(token as u8));
            }
        }
    }
    text
}

fn hashing(shape: Shape) -> Bench {
    Bench::shaped(shape, |seen, scores| {
        scores[next(seen) as usize] = 1.0;
        Ok(())
    })
}

/// Fails when it sees [`POISON`], else says "ok".
fn fragile(shape: Shape, fail: fn(&mut [f32]) -> Result<()>) -> Bench {
    let mut say = says("ok");
    Bench::shaped(shape, move |seen, scores| {
        if seen.contains(&POISON) {
            return fail(scores);
        }
        say(seen, scores)
    })
}

fn submit(bench: &mut Bench, request: &Request) -> Result<RequestId> {
    bench.server.submit(request, Instant::now())
}

/// Runs until nothing is left to do.
fn drain(bench: &mut Bench) -> BTreeMap<RequestId, (String, Result<Finished>)> {
    let (mut shown, mut done) = (BTreeMap::<_, String>::new(), BTreeMap::new());
    for _ in 0..STEPS_MAX {
        if !bench.server.has_work() {
            return done;
        }
        for event in bench.server.step(Instant::now()) {
            let id = event.id();
            let end = match event {
                Event::Piece(_, piece) => {
                    shown.entry(id).or_default().push_str(&piece.text);
                    continue;
                }
                Event::Finished(_, finished) => Ok(finished),
                Event::Failed(_, error, _) => Err(error),
            };
            let text = shown.remove(&id).unwrap_or_default();
            assert!(done.insert(id, (text, end)).is_none(), "{id} ends once");
        }
    }
    panic!("it never ends: {:?}", bench.server);
}

/// Nobody holds a page but the cache, and it gives back all of them.
fn all_pages_are_free(bench: &mut Bench) {
    let load = bench.server.load();
    assert_eq!((load.running, load.queued), (0, 0));
    assert_eq!(load.pages_free + load.pages_kept, load.pages);
    bench.server.forget();
    assert_eq!(bench.server.load().pages_free, load.pages);
}

#[test]
fn several_answers_run_in_the_same_steps() {
    let mut bench = hashing(SMALL);
    let prompts = ["one 8, ", "two and more 8, ", "3 8", "four: 4 8"];
    let ids: Vec<_> = prompts
        .iter()
        .map(|prompt| submit(&mut bench, &asking(prompt)).unwrap())
        .collect();
    let done = drain(&mut bench);
    for (id, prompt) in ids.iter().zip(prompts) {
        let (shown, finished) = &done[id];
        assert_eq!(shown, &expected(prompt, 100), "{prompt}");
        assert_eq!(&finished.as_ref().unwrap().text, shown);
    }
    let batches = bench.batches();
    assert!(batches.iter().any(|batch| batch.len() == 4), "{batches:?}");
    let longest = prompts
        .iter()
        .map(|prompt| expected(prompt, 100).len())
        .max()
        .unwrap();
    assert!(
        batches.len() <= longest + 3,
        "{} steps for {longest} tokens",
        batches.len()
    );
    all_pages_are_free(&mut bench);
}

#[test]
fn a_common_beginning_is_computed_once_even_if_all_ask_at_once() {
    let mut bench = hashing(Shape {
        pages: 200,
        ..SMALL
    });
    let system = "s".repeat(80);
    for end in ["a", "b", "c", "d"] {
        submit(&mut bench, &asking(&format!("{system}{end}"))).unwrap();
    }
    let cached: usize = drain(&mut bench)
        .values()
        .map(|(_, finished)| finished.as_ref().unwrap().tokens_cached)
        .sum();
    // The second one began in the step in which the first got done with its beginning.
    assert!(cached >= 2 * 80, "{cached}");
    let load = bench.server.load();
    assert_eq!(
        (load.tokens_in, load.tokens_cached),
        (4 * 81, cached as u64)
    );
}

/// Why a request is refused, the request, and whether an error is that refusal.
type Mistake = (&'static str, Request, fn(&EngineError) -> bool);

#[test]
fn one_request_s_mistake_is_nobody_else_s() {
    let mut bench = fragile(SMALL, |scores| {
        scores.fill(f32::NAN);
        Ok(())
    });
    let good = submit(&mut bench, &asking("good>")).unwrap();
    let bad = submit(&mut bench, &asking("bad!>")).unwrap();
    let refused: [Mistake; 5] = [
        ("empty", asking(""), |e| {
            matches!(e, EngineError::PromptEmpty)
        }),
        ("too long", asking(&"x".repeat(200)), |e| {
            matches!(
                e,
                EngineError::PromptTooLong {
                    prompt_tokens: 200,
                    context_tokens: 200
                }
            )
        }),
        ("too large", asking(&"x".repeat(2 << 20)), |e| {
            matches!(e, EngineError::PromptTooLarge { .. })
        }),
        (
            "no such grammar",
            Request {
                grammar: Some(Grammar::Regex("(".to_owned())),
                ..asking(">")
            },
            |e| matches!(e, EngineError::Grammar { .. }),
        ),
        (
            "no tokens",
            Request {
                max_tokens: 0,
                ..asking(">")
            },
            |e| matches!(e, EngineError::Request { .. }),
        ),
    ];
    for (why, request, is) in refused {
        let error = submit(&mut bench, &request).unwrap_err();
        assert!(is(&error), "{why}: {error}");
    }
    let done = drain(&mut bench);
    assert_eq!(done[&good].1.as_ref().unwrap().text, "ok");
    assert!(matches!(done[&bad].1, Err(EngineError::NotFinite { .. })));
    assert_eq!(bench.answer(&asking("again>")).unwrap().text, "ok");
    all_pages_are_free(&mut bench);
}

#[test]
fn a_run_that_fails_because_of_one_runs_again_without_it() {
    let mut bench = fragile(SMALL, |_| {
        Err(EngineError::Run {
            model: "tiny".to_owned(),
            reason: "poison".to_owned(),
        })
    });
    let ids = ["a>", "b!>", "c>"].map(|prompt| submit(&mut bench, &asking(prompt)).unwrap());
    let done = drain(&mut bench);
    for (id, fails) in ids.iter().zip([false, true, false]) {
        match &done[id].1 {
            Ok(finished) => assert!(!fails && finished.text == "ok", "{finished:?}"),
            Err(error) => assert!(fails && matches!(error, EngineError::Run { .. }), "{error}"),
        }
    }
    all_pages_are_free(&mut bench);
}

#[test]
fn cancelling_one_takes_effect_before_the_next_step() {
    let mut bench = Bench::shaped(SMALL, |_, scores| {
        scores[usize::from(b'a')] = 1.0;
        Ok(())
    });
    let thrown = CancelToken::new();
    let by_token = Request {
        cancel: thrown.clone(),
        ..asking("one>")
    };
    let ids = [by_token, asking("two>"), asking("three>")]
        .map(|request| submit(&mut bench, &request).unwrap());
    for _ in 0..3 {
        bench.server.step(Instant::now());
    }
    thrown.cancel("superseded");
    assert!(bench.server.cancel(ids[1]));
    bench.batches();
    let mut ended = Vec::new();
    for event in bench.server.step(Instant::now()) {
        match event {
            Event::Finished(id, finished) => {
                assert_eq!(
                    (finished.reason, finished.text.as_str()),
                    (FinishReason::Cancelled, "aaa")
                );
                ended.push(id);
            }
            other => assert_eq!(other.id(), ids[2], "{other:?}"),
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, ids[..2]);
    assert_eq!(bench.batches(), [[1]], "they took no part in the step");
    assert!(
        !bench.server.cancel(ids[0]),
        "there is nothing left to cancel"
    );
    let done = drain(&mut bench);
    assert_eq!(done[&ids[2]].1.as_ref().unwrap().tokens_out, 100);
}

#[test]
fn a_higher_priority_pre_empts_and_the_other_goes_on_where_it_was() {
    for (why, shape) in [
        (
            "a slot",
            Shape {
                sequences: 1,
                ..SMALL
            },
        ),
        ("pages", Shape { pages: 12, ..SMALL }),
        (
            "the only page",
            Shape {
                rows: 64,
                ..Shape::alone(200)
            },
        ),
    ] {
        let mut bench = hashing(shape);
        let low = submit(&mut bench, &asking("lower of two prompts 3, xxxxxxxx")).unwrap();
        let mut said = 0;
        for _ in 0..6 {
            said += bench.server.step(Instant::now()).len();
        }
        assert_eq!(said, 6, "{why}: it is under way");
        let high = Request {
            priority: 9,
            ..asking("higher of two prompts number 5! ")
        };
        let id = submit(&mut bench, &high).unwrap();
        let mut order = Vec::new();
        let mut text = BTreeMap::<RequestId, String>::new();
        while bench.server.has_work() {
            for event in bench.server.step(Instant::now()) {
                match event {
                    Event::Piece(id, piece) => text.entry(id).or_default().push_str(&piece.text),
                    Event::Finished(id, _) => order.push(id),
                    Event::Failed(id, error, _) => panic!("{why}: {id}: {error}"),
                }
            }
        }
        let most = |prompt: &str| 100.min(bench.server.context() - prompt.len());
        let lower = "lower of two prompts 3, xxxxxxxx";
        let whole = expected(lower, most(lower));
        assert!(whole.len() > 10, "the test needs a long answer: {whole}");
        assert_eq!(order, [id, low], "{why}");
        assert_eq!(
            text[&id],
            expected(&high.prompt, most(&high.prompt)),
            "{why}"
        );
        assert_eq!(text[&low], whole[6..], "{why}: nothing is said twice");
        all_pages_are_free(&mut bench);
    }
}

#[test]
fn a_thousand_requests_at_once_are_answered_or_refused_by_name() {
    let mut bench = hashing(SMALL);
    let (mut taken, mut refused) = (Vec::new(), 0);
    for number in 0..1_000 {
        match submit(&mut bench, &asking(&format!("request {number}: "))) {
            Ok(id) => taken.push((id, number)),
            Err(EngineError::QueueFull { limit: MAX_QUEUED }) => refused += 1,
            Err(error) => panic!("{number}: {error}"),
        }
    }
    assert_eq!((taken.len(), refused), (MAX_QUEUED, 1_000 - MAX_QUEUED));
    let urgent = Request {
        priority: 1,
        ..asking("urgent: ")
    };
    let id = submit(&mut bench, &urgent).unwrap();
    let done = drain(&mut bench);
    assert_eq!(
        done[&id].0,
        expected("urgent: ", 100),
        "what matters more finds room"
    );
    let (last, others) = taken.split_last().unwrap();
    assert!(
        matches!(done[&last.0].1, Err(EngineError::QueueFull { .. })),
        "in the place of the last"
    );
    for (id, number) in others {
        assert_eq!(done[id].0, expected(&format!("request {number}: "), 100));
    }
    all_pages_are_free(&mut bench);
}

#[test]
fn what_never_fits_the_pages_is_refused_and_what_fits_alone_is_answered() {
    // 8 pages of 4 tokens, though a sequence might have 200.
    let mut bench = hashing(Shape { pages: 8, ..SMALL });
    assert_eq!(bench.server.context(), 32);
    let error = submit(&mut bench, &asking(&"x".repeat(32))).unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::PromptTooLong {
                prompt_tokens: 32,
                context_tokens: 32
            }
        ),
        "{error}"
    );
    let prompts = [
        "twenty tokens are a l",
        "twenty tokens are b l",
        "short",
        "twenty tokens are c l",
    ];
    let ids = prompts.map(|prompt| submit(&mut bench, &asking(prompt)).unwrap());
    let done = drain(&mut bench);
    for (id, prompt) in ids.iter().zip(prompts) {
        assert_eq!(done[id].0, expected(prompt, 32 - prompt.len()), "{prompt}");
    }
    all_pages_are_free(&mut bench);
}

#[test]
fn what_cannot_be_in_time_is_refused_at_once_and_may_try_again() {
    let mut bench = Bench::shaped(SMALL, |_, scores| {
        std::thread::sleep(Duration::from_millis(2));
        scores[usize::from(b'a')] = 1.0;
        Ok(())
    });
    let request = |within: Option<u64>| Request {
        max_tokens: 20,
        class: "slow",
        deadline: within.map(|ms| Instant::now() + Duration::from_millis(ms)),
        ..asking(">")
    };
    submit(&mut bench, &request(None)).unwrap();
    drain(&mut bench);
    let error = submit(&mut bench, &request(Some(10))).unwrap_err();
    let EngineError::TooLate { need_ms, left_ms } = error else {
        panic!("{error}");
    };
    assert!(need_ms >= 30 && left_ms <= 10, "{need_ms} {left_ms}");
    let other = Request {
        class: "other",
        ..request(Some(25))
    };
    let id = submit(&mut bench, &other).unwrap();
    let late = &drain(&mut bench)[&id].1;
    assert_eq!(
        late.as_ref().unwrap().reason,
        FinishReason::Deadline,
        "of an unknown class it may try"
    );
    let refusals = (0..40)
        .take_while(|_| submit(&mut bench, &request(Some(10))).is_err())
        .count();
    assert!(
        (1..40).contains(&refusals),
        "{refusals}: an old measurement does not refuse for ever"
    );
}

#[test]
fn a_step_ended_from_outside_ends_only_whom_it_was_meant_for() {
    let cancel = CancelToken::new();
    let thrown = cancel.clone();
    let (mut say, mut steps) = (says("ok"), 0);
    let mut bench = Bench::shaped(SMALL, move |seen, scores| {
        steps += 1;
        if steps == 2 {
            thrown.cancel("watchdog");
            return Err(EngineError::Terminated {
                model: "tiny".to_owned(),
            });
        }
        say(seen, scores)
    });
    let late = submit(
        &mut bench,
        &Request {
            cancel,
            ..asking("late>")
        },
    )
    .unwrap();
    let other = submit(&mut bench, &asking("other>")).unwrap();
    let done = drain(&mut bench);
    assert_eq!(
        done[&late].1.as_ref().unwrap().reason,
        FinishReason::Cancelled
    );
    assert_eq!(done[&other].1.as_ref().unwrap().text, "ok");
}

#[test]
fn time_is_told_apart() {
    let mut bench = Bench::shaped(
        Shape {
            sequences: 1,
            ..SMALL
        },
        |_, scores| {
            std::thread::sleep(Duration::from_millis(2));
            scores[usize::from(b'a')] = 1.0;
            Ok(())
        },
    );
    let request = Request {
        max_tokens: 5,
        ..asking("one>")
    };
    let first = submit(&mut bench, &request).unwrap();
    let second = submit(&mut bench, &request).unwrap();
    let done = drain(&mut bench);
    let times = |id| {
        let finished = done[&id].1.as_ref().unwrap();
        [finished.queued, finished.prefill, finished.decode].map(|time| time.as_millis() as u64)
    };
    let ([queued, prefill, decode], [waited, ..]) = (times(first), times(second));
    assert!(
        queued == 0 && prefill >= 2 && decode >= 8,
        "{queued} {prefill} {decode}"
    );
    assert!(waited >= 10, "{waited}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever the memory and the mix, every answer is the one it would be alone, and no page is lost.
    #[test]
    fn answers_do_not_depend_on_the_company(
        prompts in prop::collection::vec(("[ab]{1,3}(common beginning, )?[ab]{0,9}", 0..3_u8, 1..40_usize, 0..9_usize), 1..14),
        page_tokens in 1..9_usize,
        tokens in 64..200_usize,
        rows in 4..40_usize,
        sequences in 1..5_usize,
    ) {
        let pages = tokens.div_ceil(page_tokens);
        let mut bench = hashing(Shape { context: 64, page_tokens, pages, rows, sequences, scored: 1 });
        let mut ids = Vec::new();
        for (prompt, priority, max_tokens, wait) in &prompts {
            let request = Request { priority: *priority, max_tokens: *max_tokens, ..asking(prompt) };
            ids.push(submit(&mut bench, &request).unwrap());
            // Some come while others run; what is told meanwhile is put back.
            for _ in 0..*wait {
                for event in bench.server.step(Instant::now()) {
                    bench.server.put_back(event);
                }
            }
        }
        let done = drain(&mut bench);
        for (id, (prompt, _, max_tokens, _)) in ids.iter().zip(&prompts) {
            let room = bench.server.context() - prompt.len();
            prop_assert_eq!(&done[id].0, &expected(prompt, room.min(*max_tokens)), "{}", prompt);
        }
        all_pages_are_free(&mut bench);
    }
}
