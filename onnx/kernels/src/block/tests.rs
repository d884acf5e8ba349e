//! Whole blocks against a plain computation in single precision with the same weights, on every instruction set here.

use super::*;
use crate::norm::{NormKind, rotary_angles};
use crate::pack::{BLOCK, Format, Unpacked, pack};
use crate::pool::Bytes;
use crate::team::Scoped;

const WIDTH: usize = 16;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HIDDEN: usize = 96;
const FFN: usize = 128;
const LAYERS: usize = 2;
/// Tokens that scales of keys and values are measured with.
const MEASURED: usize = 80;
const PAGES: usize = 48;

/// Largest error of a row relative to its length: activations are rounded to bytes four times a block, keys and values to
/// half precision or to bytes.
const ERROR: f32 = 0.02;

struct Random(u64);

impl Random {
    fn float(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// What the families differ in.
#[derive(Clone, Copy)]
struct Family {
    norm: NormKind,
    biases: bool,
    head_norms: bool,
    post_norms: bool,
    gated: bool,
    rotates: bool,
    activation: Activation,
    window: usize,
    format: Format,
    element: Element,
}

const LLAMA: Family = Family {
    norm: NormKind::Rms,
    biases: false,
    head_norms: false,
    post_norms: false,
    gated: true,
    rotates: true,
    activation: Activation::Silu,
    window: 0,
    format: Format::Int4,
    element: Element::F16,
};
const LLAMA_BYTES: Family = Family {
    element: Element::Int8,
    ..LLAMA
};
const FAMILIES: [(&str, Family); 8] = [
    ("llama", LLAMA),
    (
        "qwen with zero points",
        Family {
            biases: true,
            head_norms: true,
            format: Format::Int4Zeros,
            ..LLAMA
        },
    ),
    (
        "gemma",
        Family {
            head_norms: true,
            post_norms: true,
            activation: Activation::GeluTanh,
            window: 40,
            format: Format::Int8,
            ..LLAMA
        },
    ),
    (
        "gpt-2",
        Family {
            norm: NormKind::Layer,
            biases: true,
            gated: false,
            rotates: false,
            activation: Activation::GeluTanh,
            format: Format::Int8,
            ..LLAMA
        },
    ),
    (
        "llama with minima",
        Family {
            format: Format::Int4Minima,
            ..LLAMA
        },
    ),
    ("llama with bytes", LLAMA_BYTES),
    (
        "qwen with bytes",
        Family {
            biases: true,
            head_norms: true,
            ..LLAMA_BYTES
        },
    ),
    (
        "a window over bytes",
        Family {
            window: 40,
            rotates: false,
            format: Format::Int8,
            ..LLAMA_BYTES
        },
    ),
];

struct Weights {
    family: Family,
    qkv: Vec<u8>,
    output: Vec<u8>,
    up: Vec<u8>,
    down: Vec<u8>,
    /// Norm weights and biases, each long enough for any place.
    norms: Vec<Vec<f32>>,
    biases: Vec<Vec<f32>>,
    /// What bytes of keys, then of values are worth; measured.
    kv_scales: Vec<f32>,
}

fn matrix(rows: usize, columns: usize, format: Format, random: &mut Random) -> Vec<u8> {
    let levels = if format == Format::Int8 { 127.0 } else { 7.0 };
    let middle = if format == Format::Int8 { 128.0 } else { 8.0 };
    let codes: Vec<u8> = (0..rows * columns)
        .map(|_| (random.float() * levels + middle) as u8)
        .collect();
    let scales: Vec<f32> = (0..rows * columns / BLOCK)
        .map(|_| (1.5 + random.float()) / levels / (columns as f32).sqrt())
        .collect();
    let zeros: Vec<u8> = if format == Format::Int4Zeros {
        (0..scales.len()).map(|i| 6 + (i % 5) as u8).collect()
    } else {
        vec![]
    };
    let minima: Vec<f32> = if format == Format::Int4Minima {
        scales.iter().map(|scale| -7.6 * scale).collect()
    } else {
        vec![]
    };
    pack(&Unpacked {
        rows,
        columns,
        codes: &codes,
        scales: &scales,
        zeros: &zeros,
        minima: &minima,
        format,
    })
    .unwrap()
}

impl Weights {
    fn new(family: Family) -> Weights {
        let mut random = Random(0x0dd_ba11);
        let up = if family.gated { 2 * FFN } else { FFN };
        let mut weights = Weights {
            family,
            kv_scales: vec![1.0; 2 * KV_HEADS * WIDTH],
            qkv: matrix(
                (HEADS + 2 * KV_HEADS) * WIDTH,
                HIDDEN,
                family.format,
                &mut random,
            ),
            output: matrix(HIDDEN, HEADS * WIDTH, family.format, &mut random),
            up: matrix(up, HIDDEN, family.format, &mut random),
            down: matrix(HIDDEN, FFN, family.format, &mut random),
            norms: (0..8)
                .map(|_| {
                    random
                        .floats(HIDDEN)
                        .into_iter()
                        .map(|x| 1.0 + 0.3 * x)
                        .collect()
                })
                .collect(),
            biases: (0..8)
                .map(|_| {
                    random
                        .floats(2 * FFN)
                        .into_iter()
                        .map(|x| 0.2 * x)
                        .collect()
                })
                .collect(),
        };
        let x = input(MEASURED);
        let angles = family.rotates.then(|| angles(MEASURED));
        let (_, ranges) = reference(&weights.block(), &x, angles.as_deref());
        weights.kv_scales = ranges.into_iter().map(|range| range / 127.0).collect();
        weights
    }

    fn block(&self) -> Block<'_> {
        let family = &self.family;
        let norm = |i: usize, width: usize| Norm {
            kind: family.norm,
            epsilon: 1e-5,
            weight: &self.norms[i][..width],
            bias: (family.norm == NormKind::Layer).then(|| &self.biases[4 + i % 4][..width]),
        };
        let plain = |i: usize, width: usize| Norm {
            kind: NormKind::Rms,
            bias: None,
            ..norm(i, width)
        };
        let bias = |i: usize, width: usize| family.biases.then(|| &self.biases[i][..width]);
        let qkv_rows = (HEADS + 2 * KV_HEADS) * WIDTH;
        let up_rows = if family.gated { 2 * FFN } else { FFN };
        Block {
            layer: 1,
            heads: HEADS,
            window: family.window,
            scale: 0.25,
            input_norm: norm(0, HIDDEN),
            qkv: Packed::new(&self.qkv, qkv_rows, HIDDEN).unwrap(),
            qkv_bias: bias(0, qkv_rows),
            q_norm: family.head_norms.then(|| plain(1, WIDTH)),
            k_norm: family.head_norms.then(|| plain(2, WIDTH)),
            kv_scales: (family.element == Element::Int8).then(|| {
                let (keys, values) = self.kv_scales.split_at(KV_HEADS * WIDTH);
                KvScales { keys, values }
            }),
            output: Packed::new(&self.output, HIDDEN, HEADS * WIDTH).unwrap(),
            output_bias: bias(1, HIDDEN),
            post_attention_norm: family.post_norms.then(|| plain(3, HIDDEN)),
            ffn_norm: norm(4, HIDDEN),
            up: Packed::new(&self.up, up_rows, HIDDEN).unwrap(),
            up_bias: bias(2, up_rows),
            gated: family.gated,
            activation: family.activation,
            down: Packed::new(&self.down, HIDDEN, FFN).unwrap(),
            down_bias: bias(3, HIDDEN),
            post_ffn_norm: family.post_norms.then(|| plain(5, HIDDEN)),
        }
    }
}

/// x·Wᵀ + b.
fn linear(x: &[f32], matrix: &Packed<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let mut weights = vec![0.0; matrix.columns()];
    (0..matrix.rows())
        .map(|row| {
            matrix.read_row(row, 1.0, &mut weights);
            x.iter().zip(&weights).map(|(a, b)| a * b).sum::<f32>()
                + bias.map_or(0.0, |bias| bias[row])
        })
        .collect()
}

fn normed(with: &Norm<'_>, x: &[f32]) -> Vec<f32> {
    let n = x.len() as f32;
    let mean = if with.kind == NormKind::Layer {
        x.iter().sum::<f32>() / n
    } else {
        0.0
    };
    let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
    let bias = |i: usize| with.bias.map_or(0.0, |bias| bias[i]);
    x.iter()
        .enumerate()
        .map(|(i, x)| (x - mean) / (square + with.epsilon).sqrt() * with.weight[i] + bias(i))
        .collect()
}

fn act(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
        }
    }
}

