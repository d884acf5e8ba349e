//! The course of a run: batches, steps, looks at the held-out texts, states to go on from, and the end.

use std::fs;
use std::path::{Path, PathBuf};

use llmasos_engine::Runtime;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::adamw::Step;
use super::cache::TopCache;
use super::graph::{Shape, Workshop};
use super::net::Net;
use super::sequences::{Batch, Sequences};
use super::state::{self, Done};
use super::student::{Student, Terms};
use super::teacher::{State, Teacher, check_pair, piece_of};
use super::{DistilError, DistilOptions, DistilReport, Look};
use crate::checkpoint::Checkpoint;
use crate::error::ForgeError;
use crate::folder::{self, Progress, Watch, report};

/// Texts as tokens.
#[derive(Debug, Clone, Copy)]
pub struct DistilData<'d> {
    /// What is trained on.
    pub train: &'d [Vec<u32>],
    /// What decides how good the student is; never trained on.
    pub held_out: &'d [Vec<u32>],
}

/// Trains `student` to say what `teacher` says, and writes it as the checkpoint `out_dir`.
///
/// A run that was stopped goes on if it is started again with the same arguments and [`DistilOptions::save_every`] was not 0: its
/// state stands in a hidden file beside `out_dir` until the run ends.
///
/// # Errors
/// [`ForgeError::Distil`] for options, texts and models that do not fit, or a loss that is no number; [`ForgeError::Cancelled`];
/// those of reading and writing checkpoints.
pub fn run(
    (teacher, student): (&Checkpoint, &Checkpoint),
    data: DistilData<'_>,
    options: &DistilOptions,
    out_dir: &Path,
    runtime: &Runtime,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, DistilReport), ForgeError> {
    options.check()?;
    let place = Place::beside(out_dir)?;
    let models = [teacher, student].map(|model| json!([model.spec(), model.about()]));
    let nets = (
        Net::read(teacher.spec(), teacher.weights())?,
        Net::read(student.spec(), student.weights())?,
    );
    let fingerprint = fingerprint(&json!(models), data, options);
    let course = Course {
        options,
        place: &place,
        fingerprint: &fingerprint,
        runtime,
    };
    let (net, report) = course.run(nets, data, watch)?;
    let mut trained = net.into_tensors();
    let mut change = |name: &str| Ok(trained.remove(name));
    let step = json!({"step": "distil", "report": report});
    let made = student.change(out_dir, student.spec(), step, &mut change, watch)?;
    place.forget_state()?;
    Ok((made, report))
}

/// Hash of everything that has to be equal for a state to be gone on from.
fn fingerprint(
    models: &serde_json::Value,
    data: DistilData<'_>,
    options: &DistilOptions,
) -> String {
    let mut hasher = Sha256::new();
    hasher.update(json!([models, options]).to_string());
    for texts in [data.train, data.held_out] {
        hasher.update((texts.len() as u64).to_le_bytes());
        for text in texts {
            hasher.update((text.len() as u64).to_le_bytes());
            for token in text {
                hasher.update(token.to_le_bytes());
            }
        }
    }
    let hash = hasher.finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where graphs and states stand while a run goes on.
pub(super) struct Place {
    scratch: PathBuf,
    state: PathBuf,
}

impl Place {
    /// Beside the folder that will be made; its name begins with a dot.
    pub(super) fn beside(target: &Path) -> Result<Place, ForgeError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let scratch = target.with_file_name(format!(".{name}.{}.graphs", std::process::id()));
        fs::create_dir_all(&scratch).map_err(ForgeError::io("create", &scratch))?;
        Ok(Place {
            scratch,
            state: target.with_file_name(format!(".{name}.distil")),
        })
    }

    /// A folder for graph files.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(super) fn forget_state(&self) -> Result<(), ForgeError> {
        match self.state.exists() {
            true => fs::remove_file(&self.state).map_err(ForgeError::io("remove", &self.state)),
            false => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left of it is of no use to anybody; a failed clean-up adds nothing to the outcome.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// A run and what it was told.
pub(super) struct Course<'c> {
    pub(super) options: &'c DistilOptions,
    pub(super) place: &'c Place,
    pub(super) fingerprint: &'c str,
    pub(super) runtime: &'c Runtime,
}

/// A run that goes on.
struct Going<'c> {
    course: &'c Course<'c>,
    teacher: Teacher,
    student: Student,
    train: Sequences,
    held_out: Sequences,
    cache: TopCache,
    done: Done,
    /// Trained parameters at the best look, if somebody may want them back.
    best: Option<Vec<Vec<f32>>>,
}

