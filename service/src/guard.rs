//! Calls into a library that panics where it should return an error: what it reads is somebody
//! else's, so a panic of it is an error like any, and is told once.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The threads of the library that is guarded against begin their names so.
const LIBRARY: &str = "polars";

thread_local! {
    /// Whether this thread is in [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Threads that are in [`guarded`].
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// Calls polars, whose panics on its own threads come back to this one.
///
/// polars checks a file as it goes, and not all of it: a length in a footer or in a page that is
/// not true, and a type that it was built without, end in a panic. What was read until then is
/// dropped here and not looked at.
///
/// # Errors
/// What the panic says.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    silence_panics_of_guarded();
    GUARDS.fetch_add(1, Ordering::Relaxed);
    GUARDED.set(true);
    let called = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    GUARDS.fetch_sub(1, Ordering::Relaxed);
    called.map_err(|panic| format!("{LIBRARY} gave up: {}", said(&*panic)))
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it does not say why")
}

/// A panic that becomes an error is told once, as that error. All others are told as they were.
fn silence_panics_of_guarded() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let current = thread::current();
            let is_library = current.name().is_some_and(|name| name.starts_with(LIBRARY));
            let is_guarded = is_library && GUARDS.load(Ordering::Relaxed) > 0;
            if GUARDED.get() || is_guarded {
                tracing::debug!("{panic}");
            } else {
                tell(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_says_the_same() {
        assert_eq!(guarded(|| 7), Ok(7));
        let text = "polars gave up: 1 and 2".to_owned();
        assert_eq!(guarded(|| panic!("{} and 2", 1)), Err::<(), _>(text));
    }
}
