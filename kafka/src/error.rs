//! What can go wrong between this process and a cluster, with the coordinates of where.

use std::time::Duration;

use pipeline::{DecodeError, RunId};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// An error of a Kafka client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No bootstrap servers were named.
    #[error("no broker named: give --bootstrap-servers HOST:PORT or set KAFKA_BOOTSTRAP_SERVERS")]
    NoBootstrapServers,

    /// No broker answered in time.
    #[error(
        "no broker answered at {bootstrap_servers} within {}; is it up, is the address right, and \
         does it want SASL (KAFKA_PROPERTIES)? -vv shows what librdkafka says",
        humantime::format_duration(*.waited)
    )]
    Unreachable {
        /// Where it was looked for.
        bootstrap_servers: String,
        /// How long.
        waited: Duration,
    },

    /// The wait for a broker or a topic was interrupted.
    #[error("stopped while waiting for the broker")]
    Stopped,

    /// A property that rollcall's guarantees rest on.
    #[error("-X {key}: rollcall sets this property itself, {why}")]
    FixedProperty {
        /// The property.
        key: String,
        /// What rests on it.
        why: &'static str,
    },

    /// A property that librdkafka does not take.
    #[error("-X {key}={value}: {reason}")]
    Property {
        /// The property.
        key: String,
        /// Its value.
        value: String,
        /// What librdkafka says.
        reason: String,
    },

    /// A call of a client failed.
    #[error("cannot {action}")]
    Client {
        /// What was to be done.
        action: &'static str,
        /// What the client says.
        source: KafkaError,
    },

    /// Something about a topic failed.
    #[error("topic {topic}: cannot {action}")]
    Topic {
        /// The topic.
        topic: String,
        /// What was to be done.
        action: &'static str,
        /// What the client says.
        source: KafkaError,
    },

    /// A topic that should be there is not.
    #[error("topic {topic} does not exist; a dispatcher creates it, --topic-prefix names another")]
    NoTopic {
        /// The topic.
        topic: String,
    },

    /// A message could not be handed to the producer for good.
    #[error("topic {topic}, partition {partition}: cannot produce: {code}")]
    Produce {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        code: RDKafkaErrorCode,
    },

    /// A message was given up by the producer.
    #[error(
        "topic {topic}, partition {partition}: message not delivered: {code}; rollcall doctor \
         looks at the cluster"
    )]
    Delivery {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        code: RDKafkaErrorCode,
    },

    /// Messages were handed to the producer, and nothing came back in time.
    #[error(
        "topic {topic}: not all messages are acknowledged within {}; rollcall doctor looks at the \
         cluster",
        humantime::format_duration(*.waited)
    )]
    NotAcknowledged {
        /// The topic.
        topic: String,
        /// How long.
        waited: Duration,
    },

    /// Messages that should be there are gone, or the offset lies behind the end.
    #[error(
        "topic {topic}, partition {partition}: the offset to read next is out of range; \
         messages were deleted before they were read; dispatch the data set again, with a longer \
         --retention on new topics"
    )]
    OffsetOutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },

    /// A partition cannot be read.
    #[error(
        "topic {topic}, partition {partition}: cannot consume: {code}; rollcall doctor looks at \
         the cluster"
    )]
    Consume {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        code: RDKafkaErrorCode,
    },

    /// What the runs topic tells of a run cannot be read.
    #[error(
        "topic {topic}, offset {offset}: a message about run {run_id} is no event of a run; use a \
         rollcall as new as the one that wrote it, or dispatch under another --run-id"
    )]
    RunEvent {
        /// The topic.
        topic: String,
        /// The offset.
        offset: i64,
        /// The run that its key names.
        run_id: RunId,
        /// What is wrong with it.
        source: DecodeError,
    },

    /// The in-process broker failed.
    #[error("in-process broker: cannot {action}; name another with --bootstrap-servers")]
    InProcess {
        /// What was to be done.
        action: &'static str,
    },
}

impl Error {
    /// Whether the options are wrong, and not the cluster.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoBootstrapServers | Self::FixedProperty { .. } | Self::Property { .. }
        )
    }

    /// Whether no broker answered at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether the cluster knows who asks, or wants to, and does not allow it.
    pub fn is_denied(&self) -> bool {
        let code = match self {
            Self::Client { source, .. } | Self::Topic { source, .. } => source.rdkafka_error_code(),
            Self::Produce { code, .. }
            | Self::Delivery { code, .. }
            | Self::Consume { code, .. } => Some(*code),
            _ => None,
        };
        code.is_some_and(is_denial)
    }

    pub(crate) fn client(action: &'static str) -> impl FnOnce(KafkaError) -> Self {
        move |source| Self::Client { action, source }
    }

    pub(crate) fn topic(topic: &str, action: &'static str) -> impl FnOnce(KafkaError) -> Self {
        let topic = topic.to_owned();
        move |source| Self::Topic {
            topic,
            action,
            source,
        }
    }
}

/// Whether a code says that something is not allowed.
pub(crate) fn is_denial(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::Authentication
    )
}
