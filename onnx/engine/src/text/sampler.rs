//! Choosing a token from scores: the best one, or a random one among the likely.
//!
//! Broken scores do not break the choice: NaN and minus infinity are never chosen, and if nothing else is left the caller
//! gets an error instead of token 0.

use toktrie::SimpleVob;

use crate::error::{EngineError, Result};

/// Scores compared at once: two vectors of the widest registers.
const LANES: usize = 32;

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The token with the highest score; of equals the one with the lowest id.
    Greedy,
    /// A random token, repeatable by its seed.
    Sample {
        /// Divides the scores, 0 < t ≤ 100; small values make likely tokens likelier.
        temperature: f32,
        /// Only this many of the best tokens; 0 for all.
        top_k: usize,
        /// Only the best tokens that together reach this probability, 0 < p ≤ 1.
        top_p: f32,
        /// Start of the random numbers.
        seed: u64,
    },
}

impl Sampling {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |field, expected: &str, found: f32| {
            Err(EngineError::Request {
                field,
                expected: expected.to_owned(),
                found: found.to_string(),
            })
        };
        match *self {
            Self::Greedy => Ok(()),
            Self::Sample { temperature, .. } if !(temperature > 0.0 && temperature <= 100.0) => {
                wrong("sampling.temperature", "above 0, at most 100", temperature)
            }
            Self::Sample { top_p, .. } if !(top_p > 0.0 && top_p <= 1.0) => {
                wrong("sampling.top_p", "above 0, at most 1", top_p)
            }
            Self::Sample { .. } => Ok(()),
        }
    }
}

/// The state of a choice: its random numbers and a buffer that is reused.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::Sample { seed, .. } => seed,
        };
        Self {
            sampling,
            random: SplitMix64(seed),
            candidates: Vec::new(),
        }
    }

    /// The token it would choose if all were allowed, when that can be said without a draw.
    pub(crate) fn favourite(&self, scores: &[f32]) -> Option<u32> {
        match self.sampling {
            Sampling::Greedy => best_of_all(scores),
            Sampling::Sample { .. } => None,
        }
    }

    /// A token, if any has a finite score and is allowed.
    pub(crate) fn choose(&mut self, scores: &[f32], allowed: Option<&SimpleVob>) -> Option<u32> {
        match self.sampling {
            Sampling::Greedy => best(scores, allowed),
            Sampling::Sample {
                temperature,
                top_k,
                top_p,
                ..
            } => self.draw(scores, allowed, temperature, top_k, top_p),
        }
    }

    fn draw(
        &mut self,
        scores: &[f32],
        allowed: Option<&SimpleVob>,
        temperature: f32,
        top_k: usize,
        top_p: f32,
    ) -> Option<u32> {
        let candidates = &mut self.candidates;
        candidates.clear();
        each(scores, allowed, |token, score| {
            candidates.push((score, token))
        });
        if candidates.is_empty() {
            return None;
        }
        let best_first = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, best_first);
            candidates.truncate(top_k);
        }
        // Sorted even without top_p, so that the same seed gives the same token however the candidates were found.
        candidates.sort_unstable_by(best_first);
        let top = f64::from(candidates[0].0);
        let weight = |score: f32| ((f64::from(score) - top) / f64::from(temperature)).exp();
        let total: f64 = candidates.iter().map(|(score, _)| weight(*score)).sum();
        let mut kept = 0.0;
        let mut count = 0;
        for (score, _) in candidates.iter() {
            kept += weight(*score);
            count += 1;
            if kept >= f64::from(top_p) * total {
                break;
            }
        }
        let mut point = self.random.unit() * kept;
        for (score, token) in &candidates[..count] {
            point -= weight(*score);
            if point < 0.0 {
                return Some(*token);
            }
        }
        // Rounding can leave a rest of the last weight.
        Some(candidates[count - 1].1)
    }
}

fn best(scores: &[f32], allowed: Option<&SimpleVob>) -> Option<u32> {
    if allowed.is_none() {
        return best_of_all(scores);
    }
    let mut best: Option<(f32, u32)> = None;
    each(scores, allowed, |token, score| {
        if best.is_none_or(|(top, _)| score > top) {
            best = Some((score, token));
        }
    });
    best.map(|(_, token)| token)
}

/// The same over the whole vocabulary, which is what a free answer does for every token: first the highest score in several
/// lanes at once, then who has it.
fn best_of_all(scores: &[f32]) -> Option<u32> {
    let higher = |top: f32, score: f32| if score > top { score } else { top };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, *score);
        }
    }
    let top = lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |top, score| higher(top, *score));
    // Plus infinity counts as the largest finite number; NaN is not at least anything.
    let token = scores
        .iter()
        .position(|score| *score >= top.min(f32::MAX))?;
    (top > f32::NEG_INFINITY).then_some(token as u32)
}

