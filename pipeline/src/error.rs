//! What can be wrong with a message, and with two messages that speak of the same job.

use std::fmt;

/// A message that is not what its topic holds.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no protobuf message of this type.
    #[error("not a {message} message")]
    Protobuf {
        /// The type that was expected.
        message: &'static str,
        /// What the protobuf decoder says.
        source: prost::DecodeError,
    },

    /// The columns of a batch do not fit together.
    #[error("{message}: {what}")]
    Invalid {
        /// The type that was expected.
        message: &'static str,
        /// The rule that is broken.
        what: &'static str,
    },

    /// A value that this version has no name for.
    #[error("{message}: unknown {what} {value}")]
    Unknown {
        /// The type that was expected.
        message: &'static str,
        /// What the value is of.
        what: &'static str,
        /// The value.
        value: i32,
    },
}

impl DecodeError {
    /// The error of a message of this type that breaks a rule.
    pub(crate) fn invalid(message: &'static str, what: &'static str) -> Self {
        Self::Invalid { message, what }
    }
}

/// Two outcomes of one job that cannot both be true. A run with one has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The job they speak of.
    pub index: u64,
    /// The outcome that came first, as a person reads it.
    pub kept: String,
    /// The outcome that contradicts it.
    pub other: String,
}

impl Conflict {
    /// How many bytes its words have.
    pub(crate) fn len(&self) -> usize {
        self.kept.len() + self.other.len()
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "job {}: {} contradicts {}",
            self.index, self.other, self.kept
        )
    }
}
