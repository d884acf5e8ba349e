//! Every instruction set against plain Rust, and plain Rust against the weights that were packed.

use crate::activation::Activations;
use crate::pack::{BLOCK, Format, GROUP_ROWS, Packed, Unpacked, pack};
use crate::simd::{MAX_TOGETHER_ROWS, Simd, portable::Portable};

/// Largest difference between instruction sets, relative to the largest result: they only round sums differently.
const BETWEEN: f32 = 1e-5;
/// Largest error against products in floats, relative to the root of the sum of squares: activations are rounded to bytes.
const ROUNDING: f32 = 0.02;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

struct Case {
    packed: Vec<u8>,
    rows: usize,
    columns: usize,
    format: Format,
}

fn case(rows: usize, columns: usize, format: Format, random: &mut Random) -> Case {
    let limit = if format == Format::Int8 { 256 } else { 16 };
    let codes: Vec<u8> = (0..rows * columns)
        .map(|_| (random.next() % limit) as u8)
        .collect();
    let blocks = rows * columns / BLOCK;
    let scales: Vec<f32> = (0..blocks)
        .map(|_| 0.01 + random.float().abs() * 0.01)
        .collect();
    let zeros: Vec<u8> = match format {
        Format::Int4Zeros => (0..blocks).map(|_| (random.next() % 16) as u8).collect(),
        _ => vec![],
    };
    // Near the middle of the codes' range, as real ones are, and not a whole number of steps away.
    let minima: Vec<f32> = match format {
        Format::Int4Minima => scales
            .iter()
            .map(|scale| -scale * (7.4 + 2.0 * random.float()))
            .collect(),
        _ => vec![],
    };
    let packed = pack(&Unpacked {
        rows,
        columns,
        codes: &codes,
        scales: &scales,
        zeros: &zeros,
        minima: &minima,
        format,
    })
    .unwrap();
    Case {
        packed,
        rows,
        columns,
        format,
    }
}

/// `[activation rows][matrix rows]`.
fn multiply<S: Simd>(case: &Case, x: &[f32]) -> Vec<f32> {
    let matrix = Packed::new(&case.packed, case.rows, case.columns).unwrap();
    assert_eq!(matrix.format(), case.format);
    let count = x.len() / case.columns;
    let mut activations = Activations::new(count, case.columns);
    let shaped = activations.shape::<S>(count, case.columns);
    let mut out = vec![0.0; count * case.rows];
    for (row, x) in x.chunks_exact(case.columns).enumerate() {
        unsafe { shaped.quantize_row::<S>(row, x, case.format.fix()) };
    }
    for group in 0..matrix.groups() {
        for first in (0..shaped.bunches()).step_by(S::TOGETHER) {
            let bunches = first..shaped.bunches().min(first + S::TOGETHER);
            let mut block = [0.0; MAX_TOGETHER_ROWS * GROUP_ROWS];
            let (bytes, tiles) = (matrix.group(group), matrix.tiles());
            let (from, to) = (bytes.as_ptr(), block.as_mut_ptr());
            unsafe { S::products(case.format, from, tiles, (&shaped, bunches.clone()), to) };
            let rows = bunches.flat_map(|index| {
                let bunch = shaped.bunch(index);
                bunch.first..bunch.first + bunch.rows
            });
            for (index, row) in rows.enumerate() {
                for column in 0..GROUP_ROWS.min(case.rows - group * GROUP_ROWS) {
                    out[row * case.rows + group * GROUP_ROWS + column] =
                        block[index * GROUP_ROWS + column];
                }
            }
        }
    }
    out
}

fn reference(case: &Case, x: &[f32]) -> Vec<f32> {
    let matrix = Packed::new(&case.packed, case.rows, case.columns).unwrap();
    let mut weights = vec![0.0; case.columns];
    let mut out = vec![0.0; x.len() / case.columns * case.rows];
    for row in 0..case.rows {
        matrix.read_row(row, 1.0, &mut weights);
        for (index, x) in x.chunks_exact(case.columns).enumerate() {
            out[index * case.rows + row] = x.iter().zip(&weights).map(|(a, b)| a * b).sum();
        }
    }
    out
}

/// Rows, columns and rows of activations.
const SHAPES: [(usize, usize, usize); 6] = [
    (16, 64, 1),
    (48, 32, 2),   // half a tile
    (33, 96, 3),   // rows and columns that end inside a group and a tile
    (64, 576, 13), // more than one bunch
    (16, 128, 7),
    (32, 1536, 25),
];

fn compare<S: Simd>(isa: &str) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (rows, columns, count) in SHAPES {
        for format in Format::ALL {
            let case = case(rows, columns, format, &mut random);
            let x: Vec<f32> = (0..count * columns).map(|_| random.float()).collect();
            let (expected, found) = (multiply::<Portable>(&case, &x), multiply::<S>(&case, &x));
            let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let apart = expected
                .iter()
                .zip(&found)
                .fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(
                apart <= BETWEEN * largest,
                "{isa} {format:?} {rows}x{columns}, {count} rows: {apart} of {largest}"
            );
        }
    }
}

