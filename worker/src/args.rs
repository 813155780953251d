//! The command line of `worker`, which is turned once into a checked [`Config`].

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use kafka::{BrokerArgs, Cluster, Membership, TopicNames, default_group};
use pipeline::Worker;
use service::exit::EXIT_CODES_HELP;
use service::{ListenArgs, LogArgs};

use crate::error::Error;
use crate::retry::RetryPolicy;
use crate::simulated_work::SimulatedWork;

/// Compute the jobs of every run on a cluster, until stopped
///
/// Start as many as you like, on as many machines as you like: they share the jobs. A worker that
/// is killed costs nothing but the work that it had in hand, which another one does again.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = after_help())]
pub struct Args {
    /// Consumer group that shares the jobs [default: PREFIX.worker]
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    pub topic_prefix: String,

    /// Threads that compute
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,

    /// How often a failing job is tried before it is a dead letter
    #[arg(long, value_name = "N", default_value = "3")]
    pub max_attempts: NonZeroU32,

    /// Pause before the second attempt at a job; doubled before each further one, up to 10s
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "100ms",
        value_parser = humantime::parse_duration
    )]
    pub retry_backoff: Duration,

    /// Longest time for one attempt at a job [default: none]. A worker whose job takes longer ends
    /// with an error, so that its supervisor starts a new one; the third time the job is a dead
    /// letter
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub job_timeout: Option<Duration>,

    /// What is added to each job.
    #[command(flatten)]
    pub simulate_work: SimulatedWork,

    /// Name of this worker in outcomes and reports [default: process id and start time]
    #[arg(long, value_name = "ID")]
    pub worker_id: Option<String>,

    /// Lasting name in the group: a restarted worker of this name gets its partitions back at once
    #[arg(long, value_name = "ID")]
    pub group_instance_id: Option<String>,

    /// How often offsets are committed
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "100ms",
        value_parser = humantime::parse_duration
    )]
    pub commit_interval: Duration,

    /// How outcomes and offsets reach the broker
    #[arg(long, value_enum, default_value_t)]
    pub delivery: Delivery,

    /// Which outcomes are held back, in `rollcall run` on the in-process broker.
    #[arg(long, value_name = "LIMIT", hide = true)]
    pub unread_limit: Option<UnreadLimit>,

    /// End when standard input does, so that a worker never outlives the process that started it;
    /// `rollcall worker` says at the end what it has used, as JSON on standard output
    #[arg(long)]
    pub exit_with_stdin: bool,

    /// Health and metrics.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// The cluster.
    #[command(flatten)]
    pub broker: BrokerArgs,

    /// How much is said.
    #[command(flatten)]
    pub log: LogArgs,
}

/// A limit to the outcomes that were not read, for a broker that keeps little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadLimit {
    /// The group that has committed how far they were read.
    pub reader: String,
    /// Bytes of a partition.
    pub bytes_per_partition: usize,
    /// The number of this worker, from 0,
    pub number: usize,
    /// among this many, each of which has outcomes partitions of its own.
    pub workers: usize,
}

impl fmt::Display for UnreadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reader,
            bytes_per_partition,
            number,
            workers,
        } = self;
        write!(f, "{bytes_per_partition}/{number}/{workers}/{reader}")
    }
}

impl FromStr for UnreadLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(4, '/');
        let mut number = || parts.next()?.parse().ok();
        let numbers = (number(), number(), number());
        match (numbers, parts.next()) {
            ((Some(bytes_per_partition), Some(number), Some(workers)), Some(reader))
                if number < workers =>
            {
                Ok(Self {
                    reader: reader.to_owned(),
                    bytes_per_partition,
                    number,
                    workers,
                })
            }
            _ => Err("not BYTES/NUMBER/WORKERS/GROUP".to_owned()),
        }
    }
}

/// How outcomes and offsets reach the broker. The result of a run is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Delivery {
    /// Outcomes, then the offsets behind them: after a crash some outcomes come again, and the
    /// aggregator drops them.
    #[default]
    AtLeastOnce,
    /// Both in one transaction: for those who read the outcomes themselves, with read_committed.
    ExactlyOnce,
}

impl Delivery {
    /// The word for it on a command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at-least-once",
            Self::ExactlyOnce => "exactly-once",
        }
    }
}

fn after_help() -> String {
    format!(
        "Examples:\n\
         \x20 worker --bootstrap-servers localhost:9092\n\
         \x20 worker --threads 4 --topic-prefix tests --group tests.worker\n\
         \x20 worker -X session.timeout.ms=10000\n\n\
         {EXIT_CODES_HELP}"
    )
}

/// A checked configuration of a worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: Cluster,
    /// Its topics.
    pub topics: TopicNames,
    /// Membership in the group.
    pub membership: Membership,
    /// Who this worker is, as its outcomes say.
    pub worker: Worker,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// When a failing job is tried again, and when no more.
    pub retry: RetryPolicy,
    /// After which time a job is taken for one that never ends.
    pub job_timeout: Option<Duration>,
    /// What is added to each job.
    pub simulate_work: SimulatedWork,
    /// How often offsets are committed.
    pub commit_interval: Duration,
    /// Whether outcomes and offsets are committed together.
    pub delivery: Delivery,
    /// `None` for a broker that keeps everything.
    pub unread_limit: Option<UnreadLimit>,
    /// Whether the end of standard input is a request to end.
    pub exit_with_stdin: bool,
    /// Where health and metrics are served.
    pub listen: Option<SocketAddr>,
}

impl Args {
    /// The configuration that these arguments ask for.
    ///
    /// # Errors
    /// When no broker is named, or a property is one that rollcall sets itself.
    pub fn config(&self) -> Result<Config, Error> {
        let id = self.worker_id.clone().unwrap_or_else(fresh_id);
        Ok(Config {
            cluster: Cluster::new(&self.broker, &format!("rollcall-worker-{id}"))?,
            topics: TopicNames::new(&self.topic_prefix),
            membership: Membership {
                group: self
                    .group
                    .clone()
                    .unwrap_or_else(|| default_group(&self.topic_prefix)),
                instance_id: self.group_instance_id.clone(),
            },
            worker: Worker {
                host: gethostname::gethostname().to_string_lossy().into_owned(),
                id,
            },
            threads: self.threads,
            retry: RetryPolicy {
                max_attempts: self.max_attempts,
                first_pause: self.retry_backoff,
            },
            job_timeout: self.job_timeout,
            simulate_work: self.simulate_work,
            commit_interval: self.commit_interval,
            delivery: self.delivery,
            unread_limit: self.unread_limit.clone(),
            exit_with_stdin: self.exit_with_stdin,
            listen: self.listen.listen,
        })
    }
}

/// A name that no other worker of this host has had: in containers, process ids come again.
pub(crate) fn fresh_id() -> String {
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{:x}", std::process::id(), started.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_as_it_was_written() {
        let limit = UnreadLimit {
            reader: "a/b.reader".to_owned(),
            bytes_per_partition: 1_000,
            number: 1,
            workers: 2,
        };
        assert_eq!(limit.to_string().parse(), Ok(limit));
        for wrong in ["", "1/2/2/a", "1/0/2", "1/x/2/a"] {
            assert!(wrong.parse::<UnreadLimit>().is_err(), "{wrong}");
        }
    }
}
