//! Text that the teacher writes itself: there is always some, and it is what the teacher knows.
//!
//! Each text begins with a random word of the vocabulary and goes on with what the teacher draws at a temperature (as in Liu et al. 2023,
//! LLM-QAT, there for quantizing). The teacher runs in the engine with 8-bit weights, which is close enough for writing, and several texts
//! grow in every step.
//!
//! ```text
//!   vocabulary ─ seed ─► word ─┐
//!   vocabulary ─ seed ─► word ─┼─► TextServer ─ tokens ─► texts, in the order of their words, until there are enough tokens
//!   …                         ─┘
//! ```
//!
//! The same seed gives the same texts on the same computer: each text has random numbers of its own, and which texts share a step
//! depends on their lengths alone. What was written is kept, so that a stopped run goes on with the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use llmasos_engine::text::{Event, LanguageModel, LoadOptions, Request, RequestId, Sampling};
use llmasos_engine::{ModelFolder, Runtime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::DistilError;
use crate::checkpoint::Checkpoint;
use crate::compress::random::Random;
use crate::decoder::{Options, Storage};
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, hex, report, write_file};
use crate::quantize::CodeFormat;

/// Tokens of a text, its first word included.
const LENGTH: usize = 256;
/// Texts that grow together.
const TOGETHER: usize = 8;
/// Bytes of a key and a value in half precision.
const KV_BYTES: usize = 4;
/// Tokens of each text's pages beyond its own.
const SPARE_TOKENS: usize = 64;
/// Longest first word, in bytes: short prompts run in one piece, whatever else runs.
const MAX_WORD_BYTES: usize = 24;
/// Texts tried for each that has a token: a teacher that ends everything at once has nothing to say.
const MAX_EMPTY: usize = 1000;
/// What was written before.
const KEPT_FILE: &str = "generated.json";
/// Most tokens that are written: at a few hundred a second an hour.
pub const MAX_GENERATED: u64 = 1 << 20;

/// How much is written, and how.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Tokens in all, at least; 1 ..= [`MAX_GENERATED`].
    pub tokens: u64,
    /// Divides the scores before one is drawn; 0.1 ..= 10. 1 draws as the teacher predicts.
    pub temperature: f64,
}

/// What the teacher wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generated {
    /// sha256 of teacher, seed and choices.
    key: String,
    /// The texts as tokens.
    pub texts: Vec<Vec<u32>>,
    /// Time it took, without loading the teacher.
    pub seconds: f64,
}

impl Generated {
    /// Tokens in all.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Tokens written per second, by all texts together.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens() as f64 / self.seconds.max(1e-9)
    }

    /// sha256 over the texts.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for text in &self.texts {
            hash.update((text.len() as u64).to_le_bytes());
            text.iter()
                .for_each(|token| hash.update(token.to_le_bytes()));
        }
        hex(&hash.finalize())
    }
}

/// Lets the teacher write, or finds in the folder `kept` what it wrote there before.
///
/// # Errors
/// [`DistilError`] for choices out of range and a vocabulary without words, [`ForgeError::Cancelled`], those of loading the teacher, of
/// running it and of files.
pub fn generate(
    teacher: &Checkpoint,
    options: Generate,
    seed: u64,
    (runtime, kept): (&Runtime, &Path),
    watch: &mut Watch<'_>,
) -> Result<Generated, ForgeError> {
    check(options)?;
    let about = json!([
        teacher.weights_sha256()?,
        options,
        seed,
        LENGTH,
        env!("CARGO_PKG_VERSION")
    ]);
    let key = hex(&Sha256::digest(about.to_string()));
    let path = kept.join(KEPT_FILE);
    if let Some(found) = fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Generated>(&bytes).ok())
        && found.key == key
    {
        return Ok(found);
    }
    fs::create_dir_all(kept).map_err(ForgeError::io("create", kept))?;
    let mut words = Words::new(&teacher.tokenizer()?, seed)?;
    let length = LENGTH.min(teacher.spec().context);
    let mut model = load(teacher, length, (runtime, kept), watch)?;
    let begun = Instant::now();
    let texts = write(&mut model, &mut words, length, options, watch)?;
    let made = Generated {
        key,
        texts,
        seconds: begun.elapsed().as_secs_f64(),
    };
    let part = kept.join(format!("{KEPT_FILE}.part"));
    let json = serde_json::to_vec(&made).map_err(|error| ForgeError::Io {
        action: "serialize",
        path: path.clone(),
        source: error.into(),
    })?;
    write_file(&part, &json)?;
    fs::rename(&part, &path).map_err(ForgeError::io("rename", &part))?;
    Ok(made)
}

