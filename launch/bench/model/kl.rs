//! How far an engine's predictions are from those of the float32 model: the KL divergence, by llama.cpp's own file and formula.
//!
//! `llama-perplexity --kl-divergence-base` writes what the float32 model predicts after each token of a text: for every position of the
//! second half of each chunk one row, log-probabilities as 16-bit codes between the row's smallest and largest. The same file then judges
//! both engines: llama.cpp itself with `--kl-divergence`, and ours here, on the same tokens at the same positions. So rounding of the
//! codes and the cut at e⁻¹⁶ hit both alike. Layout, little-endian (llama.cpp, `tools/perplexity/perplexity.cpp`):
//!
//! ```text
//!   "_logits_" · context i32 · vocabulary i32 · chunks i32 · tokens i32[chunks × context]
//!   chunks × (context − 1 − context/2) rows:  scale f32 · smallest f32 · codes u16[vocabulary], padded to an even number
//!   row r of a chunk: after the tokens 0 ..= context/2 + r          log p = scale · code + smallest
//! ```

use anyhow::{Context, Result, bail, ensure};

const MAGIC: &[u8; 8] = b"_logits_";
/// Bytes before the tokens.
const HEADER_BYTES: usize = 20;
/// Bytes of a row before its codes.
const ROW_HEADER_BYTES: usize = 8;
/// Longest context accepted.
const CONTEXT_MAX: usize = 1 << 20;
/// Largest vocabulary accepted.
const VOCABULARY_MAX: usize = 1 << 20;
/// Most chunks accepted.
const CHUNKS_MAX: usize = 1 << 16;
/// Log-probabilities below this are left out, as llama.cpp does.
const LOG_MIN: f32 = -16.0;

/// What the float32 model predicts.
#[derive(Debug)]
pub(crate) struct Base<'a> {
    context: usize,
    vocabulary: usize,
    tokens: Vec<u32>,
    rows: &'a [u8],
}

/// Hears the scores after the token at a position.
pub(crate) type Hear<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<()>;

impl<'a> Base<'a> {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not such a file, or is cut off.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Base<'a>> {
        ensure!(
            bytes.starts_with(MAGIC) && bytes.len() >= HEADER_BYTES,
            "not a file of log-probabilities: it does not begin with \"_logits_\" and three numbers"
        );
        let number = |at: usize| -> i32 {
            i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let count = |at: usize, what: &str, limit: usize| -> Result<usize> {
            match usize::try_from(number(at)) {
                Ok(value) if (1..=limit).contains(&value) => Ok(value),
                _ => bail!("{what}: expected 1..={limit}, found {}", number(at)),
            }
        };
        let context = count(8, "context", CONTEXT_MAX)?;
        let vocabulary = count(12, "vocabulary", VOCABULARY_MAX)?;
        let chunks = count(16, "chunks", CHUNKS_MAX)?;
        ensure!(
            context >= 4,
            "context: expected at least 4, found {context}"
        );
        let rows_at = HEADER_BYTES + chunks * context * 4;
        let expected = rows_at + chunks * scored(context) * row_bytes(vocabulary);
        ensure!(
            bytes.len() == expected,
            "expected {expected} bytes for {chunks} chunks of {context} tokens, found {}",
            bytes.len()
        );
        let tokens = (0..chunks * context).map(|at| {
            let found = number(HEADER_BYTES + at * 4);
            u32::try_from(found)
                .ok()
                .filter(|token| (*token as usize) < vocabulary)
                .with_context(|| format!("token {at}: expected 0..{vocabulary}, found {found}"))
        });
        Ok(Base {
            context,
            vocabulary,
            tokens: tokens.collect::<Result<_>>()?,
            rows: &bytes[rows_at..],
        })
    }

