//! What detectors and encoders answer, and how far two of them agree.

use std::path::Path;

use anyhow::{Result, bail};
use llmasos_engine::text::{Encoder, Pooling};
use llmasos_engine::vision::{DetectOptions, Detection, Detector};
use llmasos_engine::{ModelFolder, Runtime};
use llmasos_forge::{
    ForgeError,
    compress::report::Agreement,
    static_int8::{detector_agreement, encoder_agreement},
};

use super::inputs::{Inputs, views};
use crate::models::{Event, Reporter};

/// What a model says about all test inputs.
#[derive(Debug)]
pub(crate) enum Answers {
    /// Boxes, view by view.
    Boxes(Vec<Vec<Detection>>),
    /// A vector a sentence.
    Vectors(Vec<Vec<f32>>),
}

/// Asks the model in `dir`.
///
/// # Errors
/// When it cannot be loaded or does not run; after Ctrl-C.
pub(crate) fn answers(
    dir: &Path,
    inputs: &Inputs,
    runtime: &Runtime,
    name: &str,
    reporter: &mut dyn Reporter,
) -> Result<Answers> {
    let folder = ModelFolder::open(dir)?;
    let mut seen = |done: usize, total: usize| {
        let (done, total) = (done as u64, total as u64);
        reporter.event(Event::Counting {
            name,
            step: "judging",
            done,
            total,
        });
        match reporter.is_cancelled() {
            true => Err(ForgeError::Cancelled),
            false => Ok(()),
        }
    };
    match inputs {
        Inputs::Pictures(sets) => {
            let mut detector = Detector::load(runtime, &folder)?;
            let mut frames = views(&sets.test);
            let total = frames.count();
            let mut boxes = Vec::with_capacity(total);
            for index in 0..total {
                let frame = frames.view(index)?;
                let found = detector.detect(&frame, &DetectOptions::default())?;
                if found.dropped > 0 {
                    bail!("{name}: {} boxes or scores are no numbers", found.dropped);
                }
                boxes.push(found.items);
                seen(index + 1, total)?;
            }
            Ok(Answers::Boxes(boxes))
        }
        Inputs::Sentences(sets) => {
            let mut encoder = Encoder::load(runtime, &folder)?;
            let mut vectors = Vec::with_capacity(sets.test.len());
            for (index, text) in sets.test.iter().enumerate() {
                vectors.push(vector(&mut encoder, text)?);
                seen(index + 1, sets.test.len())?;
            }
            Ok(Answers::Vectors(vectors))
        }
    }
}

/// The vector of a text; the mean over its tokens if the model does not say how to pool.
fn vector(encoder: &mut Encoder, text: &str) -> Result<Vec<f32>> {
    if encoder.config().pooling != Pooling::None {
        return Ok(encoder.embed(text)?);
    }
    let width = encoder.config().hidden;
    let ids = encoder.tokenize(text)?;
    let rows = encoder.hidden(&ids)?;
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
    }
    Ok(sum)
}

/// How far two models agree; the first is the original.
///
/// # Errors
/// For answers that do not belong together.
pub(crate) fn agreement(original: &Answers, other: &Answers) -> Result<Agreement> {
    match (original, other) {
        (Answers::Boxes(original), Answers::Boxes(other)) => Ok(Agreement::Detector {
            min_score: DetectOptions::default().selection.min_score,
            found: detector_agreement(original, other).map_err(ForgeError::from)?,
        }),
        (Answers::Vectors(original), Answers::Vectors(other)) => Ok(Agreement::Encoder {
            found: encoder_agreement(original, other).map_err(ForgeError::from)?,
        }),
        _ => bail!("a detector and an encoder have nothing in common"),
    }
}