#[test]
fn plain_rust_is_the_product_of_the_packed_weights() {
    let mut random = Random(42);
    for (rows, columns, count) in SHAPES {
        for format in Format::ALL {
            let case = case(rows, columns, format, &mut random);
            let x: Vec<f32> = (0..count * columns).map(|_| random.float()).collect();
            let (expected, found) = (reference(&case, &x), multiply::<Portable>(&case, &x));
            let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            let error = expected
                .iter()
                .zip(&found)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f32>()
                .sqrt();
            assert!(
                error <= ROUNDING * norm,
                "{format:?} {rows}x{columns}, {count} rows: {error} of {norm}"
            );
        }
    }
}

/// Whole numbers up to 127 are bytes as they are, so that only the sums of floats round.
#[test]
fn plain_rust_is_exact_for_whole_numbers() {
    let mut random = Random(0xfeed);
    for (rows, columns, count) in SHAPES {
        for format in Format::ALL {
            let case = case(rows, columns, format, &mut random);
            let x: Vec<f32> = (0..count * columns)
                .map(|i| match i % BLOCK {
                    0 => 127.0,
                    _ => (random.float() * 127.0).round(),
                })
                .collect();
            let matrix = Packed::new(&case.packed, rows, columns).unwrap();
            let found = multiply::<Portable>(&case, &x);
            let mut weights = vec![0.0; columns];
            for row in 0..rows {
                matrix.read_row(row, 1.0, &mut weights);
                for (index, x) in x.chunks_exact(columns).enumerate() {
                    let products = x
                        .iter()
                        .zip(&weights)
                        .map(|(a, b)| f64::from(*a) * f64::from(*b));
                    let (expected, size) = products.fold((0.0, 0.0), |(sum, size), product| {
                        (sum + product, size + product.abs())
                    });
                    let apart = (f64::from(found[index * rows + row]) - expected).abs();
                    assert!(
                        apart <= 2e-6 * size,
                        "{format:?} {rows}x{columns}, row {row}: {apart} of {size}"
                    );
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_agrees_with_plain_rust() {
    if crate::Isa::Avx2.is_available() {
        compare::<crate::simd::avx2::Avx2>("avx2");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx512_agrees_with_plain_rust() {
    if crate::Isa::Avx512Vnni.is_available() {
        compare::<crate::simd::avx512::Avx512Vnni>("avx512-vnni");
    }
}

#[cfg(target_arch = "aarch64")]
#[test]
fn neon_agrees_with_plain_rust() {
    if crate::Isa::NeonDot.is_available() {
        compare::<crate::simd::neon::NeonDot>("neon-dot");
    }
}

/// Tiles compute the same sums in the same order: not a bit may differ.
#[cfg(target_arch = "x86_64")]
#[test]
fn amx_is_avx512_to_the_bit() {
    use crate::simd::avx512::{Amx, Avx512Vnni};

    if !crate::Isa::Amx.is_available() {
        return;
    }
    // SAFETY: available.
    let _tiles = unsafe { crate::product::amx::Tiles::configure() };
    let mut random = Random(0x5eed);
    let shapes = [
        (16, 32, 32),    // half a tile
        (48, 576, 33),   // three short bunches
        (33, 96, 48),    // rows that end inside a group
        (16, 1088, 40),  // a piece and a tile more
        (16, 2080, 128), // more than two pieces
        (32, 128, 141),  // more bunches than go together
    ];
    for (rows, columns, count) in shapes {
        for format in Format::ALL {
            let case = case(rows, columns, format, &mut random);
            let x: Vec<f32> = (0..count * columns).map(|_| random.float()).collect();
            let (expected, found) = (
                multiply::<Avx512Vnni>(&case, &x),
                multiply::<Amx>(&case, &x),
            );
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let same = bits(&expected) == bits(&found);
            assert!(same, "{format:?} {rows}x{columns}, {count} rows");
        }
    }
}

#[test]
fn what_is_not_a_number_does_not_vanish() {
    let case = case(16, 64, Format::Int4, &mut Random(7));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = vec![0.5; 64];
        x[40] = bad;
        assert!(
            multiply::<Portable>(&case, &x)
                .iter()
                .all(|v| !v.is_finite()),
            "{bad}"
        );
    }
}

#[test]
fn what_is_almost_nothing_is_nothing() {
    let case = case(16, 64, Format::Int8, &mut Random(8));
    let x = [f32::MIN_POSITIVE / 4.0; 64];
    assert_eq!(multiply::<Portable>(&case, &x), [0.0; 16]);
}
