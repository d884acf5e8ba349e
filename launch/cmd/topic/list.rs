//! `llmasos topic list` and `llmasos topic find`: the topics that somebody announces, or publishes while it listens.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use anyhow::Result;
use serde_json::json;

use super::{
    super::{
        connect::{Connect, close},
        network::{is_hidden, routes_text},
        output::{Column, line, table},
        types::named,
    },
    gather::{Topic, Topics, gather},
    listen::{SECONDS_MAX, seconds},
    typing::{MIRROR, TypeSources},
};

/// Arguments of `llmasos topic list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic list
  llmasos topic list -v --seconds 3
  llmasos topic list --seconds 0 -t

ROS nodes, bridges and launches announce their topics; a plain Zenoh program does not, so everything is listened to for a second.
Where that is too much traffic, --seconds 0 only asks.")]
pub(super) struct Args {
    #[command(flatten)]
    look: Look,
    /// Show types
    #[arg(short = 't', long)]
    show_types: bool,
    /// Show types, routes, publishers, subscriptions and what was heard
    #[arg(short, long)]
    verbose: bool,
    /// Print only how many there are
    #[arg(short = 'c', long)]
    count_topics: bool,
}

/// Arguments of `llmasos topic find`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos topic find sensor_msgs/Image")]
pub(super) struct FindArgs {
    /// The type
    #[arg(value_name = "TYPE")]
    wanted: String,
    #[command(flatten)]
    look: Look,
    /// Print only how many there are
    #[arg(short = 'c', long)]
    count_topics: bool,
}

/// How topics are looked for.
#[derive(Debug, clap::Args)]
struct Look {
    /// How long to listen for topics that nobody announces
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Show topics that ROS hides and JSON mirrors, too
    #[arg(short = 'a', long)]
    include_hidden_topics: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    types: TypeSources,
    #[command(flatten)]
    connect: Connect,
}

impl Look {
    async fn topics(&self) -> Result<Topics> {
        let listening = match self.seconds {
            0.0 => None,
            given => Some(seconds("--seconds", given)?),
        };
        let types = self.types.load()?;
        let reached = self.connect.open().await?;
        let topics = gather(&reached, types, listening).await;
        close(reached.bus).await;
        let mut topics = topics?;
        if !self.include_hidden_topics {
            // A mirror is published because it was listened to just now; only who announces one means it.
            let names: BTreeSet<String> = topics.by_name.keys().cloned().collect();
            let mirrors = |name: &str| {
                name.strip_suffix(MIRROR)
                    .is_some_and(|base| names.contains(base))
            };
            topics
                .by_name
                .retain(|name, topic| !is_hidden(name) && (topic.publishers > 0 || !mirrors(name)));
        }
        if topics.left_out > 0 {
            eprintln!(
                "note: {} messages of more topics than are told apart are left out",
                topics.left_out
            );
        }
        Ok(topics)
    }

    fn say_nothing_there(&self) {
        let waited = match self.seconds {
            0.0 => "; --seconds 3 also listens".to_owned(),
            seconds => format!(
                " and nothing was published within {:?}",
                Duration::from_secs_f64(seconds.min(SECONDS_MAX))
            ),
        };
        eprintln!("note: nobody announces a topic{waited}");
    }
}

/// Runs `list`.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let topics = args.look.topics().await?;
    if args.count_topics {
        line(&topics.by_name.len().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.look.json {
        for (name, topic) in &topics.by_name {
            line(&as_json(name, topic))?;
        }
    } else if topics.by_name.is_empty() {
        args.look.say_nothing_there();
    } else if args.verbose {
        for row in verbose(&topics) {
            line(&row)?;
        }
    } else {
        for (name, topic) in &topics.by_name {
            match args.show_types {
                true => line(&format!("{name} [{}]", topic.type_text()))?,
                false => line(name)?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `find`.
pub(super) async fn find(args: &FindArgs) -> Result<ExitCode> {
    let wanted = {
        let types = args.look.types.load()?;
        // A type that only others know can be found too, if it is written out.
        match named(&types.registry, &args.wanted) {
            Ok(found) => found.name.clone(),
            Err(_) if args.wanted.matches('/').count() == 2 => args.wanted.clone(),
            Err(error) => return Err(error),
        }
    };
    let mut topics = args.look.topics().await?;
    topics
        .by_name
        .retain(|_, topic| topic.types.contains(&wanted));
    if args.count_topics {
        line(&topics.by_name.len().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, topic) in &topics.by_name {
        match args.look.json {
            true => line(&as_json(name, topic))?,
            false => line(name)?,
        }
    }
    if topics.by_name.is_empty() {
        eprintln!("note: no topic of {wanted} was found");
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(name: &str, topic: &Topic) -> String {
    let routes: Vec<String> = topic.routes.iter().map(ToString::to_string).collect();
    json!({
        "topic": name, "type": topic.type_text(), "types": topic.types, "routes": routes, "publishers": topic.publishers,
        "subscriptions": topic.subscriptions, "count": topic.count, "rate_hz": topic.rate_hz(), "bytes": topic.bytes,
    })
    .to_string()
}

fn verbose(topics: &Topics) -> Vec<String> {
    let rows: Vec<[String; 8]> = topics
        .by_name
        .iter()
        .map(|(name, topic)| {
            let rate = topic
                .rate_hz()
                .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
            [
                name.clone(),
                topic.type_text(),
                routes_text(&topic.routes),
                topic.publishers.to_string(),
                topic.subscriptions.to_string(),
                topic.count.to_string(),
                rate,
                topic.bytes.to_string(),
            ]
        })
        .collect();
    let heading = [
        ("topic", Column::Left),
        ("type", Column::Left),
        ("route", Column::Left),
        ("pub", Column::Right),
        ("sub", Column::Right),
        ("heard", Column::Right),
        ("Hz", Column::Right),
        ("bytes", Column::Right),
    ];
    table(heading, &rows)
}
