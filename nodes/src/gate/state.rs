//! What the gate knows: the latest of each input, taken only if it can be believed.
//!
//! Nothing is decided here. An ingest function says why a message is not believed and leaves the state as it was, so that an input which
//! goes bad simply ages; age then counts against it in the decision. All storage has a fixed size.
//!
//! Age is the larger of two readings: stamp against the descriptor's clock, and age on arrival plus monotonic time since. A clock
//! that is set back can therefore not make anything younger; it also empties the state, because stamps of two epochs cannot be compared.
//! Spoken stops are held on the monotonic clock alone and survive that.

use std::time::Duration;

use super::fact::{
    AdviceFact, CommandFact, EgoFact, Id, ModeFact, ModeReport, NO_ID, Now, SceneFact,
};
use super::policy::{FUTURE_TOLERANCE, Policy};
use super::refusal::{Counters, Input, Refusal};

/// Commands remembered: an advice must answer one of them. More than anybody can say within the longest life of an advice.
const COMMANDS_KEPT: usize = 16;
/// Summaries remembered: an advice must be built on one of them. Six seconds at 10 Hz.
const SUMMARIES_KEPT: usize = 64;
/// Fastest believable vehicle, m/s.
const MAX_EGO_SPEED_MPS: f32 = 150.0;
/// Fastest believable limit or target, m/s.
const MAX_LIMIT_MPS: f32 = 150.0;

/// Nanoseconds of a duration, saturating.
#[must_use]
pub(super) fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A fact with what its age is computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed<T> {
    /// The fact.
    pub fact: T,
    /// Its stamp on the descriptor's clock, ns.
    pub stamp_ns: i64,
    /// Its arrival on the monotonic clock, ns.
    pub arrived_ns: i64,
    /// How old it was on arrival, ns.
    pub age_at_arrival_ns: i64,
}

impl<T> Timed<T> {
    fn new(fact: T, stamp_ns: i64, now: Now) -> Timed<T> {
        let age_at_arrival_ns = now.wall_ns.saturating_sub(stamp_ns);
        Timed {
            fact,
            stamp_ns,
            arrived_ns: now.mono_ns,
            age_at_arrival_ns,
        }
    }

    /// Age in ns by the clock that says more; negative only for a stamp ahead of both.
    #[must_use]
    pub fn age_ns(&self, now: Now) -> i64 {
        let by_stamp = now.wall_ns.saturating_sub(self.stamp_ns);
        let by_monotonic = self
            .age_at_arrival_ns
            .saturating_add(self.since_arrival_ns(now));
        by_stamp.max(by_monotonic)
    }

    /// Time since arrival in ns.
    #[must_use]
    pub fn since_arrival_ns(&self, now: Now) -> i64 {
        now.mono_ns.saturating_sub(self.arrived_ns)
    }
}

/// The last N of something, in a fixed place.
#[derive(Clone, Copy, Debug)]
struct Ring<T, const N: usize> {
    items: [Option<T>; N],
    next: usize,
}

impl<T: Copy, const N: usize> Ring<T, N> {
    const fn new() -> Ring<T, N> {
        Ring {
            items: [None; N],
            next: 0,
        }
    }

    fn push(&mut self, item: T) {
        self.items[self.next] = Some(item);
        self.next = (self.next + 1) % N;
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().flatten()
    }

    fn latest(&self) -> Option<&T> {
        self.items[(self.next + N - 1) % N].as_ref()
    }
}

/// Who publishes an input, and how far its time has come.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    owner: Option<u128>,
    heard_ns: Option<i64>,
    epoch: u32,
    /// Stamp (or time of writing) below which nothing is taken.
    high_ns: i64,
}

