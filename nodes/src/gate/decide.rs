//! The decision: a total function of policy, knowledge, memory and time. It allocates nothing, cannot fail and always takes the same few
//! microseconds: every list it walks has a fixed length.
//!
//! One advice walks through these states; the arrows are the only ones:
//!
//! ```text
//!   arrives ──► pending confirmation ──► in force (ACCEPTED, CLIPPED) ──► expired
//!      │               │    │                        │
//!      │               │    └── timeout ──► REFUSED ◄┘ a rule begins to apply
//!      └── a rule ─────┼──────────────────► │
//!                      └── CANCEL ──► NO_ADVICE (withdrawn)         both are final for this advice
//! ```
//!
//! A spoken STOP or PULL_OVER needs no advice and no view of the road: it is in force from its arrival for `direct_hold`, until CANCEL (by
//! the driver or by whoever said it), until a person takes control, or until the next spoken STOP or PULL_OVER replaces it. It ends as
//! NO_ADVICE; nothing spoken ever sets the vehicle in motion again. A negated command ("don't stop") never releases anything.

use super::charge::{Charge, in_charge};
use super::fact::{
    Action, AdviceFact, CommandFact, Id, Intent, NO_ID, Now, OperationMode, Speaker,
};
use super::policy::{Confirmer, Policy};
use super::rule::Rule;
use super::scene;
use super::speed::{self, Limit};
use super::state::{Inputs, Timed, ns};

/// What became of the advice (`GateVerdict.verdict`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// The planner keeps its own plan.
    #[default]
    NoAdvice = 0,
    /// In force as advised.
    Accepted = 1,
    /// In force with another speed limit.
    Clipped = 2,
    /// Not in force, for the named rule.
    Refused = 3,
    /// Not in force until somebody confirms.
    PendingConfirm = 4,
}

impl Verdict {
    /// The constant's name in the message.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::NoAdvice => "NO_ADVICE",
            Verdict::Accepted => "ACCEPTED",
            Verdict::Clipped => "CLIPPED",
            Verdict::Refused => "REFUSED",
            Verdict::PendingConfirm => "PENDING_CONFIRM",
        }
    }

    /// Whether the planner is to act on it.
    #[must_use]
    pub fn in_force(self) -> bool {
        matches!(self, Verdict::Accepted | Verdict::Clipped)
    }
}

/// What the gate says at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// What became of the advice.
    pub verdict: Verdict,
    /// The action in force; `None` unless the verdict is in force, so that a reader who overlooks the verdict does nothing.
    pub action: Action,
    /// The speed limit in force, m/s; NaN = no limit.
    pub max_speed_mps: f32,
    /// Why.
    pub rule: Rule,
    /// The advice it is about, or none.
    pub advice_id: Id,
    /// The command it is about, or none.
    pub command_id: Id,
    /// When it was made.
    pub now: Now,
    /// Until when it holds if the gate falls silent, on the descriptor's clock, ns.
    pub valid_until_ns: i64,
    /// Age of the oldest input of the advice, ns; 0 without advice.
    pub advice_age_ns: i64,
    /// Age of the older of odometry and summary, ns; 0 when neither is known.
    pub state_age_ns: i64,
}

impl Decision {
    /// Whether it says something else than `other`: not counting time, ages and a limit that slides along its curve.
    #[must_use]
    pub fn differs(&self, other: &Decision) -> bool {
        let key = |decision: &Decision| {
            (
                decision.verdict,
                decision.action,
                decision.rule,
                decision.advice_id,
                decision.command_id,
                decision.max_speed_mps.is_nan(),
            )
        };
        key(self) != key(other)
    }
}

/// What the gate remembers from one decision to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The advice with a final verdict.
    closed: Option<(Id, Verdict, Rule)>,
    /// The advice that waits, and since when on the monotonic clock, ns.
    pending: Option<(Id, i64)>,
    /// The advice that was confirmed.
    confirmed: Id,
    /// The spoken stop that no longer holds.
    released: Id,
    /// The limit in force.
    limit: Option<Limit>,
}

/// A verdict before it is dated.
#[derive(Clone, Copy)]
struct Judgement {
    verdict: Verdict,
    action: Action,
    max_speed_mps: f32,
    rule: Rule,
    advice_id: Id,
    command_id: Id,
    /// How long it can hold, ns.
    remaining_ns: i64,
}

