//! Objects in a picture: resize, run, select, and back to pixels.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::VisionError;
use super::coco::{COCO_90, coco_label};
use super::letterbox::{Fit, InputWriter};
use super::picture::Picture;
use super::ssd::{Selection, select};
use crate::folder::ModelFolder;
use crate::runtime::Runtime;
use crate::session::{Dim, Feed, Kind, Session, SessionSpec, TensorSpec, Terminator, Threads};

/// Largest input square believed in a manifest.
const MAX_INPUT: u32 = 2_048;
/// Most candidates and detections that can be asked for.
const MAX_DETECTIONS: usize = 1_000;
/// The only label set there is.
const LABELS: &str = "coco-90";

/// The family's settings.
#[derive(Debug, Deserialize)]
struct Config {
    /// Side of the input square, pixels.
    input: u32,
    /// Columns of the scores, background included.
    classes: usize,
    /// Name of the label set.
    labels: String,
}

/// How to look.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DetectOptions {
    /// Stretch is what SSD MobileNet was trained with.
    pub fit: Fit,
    /// Threshold, overlap and limits.
    pub selection: Selection,
}

/// One object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Id in the label set.
    pub label_id: u32,
    /// Its name.
    pub label: &'static str,
    /// Score in (0, 1].
    pub score: f32,
    /// x0, y0, x1, y1 in pixels of the picture, inside it.
    pub bbox: [f32; 4],
}

/// Where the time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DetectDurations {
    /// Resizing and conversion.
    pub preprocess: Duration,
    /// The network.
    pub inference: Duration,
    /// Threshold and suppression.
    pub postprocess: Duration,
}

impl DetectDurations {
    /// All three.
    #[must_use]
    pub fn total(self) -> Duration {
        self.preprocess + self.inference + self.postprocess
    }
}

/// What was seen in one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Detections {
    /// Best first.
    pub items: Vec<Detection>,
    /// Boxes and scores that were no numbers; anything but 0 means a damaged model.
    pub dropped: usize,
    /// Where the time went.
    pub durations: DetectDurations,
}

/// A loaded detector. One picture at a time.
#[derive(Debug)]
pub struct Detector {
    session: Session,
    writer: InputWriter,
    side: usize,
    classes: usize,
}

impl Detector {
    /// Opens a model of the family `ssd`: `image` f32 `[1, side, side, 3]` (RGB, 0..=255) in, `boxes` f32 `[1, n, 4]` and `scores` f32
    /// `[1, n, classes]` out.
    ///
    /// # Errors
    /// [`VisionError::Engine`]: another family, a missing or broken file, a graph with other tensors; [`VisionError::Model`] for
    /// settings this code does not know.
    pub fn load(runtime: &Runtime, folder: &ModelFolder) -> Result<Detector, VisionError> {
        folder.expect_family("ssd")?;
        let config: Config = folder.config()?;
        if config.labels != LABELS || config.classes != COCO_90.len() {
            let reason = format!(
                "expected {LABELS} with {} classes, found {:?} with {}",
                COCO_90.len(),
                config.labels.chars().take(48).collect::<String>(),
                config.classes
            );
            return Err(VisionError::Model {
                part: "labels",
                reason,
            });
        }
        if !(1..=MAX_INPUT).contains(&config.input) {
            return Err(VisionError::Model {
                part: "input",
                reason: format!("expected 1..={MAX_INPUT}, found {}", config.input),
            });
        }
        let side = config.input as usize;
        let image = [1, side, side, 3].map(Dim::Is);
        let scores = [Dim::Is(1), Dim::Any, Dim::Is(config.classes)];
        let spec = SessionSpec {
            inputs: &[TensorSpec::new("image", Kind::F32, &image)],
            outputs: &[
                TensorSpec::new("boxes", Kind::F32, &[Dim::Is(1), Dim::Any, Dim::Is(4)]),
                TensorSpec::new("scores", Kind::F32, &scores),
            ],
        };
        let session = Session::open(
            runtime,
            &folder.manifest.name,
            &folder.path("model.onnx")?,
            &spec,
            Threads::Shared,
        )?;
        Ok(Detector {
            session,
            writer: InputWriter::new(config.input),
            side,
            classes: config.classes,
        })
    }

