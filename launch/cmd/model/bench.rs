//! `llmasos model bench`: how fast a language model is here, and beside llama.cpp.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use llmasos_engine::text::GraphChoice;

use crate::{
    bench::model::{
        self, Against, Isa, Phase, Plan, measure, one_profile, one_round,
        ours::{Reference, Setup},
    },
    models::{Cancel, Console, Models, Reporter, Role, Silent},
};

/// Help after the options.
pub(super) const HELP: &str = "Examples:
  llmasos model bench smollm2
  llmasos model bench smollm2 --threads 2 --spin on --against gguf --json
  llmasos model bench smollm2 --threads 2 --against one-thread
  llmasos model bench ./smaller --threads 2

Figures are medians over rounds with [smallest, largest]; a round is a process of its own. Nothing else should run. --against gguf fetches
the sources of llama.cpp, builds them once (a C++ compiler is needed), gives them the same weights, and runs them in turn with ours for
each instruction set; the last line of --json has the ratios. The build stays in the cache under peers/.";

/// Fewest rounds of which a median is worth printing.
const ROUNDS_MIN: u16 = 1;
/// Most numbers in a list.
const LIST_MAX: usize = 8;
/// Longest prompt, depth or answer, in tokens.
const TOKENS_MAX: usize = 1 << 17;
/// Most requests at once.
const REQUESTS_MAX: usize = 64;

/// What idle inference threads do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Spin {
    /// Sleep
    Off,
    /// Spin for a moment
    Short,
    /// Spin
    On,
}

/// Which of a folder's two graphs of the same weights runs.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Graph {
    /// The fused one if there is one
    Best,
    /// The one of our own operators
    Fused,
    /// The one of ONNX Runtime's operators
    Portable,
}

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    /// Language model: a name of the catalogue, or a model folder
    #[arg(value_name = "NAME|DIR")]
    pub(super) name: String,
    /// Inference threads; all processors by default
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// What idle inference threads do
    #[arg(long, value_enum, default_value = "short")]
    spin: Spin,
    /// Instruction set; with --against, auto means each that this computer has
    #[arg(long, value_enum, default_value = "auto")]
    isa: Isa,
    /// Which of the folder's graphs runs
    #[arg(long, value_enum, default_value = "best")]
    graph: Graph,
    /// Tokens of prompts whose prefill is measured
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "128,512"
    )]
    prompt: Vec<usize>,
    /// Tokens of an answer
    #[arg(long = "gen", value_name = "N", default_value_t = 64)]
    generated: usize,
    /// Tokens before the answers whose decoding is measured
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "0,512"
    )]
    depth: Vec<usize>,
    /// Requests at once
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "1,2,4"
    )]
    concurrency: Vec<usize>,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(i64::from(ROUNDS_MIN)..=1000))]
    rounds: u16,
    /// Run another engine beside it
    #[arg(long, value_enum, value_name = "ENGINE")]
    against: Option<Against>,
    /// Show where the time goes, by type of operator
    #[arg(long)]
    profile: bool,
    /// Profile one phase in this process and print it: a child too
    #[arg(long, hide = true, value_enum, value_name = "PHASE")]
    one_profile: Option<Phase>,
    /// Do one round in this process and print its numbers: the child of the others
    #[arg(long, hide = true)]
    one_round: bool,
    /// What the float32 model predicts
    #[arg(long, hide = true, value_name = "FILE")]
    kl_base: Option<PathBuf>,
    /// Token with which each of its chunks begins
    #[arg(long, hide = true, value_name = "TOKEN", requires = "kl_base")]
    kl_begin: Option<u32>,
}

