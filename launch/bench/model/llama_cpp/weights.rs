//! The peer's weights: exactly those of the catalogue, once as float32 and once as llama.cpp quantizes them itself.
//!
//! ```text
//!   catalogue's GGUF ── dequantize ──► F32, the reference of the divergence ── llama-quantize ──► Q4_0, what is measured
//! ```
//!
//! Embedding and head stay 8-bit, as ours are. Both files are kept beside the build, under the beginning of the source's sha256.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use llmasos_forge::{
    gguf::{Gguf, Value, write_f32},
    mapped::MappedFile,
};

use crate::models::{Entry, Event, FetchPolicy, Models, Reporter, Source};

/// Bytes of a float.
const F32_BYTES: u64 = 4;
/// Beginning of the names of recipes that read GGUF.
const GGUF_RECIPE: &str = "gguf";
/// Digits of the source's sha256 in file names.
const NAME_DIGITS: usize = 12;

/// The two files.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// All float32.
    pub(crate) f32: PathBuf,
    /// Q4_0 with an 8-bit embedding and head.
    pub(crate) q4_0: PathBuf,
    /// The token with which llama.cpp begins every text, if it does.
    pub(crate) begin: Option<u32>,
}

/// Quantizes one file into another.
type Quantize<'a> = &'a mut dyn FnMut(&Path, &Path, &mut dyn Reporter) -> Result<()>;

/// Makes what is missing of both files in `dir`.
///
/// # Errors
/// For a model that is not made from one GGUF file, and what fetching, the disk and the quantizer say.
pub(super) fn make(
    models: &mut Models,
    name: &str,
    dir: &Path,
    quantize: Quantize<'_>,
    reporter: &mut dyn Reporter,
) -> Result<Weights> {
    let entry = models.catalogue().get(name)?.clone();
    let sha256 = source_sha256(&entry)?;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let file = |kind: &str| dir.join(format!("{name}-{}-{kind}", &sha256[..NAME_DIGITS]));
    let (f32, q4_0, note) = (file("f32.gguf"), file("q4_0.gguf"), file("begin.json"));
    if !f32.is_file() || !note.is_file() {
        reporter.event(Event::Note {
            text: &format!("{name}: writing its weights as float32 for the comparison"),
        });
        let scratch = file("unpacked");
        let begin = models
            .unpack_sources(name, FetchPolicy::Auto, &scratch, reporter)
            .map_err(anyhow::Error::from)
            .and_then(|sources| {
                let [source] = sources.as_slice() else {
                    bail!("{name}: expected one source file, found {}", sources.len());
                };
                expand(source, &f32)
            });
        // Scratch is only space.
        let _ = fs::remove_dir_all(&scratch);
        let text = serde_json::to_string(&begin?)?;
        fs::write(&note, text).with_context(|| format!("writing {}", note.display()))?;
    }
    let text = fs::read_to_string(&note).with_context(|| format!("reading {}", note.display()))?;
    let begin =
        serde_json::from_str(&text).with_context(|| format!("reading {}", note.display()))?;
    if !q4_0.is_file() {
        reporter.event(Event::Note {
            text: &format!("{name}: llama.cpp quantizes them as Q4_0"),
        });
        let part = q4_0.with_extension("part");
        quantize(&f32, &part, reporter)?;
        fs::rename(&part, &q4_0).with_context(|| format!("renaming {}", part.display()))?;
    }
    Ok(Weights { f32, q4_0, begin })
}

/// The sha256 of the one GGUF file that the entry is made from.
fn source_sha256(entry: &Entry) -> Result<String> {
    let leaves: Vec<_> = entry.sources.iter().flat_map(Source::leaves).collect();
    match leaves.as_slice() {
        [leaf] if entry.recipe.kind().starts_with(GGUF_RECIPE) => Ok(leaf.pin.sha256.clone()),
        _ => bail!(
            "{} is not made from a single GGUF file, so llama.cpp cannot run the same weights. Next: `llmasos model list` shows the \
             models, `llmasos model info NAME` their recipes; or leave `--against` out.",
            entry.name
        ),
    }
}

