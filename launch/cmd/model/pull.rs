//! `llmasos model pull`: fetches and builds, one model after the other, and says which could not be had.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use super::all_names;
use crate::models::{Cancel, Console, FetchPolicy, ModelError, Models, State};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// Models
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(super) names: Vec<String>,
    /// Every model of the catalogue
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Use no network: only what is downloaded or was placed by hand
    #[arg(long)]
    offline: bool,
    /// Build again what is ready, from the files already downloaded
    #[arg(long)]
    rebuild: bool,
}

/// Runs the verb.
pub(super) fn fetch_all(
    models: &mut Models,
    pull: &PullArgs,
    is_json: bool,
    cancel: Cancel,
) -> anyhow::Result<ExitCode> {
    let names: Vec<String> = if pull.all {
        all_names(models)
    } else {
        pull.names.clone()
    };
    let policy = if pull.offline {
        FetchPolicy::Never
    } else {
        FetchPolicy::Auto
    };
    let mut reporter = Console::new(cancel);
    if let Some(line) = models.plan(&names)?.announcement() {
        writeln!(std::io::stderr(), "{line}")?;
    }
    let mut is_complete = true;
    for name in &names {
        let was_ready = matches!(
            models.store().state(models.catalogue().get(name)?),
            State::Ready { .. }
        );
        let result = if pull.rebuild {
            models.rebuild(name, policy, &mut reporter)
        } else {
            models.ensure(name, policy, &mut reporter)
        };
        let mut out = std::io::stdout().lock();
        match result {
            Ok(dir) if is_json => writeln!(
                out,
                "{}",
                json!({"name": name, "state": "ready", "dir": dir, "is_new": !was_ready || pull.rebuild})
            )?,
            Ok(dir) => writeln!(out, "{name} {}", dir.display())?,
            Err(error) => {
                is_complete = false;
                if is_json {
                    writeln!(out, "{}", json!({"name": name, "error": error.to_string()}))?;
                }
                writeln!(std::io::stderr(), "error: {error}")?;
                // A full disk or Ctrl-C concerns all that follow; other errors only this one.
                if matches!(
                    error,
                    ModelError::Cancelled | ModelError::NoRoom { .. } | ModelError::DiskFull { .. }
                ) {
                    break;
                }
            }
        }
    }
    Ok(if is_complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
