//! A description of a cluster, read without changing anything: brokers, the four topics with their
//! settings, and a group with its members and its lag. It contains no verdict.

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;

use crate::cluster::{Cluster, REQUEST_TIMEOUT};
use crate::error::{Error, is_denial};
use crate::offsets::{GroupOffsets, beginning_offsets, end_offsets};
use crate::topics::{self, Settings, TopicNames};

/// The end of the name of every runs topic.
const RUNS_TOPIC: &str = ".runs.v2";

/// The reason for which the cluster did not answer a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether this user is not allowed to make the request; false when it failed for another reason.
    pub denied: bool,
    /// The error message.
    pub reason: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Self {
            denied: error.is_denied(),
            reason: match error {
                // Without the advice of the error's own message, because the caller gives its own.
                Error::Denied { action, code, .. } => format!("not allowed to {action}: {code}"),
                error => {
                    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
                }
            },
        }
    }
}

impl From<RDKafkaErrorCode> for Refusal {
    fn from(code: RDKafkaErrorCode) -> Self {
        Self {
            denied: is_denial(code),
            reason: code.to_string(),
        }
    }
}

/// The description of a cluster at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// The ids of the brokers, ascending.
    pub brokers: Vec<i32>,
    /// The id of the controller, by the metadata that clients get.
    pub controller: Option<i32>,
    /// The four topics by name, in the order of [`TopicNames::all`].
    pub topics: Vec<(String, TopicAnswer)>,
    /// All prefixes under which the cluster has a runs topic, ascending.
    pub prefixes: Vec<String>,
    /// The workers' group.
    pub group: Result<GroupFacts, Refusal>,
}

/// The description of one topic; `None` when it does not exist.
pub type TopicAnswer = Result<Option<TopicFacts>, Refusal>;

/// The partitions and settings of one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicFacts {
    /// The number of partitions.
    pub partitions: usize,
    /// The number of replicas of the partition that has the fewest.
    pub replication_factor: usize,
    /// The number of partitions without a leader, which can be neither written nor read.
    pub without_leader: usize,
    /// The number of partitions with a replica that is not in sync.
    pub out_of_step: usize,
    /// Its settings.
    pub settings: Result<TopicSettings, Refusal>,
}

/// The settings of a topic, or the broker's defaults of them; `None` for a setting that the broker does
/// not return.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicSettings {
    /// `cleanup.policy`.
    pub cleanup_policy: Option<String>,
    /// `min.insync.replicas`.
    pub min_insync_replicas: Option<usize>,
    /// `max.message.bytes`: the most bytes of a batch, compressed.
    pub max_message_bytes: Option<usize>,
    /// `retention.ms`; `Some(None)` when records are kept for ever.
    pub retention: Option<Option<Duration>>,
}

impl TopicSettings {
    fn new(settings: &Settings) -> Self {
        let number = |name: &str| settings.get(name)?.parse().ok();
        Self {
            cleanup_policy: settings.get("cleanup.policy").cloned(),
            min_insync_replicas: number("min.insync.replicas"),
            max_message_bytes: number("max.message.bytes"),
            retention: topics::retention(settings),
        }
    }
}

/// The state, members and lag of the workers' group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// Its state, as Kafka names it (`Stable`, `Empty`, …); `None` when the group does not exist.
    pub state: Option<String>,
    /// The number of members.
    pub members: usize,
    /// The lag of each partition of the jobs topic, in messages. Empty when the topic does not exist.
    pub lag: Vec<i64>,
}

/// Describes a cluster.
///
/// # Errors
/// When the list of brokers and topics cannot be read. Other requests that fail are part of the result.
pub fn survey(cluster: &Cluster, names: &TopicNames, group: &str) -> Result<Survey, Error> {
    let inquirer = cluster.inquirer()?;
    let metadata = inquirer
        .fetch_metadata(None, REQUEST_TIMEOUT)
        .map_err(Error::client("list the brokers and topics"))?;
    let mut brokers: Vec<i32> = metadata
        .brokers()
        .iter()
        .map(|broker| broker.id())
        .collect();
    brokers.sort_unstable();
    let timeout = i32::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client's handle is valid as long as the client is borrowed.
    let controller =
        unsafe { rdkafka_sys::rd_kafka_controllerid(inquirer.client().native_ptr(), timeout) };
    let mut prefixes: Vec<String> = metadata
        .topics()
        .iter()
        .filter_map(|topic| topic.name().strip_suffix(RUNS_TOPIC))
        .map(str::to_owned)
        .collect();
    prefixes.sort_unstable();

    let mut topics: Vec<(String, TopicAnswer)> = Vec::new();
    for name in names.all() {
        topics.push((name.to_owned(), topic_facts(cluster, name)));
    }
    describe(cluster, &mut topics);
    let partitions = topics
        .iter()
        .find(|(name, _)| *name == names.jobs)
        .and_then(|(_, facts)| facts.as_ref().ok()?.as_ref())
        .map(|facts| facts.partitions);
    let group = group_facts(cluster, group, &names.jobs, partitions).map_err(Refusal::from);
    Ok(Survey {
        brokers,
        controller: (controller >= 0).then_some(controller),
        topics,
        prefixes,
        group,
    })
}

