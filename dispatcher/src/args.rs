//! The command line of `dispatcher`, which is turned once into a checked [`Config`].

mod grouping;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Parser;
use clap::builder::TypedValueParser;
use computations::Registry;
use kafka::{BrokerArgs, Cluster, TopicNames, TopicSpec, default_group};
use pipeline::{ResultsPolicy, RunId, RunOptions};
use service::exit::EXIT_CODES_HELP;
use service::{JsonArgs, ListenArgs, LogArgs};

use crate::columns::PayloadColumns;
use crate::error::Error;
use crate::grouping::Grouping;
use crate::input::{self, CsvFormat, Delimiter, Input, Quote};
use crate::metrics::Metrics;
use crate::publish::JobsPerMessage;
use crate::rejects::MaxRejects;
use crate::timestamp::TimeFormat;

pub use self::grouping::{GroupingArgs, NotAParam, Param, payload_columns};

/// Cut a data set into jobs by labels and time, and publish them
///
/// Prints the run's id, by which `aggregator --run-id` collects what the workers make of it.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = after_help())]
pub struct Args {
    /// The data set: CSV files with a header, plain or packed by gzip or zstd, or Parquet files;
    /// patterns such as 'tests-*.csv'; or - for standard input, which cannot be read again: such a
    /// run is not resumable
    #[arg(value_name = "DATASET", required = true)]
    pub data_sets: Vec<PathBuf>,

    /// How the data set is read.
    #[command(flatten)]
    pub input: InputArgs,

    /// How rows become jobs.
    #[command(flatten)]
    pub grouping: GroupingArgs,

    /// What counts where results differ.
    #[command(flatten)]
    pub results: ResultArgs,

    /// How jobs become messages.
    #[command(flatten)]
    pub messages: MessageArgs,

    /// How much memory rows may take.
    #[command(flatten)]
    pub memory: MemoryArgs,

    /// Name of the run [default: a fresh UUIDv7]. A run of this name that was begun is
    /// resumed: what is missing of it is published, if data set and options are the same
    #[arg(
        long,
        value_name = "ID",
        env = "RUN_ID",
        default_value = "",
        hide_default_value = true
    )]
    pub run_id: RunName,

    /// Take the run up and publish again each job that has no outcome although workers have passed
    /// it, such as those of a message that they could not read
    #[arg(long)]
    pub resume: bool,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    pub topic_prefix: String,

    /// Wait until this number of workers have joined their group before the first job
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub wait_for_workers: usize,

    /// The workers' consumer group, for --wait-for-workers and --resume [default: PREFIX.worker]
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

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

/// The name of a run; `None` where no name is given, or an empty one, as compose files leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunName(pub Option<RunId>);

impl FromStr for RunName {
    type Err = <RunId as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Self(None)),
            name => name.parse().map(|name| Self(Some(name))),
        }
    }
}

/// How a data set is read.
#[derive(clap::Args, Clone, Debug)]
pub struct InputArgs {
    /// Character between the fields of CSV files: an ASCII one, or tab
    #[arg(long, value_name = "CHAR", default_value = ",")]
    pub delimiter: Delimiter,

    /// Character around fields of CSV files with a delimiter in them: an ASCII one, or none
    #[arg(long, value_name = "CHAR|none", default_value = "\"")]
    pub quote: Quote,

    /// How times that are text are written, in directives of strftime, such as '%d.%m.%Y %H:%M',
    /// '%Y-%m-%d %H:%M %z' with a zone, or %s for seconds since 1970 [default: ISO 8601]
    #[arg(long, value_name = "FORMAT")]
    pub time_format: Option<TimeFormat>,

    /// Give up when more rows than this are rejected: a number, at once, or a percentage of all
    /// rows, when they are read [default: no limit]
    #[arg(long, value_name = "N|P%")]
    pub max_rejects: Option<MaxRejects>,
}

impl InputArgs {
    /// The data set that `arguments` name, to be read as these arguments say.
    ///
    /// # Errors
    /// Those of [`input::expand`] and [`CsvFormat::new`].
    pub fn input(&self, arguments: &[PathBuf]) -> Result<Input, Error> {
        Ok(Input {
            files: input::expand(arguments)?,
            csv: CsvFormat::new(self.delimiter, self.quote)?,
            time: self.time_format.clone().unwrap_or_default(),
        })
    }
}

