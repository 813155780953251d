//! Why a run on one machine fails.

use std::io;
use std::path::PathBuf;

use computations::JobError;
use kafka::TopicNames;
use pipeline::RunId;
use service::{Ending, Exit, Shutdown, Signal};

/// An error that ends `rollcall run`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data set cannot be made.
    #[error(transparent)]
    Datagen(#[from] datagen::Error),

    /// The data set cannot be dispatched.
    #[error(transparent)]
    Dispatcher(#[from] dispatcher::Error),

    /// The run cannot be collected.
    #[error(transparent)]
    Aggregator(#[from] aggregator::Error),

    /// The broker.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),

    /// Transactions on a broker that knows none.
    #[error(
        "--delivery exactly-once: the in-process broker shows what was aborted, too; name an \
         Apache Kafka with --bootstrap-servers, or leave the option out: the result is the same"
    )]
    NoTransactions,

    /// Rejects where an output of the run goes.
    #[error(
        "--rejects {}: an output of the run goes there; choose another file, or leave the option out",
        .0.display()
    )]
    RejectsOverOutput(PathBuf),

    /// Another protocol is asked for, and no broker is named.
    #[error(
        "security.protocol={0} is for brokers that --bootstrap-servers names; the one within this \
         process speaks plain text on 127.0.0.1"
    )]
    ProtocolInProcess(String),

    /// The data set would be replaced.
    #[error(
        "{} is the data set, and an output of the run would take its place; name another folder by --out",
        .0.display()
    )]
    OutputOverDataSet(PathBuf),

    /// A worker process cannot be started.
    #[error("cannot start a worker process; ask for fewer --workers")]
    StartWorker(#[source] io::Error),

    /// A worker process dies as often as it is started.
    #[error("worker {id} died {deaths} times in a row, last by {status}; its own words are above")]
    DyingWorker {
        /// The worker.
        id: String,
        /// How often.
        deaths: u32,
        /// How it ended.
        status: String,
    },

    /// A worker process ends at once, and would each time.
    #[error("worker {id} cannot do its work ({exit}); its own words are above")]
    UselessWorker {
        /// The worker.
        id: String,
        /// How it ended.
        exit: Exit,
    },

    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),

    /// A thread or a runtime could not be started, or died.
    #[error("cannot run: {0}")]
    Thread(String),

    /// A run that is to be removed is not there.
    #[error("no run {run_id} on topic {topic}; rollcall runs lists those that are there")]
    NoSuchRun {
        /// The run.
        run_id: RunId,
        /// Where it was looked for.
        topic: String,
    },

    /// A run that has a verdict has nothing to cancel.
    #[error(
        "run {run_id} is {verdict}, by the verdict of {published_by}: nothing is left to cancel"
    )]
    HasVerdict {
        /// The run.
        run_id: RunId,
        /// Its verdict.
        verdict: &'static str,
        /// Who published it.
        published_by: String,
    },

    /// A generation was opened while the run was cancelled.
    #[error(
        "run {run_id}: generation {generation} was opened before the cancellation; cancel it again"
    )]
    CancelledTooLate {
        /// The run.
        run_id: RunId,
        /// The generation that goes on.
        generation: u32,
    },

    /// Which letters are dead is known only when it is known how many jobs there are.
    #[error(
        "run {run_id} is not dispatched yet: start its dispatcher again with this --run-id, then \
         look for dead letters"
    )]
    NotDispatched {
        /// The run.
        run_id: RunId,
    },

    /// A job that is no dead letter, or no longer one.
    #[error(
        "job {index} of run {run_id} is no dead letter; rollcall dlq list shows those that are"
    )]
    NotDead {
        /// The job's index.
        index: u64,
        /// The run.
        run_id: RunId,
    },

    /// A dead letter that cannot be replayed.
    #[error(
        "job {index} of run {run_id} is dead and no longer on the dead-letter topic; dispatch the \
         data set as a new run"
    )]
    LetterGone {
        /// The job's index.
        index: u64,
        /// The run.
        run_id: RunId,
    },

    /// Something that was asked for cannot be shown or written.
    #[error("cannot write {what}")]
    Write {
        /// What it is.
        what: String,
        /// What the operating system says.
        source: io::Error,
    },

    /// A signal came before it was done.
    #[error("stopped by {0} before it was done")]
    Stopped(Signal),

    /// A job of the plain loop, which has no dead letters.
    #[error("cannot compute job {index}")]
    Job {
        /// The job.
        index: u64,
        /// Why not.
        source: JobError,
    },

    /// An engine without Kafka is asked for another computation than positivity.
    #[error("--compute: engines without Kafka compute positivity alone; leave out --engine")]
    EngineOfPositivity,

    /// The benchmark failed.
    #[error(transparent)]
    Bench(Box<bench::Error>),

    /// The reference query fails.
    #[error("cannot run the local query")]
    Query(#[source] Box<polars::error::PolarsError>),
}

impl Error {
    /// The error of a run that is not on the runs topic.
    pub(crate) fn no_such_run(run_id: &RunId, names: &TopicNames) -> Self {
        Self::NoSuchRun {
            run_id: run_id.clone(),
            topic: names.runs.clone(),
        }
    }

    /// An error of the cluster, or the signal that interrupted a wait for it.
    pub(crate) fn of_cluster(error: kafka::Error, shutdown: &Shutdown) -> Self {
        match (error, shutdown.requested()) {
            (kafka::Error::Stopped, Some(signal)) => Self::Stopped(signal),
            (error, _) => error.into(),
        }
    }
}

impl From<bench::Error> for Error {
    fn from(error: bench::Error) -> Self {
        Self::Bench(Box::new(error))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Write {
            what: "a line of JSON".to_owned(),
            source: error.into(),
        }
    }
}

impl From<polars::error::PolarsError> for Error {
    fn from(error: polars::error::PolarsError) -> Self {
        Self::Query(Box::new(error))
    }
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Datagen(error) => error.exit(),
            Self::Dispatcher(error) => error.exit(),
            Self::Aggregator(error) => error.exit(),
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Kafka(error) if error.is_denied() => Exit::Denied,
            Self::NoSuchRun { .. }
            | Self::NoTransactions
            | Self::EngineOfPositivity
            | Self::NotDispatched { .. }
            | Self::HasVerdict { .. }
            | Self::NotDead { .. }
            | Self::RejectsOverOutput(_)
            | Self::ProtocolInProcess(_)
            | Self::OutputOverDataSet(_)
            | Self::LetterGone { .. } => Exit::Usage,
            Self::Bench(error) => error.exit(),
            Self::Stopped(signal) => Exit::Stopped(*signal),
            Self::UselessWorker { exit, .. } => *exit,
            Self::Kafka(_)
            | Self::CancelledTooLate { .. }
            | Self::Write { .. }
            | Self::StartWorker(_)
            | Self::DyingWorker { .. }
            | Self::Print(_)
            | Self::Thread(_)
            | Self::Job { .. }
            | Self::Query(_) => Exit::Failure,
        }
    }
}
