//! `llmasos topic echo`: the messages of a topic as they arrive.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Result;
use llmasos_nodes::{bus::Arrival, clock};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    super::{
        connect::{Connect, close, stopped},
        network::Network,
        output::line,
        qos::QosFlags,
        usage::wrong,
    },
    BACKLOG,
    listen::{Patience, history, listen, pause, seconds, silence, word_while_waiting},
    name::{Keyed, Name},
    payload::{Content, content, hex, stamp_ns},
    typing::{Told, Types, TypesFrom},
    view::{self, LENGTH_USUAL, Style},
};
use crate::observe::watch::Seen;

/// Doubts about types that are told; every one is told once.
const DOUBTS_MAX: usize = 32;

/// Arguments of `llmasos topic echo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic echo /ego/llmasos/gate/verdict --field verdict_name
  llmasos topic echo /odometry nav_msgs/Odometry --once
  llmasos topic echo /camera/image --no-arr
  llmasos topic echo 'ego/**' --launch launch/demo.yaml --json

Wildcards of Zenoh are allowed. JSON and text are shown as they are; what cannot be decoded is shown as bytes, and the listening goes on;
with --once the exit code is then 1. A topic whose publishers keep samples for late subscribers is asked for them. Ctrl-C ends it.")]
pub(super) struct Args {
    /// The topic: a ROS name, or a Zenoh key with wildcards
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Its type, as with --type
    #[arg(value_name = "TYPE", conflicts_with = "type_name")]
    positional: Option<String>,
    /// End after the first message
    #[arg(long)]
    once: bool,
    /// Show one field, such as twist.twist.linear.x or objects[0].label
    #[arg(long, value_name = "A.B")]
    field: Option<String>,
    /// Print values between commas
    #[arg(long, conflicts_with_all = ["json", "raw", "flow_style"])]
    csv: bool,
    /// Print each message on one line
    #[arg(long)]
    flow_style: bool,
    /// Show texts and lists whole
    #[arg(short = 'f', long)]
    full_length: bool,
    /// Show so many characters of a text and items of a list
    #[arg(short = 'l', long, value_name = "N", default_value_t = LENGTH_USUAL)]
    truncate_length: usize,
    /// Tell lists by type and size
    #[arg(long)]
    no_arr: bool,
    /// Tell texts by size
    #[arg(long)]
    no_str: bool,
    /// Print the bytes, undecoded
    #[arg(long, conflicts_with_all = ["field", "json"])]
    raw: bool,
    /// Print sender, number and times of each message before it
    #[arg(long)]
    include_message_info: bool,
    /// End after so long
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    #[command(flatten)]
    patience: Patience,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    types: TypesFrom,
    #[command(flatten)]
    qos: QosFlags,
    #[command(flatten)]
    connect: Connect,
}

