//! Walks through a decoder layer by layer on ONNX Runtime: hidden states in, hidden states out, and a look at what each matrix
//! reads.
//!
//! Calibration, pruning and evaluation need more of a model than its answers. Running one layer for all texts before the next
//! takes the memory of one layer and of the hidden states (`tokens × hidden × 4` bytes), whatever the size of the model; and a
//! layer can be changed between being looked at and being walked through.
//!
//! ```text
//!   texts ─ embed ─► hidden states ─ layer 0 ─► … ─ layer l ─► … ─ head ─► scores, some rows at a time
//!                                       └ inputs of its matrices, or their Gram matrices Σ x·xᵀ
//! ```

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};

use llmasos_engine::Runtime;
use llmasos_engine::session::{
    Dim, Feed, Kind, Session, SessionSpec, TensorSpec as Wanted, Threads,
};

use crate::decoder::{self, Coding, DecoderSpec, LayerPart, Look, STREAM, pieces_widths};
use crate::error::ForgeError;
use crate::graph::Graph;
use crate::weights::Weights;
use crate::writer::write_model;

/// Rows of scores made at once: 64 rows of 262,144 scores are 64 MiB.
pub const SCORED_ROWS: usize = 64;
/// Longest text in tokens.
pub const MAX_TEXT_TOKENS: usize = 8192;

/// Sum of the outer products of a matrix' inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    /// Inputs.
    pub width: usize,
    /// `[width, width]`, symmetric: Σ x·xᵀ.
    pub sum: Vec<f64>,
    /// Rows that were summed.
    pub rows: u64,
}

impl Gram {
    fn new(width: usize) -> Gram {
        Gram {
            width,
            sum: vec![0.0; width * width],
            rows: 0,
        }
    }

    fn add(&mut self, products: &[f32], rows: usize) {
        add(&mut self.sum, products);
        self.rows += rows as u64;
    }
}

fn add(sums: &mut [f64], products: &[f32]) {
    for (sum, product) in sums.iter_mut().zip(products) {
        *sum += f64::from(*product);
    }
}

/// Those of a layer's matrices.
#[derive(Debug, Clone, PartialEq)]
pub struct Grams {
    /// Of the input of query, key and value.
    pub qkv: Gram,
    /// Of what attention gives.
    pub output: Gram,
    /// Of the input of gate and up.
    pub up: Gram,
    /// Of the inner width of the feed-forward part.
    pub down: Gram,
}

impl Grams {
    fn new([qkv, output, up, down]: [usize; 4]) -> Grams {
        Grams {
            qkv: Gram::new(qkv),
            output: Gram::new(output),
            up: Gram::new(up),
            down: Gram::new(down),
        }
    }

    /// Adds the products of one text, in the order of computation.
    fn add(&mut self, products: &[&[f32]], rows: usize) {
        let grams = [
            &mut self.qkv,
            &mut self.output,
            &mut self.up,
            &mut self.down,
        ];
        for (gram, product) in grams.into_iter().zip(products) {
            gram.add(product, rows);
        }
    }

    /// That of the matrix of a part.
    pub fn of(&self, part: LayerPart) -> &Gram {
        match part {
            LayerPart::Qkv => &self.qkv,
            LayerPart::Output => &self.output,
            LayerPart::Gate | LayerPart::Up => &self.up,
            LayerPart::Down => &self.down,
        }
    }
}

/// What the matrices of a layer read for one text; each `[tokens, width]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Which text.
    pub text: usize,
    /// Its tokens.
    pub rows: usize,
    /// Of query, key and value.
    pub qkv: &'a [f32],
    /// What attention gives.
    pub output: &'a [f32],
    /// Of gate and up.
    pub up: &'a [f32],
    /// Inner width of the feed-forward part.
    pub down: &'a [f32],
    /// Hidden states behind the layer, `[tokens, hidden]`.
    pub after: &'a [f32],
}

/// The stream of one text in a layer; each `[tokens, hidden]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// What query, key and value read.
    pub qkv: Vec<f32>,
    /// Behind attention.
    pub middle: Vec<f32>,
    /// What gate and up read.
    pub up: Vec<f32>,
    /// Behind the layer.
    pub after: Vec<f32>,
}

impl Stream {
    /// How much each token counts: 1, but for the few whose states are many times larger than others' (the first of a text, often),
    /// which would decide alone.
    fn shares(&self, hidden: usize) -> Vec<f32> {
        let squares: Vec<f32> = (self
            .after
            .chunks_exact(hidden)
            .zip(self.middle.chunks_exact(hidden)))
        .map(|(a, b)| {
            let square = |state: &[f32]| state.iter().map(|value| value * value).sum::<f32>();
            square(a).max(square(b))
        })
        .collect();
        let mut sorted = squares.clone();
        sorted.sort_by(f32::total_cmp);
        let most = sorted[sorted.len() / 2] * 9.0;
        squares
            .iter()
            .map(|square| (most / square.max(f32::MIN_POSITIVE)).min(1.0))
            .collect()
    }

