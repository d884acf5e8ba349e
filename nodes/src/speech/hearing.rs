//! Hearing: a stream of sound in, utterances out, by the voice-activity model and the endpointer.
//!
//! The models run on their own servers; this keeps only what a stream needs between chunks: the resampler, the part of a frame that is
//! not full yet, the sound since the last moment that can still matter, and the time of its samples.
//!
//! ```text
//! chunk ▸ resample to 16 kHz ▸ frames of 512 ▸ voice activity (model) ▸ endpointer ▸ Utterance { samples, start, end }
//! ```

use std::time::{Duration, Instant};

use llmasos_engine::{
    audio::{EndpointOptions, Heard, Resampler, SAMPLE_RATE_HZ, UtteranceBuffer, VAD_FRAME},
    text::CancelToken,
};

use super::sound::Sound;
use crate::{
    model::{AskError, ModelClient},
    workers::{VoiceJob, VoiceWork},
};

/// A gap or overlap of stamps from which the stream counts as a new one.
const GAP_NS: i64 = 500_000_000;
/// How long a voice-activity answer may take before the chunk counts as lost.
const VOICE_LIMIT: Duration = Duration::from_millis(500);

/// One utterance, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Utterance {
    /// 16 kHz, one channel.
    pub samples: Vec<f32>,
    /// Stamp of its first sample, in ns since the epoch.
    pub start_ns: i64,
    /// Stamp of its last speech sample.
    pub end_ns: i64,
    /// When the hang-over let it end, on the monotonic clock: from here on the driver waits for us.
    pub ended: Instant,
}

/// Why a chunk led nowhere.
#[derive(Debug, thiserror::Error)]
pub enum HearError {
    /// The sound cannot be used.
    #[error(transparent)]
    Audio(#[from] llmasos_engine::audio::AudioError),
    /// The voice-activity model gave no answer.
    #[error(transparent)]
    Model(#[from] AskError),
}

/// The state of one stream.
pub struct Hearing {
    buffer: UtteranceBuffer,
    resampler: Option<Resampler>,
    /// 16 kHz samples that do not fill a frame yet.
    rest: Vec<f32>,
    /// Stamp of sample 0 of the stream.
    origin_ns: Option<i64>,
    /// Stamp at which the next chunk should begin.
    next_ns: i64,
    /// Whether the voice-activity model must forget what it heard before the next frame.
    fresh: bool,
}

impl Hearing {
    /// A stream that has not begun.
    ///
    /// # Errors
    /// [`HearError::Audio`] for settings out of range.
    pub fn new(options: &EndpointOptions) -> Result<Self, HearError> {
        Ok(Hearing {
            buffer: UtteranceBuffer::new(options)?,
            resampler: None,
            rest: Vec::new(),
            origin_ns: None,
            next_ns: 0,
            fresh: true,
        })
    }

    /// Takes a chunk; `flush` says that no other follows (a file). Returns the utterances that ended in it.
    ///
    /// # Errors
    /// [`HearError`]; the stream goes on with the next chunk.
    pub async fn listen(
        &mut self,
        sound: &Sound,
        voice: &ModelClient<VoiceWork>,
        priority: u8,
        flush: bool,
    ) -> Result<Vec<Utterance>, HearError> {
        self.align(sound)?;
        if let Some(resampler) = &mut self.resampler {
            resampler.push(&sound.samples, &mut self.rest)?;
            if flush {
                resampler.flush(&mut self.rest)?;
            }
        }
        let frames = self.rest.len() / VAD_FRAME * VAD_FRAME;
        let mut ended = Vec::new();
        if frames > 0 {
            let samples: Vec<f32> = self.rest.drain(..frames).collect();
            let job = VoiceJob {
                samples: samples.clone(),
                reset: std::mem::take(&mut self.fresh),
            };
            let probabilities = voice
                .ask(
                    job,
                    priority,
                    Instant::now() + VOICE_LIMIT,
                    CancelToken::new(),
                )
                .await?;
            for (frame, probability) in samples.chunks_exact(VAD_FRAME).zip(probabilities) {
                ended.extend(self.buffer.push(frame, probability)?);
            }
        }
        if flush {
            ended.extend(self.buffer.finish());
        }
        Ok(ended
            .into_iter()
            .filter_map(|heard| self.utterance(heard))
            .collect())
    }

    /// A first chunk, a new rate or a gap in time begins a new stream.
    fn align(&mut self, sound: &Sound) -> Result<(), HearError> {
        let length_ns = (sound.samples.len() as i64).saturating_mul(1_000_000_000)
            / i64::from(sound.rate_hz.max(1));
        let begins_ns = sound.stamp_ns.saturating_sub(length_ns);
        let same_rate = self
            .resampler
            .as_ref()
            .is_some_and(|resampler| resampler.rate_hz() == sound.rate_hz);
        if !same_rate
            || self.origin_ns.is_none()
            || begins_ns.saturating_sub(self.next_ns).saturating_abs() > GAP_NS
        {
            self.resampler = Some(Resampler::new(sound.rate_hz)?);
            self.buffer.reset();
            self.rest.clear();
            self.origin_ns = Some(begins_ns);
            self.fresh = true;
        }
        self.next_ns = sound.stamp_ns;
        Ok(())
    }

    fn utterance(&self, heard: Heard) -> Option<Utterance> {
        let Heard::Utterance(utterance) = heard else {
            return None;
        };
        let origin_ns = self.origin_ns.unwrap_or(0);
        let stamp = |sample: u64| {
            origin_ns.saturating_add(
                (sample.saturating_mul(1_000_000_000) / u64::from(SAMPLE_RATE_HZ)) as i64,
            )
        };
        Some(Utterance {
            start_ns: stamp(utterance.start),
            end_ns: stamp(utterance.last_speech),
            samples: utterance.samples,
            ended: Instant::now(),
        })
    }
}
