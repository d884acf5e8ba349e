//! The decoder's decisions, free of any model: how many tokens are plausible, which one is next, whether it goes in circles.

use super::SAMPLE_RATE_HZ;

/// Shortest input of the encoder, samples. Its three convolutions (kernels 127, 7, 3; strides 64, 3, 2) give a first frame at
/// 895 samples; a quarter of a second keeps single words from being recognized out of half a frame.
pub(super) const MIN_SAMPLES: usize = 4_000;
/// Most tokens a second of speech can hold; the model card's rule against endless repetition.
const TOKENS_PER_SECOND: f64 = 6.5;
/// Tokens that any utterance may have, however short.
const TOKENS_BASE: usize = 4;
/// Positions the decoder was trained on.
const TOKENS_MAX: usize = 194;
/// Longest phrase looked for when it repeats, tokens.
const PHRASE_MAX: usize = 16;
/// A phrase said this often in a row ..
const REPEATS_MIN: usize = 4;
/// .. with so many tokens in all is a loop; people do say "no no no no".
const REPEATED_TOKENS_MIN: usize = 12;

/// Most tokens for an utterance of so many samples.
pub(super) fn token_limit(samples: usize) -> usize {
    let seconds = samples as f64 / f64::from(SAMPLE_RATE_HZ);
    (TOKENS_BASE + (seconds * TOKENS_PER_SECOND) as usize).min(TOKENS_MAX)
}

/// The index of the largest finite score (the first of equals) and its softmax probability in (0, 1].
pub(super) fn best_token(scores: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(usize, f32)> = None;
    for (index, score) in scores.iter().enumerate() {
        if score.is_finite() && best.is_none_or(|(_, top)| *score > top) {
            best = Some((index, *score));
        }
    }
    let (index, top) = best?;
    let sum: f32 = scores
        .iter()
        .filter(|score| score.is_finite())
        .map(|score| (score - top).exp())
        .sum();
    Some((u32::try_from(index).ok()?, 1.0 / sum))
}

/// If the tokens end in a loop, how many of them to keep: everything up to the end of the phrase's first appearance.
pub(super) fn repeated_tail(tokens: &[u32]) -> Option<usize> {
    for phrase in 1..=PHRASE_MAX {
        let repeats = REPEATS_MIN.max(REPEATED_TOKENS_MIN.div_ceil(phrase));
        let Some(start) = tokens.len().checked_sub(phrase * repeats) else {
            continue;
        };
        let tail = &tokens[start..];
        if tail[phrase..] == tail[..tail.len() - phrase] {
            return Some(start + phrase);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_grow_with_the_sound_up_to_the_models_positions() {
        for (samples, tokens) in [(0, 4), (16_000, 10), (40_000, 20), (480_000, 194)] {
            assert_eq!(token_limit(samples), tokens, "{samples} samples");
        }
    }

    #[test]
    fn the_best_token_and_its_probability() {
        assert_eq!(best_token(&[0.0, 0.0]), Some((0, 0.5)));
        let (index, probability) = best_token(&[1.0, 3.0, 2.0]).unwrap();
        // softmax([1, 3, 2])[1]
        assert!(
            index == 1 && (probability - 0.665_241).abs() < 1e-5,
            "{index} {probability}"
        );
        let (index, probability) =
            best_token(&[f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY]).unwrap();
        assert_eq!((index, probability), (1, 1.0));
        assert_eq!(best_token(&[1e30, -1e30]), Some((0, 1.0)));
        assert_eq!(best_token(&[]), None);
        assert_eq!(best_token(&[f32::NAN; 3]), None);
    }

    #[test]
    fn loops_are_cut_and_speech_is_not() {
        let cases: [(Vec<u32>, Option<usize>, &str); 7] = [
            (vec![], None, "nothing"),
            (vec![7; 11], None, "one word eleven times"),
            (vec![7; 12], Some(1), "one word twelve times"),
            (
                [vec![1, 2, 3], [4, 5].repeat(6)].concat(),
                Some(5),
                "two words six times",
            ),
            (
                [vec![1, 2, 3], [4, 5].repeat(5)].concat(),
                None,
                "two words five times",
            ),
            (
                (0..10).collect::<Vec<u32>>().repeat(4),
                Some(10),
                "a sentence four times",
            ),
            (
                (0..17).collect::<Vec<u32>>().repeat(9),
                None,
                "longer than any phrase looked for",
            ),
        ];
        for (tokens, expected, why) in cases {
            assert_eq!(repeated_tail(&tokens), expected, "{why}");
        }
    }
}
