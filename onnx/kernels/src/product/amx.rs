//! Products with AMX: one instruction multiplies a block of 16 packed rows and 16 rows of activations, 8192 pairs of bytes.
//!
//! A block of 32 inputs has its own scales, so its integer sums leave the tile after every instruction and are scaled by
//! AVX-512, in the same order as there: the results are AVX-512's to the bit. That bounds the speed: a product of tiles takes
//! 16 cycles and to store its sums another 16, which comes to 1.6 times what VNNI reaches. Codes are made signed and lose their zero
//! points while 4 bits become 8, once for all rows of the call, in pieces that stay in the first cache. The layout of
//! [`pack`](crate::pack) is that of the second operand, four inputs of a row in a word; rows of activations are the first, so
//! they stand one after the other and not interleaved.
//!
//! Up to 31 rows AVX-512 alone is as fast: to expand the codes pays for itself with more.
//!
//! ```text
//!   activations   A  16 rows × 32 inputs i8 ┐
//!   weights       B  8 × 16 words of 4 i8   ┴─ tdpbssd ─► C  16 × 16 i32 ─► memory ─► sums[row] += C[row]·(scale_w·scale_a)
//! ```
//!
//! The intrinsics are not stable in Rust, so the six instructions are written out. Tiles have to be configured, which the
//! caller does once a call ([`Tiles`]); the operating system has to be asked first ([`permitted`]).

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use crate::activation::{Bunch, Shaped};
use crate::pack::{Format, GROUP_ROWS, SCALE_BYTES, ZERO_BYTES};

/// Tiles whose codes are expanded at once: 16 KiB, a third of the first cache.
const PIECE_TILES: usize = 16;
/// Bytes of the expanded codes of a tile.
const CODE_BYTES: usize = 1024;
/// Rows of activations of a tile; what is beyond a bunch is computed and thrown away.
const TILE_ROWS: usize = 16;

/// Whether this computer has AMX for bytes, and the system lets this process use it. Asks once.
pub(crate) fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| has_tiles() && ask())
}

/// CPUID: tiles and products of bytes, and a system that saves both parts of their state.
fn has_tiles() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const OSXSAVE: u32 = 1 << 27;
    const SAVED: u32 = 0b11 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if features & TILE == 0 || features & INT8 == 0 {
        return false;
    }
    let saved: u32;
    // SAFETY: OSXSAVE says that the instruction is there; it only writes these registers.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack));
    }
    saved & SAVED == SAVED
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: Linux makes room for 8 KiB of tiles a thread only when asked, and may
/// refuse.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: a system call that takes numbers only; the kernel changes rax, rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// Other systems ask in other ways.
#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// The configuration of this thread's tiles, while it lives.
pub(crate) struct Tiles(());

/// Palette 1 (up to 16 rows of 64 bytes), then the bytes of a row of each tile, then its rows.
#[repr(align(64))]
struct Configuration(#[expect(dead_code, reason = "read by ldtilecfg")] [u8; 64]);

/// Tiles 0 and 1 are sums, 2 and 3 activations, 4 and 5 weights: two of each, so that one block follows the other closely.
static CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 6 {
        (bytes[16 + 2 * tile], bytes[48 + tile]) = match tile {
            0 | 1 => (64, TILE_ROWS as u8),
            2 | 3 => (32, TILE_ROWS as u8),
            _ => (64, 8),
        };
        tile += 1;
    }
    Configuration(bytes)
};

impl Tiles {
    /// Configures the tiles of this thread.
    ///
    /// # Safety
    /// [`permitted`], and nobody else uses the tiles of this thread.
    pub(crate) unsafe fn configure() -> Tiles {
        // SAFETY: as the caller promises; 64 valid bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly));
        }
        Tiles(())
    }
}