impl Judgement {
    /// A verdict that puts nothing in force.
    fn not_in_force(verdict: Verdict, rule: Rule) -> Judgement {
        Judgement {
            verdict,
            action: Action::None,
            max_speed_mps: f32::NAN,
            rule,
            advice_id: NO_ID,
            command_id: NO_ID,
            remaining_ns: i64::MAX,
        }
    }

    fn about(self, advice: &AdviceFact, remaining_ns: i64) -> Judgement {
        Judgement {
            advice_id: advice.id,
            command_id: advice.command_id,
            remaining_ns,
            ..self
        }
    }
}

/// Decides. Call [`Inputs::observe_clock`] with the same time before.
#[must_use]
pub fn decide(policy: &Policy, inputs: &Inputs, memory: &mut Memory, now: Now) -> Decision {
    let last_limit = memory.limit.take();
    let judgement = judge(policy, inputs, memory, last_limit, now);
    let hold_ns = judgement
        .remaining_ns
        .min(ns(policy.settings().verdict_validity))
        .max(0);
    let ego_age = inputs.ego().map_or(0, |ego| ego.age_ns(now));
    let scene_age = inputs.scene().map_or(0, |scene| scene.age_ns(now));
    let advice_age = inputs
        .advice()
        .filter(|advice| advice.fact.id == judgement.advice_id)
        .map_or(0, |advice| advice.age_ns(now));
    Decision {
        verdict: judgement.verdict,
        action: judgement.action,
        max_speed_mps: judgement.max_speed_mps,
        rule: judgement.rule,
        advice_id: judgement.advice_id,
        command_id: judgement.command_id,
        now,
        valid_until_ns: now.wall_ns.saturating_add(hold_ns),
        advice_age_ns: advice_age.max(0),
        state_age_ns: ego_age.max(scene_age).max(0),
    }
}

fn judge(
    policy: &Policy,
    inputs: &Inputs,
    memory: &mut Memory,
    last_limit: Option<Limit>,
    now: Now,
) -> Judgement {
    let charge = in_charge(policy, inputs, now);
    if let Charge::Other(rule) = charge {
        if rule == Rule::ManualControl {
            memory.released = inputs
                .direct()
                .map_or(memory.released, |direct| direct.fact.id);
        }
        return Judgement::not_in_force(Verdict::NoAdvice, rule);
    }
    if let Some(judgement) = judge_direct(policy, inputs, memory, charge, now) {
        return judgement;
    }
    let mode = match charge {
        Charge::Computer(mode) => mode,
        Charge::Other(rule) | Charge::Unknown(rule) => {
            return Judgement::not_in_force(Verdict::NoAdvice, rule);
        }
    };
    let Some(ego) = inputs.ego() else {
        return Judgement::not_in_force(Verdict::NoAdvice, Rule::EgoMissing);
    };
    if ego.age_ns(now) > ns(policy.settings().fresh.ego) {
        return Judgement::not_in_force(Verdict::NoAdvice, Rule::EgoStale);
    }
    let context = Context {
        policy,
        inputs,
        mode,
        ego_mps: ego.fact.speed_mps,
        now,
    };
    let judgement = context.judge_advice(memory, last_limit);
    if judgement.verdict == Verdict::NoAdvice {
        return context.judge_command().unwrap_or(judgement);
    }
    judgement
}

fn allowed_in_mode(policy: &Policy, action: Action, mode: Option<OperationMode>) -> bool {
    match (policy.settings().allow_in_mode, mode) {
        (Some(sets), Some(mode)) => sets[mode as usize].contains(action),
        (None, _) | (_, None) => true,
    }
}

