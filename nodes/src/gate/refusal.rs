//! Why an arriving message is not believed, and how often that happened: one counter per input and reason.
//!
//! A refusal is a value, not a log line: the actor counts it, answers state queries with the counters, and reports the first of a series.
//! What never becomes a message (a form the topic does not accept, bytes that do not decode) is refused and counted by the port.

/// The gate's inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Input {
    /// Raw advice of the planner's advisor.
    Advice = 0,
    /// Spoken commands.
    Command = 1,
    /// Perception summaries.
    Summary = 2,
    /// Odometry.
    Ego = 3,
    /// Operation mode.
    OperationMode = 4,
    /// Control mode.
    ControlMode = 5,
    /// Minimum-risk manoeuvre state.
    Mrm = 6,
}

impl Input {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All inputs, at their index.
    pub const ALL: [Input; Input::COUNT] = [
        Input::Advice,
        Input::Command,
        Input::Summary,
        Input::Ego,
        Input::OperationMode,
        Input::ControlMode,
        Input::Mrm,
    ];

    /// The port's name in the descriptor.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Input::Advice => "advice",
            Input::Command => "command",
            Input::Summary => "summary",
            Input::Ego => "ego",
            Input::OperationMode => "operation_mode",
            Input::ControlMode => "control_mode",
            Input::Mrm => "mrm",
        }
    }
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// No stamp.
    #[error("the stamp is zero")]
    StampZero = 0,
    /// Beyond the tolerance for two clocks.
    #[error("the stamp is more than 50 ms in the future")]
    StampInFuture = 1,
    /// Older than what was already accepted.
    #[error("the stamp is earlier than that of the message before")]
    StampBackwards = 2,
    /// Repeated stamp: a sensor that stands still is not fresh.
    #[error("the stamp stands still")]
    StampStandingStill = 3,
    /// Too old on arrival.
    #[error("the stamp is older than the input's limit")]
    TooOld = 4,
    /// May no longer act.
    #[error("the message's own lifespan is over")]
    LifespanOver = 5,
    /// A message without id cannot be answered or traced.
    #[error("the id is zero")]
    IdMissing = 6,
    /// A repetition.
    #[error("a message with this id was already taken")]
    Duplicate = 7,
    /// Somebody else owns the input.
    #[error("another publisher owns this input")]
    WrongPublisher = 8,
    /// The publisher does not say who it is.
    #[error("the publisher is not identified")]
    PublisherUnknown = 9,
    /// NaN or infinity where a number is needed.
    #[error("a number is not finite")]
    NotFinite = 10,
    /// A number that cannot be.
    #[error("a number is out of range")]
    OutOfRange = 11,
    /// An enum value of another version.
    #[error("an enum has a value this version does not know")]
    UnknownEnum = 12,
    /// Times that contradict each other.
    #[error("the message's own times contradict each other")]
    Inconsistent = 13,
    /// Built on nothing.
    #[error("the advice names neither a command nor a summary")]
    Untraceable = 14,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = 15;

    /// All reasons, at their index.
    pub const ALL: [Refusal; Refusal::COUNT] = [
        Refusal::StampZero,
        Refusal::StampInFuture,
        Refusal::StampBackwards,
        Refusal::StampStandingStill,
        Refusal::TooOld,
        Refusal::LifespanOver,
        Refusal::IdMissing,
        Refusal::Duplicate,
        Refusal::WrongPublisher,
        Refusal::PublisherUnknown,
        Refusal::NotFinite,
        Refusal::OutOfRange,
        Refusal::UnknownEnum,
        Refusal::Inconsistent,
        Refusal::Untraceable,
    ];

    /// A short name for counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Refusal::StampZero => "stamp_zero",
            Refusal::StampInFuture => "stamp_in_future",
            Refusal::StampBackwards => "stamp_backwards",
            Refusal::StampStandingStill => "stamp_standing_still",
            Refusal::TooOld => "too_old",
            Refusal::LifespanOver => "lifespan_over",
            Refusal::IdMissing => "id_missing",
            Refusal::Duplicate => "duplicate",
            Refusal::WrongPublisher => "wrong_publisher",
            Refusal::PublisherUnknown => "publisher_unknown",
            Refusal::NotFinite => "not_finite",
            Refusal::OutOfRange => "out_of_range",
            Refusal::UnknownEnum => "unknown_enum",
            Refusal::Inconsistent => "inconsistent",
            Refusal::Untraceable => "untraceable",
        }
    }
}

/// How many messages of each input were accepted and refused. Saturating: a counter never wraps to innocence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    accepted: [u64; Input::COUNT],
    refused: [[u64; Refusal::COUNT]; Input::COUNT],
    clock_steps: u64,
}

impl Counters {
    /// Messages of this input that were taken.
    #[must_use]
    pub fn accepted(&self, input: Input) -> u64 {
        self.accepted[input as usize]
    }

    /// The counters that are not zero, as input, reason, count.
    pub fn refusals(&self) -> impl Iterator<Item = (Input, Refusal, u64)> + '_ {
        let every = Input::ALL
            .into_iter()
            .flat_map(|input| Refusal::ALL.into_iter().map(move |reason| (input, reason)));
        every
            .map(|(input, reason)| (input, reason, self.refused(input, reason)))
            .filter(|(_, _, count)| *count > 0)
    }

    /// Messages of this input that were refused for this reason.
    #[must_use]
    pub fn refused(&self, input: Input, reason: Refusal) -> u64 {
        self.refused[input as usize][reason as usize]
    }

    /// How often the descriptor's clock went backwards.
    #[must_use]
    pub fn clock_steps(&self) -> u64 {
        self.clock_steps
    }

    /// Counts one arrival.
    pub fn count(&mut self, input: Input, result: Result<(), Refusal>) {
        let counter = match result {
            Ok(()) => &mut self.accepted[input as usize],
            Err(reason) => &mut self.refused[input as usize][reason as usize],
        };
        *counter = counter.saturating_add(1);
    }

    pub(super) fn count_clock_step(&mut self) {
        self.clock_steps = self.clock_steps.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_match_their_tables() {
        for (index, input) in Input::ALL.into_iter().enumerate() {
            assert_eq!(input as usize, index);
        }
        for (index, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
