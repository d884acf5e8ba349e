//! speech-command: sound or text in, a command message out.
//!
//! A stop never waits for a language model: there is none in this node. Sound becomes an utterance when the voice-activity model and
//! the endpointer say so, the recogniser writes it down, and rules understand it.
//!
//! ```text
//! mic/audio ▸ hearing (voice activity) ▸ utterance ▸ recogniser ▸ words ─┐
//! llmasos/speech/text ───────────────────────────────────────────▸ words ─┴▸ intent ▸ llmasos/speech/command
//! ```

pub mod command;
pub mod hearing;
pub mod intent;
pub mod node;
pub mod sound;

use std::{sync::Arc, time::Instant};

use llmasos_engine::{audio::EndpointOptions, text::CancelToken};
use llmasos_msgs::llmasos_msgs::SpeechCommand;

use self::{
    command::Heard,
    hearing::{HearError, Hearing, Utterance},
    intent::FastWords,
    sound::Sound,
};
use crate::{
    contract::Budget,
    model::{AskError, ModelClient},
    workers::{RecogniseWork, VoiceWork},
};

/// How speech is heard and understood; from the descriptor.
#[derive(Clone, Debug)]
pub struct SpeechOptions {
    /// Below this confidence an utterance is published as UNKNOWN.
    pub min_confidence: f32,
    /// Words that must never wait.
    pub fast: FastWords,
    /// When an utterance begins and ends.
    pub endpoint: EndpointOptions,
    /// Recognition must be done within this.
    pub budget: Budget,
    /// Priority at the model servers.
    pub priority: u8,
    /// Who is taken to speak: `SpeechCommand.speaker`.
    pub speaker: u8,
    /// Language of the recogniser, BCP-47.
    pub language: String,
}

/// The models it asks.
#[derive(Clone)]
pub struct SpeechModels {
    /// Voice activity; absent when only text comes in.
    pub voice: ModelClient<VoiceWork>,
    /// Recognition.
    pub recogniser: ModelClient<RecogniseWork>,
}

/// Recognises one utterance.
///
/// # Errors
/// [`AskError`] when the recogniser is not ready, too slow or broken.
pub async fn recognise(
    utterance: &Utterance,
    frame_id: &str,
    models: &SpeechModels,
    options: &SpeechOptions,
) -> Result<Heard, AskError> {
    let deadline = Instant::now() + options.budget.response;
    let transcript = models
        .recogniser
        .ask(
            Arc::new(utterance.samples.clone()),
            options.priority,
            deadline,
            CancelToken::new(),
        )
        .await?;
    Ok(Heard {
        transcript: transcript.text,
        confidence: transcript.confidence,
        start_ns: utterance.start_ns,
        end_ns: utterance.end_ns,
        frame_id: frame_id.to_owned(),
        typed: false,
        speaker: options.speaker,
        language: options.language.clone(),
    })
}

/// What was typed, as if it had been heard with certainty.
pub fn typed(text: &str, stamp_ns: i64, options: &SpeechOptions) -> Heard {
    Heard {
        transcript: text.trim().to_owned(),
        confidence: 1.0,
        start_ns: stamp_ns,
        end_ns: stamp_ns,
        frame_id: String::new(),
        typed: true,
        speaker: options.speaker,
        language: options.language.clone(),
    }
}

/// The commands in a whole recording, without a bus: what `llmasos try` does.
///
/// # Errors
/// A sentence about the chunk or the model that failed.
pub async fn commands_of(
    chunks: &[Sound],
    models: &SpeechModels,
    options: &SpeechOptions,
) -> Result<Vec<SpeechCommand>, String> {
    let mut hearing = Hearing::new(&options.endpoint).map_err(|error| error.to_string())?;
    let mut commands = Vec::new();
    for (index, sound) in chunks.iter().enumerate() {
        let last = index + 1 == chunks.len();
        let utterances = hearing
            .listen(sound, &models.voice, options.priority, last)
            .await
            .map_err(|error: HearError| error.to_string())?;
        for utterance in utterances {
            let heard = recognise(&utterance, &sound.frame_id, models, options)
                .await
                .map_err(|error| error.to_string())?;
            commands.push(command::command(
                &heard,
                &options.fast,
                options.min_confidence,
            ));
        }
    }
    Ok(commands)
}
