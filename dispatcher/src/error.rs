//! Why a data set is not dispatched.

use std::io;
use std::path::PathBuf;

use pipeline::RunId;
use service::{Ending, Exit, Signal};

use crate::rejects::ShownReject;

/// An error that ends a dispatcher.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    #[error("{option} {name}: the data set has more than one such column; rename all but one")]
    AmbiguousColumn {
        /// The option that names it.
        option: &'static str,
        /// Its name.
        name: String,
    },

    /// An empty label column among others.
    #[error("--by '' groups by time alone; it cannot stand beside other columns")]
    EmptyLabelColumn,

    /// A label column whose name another column of the series has.
    #[error(
        "--by {0}: the series has another column of this name already; rename it in the data set"
    )]
    LabelColumnTaken(String),

    /// A positive result that is also a negative one.
    #[error("--positive and --negative are both {0:?}; give each its own value")]
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
    #[error(
        "more than {limit} rows are rejected, the first of them {}",
        joined(shown)
    )]
    TooManyRejects {
        /// How many are allowed.
        limit: u64,
        /// The first few.
        shown: Vec<ShownReject>,
    },

    /// The rejects file cannot be written.
    #[error("cannot write the rejects to {}; choose another place by --rejects or --out", path.display())]
    WriteRejects {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: csv::Error,
    },

    /// The rejected rows would overwrite what they are read from.
    #[error("{} is the data set itself: choose another file for the rejects", _0.display())]
    RejectsOverDataSet(PathBuf),

    /// Rows beyond the memory budget cannot be written or read back.
    #[error(
        "cannot spill rows to {}: give --spill-folder one with room, or a larger --memory-budget",
        folder.display()
    )]
    Spill {
        /// The folder.
        folder: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// Another run of this name is on the cluster.
    #[error("run {0} exists already: choose another --run-id, or none for a fresh one")]
    RunExists(RunId),

    /// Fewer workers than were asked for joined the group in time.
    #[error("only {joined} of {wanted} workers joined group {group} within {}; start more, wait for fewer, or longer (--broker-timeout)", humantime::format_duration(*.waited))]
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
    #[error("stopped by {0} before all jobs were dispatched; dispatch it again")]
    Stopped(Signal),

    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Say(#[source] io::Error),

    /// The cluster.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),

    /// A thread could not be started, or died.
    #[error("thread: {0}")]
    Thread(String),
}

fn joined(shown: &[ShownReject]) -> String {
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    shown.join("; ")
}

impl Error {
    /// The error as everybody on the cluster may read it: without the fields of any row.
    pub fn without_rows(&self) -> String {
        match self {
            Self::TooManyRejects { limit, shown } => {
                let shown: Vec<String> = shown
                    .iter()
                    .map(|reject| format!("record {}: {}", reject.number, reject.reason))
                    .collect();
                format!(
                    "more than {limit} rows are rejected, the first of them {}",
                    shown.join("; ")
                )
            }
            other => other.to_string(),
        }
    }
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
            | Self::LabelColumnTaken(_)
            | Self::SameResults(_)
            | Self::NoAcceptedRow { .. }
            | Self::RejectsOverDataSet(_)
            | Self::RunExists(_) => Exit::Usage,
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Stopped(signal) => Exit::Stopped(*signal),
            Self::TooManyRejects { .. }
            | Self::WriteRejects { .. }
            | Self::Spill { .. }
            | Self::TooFewWorkers { .. }
            | Self::Say(_)
            | Self::Kafka(_)
            | Self::Thread(_) => Exit::Failure,
        }
    }
}
