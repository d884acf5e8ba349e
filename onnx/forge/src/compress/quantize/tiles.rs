//! Work on tiles of rows, shared out to threads.
//!
//! Rows of a matrix know nothing of each other, whatever the quantizer. Tiles always have the same rows, so results do not
//! depend on the number of threads; a thread takes the next tile when it is done with one.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Rows of a tile: enough for products of matrices to be efficient, few enough for a tile to stay in a core's cache.
pub(super) const TILE_ROWS: usize = 64;
/// Most threads.
const MAX_WORKERS: usize = 16;

/// Calls `work` for every item on all cores; results come in the order of the items.
pub(super) fn map<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    map_on(cores.min(MAX_WORKERS), items, work)
}

fn map_on<T: Send, R: Send>(
    workers: usize,
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let queue = Mutex::new(items.enumerate());
    let run = || {
        let mut done = Vec::new();
        loop {
            // A thread that panicked has left the queue whole; its panic is passed on below.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, item)) = next else {
                return done;
            };
            done.push((index, work(item)));
        }
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (1..workers).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for thread in threads {
            match thread.join() {
                Ok(mut done) => all.append(&mut done),
                Err(panic) => resume_unwind(panic),
            }
        }
        all
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let expected: Vec<usize> = (0..100).map(|item| item * item).collect();
        for workers in [1, 2, 3, 16] {
            assert_eq!(map_on(workers, 0..100, |item| item * item), expected);
        }
        assert!(map_on(2, 0..0_usize, |item| item).is_empty());
    }
}
