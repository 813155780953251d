//! Why there is no benchmark.

use std::io;
use std::path::PathBuf;

use super::agreement::Disagreement;
use super::compare::Refusal;

/// An error that ends `rollcall bench`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A run did not end as complete.
    #[error("{row} ended with {status}: {said}")]
    Run {
        /// The row.
        row: String,
        /// How it ended.
        status: String,
        /// Its last line.
        said: String,
    },

    /// A run's report does not say what a benchmark needs.
    #[error("the report of {row} has no {what}; measure programs of this version")]
    Report {
        /// The row.
        row: String,
        /// What is not there.
        what: &'static str,
    },

    /// Runs that come to different results.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),

    /// Two benchmarks that cannot be compared.
    #[error(transparent)]
    Refused(#[from] Refusal),

    /// A benchmark cannot be read.
    #[error("cannot read {}; give a bench.json", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// A file is no benchmark.
    #[error("{} is no benchmark of this version; give a bench.json", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
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
        /// The version that is read.
        expected: u32,
    },

    /// A folder for what a run writes cannot be made.
    #[error("cannot make a folder for runs in {}; choose another --out", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl Error {
    /// Whether it is for another command line to mend.
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
