//! The retries of failing jobs: the policy, and the queue of those that wait. Both get the time from
//! the caller.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The number of attempts at a job, and the pauses between them.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The number of attempts, with the first.
    pub max_attempts: NonZeroU32,
    /// The pause between the first attempt and the second. Each further pause is twice as long, up to
    /// 10 s.
    pub first_pause: Duration,
}

impl RetryPolicy {
    /// The pause after this number of failed attempts; `None` when the job is not tried again.
    pub fn pause_after(&self, failed_attempts: u32) -> Option<Duration> {
        if failed_attempts >= self.max_attempts.get() {
            return None;
        }
        let doublings = failed_attempts.saturating_sub(1).min(16);
        Some(
            self.first_pause
                .saturating_mul(1 << doublings)
                .min(LONGEST_PAUSE),
        )
    }
}

/// A queue of items that are due at a later time, the earliest first.
#[derive(Debug)]
pub struct RetryQueue<T> {
    waiting: BinaryHeap<Reverse<Due<T>>>,
    pushed: u64,
}

#[derive(Debug)]
struct Due<T> {
    at: Instant,
    /// The number of the push, by which items of the same time are ordered.
    sequence: u64,
    what: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl<T> Default for RetryQueue<T> {
    fn default() -> Self {
        Self {
            waiting: BinaryHeap::new(),
            pushed: 0,
        }
    }
}

impl<T> RetryQueue<T> {
    /// Adds an item that is due at a time.
    pub fn push(&mut self, at: Instant, what: T) {
        let sequence = self.pushed;
        self.pushed += 1;
        self.waiting.push(Reverse(Due { at, sequence, what }));
    }

    /// Removes and returns the earliest item; `None` where no item is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        self.waiting.pop().map(|Reverse(due)| due.what)
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the queue has no item.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The time at which the earliest item is due; `None` where there is no item.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(due)| due.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_end_with_the_attempts() {
        let policy = RetryPolicy {
            max_attempts: NonZeroU32::new(40).expect("not zero"),
            first_pause: Duration::from_millis(100),
        };
        let pauses: Vec<_> = (1..=8)
            .map(|failed| policy.pause_after(failed).map(|pause| pause.as_millis()))
            .collect();
        let expected = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000].map(Some);
        assert_eq!(pauses, expected);
        assert!(policy.pause_after(39).is_some());
        assert_eq!(policy.pause_after(40), None);
    }

    #[test]
    fn a_job_with_one_attempt_is_never_tried_again() {
        let policy = RetryPolicy {
            max_attempts: NonZeroU32::MIN,
            first_pause: Duration::ZERO,
        };
        assert_eq!(policy.pause_after(1), None);
    }

    #[test]
    fn items_are_popped_when_they_are_due_and_in_order() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = RetryQueue::default();
        queue.push(at(20), "late");
        queue.push(at(10), "first");
        queue.push(at(10), "second");
        assert_eq!(queue.pop_due(at(9)), None);
        assert_eq!(queue.next_due(), Some(at(10)));
        assert_eq!(queue.pop_due(at(15)), Some("first"));
        assert_eq!(queue.pop_due(at(15)), Some("second"));
        assert_eq!(queue.pop_due(at(15)), None);
        assert_eq!(queue.pop_due(at(20)), Some("late"));
        assert_eq!(queue.next_due(), None);
    }
}
