//! From a transcript to the command message.

use llmasos_msgs::{
    builtin_interfaces::{Duration as RosDuration, Time},
    llmasos_msgs::SpeechCommand,
    std_msgs::Header,
    unique_identifier_msgs::UUID,
};

use super::intent::{FastWords, Intent, understand};

/// How long a command may act; the lifespan of the topic in messages.md.
pub const LIFESPAN: RosDuration = RosDuration { sec: 1, nanosec: 0 };
/// Longest transcript, in bytes (the message's bound).
const TRANSCRIPT_BYTES_MAX: usize = 512;

/// Where the words came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// What was said.
    pub transcript: String,
    /// Of the recogniser, in [0, 1]; 1 for typed text.
    pub confidence: f32,
    /// Stamp of the first sample, in ns.
    pub start_ns: i64,
    /// Stamp of the last speech sample, in ns.
    pub end_ns: i64,
    /// Frame of the microphone; empty for typed text.
    pub frame_id: String,
    /// Typed, not spoken.
    pub typed: bool,
    /// Who is taken to speak: `SpeechCommand.speaker`.
    pub speaker: u8,
    /// BCP-47.
    pub language: String,
}

/// The command message of what was heard. A sentence that asks for nothing known, or not surely enough, is a command with the intent
/// UNKNOWN: consumers see that something was said and do nothing.
pub fn command(heard: &Heard, fast: &FastWords, min_confidence: f32) -> SpeechCommand {
    let understood = understand(&heard.transcript, fast)
        .filter(|found| found.confidence.min(heard.confidence) >= min_confidence);
    let mut transcript = heard.transcript.clone();
    while transcript.len() > TRANSCRIPT_BYTES_MAX {
        transcript.pop();
    }
    let mut message = SpeechCommand {
        header: Header {
            stamp: Time::from_nanos(heard.end_ns),
            frame_id: heard.frame_id.clone(),
        },
        id: UUID {
            uuid: uuid::Uuid::new_v4().into_bytes(),
        },
        speech_start: Time::from_nanos(heard.start_ns),
        lifespan: LIFESPAN,
        intent: Intent::Unknown as u8,
        speaker: heard.speaker,
        asr_confidence: heard.confidence,
        target_speed: f32::NAN,
        transcript,
        language: heard.language.clone(),
        source: if heard.typed { SpeechCommand::TEXT } else { 0 },
        ..Default::default()
    };
    if let Some(found) = understood {
        message.intent = found.intent as u8;
        message.source = if heard.typed {
            SpeechCommand::TEXT
        } else {
            found.way as u8
        };
        message.negated = found.negated;
        message.intent_confidence = found.confidence;
        message.target_speed = found.target_speed_mps;
        message.destination = found.destination;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(transcript: &str, confidence: f32) -> Heard {
        Heard {
            transcript: transcript.into(),
            confidence,
            start_ns: 1,
            end_ns: 2_000_000_000,
            frame_id: "mic".into(),
            typed: false,
            speaker: SpeechCommand::DRIVER,
            language: "en".into(),
        }
    }

    #[test]
    fn doubt_is_no_command() {
        let fast = FastWords::default();
        assert_eq!(
            command(&heard("Stop.", 0.9), &fast, 0.6).intent,
            SpeechCommand::STOP
        );
        assert_eq!(
            command(&heard("Stop.", 0.3), &fast, 0.6).intent,
            SpeechCommand::UNKNOWN,
            "the recogniser was not sure"
        );
        let chatter = command(&heard("Ever tried. Ever failed.", 0.9), &fast, 0.6);
        assert_eq!(chatter.intent, SpeechCommand::UNKNOWN);
        assert_eq!(
            chatter.transcript, "Ever tried. Ever failed.",
            "what was said is kept"
        );
    }

    #[test]
    fn bounds_of_the_message_hold() {
        let message = command(&heard(&"ä".repeat(2000), 0.9), &FastWords::default(), 0.6);
        assert!(message.transcript.len() <= 512);
    }
}
