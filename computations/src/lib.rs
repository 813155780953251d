//! Computations: what is made of a job. Each is a folder or a file of its own, and knows no broker.
//!
//! To the worker a computation is a [`Compute`], to the aggregator a [`Tabulate`]. A program knows
//! those of its [`Registry`], where a computation is one line.

pub mod count;
pub mod encode;
pub mod positivity;
pub mod registry;
pub mod tabulate;
pub mod varint;

use pipeline::Job;

pub use count::Count;
pub use encode::{Coding, Column, Encode};
pub use positivity::Positivity;
pub use registry::{Definition, Parameter, ParameterError, Registry, Unable, UnknownComputation};
pub use tabulate::Tabulate;

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

#[cfg(test)]
mod tests {
    use pipeline::{
        GroupKey, LabelSet, Ledger, Outcome, OutcomeBatch, OutcomeBatchBuilder, TimeBucket,
        outcome::Worker,
    };

    use super::*;

    fn with_job<T>(index: u64, weight: u32, payload: &[u8], of: impl FnOnce(&Job<'_>) -> T) -> T {
        let labels = LabelSet::new(["Italy"]);
        of(&Job {
            index,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(index as i64),
            },
            part: 0,
            weight,
            payload,
        })
    }

    /// The result of a job.
    pub(crate) fn compute(
        of: &mut dyn Compute,
        weight: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, JobError> {
        with_job(0, weight, payload, |job| {
            // What stands before it is the result of another job.
            let mut result = vec![9];
            of.compute(job, &mut result)?;
            assert_eq!(result.remove(0), 9);
            Ok(result)
        })
    }

    /// A ledger of jobs of this weight, each in a group of its own, with these results.
    pub(crate) fn ledger_of(weight: u32, results: &[&[u8]]) -> Ledger {
        let run_id = "a-run".parse().expect("a run id");
        let mut builder = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
        for (index, result) in (0..).zip(results) {
            with_job(index, weight, &[], |job| {
                builder.push(job, 0, Outcome::Completed(result));
            });
        }
        let batch = OutcomeBatch::decode(&builder.encode()).expect("a valid batch");
        let mut ledger = Ledger::new(results.len() as u64);
        let recorded = ledger.record(&batch, &mut Vec::new());
        recorded.expect("all is in memory");
        ledger
    }
}
