//! The fused decoder: a graph whose nodes are whole decoder blocks, computed by operators of our own inside ONNX Runtime.
//!
//! Stock operators read 4-bit weights at half the speed of memory and stop between two hundred small kernels; a block in one
//! operator does neither. What the operators compute is in `llmasos-kernels`; here is how they meet ONNX Runtime: weights
//! come as initializers that the runtime maps from the file and are read in place, threads are the session's own, keys and
//! values live in a pool beside the graph that operators reach by the number of their layer, so that nothing is copied or
//! bound anew per token.
//!
//! ```text
//!   input_ids ─► Embedding ─► DecoderBlock 0 ─► … ─► DecoderBlock n ─► Head ─► logits
//!   positions ─► RotaryAngles ──┘ │                    │                ▲
//!   sequences, pages ─────────────┴── pool of pages ───┘        outputs ┘
//! ```

mod block;
mod decoder;
mod ends;
mod inputs;
mod pace;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llmasos_kernels::pool::Pool;
use llmasos_kernels::{Threads, Workspace};
use ort::operator::{ComputeContext, OperatorDomain};

use pace::Pace;

pub(crate) use decoder::{FusedDecoder, Limits};

/// Name of the operators' domain.
const DOMAIN: &str = "llmasos";

/// What the operators of one session share.
pub(crate) struct Shared {
    state: Mutex<State>,
    threads: usize,
}

struct State {
    pool: Pool,
    workspace: Workspace,
    pace: Pace,
}

impl Shared {
    fn new(pool: Pool, workspace: Workspace, threads: usize) -> Arc<Shared> {
        Arc::new(Shared {
            state: Mutex::new(State {
                pool,
                workspace,
                pace: Pace::default(),
            }),
            threads,
        })
    }

    /// Operators of a session run one after the other, so nobody ever waits here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operators, for one session.
fn operators(shared: &Arc<Shared>) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(ends::Embedding)?
        .add(ends::RotaryAngles)?
        .add(block::DecoderBlock(Arc::clone(shared)))?
        .add(ends::Head(Arc::clone(shared)))
}

/// The threads of the session that runs an operator.
struct SessionThreads<'a> {
    context: &'a ComputeContext,
    count: usize,
}

impl Threads for SessionThreads<'_> {
    fn count(&self) -> usize {
        self.count
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        if self.count == 1 {
            return work(0);
        }
        let begun = AtomicBool::new(false);
        let result = self.context.par_for(self.count, 0, |index| {
            begun.store(true, Ordering::Relaxed);
            work(index);
        });
        // One thread alone can do all the work; if the runtime refused before it began, that is this one.
        if let Err(error) = result
            && !begun.load(Ordering::Relaxed)
        {
            tracing::warn!("a block runs on one thread: {error}");
            work(0);
        }
    }
}

/// An error of the kernels as one of the runtime, which names the node itself.
fn failed(error: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(error.to_string())
}
