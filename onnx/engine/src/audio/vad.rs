//! Voice activity: how likely it is that somebody speaks in a frame of 32 ms (Silero VAD, 16 kHz).
//!
//! The network is recurrent: each frame sees the state that the frame before left behind, and the last 64 samples of that frame
//! in front of its own 512. Both live here, so a stream has one [`VoiceActivity`] and starts over with `reset`.

use std::time::Duration;

use super::{AudioError, SAMPLE_RATE_HZ, VAD_FRAME};
use crate::folder::ModelFolder;
use crate::runtime::Runtime;
use crate::session::{Dim, Feed, Kind, Session, SessionSpec, TensorSpec, Threads};

/// Samples of the frame before that the network sees again.
const CONTEXT: usize = 64;
/// State of the recurrent layer: `[2, 1, 128]`.
const STATE: [usize; 3] = [2, 1, 128];
const STATE_LEN: usize = 2 * 128;

/// A streaming voice-activity model with the memory of one stream.
#[derive(Debug)]
pub struct VoiceActivity {
    session: Session,
    /// Context and frame, as the network takes them.
    window: [f32; CONTEXT + VAD_FRAME],
    state: Vec<f32>,
}

impl VoiceActivity {
    /// Duration of one frame.
    pub const FRAME_DURATION: Duration = Duration::from_millis(32);

    /// Opens a model of the family `silero-vad`.
    ///
    /// # Errors
    /// [`AudioError::Engine`]: another family, a missing or broken file, a graph with other tensors.
    pub fn load(runtime: &Runtime, folder: &ModelFolder) -> Result<VoiceActivity, AudioError> {
        folder.expect_family("silero-vad")?;
        let state = STATE.map(Dim::Is);
        let spec = SessionSpec {
            inputs: &[
                TensorSpec::new("input", Kind::F32, &[Dim::Any, Dim::Any]),
                TensorSpec::new("state", Kind::F32, &[Dim::Is(2), Dim::Any, Dim::Is(128)]),
                TensorSpec::new("sr", Kind::I64, &[]),
            ],
            outputs: &[
                TensorSpec::new("output", Kind::F32, &[Dim::Any, Dim::Is(1)]),
                TensorSpec::new("stateN", Kind::F32, &state),
            ],
        };
        let path = folder.path("model.onnx")?;
        // 0.4 ms of work every 32 ms: waking a second thread would cost more than it gives.
        let session = Session::open(
            runtime,
            &folder.manifest.name,
            &path,
            &spec,
            Threads::Single,
        )?;
        Ok(VoiceActivity {
            session,
            window: [0.0; CONTEXT + VAD_FRAME],
            state: vec![0.0; STATE_LEN],
        })
    }

    /// Probability in [0, 1] that the next [`VAD_FRAME`] samples (16 kHz, [-1, 1]) contain speech.
    ///
    /// # Errors
    /// [`AudioError::FrameLength`]; [`AudioError::NotFinite`] for NaN or infinity, which would stay in the state for ever;
    /// [`AudioError::Engine`] when the run fails; [`AudioError::Output`]. The stream is as before the call then.
    pub fn push(&mut self, frame: &[f32]) -> Result<f32, AudioError> {
        if frame.len() != VAD_FRAME {
            return Err(AudioError::FrameLength {
                found: frame.len(),
                expected: VAD_FRAME,
            });
        }
        super::pcm::refuse_non_finite(frame.iter().copied())?;
        let mut window = self.window;
        window.copy_within(VAD_FRAME.., 0);
        window[CONTEXT..].copy_from_slice(frame);
        let (probability, finite) = {
            let outputs = self.session.run(&[
                Feed::f32("input", &[1, CONTEXT + VAD_FRAME], &window),
                Feed::f32("state", &STATE, &self.state),
                Feed::i64("sr", &[], &[i64::from(SAMPLE_RATE_HZ)]),
            ])?;
            let wrong = |tensor: &str, reason: String| AudioError::Output {
                tensor: tensor.to_owned(),
                reason,
            };
            let output = outputs.f32("output")?;
            let &[probability] = output.data else {
                return Err(wrong(
                    "output",
                    format!("{} values, expected 1", output.data.len()),
                ));
            };
            if !(0.0..=1.0).contains(&probability) {
                return Err(wrong("output", format!("{probability} is no probability")));
            }
            let state = outputs.f32("stateN")?.data;
            if state.len() != STATE_LEN {
                return Err(wrong(
                    "stateN",
                    format!("{} values, expected {STATE_LEN}", state.len()),
                ));
            }
            let finite = state.iter().all(|value| value.is_finite());
            if finite {
                self.state.copy_from_slice(state);
            }
            (probability, finite)
        };
        if !finite {
            return Err(AudioError::Output {
                tensor: "stateN".to_owned(),
                reason: "not finite".to_owned(),
            });
        }
        self.window = window;
        Ok(probability)
    }

    /// Forgets the stream: the next frame is the first of another.
    pub fn reset(&mut self) {
        self.window.fill(0.0);
        self.state.fill(0.0);
    }
}
