//! The language server's promises, on a model of a few lines behind the real scheduler: answers at once, priorities, deadlines,
//! cancellation within a token, a flood, bad questions, a panic, a stall.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy's own switch does not reach helpers of test crates"
)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use llmasos_engine::text::{
    CancelToken, ChatMessage, Grammar, LanguageModel, LanguageParts, Memory, Role, Rows, StepModel,
};
use llmasos_nodes::{
    health::Health,
    language::{LanguageAnswer, LanguageClient, LanguageJob, LanguageServer, LoadLanguage},
    model::{AskError, JOBS_WAITING_MAX},
    supervise::{Child, RestartPolicy, Start, SuperviseMessage, Supervisor},
};
use ractor::{Actor, ActorRef};

/// Long enough that only a broken server reaches it.
const LIMIT: Duration = Duration::from_secs(30);
/// Time of a step of the model, and of a look at something that must come.
const STEP: Duration = Duration::from_millis(4);
/// Tokens of a page, which is also the context: a sequence has one page.
const CONTEXT: usize = 256;
const END: u32 = 256;

/// Longer than the watchdog waits.
const HANG: Duration = Duration::from_secs(8);

/// To a prompt `name 12>` it says `name` again and again, 12 letters in all. `panic` in a prompt makes it panic, `hang` hang.
struct Parrot {
    sequences: usize,
    /// Tokens of each page.
    memory: Vec<Vec<u32>>,
    scores: Vec<Vec<f32>>,
    seen: Seen,
}

/// Names in each step, in order.
type Seen = Arc<Mutex<Vec<Vec<String>>>>;

impl Parrot {
    fn new(sequences: usize, seen: Seen) -> Self {
        Parrot {
            sequences,
            memory: vec![Vec::new(); 2 * sequences],
            scores: Vec::new(),
            seen,
        }
    }
}

impl StepModel for Parrot {
    fn context(&self) -> usize {
        CONTEXT
    }

    fn memory(&self) -> Memory {
        Memory {
            page_tokens: CONTEXT,
            pages: self.memory.len(),
            page_bytes: 1,
        }
    }

    fn rows_max(&self) -> usize {
        CONTEXT
    }

    fn sequences_max(&self) -> usize {
        self.sequences
    }

