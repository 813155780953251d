//! The exit codes of all binaries: one table, so that a script can distinguish a complete run from
//! one with dead letters, and an unreachable broker from a wrong option.

use std::fmt;

use crate::shutdown::Signal;

/// The table of exit codes in `--help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    complete
  1    failure
  2    wrong usage or unreadable input
  3    complete, with dead letters
  4    incomplete at the time-out
  5    broker unreachable
  6    access denied: user, password, certificate, or a right that is missing
  7    unable: the run needs a computation that this program does not have
  130  stopped by SIGINT before it was complete
  143  stopped by SIGTERM before it was complete";

/// The outcome of a process, which decides its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Complete: everything was done.
    Complete,
    /// A failure for any reason that has no code of its own.
    Failure,
    /// Wrong usage, or an input that cannot be read.
    Usage,
    /// Complete: every job has an outcome, but some of them are dead letters.
    DeadLetters,
    /// The time-out passed before every job had an outcome.
    Incomplete,
    /// No broker answered within the time allowed.
    BrokerUnreachable,
    /// A broker refused the user, password or certificate, or a right is missing.
    Denied,
    /// The run needs a computation that this program does not have, or cannot do.
    Unable,
    /// A signal stopped the process before it was complete.
    Stopped(Signal),
}

impl Exit {
    /// The exit code for the operating system.
    pub fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::DeadLetters => 3,
            Self::Incomplete => 4,
            Self::BrokerUnreachable => 5,
            Self::Denied => 6,
            Self::Unable => 7,
            Self::Stopped(signal) => signal.exit_code(),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Failure => f.write_str("failed"),
            Self::Usage => f.write_str("wrong usage"),
            Self::DeadLetters => f.write_str("complete, with dead letters"),
            Self::Incomplete => f.write_str("incomplete"),
            Self::BrokerUnreachable => f.write_str("broker unreachable"),
            Self::Denied => f.write_str("access denied"),
            Self::Unable => f.write_str("unable to do the computation that the run needs"),
            Self::Stopped(signal) => write!(f, "stopped by {signal}"),
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error of a whole process, with the exit code that the process ends with.
pub trait Ending: std::error::Error {
    /// The outcome of a process that ends with this error.
    fn exit(&self) -> Exit;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_table_names_every_code() {
        let all = [
            Exit::Complete,
            Exit::Failure,
            Exit::Usage,
            Exit::DeadLetters,
            Exit::Incomplete,
            Exit::BrokerUnreachable,
            Exit::Denied,
            Exit::Unable,
            Exit::Stopped(Signal::Interrupt),
            Exit::Stopped(Signal::Terminate),
        ];
        for exit in all {
            let line = format!("  {:<5}", exit.code());
            assert!(EXIT_CODES_HELP.contains(&line), "{exit} is missing");
        }
    }
}