impl Drop for Tiles {
    /// Back to the state of a thread that never used them: else the system would save 8 KiB at every change of threads.
    fn drop(&mut self) {
        // SAFETY: there are tiles, else there were no value of this type.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Bytes that begin with a cache line.
#[repr(align(64))]
struct Lines<T>(T);

/// Products of the bunches of a range, which are laid out for tiles, and a group.
///
/// # Safety
/// As [`Simd::products`](crate::simd::Simd::products), with configured [`Tiles`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) unsafe fn products(
    format: Format,
    group: *const u8,
    tiles: usize,
    (bytes, bunches): (&Shaped, Range<usize>),
    out: *mut f32,
) {
    let mut codes = MaybeUninit::<Lines<[u8; PIECE_TILES * CODE_BYTES]>>::uninit();
    let codes = codes.as_mut_ptr().cast::<u8>();
    let group_bytes = tiles * format.tile_bytes();
    for first in (0..tiles).step_by(PIECE_TILES) {
        let piece = first..tiles.min(first + PIECE_TILES);
        // SAFETY: `tiles` whole tiles, then their zero points; room for the codes of a piece, and for 16 floats a row.
        unsafe {
            for (index, tile) in piece.clone().enumerate() {
                let zeros = group.add(group_bytes + tile * ZERO_BYTES);
                let tile = group.add(tile * format.tile_bytes());
                // A piece is read at once and multiplied for long: the same one of the next group has time to arrive.
                prefetch(tile.wrapping_add(group_bytes), format.tile_bytes());
                expand(format, tile, zeros, codes.add(index * CODE_BYTES));
            }
            let mut out = out;
            for index in bunches.clone() {
                let bunch = bytes.bunch(index);
                let weights = Weights {
                    codes,
                    scales: group.add(first * format.tile_bytes()),
                    stride: format.tile_bytes(),
                };
                match format {
                    Format::Int4Minima => {
                        multiply_rows::<true>(&weights, piece.clone(), &bunch, out);
                    }
                    Format::Int4 | Format::Int4Zeros | Format::Int8 => {
                        multiply_rows::<false>(&weights, piece.clone(), &bunch, out);
                    }
                }
                out = out.add(bunch.rows * GROUP_ROWS);
            }
        }
    }
}

#[inline]
fn prefetch(from: *const u8, bytes: usize) {
    for line in 0..bytes / 64 {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(64 * line).cast()) };
    }
}

/// The codes of a tile as signed bytes without a zero point, 16 lines.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn expand(format: Format, tile: *const u8, zeros: *const u8, to: *mut u8) {
    // SAFETY: a whole tile, 16 bytes of zero points where the format has them, and room for 16 lines.
    unsafe {
        let from = tile.add(format.codes_at());
        let store = |line: usize, codes, zero| {
            _mm512_store_si512(to.add(64 * line).cast(), _mm512_sub_epi8(codes, zero));
        };
        let load = |line: usize| _mm512_loadu_si512(from.add(64 * line).cast());
        let [first, second] = match format {
            Format::Int4Zeros => zero_points(zeros),
            Format::Int4Minima => [_mm512_setzero_si512(); 2],
            format => [_mm512_set1_epi8(format.zero() as i8); 2],
        };
        match format {
            Format::Int8 => {
                for line in 0..16 {
                    store(line, load(line), first);
                }
            }
            Format::Int4 | Format::Int4Zeros | Format::Int4Minima => {
                let nibble = _mm512_set1_epi8(15);
                for line in 0..8 {
                    let (both, zero) = (load(line), if line < 4 { first } else { second });
                    store(2 * line, _mm512_and_si512(both, nibble), zero);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble);
                    store(2 * line + 1, high, zero);
                }
            }
        }
    }
}

/// The zero points of both blocks of a tile, each in four bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn zero_points(zeros: *const u8) -> [__m512i; 2] {
    // SAFETY: 16 bytes a tile.
    let both = unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(zeros.cast())) };
    let four = _mm512_mullo_epi32(both, _mm512_set1_epi32(0x0101_0101));
    let nibble = _mm512_set1_epi8(15);
    [
        _mm512_and_si512(four, nibble),
        _mm512_and_si512(_mm512_srli_epi16::<4>(four), nibble),
    ]
}

/// A piece of a group.
struct Weights {
    /// Expanded.
    codes: *const u8,
    /// Those of the first tile; the next ones are `stride` bytes apart.
    scales: *const u8,
    stride: usize,
}

