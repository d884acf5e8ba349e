//! Memory between the phases of a call, kept from call to call.
//!
//! Buffers grow to what the largest step so far needed and never shrink, so that a running model allocates nothing.

use std::sync::atomic::AtomicUsize;

use crate::Isa;
use crate::activation::Activations;
use crate::attention::{QUERIES, Weight};
use crate::block::{Block, PRIVATE_ROWS};
use crate::pack::Packed;
use crate::pool::Pool;
use crate::step::{Plan, Shape, Step, StepError};
use crate::team::Team;

/// See the module.
pub struct Workspace {
    pub(crate) isa: Isa,
    pub(crate) team: Team,
    pub(crate) plan: Plan,
    pub(crate) activations: Activations,
    pub(crate) qkv: Vec<f32>,
    pub(crate) attention: Vec<f32>,
    pub(crate) middle: Vec<f32>,
    pub(crate) delta: Vec<f32>,
    pub(crate) inner: Vec<f32>,
    pub(crate) partial: Vec<f32>,
    pub(crate) weights: Vec<Weight>,
    pub(crate) arrived: Vec<AtomicUsize>,
    pub(crate) own: Vec<Own>,
    need: Need,
}

/// What a thread has for itself.
pub(crate) struct Own {
    pub(crate) activations: Activations,
    pub(crate) middle: Vec<f32>,
    pub(crate) row: Vec<f32>,
    pub(crate) queries: Vec<f32>,
    pub(crate) scores: Vec<f32>,
}

/// The largest sizes so far.
#[derive(Clone, Copy, Default)]
struct Need {
    columns: usize,
    row: usize,
    width: usize,
    span: usize,
}

impl Workspace {
    /// Empty, for an instruction set.
    ///
    /// # Panics
    /// When this computer does not have it.
    #[must_use]
    pub fn new(isa: Isa) -> Workspace {
        assert!(isa.is_available(), "instruction set {isa} is not available");
        Workspace {
            isa,
            team: Team::default(),
            plan: Plan::default(),
            activations: Activations::new(0, 0),
            qkv: vec![],
            attention: vec![],
            middle: vec![],
            delta: vec![],
            inner: vec![],
            partial: vec![],
            weights: vec![],
            arrived: vec![],
            own: vec![],
            need: Need::default(),
        }
    }

    /// The instruction set it was made for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Checks a step, divides its attention, and makes room for it.
    pub(crate) fn plan(
        &mut self,
        block: &Block<'_>,
        step: &Step<'_>,
        pool: &Pool,
    ) -> Result<(), StepError> {
        self.plan.segments(step, pool.pages())?;
        self.plan.attention(&Shape {
            kv_heads: pool.kv_heads(),
            group: block.heads / pool.kv_heads(),
            window: block.window,
        });
        let (rows, hidden) = (step.positions.len(), block.hidden());
        grow(&mut self.qkv, rows * block.qkv.rows() + LINE, 0.0);
        grow(
            &mut self.attention,
            rows * block.output.columns() + LINE,
            0.0,
        );
        grow(&mut self.middle, rows * hidden + LINE, 0.0);
        grow(&mut self.delta, rows * hidden + LINE, 0.0);
        grow(&mut self.inner, rows * block.down.columns() + LINE, 0.0);
        grow(&mut self.partial, self.plan.slots * pool.head_dim(), 0.0);
        grow(&mut self.weights, self.plan.slots, Weight::default());
        if self.arrived.len() < self.plan.counters {
            self.arrived
                .resize_with(self.plan.counters, AtomicUsize::default);
        }
        let matrices = [block.qkv, block.output, block.up, block.down];
        let columns = matrices.iter().map(Packed::columns).max().unwrap_or(0);
        self.room(
            rows,
            columns,
            Need {
                columns,
                row: hidden.max(pool.head_dim()),
                width: pool.head_dim(),
                span: self.plan.span,
            },
        );
        Ok(())
    }

    /// Room for the activations of `rows` rows of `columns` inputs, and for rows of `row` floats.
    pub(crate) fn rows(&mut self, rows: usize, columns: usize, row: usize) {
        self.room(
            rows,
            columns,
            Need {
                columns,
                row,
                width: 0,
                span: 0,
            },
        );
    }

    fn room(&mut self, rows: usize, columns: usize, need: Need) {
        if self.activations.room() < rows * columns.next_multiple_of(64) {
            self.activations = Activations::new(rows, columns);
        }
        let old = self.need;
        self.need = Need {
            columns: old.columns.max(need.columns),
            row: old.row.max(need.row),
            width: old.width.max(need.width),
            // A little ahead, so that a growing answer does not move its memory at every page.
            span: if need.span > old.span {
                need.span.next_power_of_two()
            } else {
                old.span
            },
        };
        for own in &mut self.own {
            own.grow(&self.need);
        }
    }

    /// Memory of their own for `threads` threads.
    pub(crate) fn own_for(&mut self, threads: usize) {
        while self.own.len() < threads {
            let mut own = Own {
                activations: Activations::new(0, 0),
                middle: vec![],
                row: vec![],
                queries: vec![],
                scores: vec![],
            };
            own.grow(&self.need);
            self.own.push(own);
        }
    }
}

impl Own {
    fn grow(&mut self, need: &Need) {
        if self.activations.room() < PRIVATE_ROWS * need.columns.next_multiple_of(64) {
            self.activations = Activations::new(PRIVATE_ROWS, need.columns);
        }
        grow(&mut self.middle, PRIVATE_ROWS * need.row, 0.0);
        grow(&mut self.row, need.row, 0.0);
        grow(&mut self.queries, QUERIES * need.width, 0.0);
        grow(&mut self.scores, QUERIES * need.span, 0.0);
    }
}

/// Floats of a cache line.
const LINE: usize = 16;

/// Where the first whole cache line of a buffer begins: so that 16 floats lie in one line, and not in two which two threads
/// may write.
pub(crate) fn first_line(buffer: &mut [f32]) -> *mut f32 {
    let start = buffer.as_mut_ptr();
    start.wrapping_add(start.align_offset(4 * LINE).min(LINE))
}

fn grow<T: Clone>(buffer: &mut Vec<T>, length: usize, fill: T) {
    if buffer.len() < length {
        buffer.resize(length, fill);
    }
}
