//! `llmasos msg show`: a definition with the messages within it indented below their fields, as `ros2 interface show` prints it.

use std::process::ExitCode;

use anyhow::Result;
use llmasos_msgs::{
    definition::{Base, Definition},
    registry::{Registry, Service, Type},
};
use serde_json::{Value, json};

use super::{
    super::{
        output::line,
        types::{Interface, MsgPath, interface},
        usage::wrong,
    },
    say_others,
};

/// Most lines of one type: definitions within definitions multiply.
const LINES_MAX: usize = 20_000;

/// Arguments of `llmasos msg show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos msg show llmasos_msgs/GateVerdict
  llmasos msg show nav_msgs/Odometry --no-comments
  llmasos msg show std_srvs/Trigger
  llmasos msg show std_msgs/Header --json        the type description that is hashed")]
pub(super) struct Args {
    /// A message or a service
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// Show the comments of the messages within it too
    #[arg(long, conflicts_with = "no_comments")]
    all_comments: bool,
    /// Show no comments and no empty lines
    #[arg(long)]
    no_comments: bool,
    #[command(flatten)]
    definitions: MsgPath,
    /// Print the type description as one JSON object
    #[arg(long)]
    json: bool,
}

/// Which comments are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comments {
    All,
    Outermost,
    Hidden,
}

