//! The table of client settings: each setting that differs from librdkafka's default, for which
//! clients, and why. Figures were measured on two cores with Kafka 4.3.1 on the same machine.

use rdkafka::ClientConfig;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka_sys::RDKafkaConfRes;

use crate::args::property;
use crate::error::Error;

/// The purpose of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A producer of batches.
    Producer,
    /// A producer of batches in transactions.
    Transactional,
    /// A member of the workers' group.
    Member,
    /// A consumer that assigns partitions to itself, without a group.
    Reader,
    /// An admin client, which describes, creates and deletes topics and groups.
    Admin,
}

use Role::{Admin, Member, Producer, Reader, Transactional};

/// A setting: the roles that it is for, key, value, and reason.
type Setting = (&'static [Role], &'static str, &'static str, &'static str);

const EVERYONE: &[Role] = &[Producer, Transactional, Member, Reader, Admin];
const PRODUCERS: &[Role] = &[Producer, Transactional];
const CONSUMERS: &[Role] = &[Member, Reader];

/// The property of the protocol between clients and brokers. Its default, `plaintext`, neither encrypts
/// nor authenticates.
pub const PROTOCOL: &str = "security.protocol";

/// Settings that a user may change with `-X`.
const TUNED: &[Setting] = &[
    (
        PRODUCERS,
        "linger.ms",
        "5",
        "batches fill during a round trip; 1 to 50 ms measured alike",
    ),
    (
        PRODUCERS,
        "retry.backoff.ms",
        "5",
        "a new topic answers NOT_LEADER first; the default of 100 ms delays the first message",
    ),
    (PRODUCERS, "retry.backoff.max.ms", "50", "as above"),
    (
        &[Producer],
        "message.timeout.ms",
        "0",
        "messages wait for a broker that is away; only time-outs that the user sets give up",
    ),
    (
        &[Transactional],
        "transaction.timeout.ms",
        "10000",
        "an open transaction of a killed worker blocks readers and the next owner of its partitions \
         for as long (default: 60 s); messages are given up after that time, too",
    ),
    (
        PRODUCERS,
        "queue.buffering.max.kbytes",
        "32768",
        "bounds the producer's memory; its queue is the back-pressure (default: 1 GiB)",
    ),
    (
        PRODUCERS,
        "queue.buffering.max.messages",
        "200000",
        "as above, for messages of one job",
    ),
    (
        PRODUCERS,
        "batch.num.messages",
        "100000",
        "batch.size decides: 1 MB is 1.25 times as fast as 100 KB for messages of one job",
    ),
    (
        CONSUMERS,
        "fetch.wait.max.ms",
        "20",
        "with the default of 500 ms the first message of a new topic arrives half a second late",
    ),
    (
        CONSUMERS,
        "fetch.error.backoff.ms",
        "5",
        "as above: the first fetch of a new topic meets NOT_LEADER",
    ),
    (
        CONSUMERS,
        "fetch.queue.backoff.ms",
        "5",
        "a full local queue pauses fetching; the default of 1000 ms leaves a consumer idle for a second",
    ),
    (
        CONSUMERS,
        "queued.max.messages.kbytes",
        "8192",
        "bounds a consumer's memory (default: 64 MiB)",
    ),
    (
        CONSUMERS,
        "queued.min.messages",
        "4096",
        "as above, for messages of one job, each of which takes more than its payload (default: \
         100000 for each partition)",
    ),
    (
        CONSUMERS,
        "fetch.max.bytes",
        "8388608",
        "as above, for one fetch response (default: 50 MiB)",
    ),
    (
        CONSUMERS,
        "session.timeout.ms",
        "6000",
        "the least that brokers allow by default: a killed worker's partitions are reassigned after \
         6 s, not 45 s; for readers, too, because it may not exceed max.poll.interval.ms, which -X \
         sets for all consumers",
    ),
    (
        &[Member],
        "heartbeat.interval.ms",
        "300",
        "a heartbeat's response starts a rebalance: by default a new worker waits 3 s for partitions",
    ),
    (
        &[Member],
        "partition.assignment.strategy",
        "cooperative-sticky",
        "when a worker joins or leaves, the others keep their partitions and their work",
    ),
    (
        EVERYONE,
        "reconnect.backoff.ms",
        "50",
        "a broker that is back is reconnected soon",
    ),
    (EVERYONE, "reconnect.backoff.max.ms", "1000", "as above"),
    (
        // Not for a transactional producer, whose value librdkafka limits to transaction.timeout.ms.
        &[Producer, Member, Reader, Admin],
        "socket.timeout.ms",
        "30000",
        "a connection whose other end vanished without closing it is given up after 30 s, as by \
         Kafka's own clients (request.timeout.ms), not after 60 s",
    ),
    (
        EVERYONE,
        "topic.metadata.refresh.interval.ms",
        "5000",
        "restarted brokers are found by a refresh of the metadata, which no other request may cause \
         for a long time (default: 5 minutes)",
    ),
    (
        EVERYONE,
        "ssl.ca.location",
        "probe",
        "OpenSSL is linked in, and no system has certificates at the path that it looks at by default",
    ),
    (
        EVERYONE,
        "log.connection.close",
        "false",
        "idle connections are closed all the time",
    ),
];

