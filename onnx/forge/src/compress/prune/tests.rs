//! Pruning on toy models, against naive computations.

use std::ops::ControlFlow;

use super::normal::{Normal, Products, Rows};
use super::refit::{cut, fit, others};
use super::surgeon::{Family, Surgeon};
use super::*;
use crate::architecture::toys;
use crate::checkpoint::layer_weight;
use crate::checkpoint::tests::imported;
use crate::compress::random::Random;
use crate::decoder::{LayerPart, Options, Storage, fused};
use crate::folder::{Progress, Step};
use crate::quantize::CodeFormat;
use crate::walk::Walk;
use crate::walk::tests::{runtime, walked, whole, worst};
use crate::writer::write_model;

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A toy with weights of no order.
fn noisy(mut toy: toys::Checkpoint, seed: u64) -> toys::Checkpoint {
    let mut random = Random::new(seed);
    for (name, (_, bytes)) in &mut toy.1.0 {
        let is_norm = name.contains("norm");
        for element in bytes.as_chunks_mut::<4>().0 {
            let noise = random.unit() as f32 - 0.5;
            let value = if is_norm { 1.0 + noise / 4.0 } else { noise };
            *element = value.to_le_bytes();
        }
    }
    toy
}

/// A llama of 128 neurons a layer.
fn wide(layers: usize) -> toys::Checkpoint {
    let (mut config, mut toy) = toys::gated("llama", layers);
    config.insert("intermediate_size".into(), 128.into());
    for layer in 0..layers {
        for (part, shape) in [("gate", [128, 32]), ("up", [128, 32]), ("down", [32, 128])] {
            toy = toy.with(
                &format!("model.layers.{layer}.mlp.{part}_proj.weight"),
                &shape,
            );
        }
    }
    (config, toy)
}

/// A llama of two query heads, each with a key head of its own.
fn two_groups(layers: usize) -> toys::Checkpoint {
    let (mut config, mut toy) = toys::gated("llama", layers);
    config.insert("num_key_value_heads".into(), 2.into());
    for layer in 0..layers {
        for part in ["k_proj", "v_proj"] {
            let name = format!("model.layers.{layer}.self_attn.{part}.weight");
            toy = toy.with(&name, &[32, 32]);
        }
    }
    noisy((config, toy), 3)
}

fn texts(count: usize) -> Vec<Vec<u32>> {
    let mut random = Random::new(11);
    let mut token = |_| (random.bits() % 5) as u32;
    (0..count)
        .map(|_| (0..8).map(&mut token).collect())
        .collect()
}

/// A folder with a model and room for others.
struct Bench {
    root: tempfile::TempDir,
    model: Checkpoint,
}

impl Bench {
    fn new(toy: &toys::Checkpoint) -> Bench {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("scratch")).unwrap();
        let model = imported(&root.path().join("model"), toy);
        Bench { root, model }
    }

    fn prune(
        &self,
        name: &str,
        what: Pruned,
        refit: Option<Refit>,
        texts: &[Vec<u32>],
    ) -> Result<(Checkpoint, PruneReport), ForgeError> {
        let runtime = runtime();
        let scratch = self.root.path().join("scratch");
        let tools = Tools {
            runtime: &runtime,
            scratch: &scratch,
        };
        let dir = self.root.path().join(name);
        let options = PruneOptions { what, refit };
        prune(&self.model, &options, texts, tools, &dir, &mut go_on)
    }

    /// Scores of the pruned model by a walk and by its whole graph, which must agree.
    fn scores(&self, made: &Checkpoint) -> Vec<Vec<f32>> {
        let (spec, weights) = (made.spec(), made.weights());
        let scores = walked(spec, weights, self.root.path());
        let last = whole(spec, weights, self.root.path());
        assert!(worst(scores.last().unwrap(), &last) < 1e-4);
        scores
    }

    /// Mean square of the difference of the states behind the last layer, of both models.
    fn error(&self, made: &Checkpoint, texts: &[Vec<u32>]) -> f64 {
        let states = |model: &Checkpoint| {
            let runtime = runtime();
            let weights = (model.spec(), model.weights());
            let walk = Walk::new(&runtime, weights, &Options::FP32, self.root.path());
            let mut states: Vec<_> = texts.iter().map(|text| walk.embed(text).unwrap()).collect();
            for index in 0..model.spec().layers.len() {
                walk.layer(index, &mut states).unwrap();
            }
            states.concat()
        };
        let (a, b) = (states(&self.model), states(made));
        let squares = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>() / a.len() as f64
    }
}

