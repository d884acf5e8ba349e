//! Recipes as people write them: YAML in, the forge's recipe and the places of texts and pictures out.
//!
//! ```yaml
//! llmasos: compress/v1
//! seed: 1
//! data: { calibration: notes/, test: book.txt }      # without: the Wikipedia sample of the catalogue, divided by article
//!                                                    # images: street/, test_images: held-out/ for detectors
//! calibration: { tokens: 32k, length: 512 }
//! steps:
//!   - degrid
//!   - prune: { neurons: 25%, score: surgeon, refit: true }
//!   - distil: { tokens: 100k, alpha: 0.1, temperature: 1 }      # with generated: { tokens: 8k } on text that the original writes
//!   - quantize: { weights: mixed, method: best, budget: 110MB, kv: int8 }
//! evaluate: { sequences: 8, length: 512, max_perplexity_increase: 3% }      # min_agreement: 90% for detectors and encoders
//! ```
//!
//! Unknown fields are errors with line, column and the nearest name, as in catalogues.

use std::path::{Path, PathBuf};

use llmasos_forge::compress::recipe::{
    Bits, CompressRecipe, CompressStep, DistilStep, GENERATED_TOKENS, KvBits, Method, PruneStep,
    Pruned, QuantizeStep,
};
use llmasos_forge::distil::Generate;

use super::{activations, pruned, quantity};
use crate::models::{
    ModelError,
    yaml::{Fields, Node, read_document},
};

/// The first field of a recipe file: its kind and version.
const HEADER: &str = "compress/v1";
/// Largest recipe file read.
const MAX_BYTES: u64 = 1 << 20;

pub(super) const BITS: &[(&str, Bits)] = &[
    ("int4", Bits::Int4),
    ("int4-minima", Bits::Int4Minima),
    ("int8", Bits::Int8),
    ("mixed", Bits::Mixed),
    ("int8-dynamic", Bits::Int8Dynamic),
    ("int8-static", Bits::Int8Static),
    ("fp16", Bits::Fp16),
    ("fp32", Bits::Fp32),
];
pub(super) const METHODS: &[(&str, Method)] = &[
    ("rtn", Method::Rtn),
    ("importance", Method::Importance),
    ("awq", Method::Awq),
    ("gptq", Method::Gptq),
    ("best", Method::Best),
];
pub(super) const KV: &[(&str, KvBits)] = &[("int8", KvBits::Int8)];

/// Where the texts are; the catalogue's where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextPaths {
    /// One collection for all purposes, divided by article.
    pub(crate) all: Option<PathBuf>,
    /// For statistics.
    pub(crate) calibration: Option<PathBuf>,
    /// For distillation.
    pub(crate) train: Option<PathBuf>,
    /// For judging.
    pub(crate) test: Option<PathBuf>,
}

/// Where pictures are; the catalogue's where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PicturePaths {
    /// For ranges.
    pub(crate) calibration: Option<PathBuf>,
    /// For judging.
    pub(crate) test: Option<PathBuf>,
}

/// Where a recipe says that everything it reads is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DataPaths {
    pub(crate) texts: TextPaths,
    pub(crate) pictures: PicturePaths,
}

