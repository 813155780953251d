//! Text for errors and tables: a printable form of foreign bytes, and suggestions for misspelt names.

/// The least similarity (Jaro-Winkler) of a name that is suggested for another one.
const MIN_SIMILARITY: f64 = 0.7;

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

/// The candidate that is most similar to a name, in any case of letters; `None` when none is similar
/// enough to be suggested.
pub fn nearest<T: AsRef<str>>(name: &str, candidates: impl IntoIterator<Item = T>) -> Option<T> {
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let lower = candidate.as_ref().to_lowercase();
            (strsim::jaro_winkler(&name, &lower), candidate)
        })
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_candidate_is_suggested_if_it_is_similar_enough() {
        let candidates = ["country", "county", "city"];
        assert_eq!(nearest("Contry", candidates), Some("country"));
        assert_eq!(nearest("zzz", candidates), None);
    }

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