fn neurons(score: NeuronScore, spread: Spread) -> Pruned {
    Pruned::Neurons {
        amount: Amount::Fraction(0.5),
        score,
        spread,
    }
}

const ACTIVATION: Pruned = Pruned::Neurons {
    amount: Amount::Count(32),
    score: NeuronScore::Activation,
    spread: Spread::Uniform,
};

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.unit() as f32 - 0.5).collect()
}

/// Sums of rows that count the same, by definition.
fn sums(rows: &[f32], missing: &[f32], inputs: usize, outputs: usize) -> Normal {
    let mut normal = Normal::new(inputs);
    normal.cross = vec![0.0; outputs * inputs];
    let both = rows.chunks_exact(inputs).zip(missing.chunks_exact(outputs));
    for (row, missing) in both {
        for (i, a) in row.iter().enumerate() {
            for (j, b) in row.iter().enumerate() {
                normal.gram[i * inputs + j] += f64::from(*a) * f64::from(*b);
            }
            for (o, e) in missing.iter().enumerate() {
                normal.cross[o * inputs + i] += f64::from(*e) * f64::from(*a);
            }
        }
        normal.missing += missing.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>();
        normal.rows += 1;
    }
    normal
}

/// Σ (Wₚ·a + ρ·e − (W'ₖ − Wₖ)·a)² over rows, and λ‖W'ₖ − Wₖ‖², by definition.
fn loss(
    rows: &[f32],
    missing: &[f32],
    weights: &[f32],
    kept: &[usize],
    fitted: &[f32],
    rho: f64,
) -> (f64, f64) {
    let outputs = fitted.len() / kept.len();
    let inputs = weights.len() / outputs;
    let (mut sum, mut size) = (0.0, 0.0);
    for (row, missing) in rows.chunks_exact(inputs).zip(missing.chunks_exact(outputs)) {
        for output in 0..outputs {
            let weights = &weights[output * inputs..(output + 1) * inputs];
            let mut left = rho * f64::from(missing[output]);
            for (weight, a) in weights.iter().zip(row) {
                left += f64::from(*weight) * f64::from(*a);
            }
            for (at, input) in kept.iter().enumerate() {
                left -= f64::from(fitted[output * kept.len() + at]) * f64::from(row[*input]);
            }
            sum += left * left;
        }
    }
    for output in 0..outputs {
        for (at, input) in kept.iter().enumerate() {
            let change = fitted[output * kept.len() + at] - weights[output * inputs + input];
            size += f64::from(change).powi(2);
        }
    }
    (sum, size)
}

#[test]
fn products_are_weighted_sums() {
    let (rows, inputs, hidden) = (5, 6, 4);
    let root = tempfile::tempdir().unwrap();
    let mut products = Products::open(&runtime(), root.path(), inputs, Some(hidden)).unwrap();
    let (read, after) = (noise(rows * inputs, 1), noise(rows * hidden, 2));
    let target = noise(rows * hidden, 3);
    let mut normal = Normal::new(inputs);
    let text = Rows {
        inputs: &read,
        after: &after,
        target: Some(&target),
        hidden,
    };
    products.add(&mut normal, &text).unwrap();
    let (mut scaled, mut missing) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let after = &after[row * hidden..(row + 1) * hidden];
        let square: f32 = after.iter().map(|value| value * value).sum();
        let factor = 1.0 / (square / hidden as f32).sqrt();
        scaled.extend(
            read[row * inputs..(row + 1) * inputs]
                .iter()
                .map(|a| a * factor),
        );
        let target = &target[row * hidden..(row + 1) * hidden];
        missing.extend(
            target
                .iter()
                .zip(after)
                .map(|(target, after)| (target - after) * factor),
        );
    }
    let expected = sums(&scaled, &missing, inputs, hidden);
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(close(&normal.gram, &expected.gram) && close(&normal.cross, &expected.cross));
    assert!((normal.missing - expected.missing).abs() < 1e-4);
    assert_eq!((normal.rows, normal.cross.len()), (5, 24));
}

