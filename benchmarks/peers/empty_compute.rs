//! In place of `worker/src/compute.rs`: jobs that have nothing to compute. They are accounted for as
//! any, but none of their tests is positive, so the series is of no use. For measuring what all the
//! rest takes.

use pipeline::{Job, Tally};

/// Why a job cannot be computed: for no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {}

/// Looks at no test of a job.
///
/// # Errors
/// None.
pub fn compute(job: &Job<'_>) -> Result<Tally, JobError> {
    Ok(Tally {
        tests: job.rows(),
        positive: 0,
    })
}
