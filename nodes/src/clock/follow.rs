//! Following a clock topic: what is believed of what arrives on it.
//!
//! Only CDR of `rosgraph_msgs/msg/Clock` with a time that can be one. Whoever published first is followed; a second publisher is reported
//! and left alone until the first has been silent for a while, since a time that two tell is none. Everything worth telling (a jump, a
//! refusal, a second publisher) waits as news for the diagnostics, each kind once rather than with every message.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use llmasos_msgs::{Message, rosgraph_msgs, sniff};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{
    Reading,
    course::{Course, Move},
};
use crate::bus::Arrival;

/// Longest payload read as a time, in bytes: the message has twelve and ROS middlewares pad.
const CLOCK_BYTES_MAX: usize = 128;
/// Silence of the publisher that is followed after which another may take over.
const TAKEOVER_AFTER: Duration = Duration::from_secs(1);
/// News kept for the next report; older ones are in the log.
const NEWS_KEPT: usize = 8;

/// How a followed clock does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockReport {
    /// The topic.
    pub topic: String,
    /// What it shows.
    pub reading: Reading,
    /// Messages that were followed.
    pub followed: u64,
    /// Messages that were not.
    pub refused: u64,
    /// What happened since the last report.
    pub news: Vec<String>,
}

/// The shared state of a followed clock.
pub(super) struct Followed {
    topic: String,
    state: Mutex<State>,
    moved: watch::Sender<()>,
    told: Notify,
}

struct State {
    course: Course,
    owner: Option<Owner>,
    /// The publisher that was reported as one too many.
    intruder: Option<u128>,
    followed: u64,
    refused: u64,
    news: VecDeque<String>,
}

#[derive(Clone, Copy)]
struct Owner {
    publisher: Option<u128>,
    heard: Instant,
}

impl Followed {
    pub(super) fn new(topic: &str) -> Followed {
        Followed {
            topic: topic.to_owned(),
            state: Mutex::new(State {
                course: Course::new(),
                owner: None,
                intruder: None,
                followed: 0,
                refused: 0,
                news: VecDeque::new(),
            }),
            moved: watch::Sender::new(()),
            told: Notify::new(),
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn reading(&self) -> Reading {
        self.state().course.reading()
    }

    pub(super) fn moves(&self) -> Moves {
        Moves(self.moved.subscribe())
    }

    pub(super) async fn news(&self) {
        self.told.notified().await;
    }

    pub(super) fn report(&self) -> ClockReport {
        let mut state = self.state();
        ClockReport {
            topic: self.topic.clone(),
            reading: state.course.reading(),
            followed: state.followed,
            refused: state.refused,
            news: state.news.drain(..).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut State, news: String) {
        if state.news.len() == NEWS_KEPT {
            state.news.pop_front();
        }
        state.news.push_back(news);
        self.told.notify_one();
    }

    fn refuse(&self, reason: &str) {
        let mut state = self.state();
        state.refused += 1;
        // Of a series only every doubling: a flood stays quiet.
        if state.refused.is_power_of_two() {
            let count = state.refused;
            warn!(topic = %self.topic, reason, count, "no time");
            self.tell(&mut state, format!("{reason} (number {count})"));
        }
    }

    fn set(&self, value_ns: i64) {
        let mut state = self.state();
        state.followed += 1;
        let moved = state.course.advance(value_ns);
        let news = match moved {
            Move::Onward => None,
            Move::Began => {
                info!(topic = %self.topic, now_ns = value_ns, "the time is known");
                Some("the time is known".to_owned())
            }
            Move::Leap(by) => Some(format!("the time leapt ahead by {:.3} s", by.as_secs_f64())),
            Move::Back(by) => Some(format!(
                "the time jumped back by {:.3} s: what was remembered is forgotten",
                by.as_secs_f64()
            )),
        };
        if let Some(news) = news {
            if moved != Move::Began {
                warn!(topic = %self.topic, news, "clock");
            }
            self.tell(&mut state, news);
        }
        drop(state);
        self.moved.send_replace(());
    }

    /// Whether this publisher is the one that is followed; a silent one is succeeded.
    fn follows(&self, publisher: Option<u128>, heard: Instant) -> bool {
        let mut state = self.state();
        let owner = state.owner;
        let same = owner.is_none_or(|owner| owner.publisher == publisher);
        let silent = owner
            .is_some_and(|owner| heard.saturating_duration_since(owner.heard) >= TAKEOVER_AFTER);
        if same || silent {
            if !same {
                info!(topic = %self.topic, publisher = name(publisher), "another clock takes over");
                state.intruder = None;
            }
            state.owner = Some(Owner { publisher, heard });
            return true;
        }
        state.refused += 1;
        if state.intruder != Some(publisher.unwrap_or(0)) {
            state.intruder = Some(publisher.unwrap_or(0));
            let news = format!(
                "two publishers: expected {}, found {} too, which is not followed",
                name(owner.and_then(|owner| owner.publisher)),
                name(publisher)
            );
            warn!(topic = %self.topic, news, "clock");
            self.tell(&mut state, news);
        }
        false
    }
}

fn name(publisher: Option<u128>) -> String {
    publisher.map_or_else(|| "an unnamed one".to_owned(), |id| format!("{id:x}"))
}

/// The moves of a followed clock, for one who waits for a time.
pub struct Moves(watch::Receiver<()>);

impl Moves {
    /// Resolves when the clock has moved since the last call, or since this was made; moves in between count as one.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Its clock is gone: it will not move any more.
            std::future::pending().await
        }
    }
}

/// The hand that moves a followed clock: the bus's subscription, or a test.
pub struct Follower(Arc<Followed>);

impl Follower {
    pub(super) fn new(followed: Arc<Followed>) -> Follower {
        Follower(followed)
    }

