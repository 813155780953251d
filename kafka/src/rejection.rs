//! Refusals of brokers to authenticate this process, recognised in librdkafka's errors of connections.
//! A broker that does not answer is waited for. A refusal would be repeated at each attempt, so it ends
//! the process, with advice on what to change.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::Error;

/// The part of the log-in that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The user or the password.
    Credentials,
    /// The SASL mechanism.
    Mechanism,
    /// The certificate of the broker.
    BrokerCertificate,
    /// The certificate of this process.
    ClientCertificate,
    /// The protocol, version or cipher of the encryption.
    Handshake,
}

impl Cause {
    /// What the user is to change, for the error message.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Credentials => {
                "check sasl.username and sasl.password (KAFKA_PROPERTIES or \
                 --kafka-properties-file), and that the cluster has this user for this mechanism"
            }
            Self::Mechanism => "set sasl.mechanism to one that the broker supports",
            Self::BrokerCertificate => {
                "set ssl.ca.location to the certificates (PEM) of the authority that has signed the \
                 brokers', and name brokers in --bootstrap-servers as their certificates do"
            }
            Self::ClientCertificate => {
                "set ssl.certificate.location and ssl.key.location to a certificate and its key \
                 (PEM) that the brokers trust"
            }
            Self::Handshake => {
                "see that security.protocol fits this port, and that broker and ssl.* properties \
                 have a version and a cipher of TLS in common"
            }
        }
    }
}

/// The refusal of a broker to authenticate this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The part of the log-in that failed.
    pub cause: Cause,
    /// librdkafka's message. It contains no secret.
    pub message: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.cause.advice())
    }
}

impl Rejection {
    /// The rejection that an error of a client reports; `None` when the error may pass by itself.
    fn of(code: RDKafkaErrorCode, reason: &str) -> Option<Self> {
        let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        let is_logging_in = matches!(
            code,
            RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism
                | RDKafkaErrorCode::IllegalSASLState
        );
        // The broker went away during the log-in, or is not up yet.
        if has(&["transport failure", "timed out", "Disconnected"]) {
            return None;
        }
        let cause = if is_logging_in && has(&["mechanism handshake failed"]) {
            Cause::Mechanism
        } else if is_logging_in {
            Cause::Credentials
        } else if has(&[
            "certificate verify failed",
            "Failed to verify broker certificate",
        ]) {
            Cause::BrokerCertificate
        } else if has(&[
            "alert certificate required",
            "alert bad certificate",
            "alert unknown ca",
            "alert certificate unknown",
            "alert certificate expired",
            "alert certificate revoked",
            "client SSL authentication might be required",
        ]) {
            Cause::ClientCertificate
        } else if code == RDKafkaErrorCode::SSL && has(&["handshake failed"]) {
            Cause::Handshake
        } else {
            return None;
        };
        Some(Self {
            cause,
            message: without_timing(reason),
        })
    }
}

/// A message of librdkafka without its end, such as `(after 312ms in state AUTH_REQ)`, which differs
/// each time.
fn without_timing(reason: &str) -> String {
    let kept = reason
        .rfind(" (after ")
        .map_or(reason, |end| &reason[..end]);
    kept.trim_end_matches([':', ' ']).to_owned()
}

/// Whether brokers authenticate this process, by the errors of all its clients.
#[derive(Debug, Default)]
pub(crate) struct AuthenticationState {
    errors: Mutex<Errors>,
}

/// The errors since a broker last answered.
#[derive(Debug, Default)]
struct Errors {
    /// The last rejection.
    rejection: Option<Rejection>,
    /// librdkafka's message of the last error.
    last: Option<String>,
}

impl AuthenticationState {
    fn errors(&self) -> MutexGuard<'_, Errors> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an error of a whole client.
    pub(crate) fn record_error(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let rejection = Rejection::of(code, reason);
        let mut errors = self.errors();
        // That all brokers are down is the consequence of another error, which explains more.
        if code != RDKafkaErrorCode::AllBrokersDown {
            errors.last = Some(without_timing(reason));
        }
        if rejection.is_some() {
            errors.rejection = rejection;
        }
    }

