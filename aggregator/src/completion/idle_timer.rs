//! The idle timer: how long an aggregator goes on without anything new.

use std::time::{Duration, Instant};

/// The time since something new came, against a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleTimer {
    since: Instant,
    limit: Duration,
}

impl IdleTimer {
    /// Counts from `now`.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { since: now, limit }
    }

    /// Something new has come.
    pub(super) fn restart(&mut self, now: Instant) {
        self.since = now;
    }

    /// Whether nothing new has come for as long as the limit.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.limit
    }
}
