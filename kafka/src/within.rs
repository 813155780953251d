//! Calls of the client that may not come back when they should: each is made on a thread of its own, and
//! left behind there when its time is up.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What a call gives; `None` when it has not returned within `patience`, or no thread could be had.
pub(crate) fn within<T: Send + 'static>(
    patience: Duration,
    name: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (told, answer) = mpsc::channel();
    let calling = thread::Builder::new().name(name.to_owned());
    // Where no thread can be had, nobody answers.
    let _ = calling.spawn(move || {
        // If nobody listens any more, nobody needs to know.
        let _ = told.send(call());
    });
    answer.recv_timeout(patience).ok()
}