/// A spoken STOP or PULL_OVER that holds.
fn judge_direct(
    policy: &Policy,
    inputs: &Inputs,
    memory: &mut Memory,
    charge: Charge,
    now: Now,
) -> Option<Judgement> {
    let direct = inputs.direct()?;
    let action = direct.fact.intent.direct_action()?;
    let remaining_ns =
        ns(policy.settings().direct_hold).saturating_sub(direct.since_arrival_ns(now));
    if direct.fact.id == memory.released || remaining_ns <= 0 {
        return None;
    }
    let authority = |cancel: &CommandFact| {
        cancel.speaker == Speaker::Driver || cancel.speaker == direct.fact.speaker
    };
    if cancelled(
        policy,
        inputs,
        &[direct.fact.id],
        direct.arrived_ns,
        authority,
    ) {
        memory.released = direct.fact.id;
        return None;
    }
    let mode = if let Charge::Computer(mode) = charge {
        mode
    } else {
        None
    };
    if !allowed_in_mode(policy, action, mode) {
        memory.released = direct.fact.id;
        let refused = Judgement::not_in_force(Verdict::Refused, Rule::ActionNotAllowedInMode);
        return Some(Judgement {
            command_id: direct.fact.id,
            ..refused
        });
    }
    let accepted = Judgement::not_in_force(Verdict::Accepted, Rule::None);
    Some(Judgement {
        action,
        command_id: direct.fact.id,
        remaining_ns,
        ..accepted
    })
}

/// Whether a CANCEL (or a negated CONFIRM) names one of `ids`, or names nothing and came after `since_ns`.
fn cancelled(
    policy: &Policy,
    inputs: &Inputs,
    ids: &[Id],
    since_ns: i64,
    authority: impl Fn(&CommandFact) -> bool,
) -> bool {
    inputs.commands().any(|command| {
        let fact = &command.fact;
        let says_no = match fact.intent {
            Intent::Cancel => !fact.negated,
            Intent::Confirm => fact.negated,
            _ => false,
        };
        let meant = if fact.reply_to == NO_ID {
            command.arrived_ns >= since_ns
        } else {
            ids.contains(&fact.reply_to)
        };
        says_no && meant && !doubtful(policy, fact) && authority(fact)
    })
}

/// Whether a command was understood too badly to act on; an unknown confidence is not a bad one.
fn doubtful(policy: &Policy, command: &CommandFact) -> bool {
    command.confidence < policy.settings().min_command_confidence
}

/// What every rule about an advice or a command looks at; the computer drives and the ego state is fresh.
struct Context<'a> {
    policy: &'a Policy,
    inputs: &'a Inputs,
    mode: Option<OperationMode>,
    ego_mps: f32,
    now: Now,
}

/// Where a confirmation stands.
enum Confirmation {
    Given,
    Awaited,
    TimedOut,
}

