//! How far a smaller model says the same as the original, on inputs that calibration did not see.
//!
//! No labels are needed: the original's answers are the truth. For detectors the measure is that of detection challenges, average
//! precision per class at an overlap of one half (M. Everingham et al., "The PASCAL Visual Object Classes Challenge: A
//! Retrospective", 2015, section 4.1, all points). For encoders it is the angle between the two vectors of a sentence, and whether the
//! sentence keeps its neighbours, which is what vectors are used for.

use std::collections::BTreeMap;

use llmasos_engine::vision::{Detection, overlap};
use serde::{Deserialize, Serialize};

use super::StaticError;

/// Overlap (intersection over union) from which two boxes are the same object, as in the challenge.
pub const SAME_OBJECT: f32 = 0.5;
/// Neighbours that are looked at.
const NEIGHBOURS: usize = 10;
/// Most sentences: every pair is compared.
const MAX_SENTENCES: usize = 20_000;

/// One class of a detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassAgreement {
    /// Its label.
    pub label: String,
    /// Objects that the original sees.
    pub expected: usize,
    /// Objects that the other one sees.
    pub found: usize,
    /// Of these, the ones that the original sees too.
    pub matched: usize,
    /// Area under the curve of precision over recall, 0 to 1.
    pub average_precision: f64,
}

/// Two detectors over the same pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectorAgreement {
    /// Pictures compared.
    pub pictures: usize,
    /// Classes of which the original sees an object.
    pub classes: Vec<ClassAgreement>,
    /// Mean of their average precisions, 0 to 1; 1 if the original sees nothing at all.
    pub mean_average_precision: f64,
    /// Part of the original's objects that are found, 0 to 1.
    pub recall: f64,
    /// Part of what is found that the original sees, of any class, 0 to 1.
    pub precision: f64,
    /// Mean overlap of the objects that both see, 0 to 1.
    pub mean_overlap: f64,
    /// Mean distance of their scores.
    pub mean_score_distance: f64,
}

/// Compares detections, picture by picture; `expected` are the original's.
///
/// # Errors
/// [`StaticError::Mismatch`] for another number of pictures.
pub fn detector_agreement(
    expected: &[Vec<Detection>],
    found: &[Vec<Detection>],
) -> Result<DetectorAgreement, StaticError> {
    check_counts("pictures", expected.len(), found.len())?;
    let mut labels: BTreeMap<u32, &str> = BTreeMap::new();
    for detection in expected.iter().chain(found).flatten() {
        labels.insert(detection.label_id, detection.label);
    }
    let mut classes = Vec::new();
    let mut pairs = Vec::new();
    for (id, label) in labels {
        let outcomes = matches(id, expected, found);
        let objects =
            |side: &[Vec<Detection>]| side.iter().flatten().filter(|it| it.label_id == id).count();
        let expected = objects(expected);
        if expected == 0 {
            continue;
        }
        let hits: Vec<bool> = outcomes.iter().map(Option::is_some).collect();
        classes.push(ClassAgreement {
            label: label.to_string(),
            expected,
            found: hits.len(),
            matched: hits.iter().filter(|hit| **hit).count(),
            average_precision: average_precision(&hits, expected),
        });
        pairs.extend(outcomes.into_iter().flatten());
    }
    let all = |side: &[Vec<Detection>]| side.iter().map(Vec::len).sum::<usize>();
    Ok(DetectorAgreement {
        pictures: expected.len(),
        mean_average_precision: mean(classes.iter().map(|it| it.average_precision), 1.0),
        recall: part(pairs.len(), all(expected)),
        precision: part(pairs.len(), all(found)),
        mean_overlap: mean(pairs.iter().map(|pair| pair.overlap), 1.0),
        mean_score_distance: mean(pairs.iter().map(|pair| pair.score_distance), 0.0),
        classes,
    })
}

/// An object that both see.
struct Pair {
    overlap: f64,
    score_distance: f64,
}

