//! The pace of a compute thread: how many jobs it does between two looks at the clock, the leases and
//! the shutdown. After each job where jobs are slow, after many where they are fast.

use std::time::{Duration, Instant};

/// The time between two looks, about.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Jobs between two looks, at most.
const MAX_JOBS: u32 = 64;

/// How many jobs there are between two looks.
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

    /// How many jobs to do until the next look.
    pub fn jobs(&self) -> u32 {
        self.jobs
    }

    /// A look, after this number of jobs since the last one.
    pub fn look(&mut self, now: Instant, jobs: u32) {
        let per_job = (now - self.at).as_nanos() / u128::from(jobs.max(1));
        let jobs = LOOK_EVERY.as_nanos() / per_job.max(1);
        self.jobs = jobs.clamp(1, MAX_JOBS.into()) as u32;
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_jobs_are_looked_at_one_by_one_and_fast_ones_by_the_dozen() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut looks = |per_job: Duration, jobs: u32| {
            let (mut left, mut looks) = (jobs, 0);
            while left > 0 {
                let done = pace.jobs().min(left);
                left -= done;
                now += per_job * done;
                pace.look(now, done);
                looks += 1;
            }
            looks
        };
        assert!(looks(Duration::from_nanos(50), 640) <= 11);
        // The first round is still as long as those of fast jobs.
        assert_eq!(looks(Duration::from_millis(100), 64 + 10), 1 + 10);
        assert_eq!(looks(Duration::from_millis(100), 10), 10);
    }
}
