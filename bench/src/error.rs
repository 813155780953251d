//! The errors of a benchmark, and their exit codes.

use std::io;
use std::path::PathBuf;

use service::{Ending, Exit, Signal};

use crate::agreement::Disagreement;
use crate::compare::Refusal;

/// An error that ends `rollcall bench`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A run that did not end as complete.
    #[error("{row} ended with {status}: {last_line}")]
    Run {
        /// The row.
        row: String,
        /// Its exit status, or the status in its report.
        status: String,
        /// The last line on its standard error.
        last_line: String,
    },

    /// A figure that a run's report does not have.
    #[error("the report of {row} has no {what}; measure programs of this version")]
    Report {
        /// The row.
        row: String,
        /// The figure.
        what: &'static str,
    },

    /// Runs with different results.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),

    /// Two benchmarks that cannot be compared.
    #[error(transparent)]
    Refused(#[from] Refusal),

    /// A file that cannot be read.
    #[error("cannot read {}; give a bench.json", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file that is no benchmark.
    #[error("{} is no benchmark of this version; give a bench.json", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: serde_json::Error,
    },

    /// A benchmark of another version of the schema.
    #[error(
        "{} has the schema version {found}, this program reads {expected}; measure again",
        path.display()
    )]
    SchemaVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that this program reads.
        expected: u32,
    },

    /// The temporary folder of a run that cannot be created.
    #[error("cannot create a folder for runs in {}; choose another --out", path.display())]
    Folder {
        /// The folder in which it was to be.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A data set that cannot be generated.
    #[error(transparent)]
    Datagen(#[from] datagen::Error),

    /// An output that cannot be written.
    #[error(transparent)]
    Output(#[from] aggregator::Error),

    /// The options of the cluster are wrong.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),

    /// The path of this program is unknown.
    #[error("cannot find the path of this program")]
    OwnPath(#[source] io::Error),

    /// A program that cannot be run.
    #[error("cannot run {}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// No runtime for child processes can be started.
    #[error("cannot start a runtime for child processes")]
    Runtime(#[source] io::Error),

    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),

    /// A signal stopped the benchmark before it was done.
    #[error("stopped by {0} before it was done")]
    Stopped(Signal),
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Refused(_)
            | Self::Read { .. }
            | Self::Parse { .. }
            | Self::SchemaVersion { .. }
            | Self::Folder { .. } => Exit::Usage,
            Self::Datagen(error) => error.exit(),
            Self::Output(error) => error.exit(),
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Stopped(signal) => Exit::Stopped(*signal),
            Self::Run { .. }
            | Self::Report { .. }
            | Self::Disagreement(_)
            | Self::Kafka(_)
            | Self::OwnPath(_)
            | Self::Program { .. }
            | Self::Runtime(_)
            | Self::Print(_) => Exit::Failure,
        }
    }
}
