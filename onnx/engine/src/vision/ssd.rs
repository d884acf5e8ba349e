//! From a detector's raw boxes and scores to a short list: threshold, non-maximum suppression per class, limits.
//!
//! The graph ends before suppression, because loops in a graph are slow and a vehicle wants its own threshold. Everything that
//! comes out of the graph is treated as hostile: NaN scores and boxes are dropped and counted, not compared.

/// Which detections to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// Lowest score, in (0, 1].
    pub min_score: f32,
    /// Boxes of one class that overlap more than this (intersection over union) are one object.
    pub max_overlap: f32,
    /// Candidates of one class that are looked at, best first.
    pub per_class: usize,
    /// Detections in all, best first.
    pub total: usize,
}

impl Default for Selection {
    fn default() -> Self {
        // Threshold of the reference script; overlap and limits of the model's own post-processing configuration.
        Selection {
            min_score: 0.4,
            max_overlap: 0.6,
            per_class: 100,
            total: 100,
        }
    }
}

/// One box that was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Column of the score, 1..classes.
    pub class: u32,
    /// Score in (0, 1].
    pub score: f32,
    /// x0, y0, x1, y1 as fractions of the input; x0 <= x1 and y0 <= y1. May reach outside 0..=1.
    pub bbox: [f32; 4],
}

/// What [`select`] kept and what it had to drop.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selected {
    /// Best first.
    pub items: Vec<Candidate>,
    /// Scores that were NaN, and scores above the threshold whose box was NaN, infinite or inside out.
    pub dropped: usize,
}

/// Selects detections.
///
/// `boxes` is `[n, 4]` as ymin, xmin, ymax, xmax; `scores` is `[n, classes]` with the background in column 0. Lengths that do not
/// match are cut to the shorter.
#[must_use]
pub fn select(boxes: &[f32], scores: &[f32], classes: usize, selection: &Selection) -> Selected {
    let mut selected = Selected::default();
    if classes < 2 {
        return selected;
    }
    let mut candidates: Vec<Candidate> = Vec::new();
    for (corners, row) in boxes
        .as_chunks::<4>()
        .0
        .iter()
        .zip(scores.chunks_exact(classes))
    {
        for (class, score) in row.iter().enumerate().skip(1 /* background */) {
            if *score < selection.min_score {
                continue;
            }
            // NaN is not below the threshold either.
            match sound_box(corners).filter(|_| !score.is_nan()) {
                Some(bbox) => candidates.push(Candidate {
                    class: class as u32,
                    score: *score,
                    bbox,
                }),
                None => selected.dropped += 1,
            }
        }
    }
    // By class, best first; stable, so equal scores keep the order of the boxes.
    candidates.sort_by(|a, b| a.class.cmp(&b.class).then(b.score.total_cmp(&a.score)));
    for group in candidates.chunk_by(|a, b| a.class == b.class) {
        suppress(group, selection, &mut selected.items);
    }
    selected.items.sort_by(|a, b| b.score.total_cmp(&a.score));
    selected.items.truncate(selection.total);
    selected
}