#[test]
fn fits_are_the_least_of_all_squares() {
    let (inputs, outputs, count) = (7, 3, 40);
    let (rows, missing) = (noise(count * inputs, 1), noise(count * outputs, 2));
    let weights = noise(outputs * inputs, 3);
    let normal = sums(&rows, &missing, inputs, outputs);
    for (kept, stream, damping) in [
        (vec![0, 2, 3, 6], 0.0, 1e-6),
        (vec![0, 2, 3, 6], 0.7, 0.1),
        ((0..7).collect::<Vec<_>>(), 1.0, 0.01),
    ] {
        let refit = Refit { damping, stream };
        let (fitted, error) = fit(&normal, &weights, &kept, refit, "here").unwrap();
        let ridge = damping * normal.mean_square();
        let of = |fitted: &[f32]| loss(&rows, &missing, &weights, &kept, fitted, stream);
        let (sum, size) = of(&fitted);
        let scale = (count * outputs) as f64;
        assert!(
            (error.after - sum / scale).abs() < 1e-6,
            "{error:?} {}",
            sum / scale
        );
        let unfitted = super::refit::columns(&weights, inputs, &kept);
        assert!((error.before - of(&unfitted).0 / scale).abs() < 1e-6);
        assert!(error.after < error.before);
        // No step in any direction makes it less.
        for at in 0..fitted.len() {
            for step in [-1e-2, 1e-2] {
                let mut other = fitted.clone();
                other[at] += step;
                let (other_sum, other_size) = of(&other);
                assert!(sum + ridge * size < other_sum + ridge * other_size);
            }
        }
    }
    let (same, error) = cut(&normal, &weights, &[1, 4]);
    assert_eq!(same.len(), 2 * outputs);
    assert_eq!(error.before, error.after);
}

#[test]
fn the_cheapest_input_is_the_one_whose_loss_is_least() {
    let (inputs, outputs, count) = (9, 2, 60);
    let rows = noise(count * inputs, 4);
    let missing = vec![0.0; count * outputs];
    let weights = noise(outputs * inputs, 5);
    let normal = sums(&rows, &missing, inputs, outputs);
    let damping = 1e-3;
    let refit = Refit {
        damping,
        stream: 0.0,
    };
    // What the surgeon minimises: squares and damping of all changes, those of inputs that go included.
    let objective = |kept: &[usize]| {
        let (fitted, _) = fit(&normal, &weights, kept, refit, "here").unwrap();
        let (sum, size) = loss(&rows, &missing, &weights, kept, &fitted, 0.0);
        let gone = others(kept, inputs);
        let lost = super::refit::columns(&weights, inputs, &gone);
        let lost: f64 = lost.iter().map(|weight| f64::from(*weight).powi(2)).sum();
        sum + damping * normal.mean_square() * (size + lost)
    };
    let removal = Surgeon::new(&normal, &weights, damping, "here")
        .unwrap()
        .cheapest(6);
    let mut kept: Vec<usize> = (0..inputs).collect();
    for (step, found) in removal.order.iter().enumerate() {
        let without =
            |gone: &usize| -> Vec<usize> { kept.iter().copied().filter(|i| i != gone).collect() };
        let best = kept
            .iter()
            .min_by(|a, b| objective(&without(a)).total_cmp(&objective(&without(b))));
        assert_eq!(best, Some(found), "step {step}");
        kept = without(found);
        let cost = objective(&kept);
        assert!(
            (removal.costs[step + 1] - cost).abs() < 1e-5 * cost,
            "step {step}"
        );
    }
    // Pairs, one of each family: the best pair of all.
    let groups = [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7]];
    let family = Family {
        of: &[0, 0, 1, 1],
        each: 1,
    };
    let surgeon = Surgeon::new(&normal, &weights, damping, "here").unwrap();
    let removal = surgeon.cheapest_groups(&groups, &family, "here").unwrap();
    let without = |gone: &[usize]| {
        (0..inputs)
            .filter(|i| !gone.contains(i))
            .collect::<Vec<_>>()
    };
    let first = (0..4).min_by(|a, b| {
        objective(&without(&groups[*a])).total_cmp(&objective(&without(&groups[*b])))
    });
    assert_eq!(removal.order.first().copied(), first);
    let families: Vec<usize> = removal
        .order
        .iter()
        .map(|group| family.of[*group])
        .collect();
    assert_eq!(families.len(), 2);
    assert_ne!(families[0], families[1]);
}