fn check(options: Generate) -> Result<(), DistilError> {
    let wrong = |option, expected, found: String| DistilError::Option {
        option,
        expected,
        found,
    };
    if !(1..=MAX_GENERATED).contains(&options.tokens) {
        let found = options.tokens.to_string();
        return Err(wrong("generated.tokens", "1 to 1048576", found));
    }
    if !(0.1..=10.0).contains(&options.temperature) {
        let found = options.temperature.to_string();
        return Err(wrong("generated.temperature", "0.1 to 10", found));
    }
    Ok(())
}

/// The teacher in the engine. Its folder is gone when this returns: weights stay mapped.
fn load(
    teacher: &Checkpoint,
    length: usize,
    (runtime, kept): (&Runtime, &Path),
    watch: &mut Watch<'_>,
) -> Result<LanguageModel, ForgeError> {
    let dir = kept.join("teacher");
    let coding = Options {
        layers: Storage::Blocks(CodeFormat::Int8),
        head: Storage::Blocks(CodeFormat::Int8),
        accuracy_level: 4,
    };
    teacher.build(&coding, &dir, json!({ "kind": "teacher" }), watch)?;
    let spec = teacher.spec();
    let tokens = TOGETHER * (length + SPARE_TOKENS);
    let options = LoadOptions {
        context: length,
        sequences: TOGETHER,
        cache_bytes: Some(KV_BYTES * spec.layers.len() * spec.kv_width() * tokens),
        ..LoadOptions::default()
    };
    let model = LanguageModel::load(runtime, &ModelFolder::open(&dir)?, &options)?;
    fs::remove_dir_all(&dir).map_err(ForgeError::io("remove", &dir))?;
    Ok(model)
}

/// A text that grows.
struct Growing {
    index: usize,
    tokens: Vec<u32>,
}

/// Texts in the order of their words, until they have as many tokens as are wanted.
fn write(
    model: &mut LanguageModel,
    words: &mut Words,
    length: usize,
    options: Generate,
    watch: &mut Watch<'_>,
) -> Result<Vec<Vec<u32>>, ForgeError> {
    let mut growing: BTreeMap<RequestId, Growing> = BTreeMap::new();
    let mut finished: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let (mut texts, mut done, mut begun) = (Vec::new(), 0_u64, 0);
    while done < options.tokens {
        while growing.len() < TOGETHER {
            let (word, seed) = words.next();
            let tokens = model.tokenize(word)?;
            let request = Request {
                prompt: word.to_owned(),
                max_tokens: length.saturating_sub(tokens.len()).max(1),
                sampling: Sampling::Sample {
                    temperature: options.temperature as f32,
                    top_k: 0,
                    top_p: 1.0,
                    seed,
                },
                ..Request::default()
            };
            let id = model.server().submit(&request, Instant::now())?;
            let index = begun;
            growing.insert(id, Growing { index, tokens });
            begun += 1;
        }
        for event in model.server().step(Instant::now()) {
            match event {
                Event::Piece(id, piece) => {
                    if let Some(text) = growing.get_mut(&id) {
                        text.tokens.push(piece.token);
                    }
                }
                Event::Finished(id, _) => {
                    if let Some(text) = growing.remove(&id) {
                        finished.insert(text.index, text.tokens);
                    }
                }
                Event::Failed(_, error, _) => return Err(error.into()),
            }
        }
        while let Some(text) = finished.remove(&texts.len()) {
            done += text.len() as u64;
            texts.push(text);
        }
        let waiting: usize = growing.values().map(|text| text.tokens.len()).sum();
        let progress = Progress {
            step: Step::Generate,
            item: "text of the teacher",
            done: (done + waiting as u64).min(options.tokens),
            total: options.tokens,
        };
        report(watch, progress)?;
        if texts.len() > MAX_EMPTY && done < 4 * texts.len() as u64 {
            let words = "a teacher that goes on for more than a word";
            return Err(silent(words, format!("{done} tokens in {} texts", texts.len())).into());
        }
    }
    Ok(texts)
}

fn silent(expected: &'static str, found: String) -> DistilError {
    DistilError::Option {
        option: "generated",
        expected,
        found,
    }
}

