//! Where an utterance begins and ends, decided from voice-activity probabilities alone.
//!
//! Pure: no clock, no audio, no model. A frame comes in as one number, time is the count of frames, and the answer is the same
//! for the same numbers, so that a recording replayed faster than real time cuts exactly where the live run cut.
//! Two thresholds (hysteresis) keep a probability that hovers around one value from cutting a word; a minimum of speech keeps
//! a door slam from waking the recognizer; the hang-over is the silence that ends an utterance.
//!
//! ```text
//!            p >= speech                  min_speech reached: SpeechStart
//!   Silence ─────────────► Candidate ───────────────────────────────► Speech ◄─┐ p >= silence: hang-over restarts
//!      ▲  ▲                    │ p < silence                            │  └────┘
//!      │  └────────────────────┘                                        │ hang-over, maximum length or finish()
//!      └────────────────────────────────────────────────────────────────┘ SpeechEnd
//! ```

use super::AudioError;

/// The recognizer and the voice-activity model both run at 16 kHz.
const SAMPLES_PER_MS: u64 = 16;
/// Longest that any duration of [`EndpointOptions`] may be: what the recognizer takes.
const MAX_DURATION_MS: u32 = 30_000;

/// When to believe that somebody speaks. Durations are rounded up to whole frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointOptions {
    /// Samples (16 kHz) behind one probability.
    pub frame_samples: u32,
    /// A frame at or above this is speech. Silero's own default is 0.5.
    pub speech_threshold: f32,
    /// In an utterance, a frame below this is silence. Silero's own default is `speech_threshold` - 0.15.
    pub silence_threshold: f32,
    /// Speech needed before an utterance begins, ms.
    pub min_speech_ms: u32,
    /// Silence that ends an utterance, ms. It is part of the answer time: a driver waits for it after every command.
    pub hang_over_ms: u32,
    /// An utterance is cut here whatever is said, ms.
    pub max_utterance_ms: u32,
    /// Sound kept before the first speech frame, ms: soft consonants come before the model is sure.
    pub pre_roll_ms: u32,
    /// Sound kept after the last speech frame, ms; at most the hang-over.
    pub tail_ms: u32,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        EndpointOptions {
            frame_samples: 512,
            speech_threshold: 0.5,
            silence_threshold: 0.35,
            min_speech_ms: 96,
            hang_over_ms: 480,
            max_utterance_ms: 15_000,
            pre_roll_ms: 256,
            tail_ms: 160,
        }
    }
}

/// What a frame brought. Positions are samples (16 kHz) since the endpointer was made or reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An utterance has begun; said when `min_speech_ms` is reached.
    SpeechStart {
        /// First sample to keep, pre-roll included.
        sample: u64,
    },
    /// An utterance is complete: recognize `start..end`.
    SpeechEnd {
        /// First sample, pre-roll included.
        start: u64,
        /// One past the last sample to recognize, tail included.
        end: u64,
        /// One past the last sample of the last speech frame: answer times count from here.
        last_speech: u64,
        /// Why it ended.
        reason: EndReason,
    },
}

/// Why an utterance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Nobody spoke for the hang-over.
    Silence,
    /// The maximum length was reached; whoever still speaks starts a new utterance at its end.
    TooLong,
    /// The sound ended ([`Endpointer::finish`]).
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Silence,
    /// Speech since the frame `first`, not long enough yet.
    Candidate {
        first: u64,
    },
    /// In an utterance that keeps samples from `start`; `last` is the last frame that was not silence.
    Speech {
        start: u64,
        last: u64,
    },
}

/// The machine in the picture above.
#[derive(Debug, Clone)]
pub struct Endpointer {
    frame_samples: u64,
    speech_threshold: f32,
    silence_threshold: f32,
    min_speech_frames: u64,
    hang_over_frames: u64,
    max_samples: u64,
    pre_roll: u64,
    tail: u64,
    /// Frames seen.
    frames: u64,
    /// Samples before this belong to an earlier utterance and are never given out again.
    floor: u64,
    state: State,
}

