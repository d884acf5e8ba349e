//! What 8 bits cost at the outputs, and which nodes are to blame.
//!
//! The float graph's outputs over a few samples are the truth. The error of another graph is ‖found − expected‖ / ‖expected‖ of its
//! worst output. If all nodes together are worse than allowed, each is quantized alone; then the worst are given back to float, one
//! after the other, until the rest is good enough.

use std::collections::BTreeSet;

use llmasos_engine::session::Session;

use super::StaticError;
use super::calibrate::progress;
use super::samples::{NamedTensor, Samples};
use crate::error::ForgeError;
use crate::folder::Watch;

/// Most numbers of all outputs that are kept for comparison (256 MB).
const MAX_NUMBERS: u64 = 1 << 26;
/// Most nodes that are tried one by one.
pub(super) const MAX_TRIED: usize = 512;

/// Inputs, and what the float graph makes of them.
pub(super) struct Truth {
    runs: Vec<Run>,
    /// Outputs of 32-bit floats.
    outputs: Vec<String>,
}

struct Run {
    inputs: Vec<NamedTensor>,
    /// One for each of the outputs.
    expected: Vec<Vec<f32>>,
}

impl Truth {
    /// Runs the float graph over the first `count` samples.
    ///
    /// # Errors
    /// [`ForgeError::Engine`]; [`StaticError::Limit`] for outputs too large to keep; [`StaticError::Mismatch`] if there is no output of
    /// floats; those of the samples.
    pub(super) fn of(
        mut session: Session,
        outputs: &[String],
        samples: &mut dyn Samples,
        count: usize,
    ) -> Result<Truth, ForgeError> {
        let mut truth = Truth {
            runs: Vec::new(),
            outputs: outputs.to_vec(),
        };
        let mut numbers = 0_u64;
        for index in 0..count.min(samples.count()) {
            let inputs = samples.sample(index)?;
            let feeds: Vec<_> = inputs.iter().map(NamedTensor::feed).collect();
            let found = session.run(&feeds)?;
            if index == 0 {
                truth.outputs.retain(|output| found.f32(output).is_ok());
            }
            let mut expected = Vec::new();
            for output in &truth.outputs {
                let data = found.f32(output)?.data;
                numbers += data.len() as u64;
                expected.push(data.to_vec());
            }
            drop(found);
            if numbers > MAX_NUMBERS {
                return Err(StaticError::Limit {
                    what: "numbers in all outputs that errors are measured with",
                    limit: MAX_NUMBERS,
                    found: numbers,
                }
                .into());
            }
            truth.runs.push(Run { inputs, expected });
        }
        if truth.outputs.is_empty() {
            return Err(StaticError::Mismatch {
                what: "outputs",
                expected: "at least one of 32-bit floats".into(),
                found: "none".into(),
            }
            .into());
        }
        Ok(truth)
    }

    /// The relative error of another graph: that of its worst output; infinite if an output is no number or of another size.
    ///
    /// # Errors
    /// [`ForgeError::Engine`].
    pub(super) fn error(&self, mut session: Session) -> Result<f32, ForgeError> {
        let mut sums = vec![[0.0_f64; 2]; self.outputs.len()];
        for run in &self.runs {
            let feeds: Vec<_> = run.inputs.iter().map(NamedTensor::feed).collect();
            let found = session.run(&feeds)?;
            for ((output, expected), sum) in self.outputs.iter().zip(&run.expected).zip(&mut sums) {
                let [noise, signal] = distance(expected, found.f32(output)?.data);
                sum[0] += noise;
                sum[1] += signal;
            }
        }
        let worst = sums.iter().map(|[noise, signal]| relative(*noise, *signal));
        Ok(worst.fold(0.0, f64::max) as f32)
    }
}

/// Sums of squares of the differences and of what is expected.
fn distance(expected: &[f32], found: &[f32]) -> [f64; 2] {
    if expected.len() != found.len() {
        return [f64::INFINITY, 1.0];
    }
    let mut sums = [0.0; 2];
    for (expected, found) in expected.iter().zip(found) {
        let (expected, found) = (f64::from(*expected), f64::from(*found));
        sums[0] += (found - expected).powi(2);
        sums[1] += expected.powi(2);
    }
    sums
}

fn relative(noise: f64, signal: f64) -> f64 {
    match (noise / signal.max(f64::MIN_POSITIVE)).sqrt() {
        error if error.is_nan() => f64::INFINITY,
        error => error,
    }
}

/// What the search for a good enough graph found.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Search {
    /// Nodes given back to float.
    pub(super) excluded: BTreeSet<usize>,
    /// Error of the graph without them.
    pub(super) error: f32,
    /// Error of each node alone, if they were tried.
    pub(super) alone: Vec<(usize, f32)>,
}

