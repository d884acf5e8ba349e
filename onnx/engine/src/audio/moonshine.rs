//! Speech to text with Moonshine: an encoder that runs once over the samples, a decoder that runs once a token.
//!
//! The encoder takes raw samples, so a two-second command costs two seconds' worth of work and not the thirty seconds that
//! spectrogram models pad to. The decoder is one graph with two branches: the first step computes the keys and values of the
//! cross-attention from the encoder's output, every later step takes them back as inputs unchanged. All caches stay inside
//! ONNX Runtime's own tensors and are handed from run to run without a copy.
//!
//! ```text
//! samples ─► encoder ─► hidden ─► decoder, step 0 ─┬─► cross-attention keys, values: kept for all steps
//!                          │                       └─► own keys, values ─┐
//!                          └────► decoder, step n ◄──────────────────────┘ ─► next token, until </s>
//! ```

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::decode::{MIN_SAMPLES, best_token, repeated_tail, token_limit};
use super::{AudioError, MAX_UTTERANCE, Vocabulary};
use crate::folder::ModelFolder;
use crate::runtime::Runtime;
use crate::session::{
    Dim, Feed, Held, Kind, Session, SessionSpec, TensorSpec, Terminator, Threads,
};

const FAMILY: &str = "moonshine";
/// Most decoder layers believed in a manifest; the base model has 8.
const MAX_LAYERS: usize = 32;

/// The family's settings. What a manifest leaves out is Moonshine tiny.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(default = "tiny::layers")]
    layers: usize,
    #[serde(default = "tiny::heads")]
    heads: usize,
    #[serde(default = "tiny::head_dim")]
    head_dim: usize,
    #[serde(default = "tiny::bos")]
    bos: u32,
    #[serde(default = "tiny::eos")]
    eos: Vec<u32>,
}

/// Sizes of Moonshine tiny (Jeffries et al. 2024, table 1).
mod tiny {
    pub(super) fn layers() -> usize {
        6
    }
    pub(super) fn heads() -> usize {
        8
    }
    pub(super) fn head_dim() -> usize {
        36
    }
    pub(super) fn bos() -> u32 {
        1
    }
    pub(super) fn eos() -> Vec<u32> {
        vec![2]
    }
}

/// Why the text ends where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranscriptEnd {
    /// The model said so.
    EndOfText,
    /// More tokens than anybody can speak in that time; the text may be cut.
    TokenLimit,
    /// The model went round in circles; the repetitions were removed.
    Repetition,
}

/// What was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    /// Words as the model writes them, with capitals and punctuation.
    pub text: String,
    /// Mean probability of the tokens in [0, 1]; 0 when there is no text.
    pub confidence: f32,
    /// Token ids of the text.
    pub tokens: Vec<u32>,
    /// Probability of each of them in (0, 1].
    pub probabilities: Vec<f32>,
    /// Why it ended.
    pub end: TranscriptEnd,
    /// Time of the encoder.
    pub encoder: Duration,
    /// Time of the decoder, all steps.
    pub decoder: Duration,
}

/// A loaded recognizer. One utterance at a time.
#[derive(Debug)]
pub struct Moonshine {
    encoder: Session,
    decoder: Session,
    vocabulary: Vocabulary,
    config: Config,
    names: CacheNames,
    /// Ones, as long as the longest utterance so far: both graphs want a mask although nothing is masked.
    mask: Vec<i64>,
    /// A very short utterance with the silence it needs.
    padded: Vec<f32>,
}

/// Names of the cache tensors, written once instead of once a token.
#[derive(Debug)]
struct CacheNames {
    /// Own keys and values: (input, output).
    decoder: Vec<(String, String)>,
    /// Of the cross-attention.
    encoder: Vec<(String, String)>,
}

impl CacheNames {
    fn new(layers: usize) -> CacheNames {
        let all = |part: &str| {
            (0..layers)
                .flat_map(|layer| ["key", "value"].map(|half| format!("{layer}.{part}.{half}")))
                .map(|name| (format!("past_key_values.{name}"), format!("present.{name}")))
                .collect()
        };
        CacheNames {
            decoder: all("decoder"),
            encoder: all("encoder"),
        }
    }

    fn all(&self) -> impl Iterator<Item = &(String, String)> {
        self.decoder.iter().chain(&self.encoder)
    }
}

/// The decoder's memory between two steps; all of it empty before the first.
#[derive(Default)]
struct Caches {
    decoder: Vec<Held>,
    encoder: Vec<Held>,
}

