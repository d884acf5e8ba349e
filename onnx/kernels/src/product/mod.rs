//! Products of packed rows and activations, one file per instruction set.
//!
//! Each computes, for the 16 rows of a group and the rows of a bunch, `Σ_blocks scale_w·scale_a·Σ (code − zero)·byte`. The inner
//! sum is exact in integers; the outer one is taken block after block in single precision. So all instruction sets agree to
//! a rounding of the last place, and a row's result does not depend on how many rows are computed beside it.

pub(crate) mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

#[cfg(test)]
mod tests;