/// Runs the kernel for the bunch's number of rows.
macro_rules! by_rows {
    ($rows:expr, [$($n:literal)*], $kernel:ident $arguments:tt) => {
        match $rows {
            $($n => $kernel::<$n, MINIMA> $arguments,)*
            _ => $kernel::<16, MINIMA> $arguments,
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply_rows<const MINIMA: bool>(
    weights: &Weights,
    piece: Range<usize>,
    bunch: &Bunch,
    out: *mut f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        by_rows!(
            bunch.rows,
            [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15],
            multiply(weights, piece, bunch, out)
        );
    }
}

/// Adds the products of the tiles of a piece to `out`, or begins with those of the first piece.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply<const R: usize, const MINIMA: bool>(
    weights: &Weights,
    piece: Range<usize>,
    bunch: &Bunch,
    out: *mut f32,
) {
    let mut dots = MaybeUninit::<Lines<[[i32; TILE_ROWS * GROUP_ROWS]; 2]>>::uninit();
    let even = dots.as_mut_ptr().cast::<i32>();
    // SAFETY: two blocks a tile of codes, scales and activations; room for 16 floats a row.
    unsafe {
        let odd = even.add(TILE_ROWS * GROUP_ROWS);
        let mut sums = [_mm512_setzero_ps(); R];
        if piece.start > 0 {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(out.add(GROUP_ROWS * row));
            }
        }
        let first = 2 * piece.start;
        let mut data = bunch.data.add(first * 8 * R);
        let mut scales = bunch.scales.add(first * R);
        let mut fix = bunch.fix.add(first * R);
        let (mut codes, mut steps) = (weights.codes, weights.scales);
        dot_even(data, codes, even);
        for tile in piece.clone() {
            dot_odd(data.add(8 * R), codes.add(CODE_BYTES / 2), odd);
            if MINIMA {
                add_with_minima(&mut sums, even, steps, (scales, fix));
            } else {
                add(&mut sums, even, steps, scales);
            }
            if tile + 1 < piece.end {
                (data, codes) = (data.add(16 * R), codes.add(CODE_BYTES));
            }
            // The last time for nothing: a branch here would cost more.
            dot_even(data, codes, even);
            let second = steps.add(2 * GROUP_ROWS);
            if MINIMA {
                add_with_minima(&mut sums, odd, second, (scales.add(R), fix.add(R)));
            } else {
                add(&mut sums, odd, second, scales.add(R));
            }
            (steps, scales) = (steps.add(weights.stride), scales.add(2 * R));
            fix = fix.add(2 * R);
        }
        for (row, sum) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(out.add(GROUP_ROWS * row), sum);
        }
    }
}

/// The integer sums of one block, by tiles of their own for even and odd blocks.
macro_rules! dot {
    ($name:ident, $sums:literal, $rows:literal, $codes:literal) => {
        #[inline(always)]
        unsafe fn $name(rows: *const u32, codes: *const u8, to: *mut i32) {
            // SAFETY: the caller has configured the tiles; 16 rows of 32 bytes, 8 lines of codes, room for 16 of sums.
            unsafe {
                asm!(
                    concat!("tileloadd tmm", $codes, ", [{codes} + {line}*1]"),
                    concat!("tileloadd tmm", $rows, ", [{rows} + {row}*1]"),
                    concat!("tilezero tmm", $sums),
                    concat!("tdpbssd tmm", $sums, ", tmm", $rows, ", tmm", $codes),
                    concat!("tilestored [{to} + {line}*1], tmm", $sums),
                    codes = in(reg) codes,
                    rows = in(reg) rows,
                    to = in(reg) to,
                    line = in(reg) 64_usize,
                    row = in(reg) 32_usize,
                    options(nostack)
                );
            }
        }
    };
}

dot!(dot_even, "0", "2", "4");
dot!(dot_odd, "1", "3", "5");

/// Adds `dots · (steps · scale)` to the sums of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn add<const R: usize>(
    sums: &mut [__m512; R],
    dots: *const i32,
    steps: *const u8,
    scales: *const f32,
) {
    // SAFETY: 16 steps, and 16 sums and a scale for each row.
    unsafe {
        let steps = _mm512_cvtph_ps(_mm256_loadu_si256(steps.cast()));
        for (row, sum) in sums.iter_mut().enumerate() {
            let step = _mm512_mul_ps(steps, _mm512_set1_ps(*scales.add(row)));
            let dot = _mm512_load_si512(dots.add(GROUP_ROWS * row).cast());
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), step, *sum);
        }
    }
}

/// Adds `(dots · steps + minima · Σ bytes) · scale` to the sums of each row; minima stand behind the steps of both blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn add_with_minima<const R: usize>(
    sums: &mut [__m512; R],
    dots: *const i32,
    steps: *const u8,
    (scales, fix): (*const f32, *const i32),
) {
    // SAFETY: 16 steps and, behind those of both blocks, 16 minima; 16 sums, a scale and a sum of bytes for each row.
    unsafe {
        let minima = _mm512_cvtph_ps(_mm256_loadu_si256(steps.add(SCALE_BYTES).cast()));
        let steps = _mm512_cvtph_ps(_mm256_loadu_si256(steps.cast()));
        for (row, sum) in sums.iter_mut().enumerate() {
            let bytes = _mm512_cvtepi32_ps(_mm512_set1_epi32(*fix.add(row)));
            let dot = _mm512_load_si512(dots.add(GROUP_ROWS * row).cast());
            let low = _mm512_mul_ps(minima, bytes);
            let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), steps, low);
            *sum = _mm512_fmadd_ps(value, _mm512_set1_ps(*scales.add(row)), *sum);
        }
    }
}
