//! Why a data set is not dispatched.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use computations::Unable;
use pipeline::resume::Refusal;
use pipeline::{RunCancelled, RunId};
use service::fault::Injected;
use service::{Ending, Exit, Shutdown, Signal};

use crate::rejects::{MaxRejects, ShownReject};

/// An error that ends a dispatcher.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The computation is not known, or can do nothing with its parameters.
    #[error("--compute")]
    Compute(#[from] Unable),

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

    /// A file cannot be read to its end.
    #[error("cannot read {input} beyond record {records}")]
    Read {
        /// The file.
        input: String,
        /// Records that were read of it.
        records: u64,
        /// What was wrong.
        source: io::Error,
    },

    /// A packed file lacks its end.
    #[error("{input} is cut short: it ends in the middle, after {records} records")]
    CutShort {
        /// The file.
        input: String,
        /// Records that were read of it.
        records: u64,
    },

    /// A record of a CSV file has no end within [`crate::source::csv_file::MAX_RECORD_BYTES`].
    #[error(
        "{input}: the record that begins in line {line} has more than 1 MiB, as when a quote in it \
         is never closed; mend it, or give --quote none if quotes are text like any"
    )]
    RecordTooLong {
        /// The file.
        input: String,
        /// Where it begins, from 1.
        line: u64,
    },

    /// A CSV file ends in the middle of a field that a quote has opened. What stands behind the quote
    /// may be many records, so it is not taken for one.
    #[error(
        "{input}: a quote in the record that begins in line {line} is never closed; mend it, or give \
         --quote none if quotes are text like any"
    )]
    QuoteNotClosed {
        /// The file.
        input: String,
        /// Where the record begins, from 1.
        line: u64,
    },

    /// A Parquet file is damaged, or has what polars cannot read.
    #[error("cannot read {input} as Parquet beyond record {records}: {reason}")]
    Parquet {
        /// The file.
        input: String,
        /// Records that were read of it.
        records: u64,
        /// What polars says, in one line.
        reason: String,
    },

    /// Parquet from where one cannot jump to its end, where its footer is.
    #[error("{input} is Parquet, which is read from plain files only: save or unpack it first")]
    StreamedParquet {
        /// The file.
        input: String,
    },

    /// A packed file is in a packed file.
    #[error("{input} is packed twice: unpack it once")]
    PackedTwice {
        /// The file.
        input: String,
    },

    /// A text file is in an encoding that is not read.
    #[error("{input} is in UTF-16 or UTF-32: convert it, for example by iconv -f UTF-16 -t UTF-8")]
    Utf16 {
        /// The file.
        input: String,
    },

    /// A file has no header.
    #[error("{input} is empty: it has not even a header")]
    Empty {
        /// The file.
        input: String,
    },

    /// A pattern of file names is not valid.
    #[error("{pattern} is no pattern of file names")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: glob::PatternError,
    },

    /// A pattern of file names matches none.
    #[error("{0}: no file has such a name")]
    NoMatch(String),

    /// A file is there twice in a data set.
    #[error(
        "{first} is named twice{}: each record counts once",
        if first == again { String::new() } else { format!(", also as {again}") }
    )]
    SameFileTwice {
        /// How it is named first.
        first: String,
        /// How it is named again.
        again: String,
    },

    /// What parts fields is also what stands around them.
    #[error("--delimiter and --quote are both {0:?}")]
    SameBytes(char),

    /// A column that is needed is not there.
    #[error(
        "{option} {name}: {input} has no such column{} It has {}",
        nearest.as_ref().map_or(".".to_owned(), |nearest| format!(", did you mean {nearest}?")),
        columns.join(", ")
    )]
    MissingColumn {
        /// The file.
        input: String,
        /// The option that names it.
        option: &'static str,
        /// Its name.
        name: String,
        /// The column that is most like it.
        nearest: Option<String>,
        /// All columns.
        columns: Vec<String>,
    },

    /// A column of a Parquet file is of a type that is not read for what it is named for.
    #[error(
        "{option} {name}: {input} has this column as {found}; {expected}: write it as one of these"
    )]
    ColumnType {
        /// The file.
        input: String,
        /// The option that names it.
        option: &'static str,
        /// Its name.
        name: String,
        /// Its type.
        found: String,
        /// Which types are read.
        expected: &'static str,
    },

    /// A column that is needed is there more than once.
    #[error("{option} {name}: {input} has more than one such column; rename all but one")]
    AmbiguousColumn {
        /// The file.
        input: String,
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

    /// A parameter that an option of its own sets.
    #[error("--param {0}: give it by --{0}, which sets this parameter")]
    ParamWithOption(String),

    /// A parameter that is given twice.
    #[error("--param {0} is given twice")]
    ParamTwice(String),

    /// Two options have the same value, and need different ones.
    #[error("{} and {} are both {value:?}; give each its own value", options[0], options[1])]
    SameValue {
        /// The options.
        options: [&'static str; 2],
        /// The value.
        value: String,
    },

    /// There is nothing to do.
    #[error(
        "no row of {input} can be counted: {}{}",
        all_of(rejected),
        file.as_ref().map_or(String::new(), |file| format!(", see {}", file.display()))
    )]
    NoAcceptedRow {
        /// The data set.
        input: String,
        /// Rows that were rejected, by reason.
        rejected: BTreeMap<String, u64>,
        /// Where they are.
        file: Option<PathBuf>,
    },

    /// More rows were rejected than the user allows.
    #[error(
        "more than {limit} {} rejected ({rejected} of {rows_read}), the first of them {}",
        if matches!(limit, MaxRejects::Rows(1)) { "row is" } else { "rows are" },
        joined(shown)
    )]
    TooManyRejects {
        /// How many are allowed.
        limit: MaxRejects,
        /// How many there are until now.
        rejected: u64,
        /// Rows that were read until now.
        rows_read: u64,
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

    /// `--resume` without the run to resume.
    #[error("--resume takes a run up by its name: say which by --run-id or RUN_ID")]
    ResumeWithoutRun,

    /// The run exists, and this dispatcher cannot take it up.
    #[error(transparent)]
    Refused(#[from] Refusal),

    /// The run was removed from the cluster while it was dispatched.
    #[error("run {0} was removed while it was opened; dispatch it again")]
    Removed(RunId),

    /// Somebody has cancelled the run.
    #[error("run {run_id} was cancelled by {cancelled_by}: {reason}; --resume goes on with it")]
    Cancelled {
        /// The run.
        run_id: RunId,
        /// Who cancelled it.
        cancelled_by: String,
        /// Why.
        reason: String,
    },

    /// Memory has no room for the fingerprints of this number of jobs.
    #[error("no memory to compare {jobs} jobs with those that are published")]
    TooManyJobs {
        /// How many.
        jobs: u64,
    },

    /// A test has asked for it.
    #[error(transparent)]
    Injected(#[from] Injected),

    /// Fewer workers than were asked for joined the group in time.
    #[error("only {joined} of {wanted} workers joined group {group} within {}; start more, wait for fewer, or longer (--broker-timeout); a user who may not describe a group sees it without members", humantime::format_duration(*.waited))]
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
    #[error(
        "stopped by {0} before all jobs were dispatched; start it again with the same --run-id to go on"
    )]
    Stopped(Signal),

    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),

    /// The cluster.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),

    /// A thread could not be started, or died.
    #[error("thread: {0}")]
    Thread(String),
}