/// How an echo ended, and what it saw.
#[derive(Debug, Default)]
struct Course {
    shown: u64,
    unreadable: u64,
    /// Doubts about types that were told.
    doubts: BTreeSet<String>,
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let mut types = args.types.load(args.positional.as_deref())?;
    let duration = args
        .duration
        .map(|given| seconds("--duration", given))
        .transpose()?;
    args.patience.limit(true)?;
    if args.truncate_length == 0 {
        return Err(wrong("--truncate-length: expected at least 1, found 0"));
    }
    let reached = args.connect.open().await?;
    let name = Name::of(&args.topic, reached.bus.namespace(), reached.domain)?;
    let network = Network::look(&reached).await?;
    types.learn(&network);
    let (sender, mut messages) = mpsc::channel::<Arrival>(BACKLOG);
    let missed = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&missed);
    let on = move |arrival| {
        if sender.try_send(arrival).is_err() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    let history = history(
        &network,
        &name,
        args.qos.over(Default::default()),
        args.qos.is_given(),
    );
    let subscriptions = listen(&reached.bus, &name, history, on).await?;
    let known = network.knows(&name.shown) || !name.is_single();
    let limit = args.patience.limit(known)?;
    let mut course = Course::default();
    let began = Instant::now();
    let outcome = {
        let (stop, end, silent) = (stopped(), pause(duration), pause(limit));
        let word = word_while_waiting(limit);
        tokio::pin!(stop, end, silent, word);
        let mut is_said = false;
        loop {
            tokio::select! {
                ended = &mut stop => break ended.map(|()| true),
                () = &mut end => break Ok(true),
                () = &mut silent, if course.shown + course.unreadable == 0 => {
                    break Err(silence(&name, known, limit.unwrap_or_default(), &reached));
                }
                () = &mut word, if !is_said => {
                    is_said = true;
                    if course.shown + course.unreadable == 0 {
                        eprintln!("note: no message on {} yet; Ctrl-C ends", name.shown);
                    }
                }
                Some(arrival) = messages.recv() => {
                    match show(args, &types, &arrival, &mut course) {
                        Ok(readable) if args.once => break Ok(readable),
                        Ok(_) => {}
                        Err(error) => break Err(error),
                    }
                }
            }
        }
    };
    drop(subscriptions);
    close(reached.bus).await;
    match missed.load(Ordering::Relaxed) {
        0 => {}
        missed => eprintln!("note: {missed} messages came faster than they could be printed"),
    }
    let is_good = outcome?;
    if !args.once {
        summary(&course, began);
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn summary(course: &Course, began: Instant) {
    let unreadable = match course.unreadable {
        0 => String::new(),
        count => format!(", {count} of them unreadable"),
    };
    let (all, seconds) = (
        course.shown + course.unreadable,
        began.elapsed().as_secs_f64(),
    );
    eprintln!("{all} messages in {seconds:.1} s{unreadable}");
}

/// Prints a message, or its bytes and what is wrong with it; `false` then.
fn show(args: &Args, types: &Types, arrival: &Arrival, course: &mut Course) -> Result<bool> {
    let told = types.of(&arrival.key, &arrival.encoding);
    if let Some(doubt) = told.as_ref().and_then(|told| told.doubt.as_ref()) {
        doubted(&Keyed::of(&arrival.key).shown, doubt, course);
    }
    if args.include_message_info && !args.json {
        line(&information(arrival))?;
    }
    if args.raw {
        course.shown += 1;
        line(&format!("{}\n---", view::yaml(&json!(hex_whole(arrival)))))?;
        return Ok(true);
    }
    match content(&types.registry, told.as_ref(), arrival) {
        Content::Value(data) => {
            course.shown += 1;
            let shown = match &args.field {
                Some(path) => view::field(&data, path)?,
                None => &data,
            };
            if args.json {
                line(&seen(args, told.as_ref(), arrival, &data, shown.clone(), None).to_string())?;
            } else {
                line(&text(args, types, told.as_ref(), shown))?;
            }
            Ok(true)
        }
        Content::Unreadable(problem) => {
            course.unreadable += 1;
            unreadable(args, told.as_ref(), arrival, problem, course)?;
            Ok(false)
        }
    }
}

/// Says once what is suspicious about a type.
fn doubted(shown: &str, doubt: &str, course: &mut Course) {
    let said = format!("{shown}: {doubt}");
    if course.doubts.len() < DOUBTS_MAX && course.doubts.insert(said.clone()) {
        eprintln!("note: {said}");
    }
}

fn unreadable(
    args: &Args,
    told: Option<&Told>,
    arrival: &Arrival,
    problem: String,
    course: &mut Course,
) -> Result<()> {
    let bytes = arrival.payload.to_bytes();
    if args.json {
        let data = json!({ "bytes": bytes.len(), "hex": hex(&bytes) });
        return line(&seen(args, told, arrival, &Value::Null, data, Some(problem)).to_string());
    }
    let is_told = told.is_some_and(|told| told.doubt.as_ref() == Some(&problem));
    if !is_told {
        doubted(&Keyed::of(&arrival.key).shown, &problem, course);
    }
    line(&format!("# {} bytes\n{}\n---", bytes.len(), hex(&bytes)))
}

fn hex_whole(arrival: &Arrival) -> String {
    arrival
        .payload
        .to_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A message in the form that was asked for.
fn text(args: &Args, types: &Types, told: Option<&Told>, shown: &Value) -> String {
    let style = Style {
        length: (!args.full_length).then_some(args.truncate_length),
        without_arrays: args.no_arr,
        without_strings: args.no_str,
    };
    let found = told
        .and_then(|told| told.id.as_deref())
        .and_then(|id| types.registry.find(id));
    let whole = args.field.is_none();
    let cut = view::cut(&types.registry, found.filter(|_| whole), shown, style);
    if args.csv {
        view::csv(&cut)
    } else if args.flow_style {
        format!("{}\n---", view::flow(&cut))
    } else if whole {
        format!("{}\n---", view::yaml(&cut))
    } else {
        view::yaml(&cut)
    }
}

/// What is known about a message besides its content.
fn information(arrival: &Arrival) -> String {
    let received = clock::wall_ns(arrival.received);
    let mut lines = vec![
        format!("# key: {}", arrival.key),
        format!("# received_timestamp: {received}"),
    ];
    if let Some(Ok(attachment)) = &arrival.attachment {
        lines.push(format!("# source_timestamp: {}", attachment.stamp_ns));
        lines.push(format!(
            "# publication_sequence_number: {}",
            attachment.sequence
        ));
        lines.push(format!(
            "# publisher_gid: {}",
            gid(arrival).unwrap_or_default()
        ));
    } else if let Some(sent) = arrival.sent {
        lines.push(format!("# source_timestamp: {}", clock::wall_ns(sent)));
    }
    lines.join("\n")
}

fn gid(arrival: &Arrival) -> Option<String> {
    let attachment = arrival.attachment.as_ref()?.as_ref().ok()?;
    Some(
        attachment
            .gid
            .0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    )
}

/// The line of `--json`: that of `launch --json`, with the key.
fn seen(
    args: &Args,
    told: Option<&Told>,
    arrival: &Arrival,
    data: &Value,
    shown: Value,
    problem: Option<String>,
) -> Value {
    let stamp_ns = stamp_ns(data);
    let mut value = Seen {
        topic: Keyed::of(&arrival.key).shown,
        type_name: told.map(|told| told.name.clone()).unwrap_or_default(),
        arrived: Instant::now(),
        stamp_ns,
        age: stamp_ns.and_then(|stamp_ns| clock::age(stamp_ns, clock::wall_ns(arrival.received))),
        latency: arrival
            .sent
            .and_then(|sent| arrival.received.duration_since(sent).ok()),
        data: shown,
        problem,
    }
    .json();
    value["key"] = json!(arrival.key);
    if args.include_message_info {
        let attachment = arrival
            .attachment
            .as_ref()
            .and_then(|attachment| attachment.as_ref().ok());
        value["message_info"] = json!({
            "received_timestamp": clock::wall_ns(arrival.received),
            "source_timestamp": attachment.map(|attachment| attachment.stamp_ns).or(arrival.sent.map(clock::wall_ns)),
            "publication_sequence_number": attachment.map(|attachment| attachment.sequence),
            "publisher_gid": gid(arrival),
        });
    }
    value
}
