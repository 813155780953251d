//! The pace of a compute thread: the number of jobs between two checks of the clock, the leases and the
//! shutdown. The thread checks after each job where jobs are slow, and after many where they are fast.

use std::time::{Duration, Instant};

/// The approximate time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// The largest number of jobs between two checks.
const MAX_JOBS: u32 = 64;

/// The number of jobs between two checks, adapted to their duration.
#[derive(Debug)]
pub struct Pace {
    at: Instant,
    jobs: u32,
}

impl Pace {
    /// A pace that begins with a single job.
    pub fn new(now: Instant) -> Self {
        Self { at: now, jobs: 1 }
    }

    /// The number of jobs until the next check.
    pub fn jobs(&self) -> u32 {
        self.jobs
    }

    /// Adapts the pace at a check, after this number of jobs since the one before.
    pub fn adapt(&mut self, now: Instant, jobs: u32) {
        let per_job = (now - self.at).as_nanos() / u128::from(jobs.max(1));
        let jobs = CHECK_INTERVAL.as_nanos() / per_job.max(1);
        self.jobs = jobs.clamp(1, MAX_JOBS.into()) as u32;
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_check_after_each_slow_job_and_after_many_fast_ones() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut checks = |per_job: Duration, jobs: u32| {
            let (mut left, mut checks) = (jobs, 0);
            while left > 0 {
                let done = pace.jobs().min(left);
                left -= done;
                now += per_job * done;
                pace.adapt(now, done);
                checks += 1;
            }
            checks
        };
        assert!(checks(Duration::from_nanos(50), 640) <= 11);
        // The first round has the length of those of fast jobs.
        assert_eq!(checks(Duration::from_millis(100), 64 + 10), 1 + 10);
        assert_eq!(checks(Duration::from_millis(100), 10), 10);
    }
}