/// Calls `visit` with every allowed token whose score is a number that can be chosen, in order of ids. Plus infinity
/// counts as the largest finite number, so that differences stay numbers.
fn each(scores: &[f32], allowed: Option<&SimpleVob>, mut visit: impl FnMut(u32, f32)) {
    let mut take = |token: usize| {
        let score = scores[token];
        if score > f32::NEG_INFINITY {
            visit(token as u32, score.min(f32::MAX));
        }
    };
    match allowed {
        None => (0..scores.len()).for_each(take),
        Some(allowed) => allowed.iter_set_entries(|token| {
            if token < scores.len() {
                take(token);
            }
        }),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix per number; plenty for choosing among tokens.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in 0..1 with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(vocab: usize, tokens: &[u32]) -> SimpleVob {
        let mut allowed = SimpleVob::alloc(vocab);
        tokens.iter().for_each(|token| allowed.allow_token(*token));
        allowed
    }

    fn sample(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling::Sample {
            temperature,
            top_k,
            top_p,
            seed,
        })
    }

    #[test]
    fn greedy_takes_the_best_number() {
        let cases: [(&str, &[f32], Option<u32>); 6] = [
            ("plain", &[0.0, 2.0, 1.0], Some(1)),
            ("equals: lowest id", &[1.0, 1.0], Some(0)),
            ("NaN is never best", &[f32::NAN, -5.0, f32::NAN], Some(1)),
            ("infinity", &[0.0, f32::INFINITY], Some(1)),
            ("nothing finite", &[f32::NAN, f32::NEG_INFINITY], None),
            ("no scores", &[], None),
        ];
        for (why, scores, expected) in cases {
            assert_eq!(
                Sampler::new(Sampling::Greedy).choose(scores, None),
                expected,
                "{why}"
            );
            assert_eq!(
                sample(1.0, 1, 1.0, 7).choose(scores, None),
                expected,
                "top_k 1, {why}"
            );
        }
    }

    #[test]
    fn the_best_of_many_is_the_first_of_the_best() {
        for place in [0, 5, LANES - 1, LANES, 70, 99] {
            let mut scores: Vec<f32> = (0..100).map(|i| (i % 9) as f32 - 20.0).collect();
            scores[3] = f32::NAN;
            scores[place] = 7.0;
            scores[99] = 7.0;
            assert_eq!(best_of_all(&scores), Some(place as u32));
            let all = only(100, &(0..100).collect::<Vec<_>>());
            assert_eq!(
                best(&scores, Some(&all)),
                Some(place as u32),
                "under a grammar too"
            );
            scores[98] = f32::INFINITY;
            assert_eq!(best_of_all(&scores), Some(98));
        }
    }

    #[test]
    fn what_is_not_allowed_is_not_chosen() {
        let allowed = only(4, &[0, 2]);
        assert_eq!(
            Sampler::new(Sampling::Greedy).choose(&[0.0, 9.0, 1.0, 9.0], Some(&allowed)),
            Some(2)
        );
        assert_eq!(
            Sampler::new(Sampling::Greedy).choose(&[1.0], Some(&only(4, &[3]))),
            None
        );
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens_and_another_seed_others() {
        let scores: Vec<f32> = (0..100).map(|i| (i % 7) as f32 * 0.1).collect();
        let draw = |seed| {
            let mut sampler = sample(1.0, 0, 1.0, seed);
            (0..20)
                .map(|_| sampler.choose(&scores, None).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        // ln 3, ln 1: three to one
        let scores = [3.0_f32.ln(), 0.0];
        let mut sampler = sample(1.0, 0, 1.0, 42);
        let first = (0..4_000)
            .filter(|_| sampler.choose(&scores, None) == Some(0))
            .count();
        assert!(
            (2_880..=3_120).contains(&first),
            "expected about 3000, found {first}"
        );
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let scores = [4.0, 3.0, 0.0, -1.0];
        let drawn = |mut sampler: Sampler| {
            (0..500)
                .map(|_| sampler.choose(&scores, None).unwrap())
                .max()
        };
        assert_eq!(drawn(sample(5.0, 2, 1.0, 3)), Some(1), "two best");
        assert_eq!(
            drawn(sample(1.0, 0, 0.5, 3)),
            Some(0),
            "one token has more than half"
        );
        assert_eq!(drawn(sample(100.0, 0, 1.0, 3)), Some(3), "all");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (temperature, top_p) in [
            (0.0, 1.0),
            (f32::NAN, 1.0),
            (-1.0, 1.0),
            (101.0, 1.0),
            (1.0, 0.0),
            (1.0, 1.1),
            (1.0, f32::NAN),
        ] {
            let error = Sampling::Sample {
                temperature,
                top_k: 0,
                top_p,
                seed: 0,
            }
            .check()
            .unwrap_err();
            assert!(matches!(error, EngineError::Request { .. }), "{error}");
        }
    }
}