/// What counts where a job has several results that differ.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ResultArgs {
    /// Where a job has several results that differ: reproducible, the run fails; any, the lowest
    /// counts, and the report says how many jobs have several
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "reproducible",
        value_parser = clap::builder::PossibleValuesParser::new(ResultsPolicy::ALL.map(ResultsPolicy::name))
            .map(|name| {
                let mut all = ResultsPolicy::ALL.into_iter();
                all.find(|policy| policy.name() == name).expect("it is one of the possible values")
            })
    )]
    pub results: ResultsPolicy,
}

impl ResultArgs {
    /// The options of a run that is grouped so.
    pub fn options(self, grouping: &Grouping) -> RunOptions {
        RunOptions {
            results: self.results,
            ..grouping.options()
        }
    }
}

/// How much memory rows may take. No result depends on these.
#[derive(clap::Args, Clone, Debug)]
pub struct MemoryArgs {
    /// Memory for rows, at most, and in rollcall run as much again for outcomes; what is beyond it is
    /// spilled to disk
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub memory_budget: ByteSize,

    /// Folder for what is spilled [default: the system's for temporary files]
    #[arg(long, value_name = "FOLDER")]
    pub spill_folder: Option<PathBuf>,
}

impl MemoryArgs {
    /// The folder for rows that are spilled.
    pub fn spill_folder(&self) -> PathBuf {
        self.spill_folder.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// Partitions of topics that many workers may come to.
pub const DEFAULT_PARTITIONS: usize = 24;

/// How jobs become messages. No result depends on these.
#[derive(clap::Args, Clone, Debug)]
pub struct MessageArgs {
    /// Partitions of the jobs and outcomes topics, if they are not there yet: two to three times
    /// the workers that you expect [default: 24; for topics of a run's own on a
    /// cluster four for each worker, from 8 to 24]
    #[arg(long, value_name = "N")]
    pub partitions: Option<NonZeroUsize>,

    /// Copies of each partition, if the topics are not there yet [default: 3, or as many as there
    /// are brokers if fewer]
    #[arg(long, value_name = "N")]
    pub replication_factor: Option<u16>,

    /// How long the topics keep jobs and outcomes, if they are not there yet: longer than your
    /// longest run
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "7d",
        value_parser = humantime::parse_duration
    )]
    pub retention: Duration,

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

/// A limit to what is published and not yet worked off, for a broker that keeps little.
#[derive(Clone, Debug)]
pub struct UncommittedLimit {
    /// The group whose commits count.
    pub group: String,
    /// Bytes for each partition of the jobs topic that are not committed, and for each of the
    /// outcomes topic that are not collected; [`service::Progress::collected`] has the number of those
    /// that are.
    pub bytes_per_partition: usize,
}

fn after_help() -> String {
    format!(
        "Examples:\n\
         \x20 dispatcher tests.csv --bootstrap-servers localhost:9092\n\
         \x20 dispatcher tests.csv --by country --by city --every day --run-id tuesday\n\
         \x20 dispatcher tests.csv --partitions 48 --retention 30d\n\
         \x20 dispatcher tests.csv --run-id tuesday --resume    after it has died, or has lost jobs\n\n\
         {EXIT_CODES_HELP}"
    )
}

/// A checked configuration of a dispatcher.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data set.
    pub input: Input,
    /// How rows become jobs.
    pub grouping: Grouping,
    /// What the run is opened with, which follows from the grouping.
    pub options: RunOptions,
    /// What travels with each row.
    pub payload: PayloadColumns,
    /// The run's name.
    pub run_id: RunId,
    /// Whether somebody else may know the run by its name, wait for it, or have begun it.
    pub run_is_named: bool,
    /// Whether jobs without an outcome are published again, for which the commits of this group
    /// count.
    pub resume: Option<String>,
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
    pub max_rejects: Option<MaxRejects>,
    /// Where rejected rows go.
    pub rejects: PathBuf,
    /// Memory for rows.
    pub memory_budget_bytes: u64,
    /// Where rows go beyond it.
    pub spill_folder: PathBuf,
    /// `None` for a broker that keeps everything.
    pub uncommitted_limit: Option<UncommittedLimit>,
    /// Where it counts what it does.
    pub metrics: Metrics,
}