/// Reads a recipe file. Paths of texts and pictures in it are relative to the file.
///
/// # Errors
/// [`ModelError`] with file, line and column.
pub(super) fn read(path: &Path) -> Result<(CompressRecipe, DataPaths), ModelError> {
    let reading = |source| ModelError::Io {
        doing: "reading",
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(reading)?.len();
    let file = path.display().to_string();
    if size > MAX_BYTES {
        return Err(ModelError::Catalogue {
            file,
            line: 1,
            column: 1,
            message: format!("a recipe has at most {MAX_BYTES} bytes, found {size}"),
        });
    }
    let text = std::fs::read_to_string(path).map_err(reading)?;
    parse(&file, &text, path.parent().unwrap_or(Path::new("")))
}

fn parse(file: &str, text: &str, folder: &Path) -> Result<(CompressRecipe, DataPaths), ModelError> {
    read_document(file, text, |root| {
        let fields = root.fields(&[
            "llmasos",
            "seed",
            "data",
            "calibration",
            "steps",
            "evaluate",
        ])?;
        let header = fields.required("llmasos")?;
        if header.text()? != HEADER {
            return Err(header.error(format!("expected '{HEADER}', found '{}'", header.text()?)));
        }
        let mut recipe = CompressRecipe::default();
        if let Some(seed) = fields.optional("seed") {
            recipe.seed = whole(seed)?;
        }
        if let Some(node) = fields.optional("calibration") {
            let fields = node.fields(&["tokens", "length"])?;
            set(&fields, "tokens", whole, &mut recipe.calibration.tokens)?;
            set(&fields, "length", small, &mut recipe.calibration.length)?;
        }
        if let Some(node) = fields.optional("evaluate") {
            let fields = node.fields(&[
                "sequences",
                "length",
                "max_perplexity_increase",
                "min_agreement",
            ])?;
            set(&fields, "sequences", small, &mut recipe.evaluate.sequences)?;
            set(&fields, "length", small, &mut recipe.evaluate.length)?;
            if let Some(node) = fields.optional("max_perplexity_increase") {
                recipe.evaluate.max_perplexity_increase = Some(share(node)?);
            }
            if let Some(node) = fields.optional("min_agreement") {
                recipe.evaluate.min_agreement = Some(share(node)?);
            }
        }
        let paths = match fields.optional("data") {
            Some(node) => data_paths(node, folder)?,
            None => DataPaths::default(),
        };
        let steps = fields.required("steps")?;
        for node in steps.items()? {
            recipe.steps.push(step(node, recipe.seed)?);
        }
        match recipe.check() {
            Ok(()) => Ok((recipe, paths)),
            Err(error) => Err(steps.error(error.to_string())),
        }
    })
}

fn data_paths(node: Node<'_>, folder: &Path) -> Result<DataPaths, ModelError> {
    let fields = node.fields(&[
        "all",
        "calibration",
        "train",
        "test",
        "images",
        "test_images",
    ])?;
    let path = |name: &str| -> Result<Option<PathBuf>, ModelError> {
        let node = fields.optional(name);
        node.map(|node| Ok(folder.join(node.text()?))).transpose()
    };
    Ok(DataPaths {
        texts: TextPaths {
            all: path("all")?,
            calibration: path("calibration")?,
            train: path("train")?,
            test: path("test")?,
        },
        pictures: PicturePaths {
            calibration: path("images")?,
            test: path("test_images")?,
        },
    })
}

const STEPS: &[&str] = &["degrid", "prune", "distil", "quantize"];

/// A step: its name alone, or its name with choices.
fn step(node: Node<'_>, seed: u64) -> Result<CompressStep, ModelError> {
    if let Ok(name) = node.text() {
        let words: Vec<(&str, &str)> = STEPS.iter().map(|name| (*name, *name)).collect();
        return match node.word(&words)? {
            "degrid" => Ok(CompressStep::Degrid { seed }),
            "distil" => Ok(CompressStep::Distil(DistilStep::default())),
            "quantize" => Ok(CompressStep::Quantize(QuantizeStep::default())),
            _ => Err(node.error(format!(
                "{name} needs to know what: `{name}: {{ neurons: 25% }}`"
            ))),
        };
    }
    // Checks the names, then takes the one there is.
    node.fields(STEPS)?;
    let entries = node.entries()?;
    let [(name, _, choices)] = entries.as_slice() else {
        return Err(node.error(format!(
            "expected one step an item, found {}",
            entries.len()
        )));
    };
    match *name {
        "degrid" => {
            let fields = choices.fields(&["seed"])?;
            let mut seed = seed;
            set(&fields, "seed", whole, &mut seed)?;
            Ok(CompressStep::Degrid { seed })
        }
        "prune" => prune(*choices).map(CompressStep::Prune),
        "distil" => distil(*choices).map(CompressStep::Distil),
        _ => quantize(*choices).map(CompressStep::Quantize),
    }
}

/// What can be taken away, by the names of its fields.
const PARTS: [&str; 5] = ["neurons", "heads", "query-heads", "layers", "mask"];

fn prune(node: Node<'_>) -> Result<PruneStep, ModelError> {
    let fields = node.fields(&[&PARTS[..], &["score", "refit"]].concat())?;
    let mut given = PARTS
        .iter()
        .filter_map(|name| Some((*name, fields.optional(name)?)));
    let (Some((name, number)), None) = (given.next(), given.next()) else {
        return Err(node.error(format!(
            "expected one of {}: several are several steps",
            PARTS.join(", ")
        )));
    };
    let mut step = PruneStep::new(match name {
        "neurons" => Pruned::Neurons(share(number)?),
        "heads" => Pruned::Heads(small(number)?),
        "query-heads" => Pruned::QueryHeads(small(number)?),
        "layers" => Pruned::Layers(small(number)?),
        _ => Pruned::Mask(pruned::mask(&written(number)?).map_err(|error| number.error(error))?),
    });
    set(&fields, "refit", boolean, &mut step.refit)?;
    if let Some(node) = fields.optional("score") {
        step.score = Some(node.word(pruned::SCORES)?);
    }
    Ok(step)
}

fn distil(node: Node<'_>) -> Result<DistilStep, ModelError> {
    let fields = node.fields(&[
        "tokens",
        "alpha",
        "temperature",
        "learning_rate",
        "batch",
        "accumulate",
        "length",
        "hidden_states",
        "patience",
        "generated",
    ])?;
    let mut step = DistilStep::default();
    set(&fields, "tokens", whole, &mut step.tokens)?;
    set(&fields, "alpha", share, &mut step.alpha)?;
    set(&fields, "temperature", share, &mut step.temperature)?;
    if let Some(node) = fields.optional("learning_rate") {
        step.learning_rate = Some(share(node)?);
    }
    if let Some(node) = fields.optional("batch") {
        step.batch = Some(small(node)?);
    }
    if let Some(node) = fields.optional("accumulate") {
        step.accumulate = Some(small(node)?);
    }
    if let Some(node) = fields.optional("length") {
        step.length = Some(small(node)?);
    }
    if let Some(node) = fields.optional("hidden_states") {
        step.hidden_states = Some(share(node)?);
    }
    if let Some(node) = fields.optional("patience") {
        step.patience = Some(u32::try_from(small(node)?).unwrap_or(u32::MAX));
    }
    if let Some(node) = fields.optional("generated") {
        let fields = node.fields(&["tokens", "temperature"])?;
        let mut generate = Generate {
            tokens: GENERATED_TOKENS,
            temperature: 1.0,
        };
        set(&fields, "tokens", whole, &mut generate.tokens)?;
        set(&fields, "temperature", share, &mut generate.temperature)?;
        step.generated = Some(generate);
    }
    Ok(step)
}

fn quantize(node: Node<'_>) -> Result<QuantizeStep, ModelError> {
    let known = ["weights", "method", "budget", "kv"];
    let fields = node.fields(&[&known[..], &activations::FIELDS].concat())?;
    let mut step = QuantizeStep {
        weights: fields.required("weights")?.word(BITS)?,
        ..QuantizeStep::default()
    };
    set(
        &fields,
        "method",
        |node| node.word(METHODS),
        &mut step.method,
    )?;
    if let Some(node) = fields.optional("budget") {
        step.budget_bytes = Some(quantity::bytes(&written(node)?).map_err(|e| node.error(e))?);
    }
    if let Some(node) = fields.optional("kv") {
        step.kv = Some(node.word(KV)?);
    }
    step.activations = activations::read(node, &fields)?;
    Ok(step)
}

/// Sets what is written; leaves the rest.
fn set<'a, T>(
    fields: &Fields<'a>,
    name: &str,
    read: impl FnOnce(Node<'a>) -> Result<T, ModelError>,
    to: &mut T,
) -> Result<(), ModelError> {
    if let Some(node) = fields.optional(name) {
        *to = read(node)?;
    }
    Ok(())
}

/// A scalar as it is written: numbers with units are texts in YAML, bare ones are not.
fn written(node: Node<'_>) -> Result<String, ModelError> {
    match node.json()? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        _ => Err(node.error("expected a number")),
    }
}

