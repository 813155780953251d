//! The attempts of a compute thread, shared with the event loop, which detects jobs that hang.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::AttemptId;

/// The attempts of one compute thread that are under way.
#[derive(Debug, Default)]
pub struct Watch {
    /// The number of begins and ends of attempts in the thread itself: odd during an attempt.
    attempts: AtomicU64,
    partition: AtomicI32,
    in_flight: Mutex<Vec<InFlight>>,
}

/// An attempt that is answered later, while the thread does other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The attempt.
    pub id: AttemptId,
    /// The partition of its job.
    pub partition: i32,
    /// The time at which it began.
    pub since: Instant,
}

impl Watch {
    /// Notes that the thread begins an attempt at a job of a partition.
    #[inline]
    pub(super) fn begin(&self, partition: i32) {
        self.partition.store(partition, Ordering::Relaxed);
        self.count();
    }

    /// Notes that the attempt was answered, or is answered later.
    #[inline]
    pub(super) fn end(&self) {
        self.count();
    }

    /// Adds 1. Only the compute thread itself writes, so no addition is lost.
    #[inline]
    fn count(&self) {
        let attempts = self.attempts.load(Ordering::Relaxed);
        self.attempts.store(attempts + 1, Ordering::Relaxed);
    }

    /// Sets the attempts in flight.
    pub(super) fn set_in_flight(&self, in_flight: impl Iterator<Item = InFlight>) {
        let mut own = self.lock();
        own.clear();
        own.extend(in_flight);
    }

    /// The attempts in flight, the oldest first.
    pub fn in_flight(&self) -> Vec<InFlight> {
        self.lock().clone()
    }

    /// The attempt that is under way, as a number that is unique within this thread and the partition of
    /// its job. Of several in flight it is the oldest.
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
    fn an_attempt_is_visible_while_the_thread_computes_it() {
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
    fn the_oldest_attempt_in_flight_is_visible_until_it_is_answered() {
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
