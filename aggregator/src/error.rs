//! Why a run is not judged.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pipeline::RunId;
use service::{Ending, Exit, Signal};

/// An error that ends an aggregator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run did not appear in time.
    #[error("no run {run} on topic {topic} within {}", humantime::format_duration(*.waited))]
    NoRun {
        /// The run that was looked for.
        run: String,
        /// Where.
        topic: String,
        /// How long.
        waited: Duration,
    },

    /// The dispatcher gave the run up.
    #[error("run {run_id} was aborted by its dispatcher: {reason}")]
    Aborted {
        /// The run.
        run_id: RunId,
        /// Why.
        reason: String,
    },

    /// The run was made by another version.
    #[error(
        "run {run_id} numbers its jobs by version {version}, which this aggregator does not know"
    )]
    Numbering {
        /// The run.
        run_id: RunId,
        /// Its version of the rule.
        version: u32,
    },

    /// Health and metrics cannot be served.
    #[error(transparent)]
    Listen(#[from] service::listen::Error),

    /// An output cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// A signal came before the run was complete.
    #[error("stopped by {0} before the run was complete")]
    Stopped(Signal),

    /// The cluster.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::NoRun { .. } => Exit::Incomplete,
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Stopped(signal) => Exit::Stopped(*signal),
            Self::Listen(_)
            | Self::Aborted { .. }
            | Self::Numbering { .. }
            | Self::Write { .. }
            | Self::Kafka(_) => Exit::Failure,
        }
    }
}
