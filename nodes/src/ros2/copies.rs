//! Copies: a message that is published on two keys and heard on both is one message.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use llmasos_msgs::rmw_zenoh::Gid;

use crate::bus::Arrival;

/// Messages that are remembered to know their copies: the keys of one publisher are never further apart than a congested link makes them.
const COPIES_KEPT: usize = 256;

/// The last messages that came, by publisher, number and key. A simulator that gives every sample the same number uses one key and loses
/// nothing.
#[derive(Default)]
pub struct Copies {
    seen: Mutex<VecDeque<(Gid, i64, usize)>>,
}

impl Copies {
    /// Whether this message came by another key already; `lane` numbers the key it came by. Without an attachment nothing is a copy.
    pub fn is_copy(&self, arrival: &Arrival, lane: usize) -> bool {
        match &arrival.attachment {
            Some(Ok(attachment)) => self.knows(attachment.gid, attachment.sequence, lane),
            Some(Err(_)) | None => false,
        }
    }

    fn knows(&self, gid: Gid, sequence: i64, lane: usize) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let twin = seen
            .iter()
            .position(|&(by, number, other)| by == gid && number == sequence && other != lane);
        if let Some(at) = twin {
            seen.remove(at);
            return true;
        }
        if seen.len() == COPIES_KEPT {
            seen.pop_front();
        }
        seen.push_back((gid, sequence, lane));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_came_by_both_keys_is_one() {
        let (a, b) = (Gid([1; 16]), Gid([2; 16]));
        let copies = Copies::default();
        for (gid, sequence, lane, copy, why) in [
            (a, 1, 0, false, "the first"),
            (a, 1, 1, true, "its copy"),
            (
                a,
                1,
                1,
                false,
                "a constant number on one key is never a copy",
            ),
            (a, 1, 1, false, "and again"),
            (b, 1, 0, false, "another publisher"),
            (a, 2, 1, false, "the second key may be first"),
            (a, 2, 0, true, "then the first one brings the copy"),
        ] {
            assert_eq!(copies.knows(gid, sequence, lane), copy, "{why}");
        }
        for number in 0..10_000 {
            copies.knows(b, number, 1);
        }
        assert_eq!(copies.seen.lock().unwrap().len(), COPIES_KEPT);
    }
}
