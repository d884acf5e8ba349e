//! One answer as an iterator: the blocking way to ask, for tools and tests.

use std::collections::VecDeque;
use std::time::Instant;

use super::request::{Finished, Piece};
use super::server::{Event, RequestId, TextServer};
use crate::error::{EngineError, Result};

/// An answer on its way. Dropping it ends it; the model keeps what it has seen for the next request.
pub struct Generation<'m> {
    server: &'m mut TextServer,
    id: RequestId,
    pieces: VecDeque<Piece>,
    error: Option<EngineError>,
    finished: Option<Finished>,
}

impl<'m> Generation<'m> {
    pub(crate) fn new(server: &'m mut TextServer, id: RequestId) -> Self {
        Self {
            server,
            id,
            pieces: VecDeque::new(),
            error: None,
            finished: None,
        }
    }

    /// Runs to the end and returns the whole answer.
    ///
    /// # Errors
    /// The first error of the iterator, if it has not been returned yet: then the answer is what came before it, with
    /// [`FinishReason::Failed`](super::FinishReason::Failed).
    pub fn finish(mut self) -> Result<Finished> {
        loop {
            if let Some(piece) = self.next() {
                piece?;
            } else if let Some(finished) = self.finished.take() {
                return Ok(finished);
            }
        }
    }

    fn step(&mut self) {
        for event in self.server.step(Instant::now()) {
            match event {
                Event::Piece(id, piece) if id == self.id => self.pieces.push_back(piece),
                Event::Finished(id, finished) if id == self.id => self.finished = Some(finished),
                Event::Failed(id, error, finished) if id == self.id => {
                    self.error = Some(error);
                    self.finished = Some(finished);
                }
                Event::Piece(..) | Event::Finished(..) | Event::Failed(..) => {
                    self.server.put_back(event);
                }
            }
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Some(Ok(piece));
            }
            if let Some(error) = self.error.take() {
                return Some(Err(error));
            }
            if self.finished.is_some() {
                return None;
            }
            self.step();
        }
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.server.abandon(self.id);
    }
}