    fn step(&mut self, batch: &[Rows<'_>]) -> llmasos_engine::Result<()> {
        std::thread::sleep(STEP);
        self.scores.clear();
        let mut names = Vec::new();
        for rows in batch {
            let page = &mut self.memory[rows.pages[0] as usize];
            page.truncate(rows.start);
            page.extend_from_slice(rows.tokens);
            let text: String = page.iter().map(|token| char::from(*token as u8)).collect();
            assert!(!text.contains("panic"), "the model was asked to");
            if text.contains("hang") {
                std::thread::sleep(HANG);
            }
            let (prompt, said) = text.split_once('>').unwrap_or((&text, ""));
            let (name, letters) = prompt.split_once(' ').unwrap_or((prompt, "0"));
            let letters: usize = letters.parse().unwrap_or(0);
            names.push(name.to_owned());
            let next = if said.len() < letters {
                u32::from(name.as_bytes()[said.len() % name.len()])
            } else {
                END
            };
            let mut scores = vec![0.0; END as usize + 1];
            scores[next as usize] = 1.0;
            if rows.scored > 0 {
                self.scores.push(scores);
            }
        }
        self.seen.lock().unwrap().push(names);
        Ok(())
    }

    fn scores(&self, index: usize) -> &[f32] {
        &self.scores[index]
    }

    fn copy_page(&mut self, from: u32, to: u32, tokens: usize) -> llmasos_engine::Result<()> {
        self.memory[to as usize] = self.memory[from as usize][..tokens].to_vec();
        Ok(())
    }
}

/// Every byte is a token, and one more ends an answer.
fn tokenizer() -> Vec<u8> {
    let mut next = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..=u8::MAX {
        let character = if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        vocab.insert(character.to_string(), byte.into());
    }
    vocab.insert("<|end|>".to_owned(), END.into());
    let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": END, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    })
    .to_string()
    .into_bytes()
}

fn load(sequences: usize, seen: Seen) -> Result<LanguageModel, String> {
    LanguageModel::from_parts(LanguageParts {
        name: "parrot".to_owned(),
        model: Box::new(Parrot::new(sequences, seen)),
        tokenizer: tokenizer(),
        vocab: END as usize + 1,
        chat: Some("{% for message in messages %}{{ message.content }}{% endfor %}>".to_owned()),
        bos: None,
        add_bos: false,
        eos: vec![END],
        prefix_bytes: usize::MAX,
    })
    .map_err(|error| error.to_string())
}

struct Bench {
    client: LanguageClient,
    seen: Seen,
    health: Health,
    supervisor: ActorRef<SuperviseMessage>,
}

async fn bench(sequences: usize) -> Bench {
    let seen = Seen::default();
    let (health, client) = (Health::default(), LanguageClient::new("parrot"));
    let (own, shown, log) = (client.clone(), health.node("parrot"), Arc::clone(&seen));
    let start: Start = Arc::new(move |supervisor| {
        let log = Arc::clone(&log);
        let load: LoadLanguage = Arc::new(move || load(sequences, Arc::clone(&log)));
        let server = LanguageServer::new("parrot", shown.clone(), own.clone());
        Box::pin(async move {
            let (actor, _) = LanguageServer::spawn_linked(None, server, load, supervisor).await?;
            Ok(actor.get_cell())
        })
    });
    let policy = RestartPolicy {
        backoff_min: Duration::from_millis(10),
        ..RestartPolicy::default()
    };
    let child = Child {
        name: "parrot".into(),
        policy,
        after: Vec::new(),
        start,
    };
    let (supervisor, _) = Supervisor::spawn(None, Supervisor::new(health.clone()), vec![child])
        .await
        .unwrap();
    let bench = Bench {
        client,
        seen,
        health,
        supervisor,
    };
    bench.until("ready", |bench| bench.client.is_ready()).await;
    bench
}

type Asked = tokio::task::JoinHandle<Result<LanguageAnswer, AskError>>;

fn job(prompt: &str) -> LanguageJob {
    LanguageJob {
        class: "parrot",
        messages: vec![ChatMessage::new(Role::User, prompt)],
        grammar: None,
        tokens_max: 200,
    }
}

impl Bench {
    async fn until(&self, what: &str, holds: impl Fn(&Bench) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds(self) {
            let state = self.health.state("parrot");
            assert!(Instant::now() < deadline, "never {what}: {state:?}");
            tokio::time::sleep(STEP).await;
        }
    }

    /// How many steps had this one in them.
    fn steps_of(&self, name: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().flatten().filter(|other| *other == name).count()
    }

    async fn ask(&self, prompt: &str) -> Result<String, AskError> {
        let deadline = Instant::now() + LIMIT;
        self.client
            .ask(job(prompt), 5, deadline, CancelToken::new())
            .await
            .map(|answer| answer.text)
    }

