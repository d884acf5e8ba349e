//! `llmasos model list`: every model with its state.

use std::io::Write;
use std::process::ExitCode;

use super::summary;
use crate::models::{Models, State, size_words};

/// Runs the verb.
pub(super) fn list(models: &Models, is_json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if !is_json {
        writeln!(
            out,
            "{:<24} {:<20} {:>10} {:>10}  {:<8} LICENCE",
            "NAME", "ROLE", "DOWNLOAD", "ON DISK", "STATE"
        )?;
    }
    for entry in models.catalogue().entries() {
        let state = models.store().state(entry);
        let download_bytes: u64 = entry
            .distributions()
            .map(|distribution| distribution.pin.bytes)
            .sum();
        if is_json {
            writeln!(out, "{}", summary(models, entry, &state))?;
            continue;
        }
        let on_disk = if let State::Ready { bytes } = state {
            bytes
        } else {
            entry.bytes_on_disk
        };
        let (download, on_disk) = (size_words(download_bytes), size_words(on_disk));
        writeln!(
            out,
            "{:<24} {:<20} {download:>10} {on_disk:>10}  {:<8} {}",
            entry.name,
            entry.role.name(),
            state.word(),
            entry.license
        )?;
    }
    if !is_json {
        writeln!(out, "cache: {}", models.store().root().display())?;
        let leftovers = models.store().leftovers(models.catalogue());
        if !leftovers.is_empty() {
            let bytes = leftovers.iter().map(|(_, bytes)| bytes).sum();
            writeln!(
                out,
                "{} folders of older recipes ({}) may be removed, e.g. {}",
                leftovers.len(),
                size_words(bytes),
                leftovers[0].0.display()
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