impl BenchArgs {
    /// The checked measurements.
    ///
    /// # Errors
    /// A sentence that names the option, what it takes and what it got.
    fn setup(&self) -> Result<Setup, String> {
        let list = |option: &str, numbers: &[usize], least: usize, most: usize| {
            if numbers.len() > LIST_MAX {
                return Err(format!(
                    "{option}: at most {LIST_MAX} numbers, found {}",
                    numbers.len()
                ));
            }
            match numbers
                .iter()
                .find(|number| !(least..=most).contains(*number))
            {
                Some(number) => Err(format!(
                    "{option}: expected {least}..={most}, found {number}"
                )),
                None => Ok(numbers.to_vec()),
            }
        };
        let threads = match self.threads {
            Some(threads) => threads.get(),
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        if self.against == Some(Against::OneThread) && threads == 1 {
            return Err(
                "--against one-thread: expected --threads 2 or more beside it, found 1".to_owned(),
            );
        }
        Ok(Setup {
            threads,
            spin: match self.spin {
                Spin::Off => llmasos_engine::Spin::Off,
                Spin::Short => llmasos_engine::Spin::Short,
                Spin::On => llmasos_engine::Spin::On,
            },
            isa: self.isa,
            graph: match self.graph {
                Graph::Best => GraphChoice::Best,
                Graph::Fused => GraphChoice::Fused,
                Graph::Portable => GraphChoice::Portable,
            },
            prompts: list("--prompt", &self.prompt, 1, TOKENS_MAX)?,
            generated: list("--gen", &[self.generated], 2, TOKENS_MAX)?[0],
            depths: list("--depth", &self.depth, 0, TOKENS_MAX)?,
            concurrency: list("--concurrency", &self.concurrency, 1, REQUESTS_MAX)?,
        })
    }

    /// What is wrong about measuring this model so, if anything is.
    fn misfit(&self, models: &Models) -> Option<String> {
        let name = &self.name;
        if super::is_folder(name) {
            if !Path::new(name).join("llmasos.json").is_file() {
                return Some(format!(
                    "{name}: expected a model folder with llmasos.json, found none there. Next: `llmasos compress` or `llmasos model \
                     import` makes one."
                ));
            }
            let rival = match self.against? {
                Against::Gguf => "gguf",
                Against::Genai => "genai",
                Against::OneThread => return None,
            };
            return Some(format!(
                "--against {rival} needs a name of the catalogue, found the folder {name}: where its weights came from is not on this \
                 computer. Next: `llmasos model list` prints the names."
            ));
        }
        let role = models.catalogue().get(name).ok()?.role;
        (role != Role::Language).then(|| {
            format!(
                "{name} is for {}, and only language models are measured here. Next: `llmasos model list` shows what each is for; \
                 `llmasos bench nodes` measures the others.",
                role.name()
            )
        })
    }
}

/// The folder of a name or path.
fn folder(models: &mut Models, word: &str, reporter: &mut dyn Reporter) -> anyhow::Result<PathBuf> {
    match super::is_folder(word) {
        true => Ok(PathBuf::from(word)),
        false => model::folder(models, word, reporter),
    }
}

/// Runs the verb.
pub(super) fn bench(
    models: &mut Models,
    args: &BenchArgs,
    all: &super::Args,
    cancel: Cancel,
) -> anyhow::Result<ExitCode> {
    let is_folder = super::is_folder(&args.name);
    let setup = match args.misfit(models).map_or_else(|| args.setup(), Err) {
        Ok(setup) => setup,
        Err(problem) => {
            writeln!(std::io::stderr(), "error: {problem}")?;
            return Ok(ExitCode::from(super::EXIT_USAGE));
        }
    };
    if let Some(phase) = args.one_profile {
        let dir = folder(models, &args.name, &mut Silent { cancel })?;
        writeln!(std::io::stdout(), "{}", one_profile(&dir, &setup, phase)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.one_round {
        let dir = folder(models, &args.name, &mut Silent { cancel })?;
        let reference = args.kl_base.as_ref().map(|base| Reference {
            base: base.clone(),
            begin: args.kl_begin,
        });
        writeln!(
            std::io::stdout(),
            "{}",
            one_round(&dir, &setup, reference.as_ref())?
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut reporter = Console::new(cancel);
    if !is_folder && let Some(line) = models.plan(&[&args.name])?.announcement() {
        writeln!(std::io::stderr(), "{line}")?;
    }
    folder(models, &args.name, &mut reporter)?;
    let plan = Plan {
        name: &args.name,
        setup,
        rounds: usize::from(args.rounds),
        has_profile: args.profile,
        against: args.against,
        catalogues: &all.catalogue,
    };
    let measured = measure(models, &plan, &mut reporter)?;
    let mut out = std::io::stdout().lock();
    if all.json {
        for object in measured.objects() {
            writeln!(out, "{object}")?;
        }
    } else {
        let spin = format!("{:?}", plan.setup.spin).to_lowercase();
        let (threads, rounds) = (plan.setup.threads, plan.rounds);
        writeln!(
            out,
            "{}: {threads} threads, spinning {spin}, medians [smallest, largest] of {rounds} rounds",
            plan.name
        )?;
        for line in measured.lines() {
            writeln!(out, "{line}")?;
        }
    }
    if cfg!(debug_assertions) {
        let text =
            "these are figures of a debug build; for real ones: cargo run --release -- model bench";
        writeln!(std::io::stderr(), "warning: {text} {}", args.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn setup(words: &[&str]) -> Result<Setup, String> {
        let line = Line::try_parse_from(["bench", "smollm2"].iter().chain(words))
            .map_err(|error| error.to_string())?;
        line.args.setup()
    }

    #[test]
    fn lists_and_defaults() {
        let found = setup(&[]).unwrap();
        assert_eq!(
            (found.prompts, found.depths, found.generated),
            (vec![128, 512], vec![0, 512], 64)
        );
        let found = setup(&[
            "--threads",
            "3",
            "--prompt",
            "7",
            "--depth",
            "0,1,2",
            "--isa",
            "avx512-vnni",
        ])
        .unwrap();
        assert_eq!(
            (found.threads, found.prompts, found.depths),
            (3, vec![7], vec![0, 1, 2])
        );
        assert_eq!(found.isa, Isa::Avx512Vnni);
    }

    #[test]
    fn wrong_options_say_what_they_take() {
        const CASES: &[(&[&str], &str)] = &[
            (&["--prompt", "0"], "--prompt: expected 1..=131072, found 0"),
            (
                &["--prompt", "1,2,3,4,5,6,7,8,9"],
                "--prompt: at most 8 numbers, found 9",
            ),
            (&["--gen", "1"], "--gen: expected 2..="),
            (
                &["--concurrency", "100"],
                "--concurrency: expected 1..=64, found 100",
            ),
            (&["--depth", "many"], "invalid value 'many'"),
            (&["--threads", "0"], "--threads"),
            (
                &["--against", "one-thread", "--threads", "1"],
                "--against one-thread: expected --threads 2 or more",
            ),
            (&["--isa", "avx3"], "avx512-vnni"),
            (&["--spin", "fast"], "short"),
            (&["--rounds", "0"], "1..=1000"),
            (&["--against", "ollama"], "gguf"),
            (&["--kl-begin", "1"], "--kl-base"),
        ];
        for (words, expected) in CASES {
            let error = setup(words).unwrap_err();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }
}