impl Course<'_> {
    /// Trains, and gives the student back.
    pub(super) fn run(
        &self,
        (teacher, student): (Net, Net),
        data: DistilData<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(Net, DistilReport), ForgeError> {
        let mut going = self.begin((teacher, student), data)?;
        let resumed = going.resume()?;
        if !resumed {
            going.look(watch)?;
        }
        let result = going.train(watch);
        if matches!(result, Err(ForgeError::Cancelled)) && self.options.save_every > 0 {
            going.save()?;
        }
        let ended_early = result?;
        Ok(going.finish(ended_early, resumed))
    }

    fn begin(
        &self,
        (teacher, student): (Net, Net),
        data: DistilData<'_>,
    ) -> Result<Going<'_>, ForgeError> {
        let options = self.options;
        check_pair(&teacher, &student)?;
        check_fit(&teacher, &student, options)?;
        let (length, vocab) = (options.length, student.vocab);
        let train = Sequences::cut(data.train, length, vocab, ("training", options.batch))?;
        let held_out = Sequences::cut(data.held_out, length, vocab, ("held-out", 1))?;
        let workshop = Workshop {
            runtime: self.runtime.clone(),
            dir: self.place.scratch.clone(),
        };
        let shape = Shape {
            batch: options.batch,
            length,
        };
        let hidden = teacher.hidden;
        Ok(Going {
            course: self,
            teacher: Teacher::new(teacher, shape, &workshop)?,
            student: Student::new(student, hidden, options, &workshop)?,
            train,
            held_out,
            cache: TopCache::new(options.teacher_top),
            done: Done::default(),
            best: None,
        })
    }
}

/// Checks what only the sizes of the models tell.
fn check_fit(teacher: &Net, student: &Net, options: &DistilOptions) -> Result<(), DistilError> {
    let context = teacher.context.min(student.context);
    if options.length > context {
        return Err(DistilError::Option {
            option: "length",
            expected: "at most the context of both models",
            found: format!("{} of {context}", options.length),
        });
    }
    let Some(matching) = &options.matching else {
        return Ok(());
    };
    if options.teacher_top > 0 {
        return Err(DistilError::Option {
            option: "teacher_top",
            expected: "0 together with matching, which needs the teacher to run",
            found: options.teacher_top.to_string(),
        });
    }
    let counts = (student.layers.all.len(), teacher.layers.all.len());
    let outside = |pair: &&(usize, usize)| pair.0 >= counts.0 || pair.1 >= counts.1;
    match matching.layers.iter().find(outside) {
        None if !matching.layers.is_empty() => Ok(()),
        pair => Err(DistilError::Option {
            option: "matching.layers",
            expected: "pairs of a layer of the student and one of the teacher",
            found: format!("{pair:?} of {} and {}", counts.0, counts.1),
        }),
    }
}

