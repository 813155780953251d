//! Why there is no data set, and how the process ends because of it.

use std::io;
use std::path::PathBuf;

use jiff::civil::Date;
use service::{Ending, Exit, Signal};

/// Why there is no data set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No rows are asked for.
    #[error("--rows 0: at least one row is needed")]
    NoRows,
    /// No country, or more than there are.
    #[error("--countries {asked}: there can be 1 to {available}")]
    Countries {
        /// How many are asked for.
        asked: usize,
        /// How many there are.
        available: usize,
    },
    /// The range of test dates has no day.
    #[error(
        "no day lies between --from {from} (inclusive) and --to {to} (exclusive); --to has to be later"
    )]
    EmptyRange {
        /// The first day.
        from: Date,
        /// The day after the last one.
        to: Date,
    },
    /// The range of test dates starts too early.
    #[error("--from {from}: it can be {earliest} at the earliest")]
    EarlyRange {
        /// The first day.
        from: Date,
        /// The earliest first day.
        earliest: Date,
    },
    /// The range of test dates is too long.
    #[error("--from and --to have {days} days between them, there can be {longest} at most")]
    LongRange {
        /// The days it has.
        days: i64,
        /// The days it can have.
        longest: i32,
    },
    /// The share of malformed rows is no share.
    #[error("--malformed {asked}: a share of the rows is needed, from 0 to 1")]
    Share {
        /// What is asked for.
        asked: f64,
    },
    /// Spoiled rows in a file whose columns have types.
    #[error("--malformed spoils lines of text: it needs --format csv")]
    SpoiledParquet,
    /// polars cannot write the rows as Parquet.
    #[error("cannot write rows as Parquet: {reason}")]
    Parquet {
        /// What polars says.
        reason: String,
    },
    /// No thread, or too many.
    #[error("--threads {asked}: there can be 1 to {most}")]
    Threads {
        /// How many are asked for.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// The output file cannot be created where it is wanted.
    #[error("cannot create {}; choose another --out", path.display())]
    Create {
        /// The output file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write rows; is there room where --out is?")]
    Write {
        /// The reason.
        source: io::Error,
    },
    /// The complete output cannot be given its name.
    #[error("cannot rename the complete file to {}; choose another --out", path.display())]
    Rename {
        /// The output file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread; ask for fewer --threads")]
    Thread {
        /// The reason.
        source: io::Error,
    },
    /// A signal asked for the end before all rows were written.
    #[error(
        "stopped by {signal} before all rows were written; start it again, the seed makes the same rows"
    )]
    Stopped {
        /// The signal.
        signal: Signal,
    },
}

impl Error {
    /// Whether the reader of the output has gone away, as `head` does.
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
            // A path that cannot be created is a wrong argument.
            | Self::Create { .. } => Exit::Usage,
            Self::Write { .. }
            | Self::Parquet { .. }
            | Self::Rename { .. }
            | Self::Thread { .. } => Exit::Failure,
            Self::Stopped { signal } => Exit::Stopped(*signal),
        }
    }
}