    fn places(&self) -> [&[f32]; 4] {
        [&self.qkv, &self.middle, &self.up, &self.after]
    }
}

/// Sums over tokens of what is missing to another stream, times what a matrix reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// `[hidden, hidden]`: what the input of query, key and value is short of.
    pub qkv: Vec<f64>,
    /// `[hidden, inputs]`: what the stream is short of behind attention.
    pub output: Vec<f64>,
    /// `[hidden, hidden]`: what the input of gate and up is short of.
    pub up: Vec<f64>,
    /// `[hidden, inputs]`: what the stream is short of behind the layer.
    pub down: Vec<f64>,
}

impl Missing {
    /// Of the matrices that read the same as `part`.
    pub fn of(&self, part: LayerPart) -> &[f64] {
        match part {
            LayerPart::Qkv => &self.qkv,
            LayerPart::Output => &self.output,
            LayerPart::Gate | LayerPart::Up => &self.up,
            LayerPart::Down => &self.down,
        }
    }
}

/// Hears the scores of a position.
pub type Hear<'h> = &'h mut dyn FnMut(usize, &[f32]) -> Result<(), ForgeError>;

/// Hears the keys and values of a text.
pub type HearCache<'h> = &'h mut dyn FnMut(&[f32], &[f32]) -> Result<(), ForgeError>;

/// Hears of a text, its rows, the inputs of a layer's matrices, and the hidden states behind it.
type Seen<'h> = &'h mut dyn FnMut(usize, usize, &[&[f32]], &[f32]) -> Result<(), ForgeError>;

/// A model to walk through.
pub struct Walk<'a> {
    runtime: &'a Runtime,
    spec: &'a DecoderSpec,
    weights: &'a dyn Weights,
    coding: &'a dyn Coding,
    /// Where graphs stand while they run.
    scratch: PathBuf,
}

