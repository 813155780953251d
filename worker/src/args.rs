//! The command line of `worker`, which is converted once to a validated [`Config`].

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
/// Start any number of workers, on any number of machines: they share the jobs. When a worker is
/// killed, another one repeats the jobs that it had in flight; nothing else is lost.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = after_help())]
pub struct Args {
    /// Consumer group that shares the jobs [default: PREFIX.worker]
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    pub topic_prefix: String,

    /// Number of compute threads
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,

    /// Number of attempts at a failing job before it is a dead letter
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

    /// Longest time for one attempt at a job [default: no limit]. A worker whose job takes longer
    /// exits with an error, so that its supervisor starts a new one; the third time the job becomes a
    /// dead letter
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub job_timeout: Option<Duration>,

    /// Work that is added to each job, for benchmarks and tests.
    #[command(flatten)]
    pub simulate_work: SimulatedWork,

    /// Name of this worker in outcomes and reports [default: process id and start time]
    #[arg(long, value_name = "ID")]
    pub worker_id: Option<String>,

    /// Static membership id (Kafka's group.instance.id): a worker restarted with the same id gets its
    /// partitions back at once
    #[arg(long, value_name = "ID")]
    pub group_instance_id: Option<String>,

    /// Interval between two commits of offsets
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

    /// Limit of unread outcomes, set by `rollcall run` on the in-process broker.
    #[arg(long, value_name = "LIMIT", hide = true)]
    pub unread_limit: Option<UnreadLimit>,

    /// Exit at the end of standard input, so that a worker never outlives the process that started
    /// it; `rollcall worker` prints its resource usage at exit, as JSON on standard output
    #[arg(long)]
    pub exit_with_stdin: bool,

    /// Health and metrics.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// The cluster.
    #[command(flatten)]
    pub broker: BrokerArgs,

    /// The log level and format.
    #[command(flatten)]
    pub log: LogArgs,
}

/// A limit of the outcomes that the reader has not read yet, for a broker that keeps little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadLimit {
    /// The consumer group whose committed offsets are those up to which outcomes were read.
    pub reader: String,
    /// The largest number of unread bytes in a partition.
    pub bytes_per_partition: usize,
    /// The number of this worker, from 0.
    pub number: usize,
    /// The number of all workers. Each of them sends to outcomes partitions of its own.
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

/// The delivery guarantee of outcomes and offsets. The result of a run is the same with both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Delivery {
    /// First outcomes, then offsets: after a crash some outcomes are sent again, and the aggregator
    /// drops the duplicates.
    #[default]
    AtLeastOnce,
    /// Both in one transaction: for consumers of your own that read the outcomes, with
    /// read_committed.
    ExactlyOnce,
}

impl Delivery {
    /// The value of `--delivery`.
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

/// The validated configuration of a worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: Cluster,
    /// The names of the topics.
    pub topics: TopicNames,
    /// The consumer group and the static member id.
    pub membership: Membership,
    /// The worker's id and host, which are part of its outcomes.
    pub worker: Worker,
    /// The number of compute threads.
    pub threads: NonZeroUsize,
    /// The number of attempts at a failing job, and the pauses between them.
    pub retry: RetryPolicy,
    /// The time after which a job counts as one that hangs; `None` for no limit.
    pub job_timeout: Option<Duration>,
    /// The work that is added to each job.
    pub simulate_work: SimulatedWork,
    /// The interval between two commits of offsets.
    pub commit_interval: Duration,
    /// The delivery guarantee of outcomes and offsets.
    pub delivery: Delivery,
    /// The limit of unread outcomes; `None` for a broker that keeps everything.
    pub unread_limit: Option<UnreadLimit>,
    /// Whether the end of standard input is a request to shut down.
    pub exit_with_stdin: bool,
    /// The address of the HTTP server of health and metrics; `None` for no server.
    pub listen: Option<SocketAddr>,
}

impl Args {
    /// The configuration of these arguments.
    ///
    /// # Errors
    /// When no broker is given, or a client property is one that rollcall sets itself.
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
                host: service::process::host_name(),
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

/// An id that no other worker of this host has or had. It contains the start time, because process ids
/// repeat in containers.
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
    fn a_limit_is_equal_after_printing_and_parsing() {
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