/// Runs the verb.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let registry = args.definitions.registry()?;
    let found = interface(&registry, &args.type_name)?;
    if args.json {
        line(&as_json(&registry, found)?.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let comments = match (args.all_comments, args.no_comments) {
        (true, _) => Comments::All,
        (_, true) => Comments::Hidden,
        (false, false) => Comments::Outermost,
    };
    let mut lines = Vec::new();
    match found {
        Interface::Message(found) => {
            write(&registry, found, comments, 0, &mut lines)?;
            say_others(&registry, found);
        }
        Interface::Service(service) => {
            for (index, part) in parts(&registry, service).into_iter().enumerate() {
                if index > 0 {
                    lines.push("---".to_owned());
                }
                write(&registry, part, comments, 0, &mut lines)?;
            }
        }
    }
    line(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Request and response.
fn parts<'r>(registry: &'r Registry, service: &Service) -> Vec<&'r Type> {
    let parts = [registry.request(service), registry.response(service)];
    parts.into_iter().flatten().collect()
}

fn as_json(registry: &Registry, found: Interface<'_>) -> Result<Value> {
    let message = |found: &Type| -> Result<Value> {
        let described: Value = serde_json::from_str(&registry.description(found))?;
        Ok(json!({
            "type": found.name, "id": found.id, "hash": registry.hash_of(found),
            "type_description": described["type_description"],
            "referenced_type_descriptions": described["referenced_type_descriptions"],
        }))
    };
    match found {
        Interface::Message(found) => message(found),
        Interface::Service(service) => {
            let parts = parts(registry, service).into_iter().map(message);
            let parts: Vec<Value> = parts.collect::<Result<_>>()?;
            Ok(json!({
                "type": service.name, "id": service.id, "hash": registry.service_hash(&service.id),
                "request": parts.first(), "response": parts.get(1),
            }))
        }
    }
}

/// The lines of a definition; the registry has refused definitions that contain themselves.
fn write(
    registry: &Registry,
    found: &Type,
    comments: Comments,
    depth: usize,
    lines: &mut Vec<String>,
) -> Result<()> {
    for text in found.definition.text.lines() {
        let shown = match comments {
            Comments::All | Comments::Outermost => text.trim_end(),
            Comments::Hidden => bare(text),
        };
        if shown.trim().is_empty() && (comments == Comments::Hidden || depth > 0) {
            continue;
        }
        if lines.len() >= LINES_MAX {
            return Err(wrong(format!(
                "{}: expected at most {LINES_MAX} lines, found more; show the messages within it one by one",
                found.id
            )));
        }
        lines.push(format!("{}{shown}", "\t".repeat(depth)));
        if let Some(inner) = message_field(registry, &found.definition, text) {
            let below = match comments {
                Comments::Outermost => Comments::Hidden,
                same => same,
            };
            write(registry, inner, below, depth + 1, lines)?;
        }
    }
    Ok(())
}

/// A line without its comment; a `#` within quotes belongs to a value.
fn bare(line: &str) -> &str {
    let mut quote = None;
    for (at, found) in line.char_indices() {
        match (quote, found) {
            (None, '#') => return line[..at].trim_end(),
            (None, '"' | '\'') => quote = Some(found),
            (Some(open), _) if open == found => quote = None,
            _ => {}
        }
    }
    line.trim_end()
}

/// The message type of the field that a line declares, if it declares one.
fn message_field<'r>(
    registry: &'r Registry,
    definition: &Definition,
    line: &str,
) -> Option<&'r Type> {
    let name = bare(line).split_whitespace().nth(1)?;
    let field = definition.fields.iter().find(|field| field.name == name)?;
    let Base::Message(wanted) = &field.kind.base else {
        return None;
    };
    // A package that shares its name with another refers to its own messages first.
    let own = definition.variant.as_ref().and_then(|variant| {
        let (package, rest) = wanted.split_once('/')?;
        registry.find(&format!("{package}@{variant}/{rest}"))
    });
    own.or_else(|| registry.find(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::definition::parse;

    fn shown(registry: &Registry, name: &str, comments: Comments) -> Result<String> {
        let mut lines = Vec::new();
        write(
            registry,
            registry.find(name).unwrap(),
            comments,
            0,
            &mut lines,
        )?;
        Ok(lines.join("\n"))
    }

    #[test]
    fn nested_messages_stand_below_their_fields() {
        let mut registry = Registry::builtin().clone();
        let text = "# A pin\nstd_msgs/Header header  # when\n\nstring MARK=\"#1\" # why\nuint8[<=4] data\n";
        registry
            .add([parse("my_msgs", "Pin", text).unwrap()])
            .unwrap();
        let nested = "\tbuiltin_interfaces/Time stamp\n\t\tint32 sec\n\t\tuint32 nanosec\n\tstring frame_id\n";
        let with = format!(
            "# A pin\nstd_msgs/Header header  # when\n{nested}\nstring MARK=\"#1\" # why\nuint8[<=4] data"
        );
        assert_eq!(
            shown(&registry, "my_msgs/Pin", Comments::Outermost).unwrap(),
            with
        );
        let without =
            format!("std_msgs/Header header\n{nested}string MARK=\"#1\"\nuint8[<=4] data");
        assert_eq!(
            shown(&registry, "my_msgs/Pin", Comments::Hidden).unwrap(),
            without
        );
    }

    #[test]
    fn the_variant_of_a_package_shows_its_own_messages() {
        let registry = Registry::builtin();
        let text = shown(
            registry,
            "audio_common_msgs@ros-drivers/msg/AudioDataStamped",
            Comments::Hidden,
        );
        assert!(text.unwrap().contains("audio\n\tuint8[] data"));
    }

    #[test]
    fn definitions_that_multiply_are_cut_with_both_numbers() {
        let mut registry = Registry::default();
        let level = |at: usize| {
            let inner = format!("A{}", at - 1);
            let text = match at {
                0 => "int8 x".to_owned(),
                _ => (0..8).map(|field| format!("{inner} f{field}\n")).collect(),
            };
            parse("m", &format!("A{at}"), &text).unwrap()
        };
        let first = parse("m", "A0", "int8 x").unwrap();
        registry.add((1..8).map(level).chain([first])).unwrap();
        let error = shown(&registry, "m/A7", Comments::Hidden)
            .unwrap_err()
            .to_string();
        assert!(error.contains("20000"), "{error}");
    }
}
