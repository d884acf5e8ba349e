//! Long work beside Ctrl-C: the first asks it to stop at the next step and waits for it, the second ends the process.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::models::Cancel;

/// How long work may take to stop by itself: a layer of a large model, and removing what it has half written.
const GRACE: Duration = Duration::from_secs(60);

/// Runs `work` on a thread of its own, with a flag that Ctrl-C raises.
///
/// # Errors
/// Those of `work`.
pub(super) fn stoppable(
    name: &str,
    work: impl FnOnce(Cancel) -> Result<ExitCode> + Send + 'static,
) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let cancel = Cancel::default();
    let raised = cancel.clone();
    let (done, mut result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody listens any more when the process is already ending.
            let _ = done.send(work(raised));
        })
        .context("starting a thread")?;
    runtime.block_on(async move {
        tokio::select! {
            outcome = &mut result => return outcome.context("the worker ended without a result")?,
            signal = tokio::signal::ctrl_c() => signal.context("listening for Ctrl-C")?,
        }
        cancel.raise();
        tokio::select! {
            outcome = tokio::time::timeout(GRACE, result) => match outcome {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Ok(ExitCode::FAILURE),
            },
            signal = tokio::signal::ctrl_c() => {
                signal.context("listening for Ctrl-C")?;
                Ok(ExitCode::FAILURE)
            }
        }
    })
}
