//! What model threads do: one worker per kind of model, each owning its sessions. The language model has a server of its own
//! ([`crate::language`]).

use std::{sync::Arc, time::Instant};

use llmasos_engine::{
    audio::{Moonshine, Transcript, VoiceActivity},
    session::Terminator,
    text::CancelToken,
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
