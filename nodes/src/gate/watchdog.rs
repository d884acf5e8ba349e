//! The watchdog: a thread that ends the process when the gate stops deciding.
//!
//! A gate that hangs is worse than one that is gone: consumers drop the verdicts of a dead gate within `verdict_validity` and the launcher
//! starts another one within milliseconds. The thread owns nothing the gate could hold locked; it looks at one number. Ending by
//! `abort` runs no destructor and no exit handler, either of which could wait for the very thing that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest silence between two ticks: five periods.
pub const STALL_LIMIT: Duration = Duration::from_millis(500);
/// Longest time an orderly end may take.
pub const END_LIMIT: Duration = Duration::from_secs(2);
/// How often the thread looks; it adds at most this to the limit.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// The number the watchdog looks at.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    /// Milliseconds after `started` of the last beat, plus one; 0 = not armed.
    beat_ms: AtomicU64,
    ending: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse {
            started: Instant::now(),
            beat_ms: AtomicU64::new(0),
            ending: AtomicBool::new(false),
        }
    }
}

impl Pulse {
    /// Says that a tick was completed; the first beat arms the watchdog, so that opening a session may take its time.
    pub fn beat(&self) {
        self.beat_ms.store(self.now_ms() + 1, Ordering::Release);
    }

    /// Says that the gate ends on purpose, and arms the watchdog with [`END_LIMIT`].
    pub fn end(&self) {
        self.beat();
        self.ending.store(true, Ordering::Release);
    }

    /// How long the gate has been silent for longer than it may; `None` while it is well or not armed.
    #[must_use]
    pub fn stalled(&self, limit: Duration) -> Option<Duration> {
        let beat_ms = self.beat_ms.load(Ordering::Acquire).checked_sub(1)?;
        let limit = if self.ending.load(Ordering::Acquire) {
            END_LIMIT
        } else {
            limit
        };
        let silent = Duration::from_millis(self.now_ms().saturating_sub(beat_ms));
        (silent > limit).then_some(silent)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

/// Starts the thread. It calls `on_stall` once with the length of the silence; the product aborts there. It ends when the pulse is
/// dropped by everybody else.
///
/// # Errors
/// The operating system's, when no thread can be started.
pub fn watch(
    pulse: &Arc<Pulse>,
    limit: Duration,
    on_stall: impl FnOnce(Duration) + Send + 'static,
) -> std::io::Result<()> {
    let pulse = Arc::downgrade(pulse);
    std::thread::Builder::new()
        .name("gate-watchdog".into())
        .spawn(move || {
            while let Some(pulse) = pulse.upgrade() {
                if let Some(silent) = pulse.stalled(limit) {
                    on_stall(silent);
                    return;
                }
                drop(pulse);
                std::thread::sleep(LOOK_PERIOD);
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(150);

    #[test]
    fn silence_is_noticed_and_life_is_not() {
        let pulse = Arc::new(Pulse::default());
        let (stalls, noticed) = sync_channel(1);
        watch(&pulse, LIMIT, move |silent| stalls.send(silent).unwrap()).unwrap();
        assert_eq!(
            noticed.recv_timeout(2 * LIMIT),
            Err(RecvTimeoutError::Timeout),
            "not armed before the first beat"
        );

        let until = Instant::now() + 3 * LIMIT;
        while Instant::now() < until {
            pulse.beat();
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(
            noticed.recv_timeout(Duration::ZERO),
            Err(RecvTimeoutError::Timeout),
            "a beating gate lives"
        );

        let silent = noticed
            .recv_timeout(Duration::from_secs(5))
            .expect("a silent gate is noticed");
        assert!(silent > LIMIT, "{silent:?}");
    }

    #[test]
    fn an_orderly_end_has_more_time_but_not_for_ever() {
        let pulse = Pulse::default();
        assert_eq!(pulse.stalled(Duration::ZERO), None);
        pulse.end();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(
            pulse.stalled(Duration::ZERO),
            None,
            "the end has a limit of its own"
        );
    }

    #[test]
    fn the_thread_ends_with_its_pulse() {
        let pulse = Arc::new(Pulse::default());
        let (stalls, noticed) = sync_channel::<Duration>(1);
        watch(&pulse, LIMIT, move |silent| stalls.send(silent).unwrap()).unwrap();
        drop(pulse);
        assert_eq!(
            noticed.recv_timeout(Duration::from_secs(5)),
            Err(RecvTimeoutError::Disconnected)
        );
    }
}
