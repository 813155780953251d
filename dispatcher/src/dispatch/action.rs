//! What a dispatch is asked to do, and what it asks for next.

use std::collections::BTreeMap;

use pipeline::{GenerationOpened, Manifest, RunId, RunOpened, RunOptions};

/// The options of a dispatch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run.
    pub run_id: RunId,
    /// Whether the run was named by the user, so that other processes may wait for it or have begun it.
    pub run_is_named: bool,
    /// The options of the run: the grouping, the size of jobs, and the computation.
    pub run: RunOptions,
    /// Whether the data set can be read a second time; standard input cannot.
    pub is_rereadable: bool,
    /// Whether jobs without an outcome are published again, not only those that are not on the jobs
    /// topic.
    pub republishes: bool,
    /// The name of this dispatcher on the runs topic.
    pub published_by: String,
}

/// The counts of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataSetCounts {
    /// Jobs.
    pub jobs: u64,
    /// Rows that were read.
    pub rows_read: u64,
    /// Rows in jobs.
    pub rows_accepted: u64,
    /// Rows that are in no job, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// The next action of a dispatch.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the runs topic to its end and [apply](super::Dispatch::apply_history) what it has of the run.
    ReadRuns,
    /// Ask where the jobs topic and the outcomes topic end, and
    /// [apply](super::Dispatch::apply_end_offsets) that.
    AskEndOffsets,
    /// Read the data set and [apply](super::Dispatch::apply_data_set) how much it has.
    ReadDataSet,
    /// Take the run's abort back, and say that this is
    /// [acknowledged](super::Dispatch::apply_acknowledged).
    RetractAbort,
    /// Publish the run's opening, and say that it is acknowledged.
    Open(RunOpened),
    /// Publish an opening again that another one has overwritten, and say that it is acknowledged.
    OpenAgain(RunOpened),
    /// Ask for the offsets that the workers' group has committed, and
    /// [apply](super::Dispatch::apply_committed) them.
    AskCommitted,
    /// Read the jobs topic from these offsets to its end, [apply](super::Dispatch::apply_job_record) each
    /// record, and say that the [end](super::Dispatch::apply_end_of_topic) was reached.
    ReadJobs(Vec<i64>),
    /// Read the outcomes topic from these offsets to its end,
    /// [apply](super::Dispatch::apply_outcome_record) each record, and say that the end was reached.
    ReadOutcomes(Vec<i64>),
    /// [Compare](super::Dispatch::compare) the data set with what was published.
    Compare,
    /// Publish that the run's next generation is opened, at most once, and say that it is acknowledged.
    OpenGeneration(GenerationOpened),
    /// Publish the jobs that are missing, and [apply](super::Dispatch::apply_published) what was published.
    PublishJobs,
    /// Publish the manifest, and say that it is acknowledged.
    PublishManifest(Manifest),
    /// The run is dispatched.
    Done,
}
