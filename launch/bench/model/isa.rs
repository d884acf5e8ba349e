//! Instruction sets that a measurement can be pinned to, and which of them this computer has.
//!
//! The same weights run several times as fast with wider instructions, so a comparison of two engines is only fair when both use the
//! same ones. What this processor has is read from the kernel, which knows what it lets programs use: AMX needs its permission.

use std::fs;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Isa {
    /// The best that this computer has.
    Auto,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors with 8-bit dot products.
    #[value(name = "avx512-vnni")]
    Avx512Vnni,
    /// Tiles of 8-bit products.
    Amx,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

/// Those that another engine can be pinned to as well, narrowest first, with the flag of the kernel's list that tells of each.
const COMPARABLE: [(Isa, &str); 3] = [
    (Isa::Avx2, "avx2"),
    (Isa::Avx512Vnni, "avx512_vnni"),
    (Isa::Amx, "amx_int8"),
];

impl Isa {
    /// The word on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Auto => "auto",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Amx => "amx",
            Isa::Portable => "portable",
        }
    }

    /// The comparable ones of this computer, narrowest first.
    pub fn of_this_computer() -> Vec<Isa> {
        // Without the file (another system) none is known, and what is asked for by name is still tried.
        comparable(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }
}

/// The comparable ones among the flags of a `/proc/cpuinfo`.
fn comparable(cpuinfo: &str) -> Vec<Isa> {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    COMPARABLE
        .iter()
        .filter(|(_, flag)| has(flag))
        .map(|(isa, _)| *isa)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_sets_are_whole_words_of_the_flags() {
        const CASES: [(&str, &[Isa]); 4] = [
            ("", &[]),
            (
                "flags\t\t: fpu avx2 avx512_vnni amx_tile amx_int8",
                &[Isa::Avx2, Isa::Avx512Vnni, Isa::Amx],
            ),
            (
                "model name : avx2\nflags : fpu avx2x avx512_vnni",
                &[Isa::Avx512Vnni],
            ),
            ("Features : fp asimd", &[]),
        ];
        for (text, expected) in CASES {
            assert_eq!(comparable(text), expected, "{text}");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        use clap::ValueEnum;
        for isa in Isa::value_variants() {
            let value = isa.to_possible_value().unwrap();
            assert_eq!(value.get_name(), isa.name());
        }
    }
}
