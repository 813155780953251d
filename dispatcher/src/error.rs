//! Why a data set is not dispatched.

use std::io;
use std::path::PathBuf;

use pipeline::RunId;
use service::{Ending, Exit, Signal};

/// An error that ends a dispatcher.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Listen(#[from] service::listen::Error),

    /// The data set cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The data set.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// The data set cannot be read to its end.
    #[error("cannot read {}", path.display())]
    Read {
        /// The data set.
        path: PathBuf,
        /// What was wrong.
        source: csv::Error,
    },

    /// The data set has no header.
    #[error("{} is empty: it has not even a header", path.display())]
    Empty {
        /// The data set.
        path: PathBuf,
    },

    /// A column that is needed is not there.
    #[error(
        "{option} {name}: the data set has no such column{} It has {}",
        nearest.as_ref().map_or(".".to_owned(), |nearest| format!(", did you mean {nearest}?")),
        columns.join(", ")
    )]
    MissingColumn {
        /// The option that names it.
        option: &'static str,
        /// Its name.
        name: String,
        /// The column that is most like it.
        nearest: Option<String>,
        /// All columns.
        columns: Vec<String>,
    },

    /// A column that is needed is there more than once.
    #[error("{option} {name}: the data set has more than one such column")]
    AmbiguousColumn {
        /// The option that names it.
        option: &'static str,
        /// Its name.
        name: String,
    },

    /// An empty label column among others.
    #[error("--by '' groups by time alone; it cannot stand beside other columns")]
    EmptyLabelColumn,

    /// A positive result that is also a negative one.
    #[error("--positive and --negative are both {0:?}")]
    SameResults(String),

    /// There is nothing to do.
    #[error(
        "no row of {} can be counted: {rejected} of {rejected} rows are rejected{}",
        path.display(),
        file.as_ref().map_or(String::new(), |file| format!(", see {}", file.display()))
    )]
    NoAcceptedRow {
        /// The data set.
        path: PathBuf,
        /// Rows that were rejected.
        rejected: u64,
        /// Where they are.
        file: Option<PathBuf>,
    },

    /// More rows were rejected than the user allows.
    #[error("more than {limit} rows are rejected, the first of them {}", shown.join("; "))]
    TooManyRejects {
        /// How many are allowed.
        limit: u64,
        /// The first few.
        shown: Vec<String>,
    },

    /// The rejects file cannot be written.
    #[error("cannot write the rejects to {}", path.display())]
    WriteRejects {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: csv::Error,
    },

    /// Another run of this name is on the cluster.
    #[error("run {0} exists already: choose another --run-id, or none for a fresh one")]
    RunExists(RunId),

    /// Fewer workers than were asked for joined the group in time.
    #[error("only {joined} of {wanted} workers joined group {group} within {}", humantime::format_duration(*.waited))]
    TooFewWorkers {
        /// Members of the group.
        joined: usize,
        /// How many were wanted.
        wanted: usize,
        /// The group.
        group: String,
        /// How long they were waited for.
        waited: std::time::Duration,
    },

    /// A signal came before the run was dispatched.
    #[error("stopped by {0} before all jobs were dispatched")]
    Stopped(Signal),

    /// The cluster.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),

    /// A thread could not be started, or died.
    #[error("thread: {0}")]
    Thread(String),
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Open { .. }
            | Self::Read { .. }
            | Self::Empty { .. }
            | Self::MissingColumn { .. }
            | Self::AmbiguousColumn { .. }
            | Self::EmptyLabelColumn
            | Self::SameResults(_)
            | Self::NoAcceptedRow { .. }
            | Self::RunExists(_) => Exit::Usage,
            Self::Listen(_) => Exit::Failure,
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Stopped(signal) => Exit::Stopped(*signal),
            Self::TooManyRejects { .. }
            | Self::WriteRejects { .. }
            | Self::TooFewWorkers { .. }
            | Self::Kafka(_)
            | Self::Thread(_) => Exit::Failure,
        }
    }
}
