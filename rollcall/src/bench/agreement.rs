//! What all runs of a benchmark have come to. A faster wrong result is none, so the first run that
//! differs from those before it ends the benchmark. Pure.

use serde::{Deserialize, Serialize};

/// What a run has come to; `None` for what its engine does not know: the polars query has no jobs,
/// and only the dispatcher has a digest of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Rows of the data set.
    pub rows_read: u64,
    /// Rows that are in the series.
    pub rows_accepted: u64,
    /// Tests in the series.
    pub tests: u64,
    /// Positive tests among them.
    pub positive: u64,
    /// Groups, which are the lines of the series.
    pub groups: u64,
    /// Digest of the series.
    pub series_sha256: String,
    /// Jobs.
    pub jobs: Option<u64>,
    /// Digest of the job set.
    pub job_set_digest: Option<String>,
}

/// Two runs that have come to different results.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{row} has {what} {found}, the runs before it have {expected}; a benchmark of wrong results \
     says nothing"
)]
pub struct Disagreement {
    /// The row whose run it is.
    pub row: String,
    /// What differs.
    pub what: &'static str,
    /// What it was before.
    pub expected: String,
    /// What it is here.
    pub found: String,
}

/// What the runs so far agree on.
#[derive(Clone, Debug, Default)]
pub struct Agreement(Option<Findings>);

impl Agreement {
    /// Takes in what a run of a row has come to.
    ///
    /// # Errors
    /// When it contradicts what is known.
    pub fn meet(&mut self, row: &str, found: Findings) -> Result<(), Disagreement> {
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

    /// What all agree on; nothing before the first run.
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
    fn what_one_engine_does_not_know_another_adds() {
        let mut agreement = Agreement::default();
        agreement.meet("polars", findings()).expect("the first");
        let with_jobs = Findings {
            jobs: Some(5),
            ..findings()
        };
        agreement.meet("loop", with_jobs.clone()).expect("the same");
        agreement.meet("polars", findings()).expect("the same");
        assert_eq!(agreement.agreed(), with_jobs);
    }

    #[test]
    fn any_difference_is_a_disagreement_that_names_row_and_values() {
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
            agreement.meet("loop", known.clone()).expect("the first");
            let mut found = known;
            change(&mut found);
            let error = agreement.meet("packed-2", found).expect_err("it differs");
            assert_eq!(error.row, "packed-2");
            assert_ne!(error.expected, error.found);
        }
    }
}
