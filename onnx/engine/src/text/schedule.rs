//! Who runs in the next step, and with how many tokens: pure functions of the requests, the measured cost and the time.
//!
//! ```text
//!            ┌────────── pre-empted: keeps its place and what it has said ─────────┐
//!            ▼                                                                     │
//! asked ─► waiting ── a slot and pages ──► running: prompt in parts ─► token by token ─► finished
//!    └─ refused: too late, queue full
//! ```
//!
//! - The order is total ([`Seat::rank`]): priority, then who must be done first, then who came first. A deadline further
//!   away than [`PATIENCE`], or none, counts as that, so every rank is passed by finitely many later requests: inside a
//!   priority nobody starves. A lower priority may: that is what a priority means, and its deadline then says so.
//! - Everybody who runs gets its next token in every step. What is left of a step's time goes to prompts, in order of rank,
//!   in parts so small that nobody else's next token comes later than [`COMPANY_STEP`]. Who is alone gets larger parts.
//! - If a request would miss its deadline with lower priorities in its steps, they pause.
//! - A waiting request takes the place of the last one only from a lower priority. For want of pages the last in order
//!   gives way, whoever it is; the first one never does, so somebody always gets done.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::cost::StepCost;

/// Time of a step while others wait for it.
pub(crate) const COMPANY_STEP: Duration = Duration::from_millis(30);
/// Time of a step of one request alone: long enough for full speed, short enough for whoever comes meanwhile.
pub(crate) const ALONE_STEP: Duration = Duration::from_millis(200);
/// Deadline, in the order of requests, of one that has none or a later one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Rows of prompts in a step while nothing is measured and others wait.
const UNMEASURED_ROWS: usize = 32;
/// Tokens that run at once whatever the prompts get: the next token, and what a grammar forced after it.
const SHORT_ROWS: usize = 8;

/// Names a request for its whole life.
pub(crate) type Id = u64;

/// A request as the policy sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) id: Id,
    /// Higher is more important.
    pub(crate) priority: u8,
    pub(crate) deadline: Option<Instant>,
    pub(crate) arrived: Instant,
    /// Whether it has a slot and pages.
    pub(crate) running: bool,
    /// Tokens the model has to see before the next scores.
    pub(crate) unseen: usize,
    /// Tokens of the answer that are still expected.
    pub(crate) remaining: usize,
}

/// What the model has room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Most running requests.
    pub(crate) slots: usize,
    /// Most rows of a step.
    pub(crate) rows: usize,
}

/// A change of who runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seating {
    /// This one gets a free slot.
    Start(Id),
    /// The first gives its slot to the second.
    Swap(Id, Id),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) need: Duration,
    pub(crate) left: Duration,
}

impl Seat {
    /// The smaller, the sooner. Ids are given in order of arrival.
    pub(crate) fn rank(&self) -> (Reverse<u8>, Instant, Id) {
        let latest = self.arrived + PATIENCE;
        let due = self
            .deadline
            .map_or(latest, |deadline| deadline.min(latest));
        (Reverse(self.priority), due, self.id)
    }
}

/// The next change of who runs, if there should be one: the first of the waiting gets a slot, or that of a lower priority.
pub(crate) fn seating(seats: &[Seat], room: &Room) -> Option<Seating> {
    let first = seats
        .iter()
        .filter(|seat| !seat.running)
        .min_by_key(|seat| seat.rank())?;
    if seats.iter().filter(|seat| seat.running).count() < room.slots {
        return Some(Seating::Start(first.id));
    }
    lower(seats, first.priority).map(|out| Seating::Swap(out, first.id))
}

/// The last of the running ones, if its priority is lower than this.
pub(crate) fn lower(seats: &[Seat], priority: u8) -> Option<Id> {
    last_running(seats)
        .filter(|seat| seat.priority < priority)
        .map(|seat| seat.id)
}

/// Who gives way when a running request finds no page: the last in order, which may be itself.
pub(crate) fn gives_way(seats: &[Seat]) -> Option<Id> {
    last_running(seats).map(|seat| seat.id)
}

fn last_running(seats: &[Seat]) -> Option<&Seat> {
    seats
        .iter()
        .filter(|seat| seat.running)
        .max_by_key(|seat| seat.rank())
}

/// The waiting one that leaves a full queue for a newcomer of this priority: the last in order, if it matters less.
pub(crate) fn displaced(seats: &[Seat], priority: u8) -> Option<Id> {
    seats
        .iter()
        .filter(|seat| !seat.running)
        .max_by_key(|seat| seat.rank())
        .filter(|seat| seat.priority < priority)
        .map(|seat| seat.id)
}

