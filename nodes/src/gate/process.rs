//! The gate's process: what makes it hard to disturb, how it starts and how it ends.
//!
//! It shares nothing with the models: no inference library, no model memory, no thread pool. Each measure is tried and reported, none is
//! required: on a developer's machine most are not permitted and the gate decides just the same.
//!
//! | measure | against | needs |
//! |---|---|---|
//! | pages locked as they are touched | a model that swaps the machine | CAP_IPC_LOCK or an unlimited `RLIMIT_MEMLOCK` |
//! | `oom_score_adj` −1000 | being chosen when memory ends | CAP_SYS_RESOURCE |
//! | SCHED_FIFO, if asked for | inference threads that spin on every core | CAP_SYS_NICE or `RLIMIT_RTPRIO` |
//! | SIGTERM when the parent dies | an orphan that advises on behalf of nobody | nothing |
//! | watchdog | itself | nothing |
//!
//! The parent's death is SIGTERM and not SIGKILL so that a velocity limit is cleared first; the watchdog bounds how long that may take.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, getppid};
use ractor::{Actor, SpawnErr};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::node::{GateNode, GateTopics};
use super::policy::Policy;
use super::watchdog::{Pulse, STALL_LIMIT, watch};
use crate::{
    bus::{Bus, BusError, BusOptions},
    health::Health,
};

/// Where the kernel reads how willingly it kills this process.
const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";
/// Never.
const OOM_SCORE_NEVER: &str = "-1000";
/// Longest wait for the session's last messages at the end.
const CLOSE_LIMIT: Duration = Duration::from_millis(300);
/// How often the gate looks whether its parent still is its parent.
const PARENT_PERIOD: Duration = Duration::from_millis(200);
/// Threads of the runtime: one for the gate, one for whatever the session does meanwhile.
const WORKER_THREADS: usize = 2;

/// What to do to the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hardening {
    /// Lock pages in memory as they are touched.
    pub lock_memory: bool,
    /// Ask the kernel never to choose this process when memory ends.
    pub oom_score: bool,
    /// SCHED_FIFO at this priority, 1..=99, for this thread and those it starts.
    pub realtime_priority: Option<u8>,
    /// End when this process dies; must be the parent.
    pub parent: Option<u32>,
}

/// What became of one measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Its name.
    pub name: &'static str,
    /// `Ok`, or why not.
    pub outcome: Result<(), String>,
}

/// How to run the gate.
#[derive(Clone, Debug)]
pub struct GateOptions {
    /// Its name in the diagnostics, usually `gate`.
    pub name: String,
    /// The session.
    pub bus: BusOptions,
    /// Topics.
    pub topics: GateTopics,
    /// What may pass.
    pub policy: Policy,
    /// What to do to the process.
    pub hardening: Hardening,
}

/// Why the gate ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The session.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A topic could not be opened.
    #[error("the gate could not start: {0}")]
    Start(#[from] SpawnErr),
    /// The gate ended by itself.
    #[error("the gate ended without being asked to")]
    Ended,
    /// Threads, signals or the runtime.
    #[error("the operating system refused {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// The parent was gone before the gate could watch it.
    #[error("expected parent process {expected}, found {found}: it died while the gate started")]
    Orphaned {
        /// Who started the gate.
        expected: u32,
        /// Who is its parent now.
        found: u32,
    },
}

/// Applies the measures to this process. Call it before other threads start: they inherit the scheduling policy.
#[must_use]
pub fn harden(hardening: &Hardening) -> Vec<Measure> {
    let mut measures = Vec::new();
    let mut tried = |name, outcome| measures.push(Measure { name, outcome });
    if hardening.parent.is_some() {
        tried(
            "parent-death signal",
            set_pdeathsig(Signal::SIGTERM).map_err(|errno| errno.to_string()),
        );
    }
    if hardening.lock_memory {
        tried(
            "memory lock",
            lock_memory().map_err(|errno| errno.to_string()),
        );
    }
    if hardening.oom_score {
        tried(
            "oom score -1000",
            std::fs::write(OOM_SCORE_FILE, OOM_SCORE_NEVER).map_err(|error| error.to_string()),
        );
    }
    if let Some(priority) = hardening.realtime_priority {
        tried("SCHED_FIFO", realtime(priority));
    }
    measures
}

/// Locks what is touched, now and later. Without the privilege a limit would turn later allocations into failures, so then only a
/// process that may lock everything is locked.
fn lock_memory() -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let unlimited = soft == RLIM_INFINITY
        || (hard == RLIM_INFINITY && setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).is_ok());
    if !unlimited && !Uid::effective().is_root() {
        return Err(Errno::EPERM);
    }
    // On fault: stacks and arenas that are reserved but never used stay out of memory.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
}

