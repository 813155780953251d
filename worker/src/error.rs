//! The errors that end a worker.

use std::time::Duration;

use computations::Unable;
use service::{Ending, Exit};

use crate::transaction_loop::MAX_GIVEN_UP;

/// An error that ends a worker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the Kafka client.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),

    /// A transaction can be neither committed nor aborted.
    #[error(transparent)]
    Transaction(#[from] kafka::TransactionError),

    /// The messages of [`MAX_GIVEN_UP`] transactions in a row were given up.
    #[error(
        "the messages of {MAX_GIVEN_UP} transactions in a row were given up; look at the partitions and max.message.bytes of the outcomes and dead-letter topics (rollcall doctor), then start the worker again"
    )]
    GaveUp(#[source] kafka::TransactionError),

    /// Health and metrics cannot be served.
    #[error(transparent)]
    Listen(#[from] service::listen::Error),

    /// A job takes longer than `--job-timeout`. The process ends, and the next owner of the partition
    /// reads its messages in isolation.
    #[error(
        "a job of partition {partition} has not ended within {}; leaving, so that another worker looks at its message job by job",
        humantime::format_duration(*timeout)
    )]
    JobTimeout {
        /// The partition of the jobs topic.
        partition: i32,
        /// The value of `--job-timeout`.
        timeout: Duration,
    },

    /// A fault point returned an injected error.
    #[error(transparent)]
    Fault(#[from] service::fault::Injected),

    /// A run has a computation that this worker does not have. Its jobs are left to workers that have it.
    #[error("leaving jobs to workers that can compute them")]
    Unable(#[source] Unable),

    /// A thread could not be started, or died.
    #[error("thread: {0}; start the worker again, with fewer --threads if that was the cause")]
    Thread(String),
}

impl Ending for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Kafka(error) if error.is_usage() => Exit::Usage,
            Self::Kafka(error) if error.is_unreachable() => Exit::BrokerUnreachable,
            Self::Kafka(error) if error.is_denied() => Exit::Denied,
            Self::Transaction(kafka::TransactionError::Denied(_)) => Exit::Denied,
            Self::Unable(_) => Exit::Unable,
            Self::Kafka(_)
            | Self::Transaction(_)
            | Self::GaveUp(_)
            | Self::Listen(_)
            | Self::JobTimeout { .. }
            | Self::Fault(_)
            | Self::Thread(_) => Exit::Failure,
        }
    }
}
