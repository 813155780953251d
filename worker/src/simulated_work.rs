//! Simulated work, which makes each job take longer: by waiting, as a job waits for a disk or a
//! network, or by computing. Workers on one machine compete for cores, but can all wait at once.

use std::thread;
use std::time::Duration;

use clap::Args;
use cpu_time::ThreadTime;

/// The work that is added to each job.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulatedWork {
    /// Make each job wait for this time, as for a disk or a network, to see how work spreads over
    /// workers. Waits under 100us take longer, because of the timers of the operating system
    #[arg(
        long = "simulate-work",
        value_name = "DURATION",
        default_value = "0ms",
        value_parser = humantime::parse_duration
    )]
    pub waiting: Duration,

    /// Make each job use this CPU time of its thread
    #[arg(
        long = "simulate-cpu",
        value_name = "DURATION",
        default_value = "0ms",
        value_parser = humantime::parse_duration
    )]
    pub computing: Duration,
}

impl SimulatedWork {
    /// The shortest time that a job takes.
    pub fn at_least(&self) -> Duration {
        self.waiting + self.computing
    }

    /// Does the simulated work of one job.
    ///
    /// Computing is measured by the thread's CPU clock, which does not run while other threads have the
    /// core, so that eight workers on two cores do not do the work of eight. Reading that clock takes
    /// well under a microsecond, which is also its precision.
    #[inline]
    pub fn take(&self) {
        if *self != Self::default() {
            self.take_some();
        }
    }

    #[cold]
    fn take_some(&self) {
        if !self.waiting.is_zero() {
            thread::sleep(self.waiting);
        }
        if !self.computing.is_zero() {
            let began = ThreadTime::now();
            while began.elapsed() < self.computing {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_computing_takes_the_time_of_a_core() {
        let computing = Duration::from_micros(300);
        let work = SimulatedWork {
            computing,
            ..SimulatedWork::default()
        };
        let began = ThreadTime::now();
        work.take();
        assert!(began.elapsed() >= computing);
        assert_eq!(work.at_least(), computing);
    }
}
