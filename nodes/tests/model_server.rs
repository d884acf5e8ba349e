//! The model server's promises, on a worker that only waits: priorities, pre-emption, deadlines, cancellation, a full queue, a panic, a
//! stall. No weights: what is tested is the queue and the thread.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy's own switch does not reach helpers of test crates"
)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use llmasos_engine::text::CancelToken;
use llmasos_nodes::{
    health::{Health, NodeState},
    model::{AskError, Load, ModelClient, ModelServer, Work},
    supervise::{Child, Next, Restart, RestartPolicy, Start, SuperviseMessage, Supervisor},
};
use ractor::{Actor, ActorRef};

/// Long enough that only a broken server reaches it.
const LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
enum Job {
    /// Takes this many steps, looking at its cancel token between them, as a decoder does between tokens.
    Steps(&'static str, u32),
    /// Panics.
    Panic,
}

struct Waiter {
    begun: Arc<Mutex<Vec<&'static str>>>,
}

impl Work for Waiter {
    type Job = Job;
    type Answer = &'static str;

    fn run(
        &mut self,
        job: Job,
        _deadline: Instant,
        cancel: &CancelToken,
    ) -> Result<&'static str, String> {
        match job {
            Job::Panic => panic!("the worker was asked to"),
            Job::Steps(name, steps) => {
                self.begun.lock().unwrap().push(name);
                for _ in 0..steps {
                    if cancel.is_cancelled() {
                        return Err("cancelled".to_owned());
                    }
                    std::thread::sleep(STEP);
                }
                Ok(name)
            }
        }
    }

    fn warm_up(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn class(job: &Job) -> &'static str {
        match job {
            Job::Steps(name, _) => name,
            Job::Panic => "panic",
        }
    }
}

struct Bench {
    client: ModelClient<Waiter>,
    begun: Arc<Mutex<Vec<&'static str>>>,
    health: Health,
    supervisor: ActorRef<SuperviseMessage>,
}

async fn bench() -> Bench {
    let begun: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let (health, client) = (Health::default(), ModelClient::<Waiter>::new("waiter"));
    let (own, shown, seen) = (client.clone(), health.node("waiter"), Arc::clone(&begun));
    let start: Start = Arc::new(move |supervisor| {
        let begun = Arc::clone(&seen);
        let load: Load<Waiter> = Arc::new(move || {
            Ok(Waiter {
                begun: Arc::clone(&begun),
            })
        });
        let server = ModelServer::new("waiter", shown.clone(), own.clone());
        Box::pin(async move {
            let (actor, _) = ModelServer::spawn_linked(None, server, load, supervisor).await?;
            Ok(actor.get_cell())
        })
    });
    let policy = RestartPolicy {
        backoff_min: Duration::from_millis(10),
        ..RestartPolicy::default()
    };
    let child = Child {
        name: "waiter".into(),
        policy,
        after: Vec::new(),
        start,
    };
    let (supervisor, _) = Supervisor::spawn(None, Supervisor::new(health.clone()), vec![child])
        .await
        .unwrap();
    let bench = Bench {
        client,
        begun,
        health,
        supervisor,
    };
    bench.ready().await;
    bench
}

impl Bench {
    async fn ready(&self) {
        let deadline = Instant::now() + LIMIT;
        while !self.client.is_ready() {
            assert!(
                Instant::now() < deadline,
                "not ready: {:?}",
                self.health.state("waiter")
            );
            tokio::time::sleep(STEP).await;
        }
    }