#[test]
fn batches_change_nothing() {
    // More removals than a batch: costs that were kept up to date are those of the fit in the end.
    let (inputs, outputs, count) = (100, 5, 300);
    let rows = noise(count * inputs, 6);
    let missing = vec![0.0; count * outputs];
    let weights = noise(outputs * inputs, 7);
    let normal = sums(&rows, &missing, inputs, outputs);
    let removal = Surgeon::new(&normal, &weights, 1e-9, "here")
        .unwrap()
        .cheapest(70);
    let mut gone = removal.order.clone();
    gone.sort_unstable();
    gone.dedup();
    assert_eq!(gone.len(), 70);
    let refit = Refit {
        damping: 1e-9,
        stream: 0.0,
    };
    let (_, error) = fit(&normal, &weights, &others(&gone, inputs), refit, "here").unwrap();
    let cost = removal.costs[70] / (count * outputs) as f64;
    assert!((error.after - cost).abs() < 1e-6 * cost, "{error:?} {cost}");
}

#[test]
fn neurons_that_add_least_go() {
    let bench = Bench::new(&noisy(toys::gated("llama", 2), 1));
    let texts = texts(20);
    let (made, report) = bench.prune("made", ACTIVATION, None, &texts).unwrap();
    // By definition, for the first layer.
    let runtime = runtime();
    let spec = bench.model.spec();
    let model = (spec, bench.model.weights());
    let walk = Walk::new(&runtime, model, &Options::FP32, bench.root.path());
    let mut states: Vec<_> = texts.iter().map(|text| walk.embed(text).unwrap()).collect();
    let mut squares = vec![0.0; 64];
    walk.layer_inputs(0, &mut states, &mut |seen| {
        let rows = seen.down.chunks_exact(64).zip(seen.after.chunks_exact(32));
        for (row, after) in rows {
            let size: f32 = after.iter().map(|value| value * value).sum();
            for (square, a) in squares.iter_mut().zip(row) {
                *square += a * a / size;
            }
        }
        Ok(())
    })
    .unwrap();
    let down = bench.model.tensor("layers.0.down.weight").unwrap();
    let column = |neuron: usize| {
        down.iter()
            .skip(neuron)
            .step_by(64)
            .map(|w| w * w)
            .sum::<f32>()
    };
    let score = |neuron: usize| squares[neuron] * column(neuron);
    let mut order: Vec<usize> = (0..64).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    let mut kept = order[..32].to_vec();
    kept.sort_unstable();
    for (name, columns) in [("layers.0.gate.weight", 32), ("layers.0.up.weight", 32)] {
        let whole = bench.model.tensor(name).unwrap();
        let expected = super::refit::rows(&whole, columns, &kept);
        assert_eq!(*made.tensor(name).unwrap(), expected, "{name}");
    }
    let expected = super::refit::columns(&down, 64, &kept);
    assert_eq!(*made.tensor("layers.0.down.weight").unwrap(), expected);
    assert_eq!(
        report.weights_before - report.weights_after,
        2 * 3 * 32 * 32
    );
    assert_eq!(report.layers.len(), 2);
    assert!(report.is_faster && report.removed_layers.is_empty());
    bench.scores(&made);
}

