//! The ways of making a model smaller that are measured, as flags of `compress`.

/// One way.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    /// Its name in tables.
    pub name: &'static str,
    /// Flags of `compress`.
    pub flags: &'static [&'static str],
    /// A detector or encoder of the catalogue; none for the language model that is being measured.
    pub model: Option<&'static str>,
}

/// The way that has a budget.
pub const MIXED: &str = "mixed";

const DETECTOR: &str = "ssd-mobilenet-v2-coco";
const MINILM: &str = "minilm-l6-v2-fp32";

const fn way(name: &'static str, flags: &'static [&'static str]) -> Way {
    Way {
        name,
        flags,
        model: None,
    }
}

const fn of(model: &'static str, name: &'static str, flags: &'static [&'static str]) -> Way {
    Way {
        name,
        flags,
        model: Some(model),
    }
}

/// All of them, from the plainest on; those of a detector or encoder last.
pub const WAYS: [Way; 22] = [
    way("int4 rtn", &["--quantize", "int4", "--method", "rtn"]),
    way(
        "int4 importance",
        &["--quantize", "int4", "--method", "importance"],
    ),
    way("int4 awq", &["--quantize", "int4", "--method", "awq"]),
    way("int4 gptq", &["--quantize", "int4", "--method", "gptq"]),
    way("int4 best", &["--quantize", "int4", "--method", "best"]),
    way(
        "int4-minima best",
        &["--quantize", "int4-minima", "--method", "best"],
    ),
    way(MIXED, &["--quantize", "mixed"]),
    way("int8", &["--quantize", "int8"]),
    way("int8 kv int8", &["--quantize", "int8", "--kv", "int8"]),
    way(
        "int8 dynamic",
        &["--quantize", "int8-dynamic", "--method", "awq"],
    ),
    way("int8 dynamic rtn", &["--quantize", "int8-dynamic"]),
    way(
        "neurons -25 %",
        &[
            "--calibration-tokens",
            "64k",
            "--prune",
            "neurons:activation=25%",
            "--distil",
            "tokens=360k,alpha=0.7,learning_rate=2e-4,batch=1,length=512",
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
    of(
        DETECTOR,
        "detector int8 static",
        &["--quantize", "int8-static"],
    ),
    of(
        DETECTOR,
        "detector int8 minmax",
        &["--quantize", "int8-static", "--calibrate", "minmax"],
    ),
    of(
        DETECTOR,
        "detector int8 entropy",
        &["--quantize", "int8-static", "--calibrate", "entropy"],
    ),
    of(DETECTOR, "detector fp16", &["--quantize", "fp16"]),
    of(MINILM, "minilm int8 static", &["--quantize", "int8-static"]),
    of(
        MINILM,
        "minilm int8 minmax",
        &["--quantize", "int8-static", "--calibrate", "minmax"],
    ),
    of(
        MINILM,
        "minilm int8 entropy",
        &["--quantize", "int8-static", "--calibrate", "entropy"],
    ),
    of(
        MINILM,
        "minilm int8 dynamic",
        &["--quantize", "int8-dynamic"],
    ),
    of(MINILM, "minilm fp16", &["--quantize", "fp16"]),
];