fn realtime(priority: u8) -> Result<(), String> {
    let value = priority
        .try_into()
        .map_err(|error| format!("priority {priority}: {error}"))?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Crossplatform(value),
        policy,
    )
    .map_err(|error| format!("{error:?}"))
}

/// Runs the gate in this process until it is told to end: hardens first, so that the runtime's threads inherit, then runs [`run`]'s part.
///
/// # Errors
/// [`GateError`].
pub fn run_process(options: GateOptions) -> Result<(), GateError> {
    let measures = harden(&options.hardening);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("gate")
        .enable_all()
        .build()
        .map_err(|source| GateError::System {
            what: "a runtime",
            source,
        })?;
    runtime.block_on(run_hardened(options, &measures))
}

/// Runs the gate on the present runtime until SIGTERM, SIGINT or the parent's death; then clears what it said to Autoware.
/// Threads that run already keep their scheduling policy: prefer [`run_process`].
///
/// # Errors
/// [`GateError`].
pub async fn run(options: GateOptions) -> Result<(), GateError> {
    let measures = harden(&options.hardening);
    run_hardened(options, &measures).await
}

async fn run_hardened(options: GateOptions, measures: &[Measure]) -> Result<(), GateError> {
    check_parent(options.hardening.parent)?;
    let system = |what| move |source| GateError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("SIGINT"))?;
    let pulse = Arc::new(Pulse::default());
    watch(&pulse, STALL_LIMIT, |silent| {
        error!(?silent, limit = ?STALL_LIMIT, "the gate stopped deciding: ended so that another can start");
        std::process::abort();
    })
    .map_err(system("a watchdog thread"))?;

    let bus = Bus::open(&options.bus).await?;
    let health = Health::default();
    let record = health.node(&options.name);
    for measure in measures {
        match &measure.outcome {
            Ok(()) => info!(measure = measure.name, "done"),
            Err(reason) => warn!(
                measure = measure.name,
                reason, "not permitted; the gate runs without it"
            ),
        }
        record.value(
            measure.name,
            measure.outcome.as_ref().map_or_else(
                |reason| format!("not permitted: {reason}"),
                |()| "done".to_owned(),
            ),
        );
    }
    let node = GateNode {
        bus: bus.clone(),
        health: record,
        policy: Arc::new(options.policy),
        topics: options.topics,
        pulse: Arc::clone(&pulse),
    };
    let (gate, mut ended) = Actor::spawn(None, node, ()).await?;
    let diagnostics = tokio::spawn(health.publish(bus.clone()));
    let orderly = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = orphaned(options.hardening.parent) => true,
        _ = &mut ended => false,
    };
    pulse.end();
    diagnostics.abort();
    if orderly {
        info!("the gate was told to end");
        gate.stop(None);
        // The watchdog bounds this wait.
        let _ = ended.await;
    }
    bus.close(CLOSE_LIMIT).await;
    if orderly {
        Ok(())
    } else {
        Err(GateError::Ended)
    }
}

fn check_parent(expected: Option<u32>) -> Result<(), GateError> {
    let found = parent();
    match expected {
        Some(expected) if expected != found => Err(GateError::Orphaned { expected, found }),
        Some(_) | None => Ok(()),
    }
}

/// Resolves when the parent is another one than at the start. The signal alone is not enough: it follows the thread that started the
/// gate, and is lost if that died before the gate asked for it.
async fn orphaned(expected: Option<u32>) {
    let Some(expected) = expected else {
        return std::future::pending().await;
    };
    let mut looks = tokio::time::interval(PARENT_PERIOD);
    while parent() == expected {
        looks.tick().await;
    }
}

fn parent() -> u32 {
    u32::try_from(getppid().as_raw()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_asked_for_is_reported() {
        let all = Hardening {
            lock_memory: false,
            oom_score: true,
            realtime_priority: Some(200),
            parent: None,
        };
        let measures = harden(&all);
        let names: Vec<&str> = measures.iter().map(|measure| measure.name).collect();
        assert_eq!(names, ["oom score -1000", "SCHED_FIFO"]);
        assert!(
            measures[1].outcome.is_err(),
            "no such priority: {measures:?}"
        );
        assert!(
            harden(&Hardening::default()).is_empty(),
            "nothing is done that was not asked for"
        );
    }

    #[test]
    fn a_gate_whose_parent_is_gone_does_not_start() {
        assert!(check_parent(None).is_ok());
        assert!(check_parent(Some(parent())).is_ok());
        let error = check_parent(Some(u32::MAX))
            .expect_err("that is nobody's parent")
            .to_string();
        assert!(error.contains(&format!("found {}", parent())), "{error}");
    }
}
