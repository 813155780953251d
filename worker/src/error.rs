//! Why a worker ends before it is asked to.

use service::{Ending, Exit};

/// An error that ends a worker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),

    /// Health and metrics cannot be served.
    #[error(transparent)]
    Listen(#[from] service::listen::Error),

    /// A thread could not be started, or died.
    #[error("compute thread: {0}")]
    Thread(String),
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Kafka(_) | Self::Listen(_) | Self::Thread(_) => Exit::Failure,
        }
    }
}
