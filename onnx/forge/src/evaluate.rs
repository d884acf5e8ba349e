//! What compression cost: perplexity, divergence from the original, and how often both would say the same word.
//!
//! Perplexity alone flatters: a model that is better at common words and wrong about rare ones can keep it. So beside it stands the
//! Kullback-Leibler divergence KL(original ‖ candidate), over the whole vocabulary, at every position; its mean is what the original's
//! user loses in nats a token, its 99th percentile says how bad the bad places are. All are measured on the same tokens:
//!
//! ```text
//!   a sequence of 512 tokens:   ▫▫▫▫ 64 read only │ ▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪ 447 scored: what comes next? │ ▫ the last one is only an answer
//!
//!   original ──► log p of all words, 16 bits each ──┐   (kept in a file when several candidates are judged)
//!   candidate ─► scores ────────────────────────────┴─► KL, perplexity of both, agreement
//! ```
//!
//! A log-probability of 16 bits has a relative error of 2⁻¹²; probabilities are normalised again after reading, so that what is left of
//! the error is multiplied by log p − log q, which is what is small: far below the fifth digit of a divergence of .001.

mod recorded;
mod walked;

use half::f16;
use half::slice::HalfFloatSliceExt;
use llmasos_engine::text::LanguageModel;
use serde::{Deserialize, Serialize};

use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
pub use recorded::Recorded;
pub use walked::Walked;

/// Tokens of a sequence unless somebody says otherwise.
pub const LENGTH: usize = 512;
/// Tokens at its beginning that are read but not scored: without context every model guesses.
pub const UNSCORED: usize = 64;
/// Most sequences of an evaluation.
const MAX_SEQUENCES: usize = 1 << 14;
/// Longest sequence.
const MAX_LENGTH: usize = 1 << 16;

/// Why an evaluation has no result.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The sequences are not as an evaluation needs them.
    #[error("{what}: expected {expected}, found {found}")]
    Sequences {
        /// What is wrong.
        what: &'static str,
        /// What is possible.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Two models that do not speak of the same words.
    #[error(
        "the two models have vocabularies of {reference} and {candidate} words: only models with the same tokenizer can be compared"
    )]
    Vocabulary {
        /// Of the original.
        reference: usize,
        /// Of the candidate.
        candidate: usize,
    },
    /// A model answered with something that is no number.
    #[error("sequence {sequence}, position {position}: the score of word {word} is {value}")]
    NotFinite {
        /// Index of the sequence.
        sequence: usize,
        /// Position in it.
        position: usize,
        /// The word.
        word: usize,
        /// Its score.
        value: f32,
    },
    /// A model left positions out.
    #[error("sequence {sequence}: expected scores at {expected} positions, found {found}")]
    Positions {
        /// Index of the sequence.
        sequence: usize,
        /// Positions expected.
        expected: usize,
        /// Positions heard.
        found: usize,
    },
    /// A file of recorded predictions is damaged, or belongs to another evaluation.
    #[error("{}: {problem}", path.display())]
    Recorded {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Hears the scores of all words after the token at a position.
pub type Hear<'h> = dyn FnMut(usize, &[f32]) -> Result<(), ForgeError> + 'h;

/// A model that reads a text and says after each token what it expects next.
pub trait Predict {
    /// Words it has scores for.
    fn vocab(&self) -> usize;

    /// Reads the sequence with this index and lets `hear` have the scores after each position from `from` on, in order.
    ///
    /// # Errors
    /// Those of the model, and those of `hear`.
    fn predict(
        &mut self,
        index: usize,
        tokens: &[u32],
        from: usize,
        hear: &mut Hear<'_>,
    ) -> Result<(), ForgeError>;
}

/// A model folder in the engine.
#[derive(Debug)]
pub struct Loaded {
    /// The model, loaded for at least the length of a sequence.
    pub model: LanguageModel,
    /// Words it has scores for.
    pub vocab: usize,
}

impl Predict for Loaded {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn predict(
        &mut self,
        _index: usize,
        tokens: &[u32],
        from: usize,
        hear: &mut Hear<'_>,
    ) -> Result<(), ForgeError> {
        let mut outcome = Ok(());
        self.model.score(tokens, from, &mut |position, scores| {
            if outcome.is_ok() {
                outcome = hear(position, scores);
            }
        })?;
        outcome
    }
}

/// What the original predicts at the scored positions of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Words.
    pub vocab: usize,
    /// Log-probabilities, `[positions, vocab]`.
    pub log_p: Vec<f16>,
    /// Log-probability of the word that really follows, `[positions]`.
    pub log_p_next: Vec<f32>,
    /// Likeliest word, `[positions]`.
    pub best: Vec<u32>,
}

/// Something that knows what the original predicts: the original itself, or a record of it.
pub trait Reference {
    /// Words it has probabilities for.
    fn vocab(&self) -> usize;

