//! The errors of a Kafka client, with the coordinates of topic, partition and offset.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pipeline::timeline::NoFurtherGeneration;
use pipeline::{DecodeError, RunId};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::rejection::Rejection;

/// An error of a Kafka client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No bootstrap servers were named.
    #[error("no broker named: give --bootstrap-servers HOST:PORT or set KAFKA_BOOTSTRAP_SERVERS")]
    NoBootstrapServers,

    /// No broker answered in time.
    #[error(
        "no broker answered at {bootstrap_servers} within {}{}; is it up, is the address right, and \
         is -X security.protocol what it wants?",
        humantime::format_duration(*.waited),
        last_error.as_ref().map_or(String::new(), |error| format!(" ({error})"))
    )]
    Unreachable {
        /// The addresses.
        bootstrap_servers: String,
        /// The time that was waited.
        waited: Duration,
        /// The last error of a connection; `None` without one.
        last_error: Option<String>,
    },

    /// A broker answered, and does not let this process in.
    #[error("no access to the cluster: {0}")]
    Rejected(Rejection),

    /// The cluster knows who asks, and does not allow it.
    #[error(
        "{on}: not allowed to {action}: {code}; grant this user what docs/security.md lists for \
         this program, or name another user (sasl.username)"
    )]
    Denied {
        /// The topic, group or other thing.
        on: String,
        /// The action that failed.
        action: &'static str,
        /// The error code of the cluster.
        code: RDKafkaErrorCode,
    },

    /// The wait for a broker or a topic was interrupted.
    #[error("stopped while waiting for the broker")]
    Stopped,

    /// The file of properties cannot be read.
    #[error("--kafka-properties-file {}: cannot read it", .path.display())]
    PropertiesFile {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A line that is no property. What stands there may be a secret.
    #[error("{name}, line {line}: expected key=value, with a name in lower case letters")]
    PropertyLine {
        /// The file or variable.
        name: String,
        /// The line's number, from 1.
        line: usize,
    },

    /// A property that rollcall's guarantees rest on.
    #[error("-X {key}: rollcall sets this property itself, {why}")]
    FixedProperty {
        /// The property.
        key: String,
        /// The reason for which rollcall sets it.
        why: &'static str,
    },

    /// A property that librdkafka does not take.
    #[error("-X {key}={value}: {reason}")]
    Property {
        /// The property.
        key: String,
        /// Its value.
        value: String,
        /// The error of librdkafka.
        reason: String,
    },

    /// `-X` with something that is no property. It is not shown, for it may be a secret.
    #[error(
        "-X: expected KEY=VALUE, as linger.ms=5: a name in lower case letters, and an equals sign"
    )]
    PropertyOption,

    /// Brokers are named with users.
    #[error(
        "--bootstrap-servers: brokers are named as host:port; who logs in is said by -X \
         sasl.username=…, and with which password in KAFKA_PROPERTIES"
    )]
    UserInServers,

    /// A call of a client failed.
    #[error("cannot {action}")]
    Client {
        /// The action that failed.
        action: &'static str,
        /// The error of the client.
        source: KafkaError,
    },

    /// A request about a topic failed.
    #[error("topic {topic}: cannot {action}")]
    Topic {
        /// The topic.
        topic: String,
        /// The action that failed.
        action: &'static str,
        /// The error of the client.
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
        /// The error code.
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
        /// The error code.
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
        /// The time that was waited.
        waited: Duration,
    },

    /// A run gets no further generation.
    #[error(transparent)]
    NoFurtherGeneration(#[from] NoFurtherGeneration),

    /// The jobs of a run that is cancelled are published again by a resume alone.
    #[error(
        "run {run_id} was cancelled, by {cancelled_by}; rollcall dispatcher --run-id {run_id} \
         --resume publishes its jobs again"
    )]
    Cancelled {
        /// The run.
        run_id: RunId,
        /// The process that cancelled it.
        cancelled_by: String,
    },

    /// A run was removed while somebody followed it.
    #[error("topic {topic}: run {run_id} was removed")]
    Removed {
        /// The runs topic.
        topic: String,
        /// The run.
        run_id: RunId,
    },

    /// Others open generations of the run all the time.
    #[error(
        "run {run_id}: others opened a generation or published a verdict in each of {attempts} \
         attempts to open the next; try again when they are done"
    )]
    GenerationRaced {
        /// The run.
        run_id: RunId,
        /// The number of attempts.
        attempts: usize,
    },

    /// Results that a verdict has counted are gone, and others may differ.
    #[error(
        "run {run_id}: outcomes that its verdict rests on are gone from topic {topic}, partition \
         {partition}; with --results any they cannot be computed again: dispatch the data \
         set under another --run-id"
    )]
    FrozenOutcomesDeleted {
        /// The run.
        run_id: RunId,
        /// The outcomes topic.
        topic: String,
        /// The partition.
        partition: i32,
    },

    /// A run cannot be removed while others write events of it.
    #[error(
        "topic {topic}: events of a run came after each of {rounds} attempts to remove it; stop its \
         dispatchers and aggregators first"
    )]
    StillWritten {
        /// The runs topic.
        topic: String,
        /// The number of attempts.
        rounds: usize,
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
        /// The error code.
        code: RDKafkaErrorCode,
    },

    /// A message of a run on the runs topic cannot be read.
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
        /// The error of its decoding.
        source: DecodeError,
    },

    /// The in-process broker failed.
    #[error("in-process broker: cannot {action}; name another with --bootstrap-servers")]
    InProcess {
        /// The action that failed.
        action: &'static str,
    },
}

