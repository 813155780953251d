//! Retries of requests whose errors are transient.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use crate::error::{Error, code_of};

/// The timeout of one attempt. A connection whose other end vanished without closing it is given up
/// then, and the next attempt uses a new one.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request is retried.
pub(crate) const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// The time between two attempts.
pub(crate) const RETRY_STEP: Duration = Duration::from_millis(10);

/// Retries a request while its error is [transient](Error::is_passing), for `timeout` at most.
pub(crate) fn until_it_passes<T>(
    timeout: Duration,
    request: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    until_passed(Instant::now() + timeout, &|| false, request)
}

/// Retries a request while its error is [transient](Error::is_passing), until a deadline. Returns
/// [`Error::Stopped`] when `stopped` returns true between two attempts.
pub(crate) fn until_passed<T>(
    until: Instant,
    stopped: &dyn Fn() -> bool,
    mut request: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match request() {
            Err(error) if error.is_passing() && Instant::now() < until => {
                if stopped() {
                    return Err(Error::Stopped);
                }
                thread::sleep(RETRY_STEP);
            }
            result => return result,
        }
    }
}

impl Error {
    /// Whether the error is transient, so that the same request may succeed a little later: a broker
    /// was away, too busy to answer in time, or had old metadata.
    pub fn is_passing(&self) -> bool {
        let (Self::Topic { source, .. } | Self::Client { source, .. }) = self else {
            return false;
        };
        code_of(source).is_some_and(knows_better_soon)
    }
}

/// Whether an error code is transient. The leader of a new partition gets the partition's metadata some
/// milliseconds later than other brokers, and the first group of a new cluster waits for its
/// coordinator. `DestroyBroker` occurs while librdkafka replaces a broker's handle. `UnknownPartition`
/// is also librdkafka's code for a partition without a leader, as during an election.
pub(crate) fn knows_better_soon(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::UnknownLeaderEpoch
            | RDKafkaErrorCode::FencedLeaderEpoch
            | RDKafkaErrorCode::OffsetNotAvailable
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::NotController
            | RDKafkaErrorCode::DestroyBroker
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::BrokerNotAvailable
            | RDKafkaErrorCode::NetworkException
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError;

    use super::*;

    fn error(code: RDKafkaErrorCode) -> Error {
        Error::Topic {
            topic: "jobs".to_owned(),
            action: "ask for its offsets",
            source: KafkaError::MetadataFetch(code),
        }
    }

    #[test]
    fn errors_of_a_broker_that_is_away_busy_or_new_are_transient_and_denials_are_not() {
        for code in [
            RDKafkaErrorCode::UnknownPartition,
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::OperationTimedOut,
        ] {
            assert!(error(code).is_passing(), "{code}");
        }
        assert!(!error(RDKafkaErrorCode::TopicAuthorizationFailed).is_passing());
        let created = Error::Client {
            action: "create topics",
            source: KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut),
        };
        assert!(created.is_passing());
    }

    #[test]
    fn a_request_is_retried_until_it_succeeds_or_the_time_is_over() {
        let mut attempts = 0;
        let third = until_it_passes(RETRY_TIMEOUT, || {
            attempts += 1;
            match attempts {
                3 => Ok("third"),
                _ => Err(error(RDKafkaErrorCode::RequestTimedOut)),
            }
        });
        assert_eq!(third.expect("the third attempt succeeds"), "third");
        let refused = until_it_passes(RETRY_TIMEOUT, || {
            Err::<(), _>(error(RDKafkaErrorCode::TopicAuthorizationFailed))
        });
        assert!(refused.is_err());
        let late = until_it_passes(Duration::ZERO, || {
            Err::<(), _>(error(RDKafkaErrorCode::RequestTimedOut))
        });
        assert!(late.is_err());
    }
}
