//! `llmasos launch`: runs a descriptor, plays its sources, shows what happens, and says at the end how it went.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use llmasos_nodes::contract::{Accept, QueuePolicy, TopicContract, TopicQos};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

use super::check::{DescriptorArgs, EXIT_USAGE, catalogue_facts, environment, usage};
use crate::{
    descriptor::{
        self,
        check::Facts,
        graph::{Fetch, Graph},
    },
    models::Cancel,
    observe::{
        beats::Beats,
        faults,
        memory::peak_resident_bytes,
        pace::Pace,
        play,
        report::Report,
        view::{Board, Screen},
        watch::{Seen, watch},
    },
    run::{
        environment::RosEnvironment,
        models::{Folders, ensure, needed},
        system::{Fork, System},
    },
};

/// Exit code when an expectation was missed.
const EXIT_MISSED: u8 = 3;
/// How often the view is drawn and expectations are settled.
const FRAME_PERIOD: Duration = Duration::from_millis(100);

/// Arguments of `llmasos launch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos launch launch/demo.yaml
  llmasos launch launch/demo.yaml vehicle:=ego2 --json | jq .topic

Ctrl-C ends it in order. Exit code 0, or 3 when an expectation of the descriptor was missed, 2 when the descriptor is wrong, 1 on any other failure.")]
pub struct Args {
    #[command(flatten)]
    descriptor: DescriptorArgs,
    /// Print each message seen as one JSON object a line, one that says when everything is ready, and a summary at the end
    #[arg(long)]
    json: bool,
    /// Print lines instead of the live view, even on a terminal
    #[arg(long)]
    plain: bool,
    /// End after this many seconds, whatever the descriptor says
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
}

/// Runs the verb.
///
/// # Errors
/// When models cannot be had, the bus cannot be opened or a node does not become ready.
pub fn run(args: &Args) -> Result<ExitCode> {
    let overrides = match args.descriptor.overrides() {
        Ok(overrides) => overrides,
        Err(message) => return usage(&message),
    };
    let facts = Facts {
        catalogue: Some(catalogue_facts(&[])?),
        tokens_per_s: descriptor::check::DEFAULT_TOKENS_PER_S,
        exists: &|path| path.exists(),
    };
    let graph = match descriptor::load(&args.descriptor.file, &overrides, &environment, &facts) {
        Ok(loaded) => {
            for finding in loaded
                .findings
                .iter()
                .filter(|finding| finding.severity != descriptor::findings::Severity::Note)
            {
                eprintln!("{}", finding.line(&loaded.graph.files));
            }
            loaded.graph
        }
        Err(rejected) => {
            for line in rejected.findings.lines(&rejected.files) {
                eprintln!("{line}");
            }
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let variables = match RosEnvironment::read(environment) {
        Ok(variables) => variables,
        Err(error) => return usage(&error.to_string()),
    };
    for line in variables.lines(graph.ros2.map(|ros2| ros2.domain)) {
        eprintln!("{line}");
    }
    let folders = fetch(needed(&graph, true))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let code = runtime.block_on(operate(args, &graph, &folders, &variables))?;
    // Blocking threads of models may still be inside a run: they are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(500));
    Ok(code)
}

/// Gets models and data, with Ctrl-C leaving a part that the next start continues.
pub(crate) fn fetch(names: BTreeMap<String, Fetch>) -> Result<Folders> {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    waiting.block_on(async {
        let work = tokio::task::spawn_blocking(move || ensure(&names, &cancel));
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done.context("fetching models")?,
                pressed = tokio::signal::ctrl_c() => {
                    pressed?;
                    flag.raise();
                }
            }
        }
    })
}

