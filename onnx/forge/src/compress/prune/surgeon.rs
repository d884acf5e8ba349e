//! Which inputs of a matrix can go, if the others then make good what they can: the optimal brain surgeon, for whole columns.
//!
//! Leaving out input i of y = W·x and refitting the other columns costs ‖Wᵢ‖² / (H⁻¹)ᵢᵢ, with H = Σ x·xᵀ + λI; after that both W and H⁻¹
//! are known for what is left, without another look at the text (Hassibi and Stork 1993; for structures Kurtic et al. 2023). Inputs go
//! one at a time, the cheapest first, so that of two that say the same only one goes cheaply.
//!
//! ```text
//!   gone i   cost ‖Wᵢ‖²/hᵢᵢ      W ← W − Wᵢ·hᵢ/hᵢᵢ      H⁻¹ ← H⁻¹ − hᵢ·hᵢᵀ/hᵢᵢ      hᵢ: row i of H⁻¹
//!            └ costs of all inputs are kept up to date; the large matrices follow once in a batch
//! ```

use super::PruneError;
use super::normal::Normal;
use crate::compress::solve::{Cholesky, add_product, dot};

/// Removals after which the large matrices are brought up to date.
const BATCH: usize = 32;
/// Factor by which damping is raised when a Gram matrix is not positive definite.
const DAMPING_STEP: f64 = 10.0;
/// Times that it is raised.
const DAMPING_STEPS: usize = 4;
/// Least damping, relative to the mean of the diagonal: what double precision needs for inputs that say the same.
const MIN_DAMPING: f64 = 1e-9;

/// Inputs, or groups of them, in the order in which they went, and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Removal {
    /// Numbers of the inputs or groups, the first to go first.
    pub(super) order: Vec<usize>,
    /// Error after so many have gone, `[order + 1]`; begins with 0.
    pub(super) costs: Vec<f64>,
}

/// Groups among which the same number goes.
pub(super) struct Family<'a> {
    /// Number of the family of each group.
    pub(super) of: &'a [usize],
    /// Groups that go of each family.
    pub(super) each: usize,
}

/// One that has gone.
struct Gone {
    input: usize,
    /// Row of H⁻¹ when it went.
    row: Vec<f64>,
    /// Row over its own element.
    scaled: Vec<f64>,
    /// Its column of W, when it went.
    column: Vec<f64>,
}

/// A matrix that loses inputs.
pub(super) struct Surgeon {
    inputs: usize,
    outputs: usize,
    /// H⁻¹ but for the batch, `[inputs, inputs]`.
    inverse: Vec<f64>,
    /// Wᵀ but for the batch, `[inputs, outputs]`.
    columns: Vec<f64>,
    /// (H⁻¹)ᵢᵢ, up to date.
    diagonal: Vec<f64>,
    /// ‖Wᵢ‖², up to date.
    squares: Vec<f64>,
    is_left: Vec<bool>,
    batch: Vec<Gone>,
    cost: f64,
}

/// H = G + damping·mean(diagonal)·I of some inputs, decomposed; more damping if that is not positive definite.
pub(super) fn factor(
    normal: &Normal,
    kept: &[usize],
    damping: f64,
    place: &str,
) -> Result<(Cholesky, f64), PruneError> {
    let unit = match normal.mean_square() {
        mean if mean > 0.0 => mean,
        _ => 1.0,
    };
    let mut tried = damping.max(MIN_DAMPING);
    for _ in 0..=DAMPING_STEPS {
        let ridge = tried * unit;
        let mut matrix = Vec::with_capacity(kept.len() * kept.len());
        for (at, &row) in kept.iter().enumerate() {
            let row = &normal.gram[row * normal.inputs..(row + 1) * normal.inputs];
            matrix.extend(kept.iter().map(|&column| row[column]));
            matrix[at * kept.len() + at] += ridge;
        }
        if let Some(factor) = Cholesky::of(matrix, kept.len()) {
            return Ok((factor, ridge));
        }
        tried *= DAMPING_STEP;
    }
    Err(PruneError::NotPositiveDefinite {
        place: place.to_string(),
        damping: tried / DAMPING_STEP,
    })
}

