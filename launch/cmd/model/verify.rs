//! `llmasos model verify`: every byte against what was written.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::{all_names, is_folder};
use crate::models::{
    Cancel, ModelError, Models, Reporter, Silent, State, size_words, verify_folder,
};

/// Runs the verb.
pub(super) fn verify(
    models: &Models,
    names: &[String],
    is_json: bool,
    cancel: Cancel,
) -> anyhow::Result<ExitCode> {
    let mut reporter = Silent { cancel };
    let is_named = !names.is_empty();
    let names = if is_named {
        names.to_vec()
    } else {
        all_names(models)
    };
    let mut is_good = true;
    for name in &names {
        let result = if is_named && is_folder(name) {
            verify_folder(Path::new(name), &mut reporter)
        } else {
            let entry = models.catalogue().get(name)?;
            let state = models.store().state(entry);
            if !is_named && matches!(state, State::Absent | State::Partial { .. }) {
                continue;
            }
            models.store().verify(entry, &mut reporter)
        };
        is_good &= result.is_ok();
        let mut out = std::io::stdout().lock();
        match result {
            Err(ModelError::Cancelled) => return Err(ModelError::Cancelled.into()),
            Ok(bytes) if is_json => writeln!(
                out,
                "{}",
                json!({"name": name, "is_good": true, "bytes": bytes})
            )?,
            Ok(bytes) => writeln!(out, "{name}: every byte as written ({})", size_words(bytes))?,
            Err(error) if is_json => writeln!(
                out,
                "{}",
                json!({"name": name, "is_good": false, "problem": error.to_string()})
            )?,
            Err(error) => writeln!(out, "{error}")?,
        }
        if reporter.is_cancelled() {
            return Err(ModelError::Cancelled.into());
        }
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
