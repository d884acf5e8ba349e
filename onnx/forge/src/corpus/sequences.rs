//! Articles as sequences of tokens of one length, an article at a time, so that few sequences see many articles.
//!
//! ```text
//!   article 1  ▪▪▪▪ ▪▪▪▪ ▪▪▪▪ ▫▫       order: 1·1, 2·1, 3·1, 1·2, 3·2, 1·3        ▫ an end too short for a sequence is left out
//!   article 2  ▪▪▪▪ ▫▫▫
//!   article 3  ▪▪▪▪ ▪▪▪▪ ▫             articles stand in the order of a hash of title and seed
//! ```

use super::{Corpus, CorpusError, rank};
use crate::ForgeError;
use crate::folder::{Progress, Step, Watch, report};

/// Fewest tokens of a sequence.
const LENGTH_MIN: usize = 2;
/// Most tokens asked for at once: 64 Mi tokens are 256 MiB.
const TOKENS_MAX: usize = 64 << 20;
/// Bytes of text per token that are read at most: a longer article is cut before it is divided into tokens.
const TOKEN_BYTES: usize = 8;

/// How much of a text is needed, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextNeed {
    /// For messages: `calibration`, `train`, `test`.
    pub purpose: String,
    /// Sequences.
    pub sequences: usize,
    /// Fewest that will do where there is no more text.
    pub at_least: usize,
    /// Tokens of each.
    pub length: usize,
    /// Orders the articles.
    pub seed: u64,
}

/// Sequences of tokens of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// The sequences.
    pub tokens: Vec<Vec<u32>>,
    /// Articles of which there is a sequence.
    pub articles: usize,
}

impl Corpus {
    /// Exactly the sequences needed, or all there are if those will do. `tokenize` turns a text into tokens, with the token in front that
    /// texts of the model begin with; every sequence begins with it if the first one does and `begin` names it.
    ///
    /// # Errors
    /// [`CorpusError::TooShort`] with tokens needed and found, those of `tokenize`, [`ForgeError::Cancelled`].
    pub fn sequences(
        &self,
        need: &TextNeed,
        begin: Option<u32>,
        tokenize: &mut dyn FnMut(&str) -> Result<Vec<u32>, ForgeError>,
        watch: &mut Watch<'_>,
    ) -> Result<Sequences, ForgeError> {
        let most = TOKENS_MAX / need.length.max(1);
        if need.length < LENGTH_MIN || !(1..=most).contains(&need.sequences) {
            return Err(ForgeError::Recipe {
                recipe: "text",
                field: "sequences",
                expected: format!("1 or more of at least {LENGTH_MIN} tokens, {TOKENS_MAX} in all"),
                found: format!("{} of {} tokens", need.sequences, need.length),
            });
        }
        let mut order: Vec<usize> = (0..self.articles.len()).collect();
        order.sort_by_cached_key(|at| (rank(&self.articles[*at].title, need.seed), *at));
        let longest = need
            .sequences
            .saturating_mul(need.length)
            .saturating_mul(TOKEN_BYTES);
        let mut pieces: Vec<Vec<Vec<u32>>> = Vec::new();
        let mut found = 0;
        for (done, at) in order.iter().enumerate() {
            let article = &self.articles[*at];
            let progress = Progress {
                step: Step::Tokenize,
                item: &article.title,
                done: done as u64,
                total: order.len() as u64,
            };
            report(watch, progress)?;
            let tokens = tokenize(beginning(&article.text, longest))?;
            let cut = cut(&tokens, need.length, begin);
            if !cut.is_empty() {
                found += cut.len();
                pieces.push(cut);
            }
            // First pieces are taken first: enough of them is enough.
            if pieces.len() >= need.sequences {
                break;
            }
        }
        if found < need.at_least {
            return Err(CorpusError::TooShort {
                purpose: need.purpose.clone(),
                needed: need.at_least * need.length,
                sequences: need.at_least,
                length: need.length,
                found: found * need.length,
                articles: pieces.len(),
            }
            .into());
        }
        Ok(in_turn(pieces, need.sequences))
    }
}

