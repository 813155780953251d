//! The work itself: a loop over the tests of a job.

use pipeline::Job;

use super::{NEGATIVE, POSITIVE, Tally};
use crate::JobError;

/// Counts the tests of a job and the positive ones among them.
///
/// # Errors
/// When a test has neither of the two results. A tally of the other tests would be wrong, and nothing
/// would show it. The error is transient: the job is tried again before it is a dead letter.
#[inline]
pub fn tally(job: &Job<'_>) -> Result<Tally, JobError> {
    let mut positive = 0;
    for (position, &code) in job.payload.iter().enumerate() {
        match code {
            NEGATIVE => {}
            POSITIVE => positive += 1,
            _ => return Err(unknown(position, code)),
        }
    }
    Ok(Tally {
        // A payload is at most half a megabyte.
        tests: job.payload.len() as u32,
        positive,
    })
}

#[cold]
fn unknown(position: usize, code: u8) -> JobError {
    JobError::Transient(format!(
        "test {position} has the result code {code}, which is neither negative nor positive"
    ))
}
