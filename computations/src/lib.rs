//! Computations: what is made of a job. Each is a folder or a file of its own, and knows no broker.
//!
//! A worker is given a [`Compute`] by the binary that it runs in, and does not know which one it is.

pub mod count;
pub mod encode;
pub mod positivity;

use pipeline::Job;

pub use count::Count;
pub use encode::{Coding, Column, Encode};
pub use positivity::Positivity;

/// Why a job was not computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// It may be computed by another attempt.
    #[error("{0}")]
    Transient(String),
    /// Another attempt would fail as well: the job is a dead letter at once.
    #[error("{0}")]
    Permanent(String),
}

impl JobError {
    /// Whether another attempt may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_))
    }

    /// The reason, as a dead letter states it.
    pub fn into_reason(self) -> String {
        match self {
            Self::Transient(reason) | Self::Permanent(reason) => reason,
        }
    }
}

/// A computation that answers at once.
pub trait Compute: Send {
    /// Computes a job and appends its result to `result`.
    ///
    /// # Errors
    /// When the job has no result. What was appended until then counts for nothing.
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError>;
}

impl<C: Compute + ?Sized> Compute for Box<C> {
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        (**self).compute(job, result)
    }
}

/// The computation of every run, as long as runs do not name theirs.
pub fn standard() -> Positivity {
    Positivity
}