/// Words of a vocabulary, in a random order with repetition, each with a seed.
struct Words {
    all: Vec<String>,
    random: Random,
}

impl Words {
    fn new(tokenizer: &[u8], seed: u64) -> Result<Words, ForgeError> {
        let file: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
        let vocab = &file["model"]["vocab"];
        let names: Vec<&str> = match vocab {
            Value::Object(words) => words.keys().map(String::as_str).collect(),
            // Unigram models list pairs of word and score.
            Value::Array(pairs) => pairs.iter().filter_map(|pair| pair[0].as_str()).collect(),
            _ => Vec::new(),
        };
        let word = |name: &str| {
            // What stands for the space before a word, in GPT-2's and in SentencePiece's alphabet.
            let word = name.trim_start_matches(['Ġ', '▁']);
            let is_word = (1..=MAX_WORD_BYTES).contains(&word.len())
                && word.bytes().all(|byte| byte.is_ascii_alphabetic());
            is_word.then(|| word.to_owned())
        };
        let mut all: Vec<String> = names.into_iter().filter_map(word).collect();
        all.sort_unstable();
        all.dedup();
        if all.is_empty() {
            let expected = "a vocabulary with words of letters to begin with";
            return Err(silent(expected, "none".into()).into());
        }
        Ok(Words {
            all,
            random: Random::new(seed),
        })
    }

    fn next(&mut self) -> (&str, u64) {
        let at = self.random.bits() % self.all.len() as u64;
        let seed = self.random.bits();
        (&self.all[at as usize], seed)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::PathBuf;

    use super::*;
    use crate::import_checkpoint;
    use crate::walk::tests::runtime;

    fn go_on(_: Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn a_seed_decides_what_the_teacher_writes_and_it_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let family = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/families");
        let family = family.join("llama");
        let teacher =
            import_checkpoint(&family, "llama", "MIT", &root.path().join("t"), &mut go_on).unwrap();
        let options = Generate {
            tokens: 400,
            temperature: 1.0,
        };
        let runtime = runtime();
        let mut steps = 0;
        let mut made = |place: &str, options, seed| {
            let kept = root.path().join(place);
            let mut watch = |progress: Progress<'_>| {
                steps += u32::from(progress.step == Step::Generate);
                ControlFlow::Continue(())
            };
            let with = (&runtime, kept.as_path());
            let made = generate(&teacher, options, seed, with, &mut watch).unwrap();
            (made, std::mem::take(&mut steps))
        };
        let (first, steps) = made("a", options, 7);
        assert!(steps > 10, "{steps}");
        assert!(first.tokens() >= 400 && first.tokens_per_second() > 0.0);
        let vocab = teacher.spec().vocab as u32;
        assert!(first.texts.iter().flatten().all(|token| *token < vocab));
        let (kept, steps) = made("a", options, 7);
        assert_eq!(
            (&kept, steps),
            (&first, 0),
            "found again, not written again"
        );
        let (again, _) = made("b", options, 7);
        assert_eq!(again.texts, first.texts);
        assert_eq!(again.sha256(), first.sha256());
        assert_ne!(made("c", options, 8).0.texts, first.texts);
        let cold = Generate {
            temperature: 0.1,
            ..options
        };
        assert_ne!(made("d", cold, 7).0.texts, first.texts);
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn choices_out_of_range_and_vocabularies_without_words_are_refused() {
        let generate = |tokens, temperature| {
            check(Generate {
                tokens,
                temperature,
            })
        };
        for (tokens, temperature) in [(0, 1.0), (MAX_GENERATED + 1, 1.0), (9, 0.0), (9, f64::NAN)] {
            assert!(
                generate(tokens, temperature).is_err(),
                "{tokens} {temperature}"
            );
        }
        for (tokenizer, words) in [
            (
                r#"{"model":{"vocab":{"Ġthe":1,"the":2,"</s>":3,"Ġ":4}}}"#,
                1,
            ),
            (r#"{"model":{"vocab":[["▁dog",-1.0],["a",-2.0]]}}"#, 2),
            (r#"{"model":{"vocab":{"1":1}}}"#, 0),
            ("{", 0),
        ] {
            match Words::new(tokenizer.as_bytes(), 1) {
                Ok(found) => assert_eq!(found.all.len(), words, "{tokenizer}"),
                Err(error) => {
                    assert_eq!(words, 0);
                    assert!(error.to_string().contains("words of letters"), "{error}");
                }
            }
        }
    }
}