/// The longest beginning of at most so many bytes that ends at a character.
fn beginning(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whole sequences of a text; each begins with `begin` if there is one.
fn cut(tokens: &[u32], length: usize, begin: Option<u32>) -> Vec<Vec<u32>> {
    let tokens = match begin {
        Some(begin) if tokens.first() == Some(&begin) => &tokens[1..],
        _ => tokens,
    };
    let front: Vec<u32> = begin.into_iter().collect();
    tokens
        .chunks_exact(length - front.len())
        .map(|piece| [&front, piece].concat())
        .collect()
}

/// The first pieces of all articles, then the second ones, until there are enough.
fn in_turn(pieces: Vec<Vec<Vec<u32>>>, wanted: usize) -> Sequences {
    let mut rests: Vec<_> = pieces.into_iter().map(Vec::into_iter).collect();
    let mut tokens = Vec::new();
    let mut articles = 0;
    let mut round = 0;
    while tokens.len() < wanted {
        let before = tokens.len();
        for rest in &mut rests {
            if tokens.len() < wanted
                && let Some(piece) = rest.next()
            {
                tokens.push(piece);
                articles += usize::from(round == 0);
            }
        }
        round += 1;
        if tokens.len() == before {
            break;
        }
    }
    Sequences { tokens, articles }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::Article;
    use super::*;

    /// Words are numbers, and tokens.
    fn corpus(texts: &[&str]) -> Corpus {
        let articles = texts.iter().enumerate().map(|(at, text)| Article {
            title: at.to_string(),
            text: (*text).to_owned(),
        });
        Corpus {
            articles: articles.collect(),
        }
    }

    fn sequences(
        texts: &[&str],
        sequences: usize,
        length: usize,
        begin: Option<u32>,
    ) -> Result<Sequences, ForgeError> {
        between((sequences, sequences), texts, length, begin)
    }

    fn between(
        (at_least, sequences): (usize, usize),
        texts: &[&str],
        length: usize,
        begin: Option<u32>,
    ) -> Result<Sequences, ForgeError> {
        let need = TextNeed {
            purpose: "test".into(),
            sequences,
            at_least,
            length,
            seed: 3,
        };
        let mut tokenize = |text: &str| {
            let words = text.split(' ').map(|word| word.parse().unwrap());
            Ok(begin.into_iter().chain(words).collect())
        };
        corpus(texts).sequences(&need, begin, &mut tokenize, &mut |_| {
            ControlFlow::Continue(())
        })
    }

    const TEXTS: &[&str] = &["1 2 3 4 5", "6", "7 8 9 10", "11 12"];

    #[test]
    fn first_pieces_of_all_articles_come_first() {
        let found = sequences(TEXTS, 5, 2, None).unwrap();
        let mut first: Vec<_> = found.tokens[..3].to_vec();
        first.sort();
        assert_eq!(first, [[1, 2], [7, 8], [11, 12]]);
        let mut second: Vec<_> = found.tokens[3..].to_vec();
        second.sort();
        assert_eq!(second, [[3, 4], [9, 10]]);
        assert_eq!(found.articles, 3);
        assert_eq!(
            found,
            sequences(TEXTS, 5, 2, None).unwrap(),
            "the same again"
        );
        let fewer = sequences(TEXTS, 2, 2, None).unwrap();
        assert_eq!(
            fewer.tokens,
            found.tokens[..2],
            "fewer are the beginning of more"
        );
    }

    #[test]
    fn every_sequence_begins_as_texts_of_the_model_do() {
        let found = sequences(TEXTS, 3, 3, Some(99)).unwrap();
        assert!(
            found
                .tokens
                .iter()
                .all(|tokens| tokens[0] == 99 && tokens.len() == 3)
        );
    }

    #[test]
    fn too_little_text_says_how_much_there_is() {
        let error = sequences(TEXTS, 6, 2, None).unwrap_err().to_string();
        let expected = "12 tokens are needed (6 sequences of 2), 10 are there in 3 articles";
        assert!(error.contains(expected), "{error}");
        let all = between((3, 6), TEXTS, 2, None).unwrap();
        assert_eq!(all.tokens.len(), 5, "what there is, if it will do");
        assert!(between((6, 9), TEXTS, 2, None).is_err());
        for (count, length) in [(0, 2), (1, 1), (usize::MAX, 2), (1, usize::MAX)] {
            assert!(sequences(TEXTS, count, length, None).is_err());
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        for (bytes, expected) in [(0, ""), (1, ""), (2, "é"), (3, "éa"), (9, "éa")] {
            assert_eq!(beginning("éa", bytes), expected);
        }
    }
}
