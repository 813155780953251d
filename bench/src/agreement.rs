//! The agreement of all runs of a benchmark on their results. A fast run with a wrong result is no
//! measurement, so the first run that differs from those before it ends the benchmark. Pure.

use serde::{Deserialize, Serialize};

/// The results of a run. `None` for those that its engine does not have: the polars query has no
/// jobs, and only the dispatcher computes a digest of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Rows of the data set.
    pub rows_read: u64,
    /// Rows in the series.
    pub rows_accepted: u64,
    /// Tests in the series.
    pub tests: u64,
    /// Positive tests among them.
    pub positive: u64,
    /// Groups: the rows of the series.
    pub groups: u64,
    /// SHA-256 of the series, in hexadecimal.
    pub series_sha256: String,
    /// Jobs.
    pub jobs: Option<u64>,
    /// Digest of the job set, in hexadecimal.
    pub job_set_digest: Option<String>,
}

/// The error of two runs with different results.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{row} has {what} {found}, the runs before it have {expected}; a benchmark of wrong results \
     means nothing"
)]
pub struct Disagreement {
    /// The row of the run.
    pub row: String,
    /// The result that differs.
    pub what: &'static str,
    /// The value in earlier runs.
    pub expected: String,
    /// The value in this run.
    pub found: String,
}

/// The results that the runs so far agree on.
#[derive(Clone, Debug, Default)]
pub struct Agreement(Option<Findings>);

impl Agreement {
    /// Checks the results of a run against those of earlier runs, and keeps those that are new.
    ///
    /// # Errors
    /// The first result that differs.
    pub fn check(&mut self, row: &str, found: Findings) -> Result<(), Disagreement> {
        let Some(known) = &mut self.0 else {
            self.0 = Some(found);
            return Ok(());
        };
        let number = |number: u64| Some(number.to_string());
        let pairs = [
            (
                "rows read",
                number(known.rows_read),
                number(found.rows_read),
            ),
            (
                "rows accepted",
                number(known.rows_accepted),
                number(found.rows_accepted),
            ),
            ("tests", number(known.tests), number(found.tests)),
            (
                "positive tests",
                number(known.positive),
                number(found.positive),
            ),
            ("groups", number(known.groups), number(found.groups)),
            (
                "a series with the digest",
                Some(known.series_sha256.clone()),
                Some(found.series_sha256.clone()),
            ),
            (
                "jobs",
                known.jobs.and_then(number),
                found.jobs.and_then(number),
            ),
            (
                "a job set with the digest",
                known.job_set_digest.clone(),
                found.job_set_digest.clone(),
            ),
        ];
        for (what, expected, found) in pairs {
            if let (Some(expected), Some(found)) = (expected, found)
                && expected != found
            {
                return Err(Disagreement {
                    row: row.to_owned(),
                    what,
                    expected,
                    found,
                });
            }
        }
        known.jobs = known.jobs.or(found.jobs);
        known.job_set_digest = known.job_set_digest.take().or(found.job_set_digest);
        Ok(())
    }

    /// The results that all runs agree on; the default before the first run.
    pub fn agreed(&self) -> Findings {
        self.0.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        Findings {
            rows_read: 10,
            rows_accepted: 9,
            tests: 9,
            positive: 2,
            groups: 4,
            series_sha256: "ab".to_owned(),
            jobs: None,
            job_set_digest: None,
        }
    }

    #[test]
    fn a_result_that_one_engine_does_not_have_is_added_by_another() {
        let mut agreement = Agreement::default();
        agreement.check("polars", findings()).expect("the first");
        let with_jobs = Findings {
            jobs: Some(5),
            ..findings()
        };
        agreement
            .check("loop", with_jobs.clone())
            .expect("the same");
        agreement.check("polars", findings()).expect("the same");
        assert_eq!(agreement.agreed(), with_jobs);
    }

    #[test]
    fn any_difference_is_an_error_with_row_and_values() {
        let changes: [fn(&mut Findings); 7] = [
            |found| found.rows_read = 11,
            |found| found.rows_accepted = 8,
            |found| found.tests = 8,
            |found| found.positive = 3,
            |found| found.groups = 3,
            |found| found.series_sha256 = "cd".to_owned(),
            |found| found.jobs = Some(6),
        ];
        for change in changes {
            let mut agreement = Agreement::default();
            let known = Findings {
                jobs: Some(5),
                ..findings()
            };
            agreement.check("loop", known.clone()).expect("the first");
            let mut found = known;
            change(&mut found);
            let error = agreement.check("packed-2", found).expect_err("it differs");
            assert_eq!(error.row, "packed-2");
            assert_ne!(error.expected, error.found);
        }
    }
}