/// Settings on which the guarantees depend. They cannot be changed with `-X`.
const FIXED: &[Setting] = &[
    (
        PRODUCERS,
        "acks",
        "all",
        "because an acknowledged job or outcome must survive a broker",
    ),
    (
        CONSUMERS,
        "enable.auto.commit",
        "false",
        "because offsets are committed behind acknowledged outcomes only",
    ),
    (
        CONSUMERS,
        "enable.auto.offset.store",
        "false",
        "because offsets are committed behind acknowledged outcomes only",
    ),
    (
        CONSUMERS,
        "auto.offset.reset",
        "error",
        "because an offset out of range is an error and never a jump",
    ),
    (
        CONSUMERS,
        "isolation.level",
        "read_committed",
        "because outcomes of aborted transactions do not count",
    ),
    (
        EVERYONE,
        "allow.auto.create.topics",
        "false",
        "because the dispatcher creates the topics, with their settings",
    ),
    (
        EVERYONE,
        "statistics.interval.ms",
        "0",
        "because librdkafka aborts on a statistics event in a queue that is read by the C API",
    ),
    (
        &[Member],
        "group.protocol",
        "classic",
        "because under KIP-848 a second member waits 5 s for the heartbeat interval of the broker",
    ),
];

/// Properties that are refused with `-X`, because they are other names of fixed settings or would
/// connect a client to another cluster or group. The second text ends the message
/// `rollcall sets this property itself, …`.
const REFUSED: &[(&str, &str)] = &[
    ("request.required.acks", "as acks"),
    ("auto.commit.enable", "as enable.auto.commit"),
    ("bootstrap.servers", "from --bootstrap-servers"),
    ("metadata.broker.list", "from --bootstrap-servers"),
    ("group.id", "from --group"),
    ("group.instance.id", "from --group-instance-id"),
    ("transactional.id", "where it uses transactions"),
    ("enable.partition.eof", "where it needs the end"),
    ("test.mock.num.brokers", "for its in-process broker"),
];

/// Whether a property is one of this role's kind of client. librdkafka warns of a consumer property on
/// a producer, and the reverse.
fn applies(role: Role, key: &str) -> bool {
    match key {
        "allow.auto.create.topics" => CONSUMERS.contains(&role),
        "enable.idempotence" => PRODUCERS.contains(&role),
        _ => true,
    }
}

/// The name of a property without the prefix `topic.`, which librdkafka accepts and ignores.
fn plain_name(key: &str) -> &str {
    key.trim_start_matches("topic.")
}

/// Checks that `-X` sets no property on which the guarantees depend.
pub(crate) fn check_overrides(overrides: &[(String, String)]) -> Result<(), Error> {
    for (key, _) in overrides {
        let plain = plain_name(key);
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == plain) {
            return Err(Error::FixedProperty {
                key: key.clone(),
                why,
            });
        }
        if let Some((.., why)) = FIXED.iter().find(|(_, fixed, ..)| *fixed == plain) {
            return Err(Error::FixedProperty {
                key: key.clone(),
                why,
            });
        }
    }
    Ok(())
}

