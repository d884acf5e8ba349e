//! `llmasos topic pub`: a message onto a topic, once or at a rate.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, anyhow};
use llmasos_msgs::{registry::Type, rmw_zenoh::QosProfile};
use llmasos_nodes::clock;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{
        connect::{Connect, Reached, Stop, close},
        network::{Network, Role},
        output::line,
        qos::QosFlags,
        types::{MsgPath, named},
        usage::wrong,
    },
    listen::seconds,
    name::Name,
    outlet::{Outlet, Purpose, RouteFlag, meant},
    value,
};

/// How long to wait for somebody who listens, where nothing else is said.
const MATCH_LIMIT: Duration = Duration::from_secs(2);
/// The same, where a number of subscribers is asked for.
const MATCHES_LIMIT: f64 = 30.0;
/// How often to look for somebody who listens.
const MATCH_PERIOD: Duration = Duration::from_millis(10);
/// How often to count those who announce that they listen.
const COUNT_PERIOD: Duration = Duration::from_millis(200);
/// Highest rate, in Hz.
const RATE_HZ_MAX: f64 = 10_000.0;

/// Arguments of `llmasos topic pub`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic pub /ego/llmasos/speech/text std_msgs/String \"pull over\" --once
  llmasos topic pub /chatter std_msgs/String \"data: hello\" -r 2 -t 10
  llmasos topic pub /odometry nav_msgs/Odometry '{twist: {twist: {linear: {x: 8.0}}}}' --rate 20

The value is JSON or YAML; words for std_msgs/String. A header's stamp that is missing, `auto` or `now` is the time of each publication.
It goes to every route where somebody announces the topic, encoded by the type's definition. Without --once or --times it repeats until
Ctrl-C.")]
pub(super) struct Args {
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Its type
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// The message
    #[arg(value_name = "VALUE", default_value = "{}")]
    value: String,
    /// Messages a second
    #[arg(short, long, value_name = "HZ", default_value_t = 1.0)]
    rate: f64,
    /// Publish one message and end
    #[arg(short = '1', long, conflicts_with_all = ["rate", "times"])]
    once: bool,
    /// Publish so many messages and end
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    times: Option<u64>,
    /// Wait for so many subscriptions before the first message; 0 waits for none [default: one, for 2 s at most]
    #[arg(short, long, value_name = "N")]
    wait_matching_subscriptions: Option<usize>,
    /// Fail when they are not there after so long
    #[arg(long, value_name = "SECONDS", default_value_t = MATCHES_LIMIT)]
    max_wait_time_secs: f64,
    /// Stay so long after the last message
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1)]
    keep_alive: f64,
    /// Print every so many messages
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    print: u64,
    /// Name of the node that ROS sees [default: publisher_PACKAGE_NAME]
    #[arg(short, long, value_name = "NAME")]
    node_name: Option<String>,
    /// By which route
    #[arg(long, value_enum, value_name = "ROUTE", default_value_t = RouteFlag::Auto)]
    route: RouteFlag,
    /// Publish although the topic is announced with another type
    #[arg(long)]
    force: bool,
    /// Print one JSON object for each message
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    definitions: MsgPath,
    #[command(flatten)]
    qos: QosFlags,
    #[command(flatten)]
    connect: Connect,
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    if !(args.rate > 0.0 && args.rate <= RATE_HZ_MAX) {
        return Err(wrong(format!(
            "--rate: expected more than 0 and at most {RATE_HZ_MAX} Hz, found {}",
            args.rate
        )));
    }
    let wait = seconds("--max-wait-time-secs", args.max_wait_time_secs)?;
    let keep = match args.keep_alive {
        0.0 => Duration::ZERO,
        given => seconds("--keep-alive", given)?,
    };
    let registry = args.definitions.registry()?;
    let found = named(&registry, &args.type_name)?;
    // A mistake in the value shows before anything is opened.
    let written = value::read(found, &args.value)?;
    value::encode(&registry, found, &written, clock::now_ns())?;
    let reached = args.connect.open().await?;
    let outcome = async {
        let name = Name::of(&args.topic, reached.bus.namespace(), reached.domain)?;
        if !name.is_single() {
            return Err(wrong(format!(
                "expected one topic, found the pattern {}",
                name.shown
            )));
        }
        let network = Network::look(&reached).await?;
        agreed(args, &network, &name, found)?;
        let found = meant(&registry, &network, &name, found);
        let node = args.node_name.clone().unwrap_or_else(|| node_name(found));
        check_node(&node)?;
        let purpose = Purpose {
            name: &name,
            registry: &registry,
            found,
            qos: args.qos.over(QosProfile::default()),
            route: args.route,
            node: &node,
        };
        let mut outlet = Outlet::open(&reached, &network, &purpose).await?;
        let mut stop = Stop::listen()?;
        tokio::select! {
            () = stop.asked() => return Ok(0),
            there = listeners(args, &reached, &outlet, &name, wait) => there?,
        }
        let encode = || value::encode(&registry, found, &written, clock::now_ns());
        let count = publish(args, &mut outlet, &name, &found.name, encode, &mut stop).await?;
        tokio::time::sleep(keep).await;
        Ok(count)
    }
    .await;
    close(reached.bus).await;
    let count = outcome?;
    if args.times.is_none() && !args.once {
        eprintln!("{count} messages published");
    }
    Ok(ExitCode::SUCCESS)
}

