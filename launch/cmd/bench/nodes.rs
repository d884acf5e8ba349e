//! `llmasos bench nodes`: the nodes of a descriptor, measured as they run.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    bench::nodes::{Material, measure},
    cmd::check::{EXIT_USAGE, catalogue_facts, environment},
    descriptor::{self, arguments::Overrides, check::Facts, graph::Fetch},
    models::Cancel,
    run::models::{ensure, needed},
};

/// Catalogue entry of the picture that is measured.
const PICTURES: &str = "street-images";
/// The picture.
const PICTURE: &str = "bus.jpg";

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The descriptor whose nodes are measured
    #[arg(long, value_name = "FILE", default_value = "launch/demo.yaml")]
    launch: PathBuf,
    /// An utterance of 2 to 3 s
    #[arg(
        long,
        value_name = "WAV",
        default_value = "launch/demo/synthetic/lane-left.wav"
    )]
    utterance: PathBuf,
    /// Counted rounds
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a model cannot be had or an answer fails.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let facts = Facts {
        catalogue: Some(catalogue_facts(&[])?),
        tokens_per_s: descriptor::check::DEFAULT_TOKENS_PER_S,
        exists: &|path| path.exists(),
    };
    let graph = match descriptor::load(&args.launch, &Overrides::default(), &environment, &facts) {
        Ok(loaded) => loaded.graph,
        Err(rejected) => {
            for line in rejected.findings.lines(&rejected.files) {
                eprintln!("{line}");
            }
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let mut names = needed(&graph, false);
    names.insert(PICTURES.to_owned(), Fetch::IfAbsent);
    let folders = ensure(&names, &Cancel::default())?;
    let picture = folders
        .get(PICTURES)
        .context("the pictures were not fetched")?
        .join(PICTURE);
    let material = Material {
        graph: &graph,
        folders: &folders,
        utterance: &args.utterance,
        picture: &picture,
        rounds: usize::from(args.rounds),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if !args.json {
        let spin = format!("{:?}", graph.compute.spin).to_lowercase();
        println!(
            "{} inference threads, spinning {spin}, medians of {} rounds",
            graph.compute.threads, args.rounds
        );
    }
    let json = args.json;
    runtime.block_on(measure(&material, |figure| {
        println!(
            "{}",
            if json {
                figure.json().to_string()
            } else {
                figure.line()
            }
        )
    }))?;
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    Ok(ExitCode::SUCCESS)
}