/// All rows are rejected, for these reasons.
fn all_of(rejected: &BTreeMap<String, u64>) -> String {
    if rejected.is_empty() {
        return "there is none".to_owned();
    }
    let total: u64 = rejected.values().sum();
    let rejected = rejected.iter();
    let reasons: Vec<String> = rejected
        .map(|(reason, rows)| format!("{rows} {reason}"))
        .collect();
    format!(
        "{total} of {total} rows are rejected ({})",
        reasons.join(", ")
    )
}

fn joined(shown: &[ShownReject]) -> String {
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    shown.join("; ")
}

impl Error {
    /// An error of the cluster, or the signal that interrupted a wait for it.
    pub(crate) fn of_cluster(error: kafka::Error, shutdown: &Shutdown) -> Self {
        match (error, shutdown.requested()) {
            (kafka::Error::Stopped, Some(signal)) => Self::Stopped(signal),
            (error, _) => error.into(),
        }
    }

    /// The error of a cancellation that holds.
    pub(crate) fn cancelled(cancelled: &RunCancelled) -> Self {
        Self::Cancelled {
            run_id: cancelled.run_id.clone(),
            cancelled_by: cancelled.cancelled_by.clone(),
            reason: cancelled.reason.clone(),
        }
    }

    /// The error as everybody on the cluster may read it: without the fields of any row, and without
    /// the names of columns, for those of a file without a header are the fields of its first row.
    pub fn without_rows(&self) -> String {
        match self {
            Self::MissingColumn {
                input,
                option,
                name,
                ..
            } => format!("{option} {name}: {input} has no such column"),
            Self::TooManyRejects {
                limit,
                rejected,
                rows_read,
                shown,
            } => {
                let shown = shown.iter().map(|reject| ShownReject {
                    fields: "…".to_owned(),
                    ..reject.clone()
                });
                Self::TooManyRejects {
                    limit: *limit,
                    rejected: *rejected,
                    rows_read: *rows_read,
                    shown: shown.collect(),
                }
                .to_string()
            }
            // These have names of files, options, and numbers of records.
            Self::Open { .. }
            | Self::Read { .. }
            | Self::CutShort { .. }
            | Self::RecordTooLong { .. }
            | Self::QuoteNotClosed { .. }
            | Self::StreamedParquet { .. }
            | Self::PackedTwice { .. }
            | Self::Utf16 { .. }
            | Self::Empty { .. }
            | Self::Pattern { .. }
            | Self::NoMatch(_)
            | Self::SameFileTwice { .. }
            | Self::SameBytes(_)
            | Self::ColumnType { .. }
            | Self::AmbiguousColumn { .. }
            | Self::EmptyLabelColumn
            | Self::LabelColumnTaken(_)
            | Self::ParamWithOption(_)
            | Self::ParamTwice(_)
            | Self::SameValue { .. }
            | Self::NoAcceptedRow { .. }
            | Self::WriteRejects { .. }
            | Self::RejectsOverDataSet(_)
            | Self::Spill { .. }
            | Self::ResumeWithoutRun
            | Self::Compute(_)
            | Self::Refused(_)
            | Self::Removed(_)
            | Self::Cancelled { .. }
            | Self::TooManyJobs { .. }
            | Self::Injected(_)
            | Self::TooFewWorkers { .. }
            | Self::Stopped(_)
            | Self::Print(_)
            | Self::Kafka(_)
            | Self::Listen(_)
            | Self::Thread(_) => self.to_string(),
            // What polars says of a file may have names and values of it.
            Self::Parquet { input, records, .. } => {
                format!("cannot read {input} as Parquet beyond record {records}")
            }
        }
    }
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Open { .. }
            | Self::Read { .. }
            | Self::CutShort { .. }
            | Self::RecordTooLong { .. }
            | Self::QuoteNotClosed { .. }
            | Self::Parquet { .. }
            | Self::StreamedParquet { .. }
            | Self::PackedTwice { .. }
            | Self::Utf16 { .. }
            | Self::Empty { .. }
            | Self::Pattern { .. }
            | Self::NoMatch(_)
            | Self::SameFileTwice { .. }
            | Self::SameBytes(_)
            | Self::MissingColumn { .. }
            | Self::ColumnType { .. }
            | Self::AmbiguousColumn { .. }
            | Self::EmptyLabelColumn
            | Self::LabelColumnTaken(_)
            | Self::ParamWithOption(_)
            | Self::ParamTwice(_)
            | Self::SameValue { .. }
            | Self::NoAcceptedRow { .. }
            | Self::RejectsOverDataSet(_)
            | Self::ResumeWithoutRun
            | Self::Compute(_)
            | Self::Refused(_) => Exit::Usage,
            Self::Listen(_) => Exit::Failure,
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Kafka(error) if error.is_denied() => Exit::Denied,
            Self::Stopped(signal) => Exit::Stopped(*signal),
            Self::TooManyRejects { .. }
            | Self::Removed(_)
            | Self::Cancelled { .. }
            | Self::TooManyJobs { .. }
            | Self::Injected(_)
            | Self::WriteRejects { .. }
            | Self::Spill { .. }
            | Self::TooFewWorkers { .. }
            | Self::Print(_)
            | Self::Kafka(_)
            | Self::Thread(_) => Exit::Failure,
        }
    }
}
