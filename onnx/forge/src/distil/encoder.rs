//! Distillation of encoders: the student's vectors are brought to those of its teacher.
//!
//! An encoder has no probabilities to compare, so its vectors are: those of every token, or their mean over the text, which is what
//! sentence encoders are used for (Reimers and Gurevych 2020). Where the widths differ, a projection is trained along.
//! Embeddings stay as they are; all layers are trained.
//!
//! ```text
//!   texts, filled up to one length ─┬─► teacher: embed ─► layers ─► (mean) ─┐
//!                                   └─► student: embed ─► layers ─► (mean) ─┴─► distance ─► gradients ─► AdamW
//! ```

use std::collections::BTreeMap;

use llmasos_engine::Runtime;
use serde::{Deserialize, Serialize};

use super::adamw::{Moments, Step, norm, update};
use super::encoder_net::EncoderNet;
pub use super::encoder_net::TrainedEncoder;
use super::graph::{Distance, Fed, MatchKind, Part, Shape, Workshop};
use super::net::Tensor;
use super::sequences::order_of;
use super::stack::{Stack, mask_dims};
use super::student::projection;
use super::teacher::{State, parameters};
use super::train::Place;
use super::{DistilError, DistilOptions};
use crate::encoder::EncoderSpec;
use crate::error::ForgeError;
use crate::folder::{self, Progress, Watch, report};
use crate::weights::Weights;

/// What of the vectors is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vectors {
    /// Each token's.
    Tokens,
    /// Their mean over the text.
    Mean,
}

/// What the distillation of an encoder did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderReport {
    /// Steps done.
    pub steps: u32,
    /// Mean distance of each step's batch.
    pub losses: Vec<f64>,
    /// Trained parameters, without the projection.
    pub trained: u64,
}

/// An encoder: its description and its weights.
pub type Encoder<'e> = (&'e EncoderSpec, &'e dyn Weights);

/// Trains the layers of `student` until its vectors are near those of `teacher`. Of the options those about the schedule count:
/// tokens, length, batch, rate, warm-up, decay, clipping, frozen parts and seed. Each text is one row, cut to `length`.
///
/// # Errors
/// [`ForgeError::Distil`] for options, texts and models that do not fit, [`ForgeError::Cancelled`], those of running graphs.
pub fn run_encoder(
    (teacher, student): (Encoder<'_>, Encoder<'_>),
    texts: &[Vec<u32>],
    (vectors, distance): (Vectors, Distance),
    options: &DistilOptions,
    runtime: (&Runtime, &std::path::Path),
    watch: &mut Watch<'_>,
) -> Result<(TrainedEncoder, EncoderReport), ForgeError> {
    options.check()?;
    check(teacher.0, student.0, texts, options)?;
    let place = Place::beside(&runtime.1.join("encoder"))?;
    let workshop = Workshop {
        runtime: runtime.0.clone(),
        dir: place.scratch().to_path_buf(),
    };
    let nets = [teacher, student].map(|(spec, weights)| EncoderNet::read(spec, weights));
    let [teacher, student] = nets;
    let mut pair = Pair::new(
        (teacher?, student?),
        (vectors, distance),
        options,
        &workshop,
    )?;
    let mut losses = Vec::new();
    for step in 0..options.steps() {
        let loss = pair.step(texts, step, options)?;
        if !loss.is_finite() {
            return Err(DistilError::NotFinite {
                step: step + 1,
                found: loss as f32,
                rate: options.rate_of(step),
            }
            .into());
        }
        losses.push(loss);
        let item = format!("step {}, distance {loss:.4}", step + 1);
        let progress = Progress {
            step: folder::Step::Train,
            item: &item,
            done: u64::from(step + 1) * options.step_tokens(),
            total: u64::from(options.steps()) * options.step_tokens(),
        };
        report(watch, progress)?;
    }
    let report = EncoderReport {
        steps: options.steps(),
        trained: pair.stack.moments().map(|m| m.gradient.len() as u64).sum(),
        losses,
    };
    Ok((pair.student.into_trained(), report))
}

