//! How somebody else's bytes are shown to people: in one line, the first characters of them, and
//! nothing among these that steers a terminal.

/// The text of bytes, at most so many characters of it: line ends and whatever else steers a terminal
/// are escaped, what is no UTF-8 is replaced.
pub fn shown(bytes: &[u8], characters: usize) -> String {
    // No character has more bytes than four.
    let head = &bytes[..bytes.len().min(4 * (characters + 1))];
    let text = String::from_utf8_lossy(head);
    let mut shown = String::new();
    for (place, character) in text.chars().enumerate() {
        match character {
            _ if place == characters => {
                shown.push('…');
                break;
            }
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_one_bounded_line_that_steers_no_terminal() {
        assert_eq!(shown(b"a\r\nb,\x1b[31m", 20), "a\\r\\nb,\\u{1b}[31m");
        assert_eq!(shown(b"It\xe7", 20), "It\u{fffd}");
        let long = "ä".repeat(100);
        assert_eq!(shown(long.as_bytes(), 10), format!("{}…", "ä".repeat(10)));
        assert_eq!(shown(long.as_bytes(), 100), long);
    }
}
