//! The command line of `rollcall`. Without a command it is `rollcall run`; each service is a command
//! of its own, with the options that it has as a binary.

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use aggregator::OutputArgs;
use bench::BenchArgs;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use dispatcher::args::{MemoryArgs, MessageArgs, ResultArgs};
use dispatcher::{GroupingArgs, InputArgs};
use kafka::BrokerArgs;
use pipeline::RunId;
use service::exit::EXIT_CODES_HELP;
use service::{JsonArgs, LogArgs};
use worker::{Delivery, SimulatedWork};

use crate::cancel::CancelArgs;
use crate::config_file::CONFIG_VARIABLE;
use crate::dlq::DlqArgs;
use crate::doctor::DoctorArgs;
use crate::manual::{CompletionsArgs, ManArgs};
use crate::report::ReportArgs;
use crate::runs::RunsArgs;

/// Every job accounted for: a finite data set through Kafka with any number of workers
///
/// Without a command and without options, two million made-up COVID test records go through an
/// in-process broker and come out as a positivity-rate time series in out/, with the proof that
/// each row is in it exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "rollcall",
    version,
    args_conflicts_with_subcommands = true,
    after_help = after_help()
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: RunArgs,

    /// File with options, in TOML [default: rollcall.toml in this folder, if it is there; '' for
    /// none]. Every command of rollcall reads it; the binaries dispatcher, worker, aggregator and
    /// datagen do not
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE, global = true)]
    pub config: Option<OsString>,
}

impl Cli {
    /// The command line, for what is made from it.
    pub fn definition() -> clap::Command {
        <Self as CommandFactory>::command()
    }

    /// What is to be done.
    pub fn command(self) -> Command {
        self.command.unwrap_or(Command::Run(self.run))
    }
}

/// A command of `rollcall`.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)]
pub enum Command {
    /// Run the whole pipeline on this machine (the default)
    #[command(after_help = after_help())]
    Run(RunArgs),
    /// Write fake COVID test records as CSV or Parquet
    Datagen(datagen::Args),
    /// Cut a data set into jobs and publish them
    Dispatcher(dispatcher::Args),
    /// Compute the jobs of every run on a cluster, until stopped
    Worker(worker::Args),
    /// Collect the outcomes of a run, reconcile them, write series and report
    Aggregator(aggregator::Args),
    /// Make report.html again from the files of a run
    Report(ReportArgs),
    /// Measure the same work without the dispatcher and with it, and compare
    Bench(BenchArgs),
    /// Look at a cluster and say what is good for runs and what to do
    Doctor(DoctorArgs),
    /// List the runs on a cluster, or remove some
    Runs(RunsArgs),
    /// Cancel a run: its jobs are not computed any more
    Cancel(CancelArgs),
    /// List, show or replay the dead letters of a run
    Dlq(DlqArgs),
    /// Print a script that completes commands and options in a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(ManArgs),
}

fn after_help() -> String {
    format!(
        "Examples:\n  \
         rollcall                                    two million generated rows, nothing to install\n  \
         rollcall tests.csv --every day              your own data set\n  \
         rollcall tests.csv --engine local           the same without Kafka, for comparison\n  \
         rollcall --bootstrap-servers localhost:9092 on Apache Kafka\n\n\
         {EXIT_CODES_HELP}"
    )
}

/// What runs the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Dispatcher, workers and aggregator over Kafka.
    Kafka,
    /// The reference: one polars query in one process.
    Local,
    /// One process that computes one job after the other, with the workers' own function: what a
    /// dispatcher has to be better than.
    Loop,
}