#[test]
fn fitted_models_are_nearer_to_the_original() {
    let bench = Bench::new(&noisy(toys::gated("llama", 2), 1));
    let texts = texts(40);
    let refit = Some(Refit {
        damping: 1e-3,
        stream: 1.0,
    });
    for (number, score) in [
        NeuronScore::Magnitude,
        NeuronScore::Activation,
        NeuronScore::Wanda,
        NeuronScore::Surgeon,
    ]
    .into_iter()
    .enumerate()
    {
        let what = neurons(score, Spread::Uniform);
        let (cut, _) = bench
            .prune(&format!("cut{number}"), what, None, &texts)
            .unwrap();
        let (fitted, report) = bench
            .prune(&format!("fit{number}"), what, refit, &texts)
            .unwrap();
        let (without, with) = (bench.error(&cut, &texts), bench.error(&fitted, &texts));
        assert!(with < 0.7 * without, "{score:?}: {without} {with}");
        for layer in &report.layers {
            let error = layer.down.unwrap();
            assert!(error.after < error.before, "{score:?}: {error:?}");
        }
        bench.scores(&fitted);
    }
}

#[test]
fn layers_of_different_widths_run_in_both_graphs() {
    // Layer 1 adds little to the stream: it pays for all.
    let mut toy = noisy(wide(2), 1);
    let name = "model.layers.1.mlp.down_proj.weight";
    let (_, bytes) = toy.1.0.get_mut(name).unwrap();
    for element in bytes.as_chunks_mut::<4>().0 {
        *element = (f32::from_le_bytes(*element) / 100.0).to_le_bytes();
    }
    let bench = Bench::new(&toy);
    let what = Pruned::Neurons {
        amount: Amount::Count(32),
        score: NeuronScore::Surgeon,
        spread: Spread::Global,
    };
    let (made, report) = bench
        .prune("made", what, Some(Refit::default()), &texts(40))
        .unwrap();
    let widths: Vec<usize> = report.layers.iter().map(|layer| layer.neurons).collect();
    assert_eq!(widths, [128, 64]);
    bench.scores(&made);
    let coding = Options {
        layers: Storage::Blocks(CodeFormat::Int8),
        head: Storage::Blocks(CodeFormat::Int8),
        accuracy_level: 4,
    };
    let graph = fused(made.weights(), made.spec(), &coding)
        .unwrap()
        .expect("it fits");
    write_model(graph, bench.root.path(), "fused.onnx", &mut go_on).unwrap();
}

#[test]
fn heads_go_with_their_rows_and_columns() {
    let texts = texts(40);
    let bench = Bench::new(&two_groups(2));
    for (number, score) in [HeadScore::Activation, HeadScore::Surgeon]
        .into_iter()
        .enumerate()
    {
        let what = Pruned::Heads {
            unit: HeadUnit::Group,
            count: 1,
            score,
        };
        let (made, report) = bench
            .prune(&format!("g{number}"), what, None, &texts)
            .unwrap();
        assert_eq!((made.spec().heads, made.spec().kv_heads), (1, 1));
        assert_eq!(report.layers[0].heads, 1);
        // Of 32 query, 32 key and 32 value rows, those of one head are left, in both matrices the same.
        let qkv = bench.model.tensor("layers.0.qkv.weight").unwrap();
        let output = bench.model.tensor("layers.0.output.weight").unwrap();
        let head = |head: usize| (head * 16..(head + 1) * 16).collect::<Vec<_>>();
        let rows = |index: usize| -> Vec<usize> {
            let parts = [0, 32, 64];
            parts
                .iter()
                .flat_map(|begin| head(index).into_iter().map(move |row| begin + row))
                .collect()
        };
        let made_qkv = made.tensor("layers.0.qkv.weight").unwrap();
        let kept = (0..2).find(|index| super::refit::rows(&qkv, 32, &rows(*index)) == *made_qkv);
        let expected = super::refit::columns(&output, 32, &head(kept.expect("one of them")));
        assert_eq!(*made.tensor("layers.0.output.weight").unwrap(), expected);
        bench.scores(&made);
        let (fitted, _) = bench
            .prune(&format!("f{number}"), what, Some(Refit::default()), &texts)
            .unwrap();
        assert!(
            bench.error(&fitted, &texts) < bench.error(&made, &texts),
            "{score:?}"
        );
    }
    let what = Pruned::Heads {
        unit: HeadUnit::Query,
        count: 1,
        score: HeadScore::Surgeon,
    };
    // Biases of query, key and value go with their rows.
    let bench = Bench::new(&noisy(toys::gated("qwen2", 2), 4));
    let (made, _) = bench
        .prune("query", what, Some(Refit::default()), &texts)
        .unwrap();
    assert_eq!((made.spec().heads, made.spec().kv_heads), (1, 1));
    assert_eq!(made.tensor("layers.1.qkv.bias").unwrap().len(), 48);
    bench.scores(&made);
}

