//! A session: one graph, opened from a file, checked against what its caller relies on, and run.
//!
//! A run belongs to the thread that calls it and can hang there (a damaged graph with an endless loop, a computer that
//! swaps). [`Terminator`] is the other thread's handle: ONNX Runtime looks at it between two operators.

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::logging::LogLevel;
use ort::operator::OperatorDomain;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, RunOptions, SessionInputValue};

use crate::error::{EngineError, Result};
use crate::runtime::{Runtime, SHORT_SPIN_US, Spin, clip};
use crate::tensor::{Declared, Side, check};
pub use crate::tensor::{Dim, Feed, Held, Kind, MAX_RANK, Outputs, SessionSpec, TensorSpec, View};

/// Largest graph file, without external weights: protobuf cannot describe more.
pub const MAX_GRAPH_BYTES: u64 = 2 << 30;

/// What ONNX Runtime says about a broken graph can be longer than the graph.
const MAX_REASON_BYTES: usize = 1_024;

/// Which threads run a session's operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// The calling thread alone: for models so small that sharing costs more than it gives, such as voice activity.
    Single,
    /// The calling thread and the shared pool.
    #[default]
    Shared,
    /// The calling thread and, under [`Spin::Short`], workers of its own that wait spinning for the next operator; the
    /// shared pool otherwise. For sessions that start hundreds of small operators per answer, such as token decoding.
    Eager,
}

/// One opened graph. Running it needs it mutable: a session belongs to one thread at a time.
pub struct Session {
    model: String,
    graph: ort::session::Session,
    stop: Arc<Stop>,
}

/// The end of a run, shared between a session and its terminators.
struct Stop {
    options: RunOptions,
    requested: AtomicBool,
}

impl Session {
    /// Opens a graph and checks its inputs and outputs.
    ///
    /// `model` is the name that appears in errors.
    ///
    /// # Errors
    /// [`EngineError::File`] and [`EngineError::FileTooLarge`] for the file, [`EngineError::Load`] for a graph that ONNX
    /// Runtime refuses, [`EngineError::TensorName`] and [`EngineError::Tensor`] where it differs from `spec`.
    pub fn open(
        runtime: &Runtime,
        model: &str,
        path: &Path,
        spec: &SessionSpec<'_>,
        threads: Threads,
    ) -> Result<Self> {
        Self::open_with(runtime, model, path, spec, threads, None)
    }

    /// The same with operators of our own.
    pub(crate) fn open_with(
        runtime: &Runtime,
        model: &str,
        path: &Path,
        spec: &SessionSpec<'_>,
        threads: Threads,
        operators: Option<OperatorDomain>,
    ) -> Result<Self> {
        check_file(path)?;
        let refused = |reason: &str| EngineError::Load {
            model: model.to_owned(),
            path: path.to_path_buf(),
            reason: clip(reason, MAX_REASON_BYTES).to_owned(),
        };
        // The binding panics on types it has no name for, which a hostile graph can declare.
        let graph = catch_unwind(AssertUnwindSafe(|| {
            commit(runtime, path, threads, operators)
        }))
        .map_err(|_| refused("it declares an input or output of a type that cannot be read"))?
        .map_err(|error| refused(error.message()))?;
        let options = RunOptions::new().map_err(|error| refused(error.message()))?;
        let declared =
            |outlets: &[ort::value::Outlet]| outlets.iter().map(Declared::from).collect::<Vec<_>>();
        check(model, Side::Input, spec.inputs, &declared(graph.inputs()))?;
        check(
            model,
            Side::Output,
            spec.outputs,
            &declared(graph.outputs()),
        )?;
        Ok(Self {
            model: model.to_owned(),
            graph,
            stop: Arc::new(Stop {
                options,
                requested: AtomicBool::new(false),
            }),
        })
    }

