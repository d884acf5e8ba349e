//! Products of packed rows and activations, one file per instruction set.
//!
//! Each computes, for the 16 rows of a group and the rows of a bunch, `Σ_blocks scale_w·scale_a·Σ (code − zero)·byte`, or with
//! minima `Σ_blocks scale_a·(scale_w·Σ code·byte + min_w·Σ byte)`. The inner sums are exact in integers; the outer one is taken
//! block after block in single precision. So all instruction sets agree to a rounding of the last place, and a row's result
//! does not depend on how many rows are computed beside it.

pub(crate) mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

#[cfg(test)]
mod tests;

/// What a kernel for 4-bit codes takes them to be: all with zero point 8, …
#[cfg(target_arch = "x86_64")]
const EIGHTS: u8 = 0;
/// … with the zero points behind the tiles, …
#[cfg(target_arch = "x86_64")]
const ZEROS: u8 = 1;
/// … or with the minima in the tiles.
#[cfg(target_arch = "x86_64")]
const MINIMA: u8 = 2;