#[test]
fn the_layer_that_does_nothing_goes() {
    let mut toy = noisy(toys::gated("llama", 3), 1);
    for part in ["self_attn.o_proj", "mlp.down_proj"] {
        let (_, bytes) = toy
            .1
            .0
            .get_mut(&format!("model.layers.1.{part}.weight"))
            .unwrap();
        bytes.fill(0);
    }
    let bench = Bench::new(&toy);
    let texts = texts(40);
    let before = bench.scores(&bench.model);
    for score in [LayerScore::Influence, LayerScore::Divergence] {
        let what = |count| Pruned::Layers { count, score };
        let name = format!("{score:?}");
        let (made, report) = bench.prune(&name, what(1), None, &texts).unwrap();
        assert_eq!(report.removed_layers, [1], "{score:?}");
        let after = bench.scores(&made);
        assert!(before.iter().zip(&after).all(|(a, b)| worst(a, b) < 1e-4));
        let name = layer_weight(1, LayerPart::Gate);
        let original = layer_weight(2, LayerPart::Gate);
        assert_eq!(
            made.tensor(&name).unwrap(),
            bench.model.tensor(&original).unwrap()
        );
        // Another one is missed, less if the others are fitted.
        let (cut, _) = bench
            .prune(&format!("{score:?}2"), what(2), None, &texts)
            .unwrap();
        let refit = Some(Refit::default());
        let (fitted, report) = bench
            .prune(&format!("{score:?}3"), what(2), refit, &texts)
            .unwrap();
        assert_eq!((cut.spec().layers.len(), report.layers.len()), (1, 1));
        assert!(bench.error(&fitted, &texts) < 0.7 * bench.error(&cut, &texts));
        bench.scores(&fitted);
    }
}

#[test]
fn masks_say_that_they_save_nothing() {
    let bench = Bench::new(&noisy(toys::gated("llama", 1), 1));
    for (name, pattern) in [
        ("magnitude", Pattern::Magnitude(0.5)),
        ("wanda", Pattern::Wanda(0.5)),
        ("fours", Pattern::TwoOfFour),
    ] {
        let what = Pruned::Weights { pattern };
        let (made, report) = bench.prune(name, what, None, &texts(20)).unwrap();
        let zeros = |part| {
            let weights = made.tensor(&layer_weight(0, part)).unwrap();
            weights.iter().filter(|weight| **weight == 0.0).count() as u64
        };
        let all: u64 = LayerPart::ALL.into_iter().map(zeros).sum();
        assert_eq!(all, (64 * 32 + 32 * 32 + 3 * 64 * 32) / 2, "{name}");
        assert_eq!(report.zeros, all);
        assert!(!report.is_faster && report.notes[0].contains("saves no CPU time"));
        bench.scores(&made);
    }
}

