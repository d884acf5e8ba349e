//! How many neurons each layer gives, so that the model loses least.
//!
//! What a cut changes behind its own layer says little about what it changes in the answers: some layers' errors die out on the way to
//! the head, others grow. So every layer is cut alone, to several widths, its states carried through the untouched layers behind it, and
//! the divergence of the predictions measured. Layers then give 32 neurons at a time, each time the one that loses least by it.
//!
//! ```text
//!   x ─ layer 0 ─┬─ layer 1 ─┬─ … ─ head ─► p                     KL(p ‖ q) of each layer and width
//!                │           └─ 4 times, cut to 7/8 … 1/4 ─ … ─ head ─► q
//!                └─ 4 times, cut ─ layer 1 ─ … ─ head ─► q        states: 4 · layers · 512 tokens
//! ```

use super::layers::{divergences, short, some};
use super::neurons::{NeuronScore, UNIT, rank};
use super::overlay::{Changed, Overlay};
use super::refit::{columns, fit, others};
use super::side::{Ground, Now, Plan, Side};
use super::{PruneError, Refit};
use crate::checkpoint::layer_weight;
use crate::decoder::LayerPart;
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};

/// Share of its neurons that a layer keeps at least.
const MIN_SHARE: f64 = 0.25;
/// Parts of the neurons that are taken from a layer to see what it costs.
const CUTS: [f64; 4] = [0.125, 0.25, 0.5, 0.75];
/// Tokens that cut models walk with.
const TOKENS: usize = 512;
/// Positions at which predictions are compared.
const POSITIONS: usize = 256;

/// What a layer's cuts cost: neurons taken and divergence, from nothing on.
type Costs = Vec<(usize, f64)>;

/// Neurons that each layer keeps, as many in all as `uniform` says.
///
/// # Errors
/// Those of walking; [`PruneError::NotFinite`] for predictions that are no numbers.
pub(super) fn allocate(
    ground: &Ground<'_>,
    score: NeuronScore,
    widths: &[usize],
    uniform: &[usize],
    watch: &mut Watch<'_>,
) -> Result<Vec<usize>, ForgeError> {
    let costs = measure(ground, score, widths, watch)?;
    let total = widths.iter().sum::<usize>() - uniform.iter().sum::<usize>();
    Ok(share_out(widths, &costs, total / UNIT))
}

/// What each layer's cuts cost alone.
fn measure(
    ground: &Ground<'_>,
    score: NeuronScore,
    widths: &[usize],
    watch: &mut Watch<'_>,
) -> Result<Vec<Costs>, ForgeError> {
    let spec = ground.model.spec();
    let plan = Plan {
        spec: spec.clone(),
        kept: (0..widths.len()).collect(),
    };
    // Alone: the layers before it have made no errors.
    let alone = Ground {
        refit: ground.refit.map(|refit| Refit {
            stream: 0.0,
            ..refit
        }),
        ..*ground
    };
    let mut side = Side::new(&alone, &plan, true)?;
    let texts = short(ground.texts, TOKENS);
    let walk = ground.walk(spec, ground.model.weights());
    let mut states = ground.embed(&texts)?;
    let mut costs: Vec<Costs> = Vec::new();
    for (index, &width) in widths.iter().enumerate() {
        let progress = Progress {
            step: Step::Prune,
            item: "what neurons of a layer are worth",
            done: index as u64,
            total: widths.len() as u64,
        };
        report(watch, progress)?;
        let before = states[..texts.len()].to_vec();
        walk.layer(index, &mut states)?;
        let cuts = cuts(width);
        let mut layer = vec![(0, 0.0)];
        if let Some(most) = cuts.last() {
            let normal = side.look(index, Now::Whole(&Changed::new()), LayerPart::Down, false)?;
            let order = rank(ground, index, score, Some(&normal), *most)?;
            let down = ground.matrix(index, LayerPart::Down)?;
            for cut in cuts {
                let mut gone = order[..cut].to_vec();
                gone.sort_unstable();
                let kept = others(&gone, width);
                let left = match alone.refit {
                    Some(refit) => {
                        let place = layer_weight(index, LayerPart::Down);
                        fit(&normal, &down, &kept, refit, &place)?.0
                    }
                    None => columns(&down, width, &kept),
                };
                let changed = Changed::from([("down.weight", widened(&left, &kept, width))]);
                let is_matrix = |name: &str| (name == "down.weight").then_some(width);
                let overlay = Overlay::new(ground.model.weights(), index, &changed, &is_matrix);
                let mut cut_states = before.clone();
                ground.walk(spec, &overlay).layer(index, &mut cut_states)?;
                states.extend(cut_states);
                layer.push((cut, f64::NAN));
            }
        }
        costs.push(layer);
        side.advance(index, &Changed::new())?;
    }
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let stride = tokens.div_ceil(POSITIONS).max(1);
    let mut models = states
        .chunks(texts.len())
        .map(|states| some(states, spec.hidden, stride));
    let original = models.next().unwrap_or_default();
    let candidates: Vec<Vec<f32>> = models.collect();
    let losses = divergences(walk.head()?, &original, &candidates, spec.hidden)?;
    let cells = costs.iter_mut().enumerate().flat_map(|(index, layer)| {
        let cells = layer.iter_mut().skip(1);
        cells.map(move |cell| (index, cell))
    });
    for ((index, cell), loss) in cells.zip(losses) {
        if !loss.is_finite() {
            let place = layer_weight(index, LayerPart::Down);
            let what = "the divergence without some of its inputs";
            return Err(PruneError::NotFinite { place, what }.into());
        }
        cell.1 = loss;
    }
    Ok(costs)
}

