//! The idle timer: the time for which an aggregator continues without progress.

use std::time::{Duration, Instant};

/// A timer of the time since the last progress, with a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleTimer {
    since: Instant,
    limit: Duration,
}

impl IdleTimer {
    /// The timer, started at `now`.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { since: now, limit }
    }

    /// Restarts the timer, because there was progress.
    pub(super) fn restart(&mut self, now: Instant) {
        self.since = now;
    }

    /// Whether there was no progress within the limit.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.limit
    }
}