impl Moonshine {
    /// Opens a model of the family `moonshine`.
    ///
    /// # Errors
    /// [`AudioError::Engine`]: another family, a missing or broken file, graphs with other tensors;
    /// [`AudioError::Vocabulary`]; [`AudioError::Setting`] for a manifest that asks for an absurd size.
    pub fn load(runtime: &Runtime, folder: &ModelFolder) -> Result<Moonshine, AudioError> {
        folder.expect_family(FAMILY)?;
        let config: Config = folder.config()?;
        if !(1..=MAX_LAYERS).contains(&config.layers) {
            let (found, max) = (config.layers as f64, MAX_LAYERS as f64);
            return Err(AudioError::Setting {
                field: "layers",
                found,
                min: 1.0,
                max,
            });
        }
        let vocabulary = Vocabulary::load(folder)?;
        let names = CacheNames::new(config.layers);
        let name = &folder.manifest.name;
        let encoder = Session::open(
            runtime,
            name,
            &folder.path("encoder_model.ort")?,
            &SessionSpec {
                inputs: &[
                    TensorSpec::new("input_values", Kind::F32, &[Dim::Any, Dim::Any]),
                    TensorSpec::new("attention_mask", Kind::I64, &[Dim::Any, Dim::Any]),
                ],
                outputs: &[TensorSpec::new(
                    "last_hidden_state",
                    Kind::F32,
                    &[Dim::Any; 3],
                )],
            },
            Threads::Shared,
        )?;
        let decoder = open_decoder(runtime, folder, &config, &names, vocabulary.len())?;
        Ok(Moonshine {
            encoder,
            decoder,
            vocabulary,
            config,
            names,
            mask: Vec::new(),
            padded: Vec::new(),
        })
    }