async fn operate(
    args: &Args,
    graph: &Graph,
    folders: &Folders,
    variables: &RosEnvironment,
) -> Result<ExitCode> {
    let begun = Instant::now();
    let reels = play::load(graph, folders)?;
    let fork = Fork {
        executable: std::env::current_exe().context("finding this executable")?,
        descriptor: args.descriptor.words(),
    };
    let system = Arc::new(System::start(graph, folders, &fork, None, variables).await?);
    let mut topics = graph.topics.clone();
    topics.push(diagnostics());
    let (mut messages, subscriptions) = watch(&system.bus, &topics).await?;
    let mut show = Show::open(args, graph, &system)?;
    let mut stop = Stop::new()?;
    let ready = tokio::select! {
        ready = until_ready(&system, startup(graph), &mut messages, &mut show) => ready.map(|()| true),
        () = stop.asked() => Ok(false),
    };
    let (ready_after, start) = (begun.elapsed(), Instant::now());
    let mut record = Record {
        beats: Beats::new(&graph.expect, start),
        report: Report::default(),
    };
    let outcome = match ready {
        Ok(true) => {
            show.ready(ready_after)?;
            let mut playing = sources(graph, reels, &system, start);
            let critical = graph.nodes.iter().filter(|node| node.critical);
            let critical: Vec<String> = critical.map(|node| node.name.clone()).collect();
            let ends = Ends {
                stop: &mut stop,
                length: args.duration.map(Duration::from_secs).or(graph.duration),
                lost: &|| system.lost(&critical),
            };
            let ended = follow(&mut messages, &mut show, &mut record, ends, start).await;
            playing.shutdown().await;
            ended
        }
        other => other,
    };
    drop(subscriptions);
    let Record {
        mut beats,
        mut report,
    } = record;
    report.resident_bytes = peak_resident_bytes();
    let ran = start.elapsed();
    let health = system.health.clone();
    // Tasks that held the system are gone: this is the last handle, unless a fault is being injected this very moment.
    match Arc::try_unwrap(system) {
        Ok(system) => system.stop().await,
        Err(_) => tracing::warn!("something still holds the system; it ends with the process"),
    }
    let complete = outcome?;
    for settled in beats.settle(complete) {
        report.settle(settled);
    }
    show.end(&report, &health, ran, ready_after)?;
    Ok(if beats.missed() {
        ExitCode::from(EXIT_MISSED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Starts everything that is played and everything that goes wrong on purpose.
fn sources(
    graph: &Graph,
    reels: Vec<play::Reel>,
    system: &Arc<System>,
    start: Instant,
) -> JoinSet<()> {
    let pace = Pace::from(tokio::time::Instant::from_std(start), system.bus.clock());
    let mut playing = JoinSet::new();
    for reel in reels {
        let (bus, pace) = (system.bus.clone(), pace.clone());
        playing.spawn(async move {
            if let Err(error) = reel.play(&bus, pace).await {
                tracing::error!(%error, "a source cannot be played any more");
            }
        });
    }
    for fault in faults::of(graph) {
        playing.spawn(faults::inject(fault, Arc::clone(system), pace.clone()));
    }
    playing
}

/// The longest time that the descriptor gives anything to become ready.
fn startup(graph: &Graph) -> Duration {
    let supervise = &graph.supervise;
    let own = supervise.by_name.values().map(|spec| spec.startup).max();
    own.map_or(supervise.default.startup, |own| {
        own.max(supervise.default.startup)
    })
}

async fn until_ready(
    system: &System,
    limit: Duration,
    messages: &mut mpsc::Receiver<Seen>,
    show: &mut Show,
) -> Result<()> {
    let ready = system.ready(limit);
    tokio::pin!(ready);
    let mut frame = tokio::time::interval(FRAME_PERIOD);
    loop {
        tokio::select! {
            outcome = &mut ready => return outcome,
            Some(seen) = messages.recv() => show.see(&seen)?,
            _ = frame.tick() => show.draw(Duration::ZERO, None)?,
        }
    }
}

/// What is kept of a run while it goes on.
struct Record {
    beats: Beats,
    report: Report,
}

/// When a run ends.
struct Ends<'a> {
    stop: &'a mut Stop,
    length: Option<Duration>,
    /// Says so when a critical node was given up.
    lost: &'a dyn Fn() -> Option<String>,
}

/// Follows the run to its end. `false` when it was ended from outside.
async fn follow(
    messages: &mut mpsc::Receiver<Seen>,
    show: &mut Show,
    record: &mut Record,
    ends: Ends<'_>,
    start: Instant,
) -> Result<bool> {
    let mut frame = tokio::time::interval(FRAME_PERIOD);
    loop {
        tokio::select! {
            Some(seen) = messages.recv() => {
                record.beats.see(&seen);
                record.report.see(&seen);
                show.see(&seen)?;
            }
            _ = frame.tick() => {
                for settled in record.beats.settle(false) {
                    show.settle(&settled)?;
                    record.report.settle(settled);
                }
                show.draw(start.elapsed(), ends.length)?;
                if let Some(reason) = (ends.lost)() {
                    bail!(reason);
                }
                if show.wants_to_end()? {
                    return Ok(false);
                }
                if ends.length.is_some_and(|length| start.elapsed() >= length) {
                    return Ok(true);
                }
            }
            () = ends.stop.asked() => return Ok(false),
        }
    }
}

fn diagnostics() -> TopicContract {
    TopicContract {
        topic: llmasos_nodes::health::DIAGNOSTICS_TOPIC.to_owned(),
        type_name: "diagnostic_msgs/msg/DiagnosticArray".to_owned(),
        rate_hz: Some(1.0),
        event: false,
        max_age: None,
        lifespan: None,
        accept: vec![Accept::Cdr],
        queue: QueuePolicy::Latest,
        qos: TopicQos::default(),
    }
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Stop> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How the run is shown.
struct Show {
    board: Board,
    screen: Option<Screen>,
    json: bool,
    hint: String,
    begun: Instant,
}

impl Show {
    fn open(args: &Args, graph: &Graph, system: &System) -> Result<Show> {
        let on_terminal = std::io::stdout().is_terminal() && !args.json && !args.plain;
        let hint = hint(graph, system);
        let screen = if on_terminal {
            Some(Screen::open()?)
        } else {
            None
        };
        Ok(Show {
            board: Board::new(hint.clone()),
            screen,
            json: args.json,
            hint,
            begun: Instant::now(),
        })
    }

    /// Everything is ready: programs that read the lines may begin.
    fn ready(&self, after: Duration) -> Result<()> {
        match self.json {
            true => line(
                &serde_json::json!({ "ready": { "after_ms": after.as_millis() as u64 } })
                    .to_string(),
            ),
            false => Ok(()),
        }
    }

    fn see(&mut self, seen: &Seen) -> Result<()> {
        if self.json {
            return line(&seen.json().to_string());
        }
        let news = self.board.see(seen);
        match (news, &self.screen) {
            (Some(text), None) => line(&format!(
                "{:>6.1} s  {text}",
                self.begun.elapsed().as_secs_f64()
            )),
            _ => Ok(()),
        }
    }

    fn settle(&mut self, settled: &crate::observe::beats::Settled) -> Result<()> {
        if self.screen.is_none() && !self.json {
            let mark = if settled.passed { "passed" } else { "MISSED" };
            line(&format!(
                "{:>6.1} s  {mark:<8} {}",
                self.begun.elapsed().as_secs_f64(),
                settled.name
            ))?;
        }
        self.board.settle(settled.clone());
        Ok(())
    }

    fn draw(&mut self, elapsed: Duration, length: Option<Duration>) -> Result<()> {
        if let Some(screen) = &mut self.screen {
            screen.draw(&self.board, elapsed, length)?;
        }
        Ok(())
    }

    fn wants_to_end(&self) -> Result<bool> {
        Ok(match &self.screen {
            Some(screen) => screen.wants_to_end()?,
            None => false,
        })
    }

    fn end(
        mut self,
        report: &Report,
        health: &llmasos_nodes::health::Health,
        ran: Duration,
        ready_after: Duration,
    ) -> Result<()> {
        self.screen = None;
        if self.json {
            return line(&report.json(health, ran, ready_after).to_string());
        }
        for text in report.lines(health, ran, ready_after) {
            line(&text)?;
        }
        line(&self.hint)
    }
}

/// One command for a person to try while it runs.
fn hint(graph: &Graph, system: &System) -> String {
    let text = graph.nodes.iter().find_map(|node| node.inputs.get("text"));
    match (text, system.bus.listening().first()) {
        (Some(input), Some(address)) => {
            format!(
                "try while it runs: zenoh --mode client --connect {address} put -k {} -v \"pull over\"",
                system.bus.key(&input.topic)
            )
        }
        (Some(input), None) => format!(
            "try while it runs: zenoh put -k {} -v \"pull over\"",
            system.bus.key(&input.topic)
        ),
        (None, _) => String::new(),
    }
}

fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").context("printing")
}