/// The found objects of a class, best score first: each with the original's object that it stands for. Each of the original's objects
/// counts once.
fn matches(id: u32, expected: &[Vec<Detection>], found: &[Vec<Detection>]) -> Vec<Option<Pair>> {
    let mut order: Vec<(usize, &Detection)> = Vec::new();
    for (picture, detections) in found.iter().enumerate() {
        order.extend(detections.iter().map(|detection| (picture, detection)));
    }
    order.retain(|(_, detection)| detection.label_id == id);
    order.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
    let mut is_taken: Vec<Vec<bool>> = expected.iter().map(|it| vec![false; it.len()]).collect();
    let pair = |(picture, detection): (usize, &Detection)| {
        let best = expected[picture]
            .iter()
            .enumerate()
            .filter(|(_, other)| other.label_id == id)
            .map(|(at, other)| (overlap(other.bbox, detection.bbox), at))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
        let (overlap, at) = best;
        if overlap < SAME_OBJECT || std::mem::replace(&mut is_taken[picture][at], true) {
            return None;
        }
        let score = expected[picture][at].score;
        Some(Pair {
            overlap: f64::from(overlap),
            score_distance: f64::from((score - detection.score).abs()),
        })
    };
    order.into_iter().map(pair).collect()
}

/// Area under precision over recall, where the precision at a recall is the best at that recall or a higher one.
fn average_precision(hits: &[bool], expected: usize) -> f64 {
    let mut precisions = Vec::new();
    let mut matched = 0;
    for (at, hit) in hits.iter().enumerate() {
        matched += usize::from(*hit);
        precisions.push(part(matched, at + 1));
    }
    let mut best = 0.0_f64;
    let mut area = 0.0;
    for (hit, precision) in hits.iter().zip(&precisions).rev() {
        best = best.max(*precision);
        if *hit {
            area += best / expected as f64;
        }
    }
    area
}

/// Two encoders over the same sentences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderAgreement {
    /// Sentences compared.
    pub sentences: usize,
    /// Mean cosine of the two vectors of a sentence.
    pub mean_cosine: f64,
    /// The least of these.
    pub min_cosine: f64,
    /// Part of the sentences whose nearest neighbour is the same, 0 to 1.
    pub same_nearest: f64,
    /// Part of the ten nearest neighbours that are the same, 0 to 1.
    pub same_neighbours: f64,
    /// Spearman's correlation of the order in which all other sentences follow, mean over the sentences, −1 to 1.
    pub rank_correlation: f64,
}

/// Compares vectors, sentence by sentence; `expected` are the original's.
///
/// # Errors
/// [`StaticError::Mismatch`] for another number of sentences or another width, fewer than three sentences or too many.
pub fn encoder_agreement(
    expected: &[Vec<f32>],
    found: &[Vec<f32>],
) -> Result<EncoderAgreement, StaticError> {
    check_counts("sentences", expected.len(), found.len())?;
    if !(3..=MAX_SENTENCES).contains(&expected.len()) {
        return Err(StaticError::Mismatch {
            what: "sentences",
            expected: format!("3 to {MAX_SENTENCES}"),
            found: expected.len().to_string(),
        });
    }
    let width = expected[0].len();
    for vector in expected.iter().chain(found) {
        check_counts("numbers of a vector", width, vector.len())?;
    }
    let cosines: Vec<f64> = expected
        .iter()
        .zip(found)
        .map(|(a, b)| cosine(a, b))
        .collect();
    let (mut nearest, mut neighbours, mut correlations) = (0, 0, Vec::new());
    let looked_at = NEIGHBOURS.min(expected.len() - 1);
    for sentence in 0..expected.len() {
        let [before, after] = [expected, found].map(|vectors| others(vectors, sentence));
        let [first, second] = [&before, &after].map(|it| order(it));
        nearest += usize::from(first[0] == second[0]);
        let near = &second[..looked_at];
        neighbours += first[..looked_at]
            .iter()
            .filter(|it| near.contains(it))
            .count();
        correlations.push(pearson(&ranks(&before), &ranks(&after)));
    }
    Ok(EncoderAgreement {
        sentences: expected.len(),
        mean_cosine: mean(cosines.iter().copied(), 1.0),
        min_cosine: cosines.iter().copied().fold(1.0, f64::min),
        same_nearest: part(nearest, expected.len()),
        same_neighbours: part(neighbours, expected.len() * looked_at),
        rank_correlation: mean(correlations.into_iter(), 1.0),
    })
}

