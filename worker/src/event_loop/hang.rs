//! Finds jobs that take longer than they may. No thread can be stopped, so the process ends for such
//! a job, and the mark of its partition tells the next worker why.

use std::time::{Duration, Instant};

use super::Attempt;

/// What a compute thread was last seen at.
#[derive(Debug, Default)]
pub(super) struct HangWatch {
    /// The attempt that was under way, and since when it was seen to be.
    attempt: Option<(u64, Instant)>,
    hangs: bool,
}

impl HangWatch {
    /// The oldest attempt under way is this one, if there is one. Returns its partition where it has
    /// been under way for as long as `timeout`.
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
    fn an_attempt_hangs_when_the_very_same_one_is_under_way_for_as_long_as_the_timeout() {
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
        // Another attempt, and none, begin anew.
        assert_eq!(watch.apply(attempt(3, 7), timeout, at(9)), None);
        assert_eq!(watch.apply(None, timeout, at(10)), None);
        assert_eq!(watch.apply(attempt(5, 8), timeout, at(11)), None);
        assert!(!watch.hangs());
        assert_eq!(watch.apply(attempt(5, 8), timeout, at(16)), Some(8));
        assert!(watch.hangs());
    }

    #[test]
    fn an_attempt_that_was_in_flight_before_it_was_the_oldest_hangs_from_its_own_beginning() {
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
