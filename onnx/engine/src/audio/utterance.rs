//! The sound of an utterance, kept until the endpointer says where it begins and ends.
//!
//! The endpointer speaks in sample positions and its pre-roll reaches into the past, so somebody has to remember: this buffer
//! holds exactly the samples that a later event may still name and forgets the rest with every frame. Its size is bounded by
//! the maximum utterance plus the pre-roll.

use std::collections::VecDeque;

use super::endpoint::{EndReason, EndpointOptions, Endpointer, Event};
use super::{AudioError, SAMPLE_RATE_HZ, VAD_FRAME, VoiceActivity};

/// What a stream of sound brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Somebody has begun to speak.
    Started {
        /// First sample of the utterance (16 kHz, since the start of the stream).
        sample: u64,
    },
    /// An utterance to recognize.
    Utterance(Utterance),
}

/// The samples of an utterance and where they stood in the stream (16 kHz, since its start).
#[derive(Debug, Clone, PartialEq)]
pub struct Utterance {
    /// First sample, pre-roll included.
    pub start: u64,
    /// One past the last sample.
    pub end: u64,
    /// One past the last sample of the last speech frame: answer times count from here.
    pub last_speech: u64,
    /// Why it ended.
    pub reason: EndReason,
    /// `end - start` samples.
    pub samples: Vec<f32>,
}

impl Utterance {
    /// Length in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(SAMPLE_RATE_HZ)
    }
}

/// An [`Endpointer`] together with the samples it speaks of.
#[derive(Debug, Clone)]
pub struct UtteranceBuffer {
    endpointer: Endpointer,
    samples: VecDeque<f32>,
    /// Position of the first sample in `samples`.
    first: u64,
    frame_samples: usize,
}

impl UtteranceBuffer {
    /// As [`Endpointer::new`].
    ///
    /// # Errors
    /// [`AudioError::Setting`].
    pub fn new(options: &EndpointOptions) -> Result<UtteranceBuffer, AudioError> {
        let endpointer = Endpointer::new(options)?;
        Ok(UtteranceBuffer {
            endpointer,
            samples: VecDeque::new(),
            first: 0,
            frame_samples: options.frame_samples as usize,
        })
    }

    /// Takes one frame and the probability that it is speech.
    ///
    /// # Errors
    /// [`AudioError::FrameLength`].
    pub fn push(&mut self, frame: &[f32], probability: f32) -> Result<Option<Heard>, AudioError> {
        if frame.len() != self.frame_samples {
            return Err(AudioError::FrameLength {
                found: frame.len(),
                expected: self.frame_samples,
            });
        }
        self.samples.extend(frame);
        let event = self.endpointer.push(probability);
        let heard = event.map(|event| self.heard(event));
        self.forget();
        Ok(heard)
    }

    /// The sound is over: ends the utterance that is under way, if any.
    pub fn finish(&mut self) -> Option<Heard> {
        let event = self.endpointer.finish();
        let heard = event.map(|event| self.heard(event));
        self.forget();
        heard
    }

    /// Forgets everything; positions count from zero again.
    pub fn reset(&mut self) {
        self.endpointer.reset();
        self.samples.clear();
        self.first = 0;
    }

    /// Whether an utterance is under way.
    #[must_use]
    pub fn is_speaking(&self) -> bool {
        self.endpointer.is_speaking()
    }

    /// Samples seen so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.endpointer.position()
    }

    fn heard(&self, event: Event) -> Heard {
        match event {
            Event::SpeechStart { sample } => Heard::Started { sample },
            Event::SpeechEnd {
                start,
                end,
                last_speech,
                reason,
            } => {
                let index = |sample: u64| {
                    (sample.saturating_sub(self.first) as usize).min(self.samples.len())
                };
                let samples = self
                    .samples
                    .range(index(start)..index(end))
                    .copied()
                    .collect();
                Heard::Utterance(Utterance {
                    start,
                    end,
                    last_speech,
                    reason,
                    samples,
                })
            }
        }
    }

    fn forget(&mut self) {
        let surplus = self.endpointer.keep_from().saturating_sub(self.first) as usize;
        let surplus = surplus.min(self.samples.len());
        self.samples.drain(..surplus);
        self.first += surplus as u64;
    }
}

/// A stream of 16 kHz sound in, utterances out: voice activity and [`UtteranceBuffer`] in one, for chunks of any length.
#[derive(Debug)]
pub struct Listener {
    activity: VoiceActivity,
    buffer: UtteranceBuffer,
    /// Samples that do not fill a frame yet.
    pending: Vec<f32>,
}

