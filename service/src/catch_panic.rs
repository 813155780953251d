//! Calls into polars, which panics on some invalid files where it should return an error. The files
//! are the user's, so such a panic becomes an error and is reported once.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The library's name, with which the names of its threads begin.
const LIBRARY: &str = "polars";

thread_local! {
    /// Whether this thread is inside [`catch_panic`].
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// The number of threads inside [`catch_panic`].
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// Calls polars and returns a panic as an error. Panics on threads of polars' own reach this
/// thread.
///
/// polars validates a file while it reads, and not all of it: a wrong length in a footer or a page,
/// or a type that it was built without, ends in a panic. What was read until then is dropped.
///
/// # Errors
/// The message of the panic.
pub fn catch_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    silence_caught_panics();
    CALLS.fetch_add(1, Ordering::Relaxed);
    CATCHING.set(true);
    let called = panic::catch_unwind(AssertUnwindSafe(call));
    CATCHING.set(false);
    CALLS.fetch_sub(1, Ordering::Relaxed);
    called.map_err(|panic| format!("{LIBRARY} panicked: {}", message(&*panic)))
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message")
}

/// Keeps panics that become errors out of the log, where they would appear twice. All others are
/// handled by the hook that was installed before.
fn silence_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let current = thread::current();
            let is_library = current.name().is_some_and(|name| name.starts_with(LIBRARY));
            let is_caught = is_library && CALLS.load(Ordering::Relaxed) > 0;
            if CATCHING.get() || is_caught {
                tracing::debug!("{panic}");
            } else {
                default(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        assert_eq!(catch_panic(|| 7), Ok(7));
        let text = "polars panicked: 1 and 2".to_owned();
        assert_eq!(catch_panic(|| panic!("{} and 2", 1)), Err::<(), _>(text));
    }
}