/// Checks that librdkafka accepts the properties, before any client is created.
pub(crate) fn check_properties(
    bootstrap_servers: &str,
    overrides: &[(String, String)],
) -> Result<(), Error> {
    for role in [Producer, Member, Reader, Admin] {
        client_config(role, bootstrap_servers, "check", overrides)
            .create_native_config()
            .map_err(wrong_property)?;
    }
    check_effect(overrides)
}

/// Checks that no property of `sasl.` or `ssl.` is without effect, because a user who sets a password
/// or a certificate expects protection by it.
fn check_effect(overrides: &[(String, String)]) -> Result<(), Error> {
    let protocol = property(overrides, PROTOCOL).unwrap_or("plaintext");
    let protocol = protocol.to_lowercase();
    let idle = overrides.iter().find_map(|(key, _)| {
        let (layer, wants) = match key {
            key if key.starts_with("sasl.") => ("sasl", "SASL_SSL"),
            key if key.starts_with("ssl.") => ("ssl", "SSL or SASL_SSL"),
            _ => return None,
        };
        (!protocol.contains(layer)).then_some((key, wants))
    });
    match idle {
        Some((key, wants)) => Err(Error::Property {
            key: key.clone(),
            value: "…".to_owned(),
            reason: format!(
                "it is without effect while {PROTOCOL} is {protocol}; set {PROTOCOL} to {wants}, or \
                 leave it out"
            ),
        }),
        None => Ok(()),
    }
}

/// The error of a property that librdkafka refuses; values that may be secrets are left out.
fn wrong_property(error: KafkaError) -> Error {
    match error {
        // The value of an unknown property may be a secret.
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, reason, key, _) => {
            Error::Property {
                key,
                value: "…".to_owned(),
                reason,
            }
        }
        KafkaError::ClientConfig(_, reason, key, value) if is_secret(&key) => Error::Property {
            key,
            reason: match reason.contains(&value) {
                true => "librdkafka does not take this value".to_owned(),
                false => reason,
            },
            value: "…".to_owned(),
        },
        KafkaError::ClientConfig(_, reason, key, value) => Error::Property { key, value, reason },
        // Certificates and keys are read when the client is created, not when the property is set.
        KafkaError::ClientCreation(reason) if reason.starts_with("ssl.") => Error::Property {
            key: reason
                .split([' ', ':'])
                .next()
                .unwrap_or_default()
                .to_owned(),
            value: "…".to_owned(),
            reason,
        },
        source => Error::Client {
            action: "create a client",
            source,
        },
    }
}

/// Whether the value of a property may be a secret, and must not be printed.
fn is_secret(key: &str) -> bool {
    let key = plain_name(key);
    key.starts_with("sasl")
        || key.starts_with("ssl")
        || ["pass", "secret", "pem", "token", "key", "jaas", "oauth"]
            .iter()
            .any(|part| key.contains(part))
}

/// The configuration of a client: the settings of its role, then the user's properties.
pub(crate) fn client_config(
    role: Role,
    bootstrap_servers: &str,
    client_id: &str,
    overrides: &[(String, String)],
) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers);
    config.set("client.id", client_id);
    for (roles, key, value, _) in TUNED.iter().chain(FIXED) {
        if roles.contains(&role) && applies(role, key) {
            config.set(*key, *value);
        }
    }
    if overrides.iter().any(|(key, _)| key == "debug") {
        // librdkafka then emits its debug lines; the filter of this process's log selects among them.
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    for (key, value) in overrides {
        if applies(role, key) {
            config.set(key, value);
        }
    }
    config
}