/// Intersection over union of two boxes (x0, y0, x1, y1), 0 when they do not touch or have no area.
#[must_use]
pub fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let area = |c: [f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let shared = width * height;
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

/// Greedy non-maximum suppression of one class, best first.
fn suppress(group: &[Candidate], selection: &Selection, kept: &mut Vec<Candidate>) {
    let first = kept.len();
    for candidate in group.iter().take(selection.per_class) {
        let repeated = kept[first..]
            .iter()
            .any(|other| overlap(other.bbox, candidate.bbox) >= selection.max_overlap);
        if !repeated {
            kept.push(*candidate);
        }
    }
}

fn sound_box(corners: &[f32; 4]) -> Option<[f32; 4]> {
    let [y0, x0, y1, x1] = *corners;
    // Comparisons with NaN are false, and an infinite width is as useless as a negative one.
    (x0 <= x1 && y0 <= y1 && (x1 - x0).is_finite() && (y1 - y0).is_finite())
        .then_some([x0, y0, x1, y1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box and its scores for two classes.
    type Row = ([f32; 4], [f32; 2]);

    /// Rows, (class, score) of what is kept, why.
    type Case<'a> = (&'a [Row], Vec<(u32, f32)>, &'a str);

    /// ymin, xmin, ymax, xmax of a box of side 0.2 at (x, y).
    fn square(x: f32, y: f32) -> [f32; 4] {
        [y, x, y + 0.2, x + 0.2]
    }

    fn run(rows: &[Row], selection: &Selection) -> Vec<(u32, f32)> {
        let boxes: Vec<f32> = rows.iter().flat_map(|(corners, _)| *corners).collect();
        let scores: Vec<f32> = rows
            .iter()
            .flat_map(|(_, [a, b])| [0.99 /* background */, *a, *b])
            .collect();
        select(&boxes, &scores, 3, selection)
            .items
            .iter()
            .map(|item| (item.class, item.score))
            .collect()
    }

    #[test]
    #[rustfmt::skip] // one case a line
    fn table() {
        let default = Selection::default();
        let near = square(0.11, 0.1);
        let cases: [Case<'_>; 8] = [
            (&[], vec![], "no boxes"),
            (&[(square(0.1, 0.1), [0.39, 0.1])], vec![], "the background's score does not count, 0.39 is too low"),
            (&[(square(0.1, 0.1), [0.4, 0.1])], vec![(1, 0.4)], "the threshold itself is enough"),
            (&[(square(0.1, 0.1), [0.5, 0.0]), (near, [0.9, 0.0])], vec![(1, 0.9)], "the better of two overlapping ones"),
            (&[(square(0.1, 0.1), [0.5, 0.0]), (near, [0.0, 0.9])], vec![(2, 0.9), (1, 0.5)], "classes do not suppress each other"),
            (&[(square(0.1, 0.1), [0.5, 0.7])], vec![(2, 0.7), (1, 0.5)], "one box may be two classes, as in the reference"),
            (&[(square(0.1, 0.1), [0.5, 0.0]), (square(0.6, 0.1), [0.9, 0.0])], vec![(1, 0.9), (1, 0.5)], "two objects"),
            (&[([0.1, 0.1, 0.1, 0.1], [0.5, 0.0]), ([0.1, 0.1, 0.1, 0.1], [0.6, 0.0])], vec![(1, 0.6), (1, 0.5)], "points have no overlap"),
        ];
        for (rows, expected, why) in cases {
            assert_eq!(run(rows, &default), expected, "{why}");
        }
    }

    #[test]
    fn nan_infinite_and_inside_out_boxes_are_dropped_and_counted() {
        let bad = [
            [f32::NAN, 0.1, 0.2, 0.2],
            [0.1, f32::NEG_INFINITY, 0.2, 0.2],
            [0.1, 0.1, f32::INFINITY, 0.2],
            [0.3, 0.1, 0.2, 0.2],
            [0.1, f32::INFINITY, 0.2, f32::INFINITY],
        ];
        let boxes: Vec<f32> = bad
            .iter()
            .chain([&square(0.1, 0.1), &square(0.5, 0.5)])
            .flatten()
            .copied()
            .collect();
        let scores = [
            [0.0, 0.9],
            [0.0, 0.9],
            [0.0, 0.9],
            [0.0, 0.9],
            [0.0, 0.9],
            [0.0, f32::NAN],
            [0.0, 0.8],
        ]
        .concat();
        let found = select(&boxes, &scores, 2, &Selection::default());
        assert_eq!(
            (found.items.len(), found.items[0].score, found.dropped),
            (1, 0.8, 6),
            "{found:?}"
        );
        let bbox = found.items[0].bbox;
        assert!(
            bbox.iter()
                .zip([0.5, 0.5, 0.7, 0.7])
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{bbox:?}"
        );
    }

    #[test]
    fn limits() {
        let rows: Vec<Row> = (0..50)
            .map(|i| (square(i as f32, 0.0), [0.5 + i as f32 * 0.001, 0.6]))
            .collect();
        assert_eq!(
            run(
                &rows,
                &Selection {
                    per_class: 3,
                    ..Selection::default()
                }
            )
            .len(),
            6
        );
        let few = run(
            &rows,
            &Selection {
                total: 2,
                ..Selection::default()
            },
        );
        assert_eq!(few, [(2, 0.6), (2, 0.6)]);
        assert!(
            run(
                &rows,
                &Selection {
                    total: 0,
                    ..Selection::default()
                }
            )
            .is_empty()
        );
    }

    #[test]
    fn overlap_is_intersection_over_union() {
        let cases = [
            ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], 1.0),
            ([0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.5, 1.0], 1.0 / 3.0),
            ([0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0], 0.0),
            ([0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.75, 0.75], 0.25),
            ([0.0; 4], [0.0; 4], 0.0),
        ];
        for (a, b, expected) in cases {
            assert!(
                (overlap(a, b) - expected).abs() < 1e-6 && overlap(a, b) == overlap(b, a),
                "{a:?} {b:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_numbers_panic_and_what_is_kept_is_sound(bits in proptest::collection::vec(proptest::num::u32::ANY, 0..140), classes in 0usize..5) {
            let floats: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
            let (boxes, scores) = floats.split_at(floats.len() / 2);
            let found = select(boxes, scores, classes, &Selection::default());
            for item in &found.items {
                proptest::prop_assert!(item.score >= 0.4 && item.class >= 1 && (item.class as usize) < classes);
                proptest::prop_assert!(item.bbox[0] <= item.bbox[2] && item.bbox[1] <= item.bbox[3]);
            }
            proptest::prop_assert!(found.items.is_sorted_by(|a, b| a.score >= b.score));
        }
    }
}
