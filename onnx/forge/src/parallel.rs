//! Quantizes rows on all cores: the search for the best steps is most of what a conversion takes, and rows know nothing of each
//! other. The result does not depend on the number of cores.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

use crate::quantize::{CodeFormat, Codes, quantize};

/// Most threads.
const MAX_WORKERS: usize = 16;
/// Weights below which a thread costs more than it gains.
const MIN_WEIGHTS: usize = 1 << 16;

/// [`quantize`] with rows shared out to threads.
pub(crate) fn quantize_rows(weights: &[f32], columns: usize, format: CodeFormat) -> Codes {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = cores
        .min(MAX_WORKERS)
        .min(weights.len() / MIN_WEIGHTS)
        .max(1);
    share(weights, columns, format, workers)
}

fn share(weights: &[f32], columns: usize, format: CodeFormat, workers: usize) -> Codes {
    let rows = weights.len() / columns;
    if workers == 1 || rows < workers {
        return quantize(weights, columns, format);
    }
    let shares = weights.chunks(rows.div_ceil(workers) * columns);
    let mut all = Codes::default();
    thread::scope(|scope| {
        let threads: Vec<_> = shares
            .map(|share| scope.spawn(move || quantize(share, columns, format)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(codes) => all.append(codes),
                // A bug of the quantizer is one here too.
                Err(panic) => resume_unwind(panic),
            }
        }
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let weights: Vec<f32> = (0..7 * 96)
            .map(|index| (index * 37 % 101) as f32 - 50.0)
            .collect();
        for format in [
            CodeFormat::Int4Symmetric,
            CodeFormat::Int4,
            CodeFormat::Int4Minima,
            CodeFormat::Int8,
        ] {
            let one = quantize(&weights, 96, format);
            for workers in [1, 2, 3, 7, 8] {
                assert_eq!(share(&weights, 96, format, workers), one, "{workers}");
            }
        }
    }
}
