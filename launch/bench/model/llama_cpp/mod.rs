//! llama.cpp as the rival: built once from pinned sources, given the same weights, pinned to the same instruction set, asked in turn.
//!
//! One build makes its programs and three CPU backends as libraries that are loaded at run time. llama.cpp looks for them beside its
//! programs and in the working directory, so each backend lies in a folder of its own, and the working directory chooses. That the right
//! one was taken is read from what it says about itself.
//!
//! ```text
//!   <cache>/peers/llama-cpp-0.3.36/
//!     source/            unpacked and changed (source.rs)          programs, built once: build/bin/llama-{bench,quantize,perplexity}
//!     cpu/avx2|avx512-vnni|amx/libggml-cpu-*.so                    one folder, one backend
//!     weights/           F32 and Q4_0 of a model (weights.rs)      kl/  what the F32 model predicts (kl.rs)
//!     tools/             cmake and ninja, where this computer has none
//!     build.log          what was said while it was built
//! ```

mod source;
mod speed;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::{
    Work,
    isa::Isa,
    kl::printed_mean,
    prompt::PROSE,
    series::Round,
    tools::{self, BuildTools, list},
};
use crate::models::{Distribution, Event, FetchPolicy, Models, Pin, Reporter};
pub(super) use speed::keep_better;
pub(super) use weights::Weights;

/// Name in results.
pub(super) const NAME: &str = "llama.cpp";
/// The Python binding: of its distributions only this one has the sources of llama.cpp.
const PACKAGE: &str = "llama-cpp-python";
const VERSION: &str = "0.3.36";
const FILE: &str = "llama_cpp_python-0.3.36.tar.gz";
const BYTES: u64 = 76_589_250;
const SHA256: &str = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e";
/// Processor time of the build, for the announcement.
const BUILD_MINUTES: u32 = 17;
/// Changes when the same sources must be built anew.
const REVISION: &str = "1";
/// Its presence says that the build is whole.
const MARK: &str = "built";
/// Programs that are built.
const PROGRAMS: [&str; 3] = ["llama-bench", "llama-quantize", "llama-perplexity"];
/// Tokens of a chunk of the divergence; the text has four of them.
const KL_CONTEXT: usize = 256;

/// Instruction set, name of llama.cpp's backend, features it must name, features it must not name.
const BACKENDS: [(Isa, &str, &[&str], &[&str]); 3] = [
    (Isa::Avx2, "haswell", &["AVX2"], &["AVX512", "AMX_INT8"]),
    (
        Isa::Avx512Vnni,
        "icelake",
        &["AVX512", "AVX512_VNNI"],
        &["AMX_INT8"],
    ),
    (
        Isa::Amx,
        "sapphirerapids",
        &["AVX512_VNNI", "AMX_INT8"],
        &[],
    ),
];

/// What is built with, and what is left out: everything that is not needed to run a model on the processor.
const OPTIONS: [&str; 14] = [
    "CMAKE_BUILD_TYPE=Release",
    "GGML_NATIVE=OFF",
    "GGML_BACKEND_DL=ON",
    "GGML_CPU_ALL_VARIANTS=ON",
    "GGML_CCACHE=OFF",
    "LLAMA_CURL=OFF",
    "LLAMA_OPENSSL=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_TOOLS=ON",
];

/// A built llama.cpp with the weights of one model.
#[derive(Debug)]
pub(super) struct LlamaCpp {
    dir: PathBuf,
    weights: Weights,
    threads: usize,
}

/// llama.cpp's own quantizer.
#[derive(Debug)]
pub(crate) struct Quantizer {
    dir: PathBuf,
    threads: usize,
}

impl Quantizer {
    /// Fetches and builds what is missing.
    ///
    /// # Errors
    /// What stops it, with the next step.
    pub(crate) fn prepare(
        models: &mut Models,
        threads: usize,
        reporter: &mut dyn Reporter,
    ) -> Result<Quantizer> {
        if !cfg!(target_arch = "x86_64") {
            bail!(
                "the comparison knows llama.cpp's instruction sets of x86-64 only. Next: leave `--against` out to measure ours alone."
            );
        }
        let dir = models
            .store()
            .root()
            .join("peers")
            .join(format!("llama-cpp-{VERSION}"));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let _held = models
            .store()
            .lock(&format!("llama-cpp-{VERSION}"), reporter)?;
        if fs::read_to_string(dir.join(MARK)).is_ok_and(|mark| mark == REVISION) {
            reporter.event(Event::Note {
                text: &format!("llama.cpp is built: {}", dir.display()),
            });
        } else {
            build(models, &dir, reporter)?;
        }
        Ok(Quantizer { dir, threads })
    }