    /// Recognizes an utterance: samples at 16 kHz in [-1, 1], at most [`MAX_UTTERANCE`].
    ///
    /// `go_on` is asked before every step; `false` ends the work within one of them (a few milliseconds; the encoder takes
    /// about 20 ms for each second of sound). An empty utterance is an empty transcript; a very short one is padded with
    /// silence.
    ///
    /// # Errors
    /// [`AudioError::UtteranceTooLong`], [`AudioError::NotFinite`], [`AudioError::Stopped`], [`AudioError::Output`],
    /// [`AudioError::Engine`].
    pub fn transcribe(
        &mut self,
        samples: &[f32],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Transcript, AudioError> {
        if samples.len() > MAX_UTTERANCE {
            return Err(AudioError::UtteranceTooLong {
                found: samples.len(),
                max: MAX_UTTERANCE,
            });
        }
        super::pcm::refuse_non_finite(samples.iter().copied())?;
        if samples.is_empty() {
            return Ok(self.transcript(
                Spoken::default(),
                TranscriptEnd::EndOfText,
                Duration::ZERO,
                Duration::ZERO,
            ));
        }
        if !go_on() {
            return Err(AudioError::Stopped { tokens: 0 });
        }
        let limit = token_limit(samples.len());
        let started = Instant::now();
        let (hidden, length) = self.encode(samples)?;
        let encoder = started.elapsed();
        let started = Instant::now();
        let (spoken, end) = self.decode(&hidden, length, limit, go_on)?;
        Ok(self.transcript(spoken, end, encoder, started.elapsed()))
    }

    /// Runs both graphs once over half a second of silence, so that the first real utterance does not pay for first touches.
    ///
    /// # Errors
    /// As [`Moonshine::transcribe`].
    pub fn warm_up(&mut self) -> Result<(), AudioError> {
        self.transcribe(&[0.0; 8_000], &|| true).map(|_| ())
    }

    /// Handles that end a run of the encoder or of the decoder from another thread, for a run that hangs. They act on the run
    /// that goes on now; what ends the steps after it is `go_on`.
    #[must_use]
    pub fn terminators(&self) -> [Terminator; 2] {
        [self.encoder.terminator(), self.decoder.terminator()]
    }

    /// Hidden states `[1, frames, hidden]`, and the number of samples that went in, padding included.
    fn encode(&mut self, samples: &[f32]) -> Result<(Held, usize), AudioError> {
        let samples = if samples.len() < MIN_SAMPLES {
            self.padded.clear();
            self.padded.extend_from_slice(samples);
            self.padded.resize(MIN_SAMPLES, 0.0);
            &self.padded
        } else {
            samples
        };
        let length = samples.len();
        if self.mask.len() < length {
            self.mask.resize(length, 1);
        }
        let mut outputs = self.encoder.run(&[
            Feed::f32("input_values", &[1, length], samples),
            Feed::i64("attention_mask", &[1, length], &self.mask[..length]),
        ])?;
        Ok((outputs.take("last_hidden_state")?, length))
    }

    fn decode(
        &mut self,
        hidden: &Held,
        length: usize,
        limit: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(Spoken, TranscriptEnd), AudioError> {
        let mut spoken = Spoken::default();
        let mut caches = Caches::default();
        let mut token = self.config.bos;
        loop {
            if !go_on() {
                return Err(AudioError::Stopped {
                    tokens: spoken.tokens.len(),
                });
            }
            let (next, probability) = self.step(token, hidden, length, &mut caches)?;
            if self.config.eos.contains(&next) {
                return Ok((spoken, TranscriptEnd::EndOfText));
            }
            if spoken.tokens.len() == limit {
                return Ok((spoken, TranscriptEnd::TokenLimit));
            }
            spoken.tokens.push(next);
            spoken.probabilities.push(probability);
            if let Some(keep) = repeated_tail(&spoken.tokens) {
                spoken.tokens.truncate(keep);
                spoken.probabilities.truncate(keep);
                return Ok((spoken, TranscriptEnd::Repetition));
            }
            token = next;
        }
    }

    /// One run of the decoder: the token before in, the most probable next one out.
    fn step(
        &mut self,
        token: u32,
        hidden: &Held,
        length: usize,
        caches: &mut Caches,
    ) -> Result<(u32, f32), AudioError> {
        let first = caches.decoder.is_empty();
        let ids = [i64::from(token)];
        let use_cache = [!first];
        let mask_dims = [1, length];
        let empty = [1, self.config.heads, 0, self.config.head_dim];
        let mut feeds = Vec::with_capacity(4 + 4 * self.config.layers);
        feeds.extend([
            Feed::i64("input_ids", &[1, 1], &ids),
            Feed::held("encoder_hidden_states", hidden),
            // The length in samples, not in hidden states: the graph strides the mask itself.
            Feed::i64("encoder_attention_mask", &mask_dims, &self.mask[..length]),
            Feed::bool("use_cache_branch", &[1], &use_cache),
        ]);
        if first {
            feeds.extend(
                self.names
                    .all()
                    .map(|(past, _)| Feed::f32(past, &empty, &[])),
            );
        } else {
            let held = caches.decoder.iter().chain(&caches.encoder);
            feeds.extend(
                self.names
                    .all()
                    .zip(held)
                    .map(|((past, _), held)| Feed::held(past, held)),
            );
        }
        let mut outputs = self.decoder.run(&feeds)?;
        let chosen = choose(outputs.f32("logits")?.data, self.vocabulary.len())?;
        let decoder = self
            .names
            .decoder
            .iter()
            .map(|(_, present)| outputs.take(present))
            .collect::<Result<_, _>>()?;
        if first {
            // Later steps return empty ones.
            caches.encoder = self
                .names
                .encoder
                .iter()
                .map(|(_, present)| outputs.take(present))
                .collect::<Result<_, _>>()?;
        }
        caches.decoder = decoder;
        Ok(chosen)
    }

    fn transcript(
        &self,
        spoken: Spoken,
        end: TranscriptEnd,
        encoder: Duration,
        decoder: Duration,
    ) -> Transcript {
        let text = self.vocabulary.text(&spoken.tokens);
        let confidence = if text.is_empty() {
            0.0
        } else {
            spoken.probabilities.iter().sum::<f32>() / spoken.probabilities.len().max(1) as f32
        };
        let Spoken {
            tokens,
            probabilities,
        } = spoken;
        Transcript {
            text,
            confidence,
            tokens,
            probabilities,
            end,
            encoder,
            decoder,
        }
    }
}

/// Tokens so far, with their probabilities.
#[derive(Default)]
struct Spoken {
    tokens: Vec<u32>,
    probabilities: Vec<f32>,
}

/// The next token and its probability, out of the scores of all `expected` tokens.
fn choose(logits: &[f32], expected: usize) -> Result<(u32, f32), AudioError> {
    let reason = if logits.len() != expected {
        format!("{} values, expected {expected}", logits.len())
    } else if let Some(chosen) = best_token(logits) {
        return Ok(chosen);
    } else {
        "no token has a finite score".to_owned()
    };
    let tensor = "logits".to_owned();
    Err(AudioError::Output { tensor, reason })
}

fn open_decoder(
    runtime: &Runtime,
    folder: &ModelFolder,
    config: &Config,
    names: &CacheNames,
    vocabulary: usize,
) -> Result<Session, AudioError> {
    let cache = [
        Dim::Any,
        Dim::Is(config.heads),
        Dim::Any,
        Dim::Is(config.head_dim),
    ];
    let mut inputs = vec![
        TensorSpec::new("input_ids", Kind::I64, &[Dim::Any, Dim::Any]),
        TensorSpec::new("encoder_hidden_states", Kind::F32, &[Dim::Any; 3]),
        TensorSpec::new("encoder_attention_mask", Kind::I64, &[Dim::Any, Dim::Any]),
        TensorSpec::new("use_cache_branch", Kind::Bool, &[Dim::Is(1)]),
    ];
    inputs.extend(
        names
            .all()
            .map(|(past, _)| TensorSpec::new(past, Kind::F32, &cache)),
    );
    let logits = [Dim::Any, Dim::Any, Dim::Is(vocabulary)];
    let mut outputs = vec![TensorSpec::new("logits", Kind::F32, &logits)];
    outputs.extend(
        names
            .all()
            .map(|(_, present)| TensorSpec::new(present, Kind::F32, &cache)),
    );
    let spec = SessionSpec {
        inputs: &inputs,
        outputs: &outputs,
    };
    let path = folder.path("decoder_model_merged.ort")?;
    // A step is 4 ms of 8-bit matrix-vector products. A second thread that spins between them costs 1.7 times the processor
    // time for the same answer time, and doubles the answer time when the language model wants that core too (measured).
    let threads = Threads::Single;
    Ok(Session::open(
        runtime,
        &folder.manifest.name,
        &path,
        &spec,
        threads,
    )?)
}
