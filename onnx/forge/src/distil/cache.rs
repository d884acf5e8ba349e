//! The teacher's best tokens of each position, for texts that are seen more than once.
//!
//! A few dozen tokens hold nearly all of a language model's probability; what is left is shared equally by all others, so that
//! what comes back is a distribution again.

use std::collections::BTreeMap;

/// Most positions that are kept: 64 tokens of each take 2 GiB.
const MAX_POSITIONS: usize = 4 << 20;

/// Best tokens by sequence.
#[derive(Debug, Default)]
pub(super) struct TopCache {
    top: usize,
    positions: usize,
    sequences: BTreeMap<usize, Vec<Entry>>,
}

/// Best tokens of one position, and the logarithm of the share of each other token.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    best: Vec<(u32, f32)>,
    rest: f32,
}

impl TopCache {
    pub(super) fn new(top: usize) -> TopCache {
        TopCache {
            top,
            ..TopCache::default()
        }
    }

    /// Whether all positions of a sequence of `length` are there.
    pub(super) fn has(&self, sequence: usize, length: usize) -> bool {
        let entries = self.sequences.get(&sequence);
        entries.is_some_and(|entries| entries.len() == length)
    }

    /// Keeps what the teacher says at the next position of a sequence.
    pub(super) fn keep(&mut self, sequence: usize, logits: &[f32]) {
        if self.top == 0 || self.positions >= MAX_POSITIONS {
            return;
        }
        self.positions += 1;
        let entry = Entry::of(logits, self.top);
        self.sequences.entry(sequence).or_default().push(entry);
    }

    /// Forgets a sequence, before it is kept anew.
    pub(super) fn forget(&mut self, sequence: usize) {
        if let Some(entries) = self.sequences.remove(&sequence) {
            self.positions -= entries.len();
        }
    }

    /// Writes the log probabilities of one position.
    pub(super) fn restore(&self, sequence: usize, position: usize, logits: &mut [f32]) {
        let entries = self.sequences.get(&sequence);
        if let Some(entry) = entries.and_then(|entries| entries.get(position)) {
            logits.fill(entry.rest);
            for (token, value) in &entry.best {
                logits[*token as usize] = *value;
            }
        }
    }
}

impl Entry {
    fn of(logits: &[f32], top: usize) -> Entry {
        let top = top.min(logits.len());
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]);
        if top < order.len() {
            order.select_nth_unstable_by(top, better);
        }
        order.truncate(top);
        order.sort_unstable();
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
        let total = f64::from(most) + sum.ln();
        let best: Vec<(u32, f32)> = order
            .iter()
            .map(|token| (*token, (f64::from(logits[*token as usize]) - total) as f32))
            .collect();
        let taken: f64 = best.iter().map(|(_, value)| f64::from(*value).exp()).sum();
        let others = (logits.len() - best.len()).max(1) as f64;
        // Rounding may leave nothing; no token is impossible.
        let rest = ((1.0 - taken).max(1e-9) / others).ln() as f32;
        Entry { best, rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_a_distribution_with_the_best_tokens_as_they_were() {
        let logits = [0.0_f32, 3.0, -1.0, 2.0, 0.5];
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        let mut cache = TopCache::new(2);
        assert!(!cache.has(7, 1));
        cache.keep(7, &logits);
        assert!(cache.has(7, 1) && !cache.has(7, 2));
        let mut back = [0.0; 5];
        cache.restore(7, 0, &mut back);
        for token in [1, 3] {
            assert!((back[token].exp() - logits[token].exp() / total).abs() < 1e-6);
        }
        assert!((back.iter().map(|x| x.exp()).sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!(back[0], back[2]);
        cache.forget(7);
        assert!(!cache.has(7, 1));
    }

    #[test]
    fn all_tokens_may_be_best() {
        let mut cache = TopCache::new(9);
        cache.keep(0, &[1.0, 2.0]);
        let mut back = [0.0; 2];
        cache.restore(0, 0, &mut back);
        assert!((back[1] - back[0] - 1.0).abs() < 1e-6, "{back:?}");
    }
}
