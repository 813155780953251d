//! Liveness and readiness of a process. It is alive while the loop that moves data completes its
//! rounds, each of which is a beat, whatever the state of the broker. It is ready when the last
//! call of [`Health::set_ready`] or [`Health::set_not_ready`] said so, by partitions or connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time without a beat after which a loop is stuck. Longer than anything that one round may
/// wait for: a rebalance waits for the group's coordinator for up to 10 s.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The value of a last beat while no loop runs, when none is due.
const RESTING: u64 = u64::MAX;

/// The health of a process: written by the threads that do its work, read by its HTTP server.
#[derive(Debug)]
pub struct Health {
    created: Instant,
    /// Milliseconds from `created` to the last beat, or [`RESTING`].
    beat_ms: AtomicU64,
    /// Why the process is not ready; `None` when it is ready.
    not_ready: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            created: Instant::now(),
            beat_ms: AtomicU64::new(RESTING),
            not_ready: Mutex::new(Some("starting".to_owned())),
        }
    }
}

impl Health {
    /// Records a round of the loop: the next beat is due within [`STUCK_AFTER`].
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    fn beat_at(&self, now: Instant) {
        let since = now.saturating_duration_since(self.created).as_millis();
        let since = u64::try_from(since).unwrap_or(RESTING - 1);
        self.beat_ms.store(since, Ordering::Relaxed);
    }

    /// Records that the loop has ended, or was left for work without rounds: no beat is due.
    pub fn rest(&self) {
        self.beat_ms.store(RESTING, Ordering::Relaxed);
    }

    /// Marks the process as ready.
    pub fn set_ready(&self) {
        *self.not_ready() = None;
    }

    /// Marks the process as not ready, for this reason.
    pub fn set_not_ready(&self, reason: &str) {
        *self.not_ready() = Some(reason.to_owned());
    }

    fn not_ready(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.not_ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `Ok` unless the loop is stuck.
    ///
    /// # Errors
    /// A message with the time, when the last beat is [`STUCK_AFTER`] ago or longer.
    pub fn liveness(&self) -> Result<(), String> {
        self.liveness_at(Instant::now())
    }

    pub(crate) fn liveness_at(&self, now: Instant) -> Result<(), String> {
        let beat_ms = self.beat_ms.load(Ordering::Relaxed);
        if beat_ms == RESTING {
            return Ok(());
        }
        let beat = self.created + Duration::from_millis(beat_ms);
        let since_beat = now.saturating_duration_since(beat);
        if since_beat < STUCK_AFTER {
            return Ok(());
        }
        Err(format!(
            "the thread that moves data has been stuck for {} s",
            since_beat.as_secs()
        ))
    }

    /// `Ok` when the process is ready.
    ///
    /// # Errors
    /// The reason why it is not ready, which is `starting` until the first call that sets it.
    pub fn readiness(&self) -> Result<(), String> {
        self.not_ready().clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_with_rounds_is_alive_and_one_without_is_stuck() {
        let health = Health::default();
        let start = health.created;
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(health.liveness_at(at(1_000)), Ok(()));
        health.beat_at(at(1_000));
        assert_eq!(health.liveness_at(at(1_059)), Ok(()));
        let stuck = health.liveness_at(at(1_060)).expect_err("it is stuck");
        assert!(stuck.ends_with("stuck for 60 s"), "{stuck}");
        health.beat_at(at(1_061));
        assert_eq!(health.liveness_at(at(1_062)), Ok(()));
    }

    #[test]
    fn a_loop_that_has_ended_is_not_stuck() {
        let health = Health::default();
        health.beat();
        health.rest();
        let later = Instant::now() + Duration::from_secs(3_600);
        assert_eq!(health.liveness_at(later), Ok(()));
    }

    #[test]
    fn readiness_changes_and_has_a_reason() {
        let health = Health::default();
        assert_eq!(health.readiness(), Err("starting".to_owned()));
        health.set_ready();
        assert_eq!(health.readiness(), Ok(()));
        health.set_not_ready("no partitions assigned");
        let reason = Err("no partitions assigned".to_owned());
        assert_eq!(health.readiness(), reason);
    }
}