/// A topic has one type: what is published under another nobody can read, and behind a bridge it does harm.
fn agreed(args: &Args, network: &Network, name: &Name, found: &Type) -> Result<()> {
    let types = network.types(&name.shown);
    if args.force || types.is_empty() || types.contains(&found.name) {
        return Ok(());
    }
    Err(wrong(format!(
        "{} is announced as {}, not as {}; --force publishes all the same",
        name.shown,
        types.join(" and "),
        found.name
    )))
}

fn node_name(found: &Type) -> String {
    format!(
        "publisher_{}_{}",
        found.definition.package, found.definition.name
    )
}

fn check_node(name: &str) -> Result<()> {
    llmasos_msgs::names::check_topic(name)
        .ok()
        .filter(|()| !name.contains('/'))
        .ok_or_else(|| {
            wrong(format!(
                "--node-name: expected letters, digits and underscores, found {name}"
            ))
        })
}

/// Sessions need a moment to tell each other who listens; a message before that would be lost.
async fn listeners(
    args: &Args,
    reached: &Reached,
    outlet: &Outlet,
    name: &Name,
    wait: Duration,
) -> Result<()> {
    let wanted = args.wait_matching_subscriptions;
    let limit = if wanted.is_some() { wait } else { MATCH_LIMIT };
    let deadline = Instant::now() + limit;
    let wanted = wanted.unwrap_or(1);
    loop {
        let found = match wanted {
            0 => return Ok(()),
            // One is whoever Zenoh knows to listen; more can only be counted where they announce themselves.
            1 => usize::from(outlet.has_listeners().await),
            _ => Network::look(reached)
                .await?
                .count(&name.shown, Role::Subscription),
        };
        if found >= wanted {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return match args.wait_matching_subscriptions {
                Some(_) => Err(anyhow!(
                    "expected {wanted} subscriptions of {} within {} s, found {found}",
                    name.shown,
                    limit.as_secs_f64()
                )),
                None => {
                    eprintln!("note: nobody listens on {}", outlet.keys().join(" or "));
                    Ok(())
                }
            };
        }
        tokio::time::sleep(if wanted > 1 {
            COUNT_PERIOD
        } else {
            MATCH_PERIOD
        })
        .await;
    }
}

/// Publishes until told to end, and says how often it did.
async fn publish(
    args: &Args,
    outlet: &mut Outlet,
    name: &Name,
    type_name: &str,
    encode: impl Fn() -> Result<Vec<u8>>,
    stop: &mut Stop,
) -> Result<u64> {
    let last = match (args.once, args.times) {
        (true, _) => 1,
        (false, times) => times.unwrap_or(u64::MAX),
    };
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    for count in 1..=last {
        tokio::select! {
            () = stop.asked() => return Ok(count - 1),
            _ = tick.tick() => {}
        }
        let bytes = encode()?;
        outlet.put(&bytes).await?;
        if count % args.print == 0 {
            say(args.json, outlet, name, type_name, count, bytes.len())?;
        }
    }
    Ok(last)
}

fn say(
    json: bool,
    outlet: &Outlet,
    name: &Name,
    type_name: &str,
    count: u64,
    length: usize,
) -> Result<()> {
    if json {
        let value: Value = json!({ "topic": name.shown, "type": type_name, "count": count, "bytes": length, "keys": outlet.keys() });
        return line(&value.to_string());
    }
    line(&format!(
        "published {count} on {}: {length} bytes",
        outlet.keys().join(" and ")
    ))
}