/// Creates a client. An error names the property that is wrong.
pub(crate) fn create<C, T>(config: &ClientConfig, context: C) -> Result<T, Error>
where
    T: FromClientConfigAndContext<C>,
    C: rdkafka::ClientContext,
{
    T::from_config_and_context(config, context).map_err(wrong_property)
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};
    use rdkafka::producer::{BaseProducer, DefaultProducerContext};

    use super::*;

    #[test]
    fn no_role_has_a_setting_twice() {
        for &role in EVERYONE {
            let mut keys: Vec<_> = TUNED
                .iter()
                .chain(FIXED)
                .filter(|(roles, ..)| roles.contains(&role))
                .map(|(_, key, ..)| key)
                .collect();
            let all = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), all, "{role:?}");
        }
    }

    #[test]
    fn librdkafka_accepts_every_setting() {
        for &role in EVERYONE {
            let mut config = client_config(role, "127.0.0.1:1", "test", &[]);
            let made = match role {
                Transactional => {
                    config.set("transactional.id", "test");
                    create::<_, BaseProducer>(&config, DefaultProducerContext).map(drop)
                }
                Producer | Admin => {
                    create::<_, BaseProducer>(&config, DefaultProducerContext).map(drop)
                }
                Member | Reader => {
                    config.set("group.id", "test");
                    create::<_, BaseConsumer>(&config, DefaultConsumerContext).map(drop)
                }
            };
            assert!(made.is_ok(), "{role:?}: {made:?}");
        }
    }

    #[test]
    fn the_poll_interval_of_every_consumer_may_be_as_short_as_the_session_timeout() {
        let overrides = [("max.poll.interval.ms".to_owned(), "6000".to_owned())];
        for &role in CONSUMERS {
            let mut config = client_config(role, "127.0.0.1:1", "test", &overrides);
            config.set("group.id", "test");
            let made = create::<_, BaseConsumer>(&config, DefaultConsumerContext).map(drop);
            assert!(made.is_ok(), "{role:?}: {made:?}");
        }
    }

    #[test]
    fn no_error_contains_a_secret() {
        let overrides = [("sasl.passwords".to_owned(), "hunter2".to_owned())];
        let error = check_properties("127.0.0.1:1", &overrides).expect_err("no such property");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("sasl.passwords") && !text.contains("hunter2"),
            "{text}"
        );
        // Properties of Kafka's Java clients, some of which librdkafka reports as not supported.
        for (key, expected) in [
            ("sasl.jaas.config", "not supported"),
            ("ssl.truststore.password", "No such configuration property"),
        ] {
            let overrides = [(key.to_owned(), "hunter2".to_owned())];
            let error =
                check_properties("127.0.0.1:1", &overrides).expect_err("a property of Java");
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_password_or_certificate_without_effect_is_refused() {
        let check = |properties: &[(&str, &str)]| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let overrides: Vec<_> = properties.iter().map(owned).collect();
            check_properties("127.0.0.1:1", &overrides).map_err(|error| error.to_string())
        };
        let user = ("sasl.username", "alice");
        let authority = ("ssl.ca.location", "/none");
        let error = check(&[user]).expect_err("no protocol");
        assert!(
            error.contains("while security.protocol is plaintext"),
            "{error}"
        );
        assert!(check(&[user, (PROTOCOL, "SSL")]).is_err());
        assert!(check(&[authority, (PROTOCOL, "SASL_PLAINTEXT")]).is_err());
        assert_eq!(check(&[user, authority, (PROTOCOL, "SASL_SSL")]), Ok(()));
        assert_eq!(check(&[authority, (PROTOCOL, "SSL")]), Ok(()));
    }

    #[test]
    fn properties_of_the_guarantees_are_refused_and_unknown_properties_are_named() {
        for key in ["request.required.acks", "group.id", "metadata.broker.list"] {
            assert!(
                check_overrides(&[(key.to_owned(), "0".to_owned())]).is_err(),
                "{key}"
            );
        }
        let fixed = check_overrides(&[("acks".to_owned(), "0".to_owned())]);
        let fixed = fixed.expect_err("it is fixed").to_string();
        assert!(fixed.contains("-X acks: rollcall sets this"), "{fixed}");
        let overrides = [("linger.mss".to_owned(), "1".to_owned())];
        let config = client_config(Producer, "127.0.0.1:1", "test", &overrides);
        let made = create::<_, BaseProducer>(&config, DefaultProducerContext);
        let error = made.map(drop).expect_err("no such property").to_string();
        assert!(error.contains("-X linger.mss=…: No such"), "{error}");
    }
}
