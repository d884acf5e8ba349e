//! Reads one entry of `sources:`.

use super::build::path;
use super::findings::{Files, Findings};
use super::graph::{FaultKind, FaultTarget, Feed, PictureFolder, Pictures, Recording, Source};
use super::shape::Fields;
use super::tables::{CLIP, PICTURES, SOURCE};
use super::units::Dimension;
use super::yaml::Node;
use std::time::Duration;

/// Pictures a second when nothing else is said.
const PICTURE_RATE_HZ: f64 = 1.0;
/// How long a stall lasts when nothing else is said.
const STALL: Duration = Duration::from_secs(3);

/// Which keys go with which kind of source; the rest of the table would be ignored, so it is refused.
const KEYS: &[(&str, &[&str])] = &[
    ("wav", &["topic", "at", "until", "from", "for"]),
    ("images", &["topic", "at", "until", "rate"]),
    ("jsonl", &["topic", "at", "until", "rate", "loop"]),
    ("text", &["topic", "at"]),
    ("fault", &["at", "for", "node", "model"]),
];

/// Reads a source that was held against its table.
pub(super) fn read(node: &Node, files: &Files, findings: &mut Findings) -> Option<Source> {
    let fields = Fields::of(node, &SOURCE);
    let (kind, keys) = KEYS.iter().find(|(kind, _)| fields.get(kind).is_some())?;
    for entry in node
        .entries()
        .iter()
        .filter(|e| e.key != *kind && !keys.contains(&e.key.as_str()))
    {
        let message = format!("a source with {kind} has no \"{}\"", entry.key);
        findings.error_with(entry.key_at, message, format!("known: {}", keys.join(", ")));
    }
    let topic = fields.text("topic");
    if *kind != "fault" && topic.is_none() {
        findings.error(
            node.at,
            format!("a source with {kind} needs the field \"topic\""),
        );
        return None;
    }
    let topic = topic.unwrap_or_default();
    let rate_hz = fields.quantity("rate", Dimension::Rate);
    if let (Some(rate), true) = (fields.get("rate"), rate_hz == Some(0.0)) {
        findings.error(rate.at, "a rate of 0Hz never sends");
    }
    let feed = match *kind {
        "wav" => Feed::Wav {
            topic,
            file: recording(fields.get("wav")?, files)?,
            from: fields.duration("from").unwrap_or_default(),
            take: fields.duration("for"),
        },
        "images" => {
            let pictures = pictures(fields.get("images")?, files)?;
            Feed::Images {
                topic,
                pictures,
                rate_hz: rate_hz.unwrap_or(PICTURE_RATE_HZ),
            }
        }
        "jsonl" => Feed::JsonLines {
            topic,
            path: path(fields.get("jsonl")?, files),
            rate_hz,
            repeat: fields.truth("loop").unwrap_or(false),
        },
        "text" => Feed::Text {
            topic,
            text: fields.text("text")?,
        },
        _ => fault(&fields, findings)?,
    };
    let (at, until) = (
        fields.duration("at").unwrap_or_default(),
        fields.duration("until"),
    );
    if let (Some(end), true) = (fields.get("until"), until.is_some_and(|u| u <= at)) {
        findings.error(end.at, "it ends before it starts");
    }
    Some(Source {
        at,
        until,
        feed,
        site: node.at,
    })
}

fn recording(node: &Node, files: &Files) -> Option<Recording> {
    if node.text().is_some() {
        return Some(Recording::File(path(node, files)));
    }
    let fields = Fields::of(node, &CLIP);
    Some(Recording::Catalogue {
        entry: fields.text("catalogue")?,
        member: fields.text("member")?,
    })
}

fn pictures(node: &Node, files: &Files) -> Option<Pictures> {
    let fields = Fields::of(node, &PICTURES);
    let from = match fields.text("catalogue") {
        Some(entry) => PictureFolder::Catalogue(entry),
        None => PictureFolder::Folder(path(fields.get("folder")?, files)),
    };
    Some(Pictures {
        from,
        members: fields.texts("members"),
    })
}

fn fault(fields: &Fields<'_>, findings: &mut Findings) -> Option<Feed> {
    let node = fields.get("fault")?;
    let kind = match node.text()? {
        "stall" => FaultKind::Stall {
            hold: fields.duration("for").unwrap_or(STALL),
        },
        "kill" => FaultKind::Kill,
        _ => FaultKind::Panic,
    };
    if let (Some(hold), false) = (fields.get("for"), matches!(kind, FaultKind::Stall { .. })) {
        findings.error(hold.at, "only a stall lasts for a while");
    }
    let target = match (fields.text("node"), fields.text("model")) {
        (Some(node), None) => FaultTarget::Node(node),
        (None, Some(model)) => {
            if !matches!(kind, FaultKind::Stall { .. }) {
                findings.error_with(
                    node.at,
                    "a model can only be stalled",
                    "name the node that shall end",
                );
            }
            FaultTarget::Model(model)
        }
        (found, _) => {
            let found = if found.is_some() { "both" } else { "neither" };
            findings.error(
                node.at,
                format!("a fault hits one node or one model, found {found}"),
            );
            return None;
        }
    };
    Some(Feed::Fault { kind, target })
}
