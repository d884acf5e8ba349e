//! The student: runs forward, keeps what the way back needs, collects gradients, and moves.

use super::adamw::{self, Moments, Step};
use super::graph::{Fed, MatchKind, Part, Shape, Workshop};
use super::net::{Net, Tensor};
use super::options::{DistilOptions, Matching};
use super::stack::{Stack, Trail};
use super::teacher::{State, head_parameters, piece_of};
use crate::error::ForgeError;

/// Sums over the positions of some batches.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Terms {
    pub(super) cross_entropy: f64,
    pub(super) divergence: f64,
    /// Sum of the comparisons of hidden states, times their weight and the share of the positions.
    pub(super) matching: f64,
    /// Loss of the logits times the share.
    pub(super) loss: f64,
    pub(super) positions: u64,
}

/// A model that is trained.
pub(super) struct Student {
    pub(super) net: Net,
    shape: Shape,
    stack: Stack,
    loss: Part,
    /// The loss without gradients.
    look: Part,
    embedding: Option<Moments>,
    /// Trained parameters of the head.
    ends: Vec<(&'static str, Moments)>,
    matching: Option<Match>,
}

/// Comparison of hidden states.
struct Match {
    layers: Vec<(usize, usize)>,
    weight: f32,
    hidden: usize,
    part: Part,
    /// The projection of each pair, where widths differ.
    projections: Vec<Option<(Tensor, Moments)>>,
}

impl Student {
    pub(super) fn new(
        net: Net,
        teacher_hidden: usize,
        options: &DistilOptions,
        workshop: &Workshop,
    ) -> Result<Student, ForgeError> {
        let shape = Shape {
            batch: options.batch,
            length: options.length,
        };
        let trains_table = options.trains("embedding.weight");
        let is_trained = |role: &str| match role {
            // One matrix has one fate.
            "head.weight" if net.is_tied() => trains_table,
            role => options.trains(role),
        };
        let roles: Vec<&'static str> = net
            .head
            .slots()
            .iter()
            .map(|slot| slot.role)
            .filter(|role| is_trained(role))
            .collect();
        let piece = piece_of(shape.tokens());
        let terms = options.terms();
        let own = roles.iter().filter_map(|role| net.ends.get_key_value(role));
        Ok(Student {
            loss: workshop.loss(&net.head, piece, terms, Some(&roles))?,
            look: workshop.loss(&net.head, piece, terms, None)?,
            ends: own.map(|(role, t)| (*role, Moments::of(t))).collect(),
            embedding: trains_table.then(|| Moments::of(&net.embedding)),
            matching: match &options.matching {
                Some(matching) => {
                    Some(Match::new(matching, &net, teacher_hidden, shape, workshop)?)
                }
                None => None,
            },
            stack: Stack::new(&net.layers, shape, options, workshop)?,
            shape,
            net,
        })
    }

    /// Layers of the teacher that [`Student::learn`] compares with.
    pub(super) fn compared(&self) -> Vec<usize> {
        let pairs = self.matching.iter().flat_map(|matching| &matching.layers);
        pairs.map(|(_, teacher)| *teacher).collect()
    }

    /// Number of trained parameters.
    pub(super) fn trained(&self) -> u64 {
        self.all_moments().map(|m| m.gradient.len() as u64).sum()
    }

    /// Adds the gradients of a batch. `logits` gives the teacher's for a piece that begins at a position; `states` are what the
    /// compared layers of the teacher gave; `share` is one over the positions of the whole step.
    pub(super) fn learn(
        &mut self,
        (ids, targets): (&[u32], &[u32]),
        states: &[Vec<f32>],
        share: f32,
        logits: Logits<'_>,
    ) -> Result<Terms, ForgeError> {
        let trail = self.forward(ids)?;
        let (mut terms, arriving) = self.compare_logits(&trail.last, targets, share, logits)?;
        let beside = self.compare_states(&trail, states, share, &mut terms)?;
        let arriving = self
            .stack
            .backward(&self.net.layers, trail, arriving, &beside, &[])?;
        if let Some(moments) = &mut self.embedding {
            self.net
                .embed_back(ids, arriving.data(), &mut moments.gradient);
        }
        Ok(terms)
    }

