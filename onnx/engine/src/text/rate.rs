//! How fast a model has been lately, so that a caller can refuse what cannot be done in time.

use std::time::Duration;

/// Weight of the newest run in the estimate: about the last ten runs count.
const NEWEST: f64 = 0.1;
/// Runs of at least this many tokens tell the prompt rate; shorter ones are between the two rates.
const PREFILL_TOKENS: usize = 16;

/// Running estimate of a model's speed on this computer, under its present load. Tokens a second; `None` until measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    /// Tokens of a prompt a second.
    pub prefill_tps: Option<f64>,
    /// Tokens of an answer a second, one at a time.
    pub decode_tps: Option<f64>,
}

impl Rate {
    /// Time for a prompt and an answer of these lengths; `None` until both rates are measured.
    #[must_use]
    pub fn estimate(&self, tokens_in: usize, tokens_out: usize) -> Option<Duration> {
        let seconds = tokens_in as f64 / self.prefill_tps? + tokens_out as f64 / self.decode_tps?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Takes in one run of the model.
    pub(crate) fn record(&mut self, tokens: usize, took: Duration) {
        let slot = match tokens {
            1 => &mut self.decode_tps,
            PREFILL_TOKENS.. => &mut self.prefill_tps,
            _ => return,
        };
        let seconds = took.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        // The mean is taken over times, not rates: one stalled run must weigh as what it cost.
        let newest = seconds / tokens as f64;
        let mean = slot.map_or(newest, |rate| (1.0 - NEWEST) / rate + NEWEST * newest);
        *slot = Some(1.0 / mean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_needs_both_rates() {
        let mut rate = Rate::default();
        rate.record(128, Duration::from_millis(256));
        assert_eq!(rate.estimate(10, 10), None);
        rate.record(1, Duration::from_millis(10));
        assert_eq!(rate.estimate(500, 40), Some(Duration::from_millis(1_400)));
    }

    #[test]
    fn the_estimate_follows_a_change_of_load() {
        let mut rate = Rate::default();
        rate.record(1, Duration::from_millis(10));
        for _ in 0..40 {
            rate.record(1, Duration::from_millis(20));
        }
        let tps = rate.decode_tps.unwrap();
        assert!((50.0..51.0).contains(&tps), "{tps}");
    }

    #[test]
    fn short_runs_of_several_tokens_and_no_time_tell_nothing() {
        let mut rate = Rate::default();
        rate.record(4, Duration::from_millis(10));
        rate.record(0, Duration::from_millis(10));
        rate.record(1, Duration::ZERO);
        assert_eq!(rate, Rate::default());
    }
}