/// Rows of every request in the next step, in order of rank; those that pause are not in it.
pub(crate) fn rows(seats: &[Seat], room: &Room, cost: &StepCost, now: Instant) -> Vec<(Id, usize)> {
    let mut running: Vec<&Seat> = seats.iter().filter(|seat| seat.running).collect();
    running.sort_by_key(|seat| seat.rank());
    if let Some(floor) = floor(&running, cost, now) {
        running.retain(|seat| seat.priority >= floor);
    }
    let mut left = room.rows;
    let mut plan: Vec<(Id, usize)> = Vec::with_capacity(running.len());
    for seat in &running {
        let count = if seat.unseen <= SHORT_ROWS {
            seat.unseen.min(left)
        } else {
            0
        };
        plan.push((seat.id, count));
        left -= count;
    }
    let short = room.rows - left;
    let alone = running.len() == 1
        && !seats
            .iter()
            .any(|seat| !seat.running && seat.priority > running[0].priority);
    let (time, unmeasured) = if alone {
        (ALONE_STEP, room.rows)
    } else {
        (COMPANY_STEP, UNMEASURED_ROWS)
    };
    let affordable = cost
        .rows_within(time.as_secs_f64(), room.rows)
        .unwrap_or(unmeasured)
        .saturating_sub(short);
    // A model so slow that its own tokens fill the step must still get through prompts.
    left = left.min(affordable.max(SHORT_ROWS));
    for (seat, (_, count)) in running.iter().zip(&mut plan) {
        if seat.unseen > SHORT_ROWS {
            *count = seat.unseen.min(left);
            left -= *count;
        }
    }
    plan.retain(|(_, count)| *count > 0);
    plan
}

/// The priority below which requests pause, so that one of them comes in time.
fn floor(running: &[&Seat], cost: &StepCost, now: Instant) -> Option<u8> {
    let lowest = running.last()?.priority;
    let step = cost.seconds(running.len())?;
    running
        .iter()
        .take_while(|seat| seat.priority > lowest)
        .find(|seat| {
            let left = seat
                .deadline
                .map(|deadline| deadline.saturating_duration_since(now).as_secs_f64());
            left.is_some_and(|left| {
                prompt_seconds(cost, seat.unseen, COMPANY_STEP, seat.unseen)
                    + seat.remaining as f64 * step
                    > left
            })
        })
        .map(|seat| seat.priority)
}

/// Refuses what would come too late behind those that go first and beside those that run; only `ease` of the estimated time
/// counts.
///
/// # Errors
/// The time it needs and the time that is left.
pub(crate) fn admit(
    newcomer: &Seat,
    seats: &[Seat],
    room: &Room,
    cost: &StepCost,
    ease: f64,
    now: Instant,
) -> Result<(), Late> {
    let Some(deadline) = newcomer.deadline else {
        return Ok(());
    };
    let ahead: Vec<&Seat> = seats
        .iter()
        .filter(|seat| {
            seat.priority > newcomer.priority
                || (seat.priority == newcomer.priority
                    && (seat.running || seat.rank() < newcomer.rank()))
        })
        .collect();
    let together = room.slots.min(ahead.len() + 1);
    let Some(step) = cost.seconds(together) else {
        return Ok(());
    };
    let unseen = newcomer.unseen + ahead.iter().map(|seat| seat.unseen).sum::<usize>();
    let mut steps = newcomer.remaining as f64;
    if ahead.len() >= room.slots {
        // It waits until those ahead have left a slot.
        let tokens: usize = ahead.iter().map(|seat| seat.remaining).sum();
        steps += tokens as f64 / room.slots as f64;
    }
    let time = if ahead.is_empty() || room.slots == 1 {
        ALONE_STEP
    } else {
        COMPANY_STEP
    };
    let seconds = ease * (prompt_seconds(cost, unseen, time, room.rows) + steps * step);
    let need = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let left = deadline.saturating_duration_since(now);
    if need > left {
        return Err(Late { need, left });
    }
    Ok(())
}

/// Time of a prompt in parts of at most so long and so many rows.
fn prompt_seconds(cost: &StepCost, tokens: usize, time: Duration, rows: usize) -> f64 {
    let most = tokens.min(rows).max(1);
    let part = cost
        .rows_within(time.as_secs_f64(), most)
        .unwrap_or(1)
        .clamp(1, most);
    cost.seconds(part)
        .map_or(0.0, |seconds| seconds * tokens as f64 / part as f64)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
