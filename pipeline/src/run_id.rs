//! The name of a run. It travels in every message and is part of keys and file names, so it is
//! restricted to what Kafka allows in the name of a topic.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a run: 1 to 120 of the letters `A-Z a-z 0-9 . _ -`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(Arc<str>);

/// A name that no run can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run id is 1 to 120 letters, digits, '.', '_' or '-', and not \"latest\"; {0:?} is none")]
pub struct InvalidRunId(String);

impl RunId {
    const MAX_LENGTH: usize = 120;

    /// A name that no other run has: a UUIDv7, so that names sort by the time they were made.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        // `latest` stands for whichever run was opened last.
        let reserved = name == "latest";
        if name.is_empty()
            || name.len() > Self::MAX_LENGTH
            || !name.bytes().all(allowed)
            || reserved
        {
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
    fn a_fresh_id_is_a_valid_one_and_sorts_after_the_last() {
        let first = RunId::fresh();
        let second = RunId::fresh();
        assert!(first < second);
        assert_eq!(first.as_str().parse(), Ok(first));
    }

    #[test]
    fn a_name_with_a_slash_or_none_at_all_is_refused() {
        for name in ["", "a/b", "a b", "ü", "latest", &"x".repeat(121)] {
            assert!(name.parse::<RunId>().is_err(), "{name:?}");
        }
    }
}
