//! What a doctor has to know of a cluster, and how it is asked for; nothing is written there.

use std::time::{SystemTime, UNIX_EPOCH};

use kafka::rights::{TopicRights, topic_rights};
use kafka::{Cluster, Refusal, Survey, TopicNames, survey};
use service::Shutdown;

use crate::doctor::rights::Program;
use crate::error::Error;
use crate::runs::{self, Run};

/// What is known of a cluster and of who asks.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the brokers were looked for.
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
    /// Workers that are expected; `None`: as many as the group has.
    pub workers: Option<usize>,
    /// What the cluster says of itself.
    pub survey: Survey,
    /// The runs that it knows, newest first.
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

/// Whose runs are looked at, and who is to work them off.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Prefix of the topics.
    pub prefix: &'a str,
    /// The workers' group.
    pub group: &'a str,
    /// Workers that are expected.
    pub workers: Option<usize>,
    /// The programs that the user is to run.
    pub programs: &'a [Program],
}

impl Facts {
    /// Asks a cluster that a broker of which has answered.
    ///
    /// # Errors
    /// When the cluster can no longer be asked, or it was stopped. What is refused is a fact.
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
