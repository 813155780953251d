//! Acknowledgements: what the broker has of what was handed to the producer, and since when it has
//! acknowledged nothing.

use std::time::{Duration, Instant};

/// A broker that acknowledges nothing for this long is worth a warning.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that were handed to the producer, and those of them that the broker has acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledgements {
    in_flight: u64,
    first_at: Option<Instant>,
    last_at: Instant,
}

impl Acknowledgements {
    /// Nothing is in flight.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            first_at: None,
            last_at: now,
        }
    }

    /// The producer has taken messages.
    pub(super) fn produced(&mut self, messages: u64) {
        self.in_flight += messages;
    }

    /// The broker has acknowledged messages. Returns whether they are the first.
    pub(super) fn apply(&mut self, messages: u64, now: Instant) -> bool {
        self.in_flight = self.in_flight.saturating_sub(messages);
        self.last_at = now;
        let is_first = self.first_at.is_none();
        self.first_at.get_or_insert(now);
        is_first
    }

    /// Messages that the producer has taken and the broker has not acknowledged.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// When the broker had acknowledged the first message.
    pub(super) fn first_at(&self) -> Option<Instant> {
        self.first_at
    }

    /// Whether messages are in flight and none was acknowledged for [`TIMEOUT`]. Counts anew from
    /// `now` where it says so.
    pub(super) fn is_overdue(&mut self, now: Instant) -> bool {
        let overdue = self.in_flight > 0 && now.saturating_duration_since(self.last_at) >= TIMEOUT;
        if overdue {
            self.last_at = now;
        }
        overdue
    }
}
