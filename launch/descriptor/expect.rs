//! Expectations: what must be seen on the bus, when, and how that is decided.
//!
//! Reading happens against the definition of the topic's message, so `verdict: ACCEPTD` is a finding and not a launch that misses.
//! Deciding is pure: a [`Tally`] is told what arrived and when, and says passed, missed or pending; it knows no clock and no bus.

use std::time::Duration;

use serde_json::Value as Json;

use super::condition::{self, Condition};
use super::findings::{At, Findings};
use super::shape::Fields;
use super::tables::{COUNT, EXPECT, LATENCY};
use super::units;
use super::yaml::{Node, Value};

/// Something that must, or must not, be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Expect {
    /// What it proves.
    pub name: String,
    /// From when, since all nodes were ready.
    pub from: Duration,
    /// Until when; `None` = to the end of the run.
    pub to: Option<Duration>,
    /// Where.
    pub topic: String,
    /// What must hold of a message; all of them.
    pub conditions: Vec<Condition>,
    /// How many messages must match at least.
    pub min: u64,
    /// How many may match at most.
    pub max: Option<u64>,
    /// A message matches only when it came faster than this.
    pub latency_below: Option<Duration>,
    /// Where it was written.
    pub at: At,
}

impl Expect {
    /// Whether a message that arrived so long after the start, with this content and latency, is one that is meant.
    pub fn matches(&self, arrived: Duration, message: &Json, latency: Option<Duration>) -> bool {
        arrived >= self.from
            && self.to.is_none_or(|to| arrived <= to)
            && self
                .latency_below
                .is_none_or(|most| latency.is_some_and(|l| l < most))
            && self.conditions.iter().all(|c| c.holds(message))
    }

    /// One line for people: `6s..9s llmasos/gate/verdict verdict is ACCEPTED, action is SLOW_DOWN`.
    pub fn describe(&self) -> String {
        let to = self.to.map_or(String::new(), units::show);
        let mut line = format!("{}..{to} {}", units::show(self.from), self.topic);
        let conditions: Vec<String> = self
            .conditions
            .iter()
            .map(|c| format!("{} {}", c.path, c.test.describe()))
            .collect();
        if !conditions.is_empty() {
            line = format!("{line} {}", conditions.join(", "));
        }
        if let Some(latency) = self.latency_below {
            line = format!("{line}, latency below {}", units::show(latency));
        }
        match (self.min, self.max) {
            (0, Some(0)) => format!("{line}: never"),
            (1, None) => line,
            (min, None) => format!("{line}: at least {min} times"),
            (min, Some(max)) => format!("{line}: {min} to {max} times"),
        }
    }
}

/// How an expectation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Cannot be said yet.
    Pending,
    /// It was seen as often as it must, and its time is over or it cannot be missed any more.
    Passed,
    /// It was not, or too often.
    Missed,
}

/// Counts what was seen of one expectation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that matched.
    pub matched: u64,
    /// When the first of them arrived.
    pub first: Option<Duration>,
}

impl Tally {
    /// Takes note of a message; says whether it matched.
    pub fn see(
        &mut self,
        expect: &Expect,
        arrived: Duration,
        message: &Json,
        latency: Option<Duration>,
    ) -> bool {
        let matched = expect.matches(arrived, message, latency);
        if matched {
            self.matched = self.matched.saturating_add(1);
            self.first = self.first.or(Some(arrived));
        }
        matched
    }

    /// How it stands at a moment; `ended` when nothing more can come.
    pub fn outcome(&self, expect: &Expect, now: Duration, ended: bool) -> Outcome {
        let over = ended || expect.to.is_some_and(|to| now > to);
        if expect.max.is_some_and(|max| self.matched > max) {
            Outcome::Missed
        } else if self.matched >= expect.min && (over || expect.max.is_none()) {
            Outcome::Passed
        } else if over {
            Outcome::Missed
        } else {
            Outcome::Pending
        }
    }
}

