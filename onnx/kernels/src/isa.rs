//! Instruction sets: which there are, and which one this computer should use.
//!
//! The choice is a value, made once when a model is opened and passed down: a vehicle computer without AVX-512 and a
//! server with it run the same binary, and a benchmark can compare both on one machine.

use std::fmt;
use std::str::FromStr;

/// A way to compute the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, for every processor; the reference of the others in tests.
    Portable,
    /// x86-64 with AVX2, FMA and F16C (2013 and later): products of bytes by pairs in 16 bits.
    Avx2,
    /// x86-64 with AVX-512 and VNNI (servers since 2019): products of bytes by fours in 32 bits.
    Avx512Vnni,
    /// x86-64 with AVX-512, VNNI and AMX (servers since 2023), on Linux: the same for few rows, tiles of bytes for many.
    Amx,
    /// Arm with NEON and its dot product (Cortex-A76 and later, that is most vehicle computers): products of bytes by fours.
    NeonDot,
}

/// All of them, the most wanted first.
pub const ALL: [Isa; 5] = [
    Isa::Amx,
    Isa::Avx512Vnni,
    Isa::Avx2,
    Isa::NeonDot,
    Isa::Portable,
];

impl Isa {
    /// The fastest one that this computer has.
    #[must_use]
    pub fn detect() -> Isa {
        ALL.into_iter()
            .find(|isa| isa.is_available())
            .unwrap_or(Isa::Portable)
    }

    /// Whether this computer has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Vnni.is_available() && crate::product::amx::permitted(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512Vnni | Isa::Amx => false,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => {
                std::arch::is_aarch64_feature_detected!("neon")
                    && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(not(target_arch = "aarch64"))]
            Isa::NeonDot => false,
        }
    }

    /// Its name, as options spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Amx => "amx",
            Isa::NeonDot => "neon-dot",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no instruction set, or one this computer does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// No such name.
    #[error("instruction set {found:?}: expected portable, avx2, avx512-vnni, amx or neon-dot")]
    Unknown {
        /// What was given.
        found: String,
    },
    /// Known, but not here.
    #[error("instruction set {found}: this processor does not have it; the best it has is {best}")]
    Unavailable {
        /// What was asked for.
        found: Isa,
        /// What would work.
        best: Isa,
    },
}

impl FromStr for Isa {
    type Err = IsaError;

    /// A name of an instruction set that this computer has.
    fn from_str(text: &str) -> Result<Isa, IsaError> {
        let isa = ALL
            .into_iter()
            .find(|isa| isa.name() == text)
            .ok_or_else(|| IsaError::Unknown {
                found: text.to_owned(),
            })?;
        if isa.is_available() {
            Ok(isa)
        } else {
            Err(IsaError::Unavailable {
                found: isa,
                best: Isa::detect(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for isa in ALL.into_iter().filter(|isa| isa.is_available()) {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        let error = "avx9".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("avx9") && error.contains("avx2"), "{error}");
    }

    #[test]
    fn what_is_detected_is_available() {
        assert!(Isa::detect().is_available());
        assert!(Isa::Portable.is_available());
    }
}