    /// Looks at a picture.
    ///
    /// # Errors
    /// [`VisionError::Setting`], [`VisionError::Resize`], [`VisionError::Engine`], [`VisionError::Model`].
    pub fn detect(
        &mut self,
        picture: &Picture<'_>,
        options: &DetectOptions,
    ) -> Result<Detections, VisionError> {
        check(&options.selection)?;
        let started = Instant::now();
        let (tensor, placement) = self.writer.write(picture, options.fit)?;
        let preprocess = started.elapsed();

        let started = Instant::now();
        let outputs =
            self.session
                .run(&[Feed::f32("image", &[1, self.side, self.side, 3], tensor)])?;
        let inference = started.elapsed();

        let started = Instant::now();
        let (boxes, scores) = (outputs.f32("boxes")?.data, outputs.f32("scores")?.data);
        if boxes.len() / 4 != scores.len() / self.classes {
            let reason = format!(
                "{} boxes, but scores for {}",
                boxes.len() / 4,
                scores.len() / self.classes
            );
            return Err(VisionError::Model {
                part: "boxes",
                reason,
            });
        }
        let selected = select(boxes, scores, self.classes, &options.selection);
        let items = selected
            .items
            .iter()
            // Ids that the data set does not use were never trained: whatever they score is noise.
            .filter_map(|item| coco_label(item.class).map(|label| (item, label)))
            .map(|(item, label)| Detection {
                label_id: item.class,
                label,
                score: item.score,
                bbox: placement.to_source(item.bbox),
            })
            .collect();
        let durations = DetectDurations {
            preprocess,
            inference,
            postprocess: started.elapsed(),
        };
        Ok(Detections {
            items,
            dropped: selected.dropped,
            durations,
        })
    }

    /// Runs the network once over grey, so that the first real picture does not pay for first touches.
    ///
    /// # Errors
    /// As [`Detector::detect`].
    pub fn warm_up(&mut self) -> Result<(), VisionError> {
        let grey = Picture::packed(1, 1, super::Layout::Mono8, (&[128][..]).into())?;
        self.detect(&grey, &DetectOptions::default()).map(|_| ())
    }

    /// A handle that ends a run from another thread.
    #[must_use]
    pub fn terminator(&self) -> Terminator {
        self.session.terminator()
    }
}

fn check(selection: &Selection) -> Result<(), VisionError> {
    let Selection {
        min_score,
        max_overlap,
        per_class,
        total,
    } = *selection;
    let most = MAX_DETECTIONS as f64;
    let settings = [
        // A threshold of zero would make a candidate of every box and class.
        ("min_score", f64::from(min_score), 0.01, 1.0),
        ("max_overlap", f64::from(max_overlap), 0.01, 1.0),
        ("per_class", per_class as f64, 1.0, most),
        ("total", total as f64, 1.0, most),
    ];
    for (field, found, min, max) in settings {
        // Written so that NaN fails.
        if !(found >= min && found <= max) {
            return Err(VisionError::Setting {
                field,
                found,
                min,
                max,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_by_name() {
        check(&Selection::default()).unwrap();
        let good = Selection::default();
        let cases = [
            (
                Selection {
                    min_score: 0.0,
                    ..good
                },
                "min_score",
            ),
            (
                Selection {
                    min_score: f32::NAN,
                    ..good
                },
                "min_score",
            ),
            (
                Selection {
                    max_overlap: 1.5,
                    ..good
                },
                "max_overlap",
            ),
            (
                Selection {
                    per_class: 0,
                    ..good
                },
                "per_class",
            ),
            (
                Selection {
                    total: 1_001,
                    ..good
                },
                "total",
            ),
        ];
        for (bad, expected) in cases {
            assert!(
                matches!(check(&bad), Err(VisionError::Setting { field, .. }) if field == expected),
                "{expected}"
            );
        }
    }
}