/// Cosines of a sentence with all others, in their order.
fn others(vectors: &[Vec<f32>], sentence: usize) -> Vec<f64> {
    let all = vectors.iter().enumerate().filter(|(at, _)| *at != sentence);
    all.map(|(_, other)| cosine(&vectors[sentence], other))
        .collect()
}

/// Positions, the greatest number first.
fn order(numbers: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*b].total_cmp(&numbers[*a]).then(a.cmp(b)));
    order
}

/// Rank of each number; equal ones share the mean of theirs.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let order = order(numbers);
    let mut ranks = vec![0.0; numbers.len()];
    let mut first = 0;
    for group in order.chunk_by(|a, b| numbers[*a] == numbers[*b]) {
        let rank = first as f64 + (group.len() - 1) as f64 / 2.0;
        group.iter().for_each(|at| ranks[*at] = rank);
        first += group.len();
    }
    ranks
}

/// Correlation; 1 where one side does not vary and the other neither.
fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a.iter().copied(), 0.0), mean(b.iter().copied(), 0.0));
    let (mut both, mut own_a, mut own_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        both += (a - mean_a) * (b - mean_b);
        own_a += (a - mean_a).powi(2);
        own_b += (b - mean_b).powi(2);
    }
    if own_a == 0.0 && own_b == 0.0 {
        return 1.0;
    }
    both / (own_a * own_b).sqrt().max(f64::MIN_POSITIVE)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let length = (dot(a, a) * dot(b, b)).sqrt();
    if length > 0.0 {
        dot(a, b) / length
    } else {
        0.0
    }
}

fn part(some: usize, all: usize) -> f64 {
    if all == 0 {
        1.0
    } else {
        some as f64 / all as f64
    }
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>, of_none: f64) -> f64 {
    let count = numbers.len();
    if count == 0 {
        return of_none;
    }
    numbers.sum::<f64>() / count as f64
}