impl Endpointer {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`AudioError::Setting`] names the field, its value and the range.
    pub fn new(options: &EndpointOptions) -> Result<Endpointer, AudioError> {
        check(options)?;
        let frame_samples = u64::from(options.frame_samples);
        let frames = |ms: u32| (u64::from(ms) * SAMPLES_PER_MS).div_ceil(frame_samples);
        Ok(Endpointer {
            frame_samples,
            speech_threshold: options.speech_threshold,
            silence_threshold: options.silence_threshold,
            min_speech_frames: frames(options.min_speech_ms).max(1),
            hang_over_frames: frames(options.hang_over_ms).max(1),
            max_samples: u64::from(options.max_utterance_ms) * SAMPLES_PER_MS,
            pre_roll: u64::from(options.pre_roll_ms) * SAMPLES_PER_MS,
            tail: u64::from(options.tail_ms) * SAMPLES_PER_MS,
            frames: 0,
            floor: 0,
            state: State::Silence,
        })
    }

    /// Takes the probability of the next frame. NaN counts as silence.
    pub fn push(&mut self, probability: f32) -> Option<Event> {
        let frame = self.frames;
        self.frames += 1;
        let speech = probability >= self.speech_threshold;
        let silence = probability.is_nan() || probability < self.silence_threshold;
        match self.state {
            State::Silence if speech => self.candidate(frame, frame),
            State::Candidate { .. } if silence => {
                self.state = State::Silence;
                None
            }
            State::Candidate { first } => self.candidate(first, frame),
            State::Speech { start, last } => {
                let last = if silence { last } else { frame };
                self.state = State::Speech { start, last };
                self.ending(start, last)
            }
            State::Silence => None,
        }
    }

    /// Ends the utterance that is under way, if any: the sound is over.
    pub fn finish(&mut self) -> Option<Event> {
        let State::Speech { start, last } = self.state else {
            self.state = State::Silence;
            return None;
        };
        Some(self.end(start, last, EndReason::Finished))
    }

    /// Back to the first frame; positions count from zero again.
    pub fn reset(&mut self) {
        (self.frames, self.floor, self.state) = (0, 0, State::Silence);
    }

    /// Whether an utterance is under way.
    #[must_use]
    pub fn is_speaking(&self) -> bool {
        matches!(self.state, State::Speech { .. })
    }

    /// Samples seen so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.frames * self.frame_samples
    }

    /// Everything before this sample can be forgotten: no later event reaches further back.
    #[must_use]
    pub fn keep_from(&self) -> u64 {
        match self.state {
            State::Silence => self
                .position()
                .saturating_sub(self.pre_roll)
                .max(self.floor),
            State::Candidate { first } => self.start_of(first),
            State::Speech { start, .. } => start,
        }
    }

    fn candidate(&mut self, first: u64, frame: u64) -> Option<Event> {
        if frame + 1 - first < self.min_speech_frames {
            self.state = State::Candidate { first };
            return None;
        }
        let start = self.start_of(first);
        self.state = State::Speech { start, last: frame };
        Some(Event::SpeechStart { sample: start })
    }

    fn ending(&mut self, start: u64, last: u64) -> Option<Event> {
        if self.frames - 1 - last >= self.hang_over_frames {
            return Some(self.end(start, last, EndReason::Silence));
        }
        // A frame is never split, so the cut comes before the frame that would exceed the maximum.
        (self.position() - start + self.frame_samples > self.max_samples)
            .then(|| self.end(start, last, EndReason::TooLong))
    }

    fn end(&mut self, start: u64, last: u64, reason: EndReason) -> Event {
        let last_speech = (last + 1) * self.frame_samples;
        let end = match reason {
            EndReason::TooLong => self.position(),
            EndReason::Silence | EndReason::Finished => {
                (last_speech + self.tail).min(self.position())
            }
        };
        self.floor = end;
        self.state = State::Silence;
        Event::SpeechEnd {
            start,
            end,
            last_speech,
            reason,
        }
    }

    fn start_of(&self, first_frame: u64) -> u64 {
        (first_frame * self.frame_samples)
            .saturating_sub(self.pre_roll)
            .max(self.floor)
    }
}