fn check(
    teacher: &EncoderSpec,
    student: &EncoderSpec,
    texts: &[Vec<u32>],
    options: &DistilOptions,
) -> Result<(), DistilError> {
    let context = teacher.context.min(student.context);
    if options.length > context {
        return Err(DistilError::Option {
            option: "length",
            expected: "at most the context of both models",
            found: format!("{} of {context}", options.length),
        });
    }
    if teacher.vocab != student.vocab {
        return Err(DistilError::Pair {
            what: "vocabularies",
            teacher: format!("{} tokens", teacher.vocab),
            student: format!("{} tokens", student.vocab),
        });
    }
    let tokens = texts.iter().filter(|text| !text.is_empty()).count();
    if tokens < texts.len() || texts.len() < options.batch {
        return Err(DistilError::TooShort {
            what: "training",
            needed: options.batch,
            found: tokens,
        });
    }
    let foreign = |token: &&u32| **token as usize >= student.vocab;
    match texts.iter().flatten().find(foreign) {
        None => Ok(()),
        Some(token) => Err(DistilError::Token {
            what: "training",
            token: *token,
            vocab: student.vocab,
        }),
    }
}

/// Teacher and student at work.
struct Pair {
    teacher: EncoderNet,
    parts: Vec<Part>,
    student: EncoderNet,
    stack: Stack,
    matching: Part,
    kind: MatchKind,
    vectors: Vectors,
    projection: Option<(Tensor, Moments)>,
    shape: Shape,
}

/// Texts side by side, filled up.
struct Filled {
    ids: Vec<u32>,
    /// Tokens of each text.
    lengths: Vec<usize>,
    mask: Vec<f32>,
}

impl Filled {
    fn of(texts: &[Vec<u32>], numbers: &[usize], length: usize) -> Filled {
        let (mut ids, mut mask, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for number in numbers {
            let text = &texts[*number];
            let count = text.len().min(length);
            lengths.push(count);
            ids.extend(&text[..count]);
            ids.extend(std::iter::repeat_n(0, length - count));
            mask.extend(std::iter::repeat_n(0.0, count));
            mask.extend(std::iter::repeat_n(f32::NEG_INFINITY, length - count));
        }
        Filled { ids, lengths, mask }
    }
}

impl Pair {
    fn new(
        (teacher, student): (EncoderNet, EncoderNet),
        (vectors, distance): (Vectors, Distance),
        options: &DistilOptions,
        workshop: &Workshop,
    ) -> Result<Pair, ForgeError> {
        let shape = Shape {
            batch: options.batch,
            length: options.length,
        };
        let kind = MatchKind {
            student: student.layers.hidden,
            teacher: teacher.layers.hidden,
            distance,
        };
        let rows = match vectors {
            Vectors::Tokens => shape.tokens(),
            Vectors::Mean => shape.batch,
        };
        let parts = teacher.layers.kinds.iter();
        let parts = parts.map(|kind| workshop.inference(kind.as_ref(), shape));
        let projection = (kind.student != kind.teacher).then(|| {
            let tensor = projection(kind.teacher, kind.student);
            let moments = Moments::of(&tensor);
            (tensor, moments)
        });
        Ok(Pair {
            parts: parts.collect::<Result<Vec<Part>, _>>()?,
            stack: Stack::new(&student.layers, shape, options, workshop)?,
            matching: workshop.matching(&kind, rows)?,
            teacher,
            student,
            kind,
            vectors,
            projection,
            shape,
        })
    }

    /// One step; the mean distance of its texts.
    fn step(
        &mut self,
        texts: &[Vec<u32>],
        step: u32,
        options: &DistilOptions,
    ) -> Result<f64, ForgeError> {
        let mut loss = 0.0;
        for part in 0..options.accumulate {
            let index = step as usize * options.accumulate + part;
            let numbers = order_of(texts.len(), index, options.batch, options.seed);
            let batch = Filled::of(texts, &numbers, options.length);
            loss += self.learn(&batch, options.accumulate)?;
        }
        let moments = self.stack.moments();
        let projection = self.projection.as_ref().map(|(_, moments)| moments);
        let length = norm(moments.chain(projection));
        let clip = f64::from(options.clip);
        let moves = Step {
            rate: options.rate_of(step),
            decay: options.decay,
            scale: if length > clip {
                (clip / length) as f32
            } else {
                1.0
            },
            number: step + 1,
        };
        let mut work = |tensor: &mut Tensor, moments: &mut Moments| {
            update(&mut tensor.values, moments, moves);
        };
        self.stack.each_trained(&mut self.student.layers, &mut work);
        if let Some((tensor, moments)) = &mut self.projection {
            work(tensor, moments);
        }
        Ok(loss)
    }

