//! The command line of `dispatcher`, which is turned once into a checked [`Config`].

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use clap::builder::TypedValueParser;
use kafka::{BrokerArgs, Cluster, TopicNames, TopicSpec};
use pipeline::{Grain, Grouping, RunId};
use service::exit::EXIT_CODES_HELP;
use service::{JsonArgs, ListenArgs, LogArgs};

use crate::error::Error;
use crate::metrics::Metrics;
use crate::packing::JobsPerMessage;

/// Cut a data set into jobs by labels and time, and publish them
///
/// Prints the run's id, by which `aggregator --run-id` collects what the workers make of it.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = EXIT_CODES_HELP)]
pub struct Args {
    /// The data set: a CSV file with a header
    pub data_set: PathBuf,

    /// How rows become jobs.
    #[command(flatten)]
    pub grouping: GroupingArgs,

    /// How jobs become messages.
    #[command(flatten)]
    pub messages: MessageArgs,

    /// Name of the run [default: a fresh UUIDv7]
    #[arg(long, value_name = "ID", env = "RUN_ID")]
    pub run_id: Option<RunId>,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    pub topic_prefix: String,

    /// Wait until so many workers have joined their group before the first job
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub wait_for_workers: usize,

    /// The workers' consumer group, for --wait-for-workers
    #[arg(long, value_name = "GROUP", default_value = "rollcall.worker")]
    pub group: String,

    /// Where rejected rows are written, if there are any [default: rejects-RUN_ID.csv]
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,

    /// Health and metrics.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// The cluster.
    #[command(flatten)]
    pub broker: BrokerArgs,

    /// For machines.
    #[command(flatten)]
    pub json: JsonArgs,

    /// How much is said.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How rows become jobs. The job indexes depend on these and the data set alone.
#[derive(clap::Args, Clone, Debug)]
pub struct GroupingArgs {
    /// Label column; give it more than once for several, or '' to group by time alone
    #[arg(long, value_name = "COLUMN", default_value = "country")]
    pub by: Vec<String>,

    /// Column with the time of a test, in ISO 8601; without a zone it is taken for UTC
    #[arg(long, value_name = "COLUMN", default_value = "test_date")]
    pub time: String,

    /// Grain to which the time is truncated
    #[arg(
        long,
        value_name = "GRAIN",
        default_value = "hour",
        value_parser = clap::builder::PossibleValuesParser::new(["hour", "day", "week", "month"])
            .map(|name| name.parse::<Grain>().expect("it is one of the possible values"))
    )]
    pub every: Grain,

    /// Column with the result of a test
    #[arg(long, value_name = "COLUMN", default_value = "result")]
    pub result: String,

    /// Value of a positive result
    #[arg(long, value_name = "VALUE", default_value = "positive")]
    pub positive: String,

    /// Value of a negative result
    #[arg(long, value_name = "VALUE", default_value = "negative")]
    pub negative: String,

    /// A group with more rows is cut into parts
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=500_000)
    )]
    pub max_rows_per_job: u32,

    /// Give up when more rows than this are rejected [default: no limit]
    #[arg(long, value_name = "N")]
    pub max_rejects: Option<u64>,
}

/// How jobs become messages. No result depends on these.
#[derive(clap::Args, Clone, Debug)]
pub struct MessageArgs {
    /// Partitions of the jobs and outcomes topics, if they are not there yet: two to three times
    /// the workers that you expect
    #[arg(long, value_name = "N", default_value = "24")]
    pub partitions: NonZeroUsize,

    /// Copies of each partition, if the topics are not there yet [default: 3, or as many as there
    /// are brokers if fewer]
    #[arg(long, value_name = "N")]
    pub replication_factor: Option<u16>,

    /// Jobs in a message: auto, or a number
    #[arg(long, value_name = "auto|N", default_value_t = JobsPerMessage::Auto)]
    pub jobs_per_message: JobsPerMessage,

    /// How long a job takes, about; beyond 1ms a message has one job, so that they spread
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0ms",
        value_parser = humantime::parse_duration
    )]
    pub expected_job_time: Duration,
}

/// How long topics keep jobs and outcomes.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A limit to what is published and not yet worked off, for a broker that keeps little.
#[derive(Clone, Debug)]
pub struct UncommittedLimit {
    /// The group whose commits count.
    pub group: String,
    /// Bytes for each partition of the jobs topic.
    pub bytes_per_partition: usize,
    /// Jobs whose outcomes are not collected yet; what is collected is told by
    /// [`service::Progress::collected`].
    pub uncollected_jobs: u64,
}

