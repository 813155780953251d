//! The work itself: what is made of one job. To compute something else over Kafka, change this
//! function and what it returns.

use pipeline::job::{NEGATIVE, POSITIVE};
use pipeline::{Job, Tally};

/// Why a job cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A result that is neither positive nor negative.
    #[error("test {position} has the result code {code}, which is neither negative nor positive")]
    UnknownResult {
        /// The test's position in the job.
        position: usize,
        /// What it has for a result.
        code: u8,
    },
}

/// Counts the tests of a job and the positive ones among them.
///
/// # Errors
/// When a result is none. A tally of the other tests would be wrong without anybody knowing it.
pub fn compute(job: &Job<'_>) -> Result<Tally, JobError> {
    let mut positive = 0;
    for (position, &code) in job.results.iter().enumerate() {
        match code {
            NEGATIVE => {}
            POSITIVE => positive += 1,
            _ => return Err(JobError::UnknownResult { position, code }),
        }
    }
    Ok(Tally {
        tests: job.rows(),
        positive,
    })
}

#[cfg(test)]
mod tests {
    use pipeline::{GroupKey, LabelSet, TimeBucket};

    use super::*;

    fn compute_over(results: &[u8]) -> Result<Tally, JobError> {
        let labels = LabelSet::new(["Italy"]);
        compute(&Job {
            index: 0,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(0).expect("in range"),
            },
            part: 0,
            results,
        })
    }

    #[test]
    fn a_tally_counts_tests_and_positive_ones() {
        let tally = compute_over(&[0, 1, 1, 0, 0]);
        assert_eq!(tally.map(|tally| (tally.tests, tally.positive)), Ok((5, 2)));
    }

    #[test]
    fn a_result_that_is_none_fails_the_job() {
        let failed = compute_over(&[0, 1, 7]);
        assert_eq!(
            failed,
            Err(JobError::UnknownResult {
                position: 2,
                code: 7
            })
        );
    }
}
