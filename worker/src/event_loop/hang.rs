//! The detection of jobs that take longer than the job timeout. A thread cannot be stopped, so the
//! process ends for such a job, and the poison marker of its partition stays held for the next worker.

use std::time::{Duration, Instant};

use super::Attempt;

/// The watch over one compute thread.
#[derive(Debug, Default)]
pub(super) struct HangWatch {
    /// The last attempt that was seen, as (id, start).
    attempt: Option<(u64, Instant)>,
    hangs: bool,
}

impl HangWatch {
    /// Applies the oldest attempt that is under way in the thread. Returns its partition where it has
    /// taken at least `timeout`.
    pub(super) fn apply(
        &mut self,
        at_work: Option<Attempt>,
        timeout: Duration,
        now: Instant,
    ) -> Option<i32> {
        let Some(own) = at_work else {
            self.attempt = None;
            return None;
        };
        let seen = self.attempt.filter(|(seen, _)| *seen == own.id);
        let since = own.since.or(seen.map(|(_, since)| since)).unwrap_or(now);
        self.attempt = Some((own.id, since));
        self.hangs = now.saturating_duration_since(since) >= timeout;
        self.hangs.then_some(own.partition)
    }

    /// Whether the thread was found to hang.
    pub(super) fn hangs(&self) -> bool {
        self.hangs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_hangs_when_it_is_seen_for_as_long_as_the_timeout() {
        let start = Instant::now();
        let timeout = Duration::from_secs(5);
        let at = |seconds| start + Duration::from_secs(seconds);
        let attempt = |id, partition| {
            Some(Attempt {
                id,
                partition,
                since: None,
            })
        };
        let mut watch = HangWatch::default();
        assert_eq!(watch.apply(attempt(1, 7), timeout, at(0)), None);
        assert_eq!(watch.apply(attempt(1, 7), timeout, at(4)), None);
        // Another attempt restarts the count, and so does a pause without one.
        assert_eq!(watch.apply(attempt(3, 7), timeout, at(9)), None);
        assert_eq!(watch.apply(None, timeout, at(10)), None);
        assert_eq!(watch.apply(attempt(5, 8), timeout, at(11)), None);
        assert!(!watch.hangs());
        assert_eq!(watch.apply(attempt(5, 8), timeout, at(16)), Some(8));
        assert!(watch.hangs());
    }

    #[test]
    fn an_attempt_with_a_recorded_start_hangs_from_that_start() {
        let now = Instant::now();
        let timeout = Duration::from_secs(5);
        let attempt = Attempt {
            id: 9,
            partition: 2,
            since: Some(now),
        };
        let mut watch = HangWatch::default();
        assert_eq!(watch.apply(Some(attempt), timeout, now), None);
        assert_eq!(watch.apply(Some(attempt), timeout, now + timeout), Some(2));
    }
}
