//! What model threads do: one worker per kind of model, each owning its sessions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use llmasos_engine::{
    audio::{Moonshine, Transcript, VoiceActivity},
    session::Terminator,
    text::{CancelToken, ChatMessage, Grammar, LanguageModel, Request, Sampling},
    vision::{DetectOptions, Detections, Detector},
};

use crate::{frame::Frame, model::Work};

/// Voice activity of one stream.
pub struct VoiceWork {
    model: VoiceActivity,
}

/// Frames to score.
#[derive(Clone, Debug)]
pub struct VoiceJob {
    /// 16 kHz, a multiple of 512 samples.
    pub samples: Vec<f32>,
    /// Forget the stream before them.
    pub reset: bool,
}

impl VoiceWork {
    /// Owns a loaded model.
    pub fn new(model: VoiceActivity) -> Self {
        VoiceWork { model }
    }
}

impl Work for VoiceWork {
    type Job = VoiceJob;
    type Answer = Vec<f32>;

    fn run(
        &mut self,
        job: VoiceJob,
        _deadline: Instant,
        cancel: &CancelToken,
    ) -> Result<Vec<f32>, String> {
        if job.reset {
            self.model.reset();
        }
        let mut probabilities = Vec::with_capacity(job.samples.len() / 512);
        for frame in job.samples.chunks_exact(512) {
            if cancel.is_cancelled() {
                return Err("cancelled".to_owned());
            }
            probabilities.push(self.model.push(frame).map_err(|error| error.to_string())?);
        }
        Ok(probabilities)
    }

    fn warm_up(&mut self) -> Result<(), String> {
        self.model
            .push(&[0.0; 512])
            .map_err(|error| error.to_string())?;
        self.model.reset();
        Ok(())
    }

    fn class(_job: &VoiceJob) -> &'static str {
        "voice activity"
    }
}

/// Speech recognition.
pub struct RecogniseWork {
    model: Moonshine,
}

impl RecogniseWork {
    /// Owns a loaded model.
    pub fn new(model: Moonshine) -> Self {
        RecogniseWork { model }
    }
}

impl Work for RecogniseWork {
    /// 16 kHz, one channel.
    type Job = Arc<Vec<f32>>;
    type Answer = Transcript;

    fn run(
        &mut self,
        job: Self::Job,
        deadline: Instant,
        cancel: &CancelToken,
    ) -> Result<Transcript, String> {
        self.model
            .transcribe(&job, &|| {
                !cancel.is_cancelled() && Instant::now() < deadline
            })
            .map_err(|error| error.to_string())
    }

    fn warm_up(&mut self) -> Result<(), String> {
        self.model.warm_up().map_err(|error| error.to_string())
    }

    fn terminator(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let terminators = self.model.terminators();
        Some(Box::new(move || {
            terminators.iter().for_each(Terminator::terminate)
        }))
    }

    fn class(job: &Self::Job) -> &'static str {
        // Duration grows with length; two classes keep a short command from being judged by a long story.
        if job.len() < 64_000 {
            "short utterance"
        } else {
            "long utterance"
        }
    }
}

/// Object detection.
pub struct DetectWork {
    model: Detector,
    options: DetectOptions,
}

impl DetectWork {
    /// Owns a loaded model.
    pub fn new(model: Detector, options: DetectOptions) -> Self {
        DetectWork { model, options }
    }
}

/// What was found in one picture.
#[derive(Clone, Debug)]
pub struct Boxes {
    /// The objects.
    pub detections: Detections,
    /// Width of the picture, in pixels.
    pub width: u32,
}

impl Work for DetectWork {
    type Job = Arc<Frame>;
    type Answer = Boxes;

    fn run(
        &mut self,
        job: Self::Job,
        _deadline: Instant,
        _cancel: &CancelToken,
    ) -> Result<Boxes, String> {
        let picture = job.picture()?;
        let detections = self
            .model
            .detect(&picture, &self.options)
            .map_err(|error| error.to_string())?;
        Ok(Boxes {
            detections,
            width: picture.width(),
        })
    }

    fn warm_up(&mut self) -> Result<(), String> {
        self.model.warm_up().map_err(|error| error.to_string())
    }

    fn class(_job: &Self::Job) -> &'static str {
        "picture"
    }

    fn terminator(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let terminator = self.model.terminator();
        Some(Box::new(move || terminator.terminate()))
    }
}

/// The language model.
pub struct LanguageWork {
    model: LanguageModel,
    rates: Option<(f64, f64)>,
}

/// A question to the language model.
#[derive(Clone, Debug)]
pub struct LanguageJob {
    /// Who asks; durations are estimated per asker.
    pub class: &'static str,
    /// The conversation so far.
    pub messages: Vec<ChatMessage>,
    /// What the answer must look like.
    pub grammar: Option<Grammar>,
    /// Most tokens sampled.
    pub tokens_max: usize,
}

/// The model's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageAnswer {
    /// Its text.
    pub text: String,
    /// Whether it came to its own end (rather than to the token limit or the deadline).
    pub complete: bool,
    /// Tokens of the prompt.
    pub tokens_in: u32,
    /// Tokens of the answer.
    pub tokens_out: u32,
    /// Time of decoding, after the prompt.
    pub decode: Duration,
}

impl LanguageWork {
    /// Owns a loaded model.
    pub fn new(model: LanguageModel) -> Self {
        LanguageWork { model, rates: None }
    }
}

impl Work for LanguageWork {
    type Job = LanguageJob;
    type Answer = LanguageAnswer;

    fn run(
        &mut self,
        job: LanguageJob,
        deadline: Instant,
        cancel: &CancelToken,
    ) -> Result<LanguageAnswer, String> {
        let prompt = self
            .model
            .chat(&job.messages)
            .map_err(|error| error.to_string())?;
        let request = Request {
            prompt,
            max_tokens: job.tokens_max,
            sampling: Sampling::Greedy,
            grammar: job.grammar,
            deadline: Some(deadline),
            cancel: cancel.clone(),
            ..Request::default()
        };
        let mut generation = self
            .model
            .generate(&request)
            .map_err(|error| error.to_string())?;
        for piece in generation.by_ref() {
            piece.map_err(|error| error.to_string())?;
        }
        let finished = generation.finish().map_err(|error| error.to_string())?;
        let seconds = |duration: Duration| duration.as_secs_f64().max(1e-6);
        self.rates = Some((
            finished.tokens_in as f64 / seconds(finished.prefill),
            finished.tokens_out as f64 / seconds(finished.decode),
        ));
        Ok(LanguageAnswer {
            complete: finished.complete,
            text: finished.text,
            tokens_in: finished.tokens_in as u32,
            tokens_out: finished.tokens_out as u32,
            decode: finished.decode,
        })
    }

    fn warm_up(&mut self) -> Result<(), String> {
        self.model.warm_up().map_err(|error| error.to_string())
    }

    fn class(job: &LanguageJob) -> &'static str {
        job.class
    }

    fn terminator(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let terminator = self.model.terminator();
        Some(Box::new(move || terminator.terminate()))
    }

    fn readings(&self) -> Vec<(&'static str, String)> {
        self.rates.map_or_else(Vec::new, |(prefill, decode)| {
            vec![
                ("prefill_tokens_per_s", format!("{prefill:.0}")),
                ("decode_tokens_per_s", format!("{decode:.0}")),
            ]
        })
    }
}
