//! The short form of a recipe: flags. They mean what the same words mean in a recipe file.
//!
//! ```text
//! --degrid 7 --prune neurons=25% --distil tokens=100k --quantize int4 --method best      in this order, whatever order they are written in
//! ```

use std::path::PathBuf;

use clap::ValueEnum;
use llmasos_forge::compress::recipe::{
    Bits, CompressRecipe, CompressStep, DistilStep, GENERATED_TOKENS, KvBits, Method, PruneStep,
    QuantizeStep,
};
use llmasos_forge::distil::Generate;

use super::activations::ActivationFlags;
use super::pruned::pruned;
use super::quantity;
use super::recipe_file::{self, DataPaths};
use crate::cmd::usage::wrong;

/// What is done, as flags.
#[derive(Debug, Default, clap::Args)]
pub(super) struct StepFlags {
    /// Steps, seed and texts from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quantize", "method", "degrid", "prune", "distil", "distil_data", "budget", "kv", "seed", "calibrate", "max_error", "keep_float"])]
    recipe: Option<PathBuf>,
    /// Store weights so
    #[arg(long, value_enum, value_name = "WEIGHTS")]
    quantize: Option<BitsWord>,
    /// How 4-bit codes are chosen [default: best for int4 and mixed, awq behind a mask; rtn for int4-minima, which takes weights that were
    /// published so without loss]. For int8-dynamic of a language model, awq first moves large activations into weights, which costs far less
    #[arg(long, value_enum, requires = "quantize")]
    method: Option<MethodWord>,
    /// Largest graph of those that are mapped, with --quantize mixed
    #[arg(long, value_name = "SIZE", requires = "quantize", value_parser = quantity::bytes)]
    budget: Option<u64>,
    /// Store keys and values so
    #[arg(long, value_enum, value_name = "BITS", requires = "quantize")]
    kv: Option<KvWord>,
    /// First take weights that were quantized before off their grid
    #[arg(long, value_name = "SEED", num_args = 0..=1, default_missing_value = "1")]
    degrid: Option<u64>,
    /// Take a part away: neurons=25%, heads=1, query-heads=1 or layers=3, chosen by a score, as in neurons:activation=25% (magnitude,
    /// activation, wanda or surgeon; heads: activation or surgeon; layers: influence or divergence). Or set weights to 0, which saves no
    /// time: mask:magnitude=50%, mask:wanda=50% or mask:2:4. Neurons go where predictions change least, which is measured first. May be given
    /// several times
    #[arg(long, value_name = "WHAT=N", value_parser = pruned)]
    prune: Vec<PruneStep>,
    /// Keep what is left as it is, instead of fitting it to what the whole did
    #[arg(long, requires = "prune")]
    no_refit: bool,
    /// Then teach it what the original says: tokens=100k,alpha=0.1,temperature=1,learning_rate=1e-4,batch=2,accumulate=4,length=512.
    /// hidden_states=0.5 also compares the states behind layers, by cosine and with that weight; patience=2 ends after two of eight looks
    /// at held-out text without a lower loss, and takes the best student
    #[arg(long, alias = "distill", value_name = "KEY=VALUE,…", value_parser = distilled)]
    distil: Option<DistilStep>,
    /// What it learns from: text, which is given (--train or --text), or generated, which the original writes itself, as much and as freely as
    /// in generated=8k,temperature=1 [default: text]
    #[arg(long, alias = "distill-data", requires = "distil", value_name = "DATA", value_parser = distil_data)]
    distil_data: Option<DistilData>,
    #[command(flatten)]
    activations: ActivationFlags,
    /// Fail if a detector or encoder agrees less with its original: mean average precision, or mean cosine
    #[arg(long, value_name = "SHARE", value_parser = quantity::fraction)]
    min_agreement: Option<f64>,
    /// Fail if perplexity grows by more; with --quantize mixed, or int4 by the method best, find the smallest mix of 4 and 8 bits that does
    /// not
    #[arg(long, value_name = "SHARE", value_parser = quantity::fraction)]
    max_ppl_increase: Option<f64>,
    /// Orders texts and seeds steps that need chance [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Tokens that steps are calibrated with [default: 32k]
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    calibration_tokens: Option<u64>,
    /// Sequences that the result is judged on [default: 8]
    #[arg(long, value_name = "N")]
    sequences: Option<usize>,
    /// Tokens of a sequence, for calibration and judging [default: 512]
    #[arg(long, value_name = "N")]
    length: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BitsWord {
    /// 4 bits and a zero point per block of 32, embedding and head 8 bits
    Int4,
    /// 4 bits, a scale and a minimum per block of 32: 5 bits a weight, with less loss than int4
    Int4Minima,
    /// 8 bits per block of 32
    Int8,
    /// 4 bits, and 8 where they help most, within --budget
    Mixed,
    /// 8 bits, activations quantized as they come: fastest prompts on plain ONNX Runtime, encoders for any text
    Int8Dynamic,
    /// 8 bits with ranges taken from pictures or sentences: detectors and encoders
    Int8Static,
    /// Stored in 16-bit floats: half the file, and computed in 32 bits with the original's memory and speed
    Fp16,
    /// 32-bit floats
    Fp32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodWord {
    /// To the nearest
    Rtn,
    /// Least error weighted by the inputs
    Importance,
    /// Scales channels so that important ones lose less
    Awq,
    /// Makes each column's error good by the others
    Gptq,
    /// All of them, and refined
    Best,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KvWord {
    /// 8 bits, one scale a channel
    Int8,
}

impl From<BitsWord> for Bits {
    fn from(word: BitsWord) -> Bits {
        match word {
            BitsWord::Int4 => Bits::Int4,
            BitsWord::Int4Minima => Bits::Int4Minima,
            BitsWord::Int8 => Bits::Int8,
            BitsWord::Mixed => Bits::Mixed,
            BitsWord::Int8Dynamic => Bits::Int8Dynamic,
            BitsWord::Int8Static => Bits::Int8Static,
            BitsWord::Fp16 => Bits::Fp16,
            BitsWord::Fp32 => Bits::Fp32,
        }
    }
}

impl From<MethodWord> for Method {
    fn from(word: MethodWord) -> Method {
        match word {
            MethodWord::Rtn => Method::Rtn,
            MethodWord::Importance => Method::Importance,
            MethodWord::Awq => Method::Awq,
            MethodWord::Gptq => Method::Gptq,
            MethodWord::Best => Method::Best,
        }
    }
}

impl StepFlags {
    /// The recipe, and where it says that texts and pictures are.
    ///
    /// # Errors
    /// What is wrong with the file or the flags.
    pub(super) fn recipe(&self) -> anyhow::Result<(CompressRecipe, DataPaths)> {
        let (mut recipe, paths) = match &self.recipe {
            Some(path) => recipe_file::read(path).map_err(|error| wrong(error.to_string()))?,
            None => (self.short_form(), DataPaths::default()),
        };
        if recipe.steps.is_empty() {
            return Err(wrong(
                "nothing to do. Next: say what, for example `--quantize int4`, or give a recipe with --recipe FILE.",
            ));
        }
        if let Some(tokens) = self.calibration_tokens {
            recipe.calibration.tokens = tokens;
        }
        if let Some(sequences) = self.sequences {
            recipe.evaluate.sequences = sequences;
        }
        if let Some(length) = self.length {
            recipe.calibration.length = length;
            recipe.evaluate.length = length;
        }
        if let Some(least) = self.min_agreement {
            recipe.evaluate.min_agreement = Some(least);
        }
        if let Some(most) = self.max_ppl_increase {
            recipe.evaluate.max_perplexity_increase = Some(most);
        }
        recipe.check().map_err(|error| wrong(error.to_string()))?;
        Ok((recipe, paths))
    }

    fn short_form(&self) -> CompressRecipe {
        let mut recipe = CompressRecipe::default();
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        let degrid = self.degrid.map(|seed| CompressStep::Degrid { seed });
        let prune = self.prune.iter().map(|step| PruneStep {
            refit: step.refit && !self.no_refit,
            ..*step
        });
        // Masks behind everything else: what comes after them would fill their zeros.
        let (masks, parts): (Vec<PruneStep>, Vec<PruneStep>) = prune.partition(PruneStep::is_mask);
        let quantize = self.quantize.map(|word| {
            let weights = Bits::from(word);
            let method = match self.method {
                Some(method) => method.into(),
                None if matches!(weights, Bits::Int4 | Bits::Mixed) && !masks.is_empty() => {
                    Method::Awq
                }
                None if matches!(weights, Bits::Int4 | Bits::Mixed) => Method::Best,
                None => Method::Rtn,
            };
            CompressStep::Quantize(QuantizeStep {
                weights,
                method,
                budget_bytes: self.budget,
                kv: self.kv.map(|KvWord::Int8| KvBits::Int8),
                activations: self.activations.options(),
            })
        });
        recipe.steps.extend(degrid);
        let steps = &mut recipe.steps;
        steps.extend(parts.into_iter().map(CompressStep::Prune));
        let distil = self.distil.map(|step| DistilStep {
            generated: self.distil_data.and_then(|data| data.0),
            ..step
        });
        steps.extend(distil.map(CompressStep::Distil));
        steps.extend(masks.into_iter().map(CompressStep::Prune));
        recipe.steps.extend(quantize);
        recipe
    }
}

/// `tokens=100k,alpha=0.1,temperature=1,learning_rate=1e-4,batch=2,length=512` and the like.
fn distilled(text: &str) -> Result<DistilStep, String> {
    let mut step = DistilStep::default();
    for choice in text.split(',') {
        let (key, value) = choice
            .split_once('=')
            .ok_or_else(|| format!("expected tokens=100k, found '{choice}'"))?;
        match key {
            "tokens" => step.tokens = quantity::count(value)?,
            "alpha" => step.alpha = quantity::fraction(value)?,
            "temperature" => step.temperature = quantity::fraction(value)?,
            "learning_rate" => step.learning_rate = Some(quantity::fraction(value)?),
            "batch" => step.batch = Some(quantity::count(value)? as usize),
            "accumulate" => step.accumulate = Some(quantity::count(value)? as usize),
            "length" => step.length = Some(quantity::count(value)? as usize),
            "hidden_states" => step.hidden_states = Some(quantity::fraction(value)?),
            "patience" => {
                let looks = quantity::count(value)?;
                step.patience = Some(u32::try_from(looks).unwrap_or(u32::MAX));
            }
            _ => {
                return Err(format!(
                    "expected tokens, alpha, temperature, learning_rate, batch, accumulate, length, hidden_states or patience, found '{key}'"
                ));
            }
        }
    }
    Ok(step)
}

/// What the smaller model learns from: given text, or text that the original writes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct DistilData(Option<Generate>);

/// `text`, `generated`, `generated=8k`, `generated=8k,temperature=1`.
fn distil_data(text: &str) -> Result<DistilData, String> {
    let expected =
        || format!("expected text, generated or generated=8k,temperature=1, found '{text}'");
    if text == "text" {
        return Ok(DistilData(None));
    }
    let mut generate = Generate {
        tokens: GENERATED_TOKENS,
        temperature: 1.0,
    };
    for (place, choice) in text.split(',').enumerate() {
        match (place, choice.split_once('=')) {
            (0, None) if choice == "generated" => {}
            (0, Some(("generated", number))) => generate.tokens = quantity::count(number)?,
            (1, Some(("temperature", number))) => {
                generate.temperature = quantity::fraction(number)?
            }
            _ => return Err(expected()),
        }
    }
    Ok(DistilData(Some(generate)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use llmasos_forge::compress::recipe::Pruned;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: StepFlags,
    }

    fn recipe(words: &[&str]) -> Result<CompressRecipe, String> {
        let line = Line::try_parse_from(["compress"].iter().chain(words))
            .map_err(|error| error.to_string())?;
        let (recipe, _) = line.flags.recipe().map_err(|error| error.to_string())?;
        Ok(recipe)
    }

    #[test]
    fn flags_stand_in_the_order_that_makes_sense() {
        let found = recipe(&[
            "--quantize",
            "int4",
            "--distil",
            "tokens=50k,alpha=0.2",
            "--prune",
            "layers=3",
            "--prune",
            "neurons=25%",
            "--degrid",
            "--no-refit",
            "--max-ppl-increase",
            "3%",
            "--length",
            "256",
        ])
        .unwrap();
        let words: Vec<&str> = found.steps.iter().map(CompressStep::word).collect();
        assert_eq!(words, ["degrid", "prune", "prune", "distil", "quantize"]);
        assert_eq!(
            found.steps[1],
            CompressStep::Prune(PruneStep {
                refit: false,
                ..PruneStep::new(Pruned::Layers(3))
            })
        );
        assert_eq!(found.quantize().unwrap().method, Method::Best);
        assert_eq!(found.evaluate.max_perplexity_increase, Some(0.03));
        assert_eq!(
            (found.calibration.length, found.evaluate.length),
            (256, 256)
        );
        let found = recipe(&[
            "--prune",
            "mask:wanda=50%",
            "--prune",
            "neurons:activation=25%",
            "--distil",
            "tokens=50k,batch=2,length=256",
            "--quantize",
            "int4",
        ])
        .unwrap();
        let masks: Vec<bool> = (found.steps.iter())
            .map(|step| matches!(step, CompressStep::Prune(step) if step.is_mask()))
            .collect();
        assert_eq!(masks, [false, false, true, false], "{:?}", found.steps);
        assert_eq!(found.quantize().unwrap().method, Method::Awq);
        let found = recipe(&["--quantize", "int8"]).unwrap();
        assert_eq!(found.quantize().unwrap().method, Method::Rtn);
    }

    #[test]
    fn every_word_of_teaching() {
        let text = "tokens=50k,alpha=0.5,temperature=2,learning_rate=1e-4,batch=1,accumulate=4,length=512,hidden_states=0.5,patience=2";
        let expected = DistilStep {
            tokens: 50_000,
            alpha: 0.5,
            temperature: 2.0,
            learning_rate: Some(1e-4),
            batch: Some(1),
            accumulate: Some(4),
            length: Some(512),
            hidden_states: Some(0.5),
            patience: Some(2),
            generated: None,
        };
        assert_eq!(distilled(text).unwrap(), expected);
        let error = distilled("rate=1").unwrap_err();
        assert!(
            error.contains("hidden_states or patience, found 'rate'"),
            "{error}"
        );
    }

    #[test]
    fn text_to_learn_from() {
        let of = |text| distil_data(text).map(|data| data.0);
        let generated = |tokens, temperature| {
            Ok(Some(Generate {
                tokens,
                temperature,
            }))
        };
        assert_eq!(of("text"), Ok(None));
        assert_eq!(of("generated"), generated(GENERATED_TOKENS, 1.0));
        assert_eq!(of("generated=20k"), generated(20_000, 1.0));
        assert_eq!(
            of("generated,temperature=0.8"),
            generated(GENERATED_TOKENS, 0.8)
        );
        assert_eq!(of("generated=9k,temperature=2"), generated(9_000, 2.0));
        for wrong in [
            "",
            "generate",
            "generated=9k,8k",
            "generated=x",
            "temperature=1",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        let found = recipe(&[
            "--prune",
            "layers=1",
            "--distil",
            "tokens=9k",
            "--distil-data",
            "generated",
        ])
        .unwrap();
        let CompressStep::Distil(step) = found.steps[1] else {
            panic!("{:?}", found.steps);
        };
        assert_eq!(
            step.generated.map(|data| data.tokens),
            Some(GENERATED_TOKENS)
        );
    }

    #[test]
    fn wrong_flags_say_what_they_take() {
        const CASES: &[(&[&str], &str)] = &[
            (&[], "nothing to do. Next:"),
            (&["--quantize", "int3"], "int8-dynamic"),
            (&["--method", "best"], "--quantize"),
            (&["--prune", "heads"], "neurons=25%, heads=1, query-heads=1"),
            (
                &["--prune", "layers:magnitude=3"],
                "expected divergence, influence for layers",
            ),
            (
                &[
                    "--prune",
                    "mask:2:4",
                    "--quantize",
                    "int4",
                    "--method",
                    "best",
                ],
                "feedback would fill its zeros",
            ),
            (&["--prune", "neurons=200%"], "less than 100 %"),
            (&["--distil", "tokens=100k"], "distil after prune"),
            (&["--distil", "steps=3"], "found 'steps'"),
            (&["--distil-data", "generated"], "--distil"),
            (
                &["--distil", "tokens=9k", "--distil-data", "invented"],
                "expected text, generated",
            ),
            (
                &[
                    "--prune",
                    "layers=1",
                    "--distil",
                    "tokens=9k",
                    "--distil-data",
                    "generated=9",
                ],
                "distil.generated.tokens is 9",
            ),
            (
                &["--quantize", "mixed", "--budget", "110"],
                "110MB or 105MiB",
            ),
            (
                &["--quantize", "int8", "--method", "gptq"],
                "expected rtn for int8",
            ),
            (&["--recipe", "r.yaml", "--degrid"], "cannot be used with"),
            (&["--recipe", "no-such-file.yaml"], "no-such-file.yaml"),
        ];
        for (words, expected) in CASES {
            let error = recipe(words).unwrap_err();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }
}