impl Source {
    /// Whether this publisher may speak on this input now; `Ok(true)` when it takes over.
    fn identify(
        &mut self,
        policy: &Policy,
        publisher: Option<u128>,
        now: Now,
    ) -> Result<bool, Refusal> {
        let identity = policy.settings().identity;
        let silent = self
            .heard_ns
            .is_none_or(|heard| now.mono_ns.saturating_sub(heard) >= ns(identity.takeover_after));
        match (self.owner, publisher) {
            (None, None) if !identity.required => Ok(false),
            (_, None) => Err(Refusal::PublisherUnknown),
            (None, Some(_)) => Ok(false),
            (Some(owner), Some(publisher)) if owner == publisher => {
                self.heard_ns = Some(now.mono_ns);
                Ok(false)
            }
            (Some(_), Some(_)) if silent => Ok(true),
            (Some(_), Some(_)) => Err(Refusal::WrongPublisher),
        }
    }

    /// Records an accepted message: only those make an owner, so that garbage cannot occupy an input.
    fn accept(&mut self, publisher: Option<u128>, high_ns: i64, now: Now) {
        if publisher.is_some() && self.owner != publisher {
            self.owner = publisher;
            self.epoch = self.epoch.saturating_add(1);
        }
        self.heard_ns = Some(now.mono_ns);
        self.high_ns = high_ns;
    }
}

/// What the gate knows. Create once; about 6 KiB, no heap.
#[derive(Clone, Debug)]
pub struct Inputs {
    advice: Option<Timed<AdviceFact>>,
    answered: Option<CommandFact>,
    summary_known: bool,
    commands: Ring<Timed<CommandFact>, COMMANDS_KEPT>,
    direct: Option<Timed<CommandFact>>,
    scene: Option<Timed<SceneFact>>,
    summaries: Ring<Id, SUMMARIES_KEPT>,
    ego: Option<Timed<EgoFact>>,
    modes: [Option<Timed<ModeFact>>; 3],
    sources: [Source; Input::COUNT],
    wall_seen_ns: i64,
    epoch_seen: Option<u32>,
    counters: Counters,
}

impl Default for Inputs {
    fn default() -> Inputs {
        Inputs::new()
    }
}

impl Inputs {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Inputs {
        Inputs {
            advice: None,
            answered: None,
            summary_known: false,
            commands: Ring::new(),
            direct: None,
            scene: None,
            summaries: Ring::new(),
            ego: None,
            modes: [None; 3],
            sources: [Source::default(); Input::COUNT],
            wall_seen_ns: i64::MIN,
            epoch_seen: None,
            counters: Counters::default(),
        }
    }

    /// Takes the time; a clock that went back by more than the tolerance empties the state, and so does one that says it did, however
    /// far it has come since. Call before every decision.
    pub fn observe_clock(&mut self, now: Now) {
        let back = now.wall_ns.saturating_add(ns(FUTURE_TOLERANCE)) < self.wall_seen_ns;
        if back || self.epoch_seen.is_some_and(|seen| seen != now.epoch) {
            let (direct, mut counters) = (self.direct, self.counters);
            counters.count_clock_step();
            *self = Inputs {
                direct,
                counters,
                ..Inputs::new()
            };
        }
        self.wall_seen_ns = now.wall_ns;
        self.epoch_seen = Some(now.epoch);
    }

    /// Forgets everything but the counters, as after a start.
    pub fn forget(&mut self) {
        let counters = self.counters;
        *self = Inputs {
            counters,
            ..Inputs::new()
        };
    }

    /// Takes an advice.
    ///
    /// # Errors
    /// Says why it is not believed; the last one then stays.
    pub fn ingest_advice(
        &mut self,
        policy: &Policy,
        fact: AdviceFact,
        publisher: Option<u128>,
        now: Now,
    ) -> Result<(), Refusal> {
        self.ingest(Input::Advice, policy, publisher, now, |inputs, high_ns| {
            check_advice(&fact)?;
            check_stamp(fact.stamp_ns, policy.settings().fresh.advice, now)?;
            check_not_future(fact.generated_ns, now)?;
            if inputs.advice.is_some_and(|last| last.fact.id == fact.id) {
                return Err(Refusal::Duplicate);
            }
            if fact.generated_ns < high_ns {
                return Err(Refusal::StampBackwards);
            }
            if fact.valid_until_ns <= now.wall_ns {
                return Err(Refusal::LifespanOver);
            }
            inputs.advice = Some(Timed::new(fact, fact.stamp_ns, now));
            inputs.answered = None;
            inputs.summary_known = false;
            inputs.link();
            Ok(fact.generated_ns)
        })
    }

