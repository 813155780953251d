//! Printing of results to standard output. A reader that closed the pipe is no error, but a full
//! disk is. A result may contain text from other hosts, so control characters are escaped.

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Prints a result to standard output. Control characters except line feeds and tabs are escaped as
/// in JSON.
///
/// # Errors
/// When it cannot be written, unless the reader closed the pipe.
pub fn print(result: &dyn fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{}", Escaped(result)).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Text whose control characters are escaped, so that it cannot control a terminal. JSON stays
/// JSON.
pub(crate) struct Escaped<'a>(pub(crate) &'a dyn fmt::Display);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::write(&mut Escaping(f), format_args!("{}", self.0))
    }
}

struct Escaping<'f, 'b>(&'f mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_escaped = |character: char| character.is_control() && !"\n\t".contains(character);
        let mut rest = text;
        while let Some(at) = rest.find(is_escaped) {
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
    fn control_characters_are_escaped_and_json_stays_json() {
        let escaped = |text: &str| Escaped(&text).to_string();
        assert_eq!(escaped("job\t1\nÅland"), "job\t1\nÅland");
        assert_eq!(
            escaped("\r\x1b[2J\u{9b}31mred"),
            "\\u000d\\u001b[2J\\u009b31mred"
        );
        let line = serde_json::to_string("a\u{9b}\x1b\n").expect("a text");
        let again: String = serde_json::from_str(&escaped(&line)).expect("a text");
        assert_eq!(again, "a\u{9b}\x1b\n");
    }
}