impl<'a> Walk<'a> {
    /// A model whose matrices are computed as `coding` stores them: [`decoder::Options::FP32`] for the float reference. Graphs are written into
    /// `scratch`, an existing folder, one after the other under the same name.
    pub fn new(
        runtime: &'a Runtime,
        (spec, weights): (&'a DecoderSpec, &'a dyn Weights),
        coding: &'a dyn Coding,
        scratch: &Path,
    ) -> Walk<'a> {
        Walk {
            runtime,
            spec,
            weights,
            coding,
            scratch: scratch.to_path_buf(),
        }
    }

    /// Vectors of a text's tokens, `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`ForgeError::Walk`] for a text that is empty, too long, or has a token that the model does not know; those of the
    /// weights.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ForgeError> {
        let limit = MAX_TEXT_TOKENS.min(self.spec.context);
        if !(1..=limit).contains(&tokens.len()) {
            return Err(wrong(
                "tokens of a text",
                format!("1 to {limit}"),
                tokens.len(),
            ));
        }
        let table = &self.spec.embedding;
        let mut hidden = Vec::with_capacity(tokens.len() * self.spec.hidden);
        for &token in tokens {
            let row = token as usize;
            if row >= self.spec.vocab {
                let expected = format!("below {}", self.spec.vocab);
                return Err(wrong("a token", expected, row));
            }
            let elements = table.row(self.weights, row)?;
            let scaled = elements
                .iter()
                .map(|element| element * self.spec.embedding_scale);
            hidden.extend(scaled);
        }
        if let Some(part) = &self.spec.positions {
            let rows = self.weights.rows(&part.tensor, 0..tokens.len())?;
            for (element, position) in hidden.iter_mut().zip(rows) {
                *element += position;
            }
        }
        Ok(hidden)
    }

    /// Takes the hidden states of all texts, each `[tokens, hidden]`, through layer `index`.
    ///
    /// # Errors
    /// Those of building the graph and of running it.
    pub fn layer(&self, index: usize, hidden: &mut [Vec<f32>]) -> Result<(), ForgeError> {
        self.run(index, Look::Away, hidden, &mut |_, _, _, _| Ok(()))
    }

    /// The same, and returns the Gram matrices of what the layer's matrices read.
    ///
    /// # Errors
    /// As [`Walk::layer`].
    pub fn layer_grams(&self, index: usize, hidden: &mut [Vec<f32>]) -> Result<Grams, ForgeError> {
        let mut grams = Grams::new(pieces_widths(self.spec, &self.spec.layers[index]));
        self.run(index, Look::Gram, hidden, &mut |_, rows, seen, _| {
            grams.add(seen, rows);
            Ok(())
        })?;
        Ok(grams)
    }

    /// The same, and returns the stream of each text between the layer's matrices.
    ///
    /// # Errors
    /// As [`Walk::layer`].
    pub fn layer_streams(
        &self,
        index: usize,
        hidden: &mut [Vec<f32>],
    ) -> Result<Vec<Stream>, ForgeError> {
        let mut streams = Vec::with_capacity(hidden.len());
        self.run(index, Look::Stream, hidden, &mut |_, _, seen, after| {
            let [qkv, middle, up] = [0, 1, 2].map(|at| seen[at].to_vec());
            let after = after.to_vec();
            streams.push(Stream {
                qkv,
                middle,
                up,
                after,
            });
            Ok(())
        })?;
        Ok(streams)
    }

    /// As [`Walk::layer_grams`], and what is missing to the streams of the same texts through another model.
    ///
    /// # Errors
    /// As [`Walk::layer`], and [`ForgeError::Walk`] for streams that are not those of these texts.
    pub fn layer_toward(
        &self,
        index: usize,
        hidden: &mut [Vec<f32>],
        streams: &[Stream],
    ) -> Result<(Grams, Missing), ForgeError> {
        let lengths = |of: &mut dyn Iterator<Item = usize>| of.collect::<Vec<_>>();
        let expected = lengths(&mut hidden.iter().map(Vec::len));
        let found = lengths(&mut streams.iter().map(|stream| stream.after.len()));
        if expected != found {
            let found = found.iter().sum();
            return Err(wrong(
                "elements of other streams",
                format!("{}", expected.iter().sum::<usize>()),
                found,
            ));
        }
        let widths = pieces_widths(self.spec, &self.spec.layers[index]);
        let mut grams = Grams::new(widths);
        let mut sums = widths.map(|width| vec![0.0_f64; self.spec.hidden * width]);
        self.pass(
            index,
            (Look::Toward, streams),
            hidden,
            &mut |_, rows, seen, _| {
                grams.add(seen, rows);
                for (sum, product) in sums.iter_mut().zip(&seen[4..]) {
                    add(sum, product);
                }
                Ok(())
            },
        )?;
        let [qkv, output, up, down] = sums;
        Ok((
            grams,
            Missing {
                qkv,
                output,
                up,
                down,
            },
        ))
    }

    /// The same, and shows for each text what the layer's matrices read.
    ///
    /// # Errors
    /// As [`Walk::layer`], and those of `hear`.
    pub fn layer_inputs(
        &self,
        index: usize,
        hidden: &mut [Vec<f32>],
        hear: &mut dyn FnMut(Inputs<'_>) -> Result<(), ForgeError>,
    ) -> Result<(), ForgeError> {
        self.run(
            index,
            Look::Inputs,
            hidden,
            &mut |text, rows, seen, after| {
                hear(Inputs {
                    text,
                    rows,
                    qkv: seen[0],
                    output: seen[1],
                    up: seen[2],
                    down: seen[3],
                    after,
                })
            },
        )
    }

    /// The same, and shows for each text the keys (rotated) and values that attention keeps, each
    /// `[kv_heads, tokens, head_dim]`.
    ///
    /// # Errors
    /// As [`Walk::layer`], and those of `hear`.
    pub fn layer_cache(
        &self,
        index: usize,
        hidden: &mut [Vec<f32>],
        hear: HearCache<'_>,
    ) -> Result<(), ForgeError> {
        self.run(index, Look::Cache, hidden, &mut |_, _, seen, _| {
            hear(seen[0], seen[1])
        })
    }

    /// Opens the final norm and the output head.
    ///
    /// # Errors
    /// Those of building the graph and of opening it.
    pub fn head(&self) -> Result<Head, ForgeError> {
        let graph = decoder::head(self.weights, self.spec, self.coding)?;
        let shape = [Dim::Any, Dim::Any, Dim::Any];
        let session = self.open(
            graph,
            &[Wanted::new("hidden_in", Kind::F32, &shape)],
            &[Wanted::new("logits", Kind::F32, &shape)],
        )?;
        Ok(Head {
            session,
            hidden: self.spec.hidden,
            vocab: self.spec.vocab,
        })
    }

    fn run(
        &self,
        index: usize,
        look: Look,
        hidden: &mut [Vec<f32>],
        hear: Seen<'_>,
    ) -> Result<(), ForgeError> {
        self.pass(index, (look, &[]), hidden, hear)
    }

    /// Streams are fed to [`Look::Toward`], one for each text.
    fn pass(
        &self,
        index: usize,
        (look, streams): (Look, &[Stream]),
        hidden: &mut [Vec<f32>],
        hear: Seen<'_>,
    ) -> Result<(), ForgeError> {
        let graph = decoder::layer(self.weights, self.spec, index, self.coding, look)?;
        let any = [Dim::Any, Dim::Any, Dim::Any];
        let mut inputs = vec![
            Wanted::new("hidden_in", Kind::F32, &any),
            Wanted::new("seqlens_k", Kind::I32, &any[..1]),
            Wanted::new("total_sequence_length", Kind::I32, &[]),
        ];
        let toward: Vec<String> = match look {
            Look::Toward => STREAM
                .iter()
                .chain(&["after"])
                .map(|place| format!("{place}.toward"))
                .chain(["share".to_string()])
                .collect(),
            _ => Vec::new(),
        };
        inputs.extend(toward.iter().map(|name| Wanted::new(name, Kind::F32, &any)));
        let mut session = self.open(
            graph,
            &inputs,
            &[Wanted::new("hidden_out", Kind::F32, &any)],
        )?;
        let inputs =
            |ending: &str| ["qkv", "output", "up", "down"].map(|name| format!("{name}.{ending}"));
        let names = match look {
            Look::Away => Vec::new(),
            Look::Inputs => inputs("input").to_vec(),
            Look::Gram => inputs("gram").to_vec(),
            Look::Toward => [inputs("gram"), inputs("cross")].concat(),
            Look::Stream => STREAM.map(|place| format!("{place}.stream")).to_vec(),
            Look::Cache => ["key", "value"]
                .map(|kind| format!("present.{index}.{kind}"))
                .to_vec(),
        };
        for (text, states) in hidden.iter_mut().enumerate() {
            let rows = states.len() / self.spec.hidden;
            let (last, total) = ([rows as i32 - 1], [rows as i32]);
            let dims = [1, rows, self.spec.hidden];
            let mut feeds = vec![
                Feed::f32("hidden_in", &dims, states),
                Feed::i32("seqlens_k", &[1], &last),
                Feed::i32("total_sequence_length", &[], &total),
            ];
            let shares = streams
                .get(text)
                .map(|stream| stream.shares(self.spec.hidden))
                .unwrap_or_default();
            let share_dims = [1, rows, 1];
            if let [names @ .., share] = toward.as_slice() {
                for (name, place) in names.iter().zip(streams[text].places()) {
                    feeds.push(Feed::f32(name, &dims, place));
                }
                feeds.push(Feed::f32(share, &share_dims, &shares));
            }
            let outputs = session.run(&feeds)?;
            let after = outputs.f32("hidden_out")?.data;
            if look != Look::Away {
                let seen = names.iter().map(|name| Ok(outputs.f32(name)?.data));
                let seen = seen.collect::<Result<Vec<&[f32]>, ForgeError>>()?;
                hear(text, rows, &seen, after)?;
            }
            let after = after.to_vec();
            drop(outputs);
            *states = after;
        }
        Ok(())
    }

    fn open(
        &self,
        graph: Graph<'_>,
        inputs: &[Wanted<'_>],
        outputs: &[Wanted<'_>],
    ) -> Result<Session, ForgeError> {
        const FILE: &str = "walk.onnx";
        write_model(graph, &self.scratch, FILE, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })?;
        let path = self.scratch.join(FILE);
        let spec = SessionSpec { inputs, outputs };
        Ok(Session::open(
            self.runtime,
            "walk",
            &path,
            &spec,
            Threads::Shared,
        )?)
    }
}

/// The end of a walk: hidden states to scores.
pub struct Head {
    session: Session,
    hidden: usize,
    vocab: usize,
}

impl Head {
    /// Scores of the positions `from..` of one text, whose hidden states are `[tokens, hidden]`: calls `hear` with each position
    /// and its `[vocab]` scores.
    ///
    /// # Errors
    /// Those of a run, and those of `hear`.
    pub fn scores(
        &mut self,
        hidden: &[f32],
        from: usize,
        hear: Hear<'_>,
    ) -> Result<(), ForgeError> {
        let rest = hidden.get(from * self.hidden..).unwrap_or_default();
        for (chunk, states) in rest.chunks(SCORED_ROWS * self.hidden).enumerate() {
            let dims = [1, states.len() / self.hidden, self.hidden];
            let outputs = self.session.run(&[Feed::f32("hidden_in", &dims, states)])?;
            let scores = outputs.f32("logits")?.data;
            for (row, scores) in scores.chunks_exact(self.vocab).enumerate() {
                hear(from + chunk * SCORED_ROWS + row, scores)?;
            }
        }
        Ok(())
    }
}

fn wrong(what: &'static str, expected: String, found: usize) -> ForgeError {
    ForgeError::Walk {
        what,
        expected,
        found: found.to_string(),
    }
}
