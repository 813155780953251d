//! The errors of `rollcall bench`.

use std::io;
use std::path::PathBuf;

use super::agreement::Disagreement;
use super::compare::Refusal;

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
}

impl Error {
    /// Whether another command line would avoid this error.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Run { .. } | Self::Report { .. } | Self::Disagreement(_) => false,
            Self::Refused(_)
            | Self::Read { .. }
            | Self::Parse { .. }
            | Self::SchemaVersion { .. }
            | Self::Folder { .. } => true,
        }
    }
}
