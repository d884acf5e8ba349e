//! Prompts of an exact number of tokens, cut from one committed text.
//!
//! Engines are compared on the same amount of work, so a prompt has exactly so many tokens. The text is prose of our own, because scores on
//! random tokens would say nothing about the quality of weights, and because answers should not end at once.

use anyhow::{Result, bail};

/// The text: about 940 words.
pub(crate) const PROSE: &str = include_str!("prose.txt");
/// Most repetitions of the text for a long prompt.
const REPEATS_MAX: usize = 64;
/// A word that adds few tokens, to fill up what a whole word of the text would overshoot.
const FILLER: &str = " a";

/// The beginning of the text, from word `start` on and repeated if need be, that has exactly `tokens` tokens by `count`.
///
/// # Errors
/// When no such beginning exists: the tokenizer has no token for a common word.
pub(crate) fn exact(
    tokens: usize,
    start: usize,
    count: &mut dyn FnMut(&str) -> Result<usize>,
) -> Result<String> {
    let words: Vec<&str> = PROSE.split_whitespace().collect();
    let wanted = |length: usize| -> String {
        let chosen: Vec<&str> = words
            .iter()
            .cycle()
            .skip(start)
            .take(length)
            .copied()
            .collect();
        chosen.join(" ")
    };
    // The longest run of words that does not overshoot, by bisection: more words never have fewer tokens.
    let (mut low, mut high) = (0, words.len() * REPEATS_MAX);
    high = high.min(tokens + 1);
    while low + 1 < high {
        let middle = (low + high) / 2;
        if count(&wanted(middle))? <= tokens {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut text = wanted(low);
    let mut found = if text.is_empty() { 0 } else { count(&text)? };
    while found < tokens {
        text.push_str(FILLER);
        let now = count(&text)?;
        if now <= found || now > tokens {
            break;
        }
        found = now;
    }
    if found != tokens {
        bail!("no text of exactly {tokens} tokens could be made; the nearest has {found}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of the worst kind that is still usable: words in pieces of three letters.
    fn pieces(text: &str) -> Result<usize> {
        Ok(text.split(' ').map(|word| word.len().div_ceil(3)).sum())
    }

    #[test]
    fn a_prompt_has_exactly_so_many_tokens_from_anywhere_in_the_text() {
        for tokens in [1, 2, 3, 128, 512, 4096] {
            for start in [0, 17, 939] {
                let text = exact(tokens, start, &mut pieces).unwrap();
                assert_eq!(pieces(&text).unwrap(), tokens, "{tokens} from {start}");
            }
        }
    }

    #[test]
    fn a_tokenizer_that_cannot_count_so_far_is_an_error() {
        let error = exact(8, 0, &mut |text| Ok(text.len() * 1000)).unwrap_err();
        assert!(error.to_string().contains("exactly 8 tokens"), "{error}");
    }
}
