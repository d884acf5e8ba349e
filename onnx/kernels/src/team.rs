//! Threads that walk through the phases of one call together, taking tasks as they go.
//!
//! A pool gives no promise that all its threads arrive: one may be busy elsewhere. So nobody waits for a thread, only for
//! tasks that somebody has taken: whoever is there takes the next ones, and a thread that comes late finds phases done and
//! walks on. One thread alone finishes the whole call. Waiting is spinning, because the other one is a few microseconds
//! from its end; after a while the processor is offered to others, in case that thread was put aside by the system.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Phases of the longest call.
pub(crate) const MAX_PHASES: usize = 12;

/// Turns of the waiting loop before it yields, about 50 µs.
const SPINS: u32 = 1_000;

/// A way to run a function on several threads.
pub trait Threads {
    /// How many there are, the caller included.
    fn count(&self) -> usize;
    /// Calls `work` with 0, 1, …, `count − 1`, on as many threads as are free, and returns when all calls have returned.
    fn run(&self, work: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Threads for Alone {
    fn count(&self) -> usize {
        1
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        work(0);
    }
}

/// Progress of a call.
#[derive(Default)]
pub(crate) struct Team {
    phases: [Phase; MAX_PHASES],
}

/// Alone on its cache lines: threads that wait for one phase must not slow down those that take tasks of the next.
#[derive(Default)]
#[repr(align(128))]
struct Phase {
    /// The first task nobody has taken.
    next: AtomicUsize,
    /// Tasks that are finished.
    done: AtomicUsize,
}

impl Team {
    /// Forgets the last call.
    pub(crate) fn reset(&mut self) {
        for phase in &mut self.phases {
            *phase.next.get_mut() = 0;
            *phase.done.get_mut() = 0;
        }
    }

    /// Tasks of a phase, taken `chunk` at a time.
    #[inline(always)]
    pub(crate) fn phase(&self, index: usize, total: usize, chunk: usize) -> Tasks<'_> {
        Tasks {
            phase: &self.phases[index],
            total,
            chunk,
        }
    }
}

/// See [`Team::phase`].
pub(crate) struct Tasks<'t> {
    phase: &'t Phase,
    total: usize,
    chunk: usize,
}

impl Tasks<'_> {
    /// Takes the next tasks; [`Tasks::finished`] must be told when they are done.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<Range<usize>> {
        let begin = self.phase.next.fetch_add(self.chunk, Ordering::Relaxed);
        (begin < self.total).then(|| begin..(begin + self.chunk).min(self.total))
    }

    /// Makes what was done visible to whoever waits.
    #[inline(always)]
    pub(crate) fn finished(&self, tasks: &Range<usize>) {
        self.phase.done.fetch_add(tasks.len(), Ordering::Release);
    }

    /// Waits until all tasks are finished, also those that others have taken.
    #[inline(always)]
    pub(crate) fn wait(&self) {
        let mut spins = 0;
        while self.phase.done.load(Ordering::Acquire) < self.total {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// How many tasks to take at a time: large enough to read a stream from memory, small enough that nobody waits long.
#[inline(always)]
pub(crate) fn chunk(total: usize, threads: usize) -> usize {
    (total / (4 * threads)).max(1)
}

/// A pool of the test's own: scoped threads.
#[cfg(test)]
pub(crate) struct Scoped(pub(crate) usize);

#[cfg(test)]
impl Threads for Scoped {
    fn count(&self) -> usize {
        self.0
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for index in 1..self.0 {
                scope.spawn(move || work(index));
            }
            work(0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every phase sees the whole of the one before it, whoever computed it.
    fn sums(threads: &dyn Threads) -> Vec<usize> {
        let team = Team::default();
        let cells: Vec<AtomicUsize> = (0..97).map(|_| AtomicUsize::new(1)).collect();
        threads.run(&|_| {
            for index in 0..8 {
                let tasks = team.phase(index, cells.len(), 5);
                while let Some(range) = tasks.take() {
                    for cell in &cells[range.clone()] {
                        cell.store(cell.load(Ordering::Relaxed) * 2, Ordering::Relaxed);
                    }
                    tasks.finished(&range);
                }
                tasks.wait();
                let all = cells.iter().map(|cell| cell.load(Ordering::Relaxed));
                assert!(all.min().unwrap() >= 2 << index);
            }
        });
        cells.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn any_number_of_threads_does_each_task_once() {
        for threads in [1, 2, 5] {
            assert_eq!(sums(&Scoped(threads)), [256; 97], "{threads} threads");
        }
    }

    /// A pool whose other thread never comes: its calls run after the first one has returned.
    struct OneAfterTheOther;

    impl Threads for OneAfterTheOther {
        fn count(&self) -> usize {
            3
        }

        fn run(&self, work: &(dyn Fn(usize) + Sync)) {
            (0..3).for_each(work);
        }
    }

    #[test]
    fn one_thread_finishes_alone() {
        assert_eq!(sums(&OneAfterTheOther), [256; 97]);
    }
}