    /// Quantizes a GGUF file as `kind`, such as `Q4_K_M`; embedding and head get 8 bits, as ours have.
    ///
    /// # Errors
    /// When llama-quantize fails, with the end of its log.
    pub(crate) fn quantize(
        &self,
        from: &Path,
        to: &Path,
        kind: &str,
        reporter: &mut dyn Reporter,
    ) -> Result<()> {
        let mut command = program(&self.dir, "llama-quantize", Isa::Avx2)?;
        command.args([
            "--token-embedding-type",
            "q8_0",
            "--output-tensor-type",
            "q8_0",
        ]);
        command
            .arg(from)
            .arg(to)
            .arg(kind)
            .arg(self.threads.to_string());
        let log = self.dir.join("build.log");
        tools::run(command, "llama-quantize", &log, reporter)
    }
}

impl LlamaCpp {
    /// Fetches, builds and quantizes what is missing.
    ///
    /// # Errors
    /// What stops it, with the next step.
    pub(super) fn prepare(
        models: &mut Models,
        name: &str,
        threads: usize,
        reporter: &mut dyn Reporter,
    ) -> Result<LlamaCpp> {
        let quantizer = Quantizer::prepare(models, threads, reporter)?;
        let dir = quantizer.dir.clone();
        let mut quantize = |from: &Path, to: &Path, reporter: &mut dyn Reporter| {
            quantizer.quantize(from, to, "Q4_0", reporter)
        };
        let weights = weights::make(models, name, &dir.join("weights"), &mut quantize, reporter)?;
        Ok(LlamaCpp {
            dir,
            weights,
            threads,
        })
    }

    /// The token with which llama.cpp begins every text, if it does.
    pub(super) fn begin(&self) -> Option<u32> {
        self.weights.begin
    }

    /// Speeds of one round.
    ///
    /// # Errors
    /// When llama-bench fails or says something else.
    pub(super) fn speeds(&self, isa: Isa, work: Work<'_>) -> Result<Round> {
        let mut round = self.bench(isa, &list(work.prompts), "0", "0")?;
        let generated = work.generated.to_string();
        round.extend(self.bench(isa, "0", &generated, &list(work.depths))?);
        Ok(round)
    }

    fn bench(&self, isa: Isa, prompt: &str, generated: &str, depth: &str) -> Result<Round> {
        let mut command = program(&self.dir, "llama-bench", isa)?;
        command.arg("-m").arg(&self.weights.q4_0);
        command.args([
            "-t",
            &self.threads.to_string(),
            "-fa",
            "0,1",
            "-r",
            "1",
            "-o",
            "json",
        ]);
        command.args(["-p", prompt, "-n", generated, "-d", depth]);
        let (stdout, _) = tools::output(command, "llama-bench")?;
        speed::parse(&stdout)
    }

    /// What the float32 model predicts for the text: a file that is made once.
    ///
    /// # Errors
    /// When llama-perplexity fails.
    pub(super) fn base(&self, isa: Isa, reporter: &mut dyn Reporter) -> Result<PathBuf> {
        let dir = self.dir.join("kl");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let text_sha256 = format!("{:x}", Sha256::digest(PROSE.as_bytes()));
        let model = self
            .weights
            .f32
            .file_stem()
            .unwrap_or_default()
            .display()
            .to_string();
        let base = dir.join(format!("{model}-{}-{KL_CONTEXT}.kl", &text_sha256[..12]));
        if base.is_file() {
            return Ok(base);
        }
        reporter.event(Event::Note {
            text: "llama.cpp predicts the text with the float32 weights",
        });
        let text = dir.join("text.txt");
        fs::write(&text, PROSE).with_context(|| format!("writing {}", text.display()))?;
        let part = base.with_extension("part");
        let mut command = self.perplexity(isa, &self.weights.f32)?;
        command
            .arg("-f")
            .arg(&text)
            .arg("--kl-divergence-base")
            .arg(&part);
        tools::output(command, "llama-perplexity")?;
        fs::rename(&part, &base).with_context(|| format!("renaming {}", part.display()))?;
        Ok(base)
    }

    /// Mean divergence of llama.cpp's Q4_0 from the float32 model, and what its backend says about itself.
    ///
    /// # Errors
    /// When llama-perplexity fails, or another backend was loaded than the instruction set's.
    pub(super) fn divergence(&self, isa: Isa, base: &Path) -> Result<(f64, String)> {
        let mut command = self.perplexity(isa, &self.weights.q4_0)?;
        command
            .arg("--kl-divergence-base")
            .arg(base)
            .arg("--kl-divergence");
        let (stdout, stderr) = tools::output(command, "llama-perplexity")?;
        let all = format!("{stdout}\n{stderr}");
        Ok((printed_mean(&all)?, proven(isa, &all)?))
    }

    fn perplexity(&self, isa: Isa, model: &Path) -> Result<Command> {
        let mut command = program(&self.dir, "llama-perplexity", isa)?;
        command.arg("-m").arg(model);
        command.args([
            "-t",
            &self.threads.to_string(),
            "-c",
            &KL_CONTEXT.to_string(),
        ]);
        Ok(command)
    }
}

/// Whether there is a backend for an instruction set.
///
/// # Errors
/// When there is none, with those that there are.
pub(super) fn require(isa: Isa) -> Result<()> {
    ensure!(
        BACKENDS.iter().any(|(known, ..)| *known == isa),
        "llama.cpp has no backend for --isa {}. Next: one of avx2, avx512-vnni, amx, or auto for all that this computer has.",
        isa.name()
    );
    Ok(())
}

