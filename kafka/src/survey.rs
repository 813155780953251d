//! What a cluster says of itself, asked for without changing anything: brokers, the four topics with
//! their settings, a group with its members and its lag. What it means is for others to judge.

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;

use crate::cluster::{Cluster, REQUEST_TIMEOUT};
use crate::error::{Error, is_denial};
use crate::offsets::{GroupOffsets, beginning_offsets, end_offsets};
use crate::topics::{self, Settings, TopicNames};

/// Ends the name of every runs topic.
const RUNS_TOPIC: &str = ".runs.v2";

/// Why the cluster did not answer a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether it is not allowed, rather than impossible for now.
    pub denied: bool,
    /// What the cluster says.
    pub reason: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Self {
            denied: error.is_denied(),
            reason: match error {
                // What to do about it is for others to say.
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

/// A cluster, as it was when it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// The ids of the brokers, ascending.
    pub brokers: Vec<i32>,
    /// The broker that clients are told is the controller.
    pub controller: Option<i32>,
    /// The four topics, in the order of [`TopicNames::all`]; `None` for one that is not there.
    pub topics: Vec<(String, TopicAnswer)>,
    /// Prefixes under which the cluster has a runs topic, the asked one included.
    pub prefixes: Vec<String>,
    /// The workers' group.
    pub group: Result<GroupFacts, Refusal>,
}

/// What the cluster says of one topic; `None`: it is not there.
pub type TopicAnswer = Result<Option<TopicFacts>, Refusal>;

/// One topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicFacts {
    /// How many partitions it has.
    pub partitions: usize,
    /// Copies of the partition that has the fewest.
    pub replication_factor: usize,
    /// Partitions without a leader: they can be neither written nor read.
    pub without_leader: usize,
    /// Partitions with a copy that is not in step.
    pub out_of_step: usize,
    /// Its settings.
    pub settings: Result<TopicSettings, Refusal>,
}

/// Settings of a topic, the broker's where it has none of its own; `None` where it is not told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicSettings {
    /// `cleanup.policy`.
    pub cleanup_policy: Option<String>,
    /// `min.insync.replicas`.
    pub min_insync_replicas: Option<usize>,
    /// `max.message.bytes`: of a batch as it is written, compressed.
    pub max_message_bytes: Option<usize>,
    /// `retention.ms`; `Some(None)` is for ever.
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

/// The workers' group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// Its state in Kafka's words (`Stable`, `Empty`, …); `None` when there is no such group.
    pub state: Option<String>,
    /// How many members it has.
    pub members: usize,
    /// By partition of the jobs topic: messages that are there and not committed. Empty when there
    /// is no jobs topic.
    pub lag: Vec<i64>,
}

/// Asks a cluster about itself.
///
/// # Errors
/// When not even the brokers can be asked for. What else is refused is part of the survey.
pub fn survey(cluster: &Cluster, names: &TopicNames, group: &str) -> Result<Survey, Error> {
    let inquirer = cluster.inquirer()?;
    let metadata = inquirer
        .fetch_metadata(None, REQUEST_TIMEOUT)
        .map_err(Error::client("ask for the brokers and topics"))?;
    let mut brokers: Vec<i32> = metadata
        .brokers()
        .iter()
        .map(|broker| broker.id())
        .collect();
    brokers.sort_unstable();
    let timeout = i32::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client's handle is valid as long as the inquirer is borrowed.
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

/// A topic without its settings.
fn topic_facts(cluster: &Cluster, name: &str) -> Result<Option<TopicFacts>, Refusal> {
    // By name: where all are asked for, those that are not allowed are merely not there.
    let metadata = cluster
        .inquirer()?
        .fetch_metadata(Some(name), REQUEST_TIMEOUT)
        .map_err(Error::topic(name, "ask for it"))?;
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

/// Adds the settings of those that are there.
fn describe(cluster: &Cluster, topics: &mut [(String, TopicAnswer)]) {
    let mut there: Vec<(&str, &mut TopicFacts)> = topics
        .iter_mut()
        .filter_map(|(name, facts)| Some((name.as_str(), facts.as_mut().ok()?.as_mut()?)))
        .collect();
    if there.is_empty() {
        return;
    }
    let names: Vec<&str> = there.iter().map(|(name, _)| *name).collect();
    match topics::describe(cluster, &names) {
        Ok(described) => {
            for ((_, facts), settings) in there.iter_mut().zip(described) {
                facts.settings = settings
                    .map(|settings| TopicSettings::new(&settings))
                    .map_err(Refusal::from);
            }
        }
        Err(error) => {
            let refusal = Refusal::from(error);
            for (_, facts) in &mut there {
                facts.settings = Err(refusal.clone());
            }
        }
    }
}

fn group_facts(
    cluster: &Cluster,
    group: &str,
    jobs: &str,
    partitions: Option<usize>,
) -> Result<GroupFacts, Error> {
    let groups = cluster
        .inquirer()?
        .fetch_group_list(Some(group), REQUEST_TIMEOUT)
        .map_err(Error::group(group, "ask for its members"))?;
    let known = groups.groups().iter().find(|known| known.name() == group);
    // `Dead` is how a broker says that there is none.
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

/// What was never committed counts from the first message that is still there.
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
    fn lag_counts_from_the_commit_or_from_the_first_message_that_is_left() {
        assert_eq!(lag(&[7, 0, 9], &[0, 4, 0], &[10, 10, 9]), [3, 6, 0]);
    }

    #[test]
    fn settings_that_are_not_told_are_missing_and_not_zero() {
        let settings = TopicSettings::new(&Settings::new());
        assert_eq!(settings, TopicSettings::default());
        let told = [("retention.ms", "-1"), ("min.insync.replicas", "2")];
        let told = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings = TopicSettings::new(&Settings::from(told));
        assert_eq!(settings.retention, Some(None));
        assert_eq!(settings.min_insync_replicas, Some(2));
    }

    #[test]
    fn a_refusal_tells_what_is_denied_from_what_is_merely_impossible() {
        assert!(Refusal::from(RDKafkaErrorCode::TopicAuthorizationFailed).denied);
        assert!(!Refusal::from(RDKafkaErrorCode::RequestTimedOut).denied);
    }
}
