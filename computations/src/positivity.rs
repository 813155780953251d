//! Positivity: how many tests a job has, and how many of them are positive.

mod encode;

use pipeline::job::{NEGATIVE, POSITIVE};
use pipeline::{Job, Tally};

use crate::{Compute, JobError};

pub use encode::Encoding;

/// Counts the tests of a job and the positive ones among them.
///
/// The result has 8 bytes: tests, then positive tests, each as a little-endian `u32`.
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
/// When a test has neither of the two results. A tally of the other tests would be wrong, and nothing
/// would show it. The error is transient: the job is tried again before it is a dead letter.
#[inline]
pub fn tally(job: &Job<'_>) -> Result<Tally, JobError> {
    let mut positive = 0;
    for (position, &code) in job.results.iter().enumerate() {
        match code {
            NEGATIVE => {}
            POSITIVE => positive += 1,
            _ => return Err(unknown(position, code)),
        }
    }
    Ok(Tally {
        tests: job.rows(),
        positive,
    })
}

#[cold]
fn unknown(position: usize, code: u8) -> JobError {
    JobError::Transient(format!(
        "test {position} has the result code {code}, which is neither negative nor positive"
    ))
}

#[cfg(test)]
mod tests {
    use pipeline::{GroupKey, LabelSet, TimeBucket};

    use super::*;

    fn compute(results: &[u8]) -> Result<Vec<u8>, JobError> {
        let labels = LabelSet::new(["Italy"]);
        let job = Job {
            index: 0,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(0).expect("in range"),
            },
            part: 0,
            results,
        };
        let mut result = vec![9];
        Positivity.compute(&job, &mut result)?;
        Ok(result)
    }

    #[test]
    fn tests_and_positive_ones_are_appended() {
        let result = compute(&[0, 1, 1, 0, 0]);
        assert_eq!(result, Ok(vec![9, 5, 0, 0, 0, 2, 0, 0, 0]));
    }

    #[test]
    fn a_test_with_another_result_fails_the_job() {
        let error = compute(&[0, 1, 7]).expect_err("an unknown result");
        assert!(error.is_transient());
        let reason = "test 2 has the result code 7, which is neither negative nor positive";
        assert_eq!(error.into_reason(), reason);
    }
}
