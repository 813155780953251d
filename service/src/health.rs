//! Whether a process is alive and whether it is ready. Alive is what the thread that moves data
//! says by a beat in each round of its loop, whatever the broker does; ready is what it is told
//! about partitions or the connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A loop that has not gone round for so long is stuck. Longer than anything that a round may wait
/// for: a rebalance asks the group's coordinator for up to 10 s.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);

/// No loop is going on, so no beat is due.
const RESTING: u64 = u64::MAX;

/// The health of a process, told by the threads that do its work and asked by others.
#[derive(Debug)]
pub struct Health {
    born: Instant,
    /// Milliseconds from `born` to the last beat, or [`RESTING`].
    beat_ms: AtomicU64,
    /// Why it is not ready; `None` when it is.
    not_ready: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            beat_ms: AtomicU64::new(RESTING),
            not_ready: Mutex::new(Some("starting".to_owned())),
        }
    }
}

impl Health {
    /// The loop goes round once more: from here on, the next beat is due within [`STUCK_AFTER`].
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    fn beat_at(&self, now: Instant) {
        let since = now.saturating_duration_since(self.born).as_millis();
        let since = u64::try_from(since).unwrap_or(RESTING - 1);
        self.beat_ms.store(since, Ordering::Relaxed);
    }

    /// The loop is over, or it was left for work that has no rounds: no beat is due.
    pub fn rest(&self) {
        self.beat_ms.store(RESTING, Ordering::Relaxed);
    }

    /// It is ready.
    pub fn set_ready(&self) {
        *self.not_ready() = None;
    }

    /// It is not ready, and why.
    pub fn set_not_ready(&self, reason: &str) {
        *self.not_ready() = Some(reason.to_owned());
    }

    fn not_ready(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.not_ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `Err` with the reason when the loop is stuck.
    ///
    /// # Errors
    /// When the last beat is longer ago than [`STUCK_AFTER`].
    pub fn liveness(&self) -> Result<(), String> {
        self.liveness_at(Instant::now())
    }

    pub(crate) fn liveness_at(&self, now: Instant) -> Result<(), String> {
        let beat_ms = self.beat_ms.load(Ordering::Relaxed);
        if beat_ms == RESTING {
            return Ok(());
        }
        let beat = self.born + Duration::from_millis(beat_ms);
        let silent = now.saturating_duration_since(beat);
        if silent < STUCK_AFTER {
            return Ok(());
        }
        Err(format!(
            "the thread that moves data has been stuck for {} s",
            silent.as_secs()
        ))
    }

    /// `Err` with the reason when it is not ready.
    ///
    /// # Errors
    /// As long as it was not told to be ready.
    pub fn readiness(&self) -> Result<(), String> {
        self.not_ready().clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_goes_round_is_alive_and_one_that_does_not_is_stuck() {
        let health = Health::default();
        let start = health.born;
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
    fn a_loop_that_is_over_is_not_stuck() {
        let health = Health::default();
        health.beat();
        health.rest();
        let later = Instant::now() + Duration::from_secs(3_600);
        assert_eq!(health.liveness_at(later), Ok(()));
    }

    #[test]
    fn readiness_comes_and_goes_and_says_why() {
        let health = Health::default();
        assert_eq!(health.readiness(), Err("starting".to_owned()));
        health.set_ready();
        assert_eq!(health.readiness(), Ok(()));
        health.set_not_ready("no partitions assigned");
        let reason = Err("no partitions assigned".to_owned());
        assert_eq!(health.readiness(), reason);
    }
}
