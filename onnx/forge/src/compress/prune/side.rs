//! The original and the pruned model side by side, layer after layer, and the checkpoint that is written on the way.
//!
//! A method changes one layer at a time and sees the states that its own changes before have led to. The checkpoint's writer asks for
//! tensors in the order of computation, so each layer is made when its first tensor is asked for, and no more than one is held.
//!
//! ```text
//!   Checkpoint::change ── layers.3.input_norm.weight? ──► Method::layer(3) ─► Changed { gate, up, down }
//!                      ── layers.3.gate.weight? ────────► from Changed, or as it was
//! ```

use std::cell::RefCell;
use std::path::Path;

use super::normal::{Normal, Products, Rows};
use super::overlay::{Changed, Overlay};
use super::refit::fit;
use super::{
    FitError, LayerReport, MIN_TOKENS, MIN_TOKENS_PER_UNKNOWN, PruneError, PruneOptions, Refit,
    Tools, step,
};
use crate::checkpoint::{Checkpoint, canonical, layer_weight};
use crate::compress::degrid::layer_part;
use crate::compress::toward::PLACES;
use crate::decoder::{DecoderSpec, LayerPart, Linear, Options};
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
use crate::walk::{Grams, Inputs, Missing, Walk};
use crate::weights::Weights;

/// What every method works on.
pub(super) struct Ground<'a> {
    pub(super) model: &'a Checkpoint,
    pub(super) texts: &'a [Vec<u32>],
    pub(super) tools: Tools<'a>,
    pub(super) refit: Option<Refit>,
}

/// The pruned model, in the numbers of the original.
pub(super) struct Plan {
    /// With the new sizes; also has the layers that go.
    pub(super) spec: DecoderSpec,
    /// Layers that stay, ascending.
    pub(super) kept: Vec<usize>,
}

/// A layer of the pruned model on its way.
#[derive(Clone, Copy)]
pub(super) enum Now<'c> {
    /// As wide as in the original, with these new tensors; with none of them, as it was.
    Whole(&'c Changed),
    /// As wide as it will be, with these new tensors.
    Pruned(&'c Changed),
}

/// Makes a layer of the pruned model.
pub(super) trait Method {
    /// Its new tensors; those that are not among them stay. Also takes the states of `side` through the new layer.
    fn layer(
        &mut self,
        side: &mut Side<'_>,
        index: usize,
    ) -> Result<(Changed, LayerReport), ForgeError>;
}

impl<'a> Ground<'a> {
    pub(super) fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Refuses a text that is too short for statistics, or for fits of so many unknowns.
    pub(super) fn need(&self, unknowns: Option<usize>) -> Result<(), PruneError> {
        let (purpose, needed) = match unknowns {
            None => ("scores", MIN_TOKENS),
            Some(count) => (
                "refitting",
                (MIN_TOKENS_PER_UNKNOWN * count).max(MIN_TOKENS),
            ),
        };
        let found = self.tokens();
        if found >= needed {
            return Ok(());
        }
        Err(PruneError::TooFewTokens {
            purpose,
            needed,
            found,
        })
    }

    /// A walk through a model.
    pub(super) fn walk<'w>(&self, spec: &'w DecoderSpec, weights: &'w dyn Weights) -> Walk<'w>
    where
        'a: 'w,
    {
        const CODING: &Options = &Options::FP32;
        let Tools { runtime, scratch } = self.tools;
        Walk::new(runtime, (spec, weights), CODING, scratch)
    }

    /// States in front of the first layer.
    pub(super) fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ForgeError> {
        let walk = self.walk(self.model.spec(), self.model.weights());
        texts.iter().map(|text| walk.embed(text)).collect()
    }

    /// Elements of a layer's matrix.
    pub(super) fn matrix(&self, index: usize, part: LayerPart) -> Result<Vec<f32>, ForgeError> {
        Ok(self.model.tensor(&layer_weight(index, part))?.into_owned())
    }

    /// Elements of a layer's bias, if it has one.
    pub(super) fn bias(
        &self,
        index: usize,
        part: LayerPart,
    ) -> Result<Option<Vec<f32>>, ForgeError> {
        let linear = self.model.spec().layers[index].linear(part);
        let Some(bias) = linear.and_then(|linear| linear.bias.as_ref()) else {
            return Ok(None);
        };
        bias.floats(self.model.weights()).map(Some)
    }
}

/// States of both models.
pub(super) struct Side<'a> {
    pub(super) ground: &'a Ground<'a>,
    /// The pruned model's description, in the numbers of the original.
    pub(super) spec: &'a DecoderSpec,
    /// States of the pruned model in front of its next layer; none if nothing is read.
    student: Vec<Vec<f32>>,
    /// States of the original behind layer `passed` − 1, if they are followed.
    teacher: Option<Vec<Vec<f32>>>,
    passed: usize,
    last: usize,
}

