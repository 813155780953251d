//! Finds jobs that take longer than they may. No thread can be stopped, so the process ends for such
//! a job, and the mark of its partition tells the next worker why.

use std::time::{Duration, Instant};

/// What a compute thread was last seen at.
#[derive(Debug, Default)]
pub(super) struct HangWatch {
    /// The attempt that was under way, and since when it was seen to be.
    attempt: Option<(u64, Instant)>,
    hangs: bool,
}

impl HangWatch {
    /// The attempt under way is this one, if there is one, of this partition. Returns the partition
    /// where the attempt has been under way for as long as `timeout`.
    pub(super) fn apply(
        &mut self,
        at_work: Option<(u64, i32)>,
        timeout: Duration,
        now: Instant,
    ) -> Option<i32> {
        let Some((attempt, partition)) = at_work else {
            self.attempt = None;
            return None;
        };
        match self.attempt {
            Some((seen, since)) if seen == attempt => {
                self.hangs = now.saturating_duration_since(since) >= timeout;
                self.hangs.then_some(partition)
            }
            _ => {
                self.attempt = Some((attempt, now));
                None
            }
        }
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
        let mut watch = HangWatch::default();
        assert_eq!(watch.apply(Some((1, 7)), timeout, at(0)), None);
        assert_eq!(watch.apply(Some((1, 7)), timeout, at(4)), None);
        // Another attempt, and none, begin anew.
        assert_eq!(watch.apply(Some((3, 7)), timeout, at(9)), None);
        assert_eq!(watch.apply(None, timeout, at(10)), None);
        assert_eq!(watch.apply(Some((5, 8)), timeout, at(11)), None);
        assert!(!watch.hangs());
        assert_eq!(watch.apply(Some((5, 8)), timeout, at(16)), Some(8));
        assert!(watch.hangs());
    }
}