/// Gives nodes back to float until `error` of the rest is at most `budget`. `error` is asked for the graph in which the given nodes
/// stay in float. If the budget cannot be met, the best that was seen is the answer.
///
/// # Errors
/// [`StaticError::Limit`] for too many nodes, [`ForgeError::Cancelled`], those of `error`.
pub(super) fn search(
    nodes: &BTreeSet<usize>,
    budget: f32,
    error: &mut dyn FnMut(&BTreeSet<usize>) -> Result<f32, ForgeError>,
    watch: &mut Watch<'_>,
) -> Result<Search, ForgeError> {
    let mut best = Search {
        error: error(&BTreeSet::new())?,
        ..Search::default()
    };
    if best.error <= budget {
        return Ok(best);
    }
    if nodes.len() > MAX_TRIED {
        return Err(StaticError::Limit {
            what: "nodes that are tried one by one",
            limit: MAX_TRIED as u64,
            found: nodes.len() as u64,
        }
        .into());
    }
    let total = nodes.len() as u64;
    let mut alone = Vec::new();
    for (done, node) in nodes.iter().enumerate() {
        let others: BTreeSet<usize> = nodes.iter().filter(|it| *it != node).copied().collect();
        alone.push((*node, error(&others)?));
        progress(watch, "sensitivity", done as u64 + 1, total)?;
    }
    // The worst first; equal ones in the order of the graph.
    alone.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut excluded = BTreeSet::new();
    for (done, (node, _)) in alone.iter().enumerate() {
        excluded.insert(*node);
        let error = error(&excluded)?;
        progress(watch, "exclusion", done as u64 + 1, total)?;
        if error < best.error {
            best.error = error;
            best.excluded = excluded.clone();
        }
        if best.error <= budget {
            break;
        }
    }
    best.alone = alone;
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    /// Nodes with errors of their own; together they are the square root of the sum of squares, as independent noise is.
    fn of(errors: &[f32], budget: f32) -> Search {
        let nodes = (0..errors.len()).collect();
        let mut error = |excluded: &BTreeSet<usize>| {
            let left = errors
                .iter()
                .enumerate()
                .filter(|it| !excluded.contains(&it.0));
            Ok(left.map(|it| it.1 * it.1).sum::<f32>().sqrt())
        };
        search(&nodes, budget, &mut error, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
    }

    #[test]
    fn the_worst_go_first_and_no_more_than_needed() {
        let errors = [0.01, 0.3, 0.02, 0.2];
        // Budget, what stays in float, why.
        let cases: [(f32, &[usize], &str); 4] = [
            (0.5, &[], "nothing to do"),
            (0.25, &[1], "the worst"),
            (0.05, &[1, 3], "and the next"),
            (0.0, &[0, 1, 2, 3], "only float is without error"),
        ];
        for (budget, expected, why) in cases {
            let found = of(&errors, budget);
            assert_eq!(
                found.excluded.iter().copied().collect::<Vec<_>>(),
                expected,
                "{why}"
            );
            assert_eq!(found.alone.is_empty(), expected.is_empty(), "{why}");
        }
    }

    #[test]
    fn a_budget_that_cannot_be_met_gives_the_best_that_was_seen() {
        let mut calls = 0;
        // Float nodes in between make it worse here, whatever is given back.
        let mut error = |excluded: &BTreeSet<usize>| {
            calls += 1;
            Ok(0.5 + excluded.len() as f32)
        };
        let nodes = (0..3).collect();
        let found = search(&nodes, 0.1, &mut error, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((found.error, found.excluded.len()), (0.5, 0));
        assert_eq!(calls, 7);
    }

    #[test]
    fn errors_of_outputs() {
        let cases: [(&[f32], &[f32], f64, &str); 4] = [
            (&[3.0, 4.0], &[3.0, 4.0], 0.0, "the same"),
            (&[3.0, 4.0], &[3.0, 3.0], 0.2, "1 of 5"),
            (&[3.0, 4.0], &[f32::NAN, 3.0], f64::INFINITY, "no number"),
            (&[3.0, 4.0], &[3.0], f64::INFINITY, "another size"),
        ];
        for (expected, found, error, why) in cases {
            let [noise, signal] = distance(expected, found);
            let relative = relative(noise, signal);
            assert!(
                relative == error || (relative - error).abs() < 1e-9,
                "{why}: {relative}"
            );
        }
    }

    #[test]
    fn a_search_can_be_stopped() {
        let nodes = (0..3).collect();
        let error = search(&nodes, 0.1, &mut |_| Ok(1.0), &mut |_| {
            ControlFlow::Break(())
        });
        assert!(matches!(error, Err(ForgeError::Cancelled)));
    }
}
