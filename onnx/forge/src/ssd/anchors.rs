//! The anchors of an SSD: a fixed grid of boxes that the network's output is relative to.
//!
//! The generator is the one of TensorFlow's detection API for SSD MobileNet ("multiple grid anchors", after Liu et al. 2016,
//! section 2.2): scales rise evenly from 0.2 to 0.95 over the feature maps; each cell has boxes of several aspect ratios at its
//! scale and a square one between its scale and the next; the finest map has only three, the first of them smaller.
//!
//! ```text
//!   map 0:     (0.1, 1)  (s₀, 2)  (s₀, 1/2)
//!   map k > 0: (sₖ, 1)  (sₖ, 2)  (sₖ, 1/2)  (sₖ, 3)  (sₖ, 0.3333)  (√(sₖ·sₖ₊₁), 1)
//!   box (s, a): height s/√a, width s·√a, around the middle of its cell
//! ```

/// Scale of the finest map.
const MIN_SCALE: f64 = 0.2;
/// Scale of the coarsest map.
const MAX_SCALE: f64 = 0.95;
/// Scale after the coarsest map, for its square box in between.
const FINAL_SCALE: f64 = 1.0;
/// Scale of the finest map's square box.
const REDUCED_SCALE: f64 = 0.1;
/// Aspect ratios of the finest map after its square box.
const REDUCED_RATIOS: [f64; 2] = [2.0, 0.5];
/// Aspect ratios of the other maps; 0.3333 is the literal of the published configuration.
const RATIOS: [f64; 5] = [1.0, 2.0, 0.5, 3.0, 0.3333];

/// A box of the grid, in fractions of the image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anchor {
    /// Middle from the top.
    pub center_y: f32,
    /// Middle from the left.
    pub center_x: f32,
    /// Height.
    pub height: f32,
    /// Width.
    pub width: f32,
}

/// All anchors of the feature maps `[rows, columns]`, finest first; within a map row by row, within a cell in the order above.
pub fn anchors(maps: &[[usize; 2]]) -> Vec<Anchor> {
    let steps = maps.len().saturating_sub(1).max(1) as f64;
    let scale = |map: usize| {
        if map == maps.len() {
            FINAL_SCALE
        } else {
            MIN_SCALE + (MAX_SCALE - MIN_SCALE) * map as f64 / steps
        }
    };
    let mut out = Vec::new();
    for (map, &[rows, columns]) in maps.iter().enumerate() {
        let mut shapes: Vec<(f64, f64)> = Vec::new();
        if map == 0 {
            shapes.push((REDUCED_SCALE, 1.0));
            shapes.extend(REDUCED_RATIOS.map(|ratio| (scale(map), ratio)));
        } else {
            shapes.extend(RATIOS.map(|ratio| (scale(map), ratio)));
            shapes.push(((scale(map) * scale(map + 1)).sqrt(), 1.0));
        }
        for row in 0..rows {
            for column in 0..columns {
                out.extend(shapes.iter().map(|(scale, ratio)| Anchor {
                    center_y: ((row as f64 + 0.5) / rows as f64) as f32,
                    center_x: ((column as f64 + 0.5) / columns as f64) as f32,
                    height: (scale / ratio.sqrt()) as f32,
                    width: (scale * ratio.sqrt()) as f32,
                }));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that TensorFlow 2.15.1 computed with the anchor generator inside the published SSD MobileNetV2 COCO graph
    /// (node `Concatenate/concat`): index, centre y, centre x, height, width.
    const TENSORFLOW: [(usize, [f32; 4]); 6] = [
        (0, [0.026_315_79, 0.026_315_79, 0.1, 0.1]),
        (1, [0.026_315_79, 0.026_315_79, 0.141_421_36, 0.282_842_73]),
        (1086, [0.05, 0.05, 0.202_072_59, 0.606_217_7]),
        (1087, [0.05, 0.05, 0.606_248_1, 0.202_062_5]),
        (1088, [0.05, 0.05, 0.418_33, 0.418_33]),
        (1916, [0.5, 0.5, 0.974_679_5, 0.974_679_5]),
    ];

    #[test]
    fn equal_to_tensorflow() {
        let anchors = anchors(&[[19, 19], [10, 10], [5, 5], [3, 3], [2, 2], [1, 1]]);
        assert_eq!(anchors.len(), 1917);
        for (index, expected) in TENSORFLOW {
            let Anchor {
                center_y,
                center_x,
                height,
                width,
            } = anchors[index];
            for (found, expected) in [center_y, center_x, height, width]
                .into_iter()
                .zip(expected)
            {
                assert!(
                    (found - expected).abs() < 1e-6,
                    "anchor {index}: expected {expected}, found {found}"
                );
            }
        }
        // Row by row: the fourth anchor of map 0 is one cell to the right, not down.
        assert!((anchors[3].center_x - 1.5 / 19.0).abs() < 1e-6 && anchors[3].center_y < 0.03);
    }

    #[test]
    fn one_map_divides_by_nothing() {
        assert!(
            anchors(&[[1, 1]])
                .iter()
                .all(|anchor| anchor.height.is_finite())
        );
        assert!(anchors(&[]).is_empty());
    }
}
