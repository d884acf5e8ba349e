//! A node that panics: the supervisor hears of it and starts another, while its sibling goes on.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy's own switch does not reach helpers of test crates"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use llmasos_nodes::{
    health::{Health, NodeHealth, NodeState},
    supervise::{Child, RestartPolicy, Start, SuperviseMessage, Supervisor},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// Long enough that only a broken supervisor reaches it.
const LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);

/// Panics when told anything.
struct Fragile {
    health: NodeHealth,
    starts: Arc<AtomicU32>,
    own: Arc<Mutex<Option<ActorRef<()>>>>,
}

impl Actor for Fragile {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        _arguments: (),
    ) -> Result<(), ActorProcessingErr> {
        self.health.set(NodeState::Ready, "");
        *self.own.lock().unwrap() = Some(myself);
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<()>,
        (): (),
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        panic!("told to");
    }
}

type Handle = Arc<Mutex<Option<ActorRef<()>>>>;

fn child(name: &str, health: &Health) -> (Child, Arc<AtomicU32>, Handle) {
    let (starts, own): (Arc<AtomicU32>, Handle) = Default::default();
    let (health, counted, kept) = (health.node(name), Arc::clone(&starts), Arc::clone(&own));
    let start: Start = Arc::new(move |supervisor| {
        let node = Fragile {
            health: health.clone(),
            starts: Arc::clone(&counted),
            own: Arc::clone(&kept),
        };
        Box::pin(async move {
            Ok(Fragile::spawn_linked(None, node, (), supervisor)
                .await?
                .0
                .get_cell())
        })
    });
    let policy = RestartPolicy {
        backoff_min: Duration::from_millis(10),
        silent: LIMIT,
        ..RestartPolicy::default()
    };
    (
        Child {
            name: name.into(),
            policy,
            after: Vec::new(),
            start,
        },
        starts,
        own,
    )
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(STEP).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_panics_is_started_again_and_its_sibling_is_not() {
    let health = Health::default();
    let (one, one_starts, one_handle) = child("one", &health);
    let (two, two_starts, _) = child("two", &health);
    let (supervisor, ended) =
        Supervisor::spawn(None, Supervisor::new(health.clone()), vec![one, two])
            .await
            .unwrap();
    until("both start", || {
        one_starts.load(Ordering::SeqCst) == 1 && two_starts.load(Ordering::SeqCst) == 1
    })
    .await;
    let handle = one_handle.lock().unwrap().clone().unwrap();
    handle.cast(()).unwrap();
    until("the one that panicked starts again", || {
        one_starts.load(Ordering::SeqCst) == 2
    })
    .await;
    assert_eq!(health.restarts().get("one"), Some(&1));
    assert_eq!(
        (
            two_starts.load(Ordering::SeqCst),
            health.restarts().get("two")
        ),
        (1, Some(&0))
    );
    supervisor.cast(SuperviseMessage::StopAll).unwrap();
    tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
}
