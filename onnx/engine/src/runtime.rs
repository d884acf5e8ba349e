//! ONNX Runtime, started once for the process: one environment, one pool of inference threads, no telemetry.
//!
//! Sessions share the pool, so that the sum of inference threads is a number somebody chose. How idle pool threads wait
//! is a choice too, because it is paid in processor time around the clock. Measured with ONNX Runtime 1.32 (processor
//! time of an idle thread after the last operator):
//!
//! | | shared pool | threads of one session |
//! |---|---|---|
//! | spinning off | 0.1 ms | 0.1 ms |
//! | spinning on | 45 ms, no other duration can be set | 45 ms |
//! | `session.intra_op.spin_duration_us` = 200 | ignored | 0.1–2 ms |
//!
//! A language model starts hundreds of small operators a token, so waking a sleeping thread for each costs about a third
//! of its speed; a voice detector that runs every 32 ms would keep a spinning pool at full load for ever. So [`Spin::Short`]
//! means: the shared pool sleeps, and only sessions that ask for it ([`Threads::Eager`](crate::session::Threads::Eager), the
//! token decoder) get workers of their own, which spin [`SHORT_SPIN_US`] and then sleep.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use llmasos_kernels::Isa;
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use crate::error::{EngineError, Result};

/// Path of the library that the build script fetched, if it did. Whether it is used is up to the caller: this crate reads
/// no environment.
pub const BUILT_LIBRARY: Option<&str> = if BUILT.is_empty() { None } else { Some(BUILT) };
const BUILT: &str = env!("LLMASOS_BUILT_LIBRARY");

/// How long a worker of an eager session spins under [`Spin::Short`] before it sleeps: longer than the gap between two
/// operators or between two tokens (sampling and grammar, well under 1 ms), far shorter than the pause between answers.
pub const SHORT_SPIN_US: u32 = 1_000;

/// More inference threads than any computer this is for has cores.
pub const MAX_THREADS: usize = 256;

/// A log message of ONNX Runtime is cut after this many bytes: some contain whole graphs.
const MAX_LOG_BYTES: usize = 2_048;

/// What an inference thread does when it has no work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// Sleep at once: least processor time, slowest token decoding.
    Off,
    /// Spin for at most [`SHORT_SPIN_US`] while tokens are being decoded, otherwise sleep.
    #[default]
    Short,
    /// Spin about 45 ms after each piece of work, in the shared pool, for all sessions: fastest on a computer that does
    /// nothing else.
    On,
}

/// How the runtime is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// `libonnxruntime.so`, version 1.17 or later.
    pub library: PathBuf,
    /// Threads of the pool including the calling one, 1..=[`MAX_THREADS`].
    pub threads: usize,
    /// What they do when idle.
    pub spin: Spin,
    /// Instructions of the operators of our own; this computer must have them.
    pub isa: Isa,
    /// Beginning of the names of files into which sessions write what each operator took, when they are closed.
    pub profile: Option<PathBuf>,
}

impl fmt::Display for RuntimeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} threads, spinning {:?}, {}, from {}",
            self.threads,
            self.spin,
            self.isa,
            self.library.display()
        )
    }
}

/// The running ONNX Runtime. Cheap to clone; it lives until the process ends.
#[derive(Clone)]
pub struct Runtime(Arc<Started>);

struct Started {
    environment: Environment,
    options: RuntimeOptions,
}

/// The one environment of the process. ONNX Runtime's own global state outlives any value that could be dropped, so this
/// holds it for good.
static STARTED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the library and starts it, or returns the one that runs already when the options agree.
    ///
    /// # Errors
    /// [`EngineError::Option`] for a thread count out of range, [`EngineError::Library`] when the library cannot be loaded,
    /// [`EngineError::AlreadyStarted`] when one with other options runs in this process.
    pub fn start(options: &RuntimeOptions) -> Result<Runtime> {
        if !(1..=MAX_THREADS).contains(&options.threads) {
            return Err(EngineError::Option {
                option: "threads",
                expected: format!("1..={MAX_THREADS}"),
                found: options.threads.to_string(),
            });
        }
        if !options.isa.is_available() {
            return Err(EngineError::Option {
                option: "isa",
                expected: format!("at most {}, the best of this processor", Isa::detect()),
                found: options.isa.to_string(),
            });
        }
        let options = RuntimeOptions {
            library: resolved(&options.library)?,
            ..options.clone()
        };
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = started.as_ref() {
            if running.0.options == options {
                return Ok(running.clone());
            }
            return Err(EngineError::AlreadyStarted {
                running: running.0.options.to_string(),
                asked: options.to_string(),
            });
        }
        let environment = start_environment(&options)?;
        let runtime = Runtime(Arc::new(Started {
            environment,
            options,
        }));
        Ok(started.insert(runtime).clone())
    }

    /// The options it was started with; the library's path is resolved.
    #[must_use]
    pub fn options(&self) -> &RuntimeOptions {
        &self.0.options
    }

    /// Version and build flags as the library reports them.
    #[must_use]
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.0.environment
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Runtime").field(&self.0.options).finish()
    }
}

