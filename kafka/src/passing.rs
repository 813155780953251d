//! Errors that pass by themselves, and asking again until they have.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use crate::error::{Error, code_of};

/// How long one attempt at a question may take: a connection whose other end is gone without a word
/// is given up then, and the next attempt has a new one.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a question is asked again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two attempts at what a broker cannot tell yet.
pub(crate) const RETRY_STEP: Duration = Duration::from_millis(10);

/// Asks again while a broker cannot tell yet, for so long.
pub(crate) fn until_it_passes<T>(
    patience: Duration,
    ask: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    until_passed(Instant::now() + patience, &|| false, ask)
}

/// The same until then, or until `stopped` says so between two attempts.
pub(crate) fn until_passed<T>(
    until: Instant,
    stopped: &dyn Fn() -> bool,
    mut ask: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match ask() {
            Err(error) if error.is_passing() && Instant::now() < until => {
                if stopped() {
                    return Err(Error::Stopped);
                }
                thread::sleep(RETRY_STEP);
            }
            answered => return answered,
        }
    }
}

impl Error {
    /// Whether the same may go well a little later: a broker was away, too busy to answer in time, or
    /// did not know better yet.
    pub fn is_passing(&self) -> bool {
        let (Self::Topic { source, .. } | Self::Client { source, .. }) = self else {
            return false;
        };
        code_of(source).is_some_and(knows_better_soon)
    }
}

/// Whether a broker that answers so will know better soon: a new partition's leader is told of it
/// some milliseconds after everybody else, and the first member of all on a new cluster waits for
/// its coordinator. (On a busy one, librdkafka may be exchanging the broker's handle.) A partition
/// without a leader, as while one is elected, is none that librdkafka knows.
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
    fn a_broker_that_is_away_busy_or_new_passes_and_one_that_refuses_does_not() {
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
    fn it_is_asked_again_until_it_passes_or_time_is_up() {
        let mut asked = 0;
        let answered = until_it_passes(PATIENCE, || {
            asked += 1;
            match asked {
                3 => Ok("at last"),
                _ => Err(error(RDKafkaErrorCode::RequestTimedOut)),
            }
        });
        assert_eq!(answered.expect("an answer"), "at last");
        let refused = until_it_passes(PATIENCE, || {
            Err::<(), _>(error(RDKafkaErrorCode::TopicAuthorizationFailed))
        });
        assert!(refused.is_err());
        let late = until_it_passes(Duration::ZERO, || {
            Err::<(), _>(error(RDKafkaErrorCode::RequestTimedOut))
        });
        assert!(late.is_err());
    }
}
