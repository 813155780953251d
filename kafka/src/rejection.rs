//! Why a broker does not let this process in, read from what librdkafka says of its connections. A
//! broker that is silent is waited for; one that says no will say it again, so that its no ends the
//! process, with a sentence about what to do.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::Error;

/// What a broker and this process do not agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// User and password.
    Credentials,
    /// The way to log in.
    Mechanism,
    /// Whether the broker is who it says it is.
    BrokerCertificate,
    /// Whether this process is who it says it is.
    ClientCertificate,
    /// How to encrypt.
    Handshake,
}

impl Cause {
    /// What to do about it.
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

/// A broker's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What it is about.
    pub cause: Cause,
    /// What librdkafka says of it. There is no secret in it.
    pub said: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.said, self.cause.advice())
    }
}

impl Rejection {
    /// The rejection that an error of a client speaks of; `None` for one that may pass.
    fn of(code: RDKafkaErrorCode, reason: &str) -> Option<Self> {
        let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        let is_logging_in = matches!(
            code,
            RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism
                | RDKafkaErrorCode::IllegalSASLState
        );
        // A broker that goes away while one logs in, or has not come up yet.
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
            said: without_timing(reason),
        })
    }
}

/// librdkafka ends its sentences with `(after 312ms in state AUTH_REQ)`, which is different each time.
fn without_timing(reason: &str) -> String {
    let kept = reason
        .rfind(" (after ")
        .map_or(reason, |end| &reason[..end]);
    kept.trim_end_matches([':', ' ']).to_owned()
}

/// Whether a process is let in, as all its clients hear it.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    rejection: Option<Rejection>,
    last: Option<String>,
}

impl Admission {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an error that concerns a whole client.
    pub(crate) fn hear(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let rejection = Rejection::of(code, reason);
        let mut heard = self.heard();
        // That all brokers are down is what follows, not what was wrong.
        if code != RDKafkaErrorCode::AllBrokersDown {
            heard.last = Some(without_timing(reason));
        }
        if rejection.is_some() {
            heard.rejection = rejection;
        }
    }

    /// A broker has answered a request: whatever was heard before is over.
    pub(crate) fn let_in(&self) {
        *self.heard() = Heard::default();
    }

    /// What was heard last, for whoever has waited in vain.
    pub(crate) fn last_heard(&self) -> Option<String> {
        self.heard().last.clone()
    }

    /// # Errors
    /// [`Error::Rejected`] when a broker has said no.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &self.heard().rejection {
            Some(rejection) => Err(Error::Rejected(rejection.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As librdkafka 2.12 and Apache Kafka 4.3 say them.
    const SAID: [(RDKafkaErrorCode, &str, Option<Cause>); 9] = [
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
    fn a_no_is_told_from_what_may_pass() {
        for (code, reason, cause) in SAID {
            let rejection = Rejection::of(code, reason);
            assert_eq!(
                rejection.map(|rejection| rejection.cause),
                cause,
                "{reason}"
            );
        }
    }

    #[test]
    fn a_no_holds_until_a_broker_answers_and_waiting_in_vain_has_a_reason() {
        let admission = Admission::default();
        assert!(admission.check().is_ok());
        for (code, reason, _) in [SAID[0], SAID[7], SAID[8]] {
            admission.hear(&KafkaError::Global(code), reason);
        }
        let rejected = admission.check().expect_err("a no").to_string();
        assert!(rejected.contains("invalid credentials"), "{rejected}");
        assert!(rejected.contains("check sasl.username"), "{rejected}");
        assert!(!rejected.contains("312ms"), "{rejected}");
        let last = admission.last_heard().expect("something was heard");
        assert!(last.ends_with("Connection refused"), "{last}");
        admission.let_in();
        assert!(admission.check().is_ok());
        assert_eq!(admission.last_heard(), None);
    }
}
