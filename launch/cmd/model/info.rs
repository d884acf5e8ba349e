//! `llmasos model info`: all that is known about one model.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::summary;
use crate::models::{Distribution, Models, Source, State, size_words};

/// Runs the verb.
pub(super) fn info(models: &Models, name: &str, is_json: bool) -> anyhow::Result<ExitCode> {
    let entry = models.catalogue().get(name)?;
    let state = models.store().state(entry);
    let manifest = match state {
        State::Ready { .. } => models.store().manifest(entry)?,
        State::Absent | State::Partial { .. } | State::Damaged { .. } => Value::Null,
    };
    let mut out = std::io::stdout().lock();
    if is_json {
        let mut object = summary(models, entry, &state);
        object["license_note"] = json!(entry.license_note);
        object["sources"] = entry
            .sources
            .iter()
            .map(|source| source_json(models, source))
            .collect();
        object["recipe"] = serde_json::to_value(&entry.recipe)?;
        object["manifest"] = manifest;
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{name}: {}", entry.about)?;
    writeln!(
        out,
        "  role     {} (family {})",
        entry.role.name(),
        entry.family
    )?;
    writeln!(
        out,
        "  licence  {}{}",
        entry.license,
        entry
            .license_note
            .as_ref()
            .map_or_else(String::new, |note| format!(" ({note})"))
    )?;
    writeln!(out, "  state    {}", state_words(&state))?;
    writeln!(out, "  folder   {}", models.store().folder(entry).display())?;
    writeln!(out, "  recipe   {}", serde_json::to_string(&entry.recipe)?)?;
    for source in &entry.sources {
        write_source(&mut out, models, source)?;
    }
    for (file, pin) in manifest["files"].as_object().into_iter().flatten() {
        let (bytes, sha256) = (
            pin["bytes"].as_u64().unwrap_or(0),
            pin["sha256"].as_str().unwrap_or_default(),
        );
        writeln!(out, "  file     {file} {bytes} bytes, sha256 {sha256}")?;
    }
    if let Some(config) = manifest.get("config") {
        writeln!(out, "  config   {config}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn state_words(state: &State) -> String {
    match state {
        State::Ready { bytes } => format!("ready, {}", size_words(*bytes)),
        State::Absent => "absent".into(),
        State::Partial { done, total } => format!(
            "partial, {} of {} downloaded",
            size_words(*done),
            size_words(*total)
        ),
        State::Damaged { problem } => format!("damaged: {problem}"),
    }
}

fn source_json(models: &Models, source: &Source) -> Value {
    let files: Vec<Value> =
        source.leaves().iter().map(|leaf| json!({"path": leaf.path, "as": leaf.name, "bytes": leaf.pin.bytes, "sha256": leaf.pin.sha256})).collect();
    let fetched = |distribution: &Distribution| {
        json!({
            "registry": "pypi", "package": distribution.package, "version": distribution.version, "file": distribution.file,
            "bytes": distribution.pin.bytes, "sha256": distribution.pin.sha256, "download": models.store().download(distribution),
        })
    };
    match source {
        Source::Registry(distribution) => {
            let mut object = fetched(distribution);
            object["members"] = json!(files);
            object
        }
        Source::Joined { parts, .. } => {
            json!({"parts": parts.iter().map(fetched).collect::<Vec<_>>(), "members": files})
        }
        Source::Local { path, .. } => json!({"path": path, "members": files}),
    }
}

fn write_source(out: &mut impl Write, models: &Models, source: &Source) -> std::io::Result<()> {
    for distribution in source.distributions() {
        let pin = &distribution.pin;
        writeln!(
            out,
            "  source   {} {} ({} bytes, sha256 {})",
            distribution.package, distribution.version, pin.bytes, pin.sha256
        )?;
        writeln!(
            out,
            "           by hand: {}",
            models.store().download(distribution).display()
        )?;
    }
    match source {
        Source::Registry(_) => {}
        Source::Joined { .. } => writeln!(out, "           joined to:")?,
        Source::Local { path, .. } => writeln!(out, "  source   {}", path.display())?,
    }
    for leaf in source.leaves() {
        writeln!(
            out,
            "           {} ({} bytes, sha256 {})",
            leaf.path, leaf.pin.bytes, leaf.pin.sha256
        )?;
    }
    Ok(())
}
