//! Against sums written down naively in 64 bits.

use std::ops::ControlFlow;

use super::*;

/// A model that knows its scores: a pseudo-random function of position, token and word.
pub(super) struct Known {
    pub(super) vocab: usize,
    pub(super) noise: f32,
}

impl Known {
    fn scores(&self, position: usize, token: u32) -> Vec<f32> {
        let score = |word: usize| {
            let base = ((position * 31 + token as usize * 17 + word * 7) % 97) as f32 / 12.0;
            base + self.noise * ((word * 13 + position) % 11) as f32
        };
        (0..self.vocab).map(score).collect()
    }
}

impl Predict for Known {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn predict(
        &mut self,
        _: usize,
        tokens: &[u32],
        from: usize,
        hear: &mut Hear<'_>,
    ) -> Result<(), ForgeError> {
        (from..tokens.len()).try_for_each(|at| hear(at, &self.scores(at, tokens[at])))
    }
}

fn texts() -> Vec<Vec<u32>> {
    let text = |seed: u32| (0..80).map(|at| (at * 5 + seed) % 50).collect();
    vec![text(1), text(2), text(30)]
}

fn judge(reference: &mut dyn Reference, candidate: &mut dyn Predict) -> Evaluation {
    evaluate(reference, candidate, &texts(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

fn softmax(scores: &[f32]) -> Vec<f64> {
    let exps: Vec<f64> = scores.iter().map(|score| f64::from(*score).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|exp| exp / sum).collect()
}

#[test]
fn figures_are_those_of_the_definition() {
    let (original, candidate) = (
        Known {
            vocab: 50,
            noise: 0.0,
        },
        Known {
            vocab: 50,
            noise: 0.05,
        },
    );
    let (mut kl, mut surprise, mut reference_surprise, mut same) = (vec![], 0.0, 0.0, 0);
    for text in texts() {
        for at in UNSCORED..text.len() - 1 {
            let (p, q) = (
                softmax(&original.scores(at, text[at])),
                softmax(&candidate.scores(at, text[at])),
            );
            kl.push(p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>());
            let next = text[at + 1] as usize;
            surprise -= q[next].ln();
            reference_surprise -= p[next].ln();
            let first = |all: &[f64]| {
                let most = all.iter().copied().fold(0.0, f64::max);
                all.iter().position(|one| *one >= most - 1e-12)
            };
            same += usize::from(first(&p) == first(&q));
        }
    }
    let count = kl.len() as f64;
    let mean = kl.iter().sum::<f64>() / count;
    kl.sort_by(f64::total_cmp);
    let found = judge(
        &mut Live(&mut Known {
            vocab: 50,
            noise: 0.0,
        }),
        &mut Known {
            vocab: 50,
            noise: 0.05,
        },
    );
    assert_eq!(
        (found.positions, found.sequences, found.length),
        (45, 3, 80)
    );
    let near = |found: f64, expected: f64, error: f64, what: &str| {
        assert!(
            (found - expected).abs() < error,
            "{what}: {found} {expected}"
        );
    };
    near(found.kl, mean, 1e-5, "mean divergence");
    near(
        found.kl_p99,
        kl[44],
        1e-4,
        "99 % of 45 positions are all but none",
    );
    near(found.kl_max, kl[44], 1e-4, "largest divergence");
    near(
        found.perplexity,
        (surprise / count).exp(),
        1e-4,
        "perplexity",
    );
    let expected = (reference_surprise / count).exp();
    near(
        found.reference_perplexity,
        expected,
        1e-4,
        "perplexity of the original",
    );
    near(
        found.top1,
        f64::from(same as u32) / count,
        1e-9,
        "agreement",
    );
    assert!(
        found.top1 < 1.0 && found.kl > 0.001,
        "the test can fail: {found:?}"
    );
    let alone = perplexity(
        &mut Known {
            vocab: 50,
            noise: 0.05,
        },
        &texts(),
        &mut |_| ControlFlow::Continue(()),
    );
    near(alone.unwrap(), found.perplexity, 1e-9, "a model alone");
}

#[test]
fn a_model_beside_itself_loses_nothing_even_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let mut model = Known {
        vocab: 50,
        noise: 0.02,
    };
    let mut go_on = |_: Progress<'_>| ControlFlow::Continue(());
    let mut recorded = Recorded::write(&mut model, &texts(), &path, &mut go_on).unwrap();
    let found = judge(&mut recorded, &mut model);
    assert_eq!(found.top1, 1.0);
    assert!(
        found.kl < 1e-6 && found.perplexity_increase.abs() < 1e-6,
        "{found:?}"
    );
    let mut other = Known {
        vocab: 50,
        noise: 0.3,
    };
    let live = judge(&mut Live(&mut model), &mut other);
    assert_eq!(
        judge(&mut recorded, &mut other),
        live,
        "the record is the model"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn records_of_other_texts_and_damaged_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let mut model = Known {
        vocab: 50,
        noise: 0.0,
    };
    let mut go_on = |_: Progress<'_>| ControlFlow::Continue(());
    Recorded::write(&mut model, &texts(), &path, &mut go_on).unwrap();
    let mut other = texts();
    other[1][70] = 0;
    let error = Recorded::open(&path, &other).unwrap_err().to_string();
    assert!(error.contains("another text"), "{error}");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, HEADER, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(Recorded::open(&path, &texts()).is_err(), "{length}");
    }
    let stop = Recorded::write(&mut model, &texts(), &path, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stop, Err(ForgeError::Cancelled)));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no part stays"
    );
}

/// Bytes before the first row.
const HEADER: usize = 56;

#[test]
fn what_cannot_be_compared_is_said() {
    let said = |candidate: &mut dyn Predict, texts: &[Vec<u32>]| {
        let mut original = Known {
            vocab: 50,
            noise: 0.0,
        };
        evaluate(&mut Live(&mut original), candidate, texts, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err()
        .to_string()
    };
    let mut good = Known {
        vocab: 50,
        noise: 0.0,
    };
    let cases: [(&[Vec<u32>], &str); 4] = [
        (&[], "sequences: expected 1..=16384, found 0"),
        (
            &[vec![0; 65]],
            "tokens of a sequence: expected 66..=65536, found 65",
        ),
        (&[vec![50; 80]], "token: expected below 50, found 50"),
        (&[vec![0; MAX_LENGTH + 1]], "found 65537"),
    ];
    for (texts, expected) in cases {
        let error = said(&mut good, texts);
        assert!(error.contains(expected), "{error}");
    }
    let error = said(
        &mut Known {
            vocab: 51,
            noise: 0.0,
        },
        &texts(),
    );
    assert!(error.contains("vocabularies of 50 and 51 words"), "{error}");
    let error = said(
        &mut Known {
            vocab: 50,
            noise: f32::NAN,
        },
        &texts(),
    );
    assert!(
        error.contains("sequence 0, position 64: the score of word 0 is NaN"),
        "{error}"
    );
    struct Mute;
    impl Predict for Mute {
        fn vocab(&self) -> usize {
            50
        }
        fn predict(
            &mut self,
            _: usize,
            _: &[u32],
            _: usize,
            _: &mut Hear<'_>,
        ) -> Result<(), ForgeError> {
            Ok(())
        }
    }
    let error = said(&mut Mute, &texts());
    assert!(
        error.contains("expected scores at 15 positions, found 0"),
        "{error}"
    );
}