impl Listener {
    /// Listens with a loaded model; `options.frame_samples` must be [`VAD_FRAME`].
    ///
    /// # Errors
    /// [`AudioError::Setting`], [`AudioError::FrameLength`].
    pub fn new(activity: VoiceActivity, options: &EndpointOptions) -> Result<Listener, AudioError> {
        if options.frame_samples as usize != VAD_FRAME {
            return Err(AudioError::FrameLength {
                found: options.frame_samples as usize,
                expected: VAD_FRAME,
            });
        }
        Ok(Listener {
            activity,
            buffer: UtteranceBuffer::new(options)?,
            pending: Vec::with_capacity(VAD_FRAME),
        })
    }

    /// Takes samples and appends what they brought to `heard`.
    ///
    /// # Errors
    /// As [`VoiceActivity::push`]. The rest of the chunk is dropped and the stream starts over then, so that one bad frame does
    /// not glue two halves of an utterance together.
    pub fn push(&mut self, samples: &[f32], heard: &mut Vec<Heard>) -> Result<(), AudioError> {
        let mut samples = samples;
        while self.pending.len() + samples.len() >= VAD_FRAME {
            let (head, rest) = samples.split_at(VAD_FRAME - self.pending.len());
            samples = rest;
            self.pending.extend_from_slice(head);
            let result = self.frame();
            self.pending.clear();
            match result {
                Ok(found) => heard.extend(found),
                Err(error) => {
                    self.reset();
                    return Err(error);
                }
            }
        }
        self.pending.extend_from_slice(samples);
        Ok(())
    }

    /// The sound is over: ends the utterance that is under way, if any, and starts over. Samples that do not fill a frame
    /// (less than 32 ms) are dropped.
    pub fn finish(&mut self) -> Option<Heard> {
        let heard = self.buffer.finish();
        self.reset();
        heard
    }

    /// Forgets the stream: the next sample is the first of another.
    pub fn reset(&mut self) {
        self.activity.reset();
        self.buffer.reset();
        self.pending.clear();
    }

    /// Whether an utterance is under way.
    #[must_use]
    pub fn is_speaking(&self) -> bool {
        self.buffer.is_speaking()
    }

    /// Samples judged since the start of the stream.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.buffer.position()
    }

    fn frame(&mut self) -> Result<Option<Heard>, AudioError> {
        let probability = self.activity.push(&self.pending)?;
        self.buffer.push(&self.pending, probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: EndpointOptions = EndpointOptions {
        frame_samples: 160,
        speech_threshold: 0.5,
        silence_threshold: 0.3,
        min_speech_ms: 30,
        hang_over_ms: 50,
        max_utterance_ms: 500,
        pre_roll_ms: 20,
        tail_ms: 20,
    };

    /// Sample n of the stream has the value n, so that an utterance shows where it was cut.
    fn feed(buffer: &mut UtteranceBuffer, frames: &str) -> Vec<Heard> {
        let mut heard = Vec::new();
        for c in frames.chars() {
            let from = buffer.position();
            let frame: Vec<f32> = (from..from + 160).map(|n| n as f32).collect();
            heard.extend(
                buffer
                    .push(&frame, if c == '#' { 0.9 } else { 0.0 })
                    .unwrap(),
            );
        }
        heard
    }

    #[test]
    fn samples_are_those_between_start_and_end() {
        let mut buffer = UtteranceBuffer::new(&OPTIONS).unwrap();
        let heard = feed(
            &mut buffer,
            &format!(
                "{}###......#####.....{}",
                ".".repeat(1_000),
                "#".repeat(210)
            ),
        );
        let mut utterances = 0;
        for each in &heard {
            if let Heard::Utterance(utterance) = each {
                let expected: Vec<f32> =
                    (utterance.start..utterance.end).map(|n| n as f32).collect();
                assert_eq!(utterance.samples, expected);
                utterances += 1;
            }
        }
        assert!(utterances >= 5, "{utterances}");
        assert!(buffer.finish().is_some());
    }

    #[test]
    fn silence_keeps_no_more_than_the_pre_roll() {
        let mut buffer = UtteranceBuffer::new(&OPTIONS).unwrap();
        feed(&mut buffer, &".".repeat(10_000));
        assert_eq!(buffer.samples.len(), 20 * 16);
        feed(&mut buffer, &"#".repeat(10_000));
        assert!(buffer.samples.len() <= 520 * 16, "{}", buffer.samples.len());
    }

    #[test]
    fn frames_of_another_length_are_refused_and_reset_starts_over() {
        let mut buffer = UtteranceBuffer::new(&OPTIONS).unwrap();
        assert!(matches!(
            buffer.push(&[0.0; 159], 0.9),
            Err(AudioError::FrameLength {
                found: 159,
                expected: 160
            })
        ));
        let first = feed(&mut buffer, "..####.....");
        buffer.reset();
        assert_eq!(feed(&mut buffer, "..####....."), first);
    }
}