    /// The terms of a batch, without gradients.
    pub(super) fn look(
        &mut self,
        (ids, targets): (&[u32], &[u32]),
        logits: Logits<'_>,
    ) -> Result<Terms, ForgeError> {
        let last = self.forward(ids)?.last;
        let mut terms = Terms::default();
        let pieces = Piece::all(&self.net, &last, targets, self.shape);
        for piece in pieces {
            let look = &mut self.look;
            let feeds = head_parameters(&self.net);
            logits(piece.start, &mut |teacher| {
                let feeds = piece.feeds(&feeds, teacher, &[1.0]);
                let outputs = look.run(&feeds)?;
                terms.add(&outputs, piece.targets.len())
            })?;
        }
        Ok(terms)
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Trail, ForgeError> {
        let x = self.net.embed(ids, self.shape.length);
        self.stack.forward(&self.net.layers, x, &[])
    }

    /// The loss of the logits, and its gradient by what the last layer gave.
    fn compare_logits(
        &mut self,
        last: &State,
        targets: &[u32],
        share: f32,
        logits: Logits<'_>,
    ) -> Result<(Terms, Vec<f32>), ForgeError> {
        let mut terms = Terms::default();
        let mut arriving = Vec::with_capacity(last.data().len());
        let tied = self.net.is_tied();
        for piece in Piece::all(&self.net, last, targets, self.shape) {
            let feeds = head_parameters(&self.net);
            let (loss, ends, embedding) = (&mut self.loss, &mut self.ends, &mut self.embedding);
            logits(piece.start, &mut |teacher| {
                let share = [share];
                let feeds = piece.feeds(&feeds, teacher, &share);
                let outputs = loss.run(&feeds)?;
                terms.add(&outputs, piece.targets.len())?;
                arriving.extend_from_slice(outputs.f32("d.x")?.data);
                for (role, moments) in ends.iter_mut() {
                    moments.add(outputs.f32(&format!("d.{role}"))?.data);
                }
                if let (true, Some(moments)) = (tied, embedding.as_mut()) {
                    moments.add(outputs.f32("d.head.weight")?.data);
                }
                Ok(())
            })?;
        }
        Ok((terms, arriving))
    }

    /// Gradients by what compared layers gave, by layer.
    fn compare_states(
        &mut self,
        trail: &Trail,
        states: &[Vec<f32>],
        share: f32,
        terms: &mut Terms,
    ) -> Result<Vec<(usize, Vec<f32>)>, ForgeError> {
        let Some(matching) = &mut self.matching else {
            return Ok(Vec::new());
        };
        let tokens = self.shape.tokens();
        let shares = vec![share * matching.weight; tokens];
        let (own_dims, dims) = ([tokens, self.net.hidden], [tokens, matching.hidden]);
        let column = [tokens, 1];
        let mut found = Vec::with_capacity(states.len());
        let pairs = matching.layers.iter().zip(&mut matching.projections);
        for (((layer, _), projection), state) in pairs.zip(states) {
            let own = trail.after(*layer);
            let mut feeds = vec![
                own.feed("x", &own_dims),
                Fed::f32("teacher", &dims, state),
                Fed::f32("share", &column, &shares),
            ];
            if let Some((tensor, _)) = &projection {
                feeds.push(Fed::f32("projection", &tensor.dims, &tensor.values));
            }
            let outputs = matching.part.run(&feeds)?;
            terms.matching += f64::from(first(outputs.f32("distance")?.data));
            found.push((*layer, outputs.f32("d.x")?.data.to_vec()));
            let gradient = match projection {
                Some(_) => outputs.f32("d.projection")?.data.to_vec(),
                None => Vec::new(),
            };
            drop(outputs);
            if let Some((_, moments)) = projection {
                moments.add(&gradient);
            }
        }
        Ok(found)
    }

    /// Moves all trained parameters; the length of the gradient before it was shortened.
    pub(super) fn step(&mut self, step: Step, clip: f32) -> f64 {
        let length = adamw::norm(self.all_moments());
        let scale = match length > f64::from(clip) {
            true => (f64::from(clip) / length) as f32,
            false => 1.0,
        };
        let step = Step { scale, ..step };
        self.each_trained(&mut |tensor, moments| adamw::update(&mut tensor.values, moments, step));
        length
    }

    /// All moments, always in the same order.
    pub(super) fn all_moments(&self) -> impl Iterator<Item = &Moments> {
        let layers = self.stack.moments();
        let ends = self.ends.iter().map(|(_, moments)| moments);
        let projections = self.matching.iter().flat_map(|m| &m.projections).flatten();
        let projections = projections.map(|(_, moments)| moments);
        layers.chain(&self.embedding).chain(ends).chain(projections)
    }

    /// All trained parameters with their moments, in the order of [`Student::all_moments`].
    pub(super) fn each_trained(&mut self, work: &mut dyn FnMut(&mut Tensor, &mut Moments)) {
        self.stack.each_trained(&mut self.net.layers, work);
        if let Some(moments) = &mut self.embedding {
            work(&mut self.net.embedding, moments);
        }
        for (role, moments) in &mut self.ends {
            if let Some(tensor) = self.net.ends.get_mut(role) {
                work(tensor, moments);
            }
        }
        let projections = self.matching.iter_mut().flat_map(|m| &mut m.projections);
        for (tensor, moments) in projections.flatten() {
            work(tensor, moments);
        }
    }
}

/// Gives the teacher's logits of the piece that begins at a position.
pub(super) type Logits<'l> = &'l mut dyn FnMut(
    usize,
    &mut dyn FnMut(&[f32]) -> Result<(), ForgeError>,
) -> Result<(), ForgeError>;

impl Match {
    fn new(
        matching: &Matching,
        net: &Net,
        teacher_hidden: usize,
        shape: Shape,
        workshop: &Workshop,
    ) -> Result<Match, ForgeError> {
        let kind = MatchKind {
            student: net.hidden,
            teacher: teacher_hidden,
            distance: matching.distance,
        };
        let projections = matching.layers.iter().map(|_| {
            let slots = kind.slots();
            slots.first().map(|_| {
                let tensor = projection(teacher_hidden, net.hidden);
                let moments = Moments::of(&tensor);
                (tensor, moments)
            })
        });
        Ok(Match {
            layers: matching.layers.clone(),
            weight: matching.weight,
            hidden: teacher_hidden,
            projections: projections.collect(),
            part: workshop.matching(&kind, shape.tokens())?,
        })
    }
}

/// The projection at the beginning: each of the teacher's axes from one of the student's, so that no chance is involved.
pub(super) fn projection(rows: usize, columns: usize) -> Tensor {
    let mut values = vec![0.0; rows * columns];
    for row in 0..rows {
        values[row * columns + row % columns] = 1.0;
    }
    Tensor::new("projection", &[rows, columns], values)
}

impl Terms {
    fn add(
        &mut self,
        outputs: &llmasos_engine::session::Outputs<'_>,
        positions: usize,
    ) -> Result<(), ForgeError> {
        self.cross_entropy += f64::from(first(outputs.f32("cross_entropy")?.data));
        self.divergence += f64::from(first(outputs.f32("divergence")?.data));
        self.loss += f64::from(first(outputs.f32("loss")?.data));
        self.positions += positions as u64;
        Ok(())
    }

