//! What becomes of a job, and the batch in which outcomes travel from workers to the aggregator.

mod batch;
mod builder;
mod fields;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use crate::group_key::GroupKey;

pub use crate::wire::{DeadLetter, Worker};
pub use batch::{OutcomeBatch, Outcomes};
pub use builder::OutcomeBatchBuilder;

/// A result has at most this many bytes, which is half of what a message can have.
pub const MAX_RESULT_BYTES: usize = 500_000;

/// The outcome of a job. A completed one outranks a dead letter: see [`crate::ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The job failed as often as it was allowed to.
    DeadLettered {
        /// Why, in the worker's words.
        reason: &'a str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The job was done, and these bytes are its result.
    Completed(&'a [u8]),
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A result is shown up to this many bytes.
        const SHOWN_BYTES: usize = 16;
        match self {
            Self::DeadLettered { reason, .. } => write!(f, "dead-lettered ({reason})"),
            Self::Completed(result) => {
                write!(f, "completed ({} bytes", result.len())?;
                let shown = &result[..result.len().min(SHOWN_BYTES)];
                for (number, byte) in shown.iter().enumerate() {
                    let before = if number == 0 { ": " } else { " " };
                    write!(f, "{before}{byte:02x}")?;
                }
                let more = if result.len() > SHOWN_BYTES {
                    " …"
                } else {
                    ""
                };
                write!(f, "{more})")
            }
        }
    }
}

/// One outcome of a batch, with what it says of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobOutcome<'a> {
    /// The job's index.
    pub index: u64,
    /// Where the job's labels stand in [`OutcomeBatch::label_sets`].
    pub label_position: usize,
    /// The job's key.
    pub key: GroupKey<'a>,
    /// The job's part.
    pub part: u32,
    /// The job's weight.
    pub weight: u32,
    /// The digest of the payload that the computation was given.
    pub payload_digest: u64,
    /// What became of it.
    pub outcome: Outcome<'a>,
}
