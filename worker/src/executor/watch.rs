//! What a compute thread is at, for the event loop, which looks for jobs that hang.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::AttemptId;

/// The attempts of one compute thread that are under way.
#[derive(Debug, Default)]
pub struct Watch {
    /// Counted up when the thread begins an attempt and when it has ended: odd while the thread itself
    /// is at one.
    attempts: AtomicU64,
    partition: AtomicI32,
    in_flight: Mutex<Vec<InFlight>>,
}

/// An attempt that the thread does not wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Which attempt.
    pub id: AttemptId,
    /// The partition of its job.
    pub partition: i32,
    /// When it began.
    pub since: Instant,
}

impl Watch {
    /// The thread begins an attempt at a job of a partition.
    #[inline]
    pub(super) fn begin(&self, partition: i32) {
        self.partition.store(partition, Ordering::Relaxed);
        self.count();
    }

    /// The thread does not wait for the attempt any more.
    #[inline]
    pub(super) fn end(&self) {
        self.count();
    }

    /// Only the compute thread itself counts, so nothing is lost between the two.
    #[inline]
    fn count(&self) {
        let attempts = self.attempts.load(Ordering::Relaxed);
        self.attempts.store(attempts + 1, Ordering::Relaxed);
    }

    /// These attempts are in flight.
    pub(super) fn set_in_flight(&self, in_flight: impl Iterator<Item = InFlight>) {
        let mut own = self.lock();
        own.clear();
        own.extend(in_flight);
    }

    /// The attempts in flight, the oldest first.
    pub fn in_flight(&self) -> Vec<InFlight> {
        self.lock().clone()
    }

    /// The attempt that is under way, by a number that no other attempt of this thread has, and the
    /// partition of its job. Of several in flight it is the oldest.
    pub fn at_work(&self) -> Option<(u64, i32)> {
        let attempts = self.attempts.load(Ordering::Relaxed);
        let partition = self.partition.load(Ordering::Relaxed);
        if attempts % 2 == 1 {
            return Some((attempts, partition));
        }
        let own = self.lock();
        let oldest = own.first()?;
        Some((2 * oldest.id, oldest.partition))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<InFlight>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_seen_while_the_thread_is_at_it() {
        let watch = Watch::default();
        assert_eq!(watch.at_work(), None);
        watch.begin(3);
        assert_eq!(watch.at_work(), Some((1, 3)));
        watch.end();
        assert_eq!(watch.at_work(), None);
        watch.begin(4);
        assert_eq!(watch.at_work(), Some((3, 4)));
    }

    #[test]
    fn the_oldest_attempt_in_flight_is_seen_until_it_is_answered() {
        let watch = Watch::default();
        let since = Instant::now();
        let in_flight = |id, partition| InFlight {
            id,
            partition,
            since,
        };
        watch.set_in_flight([in_flight(7, 1), in_flight(9, 2)].into_iter());
        assert_eq!(watch.at_work(), Some((14, 1)));
        assert_eq!(watch.in_flight().len(), 2);
        watch.set_in_flight([in_flight(9, 2)].into_iter());
        assert_eq!(watch.at_work(), Some((18, 2)));
        watch.set_in_flight([].into_iter());
        assert_eq!(watch.at_work(), None);
    }
}
