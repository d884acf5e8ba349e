//! One step of the server: who ends, who gets a place, what the model runs, and what its scores mean to everybody.

use std::time::{Duration, Instant};

use super::answer::Phase;
use super::request::Piece;
use super::schedule::{self, Id, Seating};
use super::server::{Event, TextServer};
use super::step::Rows;
use crate::error::{EngineError, Result};

/// Tokens of one request in a step.
type Share = (Id, usize);

impl TextServer {
    /// Runs the model once for everybody who has a place, and tells what came of it. Returns at once when there is nothing
    /// to do.
    pub fn step(&mut self, now: Instant) -> Vec<Event> {
        let begun = Instant::now();
        for job in &mut self.jobs {
            job.scored = false;
        }
        self.end_interrupted(now);
        self.seat_waiting();
        let plan = self.plan(now);
        if !plan.is_empty() {
            self.run(&plan, begun);
        }
        for at in 0..self.jobs.len() {
            self.charge(at, begun.elapsed());
        }
        std::mem::take(&mut self.events)
    }

    fn end_interrupted(&mut self, now: Instant) {
        let (before, mut at) = (self.jobs.len(), 0);
        while let Some(job) = self.jobs.get(at) {
            match job.answer.interruption(now) {
                Some(reason) => self.interrupt(at, reason),
                None => at += 1,
            }
        }
        if (1..before).contains(&self.jobs.len()) {
            // A termination on its way was meant for who has just ended. That it cannot be taken back shows in the step.
            let _ = self.model.forget_termination();
        }
    }

    /// Gives slots and pages to the waiting, in order, as far as there are any.
    fn seat_waiting(&mut self) {
        let room = self.room();
        loop {
            let seats = self.seats();
            match schedule::seating(&seats, &room) {
                None => return,
                Some(Seating::Swap(out, _)) => self.pause(out),
                Some(Seating::Start(id)) => match self.start(id) {
                    Ok(true) => {}
                    Ok(false) => {
                        let priority = seats
                            .iter()
                            .find(|seat| seat.id == id)
                            .map_or(0, |seat| seat.priority);
                        match schedule::lower(&seats, priority) {
                            Some(out) => self.pause(out),
                            // The first in line waits for pages, and the others behind it: else it might wait for ever.
                            None => return,
                        }
                    }
                    Err(error) => self.fail(id, error),
                },
            }
        }
    }

    /// Gives a request its place. `false` when there are not enough pages.
    fn start(&mut self, id: Id) -> Result<bool> {
        let Some(at) = self.at(id) else {
            return Ok(true);
        };
        let mut pieces = Vec::new();
        let begun = self.jobs[at].answer.begin(&self.language, &mut pieces);
        self.tell(id, pieces);
        begun?;
        if self.jobs[at].answer.is_over() {
            self.finish(at);
            return Ok(true);
        }
        let job = &mut self.jobs[at];
        let Some(table) = self.store.begin(self.model.as_mut(), job.answer.tokens())? else {
            return Ok(false);
        };
        if !job.ran {
            job.answer.cached(table.tokens());
        }
        job.table = Some(table);
        job.untouched = Some(self.store.generation());
        Ok(true)
    }

    /// Takes a request's place away; it keeps what it has said, and the cache keeps its pages as long as it can.
    fn pause(&mut self, id: Id) {
        if let Some(at) = self.at(id) {
            let job = &mut self.jobs[at];
            if let Some(table) = job.table.take() {
                self.store.keep(job.answer.tokens(), table);
            }
        }
    }

    /// How many tokens of whom run now; there are pages for all of them.
    fn plan(&mut self, now: Instant) -> Vec<Share> {
        let mut plan = schedule::rows(&self.seats(), &self.room(), &self.cost, now);
        let mut next = 0;
        while let Some((id, count)) = plan.get(next).copied() {
            let count = match self.refresh(id) {
                Some(unseen) => count.min(unseen),
                None => {
                    plan.remove(next);
                    continue;
                }
            };
            plan[next].1 = count;
            if self.reserve(id, count) {
                next += 1;
                continue;
            }
            let Some(out) = schedule::gives_way(&self.seats()) else {
                return Vec::new();
            };
            self.pause(out);
            plan.retain(|(id, _)| *id != out);
        }
        plan
    }

    /// Looks into the cache once more before the first run: whoever ran meanwhile may have had the same beginning. Returns
    /// the tokens that are left to run, or `None` when it lost its place over it.
    fn refresh(&mut self, id: Id) -> Option<usize> {
        let at = self.at(id)?;
        let job = &mut self.jobs[at];
        let stale = job
            .untouched
            .take()
            .filter(|known| *known != self.store.generation());
        if stale.is_some() {
            self.pause(id);
            if let Err(error) = self.start(id) {
                self.fail(id, error);
                return None;
            }
            self.jobs[at].untouched = None;
        }
        let job = &self.jobs[at];
        let table = job.table.as_ref()?;
        Some(job.answer.tokens().len() - table.tokens())
    }