impl Error {
    /// Whether the options are wrong, and not the cluster.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoBootstrapServers
                | Self::FixedProperty { .. }
                | Self::Property { .. }
                | Self::PropertyOption
                | Self::UserInServers
                | Self::PropertiesFile { .. }
                | Self::PropertyLine { .. }
                | Self::NoFurtherGeneration(_)
                | Self::Cancelled { .. }
                | Self::FrozenOutcomesDeleted { .. }
        )
    }

    /// Whether no broker answered at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether a broker does not let this process in, or does not allow what it wants.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Denied { .. })
    }

    pub(crate) fn client(action: &'static str) -> impl FnOnce(KafkaError) -> Self {
        move |source| match denial(&source) {
            Some(code) => Self::Denied {
                on: "cluster".to_owned(),
                action,
                code,
            },
            None => Self::Client { action, source },
        }
    }

    pub(crate) fn topic(topic: &str, action: &'static str) -> impl FnOnce(KafkaError) -> Self {
        let topic = topic.to_owned();
        move |source| match denial(&source) {
            Some(code) => Self::denied_on_topic(&topic, action, code),
            None => Self::Topic {
                topic,
                action,
                source,
            },
        }
    }

    pub(crate) fn group(group: &str, action: &'static str) -> impl FnOnce(KafkaError) -> Self {
        let group = group.to_owned();
        move |source| match denial(&source) {
            Some(code) => Self::Denied {
                on: format!("group {group}"),
                action,
                code,
            },
            None => Self::Client { action, source },
        }
    }

    fn denied_on_topic(topic: &str, action: &'static str, code: RDKafkaErrorCode) -> Self {
        Self::Denied {
            on: format!("topic {topic}"),
            action,
            code,
        }
    }

    /// The error of a message that the producer does not take.
    pub(crate) fn untaken(topic: &str, partition: i32, code: RDKafkaErrorCode) -> Self {
        if is_denial(code) {
            return Self::denied_on_topic(topic, "write to it", code);
        }
        Self::Produce {
            topic: topic.to_owned(),
            partition,
            code,
        }
    }

    /// The error of a message that was given up.
    pub fn undelivered(topic: &str, partition: i32, code: RDKafkaErrorCode) -> Self {
        if is_denial(code) {
            return Self::denied_on_topic(topic, "write to it", code);
        }
        Self::Delivery {
            topic: topic.to_owned(),
            partition,
            code,
        }
    }

    /// The error of a partition that cannot be read.
    pub(crate) fn unread(topic: &str, partition: i32, code: RDKafkaErrorCode) -> Self {
        if is_denial(code) {
            return Self::denied_on_topic(topic, "read it", code);
        }
        Self::Consume {
            topic: topic.to_owned(),
            partition,
            code,
        }
    }
}

/// The code of an error that says that something is not allowed.
fn denial(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    code_of(error).filter(|&code| is_denial(code))
}

/// The code of an error. rdkafka does not count that of an administration among them.
pub(crate) fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// Whether a code says that something is not allowed.
pub(crate) fn is_denial(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
            | RDKafkaErrorCode::DelegationTokenAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::Authentication
    )
}
