//! The four topics of a prefix: their names and settings. The dispatcher creates them with every setting
//! stated; no client creates one by accident.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use tracing::{debug, info, warn};

use crate::cluster::{Cluster, Context, REQUEST_TIMEOUT};
use crate::error::Error;
use crate::passing::{
    ATTEMPT_TIMEOUT, RETRY_TIMEOUT, knows_better_soon, until_it_passes, until_passed,
};
use crate::settings::{self, Role};

/// How long a group may take to be empty once its members have ended: twice the time-out of their
/// sessions, for one that ended while it joined has its own when those of the others are over, and what
/// a busy broker needs to notice.
pub(crate) const EMPTY_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const EMPTY_STEP: Duration = Duration::from_millis(20);

/// The timeout for each partition of a new topic to have a leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two attempts to create topics on a broker that has just started.
const CREATE_STEP: Duration = Duration::from_millis(100);

/// The topics' names, by their prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNames {
    /// Jobs, from dispatchers to workers.
    pub jobs: String,
    /// Outcomes, from workers to aggregators.
    pub outcomes: String,
    /// Dead letters.
    pub dlq: String,
    /// The events of runs.
    pub runs: String,
}

impl TopicNames {
    /// The names under a prefix, `rollcall` by default.
    pub fn new(prefix: &str) -> Self {
        Self {
            jobs: format!("{prefix}.jobs.v2"),
            outcomes: format!("{prefix}.outcomes.v2"),
            dlq: format!("{prefix}.jobs.v2.dlq"),
            runs: format!("{prefix}.runs.v2"),
        }
    }

    /// All of them.
    pub fn all(&self) -> [&str; 4] {
        [&self.jobs, &self.outcomes, &self.dlq, &self.runs]
    }
}

/// The workers' group of a prefix, unless another one is named: workers of one prefix share its
/// jobs and nobody else's.
pub fn default_group(prefix: &str) -> String {
    format!("{prefix}.worker")
}

/// The settings of new topics.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Partitions of the jobs and of the outcomes topic.
    pub partitions: usize,
    /// Copies of each partition; `None`: three, or as many as there are brokers if fewer.
    pub replication_factor: Option<u16>,
    /// The retention of jobs and outcomes.
    pub retention: Duration,
}

/// Makes those of the topics that are not there yet, and waits until each partition has a leader. A
/// cluster that is away or busy meanwhile is waited for, as long as the options say, or until `stopped`
/// says so.
///
/// # Errors
/// When the cluster refuses, no leader is found in time, or it was stopped.
pub fn create(
    cluster: &Cluster,
    names: &TopicNames,
    spec: &TopicSpec,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let until = Instant::now() + LEADER_TIMEOUT.max(cluster.broker_timeout());
    let missing = until_passed(until, stopped, || missing(cluster, names))?;
    if missing.is_empty() {
        return Ok(());
    }
    let replicas = match spec.replication_factor {
        Some(replicas) => i32::from(replicas),
        None => until_passed(until, stopped, || cluster.broker_count())?.clamp(1, 3) as i32,
    };
    // With three copies one broker may be away; with fewer none may.
    let min_insync = if replicas >= 3 { "2" } else { "1" };
    let retention = spec.retention.as_millis().to_string();
    let partitions = i32::try_from(spec.partitions).unwrap_or(i32::MAX);
    let new_topic = |name| {
        let replication = TopicReplication::Fixed(replicas);
        let is_single = name == names.runs || name == names.dlq;
        let partitions = if is_single { 1 } else { partitions };
        let topic = NewTopic::new(name, partitions, replication)
            .set("min.insync.replicas", min_insync)
            // The brokers' clock: a client's that is wrong would have its messages deleted or refused.
            .set("message.timestamp.type", "LogAppendTime");
        if name == names.runs {
            topic.set("cleanup.policy", "compact")
        } else {
            topic
                .set("cleanup.policy", "delete")
                .set("retention.ms", &retention)
        }
    };
    info!(
        topics = ?missing,
        partitions,
        replicas,
        min_insync,
        retention = %humantime::format_duration(spec.retention),
        "creating topics"
    );
    let admin = Admin::new(cluster)?;
    loop {
        let wanted = || missing.iter().map(String::as_str).map(new_topic);
        let mut refused = until_passed(until, stopped, || admin.create(wanted()))?;
        // Two dispatchers may create the topics at once, or an earlier attempt has created them and its
        // answer was late.
        refused.retain(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists);
        let Some((name, code)) = refused.pop() else {
            break;
        };
        // A broker that has just started answers before it may be given any partition.
        let is_new =
            spec.replication_factor.is_none() && code == RDKafkaErrorCode::InvalidReplicationFactor;
        if !(is_new || knows_better_soon(code)) || Instant::now() >= until {
            return Err(Error::topic(&name, "create it")(KafkaError::AdminOp(code)));
        }
        if stopped() {
            return Err(Error::Stopped);
        }
        thread::sleep(CREATE_STEP);
    }
    wait_for_leaders(cluster, names, until, stopped)
}