    fn reserve(&mut self, id: Id, count: usize) -> bool {
        let Some(at) = self.at(id) else {
            return false;
        };
        let Some(table) = &mut self.jobs[at].table else {
            return false;
        };
        let tokens = table.tokens() + count;
        self.store.reserve(table, tokens)
    }

    fn run(&mut self, plan: &[Share], begun: Instant) {
        match self.run_together(plan) {
            Ok(()) => {
                self.terminated = false;
                let mut scored = 0;
                for (id, count) in plan {
                    if self.wrote(*id, *count) {
                        self.accept(*id, scored, begun);
                        scored += 1;
                    }
                }
            }
            Err(EngineError::Terminated { model }) => self.end_terminated(plan, &model),
            Err(error) => match plan {
                [(id, _)] => self.fail(*id, error),
                _ => self.run_apart(plan, begun),
            },
        }
    }

    fn run_together(&mut self, plan: &[Share]) -> Result<()> {
        let jobs = &self.jobs;
        let rows = |(id, count): &Share| -> Option<Rows<'_>> {
            let job = jobs.iter().find(|job| job.id == *id)?;
            let (tokens, table) = (job.answer.tokens(), job.table.as_ref()?);
            let (start, end) = (table.tokens(), table.tokens() + count);
            Some(Rows {
                tokens: &tokens[start..end],
                start,
                pages: table.pages(),
                scored: usize::from(end == tokens.len()),
            })
        };
        let batch: Vec<Rows<'_>> = plan.iter().filter_map(rows).collect();
        let count = batch.iter().map(|rows| rows.tokens.len()).sum();
        let begun = Instant::now();
        self.model.step(&batch)?;
        self.record(plan.len(), count, begun.elapsed());
        Ok(())
    }

    /// A step of several failed and does not say because of whom: each runs alone, and fails alone.
    fn run_apart(&mut self, plan: &[Share], begun: Instant) {
        for share in plan {
            match self.run_together(std::slice::from_ref(share)) {
                Ok(()) if self.wrote(share.0, share.1) => self.accept(share.0, 0, begun),
                Ok(()) => {}
                Err(error) => self.fail(share.0, error),
            }
        }
    }

    /// A step was ended from outside. It was meant for whoever is late or cancelled; the others try again. If that is
    /// nobody, it was meant for an answer that has just ended, or for the only one there is.
    fn end_terminated(&mut self, plan: &[Share], model: &str) {
        let before = self.jobs.len();
        let forgotten = self.model.forget_termination();
        self.end_interrupted(Instant::now());
        if self.jobs.len() < before && forgotten.is_ok() {
            return;
        }
        let again = std::mem::replace(&mut self.terminated, true);
        if plan.len() > 1 && !again {
            return;
        }
        for (id, _) in plan {
            let model = model.to_owned();
            self.fail(*id, EngineError::Terminated { model });
        }
    }

    /// Counts what the model has written. Returns whether it gave scores.
    fn wrote(&mut self, id: Id, count: usize) -> bool {
        let Some(at) = self.at(id) else {
            return false;
        };
        let job = &mut self.jobs[at];
        let Some(table) = &mut job.table else {
            return false;
        };
        table.wrote(count);
        job.ran = true;
        table.tokens() == job.answer.tokens().len()
    }

    /// Lets an answer go on by the scores at `index`.
    fn accept(&mut self, id: Id, index: usize, begun: Instant) {
        let Some(at) = self.at(id) else {
            return;
        };
        let job = &mut self.jobs[at];
        let first = !job.answer.has_scores();
        let mut pieces = Vec::new();
        let accepted = job.answer.accept(
            &self.language,
            self.model.scores(index),
            begun.elapsed(),
            &mut pieces,
        );
        job.phase = if first { Phase::Prefill } else { Phase::Decode };
        job.scored = true;
        if first && accepted.is_ok() {
            self.tokens_cached += job.answer.tokens_cached() as u64;
            if let Some(table) = &job.table {
                let prompt = &job.answer.tokens()[..job.answer.prompt_len()];
                self.store.share(prompt, table);
            }
        }
        let over = job.answer.is_over();
        self.tell(id, pieces);
        match accepted {
            Err(error) => {
                self.charge(at, begun.elapsed());
                self.fail(id, error);
            }
            Ok(()) if over => {
                self.charge(at, begun.elapsed());
                self.finish(at);
            }
            Ok(()) => {}
        }
    }

    /// Counts the time of this step for the job at `at`.
    fn charge(&mut self, at: usize, spent: Duration) {
        let job = &mut self.jobs[at];
        let phase = match &job.table {
            _ if job.scored => job.phase,
            _ if job.answer.has_scores() => Phase::Decode,
            Some(_) if job.untouched.is_none() => Phase::Prefill,
            _ => Phase::Queued,
        };
        job.answer.charge(spent, phase, job.scored);
    }

    fn tell(&mut self, id: Id, pieces: Vec<Piece>) {
        self.events
            .extend(pieces.into_iter().map(|piece| Event::Piece(id, piece)));
    }

    pub(super) fn at(&self, id: Id) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == id)
    }
}