impl MessageArgs {
    /// The settings of new topics, with `partitions` partitions unless an option gives their number.
    pub fn topic_spec(&self, partitions: usize) -> TopicSpec {
        TopicSpec {
            partitions: self.partitions.map_or(partitions, NonZeroUsize::get),
            replication_factor: self.replication_factor,
            retention: self.retention,
        }
    }
}

impl Args {
    /// The configuration that these arguments ask for, of a program that knows these computations.
    ///
    /// # Errors
    /// When no broker is named, the computation is not known, or options contradict each other.
    pub fn config(&self, computations: &Registry) -> Result<Config, Error> {
        let RunName(named) = self.run_id.clone();
        let run_is_named = named.is_some();
        if self.resume && !run_is_named {
            return Err(Error::ResumeWithoutRun);
        }
        let run_id = named.unwrap_or_else(RunId::fresh);
        let group = self.group.clone();
        let group = group.unwrap_or_else(|| default_group(&self.topic_prefix));
        let wait_for_workers =
            (self.wait_for_workers > 0).then(|| (self.wait_for_workers, group.clone()));
        let grouping = self.grouping.grouping(computations)?;
        Ok(Config {
            input: self.input.input(&self.data_sets)?,
            options: self.results.options(&grouping),
            payload: payload_columns(&grouping, computations)?,
            grouping,
            run_is_named,
            resume: self.resume.then_some(group),
            cluster: Cluster::new(&self.broker, "rollcall-dispatcher")?,
            topics: TopicNames::new(&self.topic_prefix),
            topic_spec: self.messages.topic_spec(DEFAULT_PARTITIONS),
            jobs_per_message: self.messages.jobs_per_message,
            expected_job_time: self.messages.expected_job_time,
            wait_for_workers,
            max_rejects: self.input.max_rejects,
            rejects: self
                .rejects
                .clone()
                .unwrap_or_else(|| default_rejects(&run_id)),
            memory_budget_bytes: self.memory.memory_budget.as_u64(),
            spill_folder: self.memory.spill_folder(),
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
pub(crate) mod tests {
    use pipeline::Grain;

    use super::*;

    /// The grouping of arguments that name none.
    pub(crate) fn grouping() -> Grouping {
        args(&[])
            .grouping
            .grouping(&Registry::standard())
            .expect("valid")
    }

    /// Valid arguments with these among them.
    pub(crate) fn args(of: &[&str]) -> Args {
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
        let grouping = args(&[])
            .config(&Registry::standard())
            .expect("valid")
            .grouping;
        assert_eq!(grouping.label_columns, ["country"]);
        assert_eq!(
            (grouping.grain, grouping.max_rows_per_job),
            (Grain::Hour, 10_000)
        );
    }

    #[test]
    fn an_empty_name_of_a_run_is_none() {
        assert_eq!(args(&["--run-id", ""]).run_id, RunName(None));
        assert!(
            !args(&[])
                .config(&Registry::standard())
                .expect("valid")
                .run_is_named
        );
        let config = args(&["--run-id", "tuesday"])
            .config(&Registry::standard())
            .expect("valid");
        assert!(config.run_is_named);
        assert_eq!(config.run_id.as_str(), "tuesday");
    }

    #[test]
    fn only_a_run_with_a_name_is_taken_up() {
        let config = args(&["--run-id", "tuesday", "--resume"]).config(&Registry::standard());
        let group = config.expect("valid").resume;
        assert_eq!(group.as_deref(), Some("rollcall.worker"));
        let nameless = args(&["--run-id", "", "--resume"]).config(&Registry::standard());
        assert!(matches!(nameless, Err(Error::ResumeWithoutRun)));
    }

    #[test]
    fn without_a_broker_the_error_says_what_to_do() {
        let mut args = args(&[]);
        args.broker.bootstrap_servers = None;
        let error = args
            .config(&Registry::standard())
            .expect_err("no broker")
            .to_string();
        assert!(error.contains("--bootstrap-servers"), "{error}");
    }
}