fn whole(node: Node<'_>) -> Result<u64, ModelError> {
    quantity::count(&written(node)?).map_err(|error| node.error(error))
}

fn small(node: Node<'_>) -> Result<usize, ModelError> {
    let number = whole(node)?;
    usize::try_from(number).map_err(|_| node.error(format!("{number} is too large")))
}

pub(super) fn share(node: Node<'_>) -> Result<f64, ModelError> {
    quantity::fraction(&written(node)?).map_err(|error| node.error(error))
}

pub(super) fn boolean(node: Node<'_>) -> Result<bool, ModelError> {
    match node.json()? {
        serde_json::Value::Bool(value) => Ok(value),
        _ => Err(node.error("expected true or false")),
    }
}

#[cfg(test)]
mod tests {
    use llmasos_forge::compress::{prune::Pattern, recipe::Score};

    use super::*;

    fn read(text: &str) -> Result<(CompressRecipe, DataPaths), String> {
        parse("r.yaml", text, Path::new("/recipes")).map_err(|error| error.to_string())
    }

    const WHOLE: &str = "llmasos: compress/v1
seed: 7
data: { calibration: notes, test: /books/b.txt }
calibration: { tokens: 16k, length: 256 }
steps:
  - degrid
  - prune: { neurons: 25%, refit: false, score: activation }
  - prune: { layers: 3 }
  - distil: { tokens: 1.5M, alpha: 0.2, temperature: 2, learning_rate: 0.0001, batch: 2, accumulate: 4, length: 512, hidden_states: 0.5, patience: 3, generated: { tokens: 9k } }
  - quantize: { weights: mixed, method: best, budget: 110MB, kv: int8 }
evaluate: { sequences: 4, length: 128, max_perplexity_increase: 3% }
";

