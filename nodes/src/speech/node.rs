//! The speech-command node as an actor.

use std::{sync::Arc, time::Duration};

use llmasos_msgs::{llmasos_msgs::SpeechCommand, std_msgs};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::{info, warn};

use super::{
    SpeechModels, SpeechOptions,
    command::{Heard, command},
    hearing::{Hearing, Utterance},
    recognise,
    sound::Sound,
    typed,
};
use crate::{
    bus::{Bus, Priority, Qos},
    contract::TopicContract,
    health::{NodeHealth, NodeState, elapsed_ms},
    model::AskError,
    output::Output,
    port::Port,
};

/// How often the node shows that it lives.
const BEAT_PERIOD: Duration = Duration::from_millis(200);
/// Utterances that may be with the recogniser at once; someone who talks on without pause must not fill the memory.
const RECOGNISING_MAX: usize = 4;

/// The behaviour.
pub struct SpeechNode {
    /// Session it lives on.
    pub bus: Bus,
    /// Its record.
    pub health: NodeHealth,
    /// Sound input, if any.
    pub audio: Option<TopicContract>,
    /// Text input, if any.
    pub text: Option<TopicContract>,
    /// Topic of the commands.
    pub command: String,
    /// How it hears.
    pub options: Arc<SpeechOptions>,
    /// Whom it asks; without sound nobody.
    pub models: Option<SpeechModels>,
}

/// What the node is told.
pub enum SpeechMessage {
    /// Sound waits at the port.
    Sound,
    /// Text waits at the port.
    Text,
    /// The recogniser answered about an utterance that ended then, in this epoch of the clock.
    Recognised(Utterance, u32, Result<Heard, AskError>),
    /// Time to show that it lives.
    Beat,
}

/// What changes.
pub struct SpeechState {
    audio: Option<Port<Sound>>,
    text: Option<Port<std_msgs::String>>,
    output: Output<SpeechCommand>,
    hearing: Hearing,
    recognising: usize,
}

impl Actor for SpeechNode {
    type Msg = SpeechMessage;
    type State = SpeechState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        _arguments: (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        // Commands are rare and small, and one of them is STOP: all of them overtake.
        let output = Output::open(
            &self.bus,
            &self.health,
            &self.command,
            Qos {
                block: true,
                priority: Priority::RealTime,
                ..Qos::URGENT
            },
        )
        .await?;
        let audio = match &self.audio {
            Some(contract) => {
                let to = myself.clone();
                let wake = move || {
                    let _ = to.cast(SpeechMessage::Sound);
                };
                Some(Port::open(&self.bus, contract, "audio", &self.health, wake).await?)
            }
            None => None,
        };
        let text = match &self.text {
            Some(contract) => {
                let to = myself.clone();
                let wake = move || {
                    let _ = to.cast(SpeechMessage::Text);
                };
                Some(Port::open(&self.bus, contract, "text", &self.health, wake).await?)
            }
            None => None,
        };
        let hearing = Hearing::new(&self.options.endpoint)?;
        myself.send_interval(BEAT_PERIOD, || SpeechMessage::Beat);
        Ok(SpeechState {
            audio,
            text,
            output,
            hearing,
            recognising: 0,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SpeechMessage::Sound => self.hear(&myself, state).await,
            SpeechMessage::Text => {
                while let Some(taken) = state.text.as_mut().and_then(Port::take) {
                    let heard = typed(&taken.message.data, taken.stamp_ns, &self.options);
                    self.publish(&state.output, &heard).await?;
                }
            }
            SpeechMessage::Recognised(utterance, epoch, outcome) => {
                state.recognising = state.recognising.saturating_sub(1);
                match outcome {
                    Ok(_) if epoch != self.bus.clock().reading().epoch => self.health.refuse(
                        "utterance",
                        "expected the clock to go on, found that it jumped back: the utterance is dropped",
                    ),
                    Ok(heard) if heard.transcript.trim().is_empty() => {}
                    Ok(heard) => {
                        self.publish(&state.output, &heard).await?;
                        info!(text = %heard.transcript, after_end_ms = elapsed_ms(utterance.ended), "heard");
                    }
                    Err(error) => self.health.refuse("utterance", &error.to_string()),
                }
            }
            SpeechMessage::Beat => self.beat(),
        }
        Ok(())
    }
}

impl SpeechNode {
    async fn hear(&self, myself: &ActorRef<SpeechMessage>, state: &mut SpeechState) {
        let Some(models) = &self.models else { return };
        while let Some(taken) = state.audio.as_mut().and_then(Port::take) {
            self.health.beat();
            let ended = match state
                .hearing
                .listen(&taken.message, &models.voice, self.options.priority, false)
                .await
            {
                Ok(ended) => ended,
                Err(error) => {
                    self.health.refuse("sound", &error.to_string());
                    continue;
                }
            };
            for utterance in ended {
                if state.recognising == RECOGNISING_MAX {
                    warn!("an utterance is dropped: the recogniser is behind");
                    self.health.refuse("utterance", &format!("expected at most {RECOGNISING_MAX} utterances in recognition, found one more"));
                    continue;
                }
                state.recognising += 1;
                let epoch = self.bus.clock().reading().epoch;
                let (to, frame, models, options) = (
                    myself.clone(),
                    taken.message.frame_id.clone(),
                    models.clone(),
                    Arc::clone(&self.options),
                );
                tokio::spawn(async move {
                    let outcome = recognise(&utterance, &frame, &models, &options).await;
                    let _ = to.cast(SpeechMessage::Recognised(utterance, epoch, outcome));
                });
            }
        }
    }

    async fn publish(
        &self,
        output: &Output<SpeechCommand>,
        heard: &Heard,
    ) -> Result<(), ActorProcessingErr> {
        output
            .put(&command(
                heard,
                &self.options.fast,
                self.options.min_confidence,
            ))
            .await?;
        Ok(())
    }

    fn beat(&self) {
        self.health.beat();
        // Text needs no model.
        let waiting = self.models.as_ref().and_then(|models| {
            if !models.voice.is_ready() {
                Some(models.voice.name())
            } else if !models.recogniser.is_ready() {
                Some(models.recogniser.name())
            } else {
                None
            }
        });
        match waiting {
            Some(model) => self
                .health
                .set(NodeState::Loading, format!("waits for {model}")),
            None => self.health.set(NodeState::Ready, ""),
        }
    }
}