    /// Tokens of a chunk.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Mean divergence, in nats, of the engine that `score` runs on a chunk of tokens and from a position on. With `begin`, each chunk begins with that token
    /// instead of its own first one, as llama.cpp does for models whose texts begin with one.
    ///
    /// # Errors
    /// Those of `score`; a vocabulary of another size; a position that was not scored.
    pub(crate) fn mean(
        &self,
        begin: Option<u32>,
        score: &mut dyn FnMut(&[u32], usize, Hear<'_>) -> Result<()>,
    ) -> Result<f64> {
        let (row_bytes, first) = (row_bytes(self.vocabulary), self.context / 2);
        let (mut sum, mut count) = (0.0, 0_usize);
        let rows = self.rows.chunks_exact(row_bytes * scored(self.context));
        for (tokens, rows) in self.tokens.chunks_exact(self.context).zip(rows) {
            let mut tokens = tokens.to_vec();
            if let Some(begin) = begin {
                tokens[0] = begin;
            }
            let mut hear = |position: usize, scores: &[f32]| -> Result<()> {
                let row = position
                    .checked_sub(first)
                    .and_then(|row| rows.get(row * row_bytes..(row + 1) * row_bytes));
                let Some(row) = row else { return Ok(()) };
                ensure!(
                    scores.len() == self.vocabulary,
                    "expected {} scores, found {}",
                    self.vocabulary,
                    scores.len()
                );
                sum += divergence(row, scores);
                count += 1;
                Ok(())
            };
            score(&tokens, first, &mut hear)?;
        }
        let expected = self.tokens.len() / self.context * scored(self.context);
        ensure!(
            count == expected,
            "expected scores at {expected} positions, found {count}"
        );
        Ok(sum / count as f64)
    }
}

/// Scored positions of a chunk: the second half without the last token, after which the text is unknown.
fn scored(context: usize) -> usize {
    context - 1 - context / 2
}

fn row_bytes(vocabulary: usize) -> usize {
    ROW_HEADER_BYTES + 2 * vocabulary.next_multiple_of(2)
}

/// Σ p·(ln p − ln q) of one row against the softmax of the scores.
fn divergence(row: &[u8], scores: &[f32]) -> f64 {
    let float = |at: usize| f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
    let (scale, smallest) = (float(0), float(4));
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = scores
        .iter()
        .map(|score| f64::from((score - largest).exp()))
        .sum();
    let normaliser = f64::from(largest) + total.ln();
    let codes = row[ROW_HEADER_BYTES..].chunks_exact(2);
    codes
        .zip(scores)
        .map(|(code, score)| {
            let code = f32::from(u16::from_le_bytes([code[0], code[1]]));
            let base = scale * code + smallest;
            if base <= LOG_MIN {
                return 0.0;
            }
            let base = f64::from(base);
            base.exp() * (base - f64::from(*score) + normaliser)
        })
        .sum()
}

/// The `Mean    KLD:` that `llama-perplexity --kl-divergence` prints.
///
/// # Errors
/// When it printed none.
pub(crate) fn printed_mean(output: &str) -> Result<f64> {
    let line = output
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("Mean    KLD:"))
        .context("llama-perplexity printed no line \"Mean    KLD:\"")?;
    line.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("llama-perplexity printed no number: Mean    KLD:{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two chunks of 4 tokens over 3 words: one scored position each, after the third token.
    fn file() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [4, 3, 2, 0, 1, 2, 0, 2, 2, 1, 1] {
            bytes.extend(i32::to_le_bytes(number));
        }
        // ln ½, ln ¼, ln ¼ as codes 1, 0, 0 of scale ln 2 above ln ¼; then a padding code that must be ignored.
        for _ in 0..2 {
            bytes.extend(std::f32::consts::LN_2.to_le_bytes());
            bytes.extend((-2.0 * std::f32::consts::LN_2).to_le_bytes());
            for code in [1_u16, 0, 0, 999] {
                bytes.extend(code.to_le_bytes());
            }
        }
        bytes
    }

    fn mean(begin: Option<u32>, scores: &[f32]) -> (Result<f64>, Vec<Vec<u32>>) {
        let bytes = file();
        let base = Base::parse(&bytes).unwrap();
        let mut seen = Vec::new();
        let result = base.mean(begin, &mut |tokens, first, hear| {
            seen.push(tokens.to_vec());
            for position in first..tokens.len() {
                hear(position, scores)?;
            }
            Ok(())
        });
        (result, seen)
    }

    #[test]
    fn divergences_by_hand() {
        const LN_2: f32 = std::f32::consts::LN_2;
        let cases: [(&[f32], f64, &str); 3] = [
            (
                &[LN_2 + 7.0, 7.0, 7.0],
                0.0,
                "the same distribution, shifted",
            ),
            // ½·ln(½·3) + 2·¼·ln(¼·3)
            (
                &[0.0, 0.0, 0.0],
                0.5 * 1.5_f64.ln() + 0.5 * 0.75_f64.ln(),
                "uniform",
            ),
            // ½·ln(½/¼) + ¼·ln(¼/½) + ¼·ln(¼/¼)
            (&[0.0, LN_2, 0.0], 0.25 * 2.0_f64.ln(), "another favourite"),
        ];
        for (scores, expected, why) in cases {
            let (found, seen) = mean(None, scores);
            let found = found.unwrap();
            assert!((found - expected).abs() < 1e-6, "{why}: {found} {expected}");
            assert_eq!(seen, [[0, 1, 2, 0], [2, 2, 1, 1]]);
        }
        let (_, seen) = mean(Some(1), &[0.0; 3]);
        assert_eq!(
            seen,
            [[1, 1, 2, 0], [1, 2, 1, 1]],
            "each chunk begins with the token asked for"
        );
    }

    #[test]
    fn an_engine_of_another_vocabulary_or_without_scores_is_refused() {
        let error = mean(None, &[0.0; 4]).0.unwrap_err().to_string();
        assert!(error.contains("expected 3 scores, found 4"), "{error}");
        let bytes = file();
        let base = Base::parse(&bytes).unwrap();
        let error = base
            .mean(None, &mut |_, _, _| Ok(()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("expected scores at 2 positions, found 0"),
            "{error}"
        );
    }

    #[test]
    fn damaged_files_are_refused_with_both_numbers() {
        let whole = file();
        for length in 0..whole.len() {
            assert!(Base::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        let with = |at: usize, number: i32| {
            let mut bytes = file();
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            Base::parse(&bytes).unwrap_err().to_string()
        };
        for (at, number, expected) in [
            (0, 0, "does not begin"),
            (8, -4, "context: expected 1..=1048576, found -4"),
            (8, 3, "context: expected at least 4"),
            (12, 0, "vocabulary"),
            (16, i32::MAX, "chunks"),
            (20, 3, "token 0: expected 0..3, found 3"),
            (24, -1, "token 1"),
        ] {
            let error = with(at, number);
            assert!(error.contains(expected), "{at}: {error}");
        }
    }

    #[test]
    fn the_printed_mean_is_found_among_other_lines() {
        let output = "Cor(ln(PPL(Q)), ln(PPL(base))):  99.0%\n\n====== KL divergence statistics ======\n\
                      Mean    KLD:   0.031415 ±   0.000271\nMaximum KLD:   1.5\n";
        assert_eq!(printed_mean(output).unwrap(), 0.031415);
        assert!(printed_mean("Maximum KLD: 1").is_err());
        assert!(printed_mean("Mean    KLD: nothing").is_err());
    }
}
