//! Quantizers against a reference in numpy, against each other, and against definitions computed naively.

use proptest::prelude::*;

use super::grid::largest_code;
use super::*;
use crate::quantize::CodeFormat;
use crate::safetensors;

/// Made by gptq.py beside it.
const FIXTURE: &[u8] = include_bytes!("../../../../../tests/data/quantizers/gptq.safetensors");

const FORMATS: [CodeFormat; 4] = [
    CodeFormat::Int4Symmetric,
    CodeFormat::Int4,
    CodeFormat::Int4Minima,
    CodeFormat::Int8,
];

/// Numbers that look normal: sums of uniform ones.
struct Random(u64);

impl Random {
    fn normal(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..6 {
            self.0 = (self.0.wrapping_mul(6_364_136_223_846_793_005))
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5;
        }
        sum * std::f32::consts::SQRT_2
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

/// Weights and Σ x xᵀ of inputs that move together and differ in size.
fn problem(rows: usize, columns: usize, seed: u64) -> (Vec<f32>, Hessian) {
    let mut random = Random(seed);
    let sizes: Vec<f32> = random.normals(columns).iter().map(|x| x.exp()).collect();
    let mixing = random.normals(columns * 8);
    let mut gram = vec![0.0; columns * columns];
    for _ in 0..2 * columns {
        let causes = random.normals(8);
        let x: Vec<f32> = (0..columns)
            .map(|column| {
                let shared: f32 = (0..8).map(|at| causes[at] * mixing[column * 8 + at]).sum();
                (shared + random.normal()) * sizes[column]
            })
            .collect();
        for (row, a) in gram.chunks_exact_mut(columns).zip(&x) {
            for (value, b) in row.iter_mut().zip(&x) {
                *value += a * b;
            }
        }
    }
    let weights = random.normals(rows * columns);
    (weights, Hessian::new(columns, gram).unwrap())
}

/// Σ e H eᵀ by its definition.
fn naive_error(weights: &[f32], grid: &Grid, hessian: &Hessian) -> f64 {
    let columns = hessian.columns();
    let errors: Vec<f64> = (weights.iter().zip(grid.floats()))
        .map(|(weight, value)| f64::from(*weight) - f64::from(value))
        .collect();
    let mut sum = 0.0;
    for row in errors.chunks_exact(columns) {
        for (i, a) in row.iter().enumerate() {
            for (j, b) in row.iter().enumerate() {
                sum += a * b * f64::from(hessian.values()[i * columns + j]);
            }
        }
    }
    sum
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = bytes(name);
    let numbers = bytes.as_chunks::<4>().0.iter();
    numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn bytes(name: &str) -> &'static [u8] {
    let header = safetensors::parse(FIXTURE).unwrap();
    let tensor = &header.tensors[name];
    &FIXTURE[header.data_start..][tensor.begin as usize..tensor.end as usize]
}

#[test]
fn gptq_agrees_with_numpy() {
    let (weights, columns) = (floats("weights"), 96);
    let hessian = Hessian::new(columns, floats("gram")).unwrap();
    // The reference damps by a share of the mean of the diagonal, not of its middle.
    let diagonal = hessian.diagonal();
    let mean = diagonal.iter().sum::<f32>() / columns as f32;
    let share = mean / hessian::middle(&diagonal) as f32;
    let (_, factor) = hessian.factor(0.01 * share).unwrap();
    let mut grid = round_to_nearest(&weights, columns, CodeFormat::Int4).unwrap();
    assert_eq!(grid.scales, floats("scales"));
    let zeros: Vec<f32> = bytes("zeros").iter().copied().map(f32::from).collect();
    assert_eq!(grid.zeros, zeros);
    gptq(&weights, &factor, &mut grid).unwrap();
    let other = (grid.codes.iter().zip(bytes("codes")))
        .filter(|(a, b)| a != b)
        .count();
    // Single precision may fall to the other side of a border of two codes.
    assert!(other <= 2, "{other} of {} codes differ", grid.codes.len());
}

#[test]
fn each_method_errs_less_than_the_one_before() {
    // Several tiles of rows, the last one not full.
    for (rows, columns, seed) in [(150, 96, 1), (7, 256, 2), (65, 64, 3)] {
        let (weights, hessian) = problem(rows, columns, seed);
        let (damped, factor) = hessian.factor(0.01).unwrap();
        for format in FORMATS {
            let nearest = round_to_nearest(&weights, columns, format).unwrap();
            let searched = importance(&weights, &damped.diagonal(), format).unwrap();
            let mut fed_back = searched.clone();
            gptq(&weights, &factor, &mut fed_back).unwrap();
            let mut refined = fed_back.clone();
            let descent =
                refine(&weights, &damped, &mut refined, RefineOptions::default()).unwrap();
            let grids = [&nearest, &searched, &fed_back, &refined];
            let errors = grids.map(|grid| naive_error(&weights, grid, &damped));
            let case = format!("{rows}×{columns} {format:?}: {errors:?}");
            assert!(errors[1] <= errors[0] * 1.02, "search: {case}");
            assert!(errors[2] < errors[1] * 0.8, "feedback: {case}");
            // Eight bits leave little to descend to.
            let gain = if format == CodeFormat::Int8 {
                1.0
            } else {
                0.99
            };
            assert!(errors[3] < errors[2] * gain, "descent: {case}");
            for (told, naive) in [(descent.before, errors[2]), (descent.after, errors[3])] {
                assert!(
                    (told - naive).abs() < 1e-3 * naive,
                    "{told} {naive}: {case}"
                );
            }
        }
    }
}

#[test]
fn minima_err_less_than_zero_points() {
    let (weights, hessian) = problem(64, 96, 12);
    let (damped, factor) = hessian.factor(0.01).unwrap();
    let errors = [CodeFormat::Int4, CodeFormat::Int4Minima].map(|format| {
        let mut grid = importance(&weights, &damped.diagonal(), format).unwrap();
        gptq(&weights, &factor, &mut grid).unwrap();
        refine(&weights, &damped, &mut grid, RefineOptions::default()).unwrap();
        naive_error(&weights, &grid, &damped)
    });
    assert!(errors[1] < 0.9 * errors[0], "{errors:?}");
}

#[test]
fn minima_hold_weights_far_from_zero() {
    // All alike, alike but for one, all beyond one side of 0, and nothing at all.
    let alike = [0.7_f32; 32];
    let mut one = [-3.0_f32; 32];
    one[9] = -2.9;
    let beyond: Vec<f32> = (0..32).map(|at| 5.0 + at as f32 / 32.0).collect();
    let weights = [alike.to_vec(), one.to_vec(), beyond, vec![0.0; 32]].concat();
    let hessian = Hessian::new(32, (0..1024).map(|at| f32::from(at % 33 == 0)).collect()).unwrap();
    let (damped, factor) = hessian.factor(0.01).unwrap();
    let nearest = round_to_nearest(&weights, 32, CodeFormat::Int4Minima).unwrap();
    let mut searched = importance(&weights, &[1.0; 32], CodeFormat::Int4Minima).unwrap();
    gptq(&weights, &factor, &mut searched).unwrap();
    refine(&weights, &damped, &mut searched, RefineOptions::default()).unwrap();
    for grid in [nearest, searched] {
        let packed = Grid::unpack(&grid.pack(), 32, CodeFormat::Int4Minima);
        for values in [grid.floats(), packed.floats()] {
            for (at, (value, weight)) in values.iter().zip(&weights).enumerate() {
                let step = if (64..96).contains(&at) { 0.04 } else { 0.004 };
                assert!((value - weight).abs() < step, "{at}: {value} {weight}");
            }
        }
    }
}

#[test]
fn no_single_code_improves_a_refined_matrix() {
    let (weights, hessian) = problem(3, 64, 9);
    let (damped, factor) = hessian.factor(0.01).unwrap();
    for format in FORMATS {
        let mut grid = importance(&weights, &damped.diagonal(), format).unwrap();
        gptq(&weights, &factor, &mut grid).unwrap();
        let options = RefineOptions {
            sweeps: 100,
            searches: 2,
            tolerance: 0.0,
        };
        refine(&weights, &damped, &mut grid, options).unwrap();
        let least = naive_error(&weights, &grid, &damped);
        for at in 0..grid.codes.len() {
            let code = grid.codes[at];
            for other in [code.checked_sub(1), code.checked_add(1)] {
                let Some(other) = other.filter(|&code| f32::from(code) <= largest_code(format))
                else {
                    continue;
                };
                grid.codes[at] = other;
                let error = naive_error(&weights, &grid, &damped);
                assert!(
                    error > least * (1.0 - 1e-6),
                    "{format:?} code {at}: {error} {least}"
                );
            }
            grid.codes[at] = code;
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let (weights, hessian) = problem(130, 96, 4);
    let (damped, factor) = hessian.factor(0.01).unwrap();
    let all = |weights: &[f32]| {
        let mut grid = importance(weights, &damped.diagonal(), CodeFormat::Int4).unwrap();
        gptq(weights, &factor, &mut grid).unwrap();
        grid
    };
    let (whole, first) = (all(&weights), all(&weights[..64 * 96]));
    assert_eq!(whole.codes[..64 * 96], first.codes);
    assert_eq!(whole, all(&weights));
}

#[test]
fn a_large_input_gets_a_large_scale() {
    let (weights, hessian) = problem(64, 96, 5);
    let mut sizes = vec![1.0; 96];
    (sizes[7], sizes[50]) = (1.0 / 40.0, 1.0 / 25.0);
    let (damped, factor) = hessian.rescaled(&sizes).factor(0.001).unwrap();
    let fold = fold(
        &weights,
        &damped,
        &factor,
        &Channels::each(96),
        CodeFormat::Int4,
    )
    .unwrap();
    assert!(
        fold.alpha.is_some_and(|alpha| alpha > 0.0) && fold.ratio < 0.8,
        "{:?} {}",
        fold.alpha,
        fold.ratio
    );
    let largest = fold.columns.iter().fold(0.0_f32, |a, &b| a.max(b));
    assert!(fold.columns[7] == largest || fold.columns[50] == largest);
}

#[test]
fn scales_undo_any_rescale_of_the_channels() {
    let (weights, hessian) = problem(64, 96, 9);
    let moved: Vec<f32> = (0..96).map(|at| (0.3 * (at as f32).sin()).exp()).collect();
    let rescaled = awq::multiply_columns(&weights, &moved);
    let find = |weights: &[f32], hessian: &Hessian| {
        let (damped, factor) = hessian.factor(1e-6).unwrap();
        fold(
            weights,
            &damped,
            &factor,
            &Channels::each(96),
            CodeFormat::Int4,
        )
        .unwrap()
    };
    let one = find(&weights, &hessian);
    let other = find(&rescaled, &hessian.rescaled(&moved));
    let all: Vec<f32> = (0..96)
        .map(|at| other.columns[at] * moved[at] / one.columns[at])
        .collect();
    assert_eq!(one.alpha, other.alpha);
    for value in &all {
        assert!((value / all[0] - 1.0).abs() < 1e-3, "{value} {}", all[0]);
    }
}

#[test]
fn query_heads_of_a_value_head_share_its_scales() {
    let (weights, hessian) = problem(16, 128, 6);
    let (damped, factor) = hessian.factor(0.01).unwrap();
    let channels = Channels::value_heads(4, 2, 32);
    let fold = fold(&weights, &damped, &factor, &channels, CodeFormat::Int4).unwrap();
    assert_eq!(fold.channels.len(), 64);
    assert_eq!(fold.columns[..32], fold.channels[..32]);
    assert_eq!(fold.columns[32..64], fold.channels[..32]);
    assert_eq!(fold.columns[64..96], fold.channels[32..]);
    assert_eq!(fold.columns[96..], fold.channels[32..]);
    assert!(fold.ratio <= 1.0);
}

#[test]
fn a_rescaled_factor_is_that_of_the_rescaled_hessian() {
    let (_, hessian) = problem(1, 64, 8);
    let (damped, factor) = hessian.factor(0.01).unwrap();
    let scales: Vec<f32> = (0..64).map(|at| 0.5 + at as f32 / 64.0).collect();
    let (weights, direct) = problem(4, 64, 8);
    assert_eq!(direct, hessian);
    // Powers of two rescale without rounding, and leave the order of equal diagonals to the test.
    let twos: Vec<f32> = (0..64)
        .map(|at| if at % 2 == 0 { 2.0 } else { 1.0 })
        .collect();
    for scales in [scales, twos] {
        let inverse: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
        let scaled = awq::multiply_columns(&weights, &scales);
        let mut grid = round_to_nearest(&scaled, 64, CodeFormat::Int8).unwrap();
        gptq(&scaled, &factor.rescaled(&scales), &mut grid).unwrap();
        let plain = round_to_nearest(&scaled, 64, CodeFormat::Int8).unwrap();
        let under = damped.rescaled(&scales);
        let back = under.rescaled(&inverse);
        for (a, b) in back.values().iter().zip(damped.values()) {
            assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()));
        }
        assert!(naive_error(&scaled, &grid, &under) < 0.9 * naive_error(&scaled, &plain, &under));
    }
}

#[test]
fn inputs_that_are_always_zero_keep_their_weights() {
    let (weights, hessian) = problem(4, 64, 10);
    let mut values = hessian.values().to_vec();
    for at in 0..64 {
        (values[5 * 64 + at], values[at * 64 + 5]) = (0.0, 0.0);
    }
    let dead = Hessian::new(64, values).unwrap();
    let nothing = Hessian::new(64, vec![0.0; 64 * 64]).unwrap();
    for hessian in [dead, nothing] {
        let (damped, factor) = hessian.factor(0.01).unwrap();
        let mut grid = importance(&weights, &hessian.diagonal(), CodeFormat::Int8).unwrap();
        gptq(&weights, &factor, &mut grid).unwrap();
        refine(&weights, &damped, &mut grid, RefineOptions::default()).unwrap();
        let back = grid.floats();
        for row in 0..4 {
            let at = row * 64 + 5;
            assert!(
                (back[at] - weights[at]).abs() < 0.05,
                "{} {}",
                back[at],
                weights[at]
            );
        }
    }
}

#[test]
fn what_cannot_be_quantized_is_named() {
    let (mut weights, hessian) = problem(2, 32, 11);
    let message = |result: Result<Grid, QuantizeError>| result.unwrap_err().to_string();
    assert_eq!(
        message(round_to_nearest(&weights, 33, CodeFormat::Int4)),
        "a matrix needs columns that are a multiple of 32 from 32 to 16384, found 33"
    );
    assert_eq!(
        message(importance(&weights[..40], &[1.0; 32], CodeFormat::Int4)),
        "weights: expected 32, found 40"
    );
    weights[33] = f32::NAN;
    assert_eq!(
        message(importance(&weights, &[1.0; 32], CodeFormat::Int4)),
        "weight 1 of row 1 is NaN, expected a finite number"
    );
    let changed = |row: usize, column: usize, value: f32| {
        let mut values = hessian.values().to_vec();
        values[row * 32 + column] = value;
        Hessian::new(32, values).unwrap_err().to_string()
    };
    for (row, column, value, what) in [
        (3, 2, f32::INFINITY, "[3, 2] is not a finite number"),
        (4, 4, -1.0, "[4, 4] is negative"),
        (9, 2, 1e6, "[9, 2] differs from its mirror image"),
    ] {
        let message = changed(row, column, value);
        assert!(message.ends_with(what), "{message}");
    }
    let mut mirrored = vec![0.0; 32 * 32];
    for at in 0..32 {
        mirrored[at * 33] = 1.0;
    }
    // No Gram matrix: |⟨x, y⟩| exceeds |x|·|y| by far.
    (mirrored[1], mirrored[32]) = (1e6, 1e6);
    let error = Hessian::new(32, mirrored)
        .unwrap()
        .factor(0.01)
        .unwrap_err();
    assert!(
        matches!(error, QuantizeError::NotPositiveDefinite { .. }),
        "{error}"
    );
}

#[test]
fn a_singular_hessian_is_damped_until_it_has_a_factor() {
    // One token: rank 1.
    let x: Vec<f32> = (0..64).map(|at| (at as f32 - 20.0) * 100.0).collect();
    let gram = x
        .iter()
        .flat_map(|a| x.iter().map(move |b| a * b))
        .collect();
    let (damped, factor) = Hessian::new(64, gram).unwrap().factor(0.0).unwrap();
    assert!(damped.values().iter().all(|value| value.is_finite()));
    assert!(factor.upper.iter().all(|value| value.is_finite()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn refining_never_raises_the_error(
        weights in prop::collection::vec(prop_oneof![Just(0.0_f32), -1.0_f32..1.0, -1e4_f32..1e4, -1e-9_f32..1e-9], 2 * 64),
        seed in 0_u64..1000,
        format in prop::sample::select(&FORMATS),
    ) {
        let (_, hessian) = problem(0, 64, seed);
        let (damped, factor) = hessian.factor(0.01).unwrap();
        let mut grid = importance(&weights, &damped.diagonal(), format).unwrap();
        gptq(&weights, &factor, &mut grid).unwrap();
        let before = naive_error(&weights, &grid, &damped);
        refine(&weights, &damped, &mut grid, RefineOptions::default()).unwrap();
        let after = naive_error(&weights, &grid, &damped);
        prop_assert!(after <= before * 1.0001, "{before} {after}");
        prop_assert!(grid.floats().iter().all(|value| value.is_finite()));
        prop_assert!(grid.scales.iter().all(|&scale| half::f16::from_f32(scale).to_f32() == scale));
    }
}