    /// Forgets all errors, because a broker has answered a request.
    pub(crate) fn reset(&self) {
        *self.errors() = Errors::default();
    }

    /// librdkafka's message of the last error, for the message of a wait that timed out.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.errors().last.clone()
    }

    /// Checks that no broker has refused to authenticate this process.
    ///
    /// # Errors
    /// [`Error::Rejected`] when one has.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &self.errors().rejection {
            Some(rejection) => Err(Error::Rejected(rejection.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of librdkafka 2.12 with Apache Kafka 4.3.
    const MESSAGES: [(RDKafkaErrorCode, &str, Option<Cause>); 9] = [
        (
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://127.0.0.1:9093/bootstrap: SASL authentication error: Authentication failed \
             during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 \
             (after 312ms in state AUTH_REQ)",
            Some(Cause::Credentials),
        ),
        (
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://127.0.0.1:9093/bootstrap: SASL PLAIN mechanism handshake failed: Broker: \
             Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512 (after 8ms in \
             state AUTH_HANDSHAKE)",
            Some(Cause::Mechanism),
        ),
        (
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://127.0.0.1:9093/bootstrap: SASL SCRAM-SHA-512 mechanism handshake failed: \
             Local: Broker transport failure: broker's supported mechanisms: (n/a)",
            None,
        ),
        (
            RDKafkaErrorCode::SSL,
            "ssl://127.0.0.1:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::\
             certificate verify failed: broker certificate could not be verified (after 8ms in \
             state SSL_HANDSHAKE)",
            Some(Cause::BrokerCertificate),
        ),
        (
            RDKafkaErrorCode::BrokerTransportFailure,
            "ssl://127.0.0.1:9093/bootstrap: SSL handshake failed: Disconnected: connecting to a \
             PLAINTEXT broker listener? (after 3ms in state SSL_HANDSHAKE)",
            None,
        ),
        (
            RDKafkaErrorCode::SSL,
            "ssl://127.0.0.1:9093/bootstrap: SSL handshake failed: ssl/record/rec_layer_s3.c:916:\
             error:0A00010B:SSL routines::wrong version number:  (after 4ms in state SSL_HANDSHAKE)",
            Some(Cause::Handshake),
        ),
        (
            RDKafkaErrorCode::SSL,
            "ssl://127.0.0.1:9093/bootstrap: Receive failed: error:0A00045C:SSL routines::tlsv13 \
             alert certificate required",
            Some(Cause::ClientCertificate),
        ),
        (
            RDKafkaErrorCode::BrokerTransportFailure,
            "127.0.0.1:9093/bootstrap: Connect to ipv4#127.0.0.1:9093 failed: Connection refused",
            None,
        ),
        (
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
            None,
        ),
    ];

    #[test]
    fn rejections_are_distinguished_from_errors_that_may_pass() {
        for (code, reason, cause) in MESSAGES {
            let rejection = Rejection::of(code, reason);
            assert_eq!(
                rejection.map(|rejection| rejection.cause),
                cause,
                "{reason}"
            );
        }
    }

    #[test]
    fn a_rejection_counts_until_a_broker_answers_and_the_last_error_is_kept_for_the_message() {
        let state = AuthenticationState::default();
        assert!(state.check().is_ok());
        for (code, reason, _) in [MESSAGES[0], MESSAGES[7], MESSAGES[8]] {
            state.record_error(&KafkaError::Global(code), reason);
        }
        let rejected = state.check().expect_err("a rejection").to_string();
        assert!(rejected.contains("invalid credentials"), "{rejected}");
        assert!(rejected.contains("check sasl.username"), "{rejected}");
        assert!(!rejected.contains("312ms"), "{rejected}");
        let last = state.last_error().expect("errors were recorded");
        assert!(last.ends_with("Connection refused"), "{last}");
        state.reset();
        assert!(state.check().is_ok());
        assert_eq!(state.last_error(), None);
    }
}