/// Warns of topics whose retention is not the requested one. Topics that exist keep their retention.
/// Not for the in-process broker, which does not answer the request within 10 s.
pub fn warn_of_other_retention(cluster: &Cluster, names: &TopicNames, asked: Duration) {
    let there = [&names.jobs, &names.outcomes, &names.dlq].map(String::as_str);
    let described = match describe(cluster, &there) {
        Ok(described) => described,
        // Not everybody may ask, and no run needs it.
        Err(error) => {
            debug!(%error, "retention not checked");
            return;
        }
    };
    for (topic, settings) in there.iter().zip(described) {
        match settings.map(|settings| retention(&settings)) {
            Ok(Some(kept)) if kept != Some(asked) => warn!(
                topic,
                "topic keeps messages {}, not {}: --retention holds for new topics; to change this \
                 one: kafka-configs.sh --alter --topic {topic} --add-config retention.ms={}",
                kept.map_or_else(
                    || "for ever".to_owned(),
                    |kept| humantime::format_duration(kept).to_string()
                ),
                humantime::format_duration(asked),
                asked.as_millis()
            ),
            Ok(_) => {}
            Err(code) => debug!(topic, %code, "retention not checked"),
        }
    }
}

/// The settings of a topic, by name.
pub(crate) type Settings = HashMap<String, String>;

/// `retention.ms` among a topic's settings: `None` where it is missing, `Some(None)` for ever.
pub(crate) fn retention(settings: &Settings) -> Option<Option<Duration>> {
    let millis = settings.get("retention.ms")?.parse::<i64>().ok()?;
    Some(u64::try_from(millis).ok().map(Duration::from_millis))
}

/// The settings of topics, in their order.
pub(crate) fn describe(
    cluster: &Cluster,
    topics: &[&str],
) -> Result<Vec<Result<Settings, RDKafkaErrorCode>>, Error> {
    Admin::new(cluster)?.describe(topics)
}

/// Deletes topics; those that are not there are no error.
///
/// # Errors
/// When the cluster refuses.
pub fn delete(cluster: &Cluster, names: &TopicNames) -> Result<(), Error> {
    let admin = Admin::new(cluster)?;
    for (name, code) in admin.delete(&names.all())? {
        if code != RDKafkaErrorCode::UnknownTopicOrPartition {
            return Err(Error::topic(&name, "delete it")(KafkaError::AdminOp(code)));
        }
    }
    Ok(())
}

/// Deletes an empty consumer group.
///
/// # Errors
/// When the cluster refuses.
pub fn delete_group(cluster: &Cluster, group: &str) -> Result<(), Error> {
    Admin::new(cluster)?.delete_group(group)
}

/// The pause before it is looked again whether a dispatcher has made the topics: an eighth of the time
/// that they were waited for, so that nobody is much later than need be, and hardly asks.
pub fn pause(waited: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(500);
    (waited / 8).clamp(SHORTEST, LONGEST)
}

/// The number of partitions of a topic; `None` when there is no such topic.
///
/// # Errors
/// When the cluster cannot be asked.
pub fn partition_count(cluster: &Cluster, topic: &str) -> Result<Option<usize>, Error> {
    until_it_passes(RETRY_TIMEOUT, || ask_for_partitions(cluster, topic))
}