/// Neurons to take from a layer to see what it costs, ascending.
fn cuts(width: usize) -> Vec<usize> {
    let most = width.saturating_sub(least(width));
    let mut cuts: Vec<usize> = CUTS
        .iter()
        .map(|part| ((width as f64 * part) as usize / UNIT * UNIT).min(most / UNIT * UNIT))
        .filter(|cut| *cut > 0)
        .collect();
    cuts.dedup();
    cuts
}

/// A matrix of all columns: zeros where a neuron is gone.
fn widened(left: &[f32], kept: &[usize], width: usize) -> Vec<f32> {
    let mut wide = vec![0.0; left.len() / kept.len().max(1) * width];
    for (row, some) in wide
        .chunks_exact_mut(width)
        .zip(left.chunks_exact(kept.len().max(1)))
    {
        for (column, weight) in kept.iter().zip(some) {
            row[*column] = *weight;
        }
    }
    wide
}

/// Neurons that a layer keeps at least.
fn least(width: usize) -> usize {
    ((width as f64 * MIN_SHARE) as usize)
        .next_multiple_of(UNIT)
        .min(width)
}

/// The corners of the convex line below the measured points: what a layer loses never falls and never falls off, but for noise.
fn below(costs: &Costs) -> Costs {
    let slope = |a: (usize, f64), b: (usize, f64)| (b.1 - a.1) / (b.0 - a.0) as f64;
    let mut corners: Costs = Vec::new();
    for &point in costs {
        let floor = corners.last().map_or(0.0, |last: &(usize, f64)| last.1);
        let point = (point.0, point.1.max(floor));
        while let [.., a, b] = corners[..]
            && slope(a, point) <= slope(a, b)
        {
            corners.pop();
        }
        corners.push(point);
    }
    corners
}

/// Takes `units` of [`UNIT`] neurons, each from the layer that loses least by it; ties go to the first layer.
fn share_out(widths: &[usize], costs: &[Costs], units: usize) -> Vec<usize> {
    let lines: Vec<Costs> = costs.iter().map(below).collect();
    let mut kept: Vec<usize> = widths.iter().map(|width| width / UNIT * UNIT).collect();
    for _ in 0..units {
        let step = |layer: usize| {
            let gone = widths[layer] - kept[layer];
            let is_left = kept[layer] >= least(widths[layer]) + UNIT;
            let corner = lines[layer]
                .windows(2)
                .find(|ends| gone + UNIT <= ends[1].0)?;
            let rise = (corner[1].1 - corner[0].1) / (corner[1].0 - corner[0].0) as f64;
            is_left.then_some(rise)
        };
        let steps = (0..widths.len()).filter_map(|layer| Some((step(layer)?, layer)));
        match steps.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, layer)) => kept[layer] -= UNIT,
            None => break,
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neurons_go_where_they_cost_least() {
        let line = |slope: f64| vec![(0, 0.0), (32, 32.0 * slope), (96, 96.0 * slope)];
        // Layer 1 is the cheapest, down to a quarter of 128; then layer 2.
        let costs = [line(3.0), line(1.0), line(2.0)];
        assert_eq!(share_out(&[128; 3], &costs, 3), [128, 32, 128]);
        assert_eq!(share_out(&[128; 3], &costs, 4), [128, 32, 96]);
        // No more than there is to take.
        assert_eq!(share_out(&[128; 3], &costs, 100), [32, 32, 32]);
    }

    #[test]
    fn a_layer_that_suffers_more_with_each_cut_stops_giving() {
        // The first 32 of layer 0 cost next to nothing, the others more than any of layer 1.
        let costs = [
            vec![(0, 0.0), (32, 0.1), (96, 20.0)],
            vec![(0, 0.0), (32, 3.0), (96, 9.0)],
        ];
        assert_eq!(share_out(&[128; 2], &costs, 1), [96, 128]);
        assert_eq!(share_out(&[128; 2], &costs, 3), [96, 64]);
    }

    #[test]
    fn noise_that_bends_a_line_inwards_is_cut_off() {
        let costs = vec![(0, 0.0), (32, 5.0), (64, 4.0), (96, 12.0)];
        assert_eq!(below(&costs), [(0, 0.0), (64, 5.0), (96, 12.0)]);
        let line = vec![(0, 0.0), (32, 1.0), (64, 3.0)];
        assert_eq!(below(&line), line);
    }

    #[test]
    fn cuts_are_whole_units_and_leave_a_quarter() {
        assert_eq!(cuts(1536), [192, 384, 768, 1152]);
        assert_eq!(cuts(128), [32, 64, 96]);
        assert_eq!(cuts(32), [] as [usize; 0]);
    }
}
