//! Makes each job take longer than its two rows need: by waiting, as a job waits for a disk or a
//! network, or by computing. What workers on one machine share differs: cores, but not waiting.

use std::thread;
use std::time::Duration;

use clap::Args;
use cpu_time::ThreadTime;

/// What is added to each job.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulatedWork {
    /// Make each job wait so long, as for a disk or a network, to see how work spreads. Waits under
    /// 100us are made longer by the operating system
    #[arg(
        long = "simulate-work",
        value_name = "DURATION",
        default_value = "0ms",
        value_parser = humantime::parse_duration
    )]
    pub waiting: Duration,

    /// Make each job take so much time of a core, however many share it
    #[arg(
        long = "simulate-cpu",
        value_name = "DURATION",
        default_value = "0ms",
        value_parser = humantime::parse_duration
    )]
    pub computing: Duration,
}

impl SimulatedWork {
    /// What a job takes at least.
    pub fn at_least(&self) -> Duration {
        self.waiting + self.computing
    }

    /// Takes it.
    ///
    /// Computing is measured by the thread's own clock, which stands still while others have the
    /// core: eight workers on two cores do not seem to do the work of eight. Asking that clock takes
    /// well under a microsecond, which is how exact it is.
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