    /// Asks in the background, and returns when the worker has begun with it.
    async fn busy_with(
        &self,
        name: &'static str,
        steps: u32,
        priority: u8,
    ) -> tokio::task::JoinHandle<Result<&'static str, AskError>> {
        let client = self.client.clone();
        let asked = tokio::spawn(async move {
            client
                .ask(
                    Job::Steps(name, steps),
                    priority,
                    Instant::now() + LIMIT,
                    CancelToken::new(),
                )
                .await
        });
        let deadline = Instant::now() + LIMIT;
        while !self.begun.lock().unwrap().contains(&name) {
            assert!(Instant::now() < deadline, "{name} never began");
            tokio::time::sleep(STEP).await;
        }
        asked
    }

    async fn ask(
        &self,
        job: Job,
        priority: u8,
        within: Duration,
        cancel: CancelToken,
    ) -> Result<&'static str, AskError> {
        self.client
            .ask(job, priority, Instant::now() + within, cancel)
            .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_matters_more_pre_empts_and_what_was_pre_empted_starts_again() {
    let bench = bench().await;
    let low = bench.busy_with("low", 40, 1).await;
    let high = bench
        .ask(Job::Steps("high", 2), 9, LIMIT, CancelToken::new())
        .await;
    assert_eq!(high, Ok("high"));
    assert!(
        !low.is_finished(),
        "the important answer did not wait for the other"
    );
    assert_eq!(low.await.unwrap(), Ok("low"), "nothing is lost");
    assert_eq!(*bench.begun.lock().unwrap(), ["low", "high", "low"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equals_wait_in_turn_and_do_not_pre_empt() {
    let bench = bench().await;
    let first = bench.busy_with("first", 10, 5).await;
    let second = bench
        .ask(Job::Steps("second", 1), 5, LIMIT, CancelToken::new())
        .await;
    assert_eq!((first.await.unwrap(), second), (Ok("first"), Ok("second")));
    assert_eq!(*bench.begun.lock().unwrap(), ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_work_and_the_next_one_runs() {
    let bench = bench().await;
    let late = bench
        .ask(
            Job::Steps("late", 4000),
            5,
            Duration::from_millis(100),
            CancelToken::new(),
        )
        .await;
    assert!(matches!(late, Err(AskError::Deadline { .. })), "{late:?}");
    assert_eq!(
        bench
            .ask(Job::Steps("next", 1), 5, LIMIT, CancelToken::new())
            .await,
        Ok("next")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_cannot_be_in_time_is_refused_at_once() {
    let bench = bench().await;
    assert_eq!(
        bench
            .ask(Job::Steps("slow", 40), 5, LIMIT, CancelToken::new())
            .await,
        Ok("slow")
    );
    let begun = Instant::now();
    let refused = bench
        .ask(
            Job::Steps("slow", 40),
            5,
            Duration::from_millis(20),
            CancelToken::new(),
        )
        .await;
    assert!(
        matches!(refused, Err(AskError::TooLate { .. })),
        "{refused:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it did not wait for the deadline to find out"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_cancels_is_answered_and_the_worker_is_free() {
    let bench = bench().await;
    let cancel = CancelToken::new();
    let (client, token) = (bench.client.clone(), cancel.clone());
    let asked = tokio::spawn(async move {
        client
            .ask(
                Job::Steps("unwanted", 4000),
                5,
                Instant::now() + LIMIT,
                token,
            )
            .await
    });
    while !bench.begun.lock().unwrap().contains(&"unwanted") {
        tokio::time::sleep(STEP).await;
    }
    cancel.cancel("changed my mind");
    assert!(matches!(
        asked.await.unwrap(),
        Err(AskError::Cancelled { .. })
    ));
    assert_eq!(
        bench
            .ask(Job::Steps("next", 1), 5, LIMIT, CancelToken::new())
            .await,
        Ok("next")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_an_answer_and_the_model_is_loaded_again() {
    let bench = bench().await;
    let panicked = bench.ask(Job::Panic, 5, LIMIT, CancelToken::new()).await;
    assert!(
        matches!(panicked, Err(AskError::Failed { .. })),
        "{panicked:?}"
    );
    let deadline = Instant::now() + LIMIT;
    while bench.health.restarts().get("waiter") != Some(&1) {
        assert!(Instant::now() < deadline, "it was not restarted");
        tokio::time::sleep(STEP).await;
    }
    bench.ready().await;
    assert_eq!(
        bench
            .ask(Job::Steps("after", 1), 5, LIMIT, CancelToken::new())
            .await,
        Ok("after")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_model_answers_nobody_in_time_and_then_everybody() {
    let bench = bench().await;
    assert!(bench.client.stall(Duration::from_millis(800)));
    let during = bench
        .ask(
            Job::Steps("during", 1),
            5,
            Duration::from_millis(100),
            CancelToken::new(),
        )
        .await;
    assert!(
        matches!(during, Err(AskError::Deadline { .. })),
        "{during:?}"
    );
    assert_eq!(
        bench
            .ask(Job::Steps("after", 1), 5, LIMIT, CancelToken::new())
            .await,
        Ok("after")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_back_under_the_same_client() {
    let bench = bench().await;
    bench
        .supervisor
        .cast(SuperviseMessage::Kill("waiter".into()))
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while bench.health.restarts().get("waiter") != Some(&1) {
        assert!(Instant::now() < deadline, "it was not restarted");
        tokio::time::sleep(STEP).await;
    }
    let answer = loop {
        match bench
            .ask(Job::Steps("back", 1), 5, LIMIT, CancelToken::new())
            .await
        {
            Err(AskError::NotReady { .. }) => tokio::time::sleep(STEP).await,
            other => break other,
        }
        assert!(Instant::now() < deadline, "it never answered again");
    };
    assert_eq!(answer, Ok("back"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_is_given_up_and_the_supervisor_lives() {
    let health = Health::default();
    let client = ModelClient::<Waiter>::new("broken");
    let (own, shown) = (client.clone(), health.node("broken"));
    let start: Start = Arc::new(move |supervisor| {
        let load: Load<Waiter> = Arc::new(|| Err("expected a model, found a stone".to_owned()));
        let server = ModelServer::new("broken", shown.clone(), own.clone());
        Box::pin(async move {
            let (actor, _) = ModelServer::spawn_linked(None, server, load, supervisor).await?;
            Ok(actor.get_cell())
        })
    });
    let policy = RestartPolicy {
        count: 2,
        backoff_min: Duration::from_millis(1),
        restart: Restart::OnFailure,
        ..RestartPolicy::default()
    };
    assert_eq!(
        policy.next(&mut Default::default(), true, Instant::now()),
        Next::After(Duration::from_millis(1))
    );
    let child = Child {
        name: "broken".into(),
        policy,
        after: Vec::new(),
        start,
    };
    let (supervisor, ended) = Supervisor::spawn(None, Supervisor::new(health.clone()), vec![child])
        .await
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    let detail = loop {
        match health.state("broken") {
            Some((NodeState::Failed, detail)) if detail.starts_with("given up") => break detail,
            _ => tokio::time::sleep(STEP).await,
        }
        assert!(
            Instant::now() < deadline,
            "it was not given up: {:?}",
            health.state("broken")
        );
    };
    assert!(detail.contains("stone"), "it says why: {detail}");
    assert_eq!(health.restarts().get("broken"), Some(&2));
    assert!(
        !ended.is_finished(),
        "giving up a child does not end the others"
    );
    supervisor.cast(SuperviseMessage::StopAll).unwrap();
    tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
}
