//! The summary at the end: messages by topic, latencies, refusals, restarts, and how the expectations went.

use std::{collections::BTreeMap, time::Duration};

use llmasos_nodes::health::{Health, LedgerCount};
use serde_json::{Value, json};

use super::{beats::Settled, watch::Seen};

/// Type of the diagnostics.
const DIAGNOSTICS: &str = "diagnostic_msgs/msg/DiagnosticArray";
/// Ages and latencies kept of one topic; beyond it the earliest are forgotten.
const SAMPLES_MAX: usize = 20_000;

/// Everything counted while the system ran.
#[derive(Default)]
pub struct Report {
    /// Peak resident memory of the launcher and its processes, in bytes; set before they end.
    pub resident_bytes: Option<u64>,
    topics: BTreeMap<String, TopicCount>,
    settled: Vec<Settled>,
    /// Ledgers of nodes in other processes, as their diagnostics last told them: by node and `port: topic`.
    told: BTreeMap<(String, String), LedgerCount>,
}

#[derive(Default)]
struct TopicCount {
    seen: u64,
    problems: u64,
    ages_ms: Vec<f64>,
    latencies_ms: Vec<f64>,
}

impl Report {
    /// Counts a message.
    pub fn see(&mut self, seen: &Seen) {
        let count = self.topics.entry(seen.topic.clone()).or_default();
        count.seen += 1;
        count.problems += u64::from(seen.problem.is_some());
        push(&mut count.ages_ms, seen.age);
        push(&mut count.latencies_ms, seen.latency);
        if seen.type_name == DIAGNOSTICS {
            self.listen(&seen.data);
        }
    }

    fn listen(&mut self, diagnostics: &Value) {
        for status in diagnostics["status"].as_array().into_iter().flatten() {
            let node = status["name"].as_str().unwrap_or_default();
            for pair in status["values"].as_array().into_iter().flatten() {
                let (edge, value) = (pair["key"].as_str(), pair["value"].as_str());
                if let (Some(edge), Some(count)) = (edge, value.and_then(LedgerCount::parse)) {
                    self.told.insert((node.to_owned(), edge.to_owned()), count);
                }
            }
        }
    }

    /// Ledgers of every node: exact ones of this process, told ones of others.
    fn edges(&self, health: &Health) -> Vec<(String, String, LedgerCount)> {
        let mut edges = self.told.clone();
        edges.extend(
            health
                .edges()
                .into_iter()
                .map(|(node, edge, count)| ((node, edge), count)),
        );
        edges
            .into_iter()
            .map(|((node, edge), count)| (node, edge, count))
            .collect()
    }

    /// Keeps a settled expectation.
    pub fn settle(&mut self, settled: Settled) {
        self.settled.push(settled);
    }

    /// The summary as JSON.
    pub fn json(&self, health: &Health, ran: Duration, start: Duration) -> Value {
        let edges = self.edges(health);
        let topics: serde_json::Map<String, Value> = self
            .topics
            .iter()
            .map(|(topic, count)| {
                let readers: serde_json::Map<String, Value> =
                    edges.iter().filter(|(_, edge, _)| edge.ends_with(&format!(": {topic}"))).map(|(node, edge, ledger)| (format!("{node}.{}", port(edge)), ledger_json(ledger))).collect();
                let value = json!({
                    "seen": count.seen, "undecodable": count.problems, "readers": readers,
                    "age_ms": percentiles(&count.ages_ms), "latency_ms": percentiles(&count.latencies_ms),
                });
                (topic.clone(), value)
            })
            .collect();
        let (passed, total) = (
            self.settled.iter().filter(|settled| settled.passed).count(),
            self.settled.len(),
        );
        let missed: Vec<&str> = self
            .settled
            .iter()
            .filter(|settled| !settled.passed)
            .map(|settled| settled.name.as_str())
            .collect();
        json!({ "summary": {
            "ran_s": ran.as_secs_f64(), "resident_bytes": self.resident_bytes, "ready_after_s": start.as_secs_f64(), "topics": topics, "restarts": health.restarts(),
            "expected": { "passed": passed, "of": total, "missed": missed },
        } })
    }

    /// The summary for people.
    pub fn lines(&self, health: &Health, ran: Duration, start: Duration) -> Vec<String> {
        let edges = self.edges(health);
        let memory = self.resident_bytes.map_or(String::new(), |bytes| {
            format!(", {} MiB resident at most", bytes >> 20)
        });
        let mut lines = vec![format!(
            "ran {:.0} s, ready {:.1} s after the start{memory}",
            ran.as_secs_f64(),
            start.as_secs_f64()
        )];
        lines.push(format!(
            "{:<28}{:>7}{:>10}{:>9}{:>9}  {:>15}  {:>15}",
            "topic", "sent", "received", "refused", "late", "age p50/p99", "transit p50/p99"
        ));
        for (topic, count) in &self.topics {
            let readers = edges
                .iter()
                .filter(|(_, edge, _)| edge.ends_with(&format!(": {topic}")));
            let sum = readers.fold(LedgerCount::default(), |sum, (_, _, ledger)| LedgerCount {
                received: sum.received + ledger.received,
                refused: sum.refused + ledger.refused,
                expired: sum.expired + ledger.expired,
                ..sum
            });
            lines.push(format!(
                "{topic:<28}{:>7}{:>10}{:>9}{:>9}  {:>15}  {:>15}",
                count.seen,
                sum.received,
                sum.refused,
                sum.expired,
                pair(&count.ages_ms),
                pair(&count.latencies_ms)
            ));
        }
        let restarts: Vec<String> = health
            .restarts()
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        lines.push(format!(
            "restarts: {}",
            if restarts.is_empty() {
                "none".to_owned()
            } else {
                restarts.join(", ")
            }
        ));
        for settled in &self.settled {
            let mark = if settled.passed { "passed" } else { "MISSED" };
            let first = settled.first.map_or(String::new(), |first| {
                format!(" (first at {:.1} s)", first.as_secs_f64())
            });
            lines.push(if settled.passed {
                format!("{mark}  {}{first}", settled.name)
            } else {
                format!(
                    "{mark}  {}: expected {}, matched {}",
                    settled.name, settled.wanted, settled.matched
                )
            });
        }
        lines
    }
}

fn push(samples: &mut Vec<f64>, duration: Option<Duration>) {
    if let Some(duration) = duration {
        if samples.len() == SAMPLES_MAX {
            samples.drain(..SAMPLES_MAX / 2);
        }
        samples.push(duration.as_secs_f64() * 1e3);
    }
}

fn port(edge: &str) -> &str {
    edge.split(':').next().unwrap_or(edge)
}

fn ledger_json(count: &LedgerCount) -> Value {
    json!({
        "received": count.received, "handled": count.handled, "lost": count.lost, "expired": count.expired,
        "superseded": count.superseded, "refused": count.refused, "waiting": count.waiting(),
    })
}

/// Nearest-rank percentile of `samples`, `quantile` in [0, 1]; `None` without samples.
pub fn percentile(samples: &[f64], quantile: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn percentiles(samples: &[f64]) -> Value {
    json!({ "p50": percentile(samples, 0.5), "p99": percentile(samples, 0.99) })
}

fn pair(samples: &[f64]) -> String {
    match (percentile(samples, 0.5), percentile(samples, 0.99)) {
        (Some(p50), Some(p99)) => format!("{p50:.1}/{p99:.1} ms"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.5), Some(50.0));
        assert_eq!(percentile(&samples, 0.99), Some(99.0));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
    }
}