    #[test]
    fn a_whole_recipe() {
        let (recipe, paths) = read(WHOLE).unwrap();
        assert_eq!(recipe.seed, 7);
        assert_eq!(
            (recipe.calibration.tokens, recipe.calibration.length),
            (16_000, 256)
        );
        assert_eq!(
            (recipe.evaluate.sequences, recipe.evaluate.length),
            (4, 128)
        );
        assert_eq!(recipe.evaluate.max_perplexity_increase, Some(0.03));
        assert_eq!(
            recipe.steps,
            [
                CompressStep::Degrid { seed: 7 },
                CompressStep::Prune(PruneStep {
                    refit: false,
                    score: Some(Score::Activation),
                    ..PruneStep::new(Pruned::Neurons(0.25))
                }),
                CompressStep::Prune(PruneStep::new(Pruned::Layers(3))),
                CompressStep::Distil(DistilStep {
                    tokens: 1_500_000,
                    alpha: 0.2,
                    temperature: 2.0,
                    learning_rate: Some(0.0001),
                    batch: Some(2),
                    accumulate: Some(4),
                    length: Some(512),
                    hidden_states: Some(0.5),
                    patience: Some(3),
                    generated: Some(Generate {
                        tokens: 9_000,
                        temperature: 1.0
                    })
                }),
                CompressStep::Quantize(QuantizeStep {
                    weights: Bits::Mixed,
                    method: Method::Best,
                    budget_bytes: Some(110_000_000),
                    kv: Some(KvBits::Int8),
                    activations: None
                }),
            ]
        );
        assert_eq!(
            paths.texts.calibration.as_deref(),
            Some(Path::new("/recipes/notes"))
        );
        let texts = paths.texts;
        assert_eq!(texts.test.as_deref(), Some(Path::new("/books/b.txt")));
        assert_eq!((texts.all, texts.train), (None, None));
    }