    /// Runs the graph once. A termination asked for before this call has no effect on it.
    ///
    /// # Errors
    /// [`EngineError::Tensor`] for a feed whose axes and elements disagree, [`EngineError::Run`] when ONNX Runtime refuses
    /// or fails, [`EngineError::Terminated`] when it was ended through a [`Terminator`].
    pub fn run<'s>(&'s mut self, feeds: &[Feed<'_>]) -> Result<Outputs<'s>> {
        self.stop.reset(&self.model)?;
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
            Vec::with_capacity(feeds.len());
        for feed in feeds {
            inputs.push((Cow::Borrowed(feed.name()), feed.value(&self.model)?));
        }
        match self.graph.run_with_options(inputs, &self.stop.options) {
            Ok(values) => Ok(Outputs::new(&self.model, values)),
            Err(error) => Err(self.stop.reason(&self.model, &error)),
        }
    }

    /// A handle that ends a run from another thread. It stays valid for all runs of this session.
    #[must_use]
    pub fn terminator(&self) -> Terminator {
        Terminator(Arc::clone(&self.stop))
    }

    /// The name it was opened with.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Buffers that stay bound between runs.
    pub(crate) fn binding(&self) -> Result<IoBinding> {
        self.graph
            .create_binding()
            .map_err(|error| self.failed(&error))
    }

    /// Forgets terminations asked for until now. [`Session::run`] does so itself; [`Session::run_bound`] does not, so that
    /// one termination ends a whole generation, in whichever of its runs it arrives.
    pub(crate) fn forget_termination(&self) -> Result<()> {
        self.stop.reset(&self.model)
    }

    /// Runs with bound buffers.
    pub(crate) fn run_bound(&mut self, binding: &IoBinding) -> Result<()> {
        match self
            .graph
            .run_binding_with_options(binding, &self.stop.options)
        {
            Ok(_) => Ok(()),
            Err(error) => Err(self.stop.reason(&self.model, &error)),
        }
    }

    /// An error of ONNX Runtime outside a run, such as an allocation.
    pub(crate) fn failed(&self, error: &ort::Error) -> EngineError {
        EngineError::Run {
            model: self.model.clone(),
            reason: clip(error.message(), MAX_REASON_BYTES).to_owned(),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Stop {
    fn reset(&self, model: &str) -> Result<()> {
        self.requested.store(false, Ordering::SeqCst);
        self.options
            .unterminate()
            .map_err(|error| EngineError::Run {
                model: model.to_owned(),
                reason: error.message().to_owned(),
            })
    }

    fn reason(&self, model: &str, error: &ort::Error) -> EngineError {
        if self.requested.load(Ordering::SeqCst) {
            return EngineError::Terminated {
                model: model.to_owned(),
            };
        }
        EngineError::Run {
            model: model.to_owned(),
            reason: clip(error.message(), MAX_REASON_BYTES).to_owned(),
        }
    }
}

/// Ends the run of a session from another thread, for a watchdog. The run returns [`EngineError::Terminated`] before its
/// next operator; one operator cannot be interrupted.
#[derive(Clone)]
pub struct Terminator(Arc<Stop>);

impl Terminator {
    /// Asks the run that goes on now to end. Returns at once.
    pub fn terminate(&self) {
        self.0.requested.store(true, Ordering::SeqCst);
        if let Err(error) = self.0.options.terminate() {
            tracing::error!("a run could not be ended: {error}");
        }
    }
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator")
            .field("requested", &self.0.requested)
            .finish()
    }
}

fn check_file(path: &Path) -> Result<()> {
    let wrong = |reason: String| EngineError::File {
        path: path.to_path_buf(),
        reason,
    };
    let meta = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if !meta.is_file() {
        return Err(wrong("is not a file".to_owned()));
    }
    if meta.len() > MAX_GRAPH_BYTES {
        return Err(EngineError::FileTooLarge {
            path: path.to_path_buf(),
            found_bytes: meta.len(),
            limit_bytes: MAX_GRAPH_BYTES,
        });
    }
    Ok(())
}

/// A function of its own because the builder's errors carry the builder and become plain ones only here.
fn commit(
    runtime: &Runtime,
    path: &Path,
    threads: Threads,
    operators: Option<OperatorDomain>,
) -> ort::Result<ort::session::Session> {
    let options = runtime.options();
    let mut builder = ort::session::Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_log_level(LogLevel::Warning)?
        // Memory patterns are kept per input shape and never dropped: with prompts and audio of any length they only grow.
        .with_memory_pattern(false)?;
    builder = match (threads, options.spin) {
        (Threads::Single, _) => builder
            .with_independent_thread_pool()?
            .with_intra_threads(1)?,
        (Threads::Eager, Spin::Short) if options.threads > 1 => builder
            .with_independent_thread_pool()?
            .with_intra_threads(options.threads)?
            .with_intra_op_spinning(true)?
            .with_config_entry(
                "session.intra_op.spin_duration_us",
                SHORT_SPIN_US.to_string(),
            )?,
        (Threads::Eager | Threads::Shared, _) => builder,
    };
    if let Some(profile) = &options.profile {
        builder = builder.with_profiling(profile)?;
    }
    if let Some(operators) = operators {
        builder = builder.with_operators(operators)?;
    }
    builder.commit_from_file(path)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::runtime::tests::runtime;
    use crate::tiny_graph;

    const ROW: [Dim; 2] = [Dim::Is(1), Dim::Any];
    const ADD: SessionSpec<'static> = SessionSpec {
        inputs: &[
            TensorSpec::new("x", Kind::F32, &ROW),
            TensorSpec::new("y", Kind::F32, &ROW),
        ],
        outputs: &[TensorSpec::new("sum", Kind::F32, &ROW)],
    };
    const LOOP: SessionSpec<'static> = SessionSpec {
        inputs: &[TensorSpec::new("x", Kind::F32, &[Dim::Is(1)])],
        outputs: &[TensorSpec::new("y", Kind::F32, &[Dim::Is(1)])],
    };

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn open(content: &[u8], spec: &SessionSpec<'_>, threads: Threads) -> Result<Session> {
        let (_dir, path) = file(content);
        Session::open(&runtime(), "adder", &path, spec, threads)
    }

    #[test]
    fn a_graph_runs_on_every_choice_of_threads() {
        for threads in [Threads::Single, Threads::Shared, Threads::Eager] {
            let mut session = open(&tiny_graph::add(), &ADD, threads).unwrap();
            let outputs = session
                .run(&[
                    Feed::f32("x", &[1, 2], &[1.0, 2.0]),
                    Feed::f32("y", &[1, 2], &[10.0, 20.0]),
                ])
                .unwrap();
            let sum = outputs.f32("sum").unwrap();
            assert_eq!(
                (sum.dims, sum.data),
                (&[1, 2][..], &[11.0, 22.0][..]),
                "{threads:?}"
            );
        }
    }

    #[test]
    fn an_output_can_be_taken_and_fed_again() {
        let mut session = open(&tiny_graph::add(), &ADD, Threads::Single).unwrap();
        let one = [1.0];
        let mut outputs = session
            .run(&[Feed::f32("x", &[1, 1], &one), Feed::f32("y", &[1, 1], &one)])
            .unwrap();
        let held = outputs.take("sum").unwrap();
        assert!(matches!(
            outputs.take("sum"),
            Err(EngineError::TensorName { .. })
        ));
        drop(outputs);
        let outputs = session
            .run(&[Feed::held("x", &held), Feed::held("y", &held)])
            .unwrap();
        assert_eq!(outputs.f32("sum").unwrap().data, [4.0]);
        assert_eq!(held.f32().unwrap().data, [2.0]);
    }

    #[test]
    fn outputs_and_feeds_that_are_not_there_have_names() {
        let mut session = open(&tiny_graph::add(), &ADD, Threads::Single).unwrap();
        let feeds = [
            Feed::f32("x", &[1, 1], &[1.0]),
            Feed::f32("y", &[1, 1], &[1.0]),
        ];
        assert!(
            matches!(session.run(&feeds[..1]), Err(EngineError::Run { .. })),
            "y is missing"
        );
        let outputs = session.run(&feeds).unwrap();
        for name in ["", "difference"] {
            assert!(
                matches!(outputs.f32(name), Err(EngineError::TensorName { .. })),
                "{name:?}"
            );
        }
        let error = outputs.i64("sum").unwrap_err().to_string();
        assert!(
            error.contains("expected i64") && error.contains("f32"),
            "{error}"
        );
        drop(outputs);
        let unequal = [
            Feed::f32("x", &[1, 2], &[1.0, 1.0]),
            Feed::f32("y", &[1, 3], &[1.0; 3]),
        ];
        let error = session.run(&unequal).unwrap_err().to_string();
        assert!(error.contains("adder"), "{error}");
    }

    #[test]
    fn a_graph_that_differs_from_the_spec_is_refused() {
        let three = SessionSpec {
            inputs: &[TensorSpec::new(
                "x",
                Kind::F32,
                &[Dim::Is(1), Dim::Any, Dim::Any],
            )],
            ..ADD
        };
        let error = open(&tiny_graph::add(), &three, Threads::Single)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "model adder: input x: expected f32[1,?,?], found f32[1,?]"
        );
    }

