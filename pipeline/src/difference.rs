//! What two attempts at one run differ in: its options, its jobs, or what is sworn to at the end. A
//! difference names what it is about, so that whoever meets one knows what to mend.

use crate::grain::Grain;
use crate::group_key::GroupKey;
use crate::results_policy::ResultsPolicy;
use crate::run::{Grouping, Manifest, RunOpened};

/// One difference, in the words for whoever made the later attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Other options, on which the jobs' numbers depend.
    #[error("options differ: {option} is {own}, but the run was opened with {known}")]
    Options {
        /// The option.
        option: &'static str,
        /// Its value now.
        own: String,
        /// Its value in the run.
        known: String,
    },

    /// A job has the same number and is another one.
    #[error("data set differs: job {index} ({key}) was published with {what}")]
    Job {
        /// The job's index.
        index: u64,
        /// Its key now.
        key: String,
        /// What was published instead, as far as it is known.
        what: &'static str,
    },

    /// The run has jobs that the data set does not have.
    #[error("data set differs: it has {jobs} jobs, but the run has a job {index} ({key})")]
    Beyond {
        /// The index of such a job.
        index: u64,
        /// Its key.
        key: String,
        /// Number of jobs now.
        jobs: u64,
    },

    /// Two attempts that came before have published different jobs.
    #[error("the run contradicts itself: job {index} ({key}) was published in two forms")]
    Twice {
        /// The job's index.
        index: u64,
        /// Its key, as it was published last.
        key: String,
    },

    /// Another job set than the one sworn to.
    #[error("data set differs: {what} {own}, but the run's manifest has {known}")]
    Manifest {
        /// What is compared.
        what: &'static str,
        /// What it is now.
        own: String,
        /// What it is in the manifest.
        known: String,
    },
}

impl Difference {
    /// How options differ from those that a run was opened with; `None` when its jobs have the same
    /// numbers, and the same results count, under both.
    pub fn of_options(
        numbering_version: u32,
        grouping: &Grouping,
        results: ResultsPolicy,
        known: &RunOpened,
    ) -> Option<Self> {
        let columns = |columns: &[String]| match columns {
            [] => "''".to_owned(),
            columns => columns.join(", "),
        };
        let values = |version: u32, grouping: &Grouping, results: ResultsPolicy| {
            [
                ("the numbering version", version.to_string()),
                ("--by", columns(&grouping.label_columns)),
                ("--time", grouping.time_column.clone()),
                ("--every", grouping.grain.to_string()),
                ("--result", grouping.result_column.clone()),
                ("--positive", grouping.positive.clone()),
                ("--negative", grouping.negative.clone()),
                ("--max-rows-per-job", grouping.max_rows_per_job.to_string()),
                ("--results", results.to_string()),
            ]
        };
        let differs = || {
            let own = values(numbering_version, grouping, results);
            let known = values(known.numbering_version, &known.grouping, known.results);
            let mut pairs = own.into_iter().zip(known);
            let ((option, own), (_, known)) = pairs.find(|(own, known)| own.1 != known.1)?;
            Some(Self::Options { option, own, known })
        };
        // Two columns "a" and "b" are shown as one "a, b" would be; equality is that of the values.
        let same_numbers = numbering_version == known.numbering_version;
        if same_numbers && *grouping == known.grouping && results == known.results {
            return None;
        }
        differs().or_else(|| {
            Some(Self::Options {
                option: "--by",
                own: format!("{:?}", grouping.label_columns),
                known: format!("{:?}", known.grouping.label_columns),
            })
        })
    }

    /// How a manifest differs from one that is known of the same run; `None` when both swear to the
    /// same job set. How it was packed and how long that took may differ.
    pub fn of_manifests(own: &Manifest, known: &Manifest) -> Option<Self> {
        let rejected = |manifest: &Manifest| {
            let reasons = manifest.rejected.iter();
            let reasons = reasons.map(|(reason, rows)| format!("{rows} {reason}"));
            reasons.collect::<Vec<_>>().join(", ")
        };
        let values = |manifest: &Manifest| {
            [
                ("rows read:", manifest.rows_read.to_string()),
                ("rows accepted:", manifest.rows_accepted.to_string()),
                ("rejected rows:", rejected(manifest)),
                ("jobs:", manifest.jobs.to_string()),
                ("digest of the jobs", manifest.job_set_digest.to_string()),
            ]
        };
        let mut pairs = values(own).into_iter().zip(values(known));
        let ((what, own), (_, known)) = pairs.find(|(own, known)| own.1 != known.1)?;
        Some(Self::Manifest { what, own, known })
    }
}

/// A key in an error: `Italy, 2020-03-01T05:00:00`.
pub(crate) fn shown(key: GroupKey<'_>) -> String {
    let mut text = key.labels.values.join(", ");
    if !text.is_empty() {
        text.push_str(", ");
    }
    text.push_str(&key.time.display(Grain::Hour).to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::NUMBERING_VERSION;
    use crate::run::tests::{manifest, opened};

    #[test]
    fn the_first_option_that_differs_is_named_with_both_values() {
        let known = opened();
        let of = |change: &dyn Fn(&mut Grouping)| {
            let mut grouping = known.grouping.clone();
            change(&mut grouping);
            let difference =
                Difference::of_options(NUMBERING_VERSION, &grouping, known.results, &known);
            difference.map(|difference| difference.to_string())
        };
        assert_eq!(of(&|_| {}), None);
        assert_eq!(
            of(&|grouping| grouping.grain = Grain::Day).as_deref(),
            Some("options differ: --every is day, but the run was opened with week")
        );
        assert_eq!(
            of(&|grouping| grouping.label_columns.clear()).as_deref(),
            Some("options differ: --by is '', but the run was opened with country")
        );
        let any = ResultsPolicy::Any;
        let policy = Difference::of_options(NUMBERING_VERSION, &known.grouping, any, &known);
        assert_eq!(
            policy.map(|policy| policy.to_string()).as_deref(),
            Some("options differ: --results is any, but the run was opened with reproducible")
        );
        let newer = NUMBERING_VERSION + 1;
        let newer = Difference::of_options(newer, &known.grouping, known.results, &known);
        assert!(newer.is_some_and(|newer| newer.to_string().contains("numbering version")));
    }

    #[test]
    fn columns_that_only_look_alike_differ() {
        let mut known = opened();
        known.grouping.label_columns = vec!["a, b".to_owned()];
        let mut grouping = known.grouping.clone();
        grouping.label_columns = vec!["a".to_owned(), "b".to_owned()];
        let differs = Difference::of_options(NUMBERING_VERSION, &grouping, known.results, &known);
        assert!(differs.is_some());
    }

    #[test]
    fn manifests_differ_in_the_job_set_and_not_in_how_it_was_sent() {
        let known = manifest(3, 9);
        let mut own = known.clone();
        own.messages = 99;
        own.stages.clear();
        assert_eq!(Difference::of_manifests(&own, &known), None);
        own.rejected.insert("unknown_result".to_owned(), 2);
        let difference = Difference::of_manifests(&own, &known).expect("other rejects");
        assert_eq!(
            difference.to_string(),
            "data set differs: rejected rows: 2 unknown_result, but the run's manifest has "
        );
    }
}
