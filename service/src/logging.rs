//! Logs go to standard error, one line an event, so that standard output stays free for results.

use std::io::{self, IsTerminal};

use clap::Args;
use tracing_subscriber::EnvFilter;

/// How much is said.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// Say nothing but errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more (-v: what is done; -vv: every detail, librdkafka's log lines too)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl LogArgs {
    fn filter(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "info,librdkafka=error",
            (false, 1) => "debug,librdkafka=warn",
            (false, _) => "trace",
        }
    }

    /// Starts logging for the process. `RUST_LOG`, where it is set, is heeded instead of the options.
    pub fn start(&self) {
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(self.filter()));
        // A second start in one process (tests do that) keeps the first one's settings.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .try_init();
    }
}