fn check_counts(what: &'static str, expected: usize, found: usize) -> Result<(), StaticError> {
    if expected != found {
        return Err(StaticError::Mismatch {
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A square of side 10 at (x, 0).
    fn object(label_id: u32, score: f32, x: f32) -> Detection {
        Detection {
            label_id,
            label: if label_id == 1 { "person" } else { "car" },
            score,
            bbox: [x, 0.0, x + 10.0, 10.0],
        }
    }

    /// Precision and recall at every threshold, and the area by its definition: the sum over recalls of the step times the best
    /// precision at this recall or a higher one.
    fn by_definition(hits: &[bool], expected: usize) -> f64 {
        let at = |count: usize| {
            let matched = hits[..count].iter().filter(|hit| **hit).count() as f64;
            (matched / expected as f64, matched / count as f64)
        };
        let points: Vec<(f64, f64)> = (1..=hits.len()).map(at).collect();
        let mut last = 0.0;
        let mut area = 0.0;
        for (recall, _) in &points {
            let best = points.iter().filter(|it| it.0 >= *recall).map(|it| it.1);
            area += (recall - last) * best.fold(0.0, f64::max);
            last = *recall;
        }
        area
    }

    #[test]
    fn average_precision_is_the_area_by_definition() {
        for bits in 0..256_u32 {
            let hits: Vec<bool> = (0..8).map(|at| bits >> at & 1 == 1).collect();
            let expected = (bits.count_ones() as usize).max(1) + 2;
            let (found, area) = (
                average_precision(&hits, expected),
                by_definition(&hits, expected),
            );
            assert!((found - area).abs() < 1e-12, "{bits:08b}: {found} {area}");
        }
    }

    #[test]
    fn detections() {
        let truth = vec![
            vec![
                object(1, 0.9, 0.0),
                object(1, 0.8, 50.0),
                object(3, 0.7, 0.0),
            ],
            vec![object(1, 0.6, 0.0)],
        ];
        // Found, mean average precision, recall, precision, why.
        let cases = [
            (truth.clone(), 1.0, 1.0, 1.0, "the same"),
            (vec![vec![], vec![]], 0.0, 0.0, 1.0, "nothing found"),
            (
                vec![
                    vec![
                        object(1, 0.9, 4.0),
                        object(1, 0.8, 50.0),
                        object(3, 0.7, 0.0),
                    ],
                    vec![object(1, 0.6, 0.0)],
                ],
                (2.0 / 3.0 * (2.0 / 3.0) + 1.0) / 2.0,
                0.75,
                0.75,
                "the best box has moved too far (overlap 0.43): hits 0 1 1 of 3",
            ),
            (
                vec![
                    vec![
                        object(1, 0.9, 0.0),
                        object(1, 0.85, 1.0),
                        object(1, 0.8, 50.0),
                        object(3, 0.7, 0.0),
                    ],
                    vec![object(1, 0.6, 0.0)],
                ],
                (1.0 / 3.0 + 2.0 / 3.0 * 0.75 + 1.0) / 2.0,
                1.0,
                0.8,
                "an object found twice counts once: hits 1 0 1 1",
            ),
            (
                vec![
                    vec![object(1, 0.9, 0.0), object(1, 0.8, 50.0)],
                    vec![object(1, 0.6, 0.0), object(3, 0.9, 0.0)],
                ],
                0.5,
                0.75,
                0.75,
                "a car in the other picture is another car",
            ),
        ];
        for (found, average, recall, precision, why) in cases {
            let agreement = detector_agreement(&truth, &found).unwrap();
            let numbers = [
                (agreement.mean_average_precision, average),
                (agreement.recall, recall),
                (agreement.precision, precision),
            ];
            for (number, expected) in numbers {
                assert!((number - expected).abs() < 1e-9, "{why}: {agreement:?}");
            }
        }
        assert!(detector_agreement(&truth, &truth[..1]).is_err());
        let nothing = detector_agreement(&[vec![]], &[vec![object(1, 0.9, 0.0)]]).unwrap();
        assert_eq!(
            (nothing.mean_average_precision, nothing.precision),
            (1.0, 0.0)
        );
    }

    #[test]
    fn ranks_of_equal_numbers_are_shared() {
        assert_eq!(ranks(&[0.5, 0.9, 0.5, 0.1]), [1.5, 0.0, 1.5, 3.0]);
        // Without ties Spearman's formula holds: 1 − 6 Σd² / (n (n² − 1)); here d = 1, 1, 0, 2, 2.
        let (a, b) = ([5.0, 4.0, 3.0, 2.0, 1.0], [4.0, 5.0, 3.0, 0.0, 2.0]);
        let distances: f64 = ranks(&a)
            .iter()
            .zip(ranks(&b))
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let expected = 1.0 - 6.0 * distances / (5.0 * 24.0);
        assert!((pearson(&ranks(&a), &ranks(&b)) - expected).abs() < 1e-12);
    }

    #[test]
    fn vectors() {
        let truth: Vec<Vec<f32>> = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9]]
            .map(Vec::from)
            .into();
        let same = encoder_agreement(&truth, &truth).unwrap();
        assert!(
            (same.mean_cosine - 1.0).abs() < 1e-9 && (same.rank_correlation - 1.0).abs() < 1e-9
        );
        assert_eq!((same.same_nearest, same.same_neighbours), (1.0, 1.0));
        let mut turned = truth.clone();
        turned[0] = vec![0.0, 1.0];
        let found = encoder_agreement(&truth, &turned).unwrap();
        assert!((found.min_cosine).abs() < 1e-9 && (found.mean_cosine - 0.75).abs() < 1e-9);
        assert_eq!(
            found.same_nearest, 0.0,
            "sentences 0, 1, 2 and 3 all have another neighbour"
        );
        assert!(encoder_agreement(&truth, &truth[1..]).is_err());
        assert!(encoder_agreement(&truth[..2], &truth[..2]).is_err());
        let narrow = vec![vec![1.0]; 4];
        assert!(encoder_agreement(&truth, &narrow).is_err());
    }
}