/// A program of llama.cpp that will find the backend of an instruction set and no other.
fn program(dir: &Path, name: &str, isa: Isa) -> Result<Command> {
    require(isa)?;
    let mut command = Command::new(dir.join("build/bin").join(name));
    command.current_dir(dir.join("cpu").join(isa.name()));
    command.env_remove("GGML_BACKEND_PATH");
    Ok(command)
}

/// The features that llama.cpp printed, if they are those of the instruction set.
fn proven(isa: Isa, output: &str) -> Result<String> {
    let line = output
        .lines()
        .find_map(|line| line.split_once("system_info:").map(|(_, rest)| rest.trim()))
        .context("llama.cpp printed no line \"system_info:\"")?;
    let has = |feature: &str| {
        line.split('|')
            .any(|part| part.trim().trim_start_matches("CPU :").trim() == format!("{feature} = 1"))
    };
    let Some((.., wanted, unwanted)) = BACKENDS.iter().find(|(known, ..)| *known == isa) else {
        bail!("llama.cpp has no backend for {}", isa.name());
    };
    ensure!(
        wanted.iter().all(|feature| has(feature)) && !unwanted.iter().any(|feature| has(feature)),
        "llama.cpp was to run with {}: expected the features {wanted:?} and none of {unwanted:?}, found: {line}",
        isa.name()
    );
    Ok(line.to_owned())
}

fn build(models: &mut Models, dir: &Path, reporter: &mut dyn Reporter) -> Result<()> {
    let log = dir.join("build.log");
    tools::new_log(&log)?;
    // Before the download: a computer without a compiler need not wait for it.
    let tools = BuildTools::find(&dir.join("tools"), &log, reporter)?;
    let sources = Distribution {
        package: PACKAGE.into(),
        version: VERSION.into(),
        file: FILE.into(),
        pin: Pin {
            bytes: BYTES,
            sha256: SHA256.into(),
        },
        members: Vec::new(),
    };
    let archive = models.distribution(&sources, FetchPolicy::Auto, reporter)?;
    let (source, out) = (dir.join("source"), dir.join("build"));
    for old in [&source, &out, &dir.join("cpu")] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", old.display()));
            }
            _ => {}
        }
    }
    reporter.event(Event::Unpacking { file: FILE });
    source::unpack(&archive, &source, &BACKENDS.map(|(_, backend, ..)| backend))?;
    let text = format!(
        "building llama.cpp, once: about {BUILD_MINUTES} minutes of processor time; {}",
        log.display()
    );
    reporter.event(Event::Note { text: &text });
    let mut configure = Command::new(&tools.cmake);
    configure
        .args(["-G", "Ninja"])
        .arg("-S")
        .arg(&source)
        .arg("-B")
        .arg(&out);
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", tools.ninja.display()));
    configure.args(OPTIONS.map(|option| format!("-D{option}")));
    tools::run(configure, "cmake", &log, reporter)?;
    let mut compile = Command::new(&tools.ninja);
    compile.arg("-C").arg(&out).args(PROGRAMS);
    tools::run(compile, "ninja", &log, reporter)?;
    for (isa, backend, ..) in BACKENDS {
        let name = format!("libggml-cpu-{backend}.so");
        let folder = dir.join("cpu").join(isa.name());
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // Moved, not copied: what lies beside the programs would be found as well.
        let from = out.join("bin").join(&name);
        fs::rename(&from, folder.join(&name))
            .with_context(|| format!("moving {}", from.display()))?;
    }
    fs::write(dir.join(MARK), REVISION)
        .with_context(|| format!("writing {}", dir.join(MARK).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMX: &str = "0.00.413 I system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1 | \
                       AVX512_VNNI = 1 | AMX_INT8 = 1 | REPACK = 1 | ";
    const AVX2: &str = "system_info: n_threads = 2 / 2 | CPU : AVX2 = 1 | F16C = 1 | ";

    #[test]
    fn a_backend_is_believed_when_it_names_its_features_and_no_wider_ones() {
        let cases = [
            (Isa::Amx, AMX, true),
            (Isa::Avx2, AVX2, true),
            (Isa::Avx2, AMX, false),
            (Isa::Avx512Vnni, AMX, false),
            (Isa::Amx, AVX2, false),
            (Isa::Portable, AVX2, false),
            (Isa::Avx2, "nothing", false),
            (Isa::Avx2, "system_info: AVX2 = 0 |", false),
        ];
        for (isa, output, is_good) in cases {
            assert_eq!(proven(isa, output).is_ok(), is_good, "{isa:?} {output}");
        }
    }

    #[test]
    fn an_instruction_set_without_a_backend_is_refused_with_the_next_step() {
        for isa in [Isa::Auto, Isa::Portable] {
            let error = program(Path::new("/nowhere"), "llama-bench", isa)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(isa.name()) && error.contains("Next:"),
                "{error}"
            );
        }
    }
}