/// The options of `rollcall run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The data set: CSV files with a header, plain or packed by gzip or zstd, or Parquet files;
    /// patterns such as 'tests-*.csv'; or - for standard input, which cannot be read again: such a
    /// run is not resumable [default: one is generated in the output folder]
    #[arg(value_name = "DATASET")]
    pub data_sets: Vec<PathBuf>,

    /// How the data set is read.
    #[command(flatten, next_help_heading = "Input")]
    pub input: InputArgs,

    /// Where rejected rows are written, if there are any [default: rejects.csv in the output
    /// folder]
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    pub rejects: Option<PathBuf>,

    /// Rows to generate when there is no data set
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 2_000_000,
        value_parser = clap::value_parser!(u64).range(1..),
        conflicts_with = "data_sets"
    )]
    pub rows: u64,

    /// Worker processes [default: one for each core, eight at most]
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// What runs the work
    #[arg(long, value_enum, default_value_t = Engine::Kafka)]
    pub engine: Engine,

    /// Folder for the series and report.json
    #[arg(long, value_name = "FOLDER", default_value = "out")]
    pub out: PathBuf,

    /// What is written there.
    #[command(flatten)]
    pub outputs: OutputArgs,

    /// How rows become jobs.
    #[command(flatten, next_help_heading = "Jobs")]
    pub grouping: GroupingArgs,

    /// What counts where results differ.
    #[command(flatten, next_help_heading = "Jobs")]
    pub results: ResultArgs,

    /// How jobs become messages.
    #[command(flatten, next_help_heading = "Messages")]
    pub messages: MessageArgs,

    /// How much memory rows may take.
    #[command(flatten, next_help_heading = "Memory")]
    pub memory: MemoryArgs,

    /// Name of the run on the cluster [default: a fresh UUIDv7]. A run of this name that was begun
    /// there is resumed, with the same data set and options; what the in-process broker has
    /// ends with its process
    #[arg(long, value_name = "ID", help_heading = "Cluster")]
    pub run_id: Option<RunId>,

    /// Resume the run, and publish again each job that has no outcome although workers have passed
    /// it
    #[arg(long, requires = "run_id", help_heading = "Cluster")]
    pub resume: bool,

    /// Prefix of the topics [default: one of this run's own, removed when it is complete]
    #[arg(long, value_name = "PREFIX", help_heading = "Cluster")]
    pub topic_prefix: Option<String>,

    /// Keep this run's own topics when it is complete
    #[arg(long, help_heading = "Cluster")]
    pub keep_topics: bool,

    /// The cluster.
    #[command(flatten, next_help_heading = "Cluster")]
    pub broker: BrokerArgs,

    /// How often a failing job is tried before it is a dead letter
    #[arg(long, value_name = "N", default_value = "3", help_heading = "Work")]
    pub max_attempts: NonZeroU32,

    /// How outcomes and offsets reach the broker; exactly-once on Apache Kafka only
    #[arg(long, value_enum, default_value_t, help_heading = "Work")]
    pub delivery: Delivery,

    /// Longest time for one attempt at a job [default: none]. A worker whose job takes longer is
    /// replaced, and the third time the job is a dead letter
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = humantime::parse_duration,
        help_heading = "Work"
    )]
    pub job_timeout: Option<Duration>,

    /// What is added to each job.
    #[command(flatten, next_help_heading = "Work")]
    pub simulate_work: SimulatedWork,

    /// Give up when nothing new has come for this long, unless workers have jobs of the run before
    /// them
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10m",
        value_parser = humantime::parse_duration,
        help_heading = "Work"
    )]
    pub timeout: Duration,

    /// For machines.
    #[command(flatten, next_help_heading = "Output")]
    pub json: JsonArgs,

    /// How much is said.
    #[command(flatten, next_help_heading = "Output")]
    pub log: LogArgs,
}

impl RunArgs {
    /// How many workers to start.
    pub fn workers(&self) -> usize {
        const MOST: usize = 8;
        self.workers.map_or_else(
            || {
                let cores = std::thread::available_parallelism();
                cores.map_or(1, NonZeroUsize::get).min(MOST)
            },
            NonZeroUsize::get,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::definition().debug_assert();
    }

    #[test]
    fn no_command_is_run_with_its_options() {
        let cli = Cli::try_parse_from(["rollcall", "--rows", "5", "--engine", "local"]);
        let Command::Run(args) = cli.expect("valid").command() else {
            panic!("not a run");
        };
        assert_eq!((args.rows, args.engine), (5, Engine::Local));
    }

    #[test]
    fn a_data_set_and_rows_to_generate_contradict_each_other() {
        assert!(Cli::try_parse_from(["rollcall", "a.csv", "--rows", "5"]).is_err());
        let cli = Cli::try_parse_from(["rollcall", "run", "a.csv", "--workers", "3"]);
        let Command::Run(args) = cli.expect("valid").command() else {
            panic!("not a run");
        };
        assert_eq!(args.workers(), 3);
    }
}
