//! Articles as sentences, an article at a time, so that few sentences see many articles: what encoders are calibrated with and judged on.
//!
//! A sentence ends at a full stop, a question or an exclamation mark before a space and a capital letter or a digit, or with its
//! paragraph. Abbreviations therefore cut some sentences short, which does not matter: an encoder is asked for pieces of text of any
//! kind.

use super::{Corpus, CorpusError, rank};
use crate::ForgeError;
use crate::folder::{Progress, Step, Watch, report};

/// Fewest and most words of a sentence: less is a headline, more is a list.
const WORDS: std::ops::RangeInclusive<usize> = 4..=60;
/// Most characters of a sentence: what has few words and more than this is no sentence.
const MAX_CHARS: usize = 600;
/// Fewest sentences of a text: below, neither ranges nor rankings mean anything.
pub const MIN_SENTENCES: usize = 8;
/// Most sentences that are given back: every pair of them is compared.
pub const MAX_SENTENCES: usize = 2048;

/// How many sentences are needed, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentenceNeed {
    /// For messages: `calibration`, `test`.
    pub purpose: String,
    /// Tokens in all, at least; not more than [`MAX_SENTENCES`] have.
    pub tokens: usize,
    /// Most tokens of a sentence; longer ones are left out.
    pub longest: usize,
    /// Orders the articles.
    pub seed: u64,
}

/// Sentences, and how many tokens they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentences {
    /// The sentences.
    pub texts: Vec<String>,
    /// Their tokens.
    pub tokens: usize,
}

impl Corpus {
    /// As many sentences as have the tokens needed. `tokens` counts those of a text.
    ///
    /// # Errors
    /// [`CorpusError::FewSentences`] with tokens needed and found, those of `tokens`, [`ForgeError::Cancelled`].
    pub fn sentences(
        &self,
        need: &SentenceNeed,
        tokens: &mut dyn FnMut(&str) -> Result<usize, ForgeError>,
        watch: &mut Watch<'_>,
    ) -> Result<Sentences, ForgeError> {
        let mut order: Vec<usize> = (0..self.articles.len()).collect();
        order.sort_by_cached_key(|at| (rank(&self.articles[*at].title, need.seed), *at));
        let mut articles: Vec<_> = order
            .iter()
            .map(|at| sentences_of(&self.articles[*at].text))
            .collect();
        let mut found = Sentences {
            texts: Vec::new(),
            tokens: 0,
        };
        let is_enough =
            |found: &Sentences| found.tokens >= need.tokens || found.texts.len() >= MAX_SENTENCES;
        loop {
            let before = found.texts.len();
            for article in &mut articles {
                if is_enough(&found) {
                    break;
                }
                for sentence in article.by_ref() {
                    let count = tokens(sentence)?;
                    if count <= need.longest {
                        found.texts.push(sentence.to_owned());
                        found.tokens += count;
                        break;
                    }
                }
                let progress = Progress {
                    step: Step::Tokenize,
                    item: &need.purpose,
                    done: found.tokens.min(need.tokens) as u64,
                    total: need.tokens as u64,
                };
                report(watch, progress)?;
            }
            if is_enough(&found) || found.texts.len() == before {
                break;
            }
        }
        if !is_enough(&found) || found.texts.len() < MIN_SENTENCES {
            return Err(CorpusError::FewSentences {
                purpose: need.purpose.clone(),
                needed: need.tokens,
                found: found.tokens,
                sentences: found.texts.len(),
            }
            .into());
        }
        Ok(found)
    }
}

/// The sentences of a text, without what is too short or too long.
fn sentences_of(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").flat_map(pieces).filter(|piece| {
        let words = piece.split_whitespace().count();
        WORDS.contains(&words) && piece.chars().count() <= MAX_CHARS
    })
}

/// A paragraph, cut behind its sentences.
fn pieces(paragraph: &str) -> impl Iterator<Item = &str> {
    let mut rest = paragraph.trim();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = end_of_first(rest);
        let (piece, after) = rest.split_at(end);
        rest = after.trim_start();
        Some(piece.trim_end())
    })
}

/// Where the first sentence ends.
fn end_of_first(text: &str) -> usize {
    let mut last: Option<(usize, bool)> = None;
    for (at, letter) in text.char_indices() {
        if let Some((end, is_space)) = last {
            if !is_space && letter.is_whitespace() {
                last = Some((end, true));
                continue;
            }
            if is_space && letter.is_whitespace() {
                continue;
            }
            if is_space && (letter.is_uppercase() || letter.is_numeric()) {
                return end;
            }
            last = None;
        }
        if ['.', '!', '?'].contains(&letter) {
            last = Some((at + letter.len_utf8(), false));
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::corpus::Article;

    fn corpus(texts: &[(&str, &str)]) -> Corpus {
        let articles = texts.iter().map(|(title, text)| Article {
            title: (*title).to_owned(),
            text: (*text).to_owned(),
        });
        Corpus {
            articles: articles.collect(),
        }
    }

    fn sentences(corpus: &Corpus, tokens: usize) -> Result<Sentences, String> {
        let need = SentenceNeed {
            purpose: "test".into(),
            tokens,
            longest: 9,
            seed: 1,
        };
        let mut count = |text: &str| Ok(text.split_whitespace().count());
        corpus
            .sentences(&need, &mut count, &mut |_| ControlFlow::Continue(()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn sentences_end_where_people_end_them() {
        let cases: [(&str, &[&str], &str); 6] = [
            (
                "The car stops here. The light is red! Is it raining now? It is.",
                &[
                    "The car stops here.",
                    "The light is red!",
                    "Is it raining now?",
                ],
                "two words are no sentence",
            ),
            (
                "It drives 13.9 m/s and e.g. turns left",
                &["It drives 13.9 m/s and e.g. turns left"],
                "no capital letter follows",
            ),
            (
                "One two three four\n\nfive six seven eight",
                &["One two three four", "five six seven eight"],
                "paragraphs",
            ),
            (
                "Über die Brücke fährt.  Ärger kam danach mit ihm",
                &["Über die Brücke fährt.", "Ärger kam danach mit ihm"],
                "letters of two bytes, two spaces",
            ),
            ("", &[], "nothing"),
            ("...", &[], "no words"),
        ];
        for (text, expected, why) in cases {
            let found: Vec<&str> = sentences_of(text).collect();
            assert_eq!(found, expected, "{why}");
        }
    }

    #[test]
    fn every_article_gives_one_before_any_gives_two() {
        let long: String = (0..9)
            .map(|at| format!("Number {at} of the first one. "))
            .collect();
        let other = "The second says this much. And then it adds that.";
        let whole = corpus(&[("A", &long), ("B", other)]);
        let found = sentences(&whole, 46).unwrap();
        assert!(found.tokens >= 46 && found.texts.len() >= MIN_SENTENCES);
        let of_second = |texts: &[String]| {
            texts
                .iter()
                .filter(|it| other.contains(it.as_str()))
                .count()
        };
        assert_eq!(of_second(&found.texts[..2]), 1);
        assert_eq!(of_second(&found.texts[..4]), 2);
        assert_eq!(
            sentences(&whole, 46).unwrap(),
            found,
            "always the same ones"
        );
    }

    #[test]
    fn too_little_text_is_said_with_both_numbers() {
        let short = corpus(&[(
            "A",
            "Only this one is here. And one of more than nine words which is therefore left out.",
        )]);
        let error = sentences(&short, 40).unwrap_err();
        assert!(
            error.contains("the test text is too short: 40 tokens"),
            "{error}"
        );
        assert!(error.contains("5 are there in 1 sentences"), "{error}");
    }
}
