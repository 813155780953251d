//! A printable form of foreign bytes, for errors and tables: one line, truncated, without control
//! characters.

/// The first characters of bytes as text. Control characters, such as line ends, are escaped; bytes
/// that are not UTF-8 are replaced. `…` follows when characters are left out.
pub fn truncated(bytes: &[u8], max_characters: usize) -> String {
    // A character has at most four bytes.
    let head = &bytes[..bytes.len().min(4 * (max_characters + 1))];
    let text = String::from_utf8_lossy(head);
    let mut truncated = String::new();
    for (position, character) in text.chars().enumerate() {
        match character {
            _ if position == max_characters => {
                truncated.push('…');
                break;
            }
            control if control.is_control() => truncated.extend(control.escape_default()),
            other => truncated.push(other),
        }
    }
    truncated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_one_bounded_line_without_control_characters() {
        assert_eq!(truncated(b"a\r\nb,\x1b[31m", 20), "a\\r\\nb,\\u{1b}[31m");
        assert_eq!(truncated(b"It\xe7", 20), "It\u{fffd}");
        let long = "ä".repeat(100);
        assert_eq!(
            truncated(long.as_bytes(), 10),
            format!("{}…", "ä".repeat(10))
        );
        assert_eq!(truncated(long.as_bytes(), 100), long);
    }
}