impl Surgeon {
    /// Of a matrix `[outputs, inputs]`.
    pub(super) fn new(
        normal: &Normal,
        weights: &[f32],
        damping: f64,
        place: &str,
    ) -> Result<Surgeon, PruneError> {
        let inputs = normal.inputs;
        let outputs = weights.len() / inputs;
        let all: Vec<usize> = (0..inputs).collect();
        let (factor, _) = factor(normal, &all, damping, place)?;
        let mut columns = vec![0.0; weights.len()];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            for (input, weight) in row.iter().enumerate() {
                columns[input * outputs + output] = f64::from(*weight);
            }
        }
        let mut surgeon = Surgeon {
            inputs,
            outputs,
            inverse: factor.inverse(),
            columns,
            diagonal: vec![0.0; inputs],
            squares: vec![0.0; inputs],
            is_left: vec![true; inputs],
            batch: Vec::new(),
            cost: 0.0,
        };
        surgeon.measure();
        Ok(surgeon)
    }

    /// Takes the `count` cheapest inputs away, one at a time.
    pub(super) fn cheapest(mut self, count: usize) -> Removal {
        let (mut order, mut costs) = (Vec::new(), vec![0.0]);
        while order.len() < count.min(self.inputs) {
            let cost = |&input: &usize| self.squares[input] / self.diagonal[input];
            let left = (0..self.inputs).filter(|input| self.is_left[*input]);
            let Some(next) = left.min_by(|a, b| cost(a).total_cmp(&cost(b))) else {
                break;
            };
            self.remove(next);
            order.push(next);
            costs.push(self.cost);
        }
        Removal { order, costs }
    }

    /// Takes the cheapest groups of inputs away, one at a time, until each family has lost as many as it should.
    pub(super) fn cheapest_groups(
        mut self,
        groups: &[Vec<usize>],
        family: &Family<'_>,
        place: &str,
    ) -> Result<Removal, PruneError> {
        let (mut order, mut costs) = (Vec::<usize>::new(), vec![0.0]);
        loop {
            self.catch_up();
            let mut best: Option<(f64, usize)> = None;
            for (index, group) in groups.iter().enumerate() {
                let same = order
                    .iter()
                    .filter(|other| family.of[**other] == family.of[index]);
                if same.count() >= family.each || order.contains(&index) {
                    continue;
                }
                let cost = self.group_cost(group, place)?;
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, index));
                }
            }
            let Some((_, next)) = best else { break };
            for &input in &groups[next] {
                self.remove(input);
            }
            order.push(next);
            costs.push(self.cost);
        }
        Ok(Removal { order, costs })
    }

    /// What it costs to take several inputs away at once: Σ over outputs of w·(H⁻¹ of the group)⁻¹·wᵀ.
    fn group_cost(&self, group: &[usize], place: &str) -> Result<f64, PruneError> {
        let size = group.len();
        let element = |&row: &usize, &column: &usize| self.inverse[row * self.inputs + column];
        let rows = group.iter();
        let block = rows.flat_map(|row| group.iter().map(move |column| element(row, column)));
        let factor =
            Cholesky::of(block.collect(), size).ok_or_else(|| PruneError::NotPositiveDefinite {
                place: place.to_string(),
                damping: 0.0,
            })?;
        let outputs = 0..self.outputs;
        let weights: Vec<f64> = outputs
            .flat_map(|output| {
                let inputs = group.iter();
                inputs.map(move |input| self.columns[input * self.outputs + output])
            })
            .collect();
        let mut solved = weights.clone();
        factor.solve(&mut solved);
        Ok(dot(&weights, &solved))
    }

    /// Takes one input away.
    fn remove(&mut self, input: usize) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let mut row = self.inverse[input * inputs..(input + 1) * inputs].to_vec();
        let mut column = self.columns[input * outputs..(input + 1) * outputs].to_vec();
        for gone in &self.batch {
            subtract(&mut row, gone.row[input], &gone.scaled);
            subtract(&mut column, gone.scaled[input], &gone.column);
        }
        let own = row[input];
        let square = dot(&column, &column);
        self.cost += square / own;
        let scaled: Vec<f64> = row.iter().map(|element| element / own).collect();
        self.is_left[input] = false;
        let shared: Vec<f64> = self
            .batch
            .iter()
            .map(|gone| dot(&gone.column, &column))
            .collect();
        for other in (0..inputs).filter(|other| self.is_left[*other]) {
            let mut product = dot(
                &self.columns[other * outputs..(other + 1) * outputs],
                &column,
            );
            for (gone, shared) in self.batch.iter().zip(&shared) {
                product -= gone.scaled[other] * shared;
            }
            let factor = scaled[other];
            self.diagonal[other] -= row[other] * factor;
            self.squares[other] += factor * (factor * square - 2.0 * product);
        }
        self.batch.push(Gone {
            input,
            row,
            scaled,
            column,
        });
        if self.batch.len() == BATCH {
            self.catch_up();
        }
    }

    /// Brings the large matrices up to date, and the costs to what they say.
    fn catch_up(&mut self) {
        let count = self.batch.len();
        if count == 0 {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        // [inputs, batch] · [batch, inputs | outputs]
        let left = |of: fn(&Gone) -> &Vec<f64>| -> Vec<f64> {
            let inputs = 0..self.inputs;
            inputs
                .flat_map(|input| batch.iter().map(move |gone| of(gone)[input]))
                .collect()
        };
        let (rows, factors) = (left(|gone| &gone.row), left(|gone| &gone.scaled));
        let right: Vec<f64> = batch
            .iter()
            .flat_map(|gone| &gone.scaled)
            .copied()
            .collect();
        let sizes = (count, self.inputs);
        add_product(&mut self.inverse, -1.0, (&rows, &right), sizes);
        let right: Vec<f64> = batch
            .iter()
            .flat_map(|gone| &gone.column)
            .copied()
            .collect();
        let sizes = (count, self.outputs);
        add_product(&mut self.columns, -1.0, (&factors, &right), sizes);
        for gone in &batch {
            // What is left of them is rounding.
            let at = gone.input * self.outputs;
            self.columns[at..at + self.outputs].fill(0.0);
        }
        self.measure();
    }

    fn measure(&mut self) {
        for input in 0..self.inputs {
            let column = &self.columns[input * self.outputs..(input + 1) * self.outputs];
            self.squares[input] = dot(column, column);
            self.diagonal[input] = self.inverse[input * (self.inputs + 1)];
        }
    }
}

fn subtract(from: &mut [f64], factor: f64, what: &[f64]) {
    for (from, what) in from.iter_mut().zip(what) {
        *from -= factor * what;
    }
}