    /// Takes a command. Order does not matter: a spoken stop overtakes the queue.
    ///
    /// # Errors
    /// Says why it is not believed.
    pub fn ingest_command(
        &mut self,
        policy: &Policy,
        fact: CommandFact,
        publisher: Option<u128>,
        now: Now,
    ) -> Result<(), Refusal> {
        self.ingest(Input::Command, policy, publisher, now, |inputs, high_ns| {
            check_command(&fact)?;
            check_stamp(fact.stamp_ns, policy.settings().fresh.command, now)?;
            if inputs.commands.iter().any(|known| known.fact.id == fact.id) {
                return Err(Refusal::Duplicate);
            }
            let timed = Timed::new(fact, fact.stamp_ns, now);
            if fact.lifespan_ns > 0 && timed.age_ns(now) > fact.lifespan_ns {
                return Err(Refusal::LifespanOver);
            }
            inputs.commands.push(timed);
            if acts_directly(policy, &fact) {
                inputs.direct = Some(timed);
            }
            inputs.link();
            Ok(high_ns.max(fact.stamp_ns))
        })
    }

    /// Takes a summary. Its stamp is that of the oldest source and may stand still (a frozen camera): it is taken, and ages.
    ///
    /// # Errors
    /// Says why it is not believed; the last one then stays and ages.
    pub fn ingest_scene(
        &mut self,
        policy: &Policy,
        fact: SceneFact,
        publisher: Option<u128>,
        now: Now,
    ) -> Result<(), Refusal> {
        self.ingest(Input::Summary, policy, publisher, now, |inputs, high_ns| {
            check_scene(&fact)?;
            check_stamp(fact.stamp_ns, policy.settings().fresh.summary, now)?;
            check_not_future(fact.generated_ns, now)?;
            check_written(fact.generated_ns, fact.stamp_ns)?;
            if inputs.summaries.iter().any(|known| *known == fact.id) {
                return Err(Refusal::Duplicate);
            }
            if fact.generated_ns < high_ns {
                return Err(Refusal::StampBackwards);
            }
            inputs.scene = Some(Timed::new(fact, fact.stamp_ns, now));
            inputs.summaries.push(fact.id);
            inputs.link();
            Ok(fact.generated_ns)
        })
    }

    /// Takes the vehicle's own motion; a repeated stamp is refused, because odometry that stands still says nothing new.
    ///
    /// # Errors
    /// Says why it is not believed; the last one then stays and ages.
    pub fn ingest_ego(
        &mut self,
        policy: &Policy,
        fact: EgoFact,
        publisher: Option<u128>,
        now: Now,
    ) -> Result<(), Refusal> {
        self.ingest(Input::Ego, policy, publisher, now, |inputs, high_ns| {
            check_speed(fact.speed_mps, MAX_EGO_SPEED_MPS)?;
            check_stamp(fact.stamp_ns, policy.settings().fresh.ego, now)?;
            check_advancing(fact.stamp_ns, high_ns)?;
            inputs.ego = Some(Timed::new(fact, fact.stamp_ns, now));
            Ok(fact.stamp_ns)
        })
    }

    /// Takes a report about who is in charge. Such reports may be published once and kept, so they have no age limit here.
    ///
    /// # Errors
    /// Says why it is not believed; the last one then stays and ages.
    pub fn ingest_mode(
        &mut self,
        policy: &Policy,
        fact: ModeFact,
        publisher: Option<u128>,
        now: Now,
    ) -> Result<(), Refusal> {
        let input = match fact.report {
            ModeReport::Operation { .. } => Input::OperationMode,
            ModeReport::Control { .. } => Input::ControlMode,
            ModeReport::Mrm { .. } => Input::Mrm,
        };
        self.ingest(input, policy, publisher, now, |inputs, high_ns| {
            if fact.stamp_ns == 0 {
                return Err(Refusal::StampZero);
            }
            check_not_future(fact.stamp_ns, now)?;
            if fact.stamp_ns < high_ns {
                return Err(Refusal::StampBackwards);
            }
            inputs.modes[mode_index(input)] = Some(Timed::new(fact, fact.stamp_ns, now));
            Ok(fact.stamp_ns)
        })
    }

