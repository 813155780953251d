//! The errors of an aggregator, which leave a run without a verdict.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use computations::Unable;
use pipeline::ledger::SpillError;
use pipeline::{Grain, RunCancelled, RunId};
use service::{Ending, Exit, Signal};

/// An error that ends an aggregator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run did not appear in time.
    #[error(
        "no run {run} on topic {topic} within {}; rollcall runs lists those that are there",
        humantime::format_duration(*.waited)
    )]
    NoRun {
        /// The run that was looked for.
        run: String,
        /// The topic.
        topic: String,
        /// The time that was waited.
        waited: Duration,
    },

    /// The dispatcher gave the run up.
    #[error("run {run_id} was aborted by its dispatcher: {reason}")]
    Aborted {
        /// The run.
        run_id: RunId,
        /// The reason.
        reason: String,
    },

    /// The run was cancelled.
    #[error("run {run_id} was cancelled by {cancelled_by}: {reason}")]
    Cancelled {
        /// The run.
        run_id: RunId,
        /// The process that cancelled it.
        cancelled_by: String,
        /// The reason.
        reason: String,
    },

    /// Outcomes are gone that the verdict of another aggregator rests on.
    #[error(
        "run {run_id} has a verdict, by {published_by}, but some of its outcomes are gone from topic \
         {topic}, partition {partition}, by retention or because the topic was made again: no table is \
         written"
    )]
    OutcomesDeleted {
        /// The run.
        run_id: RunId,
        /// The publisher of the verdict.
        published_by: String,
        /// The outcomes topic.
        topic: String,
        /// The first such partition.
        partition: i32,
    },

    /// The own verdict is on the topic and does not count, and another aggregator may come to another.
    #[error(
        "run {run_id}: the verdict does not count, for the run has another manifest or its outcomes \
         topic was made again; with --results any no table is written without one that does"
    )]
    NotCounted {
        /// The run.
        run_id: RunId,
    },

    /// The run was made by another version.
    #[error(
        "run {run_id} numbers its jobs by version {version}, which this aggregator does not know; \
         use the rollcall that dispatched it"
    )]
    Numbering {
        /// The run.
        run_id: RunId,
        /// Its version of the rule.
        version: u32,
    },

    /// The output folder cannot be had or written to.
    #[error("--out {}: cannot write to this folder", path.display())]
    OutputFolder {
        /// The folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),

    /// A series of this grain cannot be made from the run's.
    #[error(
        "--grain-out {asked}: a run by {run} adds up to {} only; give that, or another --every",
        names(.run.makes())
    )]
    GrainOut {
        /// The grain that was asked for.
        asked: Grain,
        /// The run's grain.
        run: Grain,
    },

    /// Coarser series of a run that leaves no series.
    #[error("--grain-out adds coarser series, and a run of {computation} leaves none")]
    GrainOutOfTable {
        /// The run's computation.
        computation: String,
    },

    /// Nothing can be made of the run's results.
    #[error(transparent)]
    Unable(#[from] Unable),

    /// Coarser series in no form.
    #[error("--grain-out adds series files: let --outputs name csv or parquet, too")]
    GrainOutWithoutForm,

    /// Health and metrics cannot be served.
    #[error(transparent)]
    Listen(#[from] service::listen::Error),

    /// A file of the run cannot be read back for its digest.
    #[error("cannot read {} back; leave the files of a run alone until it has ended", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// An output cannot be written.
    #[error("cannot write {}; choose another --out", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// Results beyond the memory budget cannot be written or read back.
    #[error(
        "cannot spill results to {}: give --spill-folder one with room, or a larger --memory-budget",
        folder.display()
    )]
    Spill {
        /// The folder.
        folder: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A signal came before the run was complete.
    #[error("stopped by {0} before the run was complete; start it again to go on")]
    Stopped(Signal),

    /// The cluster.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
}

impl Error {
    /// The error of a spill to this folder.
    pub(crate) fn of_spill(folder: &Path) -> impl Fn(SpillError) -> Self {
        |error| Self::Spill {
            folder: folder.to_owned(),
            source: error.into_cause(),
        }
    }

    /// The same error, or that of the spilled results for want of which an output was not written.
    pub(crate) fn or_of_spill(self, folder: &Path) -> Self {
        match self {
            Self::Write { path, source } => match source.downcast::<SpillError>() {
                Ok(error) => Self::of_spill(folder)(error),
                Err(source) => Self::Write { path, source },
            },
            other => other,
        }
    }

    /// A cancellation that holds.
    pub(crate) fn cancelled(cancelled: &RunCancelled) -> Self {
        Self::Cancelled {
            run_id: cancelled.run_id.clone(),
            cancelled_by: cancelled.cancelled_by.clone(),
            reason: cancelled.reason.clone(),
        }
    }
}

fn names(grains: &[Grain]) -> String {
    let names: Vec<_> = grains.iter().map(|grain| grain.name()).collect();
    names.join(", ")
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::NoRun { .. } | Self::OutcomesDeleted { .. } => Exit::Incomplete,
            Self::OutputFolder { .. } => Exit::Usage,
            Self::GrainOut { .. } | Self::GrainOutOfTable { .. } | Self::GrainOutWithoutForm => {
                Exit::Usage
            }
            Self::Unable(_) => Exit::Unable,
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Kafka(error) if error.is_denied() => Exit::Denied,
            Self::Stopped(signal) => Exit::Stopped(*signal),
            Self::Listen(_)
            | Self::Aborted { .. }
            | Self::Cancelled { .. }
            | Self::NotCounted { .. }
            | Self::Numbering { .. }
            | Self::Print(_)
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Spill { .. }
            | Self::Kafka(_) => Exit::Failure,
        }
    }
}
