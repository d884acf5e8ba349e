//! Wrong usage as an error that travels with the others and ends with its own exit code.

use std::process::ExitCode;

use anyhow::{Error, Result};

use super::check::usage;

/// What the command line got wrong; everything else is a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// An error that ends the program with exit code 2.
pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::new(WrongUsage(message.into()))
}

/// The exit code of an outcome: wrong usage is said here, a failure is handed on.
///
/// # Errors
/// The outcome's own, unless it is wrong usage.
pub(super) fn settle(outcome: Result<ExitCode>) -> Result<ExitCode> {
    match outcome {
        Err(error) => match error.downcast::<WrongUsage>() {
            Ok(WrongUsage(message)) => usage(&message),
            Err(error) => Err(error),
        },
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wrong_usage_has_a_code_of_its_own() {
        assert!(
            settle(Err(wrong("--in: expected PORT=VALUE"))).is_ok(),
            "said, with its exit code"
        );
        assert!(
            settle(Err(anyhow::anyhow!("the disk is full"))).is_err(),
            "main says it"
        );
    }
}