    /// Counts a message that never became a fact.
    pub fn count_refusal(&mut self, input: Input, reason: Refusal) {
        self.counters.count(input, Err(reason));
    }

    /// How many messages were taken and refused.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How often the publisher of this input changed; 1 after the first identified message.
    #[must_use]
    pub fn epoch(&self, input: Input) -> u32 {
        self.sources[input as usize].epoch
    }

    /// The latest advice.
    #[must_use]
    pub fn advice(&self) -> Option<&Timed<AdviceFact>> {
        self.advice.as_ref()
    }

    /// The command the latest advice answers, if the gate heard it.
    #[must_use]
    pub fn answered(&self) -> Option<&CommandFact> {
        self.answered.as_ref()
    }

    /// Whether the gate saw the summary the latest advice is built on.
    #[must_use]
    pub fn summary_known(&self) -> bool {
        self.summary_known
    }

    /// The commands remembered, in no order.
    pub fn commands(&self) -> impl Iterator<Item = &Timed<CommandFact>> {
        self.commands.iter()
    }

    /// The command that arrived last.
    #[must_use]
    pub fn latest_command(&self) -> Option<&Timed<CommandFact>> {
        self.commands.latest()
    }

    /// The last spoken STOP or PULL_OVER that may act.
    #[must_use]
    pub fn direct(&self) -> Option<&Timed<CommandFact>> {
        self.direct.as_ref()
    }

    /// The latest summary.
    #[must_use]
    pub fn scene(&self) -> Option<&Timed<SceneFact>> {
        self.scene.as_ref()
    }

    /// The vehicle's own motion.
    #[must_use]
    pub fn ego(&self) -> Option<&Timed<EgoFact>> {
        self.ego.as_ref()
    }

    /// The latest report of a mode input; `None` for the others.
    #[must_use]
    pub fn mode(&self, input: Input) -> Option<&Timed<ModeFact>> {
        match input {
            Input::OperationMode | Input::ControlMode | Input::Mrm => {
                self.modes[mode_index(input)].as_ref()
            }
            Input::Advice | Input::Command | Input::Summary | Input::Ego => None,
        }
    }

    /// The frame of every ingest: clock, identity, the input's own checks, then the books.
    fn ingest(
        &mut self,
        input: Input,
        policy: &Policy,
        publisher: Option<u128>,
        now: Now,
        take: impl FnOnce(&mut Inputs, i64) -> Result<i64, Refusal>,
    ) -> Result<(), Refusal> {
        self.observe_clock(now);
        let result = self.sources[input as usize]
            .identify(policy, publisher, now)
            .and_then(|takeover| {
                // A new publisher starts a new epoch: its stamps are not compared with those of the one before.
                let high_ns = if takeover {
                    i64::MIN
                } else {
                    self.sources[input as usize].high_ns
                };
                let high_ns = take(self, high_ns)?;
                self.sources[input as usize].accept(publisher, high_ns, now);
                Ok(())
            });
        self.counters.count(input, result);
        result
    }

    /// Finds what the advice refers to; either side may arrive first, since they travel on different topics.
    fn link(&mut self) {
        let Some(advice) = &self.advice else { return };
        let fact = advice.fact;
        if self.answered.is_none() {
            self.answered = self
                .commands
                .iter()
                .find(|known| known.fact.id == fact.command_id)
                .map(|known| known.fact);
        }
        self.summary_known |= self.summaries.iter().any(|known| *known == fact.summary_id);
    }
}

/// Whether a command goes to the planner without any model.
fn acts_directly(policy: &Policy, fact: &CommandFact) -> bool {
    let settings = policy.settings();
    let Some(action) = fact.intent.direct_action() else {
        return false;
    };
    !fact.negated
        && (fact.confidence.is_nan() || fact.confidence >= settings.min_command_confidence)
        && settings.allow.contains(action)
}

