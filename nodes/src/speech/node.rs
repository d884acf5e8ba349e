//! The speech-command node as an actor.

use std::{sync::Arc, time::Duration};

use llmasos_msgs::{
    Message, Registry,
    llmasos_msgs::{Say, SayRequest, SayResponse, SpeechCommand},
    std_msgs,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};
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
    bus::{Bus, BusError, Priority, Qos},
    contract::TopicContract,
    health::{NodeHealth, NodeState, elapsed_ms},
    model::AskError,
    output::Output,
    port::Port,
    service::{self, Server},
};

/// Service that takes a sentence as if it had been spoken.
pub const SAY_SERVICE: &str = "llmasos/say";
/// How long understanding a sentence may take: it needs no model.
const SAY_LIMIT: Duration = Duration::from_secs(2);

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
    /// Somebody says something through the service.
    Say(SayRequest, RpcReplyPort<SayResponse>),
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
    _said: Option<Server>,
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
        // Where typed words are not wanted, the service that takes them is not offered.
        let said = match &self.text {
            Some(_) => Some(self.offer_say(&myself).await?),
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
            _said: said,
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
            SpeechMessage::Say(request, reply) => {
                let response = self.say(&state.output, &request.text).await?;
                // Whoever asked may have given up; the command went out all the same.
                let _ = reply.send(response);
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

    async fn offer_say(&self, myself: &ActorRef<SpeechMessage>) -> Result<Server, BusError> {
        let to = myself.clone();
        service::serve::<Say>(
            &self.bus,
            &self.health,
            SAY_SERVICE,
            Some("text"),
            move |request| {
                let to = to.clone();
                Box::pin(async move {
                    let say = |reply| SpeechMessage::Say(request, reply);
                    match to.call(say, Some(SAY_LIMIT)).await {
                        Ok(CallResult::Success(response)) => response,
                        Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => SayResponse {
                            success: false,
                            message: "the speech node is being restarted".to_owned(),
                        },
                    }
                })
            },
        )
        .await
    }

    async fn say(
        &self,
        output: &Output<SpeechCommand>,
        text: &str,
    ) -> Result<SayResponse, ActorProcessingErr> {
        let now = self.bus.clock().reading();
        if !now.is_known() {
            return Ok(SayResponse {
                success: false,
                message: self.bus.clock().waiting().unwrap_or_default(),
            });
        }
        let heard = typed(text, now.now_ns, &self.options);
        let understood = command(&heard, &self.options.fast, self.options.min_confidence);
        output.put(&understood).await?;
        let registry = Registry::builtin();
        let intent = i64::from(understood.intent);
        let name = registry
            .enum_name(SpeechCommand::TYPE, "intent", intent)
            .unwrap_or("UNKNOWN");
        Ok(SayResponse {
            success: understood.intent != SpeechCommand::UNKNOWN,
            message: match understood.negated {
                true => format!("{name}, negated"),
                false => name.to_owned(),
            },
        })
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