    /// Asks in the background, and returns when the model has begun with it.
    async fn busy_with(
        &self,
        name: &str,
        letters: usize,
        priority: u8,
        cancel: &CancelToken,
    ) -> Asked {
        let (client, cancel) = (self.client.clone(), cancel.clone());
        let job = job(&format!("{name} {letters}"));
        let asked = tokio::spawn(async move {
            client
                .ask(job, priority, Instant::now() + LIMIT, cancel)
                .await
        });
        self.until(name, |bench| bench.steps_of(name) > 1).await;
        asked
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_questions_are_answered_at_once() {
    let bench = bench(4).await;
    let long = bench.busy_with("long", 150, 5, &CancelToken::new()).await;
    let short = bench.ask("short 10").await;
    assert_eq!(short.unwrap(), "shortshort");
    assert!(
        !long.is_finished(),
        "the short one did not wait for the long one"
    );
    let long = long.await.unwrap().unwrap();
    assert_eq!((long.text.len(), long.complete), (150, true));
    assert_eq!((long.tokens_in, long.tokens_out), (9, 150));
    let both = |names: &Vec<String>| names.len() == 2;
    let together = bench
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|names| both(names))
        .count();
    assert!(together >= 9, "{together} steps for both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_matters_more_pre_empts_and_the_other_goes_on() {
    let bench = bench(1).await;
    let low = bench.busy_with("low", 120, 1, &CancelToken::new()).await;
    let deadline = Instant::now() + LIMIT;
    let high = bench
        .client
        .ask(job("high 4"), 9, deadline, CancelToken::new())
        .await;
    assert_eq!(high.unwrap().text, "high");
    assert!(
        !low.is_finished(),
        "the important answer did not wait for the other"
    );
    assert_eq!(
        low.await.unwrap().unwrap().text,
        "low".repeat(40),
        "nothing is lost or said twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_questions_at_once_are_answered_or_refused_by_name() {
    let bench = bench(8).await;
    let asked: Vec<Asked> = (0..1_000)
        .map(|_| {
            let client = bench.client.clone();
            tokio::spawn(async move {
                client
                    .ask(
                        job("flood 5"),
                        5,
                        Instant::now() + LIMIT,
                        CancelToken::new(),
                    )
                    .await
            })
        })
        .collect();
    let (mut answered, mut full) = (0_usize, 0_usize);
    for asked in asked {
        match asked.await.unwrap() {
            Ok(answer) => {
                assert_eq!(answer.text, "flood");
                answered += 1;
            }
            Err(AskError::Full { .. }) => full += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        answered >= JOBS_WAITING_MAX && full > 0,
        "{answered} answered, {full} refused"
    );
    assert_eq!(
        bench.ask("after 5").await.unwrap(),
        "after",
        "the server lives"
    );
    let asks = bench.client.asks();
    assert_eq!((asks.received, asks.waiting()), (1_001, 0), "{asks}");
    assert_eq!(
        (asks.handled as usize, asks.lost as usize),
        (answered + 1, full)
    );
    assert!(bench.health.restarts().is_empty() || bench.health.restarts()["parrot"] == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cancels_is_out_of_the_next_step() {
    let bench = bench(4).await;
    let cancel = CancelToken::new();
    let unwanted = bench.busy_with("unwanted", 200, 5, &cancel).await;
    let other = bench.busy_with("other", 60, 5, &CancelToken::new()).await;
    cancel.cancel("changed my mind");
    let steps = bench.steps_of("unwanted");
    assert!(matches!(
        unwanted.await.unwrap(),
        Err(AskError::Cancelled { .. })
    ));
    assert_eq!(
        other.await.unwrap().unwrap().text,
        "other".repeat(12),
        "the other goes on"
    );
    let more = bench.steps_of("unwanted") - steps;
    // The step that runs when it is cancelled is counted at its end.
    assert!(more <= 1, "{more} steps after it was cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_kept_or_refused() {
    let bench = bench(4).await;
    let ask = |letters: usize, within: Duration| {
        let (client, job) = (bench.client.clone(), job(&format!("slow {letters}")));
        async move {
            client
                .ask(job, 5, Instant::now() + within, CancelToken::new())
                .await
        }
    };
    let late = ask(200, Duration::from_millis(100)).await;
    // Begun and late; on a computer that was slow while the model warmed up, refused at once.
    assert!(
        matches!(
            late,
            Err(AskError::Deadline { .. } | AskError::TooLate { .. })
        ),
        "{late:?}"
    );
    let refused_before = bench.client.asks().refused;
    assert!(
        ask(50, LIMIT).await.is_ok(),
        "the next one runs, and is measured"
    );
    let begun = Instant::now();
    let refused = ask(50, Duration::from_millis(40)).await;
    let Err(AskError::TooLate {
        need_ms, left_ms, ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert!(need_ms > left_ms && left_ms <= 40, "{need_ms} {left_ms}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it did not wait for the deadline to find out"
    );
    assert_eq!(bench.client.asks().refused, refused_before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_question_is_answered_by_name_and_nobody_else_notices() {
    let bench = bench(4).await;
    let other = bench.busy_with("other", 50, 5, &CancelToken::new()).await;
    let with = |grammar| LanguageJob {
        grammar: Some(grammar),
        ..job("good 4")
    };
    let cases = [
        (
            "longer than the context",
            job(&"x".repeat(CONTEXT)),
            "the context of 256 tokens",
        ),
        (
            "no messages",
            LanguageJob {
                messages: Vec::new(),
                ..job("")
            },
            "messages",
        ),
        (
            "no grammar",
            with(Grammar::Regex("(".to_owned())),
            "grammar",
        ),
        (
            "nothing fits the schema",
            with(Grammar::JsonSchema(
                serde_json::json!({"allOf": [{"type": "string"}, {"type": "integer"}]}),
            )),
            "grammar",
        ),
        (
            "no tokens",
            LanguageJob {
                tokens_max: 0,
                ..job("good 4")
            },
            "max_tokens",
        ),
    ];
    for (why, job, word) in cases {
        let deadline = Instant::now() + LIMIT;
        match bench.client.ask(job, 5, deadline, CancelToken::new()).await {
            Err(AskError::Failed { reason, .. }) => {
                assert!(reason.contains(word), "{why}: {reason}")
            }
            other => panic!("{why}: {other:?}"),
        }
    }
    let cut = LanguageJob {
        tokens_max: 3,
        ..with(Grammar::Choice(vec!["something longer".to_owned()]))
    };
    let deadline = Instant::now() + LIMIT;
    let cut = bench
        .client
        .ask(cut, 5, deadline, CancelToken::new())
        .await
        .unwrap();
    assert_eq!(
        (cut.text.as_str(), cut.complete),
        ("som", false),
        "a limit that the grammar cannot keep"
    );
    assert_eq!(other.await.unwrap().unwrap().text, "other".repeat(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_an_answer_to_all_and_the_model_is_loaded_again() {
    let bench = bench(4).await;
    let other = bench.busy_with("other", 200, 5, &CancelToken::new()).await;
    let panicked = bench.ask("panic 1").await;
    for outcome in [panicked.map(|_| ()), other.await.unwrap().map(|_| ())] {
        assert!(
            matches!(outcome, Err(AskError::Failed { .. })),
            "{outcome:?}"
        );
    }
    bench
        .until("restarted", |bench| {
            bench.health.restarts().get("parrot") == Some(&1)
        })
        .await;
    bench.until("ready", |bench| bench.client.is_ready()).await;
    assert_eq!(bench.ask("after 5").await.unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_hangs_is_given_up_and_loaded_again() {
    let bench = bench(4).await;
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(200);
    let hung = bench
        .client
        .ask(job("hang 5"), 5, deadline, CancelToken::new())
        .await;
    assert!(matches!(hung, Err(AskError::Deadline { .. })), "{hung:?}");
    bench
        .until("restarted", |bench| {
            bench.health.restarts().get("parrot") == Some(&1)
        })
        .await;
    bench.until("ready", |bench| bench.client.is_ready()).await;
    assert_eq!(bench.ask("after 5").await.unwrap(), "after");
    assert!(
        begun.elapsed() < HANG,
        "nobody waited for the old thread to come back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_model_answers_nobody_in_time_and_then_everybody() {
    let bench = bench(4).await;
    assert!(bench.client.stall(Duration::from_millis(3_000)));
    let deadline = Instant::now() + Duration::from_millis(100);
    let begun = Instant::now();
    let during = bench
        .client
        .ask(job("during 3"), 5, deadline, CancelToken::new())
        .await;
    assert!(
        matches!(during, Err(AskError::Deadline { .. })),
        "{during:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_millis(2_500),
        "the deadline is told while the model stalls"
    );
    assert_eq!(bench.ask("after 5").await.unwrap(), "after");
    assert_eq!(
        bench.health.restarts().get("parrot").copied().unwrap_or(0),
        0,
        "a stall is no crash"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_back_under_the_same_client() {
    let bench = bench(4).await;
    let running = bench
        .busy_with("running", 200, 5, &CancelToken::new())
        .await;
    bench
        .supervisor
        .cast(SuperviseMessage::Kill("parrot".into()))
        .unwrap();
    assert!(matches!(
        running.await.unwrap(),
        Err(AskError::NotReady { .. })
    ));
    bench
        .until("restarted", |bench| {
            bench.health.restarts().get("parrot") == Some(&1)
        })
        .await;
    bench.until("ready", |bench| bench.client.is_ready()).await;
    assert_eq!(bench.ask("back 4").await.unwrap(), "back");
    let asks = bench.client.asks();
    assert_eq!(
        (asks.handled, asks.refused, asks.waiting()),
        (1, 1, 0),
        "{asks}"
    );
}
