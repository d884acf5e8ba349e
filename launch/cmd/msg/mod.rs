//! `llmasos msg`: message definitions, and messages between CDR and JSON. Needs no bus and no ROS 2.
//!
//! ```text
//! msg list            messages and services              msg decode TYPE < CDR   JSON
//! msg show TYPE       its definition, nested ones below    msg encode TYPE < JSON  CDR
//! msg hash TYPE       RIHS01, the version that rmw_zenoh compares
//! ```

mod convert;
mod show;

use std::process::ExitCode;

use anyhow::Result;
use llmasos_msgs::registry::{Registry, Type};
use serde_json::json;

use super::{
    output::{line, piped},
    types::{Interface, MsgPath, ids, interface},
    usage::settle,
};

/// Arguments of `llmasos msg`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos msg show nav_msgs/Odometry
  llmasos msg hash std_msgs/String
  echo '{\"data\":\"pull over\"}' | llmasos msg encode std_msgs/String | llmasos msg decode std_msgs/String
  llmasos msg list my_msgs --msg-path ~/ros2_ws/src

A type may be written std_msgs/String, std_msgs/msg/String or std_msgs::msg::dds_::String_.")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The messages and services that are known
    #[command(after_help = "Example: llmasos msg list geometry_msgs --json")]
    List(ListArgs),
    /// A definition, with those within it
    Show(show::Args),
    /// The type hash, RIHS01
    #[command(after_help = "Example: llmasos msg hash sensor_msgs/Image

It is the last part of an rmw_zenoh key; two nodes exchange a topic only when theirs are equal.")]
    Hash(HashArgs),
    /// CDR from standard input to JSON
    Decode(convert::DecodeArgs),
    /// JSON from standard input to CDR
    Encode(convert::EncodeArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only those of a package, or whose name contains this
    #[arg(value_name = "PART")]
    part: Option<String>,
    #[command(flatten)]
    definitions: MsgPath,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct HashArgs {
    /// Messages or services
    #[arg(value_name = "TYPE", required = true)]
    types: Vec<String>,
    #[command(flatten)]
    definitions: MsgPath,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a type is not known, or what is read is no message of it.
pub fn run(args: &Args) -> Result<ExitCode> {
    settle(piped(match &args.verb {
        Verb::List(args) => list(args),
        Verb::Show(args) => show::run(args),
        Verb::Hash(args) => hash(args),
        Verb::Decode(args) => convert::decode(args),
        Verb::Encode(args) => convert::encode(args),
    }))
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let registry = args.definitions.registry()?;
    let wanted = args.part.as_deref().unwrap_or_default().to_lowercase();
    let mut found: Vec<&str> = ids(&registry).collect();
    found.retain(|id| id.to_lowercase().contains(&wanted));
    found.sort_unstable();
    for id in &found {
        if !args.json {
            line(id)?;
            continue;
        }
        let (kind, name, package, hash) = match interface(&registry, id)? {
            Interface::Message(known) => (
                "message",
                &known.name,
                &known.definition.package,
                Some(registry.hash_of(known)),
            ),
            Interface::Service(known) => (
                "service",
                &known.name,
                &known.definition.package,
                registry.service_hash(id),
            ),
        };
        line(
            &json!({ "type": name, "id": id, "kind": kind, "package": package, "hash": hash })
                .to_string(),
        )?;
    }
    if found.is_empty() {
        eprintln!("note: no type contains {wanted:?}; --msg-path DIR adds definitions");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn hash(args: &HashArgs) -> Result<ExitCode> {
    let registry = args.definitions.registry()?;
    for name in &args.types {
        let (name, id, hash) = match interface(&registry, name)? {
            Interface::Message(found) => {
                say_others(&registry, found);
                (&found.name, &found.id, registry.hash_of(found))
            }
            Interface::Service(service) => {
                let hash = registry.service_hash(&service.id).unwrap_or_default();
                (&service.name, &service.id, hash)
            }
        };
        if args.json {
            line(&json!({ "type": name, "id": id, "hash": hash }).to_string())?;
        } else if args.types.len() == 1 {
            line(&hash)?;
        } else {
            line(&format!("{hash}  {id}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Two packages may share a name; who asks for one by that name should know.
fn say_others(registry: &Registry, found: &Type) {
    let others = registry
        .variants(&found.name)
        .filter(|other| other.id != found.id);
    for other in others {
        eprintln!("note: another type of that name is {}", other.id);
    }
}