fn head_of(x: &[f32], with: Option<&Norm<'_>>, angles: Option<&[f32]>) -> Vec<f32> {
    let mut x = with.map_or_else(|| x.to_vec(), |with| normed(with, x));
    if let Some(angles) = angles {
        for i in 0..WIDTH / 2 {
            let (a, b, cos, sin) = (x[i], x[i + WIDTH / 2], angles[i], angles[i + WIDTH / 2]);
            (x[i], x[i + WIDTH / 2]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
    x
}

/// The block over a whole sequence, one token after the other; and how large each feature of keys, then of values became.
fn reference(block: &Block<'_>, x: &[f32], angles: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
    let (mut keys, mut values): (Vec<Vec<f32>>, Vec<Vec<f32>>) = (vec![], vec![]);
    let mut out = vec![];
    for (position, x) in x.chunks_exact(HIDDEN).enumerate() {
        let angles = angles.map(|angles| &angles[position * WIDTH..][..WIDTH]);
        let qkv = linear(&normed(&block.input_norm, x), &block.qkv, block.qkv_bias);
        let head = |i: usize| &qkv[i * WIDTH..][..WIDTH];
        keys.push(
            (0..KV_HEADS)
                .flat_map(|i| head_of(head(HEADS + i), block.k_norm.as_ref(), angles))
                .collect(),
        );
        values.push(
            (0..KV_HEADS)
                .flat_map(|i| head(HEADS + KV_HEADS + i).to_vec())
                .collect(),
        );
        let from = if block.window == 0 {
            0
        } else {
            (position + 1).saturating_sub(block.window)
        };
        let mut attention = vec![];
        for i in 0..HEADS {
            let kv = i / (HEADS / KV_HEADS) * WIDTH..i / (HEADS / KV_HEADS) * WIDTH + WIDTH;
            let query = head_of(head(i), block.q_norm.as_ref(), angles);
            let scores: Vec<f32> = keys[from..]
                .iter()
                .map(|key| {
                    key[kv.clone()]
                        .iter()
                        .zip(&query)
                        .map(|(a, b)| a * b)
                        .sum::<f32>()
                        * block.scale
                })
                .collect();
            let largest = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f32 = weights.iter().sum();
            for feature in kv {
                attention.push(
                    weights
                        .iter()
                        .zip(&values[from..])
                        .map(|(w, v)| w * v[feature])
                        .sum::<f32>()
                        / total,
                );
            }
        }
        let mut delta = linear(&attention, &block.output, block.output_bias);
        if let Some(with) = &block.post_attention_norm {
            delta = normed(with, &delta);
        }
        let middle: Vec<f32> = x.iter().zip(delta).map(|(a, b)| a + b).collect();
        let up = linear(&normed(&block.ffn_norm, &middle), &block.up, block.up_bias);
        let inner: Vec<f32> = (0..FFN)
            .map(|i| {
                if block.gated {
                    let at = i / GROUP_ROWS * 2 * GROUP_ROWS + i % GROUP_ROWS;
                    act(block.activation, up[at]) * up[at + GROUP_ROWS]
                } else {
                    act(block.activation, up[i])
                }
            })
            .collect();
        let mut delta = linear(&inner, &block.down, block.down_bias);
        if let Some(with) = &block.post_ffn_norm {
            delta = normed(with, &delta);
        }
        out.extend(middle.iter().zip(delta).map(|(a, b)| a + b));
    }
    let largest = |all: &[Vec<f32>], at: usize| all.iter().fold(0.0_f32, |m, x| m.max(x[at].abs()));
    let ranges = [&keys, &values].into_iter().flat_map(|all| {
        (0..KV_HEADS * WIDTH)
            .map(|at| largest(all, at))
            .collect::<Vec<_>>()
    });
    (out, ranges.collect())
}

struct Runner<'a> {
    block: &'a Block<'a>,
    pool: Pool,
    workspace: Workspace,
    threads: usize,
    angles: bool,
}

impl Runner<'_> {
    fn new<'a>(block: &'a Block<'a>, family: &Family, isa: Isa, threads: usize) -> Runner<'a> {
        let pool = Pool::new(family.element, PAGES, LAYERS, KV_HEADS, WIDTH).unwrap();
        block.check(&pool).unwrap();
        Runner {
            block,
            pool,
            workspace: Workspace::new(isa),
            threads,
            angles: family.rotates,
        }
    }

    /// Rows of several sequences: (sequence, position) each; sequence s has the pages from 16·s on.
    fn run(&mut self, rows: &[(i32, i32)], x: &[f32]) -> Vec<f32> {
        let positions: Vec<i32> = rows.iter().map(|row| row.1).collect();
        let sequences: Vec<i32> = rows.iter().map(|row| row.0).collect();
        let pages: Vec<i32> = (0..PAGES as i32).collect();
        let mut angles = vec![0.0; rows.len() * WIDTH];
        rotary_angles(&positions, &frequencies(), &mut angles);
        let step = Step {
            positions: &positions,
            sequences: &sequences,
            pages: &pages,
            table: 16,
        };
        let mut y = vec![0.0; x.len()];
        let angles = self.angles.then_some(&angles[..]);
        run(
            self.block,
            &step,
            angles,
            &self.pool,
            (x, &mut y),
            &mut self.workspace,
            &Scoped(self.threads),
        )
        .unwrap();
        y
    }
}

/// Of the first positions.
fn angles(tokens: usize) -> Vec<f32> {
    let positions: Vec<i32> = (0..tokens as i32).collect();
    let mut angles = vec![0.0; tokens * WIDTH];
    rotary_angles(&positions, &frequencies(), &mut angles);
    angles
}

fn frequencies() -> Vec<f32> {
    (0..WIDTH / 2)
        .map(|i| 100_f32.powf(-2.0 * i as f32 / WIDTH as f32))
        .collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    crate::ALL.into_iter().filter(|isa| isa.is_available())
}

fn input(tokens: usize) -> Vec<f32> {
    Random(99).floats(tokens * HIDDEN)
}

#[test]
fn every_family_agrees_with_the_plain_computation() {
    const TOKENS: usize = 70;
    let x = input(TOKENS);
    for (name, family) in FAMILIES {
        let weights = Weights::new(family);
        let block = weights.block();
        let angles = family.rotates.then(|| angles(TOKENS));
        let (expected, _) = reference(&block, &x, angles.as_deref());
        for isa in isas() {
            let mut runner = Runner::new(&block, &family, isa, 2);
            let rows: Vec<(i32, i32)> = (0..TOKENS as i32).map(|position| (1, position)).collect();
            let found = runner.run(&rows, &x);
            for (position, (expected, found)) in expected
                .chunks_exact(HIDDEN)
                .zip(found.chunks_exact(HIDDEN))
                .enumerate()
            {
                let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
                let error = expected
                    .iter()
                    .zip(found)
                    .map(|(a, b)| (a - b).powi(2))
                    .sum::<f32>()
                    .sqrt();
                assert!(
                    error <= ERROR * norm,
                    "{name}, {isa}, position {position}: {error} of {norm}"
                );
            }
        }
    }
}

/// A prompt in parts, single tokens, other sequences beside them, one thread or three: the same bits.
#[test]
fn a_row_does_not_depend_on_its_company() {
    let x = input(80);
    let row = |position: usize| &x[position * HIDDEN..(position + 1) * HIDDEN];
    for (name, family) in FAMILIES {
        let weights = Weights::new(family);
        let block = weights.block();
        for isa in isas() {
            let prompt: Vec<(i32, i32)> = (0..70).map(|position| (0, position)).collect();
            let mut whole = Runner::new(&block, &family, isa, 1);
            let expected = whole.run(&prompt, &x[..70 * HIDDEN]);
            let mut parts = Runner::new(&block, &family, isa, 3);
            let mut found = parts.run(&prompt[..33], &x[..33 * HIDDEN]);
            // The second part stands between rows of two other sequences.
            let mut rows = vec![(2, 0)];
            rows.extend(&prompt[33..]);
            rows.push((1, 0));
            let company = [row(79), &x[33 * HIDDEN..70 * HIDDEN], row(78)].concat();
            found.extend(&parts.run(&rows, &company)[HIDDEN..38 * HIDDEN]);
            assert!(expected == found, "{name}, {isa}: a prompt in parts");
            let alone = whole.run(&[(0, 70)], row(70));
            let beside = parts.run(
                &[(1, 1), (0, 70), (2, 1)],
                &[row(77), row(70), row(76)].concat(),
            );
            assert!(
                alone == beside[HIDDEN..2 * HIDDEN],
                "{name}, {isa}: a token beside others"
            );
        }
    }
}

/// A past of several ranges gives what one row of a longer step gives, which looks at it in one piece.
#[test]
fn a_past_in_ranges_is_joined() {
    const TOKENS: usize = 500;
    let x = input(TOKENS);
    let cases = isas().flat_map(|isa| [(isa, LLAMA), (isa, LLAMA_BYTES)]);
    for (isa, family) in cases {
        let weights = Weights::new(family);
        let block = weights.block();
        let mut runner = Runner::new(&block, &family, isa, 2);
        let rows: Vec<(i32, i32)> = (0..TOKENS as i32).map(|position| (0, position)).collect();
        let expected = runner.run(&rows, &x);
        let last = runner.run(&rows[TOKENS - 1..], &x[(TOKENS - 1) * HIDDEN..]);
        for (a, b) in expected[(TOKENS - 1) * HIDDEN..].iter().zip(&last) {
            // Not the same bits: a sum in another order can round an activation to the next byte.
            assert!(
                (a - b).abs() <= 5e-3,
                "{isa}, {:?}: {a} {b}",
                family.element
            );
        }
    }
}

#[test]
fn a_copied_beginning_is_as_good_as_its_own() {
    let x = input(60);
    for family in [LLAMA, LLAMA_BYTES] {
        let weights = Weights::new(family);
        let block = weights.block();
        let mut runner = Runner::new(&block, &family, Isa::detect(), 2);
        let rows = |sequence: i32| {
            (0..60)
                .map(|position| (sequence, position))
                .collect::<Vec<_>>()
        };
        let expected = runner.run(&rows(0), &x);
        // Sequence 1 takes the first 40 tokens over and computes the rest.
        runner.pool.copy(0, 16, 32);
        runner.pool.copy(1, 17, 8);
        let found = runner.run(&rows(1)[40..], &x[40 * HIDDEN..]);
        assert!(expected[40 * HIDDEN..] == found[..], "{:?}", family.element);
    }
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let weights = Weights::new(FAMILIES[1].1);
    let pool = Pool::new(Element::F16, 1, LAYERS, KV_HEADS, WIDTH).unwrap();
    let good = weights.block();
    assert_eq!(good.check(&pool), Ok(()));
    let wide = Packed::new(&weights.up, FFN, 2 * HIDDEN);
    assert!(wide.is_err(), "bytes of another shape are refused before");
    let cases = [
        (
            "block 2: layer: expected below 2, found 2",
            Block { layer: 2, ..good },
        ),
        (
            "query heads, a multiple of the key heads: expected 6, found 5",
            Block { heads: 5, ..good },
        ),
        (
            "qkv rows: expected 160, found 96",
            Block {
                qkv: good.output,
                ..good
            },
        ),
        (
            "qkv_bias: expected 160, found 159",
            Block {
                qkv_bias: Some(&weights.biases[0][..159]),
                ..good
            },
        ),
        (
            "up rows: expected 128, found 256",
            Block {
                gated: false,
                ..good
            },
        ),
        (
            "input_norm: expected 96, found 95",
            Block {
                input_norm: Norm {
                    weight: &weights.norms[0][..95],
                    ..good.input_norm
                },
                ..good
            },
        ),
    ];
    for (expected, block) in cases {
        let error = block.check(&pool).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn scales_that_do_not_fit_are_named() {
    let weights = Weights::new(LLAMA_BYTES);
    let good = weights.block();
    let pool = |element| Pool::new(element, 1, LAYERS, KV_HEADS, WIDTH).unwrap();
    let bytes = pool(Element::Int8);
    assert_eq!(good.check(&bytes), Ok(()));
    assert_eq!(good.check(&pool(Element::F16)), Ok(()), "they are not used");
    let scales = good.kv_scales.unwrap();
    let replaced = |at: usize, with: f32| {
        let mut values = scales.values.to_vec();
        values[at] = with;
        values
    };
    let cases = [
        ("some for a pool of bytes, found none", None),
        ("expected 32, found 31", Some(scales.values[1..].to_vec())),
        ("finite numbers above 0, found 0", Some(replaced(3, 0.0))),
        ("finite numbers above 0, found -1", Some(replaced(0, -1.0))),
        (
            "finite numbers above 0, found NaN",
            Some(replaced(31, f32::NAN)),
        ),
        (
            "finite numbers above 0, found inf",
            Some(replaced(7, f32::INFINITY)),
        ),
    ];
    for (expected, values) in &cases {
        let kv_scales = values.as_ref().map(|values| KvScales { values, ..scales });
        let error = Block { kv_scales, ..good }.check(&bytes).unwrap_err();
        let error = error.to_string();
        assert!(error.ends_with(expected), "{error}");
    }
}

/// Scales of a tenth of what is needed: numbers are cut off, none changes its sign.
#[test]
fn what_a_byte_cannot_hold_is_cut_off() {
    let x = input(40);
    let weights = Weights::new(LLAMA_BYTES);
    let block = weights.block();
    let narrow: Vec<f32> = weights.kv_scales.iter().map(|scale| scale / 10.0).collect();
    let (keys, values) = narrow.split_at(KV_HEADS * WIDTH);
    let block = Block {
        kv_scales: Some(KvScales { keys, values }),
        ..block
    };
    for isa in isas() {
        let mut runner = Runner::new(&block, &LLAMA_BYTES, isa, 1);
        let rows: Vec<(i32, i32)> = (0..40).map(|position| (0, position)).collect();
        runner.run(&rows, &x);
        let mut cut = 0;
        let whole = Weights::new(LLAMA_BYTES);
        let whole = whole.block();
        let mut wide = Runner::new(&whole, &LLAMA_BYTES, isa, 1);
        wide.run(&rows, &x);
        for head in 0..KV_HEADS {
            let [(keys, values), (wide_keys, wide_values)] =
                [&runner.pool, &wide.pool].map(|pool| unsafe { pool.head::<Bytes>(0, 1, head) });
            for i in 0..WIDTH * 32 {
                let [pair, other] = unsafe {
                    [
                        (*keys.add(i), *wide_keys.add(i)),
                        (*values.add(i), *wide_values.add(i)),
                    ]
                };
                for (narrow, wide) in [pair, other] {
                    let expected = 10 * i32::from(wide);
                    assert!(
                        (i32::from(narrow) - expected.clamp(-127, 127)).abs() <= 5,
                        "{isa}: {narrow} for ten times {wide}"
                    );
                    cut += i32::from(narrow.abs() == 127);
                }
            }
        }
        assert!(cut > 1000, "{isa}: {cut} of 2048");
    }
}