    #[test]
    fn a_recipe_for_a_detector() {
        let text = "llmasos: compress/v1
data: { images: street, test_images: /held/out }
steps: [quantize: { weights: int8-static, calibrate: entropy, max_error: 3% }]
evaluate: { min_agreement: 90% }
";
        let (recipe, paths) = read(text).unwrap();
        let step = recipe.quantize().unwrap();
        assert_eq!(step.weights, Bits::Int8Static);
        let options = step.activations.as_ref().unwrap();
        assert_eq!(options.max_error, Some(0.03));
        assert_eq!(recipe.evaluate.min_agreement, Some(0.9));
        let pictures = [paths.pictures.calibration, paths.pictures.test];
        assert_eq!(
            pictures,
            ["/recipes/street", "/held/out"].map(|path| Some(PathBuf::from(path)))
        );
        let error = read(&text.replace("int8-static", "int8")).unwrap_err();
        assert!(error.contains("quantize.activations is int8"), "{error}");
    }

    #[test]
    fn masks() {
        for (words, pattern) in [
            ("magnitude=50%", Pattern::Magnitude(0.5)),
            ("wanda:0.25", Pattern::Wanda(0.25)),
            ("2:4", Pattern::TwoOfFour),
        ] {
            let text = format!("llmasos: compress/v1\nsteps:\n  - prune: {{ mask: {words} }}\n");
            let (recipe, _) = read(&text).unwrap();
            let step = PruneStep::new(Pruned::Mask(pattern));
            assert_eq!(recipe.steps, [CompressStep::Prune(step)]);
        }
    }

    #[test]
    fn mistakes_are_found_at_their_place() {
        // (what to replace, with what, line:column, words of the message)
        const CASES: &[(&str, &str, &str, &str)] = &[
            (
                "compress/v1",
                "compress/v2",
                "1:10",
                "expected 'compress/v1'",
            ),
            (
                "seed: 7",
                "sead: 7",
                "2:1",
                "unknown field 'sead'; did you mean 'seed'?",
            ),
            ("- degrid", "- degrit", "6:5", "did you mean 'degrid'?"),
            ("- degrid", "- prune", "6:5", "prune needs to know what"),
            (
                "neurons: 25%",
                "neuron: 25%",
                "7:14",
                "did you mean 'neurons'?",
            ),
            (
                "neurons: 25%",
                "neurons: 25 percent",
                "7:23",
                "expected a share such as 25%",
            ),
            (
                "neurons: 25%",
                "neurons: 25%, heads: 1",
                "7:12",
                "several are several steps",
            ),
            ("neurons: 25%", "neurons: 125%", "6:3", "less than 100 %"),
            (
                "budget: 110MB",
                "budget: 110",
                "10:55",
                "a size with its unit",
            ),
            (
                "method: best",
                "method: bast",
                "10:41",
                "did you mean 'best'?",
            ),
            (
                "weights: mixed",
                "weights: int3",
                "10:26",
                "'int3' is not one of int4",
            ),
            (
                "weights: mixed, ",
                "",
                "10:15",
                "the field 'weights' is missing",
            ),
            ("tokens: 16k", "tokens: lots", "4:24", "expected a number"),
            (
                "  - degrid\n",
                "  - quantize: { weights: int8 }\n",
                "6:3",
                "nothing after quantize",
            ),
            ("refit: false", "refit: maybe", "7:35", "true or false"),
            (
                "score: activation",
                "score: activaton",
                "7:49",
                "did you mean 'activation'?",
            ),
            (
                "score: activation",
                "score: divergence",
                "6:3",
                "prune.score is divergence",
            ),
            (
                "layers: 3",
                "mask: thirds",
                "8:20",
                "expected magnitude=50%, wanda=50% or 2:4, found 'thirds'",
            ),
        ];
        for (from, to, place, words) in CASES {
            assert!(WHOLE.contains(from), "{from}");
            let error = read(&WHOLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(words), "{to}: {error}");
            assert!(
                error.starts_with(&format!("r.yaml:{place}:")),
                "{to}: expected {place}: {error}"
            );
        }
    }
}
