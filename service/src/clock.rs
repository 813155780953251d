//! A thread that ends the process when the system clock is set back. librdkafka computes its waits
//! from that clock, so each wait in progress becomes longer by the time that was set back:
//! heartbeats are late, and callers of the client block. A supervisor starts a process again that
//! has ended, but not one that blocks for two hours because its clock was corrected by two hours.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::exit::Exit;

/// The time between two readings of the clocks.
const PERIOD: Duration = Duration::from_secs(1);

/// The largest step back that is tolerated. It makes waits longer, but not long enough for a
/// heartbeat to miss a session time-out.
const TOLERANCE: Duration = Duration::from_secs(4);

/// The system clock and the monotonic clock, read at the same time.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The system clock, which people and programs set.
    system: SystemTime,
    /// The monotonic clock, which cannot be set.
    monotonic: Instant,
}

impl Reading {
    fn now() -> Self {
        Self {
            system: SystemTime::now(),
            monotonic: Instant::now(),
        }
    }

    /// The time by which the system clock was set back since an earlier reading; `None` when it was
    /// not set back, or by no more than [`TOLERANCE`].
    fn set_back_since(self, earlier: Self) -> Option<Duration> {
        let expected = earlier.system + self.monotonic.duration_since(earlier.monotonic);
        let missing = expected.duration_since(self.system).ok()?;
        (missing > TOLERANCE).then_some(missing)
    }
}

/// Starts the thread, which runs until the process ends. For processes with Kafka clients.
pub fn watch() {
    let watch = || {
        let mut last = Reading::now();
        loop {
            thread::sleep(PERIOD);
            let now = Reading::now();
            if let Some(set_back) = now.set_back_since(last) {
                let seconds = set_back.as_secs();
                tracing::error!(
                    "the system clock was set back by {seconds} s, and the Kafka client would wait \
                     that much longer; ending: start this process again"
                );
                std::process::exit(Exit::Failure.code().into());
            }
            last = now;
        }
    };
    let clock = thread::Builder::new().name("clock".to_owned());
    if let Err(error) = clock.spawn(watch) {
        tracing::warn!(%error, "cannot watch for the system clock being set back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_back_beyond_the_tolerance_is_reported() {
        let earlier = Reading::now();
        let after = |system: Duration, monotonic: Duration| Reading {
            system: earlier.system + system,
            monotonic: earlier.monotonic + monotonic,
        };
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
        // After a suspend, during which the monotonic clock may not have advanced.
        assert_eq!(after(hour, minute).set_back_since(earlier), None);
        assert_eq!(after(minute, minute).set_back_since(earlier), None);
        assert_eq!(
            after(minute - TOLERANCE, minute).set_back_since(earlier),
            None
        );
        assert_eq!(
            after(minute, hour).set_back_since(earlier),
            Some(hour - minute)
        );
        let before = Reading {
            system: earlier.system - hour,
            ..earlier
        };
        assert_eq!(before.set_back_since(earlier), Some(hour));
    }
}