    /// Takes what arrived on the topic. What is no time is refused and counted.
    pub fn take(&self, arrival: &Arrival) {
        match time_of(&arrival.encoding, &arrival.payload) {
            Ok(value_ns) if self.0.follows(arrival.publisher, Instant::now()) => {
                self.0.set(value_ns);
            }
            Ok(_) => {}
            Err(reason) => self.0.refuse(&reason),
        }
    }

    /// Sets the time, in ns since its epoch; negative counts as zero, which is unknown.
    pub fn set(&self, now_ns: i64) {
        self.0.set(now_ns.max(0));
    }
}

fn time_of(encoding: &str, payload: &zenoh::bytes::ZBytes) -> Result<i64, String> {
    if payload.len() > CLOCK_BYTES_MAX {
        return Err(format!(
            "expected {} of at most {CLOCK_BYTES_MAX} bytes, found {}",
            rosgraph_msgs::Clock::TYPE,
            payload.len()
        ));
    }
    let bytes = payload.to_bytes();
    match sniff::classify(encoding, &bytes).map_err(|error| error.to_string())? {
        sniff::Form::Cdr => {}
        sniff::Form::Json(_) => return Err(expected_cdr("JSON")),
        sniff::Form::Text(_) => return Err(expected_cdr("text")),
    }
    let time = rosgraph_msgs::Clock::decode(&bytes)
        .map_err(|error| error.to_string())?
        .clock;
    if time.sec < 0 || time.nanosec >= 1_000_000_000 {
        return Err(format!(
            "expected a time, found {} s and {} ns",
            time.sec, time.nanosec
        ));
    }
    Ok(time.to_nanos())
}

fn expected_cdr(found: &str) -> String {
    format!(
        "expected CDR of {}, found {found}",
        rosgraph_msgs::Clock::TYPE
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use llmasos_msgs::{builtin_interfaces::Time, std_msgs};

    use super::{super::Clock, *};

    const S: i64 = 1_000_000_000;

    fn arrival(payload: Vec<u8>, publisher: u128) -> Arrival {
        Arrival {
            key: "clock".into(),
            payload: payload.into(),
            encoding: "zenoh/bytes".into(),
            received: SystemTime::now(),
            sent: None,
            publisher: Some(publisher),
            attachment: None,
        }
    }

    fn clock_message(sec: i32, nanosec: u32) -> Vec<u8> {
        rosgraph_msgs::Clock {
            clock: Time { sec, nanosec },
        }
        .encode()
        .expect("a clock encodes")
    }

    #[test]
    fn only_a_time_is_a_time() {
        let text = std_msgs::String {
            data: "hello, clock".into(),
        };
        let mut padded = clock_message(7, 5);
        padded.extend([0; 4]);
        for (payload, now_ns, why) in [
            (clock_message(7, 5), 7 * S + 5, "an ordinary time"),
            (padded, 7 * S + 5, "trailing bytes, as DDS pads"),
            (clock_message(-1, 0), 0, "before the epoch (rmw_zenoh#337)"),
            (
                clock_message(1, 1_000_000_000),
                0,
                "a second of nanoseconds",
            ),
            (b"12:30".to_vec(), 0, "text"),
            (br#"{"clock":{"sec":5,"nanosec":0}}"#.to_vec(), 0, "JSON"),
            (text.encode().unwrap(), 0, "another type"),
            (vec![0, 1, 0, 0, 1, 2], 0, "cut off"),
            (vec![], 0, "nothing"),
            (vec![0; 4096], 0, "far too long"),
        ] {
            let (clock, follower) = Clock::followed("/clock");
            follower.take(&arrival(payload, 1));
            assert_eq!(clock.now_ns(), now_ns, "{why}");
            let report = clock.report().expect("it follows");
            assert_eq!(report.refused, u64::from(now_ns == 0), "{why}");
            assert_eq!(report.news.len(), 1, "{why}: {:?}", report.news);
        }
    }

    #[test]
    fn news_are_told_once_and_a_flood_stays_quiet() {
        let (clock, follower) = Clock::followed("/clock");
        let news = || clock.report().expect("it follows").news;
        assert_eq!(clock.waiting().as_deref(), Some("waiting for /clock"));
        follower.take(&arrival(clock_message(100, 0), 1));
        assert_eq!(news(), ["the time is known"]);
        follower.take(&arrival(clock_message(40, 0), 1));
        follower.take(&arrival(clock_message(40, 0), 1));
        let told = news();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("jumped back by 60.000 s"), "{told:?}");
        for _ in 0..1000 {
            follower.take(&arrival(b"now".to_vec(), 1));
        }
        let told = news();
        assert!(told.len() <= NEWS_KEPT, "{told:?}");
        assert!(told.last().is_some_and(|news| news.contains("512")));
    }

    #[test]
    fn of_two_publishers_the_first_is_followed_until_it_is_silent() {
        let (clock, follower) = Clock::followed("/clock");
        let said = |publisher, sec| follower.take(&arrival(clock_message(sec, 0), publisher));
        said(1, 100);
        said(2, 900);
        said(1, 101);
        said(2, 901);
        assert_eq!(clock.now_ns(), 101 * S, "the second one is not followed");
        let report = clock.report().expect("it follows");
        assert_eq!(report.refused, 2);
        let fights = |news: &String| news.contains("two publishers: expected 1, found 2");
        assert_eq!(report.news.iter().filter(|news| fights(news)).count(), 1);
        let (owner, later) = (Some(1), Instant::now() + TAKEOVER_AFTER);
        assert!(
            follower.0.follows(Some(2), later),
            "after a silence it takes over"
        );
        assert!(!follower.0.follows(owner, later), "and the first is second");
    }
}
