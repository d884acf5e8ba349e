//! planner-advisor: command, summary and ego state in; a bounded, expiring, explained advice out, for the gate only.
//!
//! ```text
//! ask ─▶ facts ─▶ language model under a choice ─▶ answer, one of the facts
//! command ─▶ question (actions, speeds and true reasons on offer) ─▶ language model under a schema ─▶ advice ─▶ gate
//!               ▲ summary, ego                                └── a spoken speed, or no time: the rule, and it says so
//! ```

pub mod answer;
pub mod node;
pub mod question;

use std::time::{Duration, Instant};

use llmasos_engine::text::{CancelToken, ChatMessage, Grammar, Role};
use llmasos_msgs::{
    builtin_interfaces::Time,
    llmasos_msgs::{PlannerAdvice, SpeechCommand},
    std_msgs::Header,
    unique_identifier_msgs::UUID,
};

use self::question::{Answer, Asked, Bounds, Question, Situation, ask};
use crate::{
    clock::Clock,
    contract::{Budget, OnMiss},
    language::{LanguageClient, LanguageJob},
    model::AskError,
};

/// How advice is made; from the descriptor.
#[derive(Clone, Debug)]
pub struct AdvisorOptions {
    /// Answer time and tokens.
    pub budget: Budget,
    /// Priority at the model server.
    pub priority: u8,
    /// What bounds every advice.
    pub bounds: Bounds,
    /// How long an advice is valid after it was made.
    pub validity: Duration,
    /// SHA-256 of the model's manifest, so that an advice says who made it.
    pub model_sha256: [u8; 32],
}

/// What an advice rests on: identities and the oldest stamp.
#[derive(Clone, Debug, Default)]
pub struct Basis {
    /// The command.
    pub command_id: [u8; 16],
    /// The summary; zeros when none was fresh.
    pub summary_id: [u8; 16],
    /// The oldest stamp of what was used, in ns.
    pub stamp_ns: i64,
    /// Certainty of the command, in [0, 1].
    pub certainty: f32,
    /// What dates the advice once it is made.
    pub clock: Clock,
}

/// Why there is no advice.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoAdvice {
    /// The command is not for the advisor.
    #[error("the command is not one the advisor answers")]
    NotAsked,
    /// The model gave no answer in time, and the descriptor wants none then.
    #[error(transparent)]
    Model(#[from] AskError),
    /// The model's answer was none, e.g. cut off by the token limit.
    #[error("{0}")]
    Answer(String),
}

/// Makes the advice that answers a command in a situation.
///
/// # Errors
/// [`NoAdvice`] says why there is none.
pub async fn advise(
    command: &SpeechCommand,
    situation: &Situation,
    basis: &Basis,
    language: &LanguageClient,
    options: &AdvisorOptions,
    deadline: Instant,
    cancel: CancelToken,
) -> Result<PlannerAdvice, NoAdvice> {
    let question = match ask(command, situation, &options.bounds) {
        Asked::Nothing => return Err(NoAdvice::NotAsked),
        Asked::Rule(answer) => return Ok(message(answer, basis, options, None)),
        Asked::Model(question) => question,
    };
    let job = LanguageJob {
        class: "advice",
        messages: vec![
            ChatMessage::new(Role::System, Question::SYSTEM),
            ChatMessage::new(Role::User, question.prompt(command, situation)),
        ],
        grammar: Some(Grammar::JsonSchema(question.schema())),
        tokens_max: options.budget.tokens as usize,
    };
    let by_rule = |problem: NoAdvice| match options.budget.on_miss {
        OnMiss::Template => Ok(message(question.rule(), basis, options, None)),
        OnMiss::Drop | OnMiss::NoAdvice => Err(problem),
    };
    match language.ask(job, options.priority, deadline, cancel).await {
        Err(error @ AskError::Cancelled { .. }) => Err(error.into()),
        Err(error) => by_rule(error.into()),
        Ok(answer) => match question.read(&answer.text) {
            Ok(read) => Ok(message(
                read,
                basis,
                options,
                Some((answer.tokens_in, answer.tokens_out)),
            )),
            Err(reason) => by_rule(NoAdvice::Answer(reason)),
        },
    }
}

/// The message of an answer; `tokens` are given when a model sampled it.
fn message(
    answer: Answer,
    basis: &Basis,
    options: &AdvisorOptions,
    tokens: Option<(u32, u32)>,
) -> PlannerAdvice {
    let now_ns = basis.clock.now_ns();
    let valid_ns = i64::try_from(options.validity.as_nanos()).unwrap_or(i64::MAX);
    let mut reason = answer.reason;
    reason.truncate(question::REASON_BYTES_MAX);
    PlannerAdvice {
        header: Header {
            stamp: Time::from_nanos(basis.stamp_ns),
            frame_id: "base_link".to_owned(),
        },
        id: UUID {
            uuid: uuid::Uuid::new_v4().into_bytes(),
        },
        command_id: UUID {
            uuid: basis.command_id,
        },
        summary_id: UUID {
            uuid: basis.summary_id,
        },
        generated_at: Time::from_nanos(now_ns),
        valid_until: Time::from_nanos(now_ns.saturating_add(valid_ns)),
        action: answer.action.number(),
        max_speed: answer.max_speed_mps,
        confidence: basis.certainty,
        source: if tokens.is_some() {
            PlannerAdvice::MODEL
        } else {
            PlannerAdvice::RULE
        },
        model_sha256: if tokens.is_some() {
            options.model_sha256
        } else {
            [0; 32]
        },
        adapter_sha256: [0; 32],
        tokens_in: tokens.map_or(0, |(tokens_in, _)| tokens_in),
        tokens_out: tokens.map_or(0, |(_, tokens_out)| tokens_out),
        evidence: answer
            .evidence
            .into_iter()
            .map(|uuid| UUID { uuid })
            .collect(),
        reason,
    }
}
