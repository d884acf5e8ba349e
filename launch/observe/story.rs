//! What a message means to a person: one short line for what was heard, seen, advised or decided.

use llmasos_msgs::Message;
use llmasos_msgs::llmasos_msgs::{GateVerdict, PerceptionSummary, PlannerAdvice, SpeechCommand};
use serde_json::Value;

use super::watch::Seen;

/// The column a line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chapter {
    /// Speech commands.
    Heard,
    /// Perception summaries.
    Seen,
    /// Advice.
    Advised,
    /// Verdicts.
    Decided,
}

impl Chapter {
    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Chapter::Heard => "heard",
            Chapter::Seen => "seen",
            Chapter::Advised => "advised",
            Chapter::Decided => "decided",
        }
    }
}

/// A line of the story.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Where it belongs.
    pub chapter: Chapter,
    /// Its words.
    pub text: String,
    /// Whether it says something that the last line of its chapter did not: verdicts come ten times a second and mostly repeat.
    pub key: String,
}

/// The line of a message, for the four types that tell the story.
pub fn line(seen: &Seen) -> Option<Line> {
    let data = &seen.data;
    let (chapter, text, key) = match seen.type_name.as_str() {
        SpeechCommand::TYPE => {
            let negated = if data["negated"].as_bool() == Some(true) {
                "not "
            } else {
                ""
            };
            let speed = number(data, "target_speed")
                .map_or(String::new(), |speed| format!(" {:.0} km/h", speed * 3.6));
            let place =
                text_of(data, "destination").map_or(String::new(), |place| format!(" {place}"));
            let text = format!(
                "\"{}\" → {negated}{}{speed}{place} by {}",
                data["transcript"].as_str().unwrap_or(""),
                name(data, "intent"),
                name(data, "source")
            );
            (Chapter::Heard, text, id(data))
        }
        PerceptionSummary::TYPE => {
            let objects = data["objects"].as_array().map_or(0, Vec::len);
            let ids: Vec<String> = data["objects"]
                .as_array()
                .into_iter()
                .flatten()
                .take(3)
                .map(|object| short(&object["object_id"]))
                .collect();
            let text = format!(
                "{} [{} of {objects}: {}] {} by {}",
                data["sentence"].as_str().unwrap_or(""),
                ids.len(),
                ids.join(" "),
                name(data, "sensor_state"),
                name(data, "sentence_source")
            );
            (Chapter::Seen, text, id(data))
        }
        PlannerAdvice::TYPE => {
            let speed = number(data, "max_speed").map_or(String::new(), |speed| {
                format!(" at most {:.0} km/h", speed * 3.6)
            });
            let tokens = data["tokens_out"].as_u64().unwrap_or(0);
            let text = format!(
                "{}{speed}: {} ({}, {tokens} tokens)",
                name(data, "action"),
                data["reason"].as_str().unwrap_or(""),
                name(data, "source")
            );
            (Chapter::Advised, text, id(data))
        }
        GateVerdict::TYPE => {
            let speed = number(data, "max_speed").map_or(String::new(), |speed| {
                format!(" at most {:.0} km/h", speed * 3.6)
            });
            let rule =
                text_of(data, "rule").map_or(String::new(), |rule| format!(" by rule {rule}"));
            let action = match name(data, "action").as_str() {
                "NONE" => String::new(),
                action => format!(" {action}"),
            };
            let text = format!("{}{action}{speed}{rule}", name(data, "verdict"));
            let key = format!("{} {action} {rule}", name(data, "verdict"));
            (Chapter::Decided, text, key)
        }
        _ => return None,
    };
    Some(Line { chapter, text, key })
}

/// Name of an enum field, else its number.
fn name(data: &Value, field: &str) -> String {
    data.get(format!("{field}_name"))
        .and_then(Value::as_str)
        .map_or_else(|| data[field].to_string(), str::to_owned)
}

fn number(data: &Value, field: &str) -> Option<f64> {
    data[field].as_f64()
}

fn text_of<'a>(data: &'a Value, field: &str) -> Option<&'a str> {
    data[field].as_str().filter(|text| !text.is_empty())
}

fn id(data: &Value) -> String {
    data["id"].to_string()
}

/// The first block of an id: enough for people to tell two apart.
fn short(id: &Value) -> String {
    let text = id.get("uuid").unwrap_or(id).as_str().unwrap_or("");
    // Recorded ids differ at the end, drawn ones everywhere.
    text.rsplit('-').next().map_or(String::new(), |last| {
        last.chars()
            .rev()
            .take(4)
            .collect::<String>()
            .chars()
            .rev()
            .collect()
    })
}