    /// What it predicts for the sequence with this index.
    ///
    /// # Errors
    /// Those of the model, [`EvaluateError`].
    fn sequence(&mut self, index: usize, tokens: &[u32]) -> Result<Predictions, ForgeError>;
}

/// The original itself.
pub struct Live<'m>(pub &'m mut dyn Predict);

impl Reference for Live<'_> {
    fn vocab(&self) -> usize {
        self.0.vocab()
    }

    fn sequence(&mut self, index: usize, tokens: &[u32]) -> Result<Predictions, ForgeError> {
        let vocab = self.0.vocab();
        let positions = scored(tokens.len());
        let mut all = Predictions {
            vocab,
            log_p: Vec::with_capacity(positions * vocab),
            log_p_next: Vec::with_capacity(positions),
            best: Vec::with_capacity(positions),
        };
        let mut row = vec![0.0; vocab];
        self.0
            .predict(index, tokens, UNSCORED, &mut |position, scores| {
                let Some(next) = tokens.get(position + 1) else {
                    return Ok(());
                };
                let total = log_sum(scores, vocab, index, position)?;
                for (to, score) in row.iter_mut().zip(scores) {
                    *to = (f64::from(*score) - total) as f32;
                }
                let at = all.log_p.len();
                all.log_p.resize(at + vocab, f16::ZERO);
                all.log_p[at..].convert_from_f32_slice(&row);
                all.log_p_next.push(row[*next as usize]);
                all.best.push(largest(scores));
                Ok(())
            })?;
        expect_positions(index, positions, all.best.len())?;
        Ok(all)
    }
}

/// What an evaluation found. Means are over all scored positions of all sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Positions scored.
    pub positions: usize,
    /// Sequences read.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Perplexity of the candidate: exp of the mean negative log-probability of the word that follows.
    pub perplexity: f64,
    /// Perplexity of the original.
    pub reference_perplexity: f64,
    /// How much larger the candidate's is, as a fraction of the original's: .03 are 3 %.
    pub perplexity_increase: f64,
    /// Mean KL(original ‖ candidate) in nats.
    pub kl: f64,
    /// Its 99th percentile over positions.
    pub kl_p99: f64,
    /// Its largest value.
    pub kl_max: f64,
    /// At how many positions the likeliest word is the same, as a fraction.
    pub top1: f64,
}

/// Compares a candidate with the original on sequences of tokens.
///
/// # Errors
/// [`EvaluateError`]; those of both models; [`ForgeError::Cancelled`].
pub fn evaluate(
    reference: &mut dyn Reference,
    candidate: &mut dyn Predict,
    sequences: &[Vec<u32>],
    watch: &mut Watch<'_>,
) -> Result<Evaluation, ForgeError> {
    let vocab = reference.vocab();
    check(sequences, vocab)?;
    if candidate.vocab() != vocab {
        return Err(EvaluateError::Vocabulary {
            reference: vocab,
            candidate: candidate.vocab(),
        }
        .into());
    }
    let mut sums = Sums::default();
    for (index, tokens) in sequences.iter().enumerate() {
        let total = sequences.len() as u64;
        progress(watch, "the original", 2 * index as u64, 2 * total)?;
        let expected = reference.sequence(index, tokens)?;
        progress(watch, "the candidate", 2 * index as u64 + 1, 2 * total)?;
        let before = sums.kl.len();
        candidate.predict(index, tokens, UNSCORED, &mut |position, scores| {
            let Some(next) = tokens.get(position + 1) else {
                return Ok(());
            };
            let at = position - UNSCORED;
            let total = log_sum(scores, vocab, index, position)?;
            sums.kl.push(divergence(
                &expected.log_p[at * vocab..(at + 1) * vocab],
                scores,
                total,
            ));
            sums.surprise += total - f64::from(scores[*next as usize]);
            sums.reference_surprise -= f64::from(expected.log_p_next[at]);
            sums.same += usize::from(largest(scores) == expected.best[at]);
            Ok(())
        })?;
        expect_positions(index, scored(tokens.len()), sums.kl.len() - before)?;
    }
    progress(watch, "done", 1, 1)?;
    Ok(sums.evaluation(sequences))
}

/// Perplexity of a model alone.
///
/// # Errors
/// As [`evaluate`].
pub fn perplexity(
    model: &mut dyn Predict,
    sequences: &[Vec<u32>],
    watch: &mut Watch<'_>,
) -> Result<f64, ForgeError> {
    let vocab = model.vocab();
    check(sequences, vocab)?;
    let (mut surprise, mut positions) = (0.0, 0_usize);
    for (index, tokens) in sequences.iter().enumerate() {
        progress(watch, "the model", index as u64, sequences.len() as u64)?;
        let before = positions;
        model.predict(index, tokens, UNSCORED, &mut |position, scores| {
            if let Some(next) = tokens.get(position + 1) {
                surprise +=
                    log_sum(scores, vocab, index, position)? - f64::from(scores[*next as usize]);
                positions += 1;
            }
            Ok(())
        })?;
        expect_positions(index, scored(tokens.len()), positions - before)?;
    }
    Ok((surprise / positions as f64).exp())
}

