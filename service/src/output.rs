//! Results go to standard output. A reader that has seen enough and went away is no error; a full
//! disk is.

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Writes a result to standard output.
///
/// # Errors
/// When it cannot be written, unless because nobody reads it any more.
pub fn say(result: &dyn fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{result}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