/// The description of a topic, without its settings.
fn topic_facts(cluster: &Cluster, name: &str) -> Result<Option<TopicFacts>, Refusal> {
    // By name: a request for all topics leaves out those that this user may not describe.
    let metadata = cluster
        .inquirer()?
        .fetch_metadata(Some(name), REQUEST_TIMEOUT)
        .map_err(Error::topic(name, "describe it"))?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Ok(None);
    };
    if let Some(error) = topic.error() {
        return match RDKafkaErrorCode::from(error) {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
            code => Err(code.into()),
        };
    }
    Ok((!topic.partitions().is_empty()).then(|| count(topic)))
}

/// The description of a topic by its metadata, without its settings.
fn count(topic: &MetadataTopic) -> TopicFacts {
    let partitions = topic.partitions();
    let replicas = partitions.iter().map(|own| own.replicas().len());
    TopicFacts {
        partitions: partitions.len(),
        replication_factor: replicas.min().unwrap_or(0),
        without_leader: partitions.iter().filter(|own| own.leader() < 0).count(),
        out_of_step: partitions
            .iter()
            .filter(|own| own.isr().len() < own.replicas().len())
            .count(),
        settings: Ok(TopicSettings::default()),
    }
}

/// Adds the settings of the topics that exist.
fn describe(cluster: &Cluster, topics: &mut [(String, TopicAnswer)]) {
    let mut existing: Vec<(&str, &mut TopicFacts)> = topics
        .iter_mut()
        .filter_map(|(name, facts)| Some((name.as_str(), facts.as_mut().ok()?.as_mut()?)))
        .collect();
    if existing.is_empty() {
        return;
    }
    let names: Vec<&str> = existing.iter().map(|(name, _)| *name).collect();
    match topics::describe(cluster, &names) {
        Ok(described) => {
            for ((_, facts), settings) in existing.iter_mut().zip(described) {
                facts.settings = settings
                    .map(|settings| TopicSettings::new(&settings))
                    .map_err(Refusal::from);
            }
        }
        Err(error) => {
            let refusal = Refusal::from(error);
            for (_, facts) in &mut existing {
                facts.settings = Err(refusal.clone());
            }
        }
    }
}

/// The description of a group; `partitions` is the number of partitions of the jobs topic, if it
/// exists.
fn group_facts(
    cluster: &Cluster,
    group: &str,
    jobs: &str,
    partitions: Option<usize>,
) -> Result<GroupFacts, Error> {
    let groups = cluster
        .inquirer()?
        .fetch_group_list(Some(group), REQUEST_TIMEOUT)
        .map_err(Error::group(group, "describe it"))?;
    let known = groups.groups().iter().find(|known| known.name() == group);
    // A broker returns the state `Dead` for a group that does not exist.
    let known = known.filter(|known| !matches!(known.state(), "" | "Dead"));
    let lag = match partitions {
        None => Vec::new(),
        Some(partitions) => {
            let committed = GroupOffsets::new(cluster, group, jobs, partitions)?.committed()?;
            let beginning = beginning_offsets(cluster, jobs, partitions)?;
            let end = end_offsets(cluster, jobs, partitions)?;
            lag(&committed, &beginning, &end)
        }
    };
    Ok(GroupFacts {
        state: known.map(|known| known.state().to_owned()),
        members: known.map_or(0, |known| known.members().len()),
        lag,
    })
}

/// The lag of each partition. Without a committed offset it is counted from the first message that is
/// still kept.
fn lag(committed: &[i64], beginning: &[i64], end: &[i64]) -> Vec<i64> {
    committed
        .iter()
        .zip(beginning)
        .zip(end)
        .map(|((&committed, &beginning), &end)| (end - committed.max(beginning)).max(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_counted_from_the_committed_offset_or_from_the_first_message_that_is_kept() {
        assert_eq!(lag(&[7, 0, 9], &[0, 4, 0], &[10, 10, 9]), [3, 6, 0]);
    }

    #[test]
    fn settings_that_a_broker_does_not_return_are_missing_and_not_zero() {
        let settings = TopicSettings::new(&Settings::new());
        assert_eq!(settings, TopicSettings::default());
        let returned = [("retention.ms", "-1"), ("min.insync.replicas", "2")];
        let returned = returned.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings = TopicSettings::new(&Settings::from(returned));
        assert_eq!(settings.retention, Some(None));
        assert_eq!(settings.min_insync_replicas, Some(2));
    }

    #[test]
    fn a_refusal_distinguishes_a_denial_from_another_failure() {
        assert!(Refusal::from(RDKafkaErrorCode::TopicAuthorizationFailed).denied);
        assert!(!Refusal::from(RDKafkaErrorCode::RequestTimedOut).denied);
    }
}
