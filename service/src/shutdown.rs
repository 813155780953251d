//! Shutdown as an argument: a function that runs long takes a [`Shutdown`] and polls it; only the
//! signal handler sets it. A poll costs one atomic load, so threads that move data can afford one
//! between two jobs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// The signal that requested the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, such as Ctrl-C.
    Interrupt,
    /// SIGTERM, such as from a supervisor.
    Terminate,
}

impl Signal {
    /// The exit code: 128 + the signal's number, as shells report it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// A request to end, shared by all threads and tasks of the process.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// 0 without a request, else the exit code of the first signal.
    requested: AtomicU8,
    notify: Notify,
}

impl Shutdown {
    /// A shutdown that is not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the shutdown. Only the first signal is kept.
    pub fn request(&self, signal: Signal) {
        // When an earlier call has set it, its signal is the one to keep.
        let _ = self.state.requested.compare_exchange(
            0,
            signal.exit_code(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        self.state.notify.notify_waiters();
    }

    /// The signal that requested the shutdown; `None` without a request.
    pub fn requested(&self) -> Option<Signal> {
        match self.state.requested.load(Ordering::Acquire) {
            0 => None,
            130 => Some(Signal::Interrupt),
            _ => Some(Signal::Terminate),
        }
    }

    /// Whether a shutdown is requested.
    pub fn is_requested(&self) -> bool {
        self.state.requested.load(Ordering::Relaxed) != 0
    }

    /// Waits for the request.
    pub async fn wait(&self) -> Signal {
        loop {
            // Registered before the check, so that no request is missed between the two.
            let notified = self.state.notify.notified();
            if let Some(signal) = self.requested() {
                return signal;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_is_kept() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.requested(), None);
        shutdown.request(Signal::Interrupt);
        shutdown.request(Signal::Terminate);
        assert_eq!(shutdown.requested(), Some(Signal::Interrupt));
        assert!(shutdown.clone().is_requested());
    }

    #[tokio::test]
    async fn a_waiter_is_woken() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        shutdown.request(Signal::Terminate);
        assert_eq!(waiting.await.expect("the waiter ends"), Signal::Terminate);
    }
}