impl Going<'_> {
    fn resume(&mut self) -> Result<bool, ForgeError> {
        let course = self.course;
        let path = &course.place.state;
        match state::load(path, course.fingerprint, &mut self.student)? {
            None => Ok(false),
            Some((done, best)) => {
                (self.done, self.best) = (done, best);
                Ok(true)
            }
        }
    }

    fn save(&mut self) -> Result<(), ForgeError> {
        let course = self.course;
        let path = &course.place.state;
        let best = self.best.as_deref();
        state::save(
            path,
            course.fingerprint,
            (&self.done, best),
            &mut self.student,
        )
    }

    /// All steps that are left; whether training ended before them.
    fn train(&mut self, watch: &mut Watch<'_>) -> Result<bool, ForgeError> {
        let options = self.course.options;
        let steps = options.steps();
        while self.done.step < steps {
            self.step(watch)?;
            let step = self.done.step;
            if step.is_multiple_of(options.evaluate_every) || step == steps {
                self.look(watch)?;
                if self.has_waited() {
                    return Ok(step < steps);
                }
            }
            let saves = options.save_every > 0 && step.is_multiple_of(options.save_every);
            if saves && step < steps {
                self.save()?;
            }
        }
        Ok(false)
    }

    fn step(&mut self, watch: &mut Watch<'_>) -> Result<(), ForgeError> {
        let options = self.course.options;
        let positions = options.step_tokens();
        let share = 1.0 / positions as f32;
        let mut terms = Terms::default();
        for part in 0..options.accumulate {
            let index = self.done.step as usize * options.accumulate + part;
            let numbers = self.train.numbers(index, options.batch, options.seed);
            let batch = self.train.batch(numbers);
            terms.join(self.learn(&batch, share)?);
            let loss = terms.divergence / terms.positions.max(1) as f64;
            self.report((part + 1) as u64, loss, watch)?;
        }
        let loss = terms.loss + terms.matching;
        let (step, rate) = (self.done.step, options.rate_of(self.done.step));
        let moves = Step {
            rate,
            decay: options.decay,
            scale: 1.0,
            number: step + 1,
        };
        if !loss.is_finite() {
            return Err(not_finite(step, loss as f32, rate));
        }
        let length = self.student.step(moves, options.clip);
        if !length.is_finite() {
            return Err(not_finite(step, length as f32, rate));
        }
        self.done.step += 1;
        self.done.losses.push(loss);
        Ok(())
    }

    fn report(&self, part: u64, loss: f64, watch: &mut Watch<'_>) -> Result<(), ForgeError> {
        let options = self.course.options;
        let batch = (options.batch * options.length) as u64;
        let item = format!("step {}, divergence {loss:.3}", self.done.step + 1);
        let progress = Progress {
            step: folder::Step::Train,
            item: &item,
            done: u64::from(self.done.step) * options.step_tokens() + part * batch,
            total: u64::from(options.steps()) * options.step_tokens(),
        };
        report(watch, progress)
    }

    /// Gradients of one batch.
    fn learn(&mut self, batch: &Batch, share: f32) -> Result<Terms, ForgeError> {
        let length = self.course.options.length;
        let known = |number: &usize| self.cache.has(*number, length);
        let compared = self.student.compared();
        let is_known = batch.numbers.iter().all(known);
        let (last, states) = match is_known {
            true => (State::Own(Vec::new()), Vec::new()),
            false => self.teacher.run(&batch.ids, &compared)?,
        };
        if !is_known {
            batch
                .numbers
                .iter()
                .for_each(|number| self.cache.forget(*number));
        }
        let (teacher, cache) = (&mut self.teacher, &mut self.cache);
        let (vocab, hidden) = (teacher.net.vocab, teacher.net.hidden);
        let piece = piece_of(batch.ids.len());
        let mut restored = Vec::new();
        let place = |position: usize| (batch.numbers[position / length], position % length);
        let mut logits = |start: usize,
                          read: &mut dyn FnMut(&[f32]) -> Result<(), ForgeError>|
         -> Result<(), ForgeError> {
            if is_known {
                restored.resize(piece * vocab, 0.0);
                for (row, logits) in restored.chunks_mut(vocab).enumerate() {
                    let (sequence, position) = place(start + row);
                    cache.restore(sequence, position, logits);
                }
                return read(&restored);
            }
            let x = &last.data()[start * hidden..(start + piece) * hidden];
            teacher.logits(x, |logits| {
                for (row, logits) in logits.chunks(vocab).enumerate() {
                    cache.keep(place(start + row).0, logits);
                }
                read(logits)
            })
        };
        let texts = (&batch.ids[..], &batch.targets[..]);
        self.student.learn(texts, &states, share, &mut logits)
    }

    /// Looks at the held-out texts.
    fn look(&mut self, watch: &mut Watch<'_>) -> Result<(), ForgeError> {
        let options = self.course.options;
        let count = self.held_out.count().min(options.held_out.max(1));
        let batches = (count / options.batch).max(1);
        let (mut terms, mut teacher_entropy) = (Terms::default(), 0.0);
        let is_first = self.done.looks.is_empty();
        for index in 0..batches {
            let first = index * options.batch;
            let numbers = (first..first + options.batch).map(|number| number % count);
            let batch = self.held_out.batch(numbers.collect());
            let (last, _) = self.teacher.run(&batch.ids, &[])?;
            let hidden = self.teacher.net.hidden;
            let teacher = &mut self.teacher;
            let piece = piece_of(batch.ids.len());
            let mut logits = |start: usize,
                              read: &mut dyn FnMut(&[f32]) -> Result<(), ForgeError>|
             -> Result<(), ForgeError> {
                let x = &last.data()[start * hidden..(start + piece) * hidden];
                teacher.logits(x, |logits| {
                    if is_first {
                        let targets = &batch.targets[start..start + piece];
                        teacher_entropy += cross_entropy(logits, targets);
                    }
                    read(logits)
                })
            };
            let texts = (&batch.ids[..], &batch.targets[..]);
            terms.join(self.student.look(texts, &mut logits)?);
            self.report(0, terms.divergence / terms.positions.max(1) as f64, watch)?;
        }
        let positions = terms.positions.max(1) as f64;
        if is_first {
            self.done.teacher_perplexity = (teacher_entropy / positions).exp();
        }
        let look = Look {
            step: self.done.step,
            tokens: u64::from(self.done.step) * options.step_tokens(),
            perplexity: (terms.cross_entropy / positions).exp(),
            divergence: terms.divergence / positions,
            loss: terms.loss / positions,
        };
        if !look.loss.is_finite() {
            let rate = options.rate_of(self.done.step);
            return Err(not_finite(self.done.step, look.loss as f32, rate));
        }
        self.done.looks.push(look);
        self.remember(look.loss);
        Ok(())
    }

    /// Keeps the student if it is the best so far and somebody may want it back.
    fn remember(&mut self, loss: f64) {
        if self.course.options.patience == 0 {
            return;
        }
        if loss >= f64::from_bits(self.done.best_loss_bits) {
            self.done.waited += 1;
            return;
        }
        self.done.waited = 0;
        self.done.best_loss_bits = loss.to_bits();
        let mut values = Vec::new();
        self.student
            .each_trained(&mut |tensor, _| values.push(tensor.values.clone()));
        self.best = Some(values);
    }

    fn has_waited(&self) -> bool {
        let patience = self.course.options.patience;
        patience > 0 && self.done.waited >= patience
    }

    fn finish(mut self, ended_early: bool, resumed: bool) -> (Net, DistilReport) {
        if let (true, Some(values)) = (self.done.waited > 0, self.best.take()) {
            let mut values = values.into_iter();
            self.student.each_trained(&mut |tensor, _| {
                if let Some(best) = values.next() {
                    tensor.values = best;
                }
            });
        }
        let options = self.course.options.clone();
        let report = DistilReport {
            steps: self.done.step,
            tokens: u64::from(self.done.step) * options.step_tokens(),
            teacher_perplexity: self.done.teacher_perplexity,
            looks: self.done.looks,
            losses: self.done.losses,
            trained: self.student.trained(),
            ended_early,
            resumed,
            options,
        };
        (self.student.net, report)
    }
}

fn not_finite(step: u32, found: f32, rate: f32) -> ForgeError {
    DistilError::NotFinite {
        step: step + 1,
        found,
        rate,
    }
    .into()
}

/// Σ −log p of the targets.
fn cross_entropy(logits: &[f32], targets: &[u32]) -> f64 {
    let vocab = logits.len() / targets.len().max(1);
    let rows = logits.chunks(vocab.max(1)).zip(targets);
    rows.map(|(row, target)| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from((x - most).exp())).sum();
        f64::from(most) + sum.ln() - f64::from(row[*target as usize])
    })
    .sum()
}
