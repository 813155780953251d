//! A short printable form of bytes of a data set or a message, for errors and tables: one line, at most
//! a given number of characters, without control characters.

/// The first characters of bytes as text: control characters, such as line ends, are escaped, and bytes
/// that are not UTF-8 are replaced. `…` follows when characters are left out.
pub fn shown(bytes: &[u8], characters: usize) -> String {
    // A character has at most four bytes.
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
    fn bytes_are_printed_in_one_bounded_line_without_control_characters() {
        assert_eq!(shown(b"a\r\nb,\x1b[31m", 20), "a\\r\\nb,\\u{1b}[31m");
        assert_eq!(shown(b"It\xe7", 20), "It\u{fffd}");
        let long = "ä".repeat(100);
        assert_eq!(shown(long.as_bytes(), 10), format!("{}…", "ä".repeat(10)));
        assert_eq!(shown(long.as_bytes(), 100), long);
    }
}