/// A checked configuration of a dispatcher.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data set.
    pub data_set: PathBuf,
    /// How rows become jobs.
    pub grouping: Grouping,
    /// The run's name.
    pub run_id: RunId,
    /// Whether somebody else may know the run by its name and wait for it.
    pub run_is_named: bool,
    /// The cluster.
    pub cluster: Cluster,
    /// Its topics.
    pub topics: TopicNames,
    /// How they are made.
    pub topic_spec: TopicSpec,
    /// How jobs become messages.
    pub jobs_per_message: JobsPerMessage,
    /// How long a job takes, about.
    pub expected_job_time: Duration,
    /// Workers to wait for, and their group.
    pub wait_for_workers: Option<(usize, String)>,
    /// Rows that may be rejected; `None`: any number.
    pub max_rejects: Option<u64>,
    /// Where rejected rows go.
    pub rejects: PathBuf,
    /// `None` for a broker that keeps everything.
    pub uncommitted_limit: Option<UncommittedLimit>,
    /// Where it counts what it does.
    pub metrics: Metrics,
}

impl GroupingArgs {
    /// The grouping that these arguments ask for.
    ///
    /// # Errors
    /// When an empty label column stands among others, or both results are the same.
    pub fn grouping(&self) -> Result<Grouping, Error> {
        let label_columns = match self.by.as_slice() {
            [only] if only.is_empty() => Vec::new(),
            columns if columns.iter().any(String::is_empty) => return Err(Error::EmptyLabelColumn),
            columns => columns.to_vec(),
        };
        if self.positive == self.negative {
            return Err(Error::SameResults(self.positive.clone()));
        }
        Ok(Grouping {
            label_columns,
            time_column: self.time.clone(),
            grain: self.every,
            result_column: self.result.clone(),
            positive: self.positive.clone(),
            negative: self.negative.clone(),
            max_rows_per_job: self.max_rows_per_job,
        })
    }
}

impl MessageArgs {
    /// How topics are made.
    pub fn topic_spec(&self) -> TopicSpec {
        TopicSpec {
            partitions: self.partitions.get(),
            replication_factor: self.replication_factor,
            retention: RETENTION,
        }
    }
}

impl Args {
    /// The configuration that these arguments ask for.
    ///
    /// # Errors
    /// When no broker is named, or options contradict each other.
    pub fn config(&self) -> Result<Config, Error> {
        let run_id = self.run_id.clone().unwrap_or_else(RunId::fresh);
        let wait_for_workers =
            (self.wait_for_workers > 0).then(|| (self.wait_for_workers, self.group.clone()));
        Ok(Config {
            data_set: self.data_set.clone(),
            grouping: self.grouping.grouping()?,
            run_is_named: self.run_id.is_some(),
            cluster: Cluster::new(&self.broker, "rollcall-dispatcher")?,
            topics: TopicNames::new(&self.topic_prefix),
            topic_spec: self.messages.topic_spec(),
            jobs_per_message: self.messages.jobs_per_message,
            expected_job_time: self.messages.expected_job_time,
            wait_for_workers,
            max_rejects: self.grouping.max_rejects,
            rejects: self
                .rejects
                .clone()
                .unwrap_or_else(|| default_rejects(&run_id)),
            uncommitted_limit: None,
            metrics: Metrics::default(),
            run_id,
        })
    }
}

fn default_rejects(run_id: &RunId) -> PathBuf {
    Path::new(&format!("rejects-{run_id}.csv")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(of: &[&str]) -> Args {
        let fixed = [
            "dispatcher",
            "tests.csv",
            "--bootstrap-servers",
            "127.0.0.1:1",
        ];
        Args::try_parse_from(fixed.iter().chain(of)).expect("valid arguments")
    }

    #[test]
    fn the_defaults_are_those_of_the_generated_data_set() {
        let grouping = args(&[]).config().expect("valid").grouping;
        assert_eq!(grouping.label_columns, ["country"]);
        assert_eq!(
            (grouping.grain, grouping.max_rows_per_job),
            (Grain::Hour, 10_000)
        );
    }

    #[test]
    fn an_empty_label_column_groups_by_time_alone() {
        let grouping = args(&["--by", ""]).config().expect("valid").grouping;
        assert_eq!(grouping.label_columns, [""; 0]);
        let several = args(&["--by", "city", "--by", "country"]).config();
        let columns = several.expect("valid").grouping.label_columns;
        assert_eq!(columns, ["city", "country"]);
        let mixed = args(&["--by", "", "--by", "country"]).config();
        assert!(matches!(mixed, Err(Error::EmptyLabelColumn)));
    }

    #[test]
    fn without_a_broker_the_error_says_what_to_do() {
        let mut args = args(&[]);
        args.broker.bootstrap_servers = None;
        let error = args.config().expect_err("no broker").to_string();
        assert!(error.contains("--bootstrap-servers"), "{error}");
    }
}
