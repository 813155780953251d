//! Results go to standard output. A reader that has seen enough and went away is no error; a full
//! disk is. What others have written may be part of a result, and steers no terminal.

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Writes a result to standard output. Control characters are shown as JSON writes them, but for line
/// feeds and tabs.
///
/// # Errors
/// When it cannot be written, unless because nobody reads it any more.
pub fn say(result: &dyn fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{}", Harmless(result)).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Text without what steers a terminal. JSON stays JSON.
pub(crate) struct Harmless<'a>(pub(crate) &'a dyn fmt::Display);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::write(&mut Escaping(f), format_args!("{}", self.0))
    }
}

struct Escaping<'f, 'b>(&'f mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let steers = |character: char| character.is_control() && !"\n\t".contains(character);
        let mut rest = text;
        while let Some(at) = rest.find(steers) {
            let (before, from) = rest.split_at(at);
            let mut characters = from.chars();
            let control = characters.next().map_or(0, u32::from);
            write!(self.0, "{before}\\u{control:04x}")?;
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_steers_no_terminal_and_json_stays_json() {
        let said = |text: &str| Harmless(&text).to_string();
        assert_eq!(said("job\t1\nÅland"), "job\t1\nÅland");
        assert_eq!(
            said("\r\x1b[2J\u{9b}31mred"),
            "\\u000d\\u001b[2J\\u009b31mred"
        );
        let line = serde_json::to_string("a\u{9b}\x1b\n").expect("a text");
        let again: String = serde_json::from_str(&said(&line)).expect("a text");
        assert_eq!(again, "a\u{9b}\x1b\n");
    }
}