    #[test]
    fn damaged_graphs_are_errors_with_the_model_s_name() {
        let whole = tiny_graph::add();
        for length in 0..whole.len() {
            let error = open(&whole[..length], &ADD, Threads::Single)
                .expect_err("a part is not the whole")
                .to_string();
            assert!(error.contains("adder"), "{length} bytes: {error}");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                // Some flips only rename a node: what counts is that none of them brings the process down.
                if let Ok(mut session) = open(&damaged, &ADD, Threads::Single) {
                    let _ = session.run(&[
                        Feed::f32("x", &[1, 1], &[1.0]),
                        Feed::f32("y", &[1, 1], &[1.0]),
                    ]);
                }
            }
        }
    }

    #[test]
    fn files_that_are_no_graphs_are_refused_before_they_are_read() {
        let runtime = runtime();
        let dir = tempfile::tempdir().unwrap();
        let open =
            |path: &Path| Session::open(&runtime, "m", path, &ADD, Threads::Single).unwrap_err();
        assert!(matches!(
            open(&dir.path().join("absent.onnx")),
            EngineError::File { .. }
        ));
        assert!(matches!(open(dir.path()), EngineError::File { .. }));
        let large = dir.path().join("large.onnx");
        std::fs::File::create(&large)
            .unwrap()
            .set_len(MAX_GRAPH_BYTES + 1)
            .unwrap();
        assert!(matches!(open(&large), EngineError::FileTooLarge { .. }));
    }

    #[test]
    fn a_run_that_does_not_end_can_be_ended_and_the_session_lives() {
        let mut session = open(&tiny_graph::endless(i64::MAX), &LOOP, Threads::Single).unwrap();
        let terminator = session.terminator();
        // Asked for before a run: belongs to no run, so this one starts and has to be ended again.
        terminator.terminate();
        let begun = Instant::now();
        let watchdog = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            terminator.terminate();
        });
        let error = session.run(&[Feed::f32("x", &[1], &[1.0])]).err();
        assert!(
            matches!(error, Some(EngineError::Terminated { .. })),
            "{error:?}"
        );
        assert!(
            begun.elapsed() >= Duration::from_millis(50),
            "it ran until it was ended"
        );
        watchdog.join().unwrap();
        let mut short = open(&tiny_graph::endless(3), &LOOP, Threads::Single).unwrap();
        let x = short
            .run(&[Feed::f32("x", &[1], &[0.0])])
            .unwrap()
            .f32("y")
            .unwrap()
            .data[0];
        assert!((x - 1.0_f32.cos().cos()).abs() < 1e-6, "{x}");
    }
}
