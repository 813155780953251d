//! Ends the process when the clock of the day is set back. librdkafka waits by that clock: what it
//! waits for in that moment comes so much later, heartbeats among it, and its callers wait with it.
//! A process that ends is started again by whoever looks after it; one that stands still for the two
//! hours that somebody has mended in the clock is not.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::exit::Exit;

/// How often the clock is looked at.
const STEP: Duration = Duration::from_secs(1);

/// Set back by less than this, a wait is longer than it should be, and nobody is taken for dead.
const TOLERATED: Duration = Duration::from_secs(4);

/// Two clocks, read at the same time.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// That of the day, which people and programs set.
    day: SystemTime,
    /// One that nobody sets.
    steady: Instant,
}

impl Reading {
    fn now() -> Self {
        Self {
            day: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// By how much the clock of the day was set back since an earlier reading; `None` where it was
    /// not, or by no more than is tolerated.
    fn set_back_since(self, earlier: Self) -> Option<Duration> {
        let due = earlier.day + self.steady.duration_since(earlier.steady);
        let missing = due.duration_since(self.day).ok()?;
        (missing > TOLERATED).then_some(missing)
    }
}

/// Watches the clock for as long as the process lives. For processes with clients of Kafka.
pub fn watch() {
    let watching = || {
        let mut last = Reading::now();
        loop {
            thread::sleep(STEP);
            let now = Reading::now();
            if let Some(set_back) = now.set_back_since(last) {
                let seconds = set_back.as_secs();
                tracing::error!(
                    "the clock was set back by {seconds} s, and Kafka's client would wait that much \
                     longer; ending: start it again"
                );
                std::process::exit(Exit::Failure.code().into());
            }
            last = now;
        }
    };
    let clock = thread::Builder::new().name("clock".to_owned());
    if let Err(error) = clock.spawn(watching) {
        tracing::warn!(%error, "nobody looks whether the clock is set back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_set_back_by_much_is_told() {
        let earlier = Reading::now();
        let after = |day: Duration, steady: Duration| Reading {
            day: earlier.day + day,
            steady: earlier.steady + steady,
        };
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
        // A machine that slept: the steady clock may have stood still.
        assert_eq!(after(hour, minute).set_back_since(earlier), None);
        assert_eq!(after(minute, minute).set_back_since(earlier), None);
        assert_eq!(
            after(minute - TOLERATED, minute).set_back_since(earlier),
            None
        );
        assert_eq!(
            after(minute, hour).set_back_since(earlier),
            Some(hour - minute)
        );
        let before = Reading {
            day: earlier.day - hour,
            ..earlier
        };
        assert_eq!(before.set_back_since(earlier), Some(hour));
    }
}