/// The number of partitions of a topic that another process creates; `None` while it does not exist. A
/// broker that is away meanwhile is waited for, as [`Cluster::wait_until_reachable`] does.
///
/// # Errors
/// When the cluster refuses or stays away, or `stopped` says so.
pub fn look_for(
    cluster: &Cluster,
    topic: &str,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<usize>, Error> {
    match ask_for_partitions(cluster, topic) {
        Err(error) if error.is_passing() => {
            debug!(topic, %error, "cannot look up the topic; waiting for a broker");
            cluster.wait_until_reachable(stopped)?;
            Ok(None)
        }
        found => found,
    }
}

fn ask_for_partitions(cluster: &Cluster, topic: &str) -> Result<Option<usize>, Error> {
    let metadata = cluster
        .inquirer()?
        .fetch_metadata(Some(topic), ATTEMPT_TIMEOUT)
        .map_err(Error::topic(topic, "ask for its partitions"))?;
    let known = metadata.topics().iter().find(|known| known.name() == topic);
    if let Some(denied) = known.and_then(denied) {
        return Err(denied);
    }
    Ok(known
        .filter(|known| known.error().is_none() && !known.partitions().is_empty())
        .map(|known| known.partitions().len()))
}

/// The error of a topic that this user may not describe, which the cluster does not report as missing.
fn denied(topic: &MetadataTopic) -> Option<Error> {
    let code = topic.error()?.into();
    let error = Error::topic(topic.name(), "ask for it")(KafkaError::MetadataFetch(code));
    error.is_denied().then_some(error)
}

/// The number of members of a consumer group that is stable; 0 in any other state.
///
/// # Errors
/// When the cluster cannot be asked.
pub fn group_size(cluster: &Cluster, group: &str) -> Result<usize, Error> {
    let asked = cluster
        .inquirer()?
        .fetch_group_list(Some(group), REQUEST_TIMEOUT);
    let groups = match asked {
        // Who asks does so again.
        Err(KafkaError::GroupListFetch(code)) if knows_better_soon(code) => return Ok(0),
        asked => asked.map_err(Error::group(group, "ask for its members"))?,
    };
    let known = groups.groups().iter().find(|known| known.name() == group);
    Ok(known
        .filter(|known| known.state() == "Stable")
        .map_or(0, |known| known.members().len()))
}

/// The number of members of a consumer group, also during a rebalance.
///
/// # Errors
/// When the cluster cannot be asked.
pub fn group_members(cluster: &Cluster, group: &str) -> Result<usize, Error> {
    let groups = until_it_passes(RETRY_TIMEOUT, || {
        let asked = cluster
            .inquirer()?
            .fetch_group_list(Some(group), ATTEMPT_TIMEOUT);
        asked.map_err(Error::group(group, "ask for its members"))
    })?;
    let known = groups.groups().iter().find(|known| known.name() == group);
    Ok(known.map_or(0, |known| known.members().len()))
}

/// The topics that do not exist.
fn missing(cluster: &Cluster, names: &TopicNames) -> Result<Vec<String>, Error> {
    let client = cluster.inquirer()?;
    let mut missing = Vec::new();
    for name in names.all() {
        let metadata = client
            .fetch_metadata(Some(name), ATTEMPT_TIMEOUT)
            .map_err(Error::topic(name, "ask for it"))?;
        if let Some(denied) = metadata.topics().iter().find_map(denied) {
            return Err(denied);
        }
        let there = metadata
            .topics()
            .iter()
            .any(|topic| topic.name() == name && !topic.partitions().is_empty());
        if !there {
            missing.push(name.to_owned());
        }
    }
    Ok(missing)
}

fn wait_for_leaders(
    cluster: &Cluster,
    names: &TopicNames,
    until: Instant,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Error> {
    const STEP: Duration = Duration::from_millis(5);
    let client = cluster.inquirer()?;
    for name in names.all() {
        loop {
            let metadata = until_passed(until, stopped, || {
                client
                    .fetch_metadata(Some(name), ATTEMPT_TIMEOUT)
                    .map_err(Error::topic(name, "ask for its leaders"))
            })?;
            let led = metadata
                .topics()
                .iter()
                .filter(|topic| topic.name() == name)
                .flat_map(|topic| topic.partitions())
                .map(|partition| partition.leader() >= 0);
            if led.clone().count() > 0 && led.into_iter().all(|led| led) {
                break;
            }
            if stopped() {
                return Err(Error::Stopped);
            }
            if Instant::now() >= until {
                return Err(Error::Topic {
                    topic: name.to_owned(),
                    action: "find a leader for each partition",
                    source: KafkaError::AdminOp(RDKafkaErrorCode::LeaderNotAvailable),
                });
            }
            thread::sleep(STEP);
        }
    }
    Ok(())
}

/// rdkafka's admin client with its futures waited for.
struct Admin {
    /// Always there, until it is dropped.
    client: Option<AdminClient<Context>>,
    options: AdminOptions,
    runtime: tokio::runtime::Runtime,
}

/// An admin client ends when a thread of its own has noticed that it is to, which looks every 100 ms.
/// Nobody has to wait for that.
impl Drop for Admin {
    fn drop(&mut self) {
        let client = self.client.take();
        // Where no thread can be had, it is ended here.
        let _ = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || drop(client));
    }
}

type Refused = Vec<(String, RDKafkaErrorCode)>;

impl Admin {
    fn new(cluster: &Cluster) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| Error::Client {
                action: "administrate topics",
                source: KafkaError::AdminOpCreation(error.to_string()),
            })?;
        Ok(Self {
            client: Some(settings::create(
                &cluster.config(Role::Admin),
                cluster.context(),
            )?),
            options: AdminOptions::new()
                .operation_timeout(Some(REQUEST_TIMEOUT))
                .request_timeout(Some(REQUEST_TIMEOUT)),
            runtime,
        })
    }

    fn client(&self) -> &AdminClient<Context> {
        self.client.as_ref().expect("it is not dropped yet")
    }

    fn create<'a>(&self, specs: impl Iterator<Item = NewTopic<'a>>) -> Result<Refused, Error> {
        let specs: Vec<_> = specs.collect();
        let results = self
            .runtime
            .block_on(self.client().create_topics(&specs, &self.options))
            .map_err(Error::client("create topics"))?;
        Ok(results.into_iter().filter_map(Result::err).collect())
    }

    fn describe(&self, topics: &[&str]) -> Result<Vec<Result<Settings, RDKafkaErrorCode>>, Error> {
        let topics: Vec<_> = topics
            .iter()
            .map(|topic| ResourceSpecifier::Topic(topic))
            .collect();
        let results = self
            .runtime
            .block_on(self.client().describe_configs(&topics, &self.options))
            .map_err(Error::client("ask for the settings of topics"))?;
        let settings = |resource: ConfigResource| {
            let entries = resource.entries.into_iter();
            entries
                .filter_map(|entry| Some((entry.name, entry.value?)))
                .collect()
        };
        Ok(results
            .into_iter()
            .map(|result| result.map(settings))
            .collect())
    }

    fn delete(&self, names: &[&str]) -> Result<Refused, Error> {
        let results = self
            .runtime
            .block_on(self.client().delete_topics(names, &self.options))
            .map_err(Error::client("delete topics"))?;
        Ok(results.into_iter().filter_map(Result::err).collect())
    }

    fn delete_group(&self, group: &str) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let results = self
                .runtime
                .block_on(self.client().delete_groups(&[group], &self.options))
                .map_err(Error::client("delete a group"))?;
            match results.into_iter().find_map(Result::err) {
                None | Some((_, RDKafkaErrorCode::GroupIdNotFound)) => return Ok(()),
                // A member that has just ended stays in the group until it has left or its session has
                // timed out.
                Some((_, RDKafkaErrorCode::NonEmptyGroup)) if started.elapsed() < EMPTY_TIMEOUT => {
                    thread::sleep(EMPTY_STEP);
                }
                Some((_, code)) => {
                    return Err(Error::group(group, "delete it")(KafkaError::AdminOp(code)));
                }
            }
        }
    }
}
