//! Shutdown as an argument: whoever does long work is handed a [`Shutdown`] and looks at it, and
//! nobody but the process that caught the signal sets it. A look costs one atomic load, so that
//! threads which move data may look between two jobs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// The signal that asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: somebody typed Ctrl-C.
    Interrupt,
    /// SIGTERM: a supervisor wants the process to end.
    Terminate,
}

impl Signal {
    /// 128 + the signal's number, as shells report it.
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

/// A request to end, shared by everything in the process that works for long.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// 0 while nobody asked, else the exit code of the first signal.
    requested: AtomicU8,
    notify: Notify,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. The first signal is the one that is kept.
    pub fn request(&self, signal: Signal) {
        // Whether this call or an earlier one set it makes no difference to the waiters.
        let _ = self.state.requested.compare_exchange(
            0,
            signal.exit_code(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        self.state.notify.notify_waiters();
    }

    /// The signal that asked for the end, if one did.
    pub fn requested(&self) -> Option<Signal> {
        match self.state.requested.load(Ordering::Acquire) {
            0 => None,
            130 => Some(Signal::Interrupt),
            _ => Some(Signal::Terminate),
        }
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.state.requested.load(Ordering::Relaxed) != 0
    }

    /// Waits until the end is asked for.
    pub async fn wait(&self) -> Signal {
        loop {
            // Registered before the look, so that no request falls between the two.
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