/// Writes the float32 file; returns the token with which texts begin.
fn expand(source: &Path, target: &Path) -> Result<Option<u32>> {
    let mapped =
        MappedFile::open(source).with_context(|| format!("opening {}", source.display()))?;
    let bytes: &[u8] = mapped.bytes();
    let gguf = Gguf::parse(bytes).with_context(|| format!("reading {}", source.display()))?;
    let elements: u64 = gguf
        .tensors()
        .values()
        .map(|info| info.dims.iter().product::<u64>())
        .sum();
    let part = target.with_extension("part");
    let writing = || {
        format!(
            "writing {} ({} bytes)",
            part.display(),
            elements * F32_BYTES
        )
    };
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&part).with_context(writing)?);
    write_f32(bytes, &mut out).with_context(writing)?;
    out.flush().with_context(writing)?;
    fs::rename(&part, target).with_context(|| format!("renaming {}", part.display()))?;
    Ok(begin(&gguf))
}

/// llama.cpp's rule: what the file says, else yes for SentencePiece vocabularies ("llama") and no for byte pairs ("gpt2").
fn begin(gguf: &Gguf<'_>) -> Option<u32> {
    let is_added = match gguf.metadata().get("tokenizer.ggml.add_bos_token") {
        Some(Value::Bool(is_added)) => *is_added,
        _ => gguf
            .string("tokenizer.ggml.model")
            .is_ok_and(|model| model == "llama"),
    };
    let token = gguf.unsigned("tokenizer.ggml.bos_token_id").ok()?;
    u32::try_from(token).ok().filter(|_| is_added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Catalogue, Silent, Store};

    #[test]
    fn a_model_of_another_kind_is_refused_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut models = Models::new(Catalogue::load(&[]).unwrap(), Store::at(dir.path()));
        let mut never =
            |_: &Path, _: &Path, _: &mut dyn Reporter| -> Result<()> { bail!("not asked for") };
        for (name, expected) in [
            ("silero-vad", "is not made from a single GGUF file"),
            ("smolm2", "did you mean 'smollm2'"),
        ] {
            let error = make(
                &mut models,
                name,
                dir.path(),
                &mut never,
                &mut Silent::default(),
            )
            .unwrap_err()
            .to_string();
            assert!(
                error.contains(expected) && error.contains("Next:"),
                "{error}"
            );
        }
    }

    /// A file of two tensors and the given metadata.
    fn gguf(entries: &[(&str, u32, Vec<u8>)]) -> Vec<u8> {
        let text =
            |value: &str| [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat();
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend((entries.len() as u64).to_le_bytes());
        for (key, kind, value) in entries {
            bytes.extend([text(key), kind.to_le_bytes().to_vec(), value.clone()].concat());
        }
        bytes.extend(text("a.weight"));
        bytes.extend(
            [
                1_u32.to_le_bytes(),
                2_u32.to_le_bytes(),
                [0; 4],
                1_u32.to_le_bytes(),
            ]
            .concat(),
        );
        bytes.extend(0_u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend([0x00, 0x3c, 0x00, 0x40]);
        bytes
    }

    #[test]
    fn half_floats_become_floats_and_the_first_token_is_known() {
        let text =
            |value: &str| [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat();
        let token = (
            "tokenizer.ggml.bos_token_id",
            4,
            5_u32.to_le_bytes().to_vec(),
        );
        let cases = [
            (
                vec![token.clone(), ("tokenizer.ggml.model", 8, text("gpt2"))],
                None,
            ),
            (
                vec![token.clone(), ("tokenizer.ggml.model", 8, text("llama"))],
                Some(5),
            ),
            (
                vec![token.clone(), ("tokenizer.ggml.add_bos_token", 7, vec![1])],
                Some(5),
            ),
            (
                vec![
                    token,
                    ("tokenizer.ggml.model", 8, text("llama")),
                    ("tokenizer.ggml.add_bos_token", 7, vec![0]),
                ],
                None,
            ),
            (vec![("tokenizer.ggml.add_bos_token", 7, vec![1])], None),
        ];
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        for (entries, expected) in cases {
            fs::write(&source, gguf(&entries)).unwrap();
            assert_eq!(expand(&source, &target).unwrap(), expected, "{entries:?}");
            let bytes = fs::read(&target).unwrap();
            assert_eq!(
                Gguf::parse(&bytes).unwrap().dequantize("a.weight").unwrap(),
                [1.0, 2.0]
            );
        }
    }
}
