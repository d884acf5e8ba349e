//! What hz, bw and delay have in common: one topic, a meter that sees every arrival, a report every second, a summary at the end.
//!
//! Arrivals are counted on Zenoh's receiving thread, so that none is missed and its time is its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use llmasos_nodes::bus::Arrival;
use serde_json::{Value, json};

use super::{
    super::{
        connect::{Connect, Reached, close, stopped},
        network::Network,
        output::line,
        usage::wrong,
    },
    listen::{Patience, listen, pause, seconds, silence, word_while_waiting},
    name::Name,
    series::WINDOW_MAX,
};

/// How often is reported.
const PERIOD: Duration = Duration::from_secs(1);

/// What the three verbs take.
#[derive(Debug, clap::Args)]
pub(super) struct MeasureArgs {
    /// The topic: a ROS name, or a Zenoh key with wildcards
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// End after so long
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    #[command(flatten)]
    patience: Patience,
    /// Print one JSON object a line, and a summary as the last
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Something that measures arrivals.
pub(super) trait Meter: Send + 'static {
    /// Takes one.
    fn see(&mut self, arrival: &Arrival, now: Instant);
    /// What the window holds, for the eye and as JSON; `None` while it cannot be said.
    fn report(&self) -> Option<(String, Value)>;
    /// A fault that makes going on useless.
    fn fault(&self) -> Option<String> {
        None
    }
}

/// How a measurement ended.
pub(super) struct Measured<M> {
    /// The meter with what it saw.
    pub(super) meter: M,
    /// Full name of the topic.
    pub(super) topic: String,
    /// Arrivals.
    pub(super) count: u64,
    /// When listening ended.
    pub(super) ended: Instant,
    /// From the first arrival, or the start, to the end.
    pub(super) duration: Duration,
}

struct Shared<M> {
    /// Taken out at the end.
    meter: Option<M>,
    count: u64,
    first: Option<Instant>,
}

/// Checks the window of a verb.
///
/// # Errors
/// Wrong usage outside of its range.
pub(super) fn window(given: usize) -> Result<usize> {
    if (2..=WINDOW_MAX).contains(&given) {
        return Ok(given);
    }
    Err(wrong(format!(
        "--window: expected 2 to {WINDOW_MAX} messages, found {given}"
    )))
}

/// Measures until told to end. `usual` is the duration where none is given; `make` builds the meter once the network is known.
///
/// # Errors
/// When nothing comes in time, or the meter sees a fault. With `silent_is_fine` nothing at all is a result too.
pub(super) async fn measure<M: Meter>(
    args: &MeasureArgs,
    usual: Option<Duration>,
    silent_is_fine: bool,
    make: impl FnOnce(&Network, &Name) -> Result<M>,
) -> Result<Measured<M>> {
    let duration = args
        .duration
        .map(|given| seconds("--duration", given))
        .transpose()?
        .or(usual);
    args.patience.limit(true)?;
    let reached = args.connect.open().await?;
    let name = Name::of(&args.topic, reached.bus.namespace(), reached.domain)?;
    let network = Network::look(&reached).await?;
    let shared = Arc::new(Mutex::new(Shared {
        meter: Some(make(&network, &name)?),
        count: 0,
        first: None,
    }));
    let into = Arc::clone(&shared);
    let on = move |arrival: Arrival| {
        let now = Instant::now();
        let mut shared = lock(&into);
        shared.count += 1;
        shared.first.get_or_insert(now);
        if let Some(meter) = &mut shared.meter {
            meter.see(&arrival, now);
        }
    };
    let began = Instant::now();
    let subscriptions = listen(&reached.bus, &name, None, on).await?;
    let known = network.knows(&name.shown) || !name.is_single();
    let limit = args.patience.limit(known)?.filter(|_| !silent_is_fine);
    let outcome = follow(args, &shared, &name, &reached, known, duration, limit).await;
    let ended = Instant::now();
    drop(subscriptions);
    close(reached.bus).await;
    outcome?;
    let mut shared = lock(&shared);
    let Some(meter) = shared.meter.take() else {
        return Err(anyhow!("{}: measured twice", name.shown));
    };
    Ok(Measured {
        meter,
        topic: name.shown,
        count: shared.count,
        ended,
        duration: ended.duration_since(shared.first.unwrap_or(began)),
    })
}

async fn follow<M: Meter>(
    args: &MeasureArgs,
    shared: &Mutex<Shared<M>>,
    name: &Name,
    reached: &Reached,
    known: bool,
    duration: Option<Duration>,
    limit: Option<Duration>,
) -> Result<()> {
    let (stop, end, silent) = (stopped(), pause(duration), pause(limit));
    let word = word_while_waiting(limit);
    tokio::pin!(stop, end, silent, word);
    let mut is_said = false;
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
    let mut told = 0;
    loop {
        tokio::select! {
            ended = &mut stop => return ended,
            () = &mut end => return Ok(()),
            () = &mut silent, if lock(shared).count == 0 => {
                return Err(silence(name, known, limit.unwrap_or_default(), reached));
            }
            () = &mut word, if !is_said => {
                is_said = true;
                if lock(shared).count == 0 {
                    eprintln!("note: no message on {} yet; Ctrl-C ends", name.shown);
                }
            }
            _ = tick.tick() => {
                let (count, report, fault) = {
                    let shared = lock(shared);
                    let meter = shared.meter.as_ref();
                    (shared.count, meter.and_then(Meter::report), meter.and_then(Meter::fault))
                };
                if let Some(fault) = fault {
                    return Err(anyhow!("{}: {fault}", name.shown));
                }
                let report = report.filter(|_| count > told);
                match report {
                    Some((_, mut value)) if args.json => {
                        value["topic"] = json!(name.shown);
                        line(&value.to_string())?;
                    }
                    Some((text, _)) => line(&text)?,
                    None if args.json || told == 0 => {}
                    None => line("no new messages")?,
                }
                told = count;
            }
        }
    }
}

/// Prints the end: the last report with the totals, and `extra` facts.
///
/// # Errors
/// When nothing can be printed.
pub(super) fn summarize<M: Meter>(json: bool, measured: &Measured<M>, extra: Value) -> Result<()> {
    let seconds = measured.duration.as_secs_f64();
    let report = measured.meter.report();
    if json {
        let mut summary = report.map_or_else(|| json!({}), |(_, value)| value);
        summary["topic"] = json!(measured.topic);
        summary["count"] = json!(measured.count);
        summary["seconds"] = json!(super::series::rounded(seconds, 3));
        if let (Some(summary), Value::Object(extra)) = (summary.as_object_mut(), extra) {
            summary.extend(extra);
        }
        return line(&json!({ "summary": summary }).to_string());
    }
    eprintln!("{} messages in {seconds:.1} s", measured.count);
    Ok(())
}

fn lock<M>(shared: &Mutex<Shared<M>>) -> MutexGuard<'_, Shared<M>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