/// Reads one entry of `expect:` that was held against its table. `type_name` is the topic's, if the topic is known.
pub(super) fn read(
    node: &Node,
    type_name: Option<&str>,
    findings: &mut Findings,
) -> Option<Expect> {
    let fields = Fields::of(node, &EXPECT);
    let (from, to) = units::span(fields.get("at")?).ok()?;
    let topic = fields.text("topic")?;
    let conditions = match type_name {
        Some(type_name) => fields
            .entries("where")
            .iter()
            .filter_map(|e| condition::read(e, type_name, findings))
            .collect(),
        None => Vec::new(), // the unknown topic has been reported
    };
    let never = fields.truth("never").unwrap_or(false);
    let (min, max) = match (fields.get("count"), never) {
        (Some(count), true) => {
            findings.error(count.at, "never: true leaves nothing to count");
            (0, Some(0))
        }
        (None, true) => (0, Some(0)),
        (None, false) => (1, None),
        (Some(count), false) => counted(count, findings),
    };
    let latency_below = fields
        .fields("latency", &LATENCY)
        .and_then(|l| l.duration("below"));
    let mut expect = Expect {
        name: String::new(),
        from,
        to,
        topic,
        conditions,
        min,
        max,
        latency_below,
        at: node.at,
    };
    expect.name = fields.text("name").unwrap_or_else(|| expect.describe());
    Some(expect)
}

fn counted(node: &Node, findings: &mut Findings) -> (u64, Option<u64>) {
    if let Value::Int(n) = node.value {
        let n = u64::try_from(n).unwrap_or(1);
        return (n, Some(n));
    }
    let fields = Fields::of(node, &COUNT);
    let (min, max) = (fields.int("min").unwrap_or(0), fields.int("max"));
    match max {
        Some(max) if max < min => {
            findings.error(node.at, format!("max {max} is less than min {min}"))
        }
        None if min == 0 => findings.error(node.at, "min 0 without max is always true"),
        _ => {}
    }
    (min, max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::condition::Test;
    use serde_json::json;

    #[test]
    fn a_tally_passes_misses_or_waits() {
        let s = Duration::from_secs;
        let expect = |min, max| Expect {
            name: "x".into(),
            from: s(6),
            to: Some(s(9)),
            topic: "t".into(),
            conditions: vec![Condition {
                path: "a".into(),
                test: Test::Number(1.0, None),
            }],
            min,
            max,
            latency_below: None,
            at: At::default(),
        };
        let hit = json!({"a": 1});
        let (once, never, exact) = (expect(1, None), expect(0, Some(0)), expect(1, Some(1)));
        let mut tally = Tally::default();
        assert!(!tally.see(&once, s(5), &hit, None), "too early");
        assert!(
            !tally.see(&once, s(7), &json!({"a": 2}), None),
            "another value"
        );
        assert_eq!(tally.outcome(&once, s(8), false), Outcome::Pending);
        assert_eq!(tally.outcome(&once, s(10), false), Outcome::Missed);
        assert_eq!(tally.outcome(&never, s(8), false), Outcome::Pending);
        assert_eq!(tally.outcome(&never, s(10), false), Outcome::Passed);
        assert!(tally.see(&once, s(8), &hit, None));
        assert_eq!(tally.outcome(&once, s(8), false), Outcome::Passed);
        assert_eq!(
            tally.outcome(&exact, s(8), false),
            Outcome::Pending,
            "a second one may still come"
        );
        assert_eq!(tally.outcome(&exact, s(8), true), Outcome::Passed);
        assert_eq!(tally.outcome(&never, s(8), false), Outcome::Missed);
    }

    #[test]
    fn latency_is_part_of_the_match() {
        let conditions = vec![Condition {
            path: "verdict".into(),
            test: Test::Number(1.0, None),
        }];
        let ms = Duration::from_millis;
        let mut expect = read_expect();
        expect.conditions = conditions;
        let message = json!({"verdict": 1});
        assert!(expect.matches(ms(1500), &message, Some(ms(299))));
        assert!(!expect.matches(ms(1500), &message, Some(ms(300))));
        assert!(!expect.matches(ms(1500), &message, None));
    }

    fn read_expect() -> Expect {
        let mut findings = Findings::default();
        let text = "at: 1s..2s\ntopic: t\nlatency: { below: 300ms }\n";
        let node = crate::descriptor::yaml::read(text, 0, &mut findings).unwrap();
        read(&node, None, &mut findings).unwrap()
    }
}
