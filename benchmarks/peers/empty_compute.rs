//! In place of `computations/src/positivity.rs`: jobs that have nothing to compute. They are accounted
//! for as any, but none of their tests is positive, so the series is of no use. For measuring what all
//! the rest takes.

use pipeline::{Job, Tally};

use crate::{Compute, JobError};

/// Looks at no test of a job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Positivity;

impl Compute for Positivity {
    #[inline]
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        let Tally { tests, positive } = tally(job)?;
        let both = u64::from(positive) << 32 | u64::from(tests);
        result.extend_from_slice(&both.to_le_bytes());
        Ok(())
    }
}

/// The same as numbers.
///
/// # Errors
/// None.
#[inline]
pub fn tally(job: &Job<'_>) -> Result<Tally, JobError> {
    Ok(Tally {
        tests: job.rows(),
        positive: 0,
    })
}
