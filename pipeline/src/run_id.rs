//! The id of a run. It is part of every message, of keys and of file names, so its letters are those
//! that Kafka allows in the name of a topic.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The id of a run: 1 to 120 of the letters `A-Z a-z 0-9 . _ -`, and not `latest`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(Arc<str>);

/// The error of a text that is not a valid run id. It holds the text, at most its first 120
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid run id {0:?}: it must be 1 to 120 letters, digits, '.', '_' or '-', and not \"latest\""
)]
pub struct InvalidRunId(String);

impl RunId {
    const MAX_LENGTH: usize = 120;

    /// A new id, unlike any other: a UUIDv7, so that ids sort by the time at which they were made.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is 1 to `max_length` of the letters that an id may have.
pub(crate) fn is_id(text: &str, max_length: usize) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= max_length && text.bytes().all(allowed)
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        // Options accept `latest` for the run that was opened last.
        let reserved = name == "latest";
        if !is_id(name, Self::MAX_LENGTH) || reserved {
            return Err(InvalidRunId(name.chars().take(Self::MAX_LENGTH).collect()));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_id_is_valid_and_sorts_after_the_one_before() {
        let first = RunId::fresh();
        let second = RunId::fresh();
        assert!(first < second);
        assert_eq!(first.as_str().parse(), Ok(first));
    }

    #[test]
    fn an_empty_id_and_one_with_a_slash_are_refused() {
        for name in ["", "a/b", "a b", "ü", "latest", &"x".repeat(121)] {
            assert!(name.parse::<RunId>().is_err(), "{name:?}");
        }
    }
}
