//! The facts about a cluster that the doctor's checks need, queried without writing to it.

use std::time::{SystemTime, UNIX_EPOCH};

use kafka::rights::{TopicRights, topic_rights};
use kafka::{Cluster, Refusal, Survey, TopicNames, survey};
use service::Shutdown;

use crate::doctor::rights::Program;
use crate::error::Error;
use crate::runs::{self, Run};

/// The facts about a cluster, this client and its user.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The bootstrap servers of the query.
    pub bootstrap_servers: String,
    /// This program's version.
    pub rollcall_version: String,
    /// librdkafka's version.
    pub client_version: String,
    /// The topics' names.
    pub names: TopicNames,
    /// The prefix of these names.
    pub prefix: String,
    /// The workers' group.
    pub group: String,
    /// The expected number of workers; `None` for the number of members of the group.
    pub workers: Option<usize>,
    /// The cluster's metadata, topics and group.
    pub survey: Survey,
    /// The runs on the runs topic, newest first.
    pub runs: Result<Vec<Run>, Refusal>,
    /// The programs that the user is to run.
    pub programs: Vec<Program>,
    /// What the user may do to the topics; empty where no program is named.
    pub rights: Result<TopicRights, Refusal>,
    /// The most bytes that producers send as one batch.
    pub batch_bytes: usize,
    /// This machine's clock, in milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: i64,
}

/// The subject of the checks: a prefix of topics and a group of workers.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Prefix of the topics.
    pub prefix: &'a str,
    /// The workers' group.
    pub group: &'a str,
    /// The expected number of workers.
    pub workers: Option<usize>,
    /// The programs that the user is to run.
    pub programs: &'a [Program],
}

impl Facts {
    /// Queries a cluster of which a broker has answered.
    ///
    /// # Errors
    /// When the cluster cannot be reached any more, or the query is stopped. A refused request is
    /// no error but a fact.
    pub fn ask(cluster: &Cluster, of: Subject<'_>, shutdown: &Shutdown) -> Result<Self, Error> {
        let names = TopicNames::new(of.prefix);
        let survey = survey(cluster, &names, of.group)?;
        let runs = match runs::known(cluster, &names, shutdown) {
            Ok(runs) => Ok(runs),
            Err(Error::Kafka(error)) => Err(Refusal::from(error)),
            Err(error) => return Err(error),
        };
        let rights = match of.programs {
            [] => Ok(TopicRights::new()),
            _ => topic_rights(cluster, &names.all()).map_err(Refusal::from),
        };
        Ok(Self {
            bootstrap_servers: cluster.bootstrap_servers().to_owned(),
            rollcall_version: env!("CARGO_PKG_VERSION").to_owned(),
            client_version: Cluster::client_version(),
            names,
            prefix: of.prefix.to_owned(),
            group: of.group.to_owned(),
            workers: of.workers,
            survey,
            runs,
            programs: of.programs.to_vec(),
            rights,
            batch_bytes: cluster.batch_bytes(),
            now_ms: now_ms(),
        })
    }
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}
