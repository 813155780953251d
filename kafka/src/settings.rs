//! The one table of client settings: each that differs from librdkafka's default, for whom, and
//! why. Figures were measured on two cores with Kafka 4.3.1 on the same machine.

use rdkafka::ClientConfig;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka_sys::RDKafkaConfRes;

use crate::args::property;
use crate::error::Error;

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Publishes batches.
    Producer,
    /// Publishes batches in transactions.
    Transactional,
    /// A member of the workers' group.
    Member,
    /// Reads partitions that it names itself; no group.
    Reader,
    /// Asks about topics and groups, creates and deletes them.
    Admin,
}

use Role::{Admin, Member, Producer, Reader, Transactional};

/// A setting: for whom, key, value, why.
type Setting = (&'static [Role], &'static str, &'static str, &'static str);

const EVERYONE: &[Role] = &[Producer, Transactional, Member, Reader, Admin];
const PRODUCERS: &[Role] = &[Producer, Transactional];
const CONSUMERS: &[Role] = &[Member, Reader];

/// By which protocol brokers are spoken to; without it, neither encrypted nor authenticated.
pub const PROTOCOL: &str = "security.protocol";

/// Settings that a user may change with `-X`.
const TUNED: &[Setting] = &[
    (
        PRODUCERS,
        "linger.ms",
        "5",
        "batches fill while a round trip is under way; 1 to 50 ms measured alike",
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
        "a broker that is away is waited for; whoever gives up first is a time-out that people set",
    ),
    (
        &[Transactional],
        "transaction.timeout.ms",
        "10000",
        "what a worker killed within a transaction leaves open holds up readers and the next owner \
         of its partitions until then (default: 60 s); messages are given up then, too",
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
        "with the default of 500 ms the first message of a new topic comes half a second late",
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
        "a full local queue pauses fetching; the default of 1000 ms is a hole of a second",
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
        "as above, for one answer (default: 50 MiB)",
    ),
    (
        CONSUMERS,
        "session.timeout.ms",
        "6000",
        "the least that brokers allow by default: a killed worker's partitions are taken over after 6 s, not 45; \
         of readers, too, for max.poll.interval.ms may not be less, whoever it is set for",
    ),
    (
        &[Member],
        "heartbeat.interval.ms",
        "300",
        "a member learns of a rebalance with its heartbeat: default 3 s until a new worker works",
    ),
    (
        &[Member],
        "partition.assignment.strategy",
        "cooperative-sticky",
        "a worker that comes or goes leaves the others' partitions and work where they are",
    ),
    (
        EVERYONE,
        "reconnect.backoff.ms",
        "50",
        "a broker that comes back is noticed soon",
    ),
    (EVERYONE, "reconnect.backoff.max.ms", "1000", "as above"),
    (
        // Of a transactional one it may not be longer than a transaction, and librdkafka sees to that.
        &[Producer, Member, Reader, Admin],
        "socket.timeout.ms",
        "30000",
        "a connection whose other end is gone without a word is given up after as long as Kafka's own \
         clients wait by default (request.timeout.ms), not after 60 s",
    ),
    (
        EVERYONE,
        "topic.metadata.refresh.interval.ms",
        "5000",
        "after restarts brokers are known again by metadata, of which nobody else may ask for long \
         (default: 5 minutes)",
    ),
    (
        EVERYONE,
        "ssl.ca.location",
        "probe",
        "OpenSSL is linked in, and where it would look by itself no system has its certificates",
    ),
    (
        EVERYONE,
        "log.connection.close",
        "false",
        "idle connections are closed all the time",
    ),
];

/// Settings on which the guarantees rest. `-X` is refused for them.
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
        "because librdkafka aborts on statistics that a raw queue is not asked for",
    ),
    (
        &[Member],
        "group.protocol",
        "classic",
        "because a second member waits 5 s for the server's heartbeat under KIP-848",
    ),
];

/// Properties by which `-X` could get round the table or send a client elsewhere.
const REFUSED: &[(&str, &str)] = &[
    ("request.required.acks", "as acks"),
    ("auto.commit.enable", "as enable.auto.commit"),
    ("bootstrap.servers", "from --bootstrap-servers"),
    ("metadata.broker.list", "from --bootstrap-servers"),
    ("group.id", "from --group"),
    ("group.instance.id", "from --group-instance-id"),
    ("transactional.id", "where it uses transactions"),
    ("enable.partition.eof", "where it needs to know the end"),
    ("test.mock.num.brokers", "for its in-process broker"),
];

/// librdkafka warns when a producer is given a property of consumers, and the other way round.
fn applies(role: Role, key: &str) -> bool {
    match key {
        "allow.auto.create.topics" => CONSUMERS.contains(&role),
        "enable.idempotence" => PRODUCERS.contains(&role),
        _ => true,
    }
}

/// The name of a property without what librdkafka leaves out as well: topics' properties may be named
/// as such.
fn plain_name(key: &str) -> &str {
    key.trim_start_matches("topic.")
}

/// Refuses properties of `-X` that the guarantees rest on.
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

/// Refuses properties that librdkafka does not take, before any client is made.
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

/// Refuses what would be without effect: whoever gives a password or a certificate believes that it
/// protects something.
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

fn wrong_property(error: KafkaError) -> Error {
    match error {
        // A property of whose value nobody knows what it is.
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
        // Certificates and keys are read when the client is made, not when they are named.
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

/// Whether a property's value is nobody's business.
fn is_secret(key: &str) -> bool {
    let key = plain_name(key);
    key.starts_with("sasl")
        || key.starts_with("ssl")
        || ["pass", "secret", "pem", "token", "key", "jaas", "oauth"]
            .iter()
            .any(|part| key.contains(part))
}

/// The configuration of a client.
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
        // Whoever asks for it wants to see it; how much of it is shown is for the log's filter.
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    for (key, value) in overrides {
        if applies(role, key) {
            config.set(key, value);
        }
    }
    config
}

/// Makes a client, with an error that names the property that was wrong.
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
    fn no_setting_stands_twice_for_a_role() {
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
    fn librdkafka_takes_every_setting() {
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
    fn the_interval_of_polls_may_be_as_short_as_the_session_for_every_consumer() {
        let overrides = [("max.poll.interval.ms".to_owned(), "6000".to_owned())];
        for &role in CONSUMERS {
            let mut config = client_config(role, "127.0.0.1:1", "test", &overrides);
            config.set("group.id", "test");
            let made = create::<_, BaseConsumer>(&config, DefaultConsumerContext).map(drop);
            assert!(made.is_ok(), "{role:?}: {made:?}");
        }
    }

    #[test]
    fn no_secret_is_in_an_error() {
        let overrides = [("sasl.passwords".to_owned(), "hunter2".to_owned())];
        let error = check_properties("127.0.0.1:1", &overrides).expect_err("no such property");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("sasl.passwords") && !text.contains("hunter2"),
            "{text}"
        );
        // What Kafka's Java clients call otherwise: of some librdkafka knows, and says so.
        for (key, said) in [
            ("sasl.jaas.config", "not supported"),
            ("ssl.truststore.password", "No such configuration property"),
        ] {
            let overrides = [(key.to_owned(), "hunter2".to_owned())];
            let error = check_properties("127.0.0.1:1", &overrides).expect_err("it is of Java");
            let text = format!("{error} {error:?}");
            assert!(text.contains(said), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_password_or_certificate_that_would_protect_nothing_is_refused() {
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
    fn what_the_guarantees_rest_on_is_refused_and_a_typing_error_named() {
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