/// Refuses settings under which the machine would never speak or would speak of sound it does not have.
fn check(options: &EndpointOptions) -> Result<(), AudioError> {
    let longest = f64::from(options.max_utterance_ms);
    let speech = f64::from(options.speech_threshold);
    let hang_over = f64::from(options.hang_over_ms);
    let silence = f64::from(options.silence_threshold);
    let least = f64::from(f32::MIN_POSITIVE);
    #[rustfmt::skip] // one setting a line
    let settings = [
        ("frame_samples", f64::from(options.frame_samples), 1.0, 1_600.0),
        ("speech_threshold", speech, least, 1.0),
        ("silence_threshold", silence, 0.0, speech),
        ("max_utterance_ms", longest, 500.0, f64::from(MAX_DURATION_MS)),
        ("min_speech_ms", f64::from(options.min_speech_ms), 0.0, longest / 4.0),
        ("hang_over_ms", hang_over, 1.0, longest),
        ("pre_roll_ms", f64::from(options.pre_roll_ms), 0.0, longest / 2.0),
        ("tail_ms", f64::from(options.tail_ms), 0.0, hang_over),
    ];
    // NaN is in no range.
    match settings
        .into_iter()
        .find(|(_, found, min, max)| !(min..=max).contains(&found))
    {
        None => Ok(()),
        Some((field, found, min, max)) => Err(AudioError::Setting {
            field,
            found,
            min,
            max,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One frame is 10 ms = 160 samples, so that the tables below read in tens of milliseconds.
    fn options() -> EndpointOptions {
        EndpointOptions {
            frame_samples: 160,
            speech_threshold: 0.5,
            silence_threshold: 0.3,
            min_speech_ms: 30,
            hang_over_ms: 50,
            max_utterance_ms: 500,
            pre_roll_ms: 20,
            tail_ms: 20,
        }
    }

    /// `#` speech (0.9), `-` between the thresholds (0.4), `.` silence (0.1), `N` NaN.
    fn run(frames: &str, finish: bool) -> Vec<Event> {
        let mut endpointer = Endpointer::new(&options()).unwrap();
        let mut events: Vec<Event> = frames
            .chars()
            .filter_map(|c| {
                endpointer.push(match c {
                    '#' => 0.9,
                    '-' => 0.4,
                    '.' => 0.1,
                    _ => f32::NAN,
                })
            })
            .collect();
        if finish {
            events.extend(endpointer.finish());
        }
        events
    }

    fn start(frame: u64) -> Event {
        Event::SpeechStart {
            sample: frame * 160,
        }
    }

    fn end(start: u64, end: u64, last: u64, reason: EndReason) -> Event {
        Event::SpeechEnd {
            start: start * 160,
            end: end * 160,
            last_speech: last * 160,
            reason,
        }
    }

    #[test]
    #[rustfmt::skip] // one case a line
    fn table() {
        use EndReason::{Finished, Silence};
        let cases: [(&str, bool, &str, Vec<Event>); 11] = [
            ("..........", true, "silence says nothing", vec![]),
            ("...##.....", true, "20 ms is less than the minimum of 30 ms", vec![]),
            ("...###......", false, "a word: 20 ms pre-roll, 20 ms tail", vec![start(1), end(1, 8, 6, Silence)]),
            ("###.........", false, "pre-roll stops at the first sample", vec![start(0), end(0, 5, 3, Silence)]),
            ("...#--.........", false, "between the thresholds goes on", vec![start(1), end(1, 8, 6, Silence)]),
            ("...---.........", true, "between the thresholds does not begin", vec![]),
            ("...###....##.....", false, "a gap below the hang-over is bridged", vec![start(1), end(1, 14, 12, Silence)]),
            ("...###.....###.....", false, "pre-roll does not reach into the last utterance",
             vec![start(1), end(1, 8, 6, Silence), start(9), end(9, 16, 14, Silence)]),
            ("...###..", true, "the sound ends inside the hang-over", vec![start(1), end(1, 8, 6, Finished)]),
            ("...###", true, "no tail after the last sample", vec![start(1), end(1, 6, 6, Finished)]),
            ("N..###NNNNN", false, "NaN is silence", vec![start(1), end(1, 8, 6, Silence)]),
        ];
        for (frames, finish, why, expected) in cases {
            assert_eq!(run(frames, finish), expected, "{why}: {frames}");
        }
    }

    #[test]
    fn speech_without_end_is_cut_and_continues_without_overlap() {
        let events = run(&"#".repeat(120), true);
        let mut next = 0;
        for event in &events {
            if let Event::SpeechEnd { start, end, .. } = event {
                assert_eq!(*start, next, "no sample is lost or said twice");
                assert!(
                    end - start <= 500 * SAMPLES_PER_MS,
                    "{event:?} is longer than the maximum"
                );
                next = *end;
            }
        }
        assert_eq!(next, 120 * 160, "{events:?}");
        assert_eq!(
            events
                .iter()
                .filter(|e| matches!(
                    e,
                    Event::SpeechEnd {
                        reason: EndReason::TooLong,
                        ..
                    }
                ))
                .count(),
            2
        );
    }

    #[test]
    fn settings_are_checked_by_name() {
        let good = options();
        let cases: [(EndpointOptions, &str); 8] = [
            (
                EndpointOptions {
                    frame_samples: 0,
                    ..good
                },
                "frame_samples",
            ),
            (
                EndpointOptions {
                    speech_threshold: f32::NAN,
                    ..good
                },
                "speech_threshold",
            ),
            (
                EndpointOptions {
                    speech_threshold: 1.1,
                    ..good
                },
                "speech_threshold",
            ),
            (
                EndpointOptions {
                    silence_threshold: 0.6,
                    ..good
                },
                "silence_threshold",
            ),
            (
                EndpointOptions {
                    hang_over_ms: 0,
                    ..good
                },
                "hang_over_ms",
            ),
            (
                EndpointOptions {
                    max_utterance_ms: 30_001,
                    ..good
                },
                "max_utterance_ms",
            ),
            (
                EndpointOptions {
                    tail_ms: 60,
                    ..good
                },
                "tail_ms",
            ),
            (
                EndpointOptions {
                    pre_roll_ms: 400,
                    ..good
                },
                "pre_roll_ms",
            ),
        ];
        for (bad, expected) in cases {
            match Endpointer::new(&bad) {
                Err(AudioError::Setting { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
        Endpointer::new(&EndpointOptions::default()).unwrap();
    }

    #[test]
    fn reset_counts_from_zero() {
        let mut endpointer = Endpointer::new(&options()).unwrap();
        let pass = |e: &mut Endpointer| {
            "...###......"
                .chars()
                .filter_map(|c| e.push(if c == '#' { 0.9 } else { 0.0 }))
                .collect::<Vec<_>>()
        };
        let first = pass(&mut endpointer);
        endpointer.reset();
        assert_eq!(pass(&mut endpointer), first);
    }

    proptest::proptest! {
        #[test]
        fn events_alternate_and_utterances_never_overlap(levels in proptest::collection::vec(0u8..4, 0..400)) {
            let mut endpointer = Endpointer::new(&options()).unwrap();
            let (mut floor, mut open) = (0u64, None);
            let mut events = Vec::new();
            for level in levels {
                let kept = endpointer.keep_from();
                if let Some(event) = endpointer.push([0.0, 0.4, 0.9, f32::NAN][level as usize]) { events.push((kept, event)); }
            }
            let kept = endpointer.keep_from();
            if let Some(event) = endpointer.finish() { events.push((kept, event)); }
            for (kept, event) in events {
                match event {
                    Event::SpeechStart { sample } => {
                        proptest::prop_assert!(open.is_none() && sample >= floor && sample >= kept);
                        open = Some(sample);
                    }
                    Event::SpeechEnd { start, end, last_speech, .. } => {
                        proptest::prop_assert_eq!(open.take(), Some(start));
                        proptest::prop_assert!(start < end && end <= endpointer.position() && start >= kept);
                        proptest::prop_assert!(last_speech > start && end - start <= 500 * SAMPLES_PER_MS);
                        floor = end;
                    }
                }
            }
        }
    }
}
