//! onnxruntime-genai as the rival: the same runtime and the same graph, another loop around it.
//!
//! It is a Python package, so a script runs it in a virtual environment of its own and prints a round of speeds. ONNX Runtime chooses its
//! instructions itself and cannot be pinned, so there is one column for the computer's best.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{
    Work,
    series::Round,
    tools::{self, list},
};
use crate::models::{FetchPolicy, Models, Reporter};

/// Name in results.
pub(super) const NAME: &str = "genai";
/// What is installed.
const PACKAGES: [&str; 3] = ["onnxruntime-genai==0.18.0", "onnx==1.23.2", "numpy==2.4.6"];
const VERSION: &str = "0.18.0";
/// What is run.
const SCRIPT: &str = include_str!("genai.py");

/// An installed onnxruntime-genai and the model it runs.
#[derive(Debug)]
pub(super) struct Genai {
    dir: PathBuf,
    folder: PathBuf,
    name: String,
    threads: usize,
}

impl Genai {
    /// Installs what is missing.
    ///
    /// # Errors
    /// When Python cannot fetch the packages.
    pub(super) fn prepare(
        models: &mut Models,
        name: &str,
        threads: usize,
        reporter: &mut dyn Reporter,
    ) -> Result<Genai> {
        let folder = models.ensure(name, FetchPolicy::Auto, reporter)?;
        let id = format!("genai-{VERSION}");
        let peer = ("onnxruntime-genai", id.as_str());
        let dir = tools::python_peer(models, peer, &PACKAGES, reporter)?;
        let script = dir.join("genai.py");
        fs::write(&script, SCRIPT).with_context(|| format!("writing {}", script.display()))?;
        Ok(Genai {
            dir,
            folder,
            name: name.to_owned(),
            threads,
        })
    }

    /// Speeds of one round.
    ///
    /// # Errors
    /// When the script fails or prints something else.
    pub(super) fn speeds(&self, work: Work<'_>) -> Result<Round> {
        let command = self.command(work);
        let (stdout, _) = tools::output(command, "onnxruntime-genai")?;
        serde_json::from_str(&stdout)
            .with_context(|| format!("the script of onnxruntime-genai printed {stdout:?}"))
    }

    fn command(&self, work: Work<'_>) -> Command {
        let scratch = self.dir.join("models").join(Path::new(&self.name));
        let mut command = Command::new(self.dir.join("venv/bin/python"));
        command.arg(self.dir.join("genai.py"));
        command.arg(&self.folder).arg(scratch);
        command.args([
            self.threads.to_string(),
            list(work.prompts),
            work.generated.to_string(),
            list(work.depths),
        ]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_gets_what_ours_measures() {
        let genai = Genai {
            dir: "/cache/peers/genai".into(),
            folder: "/cache/models/m".into(),
            name: "m".into(),
            threads: 2,
        };
        let work = Work {
            prompts: &[128, 512],
            generated: 64,
            depths: &[0],
        };
        let command = genai.command(work);
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let expected = [
            "/cache/peers/genai/genai.py",
            "/cache/models/m",
            "/cache/peers/genai/models/m",
            "2",
            "128,512",
            "64",
            "0",
        ];
        assert_eq!(words, expected);
    }
}
