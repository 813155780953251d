//! The first mismatch between two attempts at one run: in its options, its jobs or its manifests. The
//! error states the option or job with both values, so that the user can correct the later attempt.

use std::collections::BTreeMap;

use crate::grain::Grain;
use crate::group_key::GroupKey;
use crate::run::{Manifest, RunOptions};

/// A mismatch between two attempts at one run, as an error of the later one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// An option, on which the jobs or their results depend, has another value.
    #[error("options differ: {option} is {own}, but the run was opened with {known}")]
    Options {
        /// The option, or the parameter of the computation.
        option: String,
        /// The value in the later attempt.
        own: String,
        /// The value with which the run was opened.
        known: String,
    },

    /// A job has the index of another one.
    #[error("data set differs: job {index} ({key}) was published with {what}")]
    Job {
        /// The index of the job.
        index: u64,
        /// The key of the job in the later attempt.
        key: String,
        /// The part of the published job that differs.
        what: &'static str,
    },

    /// The run has a job whose index is out of the range of the data set.
    #[error("data set differs: it has {jobs} jobs, but the run has a job {index} ({key})")]
    Beyond {
        /// The index of the job.
        index: u64,
        /// The key of the job.
        key: String,
        /// The number of jobs in the later attempt.
        jobs: u64,
    },

    /// Two earlier attempts have published different jobs with one index.
    #[error("the run contradicts itself: job {index} ({key}) was published in two forms")]
    Twice {
        /// The index of the jobs.
        index: u64,
        /// The key of the one that was published last.
        key: String,
    },

    /// The job set differs from that of the manifest.
    #[error("data set differs: {what} {own}, but the run's manifest has {known}")]
    Manifest {
        /// The field that differs.
        what: &'static str,
        /// The value in the later attempt.
        own: String,
        /// The value in the manifest.
        known: String,
    },
}

impl Difference {
    /// The first mismatch between options and those with which a run was opened; `None` when its jobs
    /// have the same indexes and the same results with both.
    pub fn of_options(own: &RunOptions, known: &RunOptions) -> Option<Self> {
        if own == known {
            return None;
        }
        let named = |option: &str, own: String, known: String| Self::Options {
            option: option.to_owned(),
            own,
            known,
        };
        let mut pairs = option_texts(own).into_iter().zip(option_texts(known));
        if let Some(((option, own), (_, known))) = pairs.find(|(own, known)| own.1 != known.1) {
            return Some(named(option, own, known));
        }
        let parameters = |options: &RunOptions| -> BTreeMap<String, String> {
            let all = options.computation.all_parameters();
            all.map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let (mine, others) = (parameters(own), parameters(known));
        let mut parameters = mine.keys().chain(others.keys());
        if let Some(name) = parameters.find(|&name| mine.get(name) != others.get(name)) {
            let text = |value: Option<&String>| value.map_or("missing".to_owned(), String::clone);
            let (own, known) = (text(mine.get(name)), text(others.get(name)));
            return Some(named(&format!("parameter {name}"), own, known));
        }
        // The columns "a" and "b" have the same text as one column "a, b", but are not equal.
        let columns = |options: &RunOptions| format!("{:?}", options.cut.label_columns);
        Some(named("--by", columns(own), columns(known)))
    }

    /// The first mismatch between a manifest and another one of the same run; `None` when both describe
    /// the same job set. The number of messages and the durations of the stages may differ.
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

/// The names and values of all options, without the parameters of the computation.
fn option_texts(options: &RunOptions) -> [(&'static str, String); 7] {
    let cut = &options.cut;
    let columns = match cut.label_columns.as_slice() {
        [] => "''".to_owned(),
        columns => columns.join(", "),
    };
    let (time, grain) = match &cut.time {
        Some(time) => (time.name.clone(), time.grain.to_string()),
        None => ("''".to_owned(), "''".to_owned()),
    };
    [
        (
            "the numbering version",
            options.numbering_version.to_string(),
        ),
        ("--by", columns),
        ("--time", time),
        ("--every", grain),
        ("--compute", options.computation.name.clone()),
        ("--results", options.results.name().to_owned()),
        ("--max-rows-per-job", cut.max_rows_per_job.to_string()),
    ]
}

/// The text of a key in an error, such as `Italy, 2020-03-01T05:00:00`.
pub(crate) fn shown(key: GroupKey<'_>) -> String {
    let mut text = key.labels.values.join(", ");
    if let Some(time) = key.time {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&time.display(Grain::Hour).to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::{manifest, options};
    use crate::run::{ResultsPolicy, TimeColumn};

    #[test]
    fn the_first_option_that_differs_is_reported_with_both_values() {
        type Case<'a> = (&'a dyn Fn(&mut RunOptions), &'static str);
        let known = options();
        let of = |change: &dyn Fn(&mut RunOptions)| {
            let mut own = known.clone();
            change(&mut own);
            let difference = Difference::of_options(&own, &known);
            difference.map(|difference| difference.to_string())
        };
        assert_eq!(of(&|_| {}), None);
        let time = |options: &mut RunOptions, change: &dyn Fn(&mut TimeColumn)| {
            change(options.cut.time.as_mut().expect("it has a time"));
        };
        let cases: [Case<'_>; 8] = [
            (
                &|own| time(own, &|time| time.grain = Grain::Day),
                "--every is day, but the run was opened with week",
            ),
            (
                &|own| own.cut.label_columns.clear(),
                "--by is '', but the run was opened with country",
            ),
            (
                &|own| own.cut.time = None,
                "--time is '', but the run was opened with test_date",
            ),
            (
                &|own| own.computation.name = "count".to_owned(),
                "--compute is count, but the run was opened with a-computation",
            ),
            (
                &|own| own.computation.parameters.clear(),
                "parameter column is missing, but the run was opened with result",
            ),
            (
                &|own| own.computation = own.computation.clone().with("new", "1"),
                "parameter new is 1, but the run was opened with missing",
            ),
            (
                &|own| own.results = ResultsPolicy::Any,
                "--results is any, but the run was opened with reproducible",
            ),
            (
                &|own| own.numbering_version += 1,
                "the numbering version is 3, but the run was opened with 2",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(of(change), Some(format!("options differ: {expected}")));
        }
    }

    #[test]
    fn columns_with_the_same_text_and_other_values_differ() {
        let (mut own, mut known) = (options(), options());
        known.cut.label_columns = vec!["a, b".to_owned()];
        own.cut.label_columns = vec!["a".to_owned(), "b".to_owned()];
        assert!(Difference::of_options(&own, &known).is_some());
    }

    #[test]
    fn manifests_differ_in_the_job_set_and_not_in_messages_or_durations() {
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