#[test]
fn what_cannot_be_done_is_named() {
    let bench = Bench::new(&noisy(toys::gated("llama", 2), 1));
    let (some, none) = (texts(40), Vec::new());
    let fit = |damping, stream| Some(Refit { damping, stream });
    let good = Some(Refit::default());
    let part = |part| Pruned::Neurons {
        amount: Amount::Fraction(part),
        score: NeuronScore::Surgeon,
        spread: Spread::Uniform,
    };
    let layers = |count| Pruned::Layers {
        count,
        score: LayerScore::Influence,
    };
    let masks = |part| Pruned::Weights {
        pattern: Pattern::Wanda(part),
    };
    type Case<'t> = (Pruned, Option<Refit>, &'t [Vec<u32>], &'static str);
    let cases: [Case<'_>; 14] = [
        (
            part(1.5),
            good,
            &some,
            "neurons.fraction: expected more than 0 and less than 1, found 1.5",
        ),
        (part(f64::NAN), good, &some, "neurons.fraction"),
        (
            part(0.99),
            good,
            &some,
            "neurons: expected at least 1 neuron",
        ),
        (
            part(0.5),
            good,
            &none,
            "64 tokens are needed for refitting, found 0",
        ),
        (
            part(0.5),
            None,
            &some[..2],
            "64 tokens are needed for scores, found 16",
        ),
        (
            part(0.5),
            fit(-1.0, 1.0),
            &some,
            "refit.damping: expected 0 ..= 100",
        ),
        (
            part(0.5),
            fit(0.1, f64::NAN),
            &some,
            "refit.stream: expected 0 ..= 1",
        ),
        (
            Pruned::groups(1),
            good,
            &some,
            "heads: expected 1 to 0 groups of heads, found 1",
        ),
        (
            layers(2),
            good,
            &some,
            "layers: expected 1 to 1 of 2, found 2",
        ),
        (layers(0), good, &some, "layers: expected"),
        (
            layers(1),
            good,
            &some[..10],
            "128 tokens are needed for refitting, found 80",
        ),
        (masks(0.0), None, &some, "weights: expected more than 0"),
        (masks(0.5), good, &some, "refit: expected none"),
        (masks(0.5), None, &none, "64 tokens are needed for scores"),
    ];
    for (what, refit, texts, expected) in cases {
        let message = bench
            .prune("made", what, refit, texts)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!bench.root.path().join("made").exists());
    }
    let unknown = vec![vec![9_u32; 8]; 40];
    let message = bench
        .prune("made", ACTIVATION, None, &unknown)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("a token: expected below 5, found 9"),
        "{message}"
    );
}

#[test]
fn damaged_weights_and_stops_leave_nothing_behind() {
    let bench = Bench::new(&noisy(toys::gated("llama", 2), 1));
    let runtime = runtime();
    let scratch = bench.root.path().join("scratch");
    let tools = Tools {
        runtime: &runtime,
        scratch: &scratch,
    };
    let dir = bench.root.path().join("made");
    let options = PruneOptions {
        what: Pruned::neurons(0.5),
        refit: Some(Refit::default()),
    };
    let mut stop = |progress: Progress<'_>| match (progress.step, progress.done) {
        (Step::Prune, 1) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let stopped = prune(&bench.model, &options, &texts(40), tools, &dir, &mut stop);
    assert!(matches!(stopped, Err(ForgeError::Cancelled)));
    // A weight in the middle of the file: somewhere in a layer.
    let path = bench.model.dir().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 8 * 4;
    bytes[middle..middle + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let damaged = Checkpoint::open(bench.model.dir()).unwrap();
    let message = prune(&damaged, &options, &texts(40), tools, &dir, &mut go_on)
        .unwrap_err()
        .to_string();
    assert!(message.contains("is NaN"), "{message}");
    let names: Vec<_> = std::fs::read_dir(bench.root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let bench = Bench::new(&noisy(toys::gated("gemma3_text", 2), 1));
    let what = Pruned::neurons(0.5);
    let made = ["a", "b"].map(|name| {
        let (made, report) = bench
            .prune(name, what, Some(Refit::default()), &texts(40))
            .unwrap();
        assert!(report.notes[0].contains("a norm behind them"));
        std::fs::read(made.dir().join("model.safetensors")).unwrap()
    });
    assert!(made[0] == made[1]);
    let options = PruneOptions {
        what,
        refit: Some(Refit::default()),
    };
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(
        serde_json::from_str::<PruneOptions>(&text).unwrap(),
        options
    );
}
