//! Word error rate, and the normalizer that both sides go through before words are counted.
//!
//! A word error rate means nothing without its normalizer, so there is one, fixed, and stated here:
//!
//! 1. lower case (Unicode);
//! 2. apostrophes (straight and typographic) are dropped inside words, so "don't" and "dont" are one word;
//! 3. whole numbers up to 999 999 become English words ("21" -> "twenty one", thousands separators allowed);
//! 4. the titles mr, mrs and dr become mister, missus and doctor;
//! 5. every other character that is not a letter or a digit separates words.
//!
//! Nothing else: no synonyms, no British-American pairs, no removal of fillers, no ordinals or currency.

use std::iter::Sum;

/// Most words compared on a side: 10 000 x 10 000 cells are work for a second, not for an hour.
const MAX_WORDS: usize = 10_000;

/// Errors of one hypothesis, or the pooled ones of many (`iter().sum()`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WordErrors {
    /// Words replaced by another.
    pub substitutions: usize,
    /// Words of the reference that are missing.
    pub deletions: usize,
    /// Words that the reference does not have.
    pub insertions: usize,
    /// Words of the reference.
    pub reference_words: usize,
}

impl WordErrors {
    /// All three kinds together.
    #[must_use]
    pub fn errors(self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// Word error rate: errors / reference words; can exceed 1. Without reference words it is 0 when nothing was said, else 1.
    #[must_use]
    pub fn rate(self) -> f64 {
        match (self.errors(), self.reference_words) {
            (0, 0) => 0.0,
            (_, 0) => 1.0,
            (errors, words) => errors as f64 / words as f64,
        }
    }
}

impl Sum for WordErrors {
    fn sum<I: Iterator<Item = WordErrors>>(all: I) -> WordErrors {
        all.fold(WordErrors::default(), |a, b| WordErrors {
            substitutions: a.substitutions + b.substitutions,
            deletions: a.deletions + b.deletions,
            insertions: a.insertions + b.insertions,
            reference_words: a.reference_words + b.reference_words,
        })
    }
}

/// The words of a text after the normalizer described above.
#[must_use]
pub fn normalize(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let characters: Vec<char> = text.to_lowercase().chars().collect();
    for (index, character) in characters.iter().enumerate() {
        let next_is_digit = characters.get(index + 1).is_some_and(char::is_ascii_digit);
        let in_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        match character {
            '\'' | '\u{2019}' | '\u{2018}' if !word.is_empty() => {}
            ',' if in_number && next_is_digit => {}
            c if c.is_alphanumeric() => word.push(*c),
            _ => end_word(&mut word, &mut words),
        }
    }
    end_word(&mut word, &mut words);
    words
}

/// Substitutions, deletions and insertions of a cheapest alignment (Levenshtein 1966, on words) of two texts.
///
/// Both go through [`normalize`]; only the first 10 000 words of each are compared.
#[must_use]
pub fn word_errors(reference: &str, hypothesis: &str) -> WordErrors {
    let (mut reference, mut hypothesis) = (normalize(reference), normalize(hypothesis));
    reference.truncate(MAX_WORDS);
    hypothesis.truncate(MAX_WORDS);
    // row[j] = cheapest way from the reference words so far to the first j hypothesis words.
    let mut row: Vec<WordErrors> = (0..=hypothesis.len())
        .map(|insertions| WordErrors {
            insertions,
            ..WordErrors::default()
        })
        .collect();
    for (index, expected) in reference.iter().enumerate() {
        let mut diagonal = row[0];
        row[0].deletions = index + 1;
        for (column, found) in hypothesis.iter().enumerate() {
            let deleted = WordErrors {
                deletions: row[column + 1].deletions + 1,
                ..row[column + 1]
            };
            let inserted = WordErrors {
                insertions: row[column].insertions + 1,
                ..row[column]
            };
            let replaced = WordErrors {
                substitutions: diagonal.substitutions + usize::from(expected != found),
                ..diagonal
            };
            diagonal = row[column + 1];
            // Ties go to the substitution, then the deletion.
            row[column + 1] = [replaced, deleted, inserted]
                .into_iter()
                .min_by_key(|e| e.errors())
                .unwrap_or(replaced);
        }
    }
    WordErrors {
        reference_words: reference.len(),
        ..row[hypothesis.len()]
    }
}

fn end_word(word: &mut String, words: &mut Vec<String>) {
    if word.is_empty() {
        return;
    }
    let word = std::mem::take(word);
    let titles = [("mr", "mister"), ("mrs", "missus"), ("dr", "doctor")];
    if let Some((_, spoken)) = titles.iter().find(|(short, _)| *short == word) {
        words.push((*spoken).to_owned());
        return;
    }
    match word.parse::<u32>() {
        Ok(number) if number < 1_000_000 && word.bytes().all(|b| b.is_ascii_digit()) => {
            spell(number, words)
        }
        _ => words.push(word),
    }
}

/// English words of a number below one million, without "and".
fn spell(number: u32, words: &mut Vec<String>) {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 10] = [
        "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
    ];
    if number >= 1_000 {
        spell(number / 1_000, words);
        words.push("thousand".to_owned());
    }
    let below = number % 1_000;
    if below >= 100 {
        words.push(SMALL[(below / 100) as usize].to_owned());
        words.push("hundred".to_owned());
    }
    let rest = below % 100;
    match (rest / 10, rest % 10) {
        (0, 0) if number > 0 => {}
        (0 | 1, _) => words.push(SMALL[rest as usize].to_owned()),
        (tens, 0) => words.push(TENS[tens as usize].to_owned()),
        (tens, units) => words.extend([
            TENS[tens as usize].to_owned(),
            SMALL[units as usize].to_owned(),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normalizer_does_what_it_says() {
        let cases = [
            ("Don't STOP!", "dont stop"),
            ("don\u{2019}t", "dont"),
            ("'quoted' words", "quoted words"),
            ("set the speed to 21.", "set the speed to twenty one"),
            ("1,234 cars", "one thousand two hundred thirty four cars"),
            ("one,two", "one two"),
            (
                "0 10 15 100 1000 999999",
                "zero ten fifteen one hundred one thousand nine hundred ninety nine thousand nine hundred ninety nine",
            ),
            ("1000000 4th 5x", "1000000 4th 5x"),
            ("well-known \u{2014} fact", "well known fact"),
            ("Mr. and Mrs. Smith", "mister and missus smith"),
            ("", ""),
            ("  ... ", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(normalize(text).join(" "), expected, "{text:?}");
        }
    }

    #[test]
    fn alignments() {
        // (reference, hypothesis, substitutions, deletions, insertions)
        let cases = [
            ("a b c", "a b c", 0, 0, 0),
            ("a b c", "a x c", 1, 0, 0),
            ("a b c", "a c", 0, 1, 0),
            ("a c", "a b c", 0, 0, 1),
            ("a b c d", "b c d e", 0, 1, 1),
            ("a b", "", 0, 2, 0),
            ("", "a b", 0, 0, 2),
            ("", "", 0, 0, 0),
            ("Go forward 10 meters.", "go forward ten metres", 1, 0, 0),
        ];
        for (reference, hypothesis, substitutions, deletions, insertions) in cases {
            let found = word_errors(reference, hypothesis);
            let expected = WordErrors {
                substitutions,
                deletions,
                insertions,
                reference_words: normalize(reference).len(),
            };
            assert_eq!(found, expected, "{reference:?} / {hypothesis:?}");
        }
    }

    #[test]
    fn rates_are_pooled_over_words_not_averaged() {
        let errors = [
            word_errors("a b c d e f g h i", "a b c d e f g h i"),
            word_errors("a", "b"),
        ];
        let pooled: WordErrors = errors.into_iter().sum();
        assert!((pooled.rate() - 0.1).abs() < 1e-12, "{pooled:?}");
        assert_eq!(word_errors("", "").rate(), 0.0);
        assert_eq!(word_errors("", "x").rate(), 1.0);
        assert_eq!(word_errors("a", "b c").rate(), 2.0);
    }
}