    pub(super) fn join(&mut self, other: Terms) {
        self.cross_entropy += other.cross_entropy;
        self.divergence += other.divergence;
        self.matching += other.matching;
        self.loss += other.loss;
        self.positions += other.positions;
    }
}

fn first(data: &[f32]) -> f32 {
    data.first().copied().unwrap_or(f32::NAN)
}

/// Some positions of a batch at the head.
struct Piece<'p> {
    start: usize,
    x: &'p [f32],
    dims: [usize; 2],
    teacher_dims: [usize; 2],
    targets: Vec<i64>,
    target_dims: [usize; 1],
}

impl Piece<'_> {
    /// All pieces of a batch.
    fn all<'p>(net: &Net, last: &'p State, targets: &[u32], shape: Shape) -> Vec<Piece<'p>> {
        let (size, vocab) = (piece_of(shape.tokens()), net.vocab);
        let xs = last.data().chunks(size * net.hidden);
        let pieces = xs.zip(targets.chunks(size)).enumerate();
        pieces
            .map(|(index, (x, targets))| Piece {
                start: index * size,
                x,
                dims: [size, net.hidden],
                teacher_dims: [size, vocab],
                targets: targets
                    .iter()
                    .enumerate()
                    .map(|(row, token)| (row * vocab + *token as usize) as i64)
                    .collect(),
                target_dims: [size],
            })
            .collect()
    }

    fn feeds<'f>(
        &'f self,
        parameters: &[Fed<'f>],
        teacher: &'f [f32],
        share: &'f [f32; 1],
    ) -> Vec<Fed<'f>> {
        let mut feeds = parameters.to_vec();
        feeds.push(Fed::f32("x", &self.dims, self.x));
        feeds.push(Fed::f32("teacher", &self.teacher_dims, teacher));
        feeds.push(Fed::i64("targets", &self.target_dims, &self.targets));
        feeds.push(Fed::f32("share", &[], share));
        feeds
    }
}
