//! The ways of making a model smaller that are measured, as flags of `compress`.

/// One way.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    /// Its name in tables.
    pub name: &'static str,
    /// Flags of `compress`.
    pub flags: &'static [&'static str],
}

const fn way(name: &'static str, flags: &'static [&'static str]) -> Way {
    Way { name, flags }
}

/// All of them, from the plainest on.
pub const WAYS: [Way; 11] = [
    way("int4 rtn", &["--quantize", "int4", "--method", "rtn"]),
    way(
        "int4 importance",
        &["--quantize", "int4", "--method", "importance"],
    ),
    way("int4 awq", &["--quantize", "int4", "--method", "awq"]),
    way("int4 gptq", &["--quantize", "int4", "--method", "gptq"]),
    way("int4 best", &["--quantize", "int4", "--method", "best"]),
    way(
        "mixed 111 MB",
        &["--quantize", "mixed", "--budget", "111MB"],
    ),
    way("int8", &["--quantize", "int8"]),
    way("int8 kv int8", &["--quantize", "int8", "--kv", "int8"]),
    way("int8 dynamic", &["--quantize", "int8-dynamic"]),
    way(
        "neurons -25 %",
        &[
            "--prune",
            "neurons=25%",
            "--distil",
            "tokens=100k",
            "--quantize",
            "int8",
        ],
    ),
    way(
        "layers -3",
        &[
            "--prune",
            "layers=3",
            "--distil",
            "tokens=100k",
            "--quantize",
            "int8",
        ],
    ),
];