fn mode_index(input: Input) -> usize {
    (input as usize)
        .saturating_sub(Input::OperationMode as usize)
        .min(2)
}

fn check_not_future(stamp_ns: i64, now: Now) -> Result<(), Refusal> {
    if stamp_ns > now.wall_ns.saturating_add(now.ahead_ns) {
        Err(Refusal::StampInFuture)
    } else {
        Ok(())
    }
}

/// Nothing is written before what it is built on, up to the difference of two clocks.
fn check_written(generated_ns: i64, stamp_ns: i64) -> Result<(), Refusal> {
    if generated_ns.saturating_add(ns(FUTURE_TOLERANCE)) < stamp_ns {
        Err(Refusal::Inconsistent)
    } else {
        Ok(())
    }
}

fn check_stamp(stamp_ns: i64, limit: Duration, now: Now) -> Result<(), Refusal> {
    if stamp_ns == 0 {
        return Err(Refusal::StampZero);
    }
    check_not_future(stamp_ns, now)?;
    if now.wall_ns.saturating_sub(stamp_ns) > ns(limit) {
        Err(Refusal::TooOld)
    } else {
        Ok(())
    }
}

fn check_advancing(stamp_ns: i64, high_ns: i64) -> Result<(), Refusal> {
    match stamp_ns.cmp(&high_ns) {
        std::cmp::Ordering::Less => Err(Refusal::StampBackwards),
        std::cmp::Ordering::Equal => Err(Refusal::StampStandingStill),
        std::cmp::Ordering::Greater => Ok(()),
    }
}

/// A speed that must be known.
fn check_speed(value: f32, high: f32) -> Result<(), Refusal> {
    if !value.is_finite() {
        return Err(Refusal::NotFinite);
    }
    if (0.0..=high).contains(&value) {
        Ok(())
    } else {
        Err(Refusal::OutOfRange)
    }
}

/// A value that may be NaN for "unknown" but otherwise lies in the range.
fn check_optional(value: f32, low: f32, high: f32) -> Result<(), Refusal> {
    if value.is_nan() || (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Refusal::OutOfRange)
    }
}

fn check_advice(fact: &AdviceFact) -> Result<(), Refusal> {
    if fact.id == NO_ID {
        return Err(Refusal::IdMissing);
    }
    if fact.command_id == NO_ID && fact.summary_id == NO_ID {
        return Err(Refusal::Untraceable);
    }
    if fact.generated_ns == 0 {
        return Err(Refusal::StampZero);
    }
    check_written(fact.generated_ns, fact.stamp_ns)?;
    if fact.valid_until_ns < fact.generated_ns {
        return Err(Refusal::Inconsistent);
    }
    check_optional(fact.max_speed_mps, 0.0, MAX_LIMIT_MPS)?;
    check_optional(fact.confidence, 0.0, 1.0)
}

fn check_command(fact: &CommandFact) -> Result<(), Refusal> {
    if fact.id == NO_ID {
        return Err(Refusal::IdMissing);
    }
    if fact.lifespan_ns < 0 {
        return Err(Refusal::OutOfRange);
    }
    check_optional(fact.target_speed_mps, 0.0, MAX_LIMIT_MPS)?;
    check_optional(fact.confidence, 0.0, 1.0)
}

fn check_scene(fact: &SceneFact) -> Result<(), Refusal> {
    if fact.id == NO_ID {
        return Err(Refusal::IdMissing);
    }
    let objects = fact
        .objects
        .get(..fact.object_count)
        .ok_or(Refusal::OutOfRange)?;
    for object in objects {
        check_optional(object.existence_probability, 0.0, 1.0)?;
        check_optional(object.distance_m, 0.0, f32::INFINITY)?;
        check_optional(
            object.relative_speed_mps,
            -MAX_EGO_SPEED_MPS,
            MAX_EGO_SPEED_MPS,
        )?;
        check_optional(object.time_to_contact_s, 0.0, f32::INFINITY)?;
    }
    Ok(())
}
