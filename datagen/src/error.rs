//! The errors of generating a data set, and their exit codes.

use std::io;
use std::path::PathBuf;

use jiff::civil::Date;
use service::{Ending, Exit, Signal};

/// An error of generating a data set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No rows.
    #[error("--rows 0: at least one row is needed")]
    NoRows,
    /// No country, or more than there are.
    #[error("--countries {asked}: the range is 1 to {available}")]
    Countries {
        /// The number that was asked for.
        asked: usize,
        /// The number of known countries.
        available: usize,
    },
    /// The range of test dates has no day.
    #[error(
        "no day between --from {from} (inclusive) and --to {to} (exclusive); --to has to be later"
    )]
    EmptyRange {
        /// The first day.
        from: Date,
        /// The day after the last one.
        to: Date,
    },
    /// The range of test dates starts too early.
    #[error("--from {from}: the earliest day is {earliest}")]
    EarlyRange {
        /// The first day.
        from: Date,
        /// The earliest first day.
        earliest: Date,
    },
    /// The range of test dates is too long.
    #[error("--from and --to: {days} days, but at most {longest} are allowed")]
    LongRange {
        /// Its number of days.
        days: i64,
        /// The largest number of days.
        longest: i32,
    },
    /// The share of malformed rows is not from 0 to 1.
    #[error("--malformed {asked}: the range is 0 to 1")]
    Share {
        /// The share that was asked for.
        asked: f64,
    },
    /// Malformed rows in a Parquet file, whose columns have types.
    #[error("--malformed needs --format csv: columns of Parquet have types")]
    SpoiledParquet,
    /// polars cannot write the rows as Parquet.
    #[error("cannot write rows as Parquet: {reason}")]
    Parquet {
        /// The message of polars.
        reason: String,
    },
    /// No thread, or too many.
    #[error("--threads {asked}: the range is 1 to {most}")]
    Threads {
        /// The number that was asked for.
        asked: usize,
        /// The largest number.
        most: usize,
    },
    /// The output file cannot be created.
    #[error("cannot create {}; choose another --out", path.display())]
    Create {
        /// The output file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write rows; check the free space at --out")]
    Write {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The complete output cannot be renamed.
    #[error("cannot rename the complete file to {}; choose another --out", path.display())]
    Rename {
        /// The output file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread; ask for fewer --threads")]
    Thread {
        /// The error of the operating system.
        source: io::Error,
    },
    /// A signal stopped the process before all rows were written.
    #[error(
        "stopped by {signal} before all rows were written; start it again: the same seed gives the same rows"
    )]
    Stopped {
        /// The signal.
        signal: Signal,
    },
}

impl Error {
    /// Whether the reader of the output has closed the pipe, as `head` does.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::NoRows
            | Self::Countries { .. }
            | Self::EmptyRange { .. }
            | Self::EarlyRange { .. }
            | Self::LongRange { .. }
            | Self::Share { .. }
            | Self::SpoiledParquet
            | Self::Threads { .. }
            // The path is an argument.
            | Self::Create { .. } => Exit::Usage,
            Self::Write { .. }
            | Self::Parquet { .. }
            | Self::Rename { .. }
            | Self::Thread { .. } => Exit::Failure,
            Self::Stopped { signal } => Exit::Stopped(*signal),
        }
    }
}
