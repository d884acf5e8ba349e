//! Texts as sequences of one length, in an order that a seed decides.
//!
//! Texts are laid end to end and cut, so that no position of a batch is filling: every one trains. Each epoch has an order of its
//! own, which depends on seed and epoch alone, so that a run that was stopped goes on where it was.

use super::DistilError;

/// Sequences of `length` + 1 tokens: the last one is only a target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sequences {
    tokens: Vec<u32>,
    length: usize,
}

/// Some sequences side by side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    /// Numbers of the sequences.
    pub(super) numbers: Vec<usize>,
    /// [batch, length].
    pub(super) ids: Vec<u32>,
    /// The token after each, [batch, length].
    pub(super) targets: Vec<u32>,
}

impl Sequences {
    /// Cuts texts; `what` says in errors which ones, and at least `needed` sequences must come out.
    ///
    /// # Errors
    /// [`DistilError::TooShort`] with found and needed tokens, [`DistilError::Token`] for an id outside the vocabulary.
    pub(super) fn cut(
        texts: &[Vec<u32>],
        length: usize,
        vocab: usize,
        (what, needed): (&'static str, usize),
    ) -> Result<Sequences, DistilError> {
        let tokens: Vec<u32> = texts.iter().flatten().copied().collect();
        let count = tokens.len().saturating_sub(1) / length;
        if count < needed.max(1) {
            return Err(DistilError::TooShort {
                what,
                needed: needed.max(1) * length + 1,
                found: tokens.len(),
            });
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
            return Err(DistilError::Token {
                what,
                token: *token,
                vocab,
            });
        }
        Ok(Sequences { tokens, length })
    }

    pub(super) fn count(&self) -> usize {
        (self.tokens.len() - 1) / self.length
    }

    /// The sequences of these numbers.
    pub(super) fn batch(&self, numbers: Vec<usize>) -> Batch {
        let piece = |shift: usize| {
            let starts = numbers.iter().map(|number| number * self.length + shift);
            let pieces = starts.map(|start| &self.tokens[start..start + self.length]);
            pieces.flatten().copied().collect()
        };
        Batch {
            ids: piece(0),
            targets: piece(1),
            numbers,
        }
    }

    /// Numbers of the `size` sequences of the batch `index` of a whole run.
    pub(super) fn numbers(&self, index: usize, size: usize, seed: u64) -> Vec<usize> {
        order_of(self.count(), index, size, seed)
    }
}

/// Numbers of the `size` of `count` things that are the batch `index` of a whole run.
pub(super) fn order_of(count: usize, index: usize, size: usize, seed: u64) -> Vec<usize> {
    (index * size..(index + 1) * size)
        .map(|position| shuffled(position % count, count, seed, (position / count) as u64))
        .collect()
}

/// Where `position` goes in a random order of `count`: a permutation computed element by element.
///
/// A Feistel network over the next power of four, walked until it lands inside (Black and Rogaway 2002), so that no list of the
/// order has to be kept or restored.
fn shuffled(position: usize, count: usize, seed: u64, epoch: u64) -> usize {
    let half_bits = (usize::BITS - count.leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half_bits) - 1;
    let mut value = position as u64;
    loop {
        let (mut left, mut right) = (value >> half_bits, value & mask);
        for round in 0..6 {
            let key = seed ^ mixed(epoch.wrapping_mul(0x9e37_79b9).wrapping_add(round));
            (left, right) = (right, left ^ (mixed(right ^ key) & mask));
        }
        value = left << half_bits | right;
        if (value as usize) < count {
            return value as usize;
        }
    }
}

/// The finaliser of splitmix64 (Steele et al. 2014).
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sequences_overlap_by_the_token_that_is_only_a_target() {
        let texts = [(0..5).collect(), (5..10).collect()];
        let sequences = Sequences::cut(&texts, 3, 10, ("train", 1)).unwrap();
        assert_eq!(sequences.count(), 3);
        let batch = sequences.batch(vec![2, 0]);
        assert_eq!(batch.ids, [6, 7, 8, 0, 1, 2]);
        assert_eq!(batch.targets, [7, 8, 9, 1, 2, 3]);
    }

    #[test]
    fn short_texts_and_foreign_tokens_are_errors() {
        let error = Sequences::cut(&[vec![1, 2, 3]], 2, 10, ("held-out", 2)).unwrap_err();
        let words = "held-out text: expected at least 5 tokens, found 3";
        assert_eq!(error.to_string(), words);
        let error = Sequences::cut(&[vec![1, 12, 3]], 2, 10, ("train", 1)).unwrap_err();
        assert!(error.to_string().contains("token 12"), "{error}");
    }

    #[test]
    fn every_epoch_visits_everything_once_in_an_order_of_its_own() {
        let tokens = (0..7 * 2 + 1).map(|token| token % 5).collect();
        let sequences = Sequences::cut(&[tokens], 2, 10, ("train", 1)).unwrap();
        assert_eq!(sequences.count(), 7);
        // Three batches of seven sequences, cut otherwise than the epochs.
        let all: Vec<usize> = (0..7).flat_map(|i| sequences.numbers(i, 3, 11)).collect();
        let epochs: Vec<&[usize]> = all.chunks(7).collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 7, "{epoch:?}");
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_ne!(
            all,
            (0..7)
                .flat_map(|i| sequences.numbers(i, 3, 12))
                .collect::<Vec<_>>()
        );
    }
}