/// An absolute path for a file; a bare name stays as it is, for the loader to search.
fn resolved(library: &Path) -> Result<PathBuf> {
    if library.components().count() == 1 && !library.is_absolute() {
        return Ok(library.to_path_buf());
    }
    std::fs::canonicalize(library).map_err(|error| EngineError::Library {
        path: library.to_path_buf(),
        reason: error.to_string(),
    })
}

fn start_environment(options: &RuntimeOptions) -> Result<Environment> {
    let builder = ort::init_from(&options.library).map_err(|error| EngineError::Library {
        path: options.library.clone(),
        reason: error.to_string(),
    })?;
    let pool = || -> ort::Result<GlobalThreadPoolOptions> {
        GlobalThreadPoolOptions::default()
            .with_intra_threads(options.threads)?
            .with_inter_threads(1)?
            .with_spin_control(options.spin == Spin::On)
    };
    let build = || -> ort::Result<Environment> {
        let environment = builder
            .with_name("llmasos")
            .with_telemetry(false)
            .with_global_thread_pool(pool()?)
            .with_logger(Arc::new(log))
            .build()?;
        environment.set_log_level(LogLevel::Warning);
        Ok(environment)
    };
    build().map_err(|error| EngineError::Start {
        reason: error.to_string(),
    })
}

/// Passes warnings and worse on to `tracing`; ONNX Runtime's information level is a message per operator.
fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    let message = clip(message, MAX_LOG_BYTES);
    match level {
        LogLevel::Verbose | LogLevel::Info => {}
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", location, "{message}"),
        LogLevel::Error | LogLevel::Fatal => {
            tracing::error!(target: "onnxruntime", location, "{message}")
        }
    }
}

/// The longest prefix of at most `limit` bytes that ends between two characters.
pub(crate) fn clip(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The runtime all tests of this crate share: two threads, as on the smallest computer this is for.
    pub(crate) fn runtime() -> Runtime {
        let library = BUILT_LIBRARY.expect("the build script fetched ONNX Runtime");
        Runtime::start(&RuntimeOptions {
            library: library.into(),
            threads: 2,
            spin: Spin::Short,
            isa: Isa::detect(),
            profile: None,
        })
        .unwrap()
    }

    #[test]
    fn a_second_start_with_equal_options_is_the_same_runtime() {
        assert!(Arc::ptr_eq(&runtime().0, &runtime().0));
    }

    #[test]
    fn a_second_start_with_other_options_is_refused() {
        let running = runtime();
        for options in [
            RuntimeOptions {
                threads: 3,
                ..running.options().clone()
            },
            RuntimeOptions {
                spin: Spin::On,
                ..running.options().clone()
            },
        ] {
            let error = Runtime::start(&options).unwrap_err();
            assert!(
                matches!(error, EngineError::AlreadyStarted { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn bad_options_have_names() {
        let none = RuntimeOptions {
            library: "/nowhere/libonnxruntime.so".into(),
            threads: 0,
            spin: Spin::Off,
            isa: Isa::Portable,
            profile: None,
        };
        assert!(matches!(
            Runtime::start(&none),
            Err(EngineError::Option {
                option: "threads",
                ..
            })
        ));
        let absent = RuntimeOptions { threads: 2, ..none };
        let error = Runtime::start(&absent).unwrap_err().to_string();
        assert!(
            error.contains("/nowhere/libonnxruntime.so") && error.contains("ORT_DYLIB_PATH"),
            "{error}"
        );
    }

    #[test]
    fn a_clipped_message_ends_between_characters() {
        assert_eq!(clip("aé", 2), "a");
        assert_eq!(clip("aé", 3), "aé");
        assert_eq!(clip("a", 10), "a");
    }
}
