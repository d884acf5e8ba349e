//! What can be wrong with sound or with a speech model, one variant per failed check.
//!
//! Everything a microphone message, a model folder or a model's output may contain is checked here or beside its reader;
//! a variant carries the number found and the number expected, because the caller turns it into a diagnostic of a topic.

use crate::error::EngineError;

/// A refusal of the audio half. `Display` is one line without the topic: the caller knows it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// The rate is zero, absurdly low, or above [`super::MAX_SAMPLE_RATE_HZ`].
    #[error("sample rate {found} Hz is outside {min}..={max} Hz")]
    SampleRate {
        /// What the message said.
        found: u32,
        /// [`super::MIN_SAMPLE_RATE_HZ`].
        min: u32,
        /// [`super::MAX_SAMPLE_RATE_HZ`].
        max: u32,
    },
    /// No channel, or more than [`super::MAX_CHANNELS`].
    #[error("{found} channels: expected 1..={max}")]
    Channels {
        /// What the message said.
        found: u32,
        /// [`super::MAX_CHANNELS`].
        max: u32,
    },
    /// The format code or name is none of [`super::SampleFormat`].
    #[error("sample format {found:?} is not supported: expected {expected}")]
    Format {
        /// Code or name as it arrived, shortened.
        found: String,
        /// The supported ones.
        expected: &'static str,
    },
    /// The payload ends inside a frame (one sample of every channel).
    #[error("{found} bytes are not a whole number of frames of {frame_bytes} bytes")]
    PartialFrame {
        /// Payload length in bytes.
        found: usize,
        /// Bytes of one sample times channels.
        frame_bytes: usize,
    },
    /// One message holds more sound than [`super::MAX_CHUNK_SECONDS`].
    #[error("{found} frames in one chunk: at most {max} (at this rate)")]
    ChunkTooLong {
        /// Frames in the payload.
        found: usize,
        /// Frames allowed.
        max: usize,
    },
    /// Float samples that are NaN or infinite; nothing of the chunk is used.
    #[error("{count} samples are NaN or infinite, the first at index {first}")]
    NotFinite {
        /// How many.
        count: usize,
        /// Index of the first in the interleaved payload.
        first: usize,
    },
    /// The resampler could not be built or refused a chunk.
    #[error("resampling from {rate_hz} Hz: {reason}")]
    Resample {
        /// Input rate.
        rate_hz: u32,
        /// The library's own words.
        reason: String,
    },
    /// A voice-activity frame of the wrong length.
    #[error("a voice-activity frame has {found} samples: expected {expected}")]
    FrameLength {
        /// Samples given.
        found: usize,
        /// [`super::VAD_FRAME`].
        expected: usize,
    },
    /// An endpointer setting that makes no sense.
    #[error("endpointer: {field} = {found} is outside {min}..={max}")]
    Setting {
        /// Field of [`super::EndpointOptions`].
        field: &'static str,
        /// Its value.
        found: f64,
        /// Lowest that is allowed.
        min: f64,
        /// Highest that is allowed.
        max: f64,
    },
    /// An utterance longer than the recognizer takes.
    #[error("an utterance of {found} samples: at most {max} (16 kHz)")]
    UtteranceTooLong {
        /// Samples given.
        found: usize,
        /// [`super::MAX_UTTERANCE`].
        max: usize,
    },
    /// A vocabulary file that breaks a rule of the format.
    #[error("tokenizer.bin: byte {offset}: {reason}")]
    Vocabulary {
        /// Where in it.
        offset: usize,
        /// Which rule.
        reason: String,
    },
    /// The model folder, a session or a run failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The graph's output is not what the family promises.
    #[error("output {tensor:?}: {reason}")]
    Output {
        /// Tensor name.
        tensor: String,
        /// Shape or values found and expected.
        reason: String,
    },
    /// The caller asked to stop; nothing is wrong with the model.
    #[error("stopped after {tokens} tokens: cancelled or out of time")]
    Stopped {
        /// Tokens decoded until then.
        tokens: usize,
    },
}
