//! The id of a process that writes to the runs topic. It is the last part of the key of each event
//! that several processes may write, so that compaction keeps the events of all of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::run_id::is_id;

/// The id of a writer: 1 to 64 of the letters `A-Z a-z 0-9 . _ -`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(Arc<str>);

/// The error of a text that is not a valid writer id. It holds the text, at most its first 64
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid writer id {0:?}: it must be 1 to 64 letters, digits, '.', '_' or '-'")]
pub struct InvalidWriterId(String);

impl WriterId {
    const MAX_LENGTH: usize = 64;

    /// A new id, unlike any other: a UUIDv7. Each event is written under a fresh id, because compaction
    /// keeps only the last message of a key, and the place of the first one in the log would be lost.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WriterId {
    type Err = InvalidWriterId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        if !is_id(id, Self::MAX_LENGTH) {
            return Err(InvalidWriterId(id.chars().take(Self::MAX_LENGTH).collect()));
        }
        Ok(Self(id.into()))
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_id_is_valid_and_unique() {
        let (one, other) = (WriterId::fresh(), WriterId::fresh());
        assert_ne!(one, other);
        assert_eq!(one.as_str().parse(), Ok(one));
    }

    #[test]
    fn an_id_with_a_slash_is_refused() {
        for id in ["", "a/b", "a b", &"x".repeat(65)] {
            assert!(id.parse::<WriterId>().is_err(), "{id:?}");
        }
    }
}