    /// Gradients of one of `parts` batches.
    fn learn(&mut self, batch: &Filled, parts: usize) -> Result<f64, ForgeError> {
        let wanted = self.teach(batch)?;
        let x = self.student.embed(&batch.ids, self.shape.length);
        let layers = &self.student.layers;
        let trail = self.stack.forward(layers, x, &batch.mask)?;
        let (own, shares) = self.compared(trail.last.data(), batch, self.kind.student, parts);
        let (wanted, _) = self.compared(&wanted, batch, self.kind.teacher, parts);
        let rows = shares.len();
        let dims = [
            [rows, self.kind.student],
            [rows, self.kind.teacher],
            [rows, 1],
        ];
        let mut feeds = vec![
            Fed::f32("x", &dims[0], &own),
            Fed::f32("teacher", &dims[1], &wanted),
            Fed::f32("share", &dims[2], &shares),
        ];
        if let Some((tensor, _)) = &self.projection {
            feeds.push(Fed::f32("projection", &tensor.dims, &tensor.values));
        }
        let outputs = self.matching.run(&feeds)?;
        let distance = outputs.f32("distance")?.data.first().copied();
        let arriving = outputs.f32("d.x")?.data.to_vec();
        let by_projection = match &self.projection {
            Some(_) => outputs.f32("d.projection")?.data.to_vec(),
            None => Vec::new(),
        };
        drop(outputs);
        drop(feeds);
        if let Some((_, moments)) = &mut self.projection {
            moments.add(&by_projection);
        }
        let arriving = self.spread(arriving, batch);
        let layers = &self.student.layers;
        self.stack
            .backward(layers, trail, arriving, &[], &batch.mask)?;
        Ok(f64::from(distance.unwrap_or(f32::NAN)))
    }

    /// The teacher's vectors of all tokens.
    fn teach(&mut self, batch: &Filled) -> Result<Vec<f32>, ForgeError> {
        let layers = &self.teacher.layers;
        let dims = [self.shape.tokens(), layers.hidden];
        let mask = mask_dims(self.shape);
        let mut x = State::Own(self.teacher.embed(&batch.ids, self.shape.length));
        for (kind, tensors) in &layers.all {
            let mut feeds = parameters(layers.kinds[*kind].slots(), tensors);
            feeds.push(x.feed("x", &dims));
            feeds.push(Fed::f32("mask", &mask, &batch.mask));
            let y = self.parts[*kind].run(&feeds)?.take("y")?;
            drop(feeds);
            x = State::Held(y);
        }
        Ok(x.data().to_vec())
    }

    /// The vectors that are compared, and the share of each in the loss.
    fn compared(
        &self,
        tokens: &[f32],
        batch: &Filled,
        hidden: usize,
        parts: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let length = self.shape.length;
        match self.vectors {
            Vectors::Tokens => {
                let count: usize = batch.lengths.iter().sum();
                let share = 1.0 / (count * parts) as f32;
                let seen = batch.mask.iter();
                let shares = seen.map(|mask| if *mask == 0.0 { share } else { 0.0 });
                (tokens.to_vec(), shares.collect())
            }
            Vectors::Mean => {
                let texts = tokens.chunks(length * hidden).zip(&batch.lengths);
                let means = texts.flat_map(|(tokens, count)| {
                    let mut mean = vec![0.0; hidden];
                    for token in tokens.chunks(hidden).take(*count) {
                        for (sum, value) in mean.iter_mut().zip(token) {
                            *sum += value / *count as f32;
                        }
                    }
                    mean
                });
                let share = 1.0 / (batch.lengths.len() * parts) as f32;
                (means.collect(), vec![share; batch.lengths.len()])
            }
        }
    }

    /// Gradients of what was compared, as gradients of all tokens.
    fn spread(&self, arriving: Vec<f32>, batch: &Filled) -> Vec<f32> {
        let (length, hidden) = (self.shape.length, self.kind.student);
        if self.vectors == Vectors::Tokens {
            return arriving;
        }
        let mut all = vec![0.0; self.shape.tokens() * hidden];
        let texts = all.chunks_mut(length * hidden).zip(arriving.chunks(hidden));
        for ((tokens, gradient), count) in texts.zip(&batch.lengths) {
            for token in tokens.chunks_mut(hidden).take(*count) {
                for (value, gradient) in token.iter_mut().zip(gradient) {
                    *value = gradient / *count as f32;
                }
            }
        }
        all
    }
}

/// Tensors by name.
pub(super) type ByName = BTreeMap<String, Tensor>;