impl Context<'_> {
    fn judge_advice(&self, memory: &mut Memory, last_limit: Option<Limit>) -> Judgement {
        let no_advice = |rule| Judgement::not_in_force(Verdict::NoAdvice, rule);
        let Some(advice) = self.inputs.advice() else {
            return no_advice(Rule::AdviceMissing);
        };
        let fact = &advice.fact;
        let remaining_ns = self.remaining_ns(advice);
        if remaining_ns <= 0 {
            return no_advice(Rule::AdviceExpired).about(fact, 0);
        }
        if let Some((id, verdict, rule)) = memory.closed
            && id == fact.id
        {
            return Judgement::not_in_force(verdict, rule).about(fact, remaining_ns);
        }
        if let Some(rule) = self.unusable(advice) {
            return no_advice(rule).about(fact, remaining_ns);
        }
        if cancelled(
            self.policy,
            self.inputs,
            &known_ids(fact),
            advice.arrived_ns,
            |_| true,
        ) {
            memory.closed = Some((fact.id, Verdict::NoAdvice, Rule::Cancelled));
            return no_advice(Rule::Cancelled).about(fact, remaining_ns);
        }
        let refusal = self
            .refusal(fact)
            .map_or_else(|| self.confirmation(memory, fact), Err);
        match refusal {
            Ok(Confirmation::Given) => self
                .in_force(memory, fact, last_limit)
                .about(fact, remaining_ns),
            Ok(Confirmation::Awaited) => {
                Judgement::not_in_force(Verdict::PendingConfirm, Rule::ConfirmPending)
                    .about(fact, remaining_ns)
            }
            Ok(Confirmation::TimedOut) => {
                close(memory, fact, Rule::ConfirmTimeout).about(fact, remaining_ns)
            }
            Err(rule) => close(memory, fact, rule).about(fact, remaining_ns),
        }
    }

    /// How long the advice lives on, by the clock that says less, ns.
    fn remaining_ns(&self, advice: &Timed<AdviceFact>) -> i64 {
        let fact = &advice.fact;
        let longest_ns = fact
            .generated_ns
            .saturating_add(ns(self.policy.settings().advice_max_validity));
        let end_ns = fact.valid_until_ns.min(longest_ns);
        let by_wall = end_ns.saturating_sub(self.now.wall_ns);
        let arrived_wall_ns = fact.stamp_ns.saturating_add(advice.age_at_arrival_ns);
        let by_monotonic = end_ns
            .saturating_sub(arrived_wall_ns)
            .saturating_sub(advice.since_arrival_ns(self.now));
        by_wall.min(by_monotonic)
    }

    /// Why the advice counts for nothing, for now.
    fn unusable(&self, advice: &Timed<AdviceFact>) -> Option<Rule> {
        let (fact, settings) = (&advice.fact, self.policy.settings());
        let age_ns = advice.age_ns(self.now);
        // Waiting for a person takes time that is not the advisor's fault; the scene is judged afresh all the while.
        let patience = if settings.confirm[fact.action as usize].is_some() {
            ns(settings.confirm_timeout)
        } else {
            0
        };
        if age_ns > ns(settings.fresh.advice).saturating_add(patience) {
            Some(Rule::AdviceStale)
        } else if fact.command_id != NO_ID && self.inputs.answered().is_none() {
            Some(Rule::CommandUnknown)
        } else if fact.summary_id != NO_ID && !self.inputs.summary_known() {
            Some(Rule::SummaryUnknown)
        } else if fact.action == Action::None {
            Some(Rule::AdviceNone)
        } else {
            None
        }
    }

    /// Why the advice must not pass.
    fn refusal(&self, fact: &AdviceFact) -> Option<Rule> {
        let settings = self.policy.settings();
        // A "slow down" above the present speed slows nothing and is judged as going on.
        let slows = fact.action.only_slows()
            && !(fact.action == Action::SlowDown && fact.max_speed_mps > self.ego_mps);
        let judged_as = if fact.action.only_slows() && !slows {
            Action::Keep
        } else {
            fact.action
        };
        let answered = self.inputs.answered();
        if !settings.allow.contains(fact.action) {
            Some(Rule::ActionNotAllowed)
        } else if !allowed_in_mode(self.policy, fact.action, self.mode) {
            Some(Rule::ActionNotAllowedInMode)
        } else if answered
            .is_some_and(|command| command.negated && self.requested(command) == Some(fact.action))
        {
            Some(Rule::NegatedCommand)
        } else if !slows && answered.is_some_and(|command| doubtful(self.policy, command)) {
            Some(Rule::LowConfidence)
        } else if fact.action == Action::SlowDown && fact.max_speed_mps.is_nan() {
            Some(Rule::SlowDownWithoutSpeed)
        } else {
            scene::objection(self.policy, self.inputs, judged_as, slows, self.now)
        }
    }

    fn confirmation(&self, memory: &mut Memory, fact: &AdviceFact) -> Result<Confirmation, Rule> {
        let settings = self.policy.settings();
        let Some(confirmer) = settings.confirm[fact.action as usize] else {
            return Ok(Confirmation::Given);
        };
        if memory.confirmed == fact.id {
            return Ok(Confirmation::Given);
        }
        let since_ns = match memory.pending {
            Some((id, since_ns)) if id == fact.id => since_ns,
            Some(_) | None => self.now.mono_ns,
        };
        memory.pending = Some((fact.id, since_ns));
        let deadline_ns = since_ns.saturating_add(ns(settings.confirm_timeout));
        let confirmed = self.inputs.commands().any(|command| {
            let answer = &command.fact;
            let in_time = (since_ns..=deadline_ns).contains(&command.arrived_ns);
            let entitled = confirmer == Confirmer::Any || answer.speaker == Speaker::Driver;
            let meant = answer.reply_to != NO_ID && known_ids(fact).contains(&answer.reply_to);
            answer.intent == Intent::Confirm
                && !answer.negated
                && in_time
                && entitled
                && meant
                && !doubtful(self.policy, answer)
        });
        if confirmed {
            memory.confirmed = fact.id;
            Ok(Confirmation::Given)
        } else if self.now.mono_ns > deadline_ns {
            Ok(Confirmation::TimedOut)
        } else {
            Ok(Confirmation::Awaited)
        }
    }

    fn in_force(
        &self,
        memory: &mut Memory,
        fact: &AdviceFact,
        last_limit: Option<Limit>,
    ) -> Judgement {
        let settings = self.policy.settings();
        let stops = matches!(fact.action, Action::Stop | Action::PullOver);
        let (max_speed_mps, rule) = if stops || fact.max_speed_mps.is_nan() {
            // How a stop is driven is the planner's: no curve of limits on top of it.
            speed::bound(settings, fact.max_speed_mps)
        } else {
            let (limit, rule) = speed::slew(
                settings,
                fact.max_speed_mps,
                self.ego_mps,
                last_limit,
                self.now,
            );
            memory.limit = Some(limit);
            (limit.speed_mps, rule)
        };
        let verdict = if rule == Rule::None {
            Verdict::Accepted
        } else {
            Verdict::Clipped
        };
        Judgement {
            action: fact.action,
            max_speed_mps,
            ..Judgement::not_in_force(verdict, rule)
        }
    }

    /// What can be said about the last command while no advice answers it: a refusal needs no model.
    fn judge_command(&self) -> Option<Judgement> {
        let (settings, command) = (self.policy.settings(), self.inputs.latest_command()?);
        let fact = &command.fact;
        let stated_ns = if fact.lifespan_ns > 0 {
            fact.lifespan_ns
        } else {
            i64::MAX
        };
        let remaining_ns = ns(settings.fresh.command)
            .min(stated_ns)
            .saturating_sub(command.age_ns(self.now));
        let answered = self
            .inputs
            .advice()
            .is_some_and(|advice| advice.fact.command_id == fact.id);
        if remaining_ns <= 0 || answered {
            return None;
        }
        let action = self.requested(fact)?;
        let (verdict, rule) = if fact.negated {
            // Nothing was asked for, so nothing is refused; said only where a misheard word would stop the vehicle.
            fact.intent.direct_action()?;
            (Verdict::NoAdvice, Rule::NegatedCommand)
        } else {
            (Verdict::Refused, self.objection_to_command(fact, action)?)
        };
        Some(Judgement {
            command_id: fact.id,
            remaining_ns,
            ..Judgement::not_in_force(verdict, rule)
        })
    }

    fn objection_to_command(&self, fact: &CommandFact, action: Action) -> Option<Rule> {
        let settings = self.policy.settings();
        if doubtful(self.policy, fact) {
            Some(Rule::LowConfidence)
        } else if !settings.allow.contains(action) {
            Some(Rule::ActionNotAllowed)
        } else if !allowed_in_mode(self.policy, action, self.mode) {
            Some(Rule::ActionNotAllowedInMode)
        } else if action.only_slows() {
            None
        } else {
            let objection = scene::objection(self.policy, self.inputs, action, false, self.now);
            let faster = matches!(fact.intent, Intent::SpeedUp);
            objection
                .or((faster && self.ego_mps >= settings.max_speed_mps)
                    .then_some(Rule::AtSpeedLimit))
        }
    }

    /// The action a command asks for.
    fn requested(&self, command: &CommandFact) -> Option<Action> {
        match command.intent {
            Intent::Stop => Some(Action::Stop),
            Intent::PullOver => Some(Action::PullOver),
            Intent::SlowDown => Some(Action::SlowDown),
            Intent::SpeedUp | Intent::Keep => Some(Action::Keep),
            Intent::SetSpeed if command.target_speed_mps <= self.ego_mps => Some(Action::SlowDown),
            Intent::SetSpeed => Some(Action::Keep),
            Intent::LaneLeft => Some(Action::LaneLeft),
            Intent::LaneRight => Some(Action::LaneRight),
            Intent::Unknown | Intent::Navigate | Intent::Confirm | Intent::Cancel => None,
        }
    }
}

/// The ids by which an answer can name an advice; never the id "none".
fn known_ids(fact: &AdviceFact) -> [Id; 2] {
    [
        fact.id,
        if fact.command_id == NO_ID {
            fact.id
        } else {
            fact.command_id
        },
    ]
}

fn close(memory: &mut Memory, fact: &AdviceFact, rule: Rule) -> Judgement {
    memory.closed = Some((fact.id, Verdict::Refused, rule));
    Judgement::not_in_force(Verdict::Refused, rule)
}
