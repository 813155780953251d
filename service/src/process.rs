//! The life of a process: it starts logging, handles signals, runs the service, prints the error if
//! it failed, and ends with the exit code. Every `main.rs` is a call of [`run`].

use std::process::ExitCode;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Ending, Exit};
use crate::fault;
use crate::logging::{LogArgs, Verbosity};
use crate::output::Escaped;
use crate::shutdown::{Shutdown, Signal};

/// The environment variable that names the configuration file of `rollcall`. When it is set and empty,
/// no file is read.
pub const CONFIG_VARIABLE: &str = "ROLLCALL_CONFIG";

/// The name of a process for readers on other hosts: its role and its host, such as
/// `dispatcher on host-1`.
pub fn on_this_host(role: &str) -> String {
    format!("{role} on {}", host_name())
}

/// The name of this host.
pub fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

/// Runs a service to its end.
///
/// The first SIGINT or SIGTERM asks `service` to end through its [`Shutdown`]; a second one ends
/// the process at once. An error is one line on standard error.
pub fn run<E: Ending>(
    log: &LogArgs,
    verbosity: Verbosity,
    service: impl FnOnce(Shutdown) -> Result<Exit, E>,
) -> ExitCode {
    log.start(verbosity);
    match fault::arm() {
        Ok(0) => {}
        Ok(faults) => tracing::warn!(
            faults,
            "{} is set: faults will be injected into this process",
            fault::VARIABLE
        ),
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage.into();
        }
    }
    let shutdown = Shutdown::new();
    if let Err(error) = handle_signals(shutdown.clone()) {
        eprintln!("error: cannot handle signals: {error}");
        return Exit::Failure.into();
    }
    match service(shutdown) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            error.exit().into()
        }
    }
}

/// The error and its causes in one line, with control characters escaped.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    Escaped(&line).to_string()
}

/// Turns signals into a shutdown request, from a thread of its own.
fn handle_signals(shutdown: Shutdown) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // Registered before this returns: from here on no signal ends the process by default.
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                loop {
                    let caught = tokio::select! {
                        _ = interrupt.recv() => Signal::Interrupt,
                        _ = terminate.recv() => Signal::Terminate,
                    };
                    if shutdown.is_requested() {
                        std::process::exit(i32::from(caught.exit_code()));
                    }
                    tracing::info!("{caught}: shutting down (send it again to end at once)");
                    shutdown.request(caught);
                }
            });
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("cannot open x.csv")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_and_its_causes_are_one_line() {
        let error = Outer(std::io::Error::other("no such file"));
        assert_eq!(one_line(&error), "cannot open x.csv: no such file");
        let error = Outer(std::io::Error::other("gone\x1b[2J"));
        assert_eq!(one_line(&error), "cannot open x.csv: gone\\u001b[2J");
    }
}