impl<'a> Side<'a> {
    /// Both in front of the first layer.
    pub(super) fn new(
        ground: &'a Ground<'a>,
        plan: &'a Plan,
        reads: bool,
    ) -> Result<Side<'a>, ForgeError> {
        let student = match reads {
            true => ground.embed(ground.texts)?,
            false => Vec::new(),
        };
        let follows = reads && ground.refit.is_some_and(|refit| refit.stream > 0.0);
        Ok(Side {
            ground,
            spec: &plan.spec,
            teacher: follows.then(|| student.clone()),
            student,
            passed: 0,
            last: plan.kept.last().copied().unwrap_or(0),
        })
    }

    /// Whether anything is to be fitted to the original's states behind a layer.
    pub(super) fn has_target(&self, index: usize) -> bool {
        self.teacher.is_some() && self.spec.layers[index].post_ffn_norm.is_none()
    }

    /// Takes the original's states to behind layer `index`.
    pub(super) fn follow(&mut self, index: usize) -> Result<(), ForgeError> {
        let Some(teacher) = &mut self.teacher else {
            return Ok(());
        };
        let model = self.ground.model;
        let walk = self.ground.walk(model.spec(), model.weights());
        while self.passed <= index {
            walk.layer(self.passed, teacher)?;
            self.passed += 1;
        }
        Ok(())
    }

    /// Takes the original's states to behind layer `index`. Gives what the matrices of that layer, as they were, read in the pruned
    /// model, and what is missing there; nothing if the original is not followed, or nothing before the layer has been changed.
    pub(super) fn missing(&mut self, index: usize) -> Result<Option<(Grams, Missing)>, ForgeError> {
        let is_next = index == self.passed;
        let student = &self.student;
        let differs = |teacher: &&mut Vec<Vec<f32>>| is_next && **teacher != *student;
        let Some(teacher) = self.teacher.as_mut().filter(differs) else {
            self.follow(index)?;
            return Ok(None);
        };
        let model = self.ground.model;
        let walk = self.ground.walk(model.spec(), model.weights());
        let streams = walk.layer_streams(index, teacher)?;
        self.passed += 1;
        let mut states = self.student.clone();
        let (grams, missing) = walk.layer_toward(index, &mut states, &streams)?;
        for part in PLACES {
            let sums = grams.of(part).sum.iter().chain(missing.of(part));
            check_finite(sums, index, part)?;
        }
        Ok(Some((grams, missing)))
    }

    /// Sums of what a matrix of layer `index` reads in the pruned model, the layer as `now` says; with `is_target`, also of what is
    /// missing behind it.
    pub(super) fn look(
        &self,
        index: usize,
        now: Now<'_>,
        part: LayerPart,
        is_target: bool,
    ) -> Result<Normal, ForgeError> {
        let spec = self.spec_of(now);
        let inputs = match part {
            LayerPart::Output => spec.query_width(),
            LayerPart::Down => spec.layers[index].feed_forward(),
            LayerPart::Qkv | LayerPart::Gate | LayerPart::Up => spec.hidden,
        };
        let target = self.teacher.as_ref().filter(|_| is_target);
        let outputs = target.map(|_| spec.hidden);
        let Tools { runtime, scratch } = self.ground.tools;
        let mut products = Products::open(runtime, scratch, inputs, outputs)?;
        let mut normal = Normal::new(inputs);
        self.hear(index, now, &mut |seen| {
            let rows = Rows {
                inputs: match part {
                    LayerPart::Qkv => seen.qkv,
                    LayerPart::Output => seen.output,
                    LayerPart::Gate | LayerPart::Up => seen.up,
                    LayerPart::Down => seen.down,
                },
                after: seen.after,
                target: target.map(|texts| &texts[seen.text][..]),
                hidden: spec.hidden,
            };
            products.add(&mut normal, &rows)
        })?;
        check_finite(normal.gram.iter().chain(&normal.cross), index, part)?;
        Ok(normal)
    }

    /// Fits down of layer `index`, whose other new tensors are `changed`, to the original's states that were followed to; the error, if
    /// there is a target at all.
    pub(super) fn fit_down(
        &self,
        index: usize,
        changed: &mut Changed,
    ) -> Result<Option<FitError>, ForgeError> {
        let Some(refit) = self.ground.refit.filter(|_| self.has_target(index)) else {
            return Ok(None);
        };
        let normal = self.look(index, Now::Pruned(changed), LayerPart::Down, true)?;
        let down = self.ground.matrix(index, LayerPart::Down)?;
        let all: Vec<usize> = (0..normal.inputs).collect();
        let place = layer_weight(index, LayerPart::Down);
        let (down, error) = fit(&normal, &down, &all, refit, &place)?;
        changed.insert("down.weight", down);
        Ok(Some(error))
    }

    /// Hears what the matrices of layer `index` read in the pruned model; its states stay in front of the layer.
    pub(super) fn hear(
        &self,
        index: usize,
        now: Now<'_>,
        hear: &mut dyn FnMut(Inputs<'_>) -> Result<(), ForgeError>,
    ) -> Result<(), ForgeError> {
        let mut states = self.student.clone();
        let overlay = self.overlay(index, now);
        let walk = self.ground.walk(self.spec_of(now), &overlay);
        walk.layer_inputs(index, &mut states, hear)
    }

    /// Takes the pruned model's states through layer `index` with its new tensors.
    pub(super) fn advance(&mut self, index: usize, changed: &Changed) -> Result<(), ForgeError> {
        if self.student.is_empty() || index == self.last {
            return Ok(());
        }
        let mut states = std::mem::take(&mut self.student);
        let overlay = self.overlay(index, Now::Pruned(changed));
        let walk = self.ground.walk(self.spec, &overlay);
        walk.layer(index, &mut states)?;
        self.student = states;
        Ok(())
    }

    /// The same where the pruned model is still the original.
    pub(super) fn advance_as_original(&mut self, index: usize) -> Result<(), ForgeError> {
        match &self.teacher {
            Some(teacher) if self.passed == index + 1 => {
                self.student.clone_from(teacher);
                Ok(())
            }
            _ => self.advance(index, &Changed::new()),
        }
    }

    fn spec_of(&self, now: Now<'_>) -> &'a DecoderSpec {
        match now {
            Now::Whole(_) => self.ground.model.spec(),
            Now::Pruned(_) => self.spec,
        }
    }

    fn overlay(&self, index: usize, now: Now<'_>) -> Overlay<'a> {
        let (Now::Whole(changed) | Now::Pruned(changed)) = now;
        let layer = &self.spec_of(now).layers[index];
        let columns = |name: &str| {
            let part = LayerPart::ALL
                .into_iter()
                .find(|part| layer_weight(0, *part).ends_with(name));
            part.and_then(|part| layer.linear(part))
                .map(|linear| linear.matrix.columns)
        };
        Overlay::new(self.ground.model.weights(), index, changed, &columns)
    }
}

/// Refuses sums over what a matrix reads that are no numbers.
fn check_finite<'s>(
    mut sums: impl Iterator<Item = &'s f64>,
    index: usize,
    part: LayerPart,
) -> Result<(), PruneError> {
    match sums.all(|sum| sum.is_finite()) {
        true => Ok(()),
        false => Err(PruneError::NotFinite {
            place: layer_weight(index, part),
            what: "a product of its inputs",
        }),
    }
}

/// Writes the pruned model, layer by layer. `reads` says whether the method reads the text.
pub(super) fn write(
    ground: &Ground<'_>,
    plan: &Plan,
    (method, reads): (&mut dyn Method, bool),
    options: &PruneOptions,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, Vec<LayerReport>), ForgeError> {
    let mut spec = plan.spec.clone();
    let layers = spec.layers.into_iter().enumerate();
    let is_kept = |index: &usize| plan.kept.binary_search(index).is_ok();
    spec.layers = layers
        .filter_map(|(index, layer)| is_kept(&index).then_some(layer))
        .collect();
    let spec = canonical(&spec);
    // The writer reports what it writes, and layers report while it waits for them: never both at once.
    let watch = RefCell::new(watch);
    let mut side = Side::new(ground, plan, reads)?;
    let mut reports: Vec<LayerReport> = Vec::new();
    let mut current = Changed::new();
    let mut change = |name: &str| {
        let Some((index, part)) = layer_part(name) else {
            return Ok(None);
        };
        let original = plan.kept[index];
        if index == reports.len() {
            let item = format!("layers.{original}");
            let progress = Progress {
                step: Step::Prune,
                item: &item,
                done: index as u64,
                total: plan.kept.len() as u64,
            };
            report(*watch.borrow_mut(), progress)?;
            let (changed, report) = method.layer(&mut side, original)?;
            current = changed;
            reports.push(report);
        }
        match current.remove(part) {
            Some(elements) => Ok(Some(elements)),
            None => {
                let name = format!("layers.{original}.{part}");
                Ok(Some(ground.model.tensor(&name)?.into_owned()))
            }
        }
    };
    let step = step(options);
    let mut writer = |progress: Progress<'_>| (watch.borrow_mut())(progress);
    let made = ground
        .model
        .change(dir, &spec, step, &mut change, &mut writer)?;
    Ok((made, reports))
}

/// Gives a canonical matrix, and its bias, other sizes.
pub(super) fn resize(linear: &mut Linear, rows: usize, columns: usize) {
    linear.matrix.columns = columns;
    let bias = linear.bias.iter_mut().flat_map(|bias| &mut bias.parts);
    for part in linear.matrix.parts.iter_mut().chain(bias) {
        part.rows = rows;
    }
}
