//! Sound in, words out.
//!
//! Each step is a value that holds its own state and is pushed to: nothing here owns a thread, a clock or a microphone, so the
//! same code serves a live stream, a recording and a test.
//!
//! ```text
//!  message ─► PcmSpec ─► Resampler ─► VoiceActivity ─► Endpointer ─► Moonshine ─► Transcript
//!  any PCM    mono f32    16 kHz      0..1 a frame      start, end    samples      words
//! ```

mod decode;
mod endpoint;
mod error;
mod moonshine;
mod pcm;
mod resample;
mod utterance;
mod vad;
mod vocabulary;
pub mod wer;

pub use endpoint::{EndReason, EndpointOptions, Endpointer, Event};
pub use error::AudioError;
pub use moonshine::{Moonshine, Transcript, TranscriptEnd};
pub use pcm::{
    MAX_CHANNELS, MAX_CHUNK_SECONDS, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, PcmSpec, SampleFormat,
    Samples,
};
pub use resample::Resampler;
pub use utterance::{Heard, Listener, Utterance, UtteranceBuffer};
pub use vad::VoiceActivity;
pub use vocabulary::Vocabulary;

/// The one rate behind the resampler: what the voice-activity model and the recognizer were trained at.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
/// Samples of one voice-activity frame (32 ms).
pub const VAD_FRAME: usize = 512;
/// Longest utterance the recognizer takes, samples (30 s).
pub const MAX_UTTERANCE: usize = 30 * SAMPLE_RATE_HZ as usize;