fn progress(watch: &mut Watch<'_>, item: &str, done: u64, total: u64) -> Result<(), ForgeError> {
    let step = Step::Evaluate;
    report(
        watch,
        Progress {
            step,
            item,
            done,
            total,
        },
    )
}

/// Scored positions of a sequence.
fn scored(length: usize) -> usize {
    length.saturating_sub(UNSCORED + 1)
}

fn check(sequences: &[Vec<u32>], vocab: usize) -> Result<(), EvaluateError> {
    let wrong = |what, expected: String, found: String| {
        Err(EvaluateError::Sequences {
            what,
            expected,
            found,
        })
    };
    if !(1..=MAX_SEQUENCES).contains(&sequences.len()) {
        let expected = format!("1..={MAX_SEQUENCES}");
        return wrong("sequences", expected, sequences.len().to_string());
    }
    for tokens in sequences {
        if scored(tokens.len()) == 0 || tokens.len() > MAX_LENGTH {
            let expected = format!("{}..={MAX_LENGTH}", UNSCORED + 2);
            return wrong("tokens of a sequence", expected, tokens.len().to_string());
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
            return wrong("token", format!("below {vocab}"), token.to_string());
        }
    }
    Ok(())
}

fn expect_positions(sequence: usize, expected: usize, found: usize) -> Result<(), EvaluateError> {
    if expected == found {
        return Ok(());
    }
    Err(EvaluateError::Positions {
        sequence,
        expected,
        found,
    })
}

/// ln Σ exp(score), with the largest taken out so that nothing overflows.
fn log_sum(
    scores: &[f32],
    vocab: usize,
    sequence: usize,
    position: usize,
) -> Result<f64, EvaluateError> {
    if scores.len() != vocab {
        return Err(EvaluateError::Vocabulary {
            reference: vocab,
            candidate: scores.len(),
        });
    }
    if let Some(word) = scores.iter().position(|score| !score.is_finite()) {
        let value = scores[word];
        return Err(EvaluateError::NotFinite {
            sequence,
            position,
            word,
            value,
        });
    }
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores
        .chunks(LANES)
        .map(|chunk| {
            chunk
                .iter()
                .map(|score| f64::from((score - largest).exp()))
                .sum::<f64>()
        })
        .sum();
    Ok(f64::from(largest) + sum.ln())
}

/// Words handled at once.
const LANES: usize = 1024;

/// Σ p·(ln p − ln q), where `total` is the logarithm of the sum of the candidate's exponentials.
fn divergence(log_p: &[f16], scores: &[f32], total: f64) -> f32 {
    let mut chunk = [0.0_f32; LANES];
    let (mut mass, mut sum) = (0.0_f64, 0.0_f64);
    for (codes, scores) in log_p.chunks(LANES).zip(scores.chunks(LANES)) {
        let log_p = &mut chunk[..codes.len()];
        codes.convert_to_f32_slice(log_p);
        for (log_p, score) in log_p.iter().zip(scores) {
            let p = f64::from(log_p.exp());
            mass += p;
            sum += p * (f64::from(*log_p) - f64::from(*score));
        }
    }
    // With p/mass instead of p: Σ (p/m)·(ln p − ln m − s) + ln Σ exp s. Rounding may take a divergence of nothing below it.
    ((sum / mass - mass.ln() + total).max(0.0)) as f32
}

fn largest(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best as u32
}

/// Running sums over positions.
#[derive(Default)]
struct Sums {
    kl: Vec<f32>,
    surprise: f64,
    reference_surprise: f64,
    same: usize,
}

impl Sums {
    fn evaluation(mut self, sequences: &[Vec<u32>]) -> Evaluation {
        let positions = self.kl.len();
        let count = positions as f64;
        let kl = self.kl.iter().map(|kl| f64::from(*kl)).sum::<f64>() / count;
        self.kl.sort_by(f32::total_cmp);
        // The smallest value that at least 99 % of the positions do not exceed.
        let rank = (positions * 99).div_ceil(100).max(1) - 1;
        let perplexity = (self.surprise / count).exp();
        let reference_perplexity = (self.reference_surprise / count).exp();
        Evaluation {
            positions,
            sequences: sequences.len(),
            length: sequences.first().map_or(0, Vec::len),
            perplexity,
            reference_perplexity,
            perplexity_increase: perplexity / reference_perplexity - 1.0,
            kl,
            kl_p99: f64::from(self.kl[rank]),
            kl_max: f64::from(self.kl[positions - 1]),
            top1: self.same as f64 / count,
        }
    }
}

#[cfg(test)]
mod tests;
