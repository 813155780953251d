//! Logs go to standard error, one line an event, so that standard output stays free for results.

use std::io::{self, IsTerminal};

use clap::Args;
use tracing_subscriber::EnvFilter;

/// How much is said.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// Say nothing but errors
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more (-v: what is done; -vv: every detail, librdkafka's log lines too)
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What a process says that was asked for neither more nor less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Each step: a service whose log is all that one sees of it.
    Steps,
    /// Warnings: a tool that shows progress and a result.
    Warnings,
}

impl LogArgs {
    fn filter(&self, talk: Talk) -> &'static str {
        match (self.quiet, self.verbose, talk) {
            (true, _, _) => "error",
            (false, 0, Talk::Warnings) => "warn,librdkafka=error",
            (false, 0, Talk::Steps) | (false, 1, Talk::Warnings) => "info,librdkafka=error",
            (false, 1, Talk::Steps) | (false, 2, Talk::Warnings) => "debug,librdkafka=warn",
            (false, _, _) => "trace",
        }
    }

    /// Starts logging for the process. `RUST_LOG`, where it is set, is heeded instead of the options.
    pub fn start(&self, talk: Talk) {
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(self.filter(talk)));
        // A second start in one process (tests do that) keeps the first one's settings.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .try_init();
    }
}
