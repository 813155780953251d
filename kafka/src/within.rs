//! Calls of librdkafka that may outlast their timeout. Each runs on a thread of its own, and is left
//! running there when the timeout is over.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The result of a call; `None` when the call has not returned within `timeout`, or when no thread
/// could be started.
pub(crate) fn call_with_timeout<T: Send + 'static>(
    timeout: Duration,
    name: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, result) = mpsc::channel();
    let builder = thread::Builder::new().name(name.to_owned());
    // If no thread can be started, the sender is dropped and `recv_timeout` fails at once.
    let _ = builder.spawn(move || {
        // The receiver is gone when the timeout was over first.
        let _ = sender.send(call());
    });
    result.recv_timeout(timeout).ok()
}
