//! A round in a child process: the arguments it gets and the object it prints.

use anyhow::{Context, Result, bail};
use llmasos_engine::{Spin, text::GraphChoice};
use serde::de::DeserializeOwned;

use super::{
    Plan,
    isa::Isa,
    ours::{Reference, Setup},
    profile::{Phase, Profile},
    series::Round,
    tools::list,
};
use crate::bench::child;
use crate::models::Reporter;

/// Runs one round with an instruction set.
///
/// # Errors
/// When the child fails, with what it said, and after Ctrl-C.
pub(super) fn round(
    plan: &Plan<'_>,
    isa: Isa,
    reference: Option<&Reference>,
    reporter: &mut dyn Reporter,
) -> Result<Round> {
    let mut more = vec!["--one-round".to_owned()];
    if let Some(reference) = reference {
        more.extend(["--kl-base".to_owned(), reference.base.display().to_string()]);
        if let Some(begin) = reference.begin {
            more.extend(["--kl-begin".to_owned(), begin.to_string()]);
        }
    }
    run(plan, isa, &more, reporter)
}

/// Profiles one phase with an instruction set.
///
/// # Errors
/// As [`round`].
pub(super) fn profile(
    plan: &Plan<'_>,
    isa: Isa,
    phase: Phase,
    reporter: &mut dyn Reporter,
) -> Result<Profile> {
    run(
        plan,
        isa,
        &["--one-profile".to_owned(), phase.name().to_owned()],
        reporter,
    )
}

fn run<T: DeserializeOwned>(
    plan: &Plan<'_>,
    isa: Isa,
    more: &[String],
    reporter: &mut dyn Reporter,
) -> Result<T> {
    let mut command = child::this_program()?;
    command
        .args(arguments(plan.name, &plan.setup, isa))
        .args(more);
    for catalogue in plan.catalogues {
        command.arg("--catalogue").arg(catalogue);
    }
    let (status, text) = child::run(&mut command, reporter)?;
    if !status.success() {
        bail!(
            "the round with --isa {} failed ({status}); its reason stands above",
            isa.name()
        );
    }
    serde_json::from_str(&text).with_context(|| format!("a round printed {text:?}"))
}

/// The child's command line without catalogues.
fn arguments(name: &str, setup: &Setup, isa: Isa) -> Vec<String> {
    let spin = match setup.spin {
        Spin::Off => "off",
        Spin::Short => "short",
        Spin::On => "on",
    };
    let graph = match setup.graph {
        GraphChoice::Best => "best",
        GraphChoice::Fused => "fused",
        GraphChoice::Portable => "portable",
    };
    let mut arguments: Vec<String> = ["model", "bench", name].map(str::to_owned).into();
    for (flag, value) in [
        ("--threads", setup.threads.to_string()),
        ("--spin", spin.to_owned()),
        ("--isa", isa.name().to_owned()),
        ("--graph", graph.to_owned()),
        ("--prompt", list(&setup.prompts)),
        ("--gen", setup.generated.to_string()),
        ("--depth", list(&setup.depths)),
        ("--concurrency", list(&setup.concurrency)),
    ] {
        arguments.extend([flag.to_owned(), value]);
    }
    arguments
}
