//! The command line of `aggregator`, which is turned once into a checked [`Config`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Parser;
use computations::Registry;
use kafka::{BrokerArgs, Cluster, TopicNames, default_group};
use pipeline::{Grain, RunId};
use service::exit::EXIT_CODES_HELP;
use service::{JsonArgs, ListenArgs, LogArgs};

use crate::error::Error;
use crate::export::Format;
use crate::metrics::Metrics;

/// Collect the outcomes of a run, reconcile them against its manifest, write series and report
///
/// It may be started before, during or after the run, and as often as you like: the result is the
/// same.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = after_help())]
pub struct Args {
    /// The run: its id, or latest for the one that was opened last
    #[arg(
        long,
        value_name = "ID|latest",
        default_value = "latest",
        env = "RUN_ID"
    )]
    pub run_id: RunChoice,

    /// Folder for the series and report.json
    #[arg(long, value_name = "FOLDER", default_value = "out")]
    pub out: PathBuf,

    /// The outputs.
    #[command(flatten)]
    pub outputs: OutputArgs,

    /// Give up when nothing new has come for this long, unless workers of the group have jobs of the
    /// run before them
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10m",
        value_parser = humantime::parse_duration
    )]
    pub timeout: Duration,

    /// The memory for outcomes.
    #[command(flatten, next_help_heading = "Memory")]
    pub memory: MemoryArgs,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    pub topic_prefix: String,

    /// The workers' consumer group, for --timeout [default: PREFIX.worker]
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Health and metrics.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// The cluster.
    #[command(flatten)]
    pub broker: BrokerArgs,

    /// The option of the JSON output.
    #[command(flatten)]
    pub json: JsonArgs,

    /// The options of the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The options of the memory for outcomes. No result depends on them.
#[derive(clap::Args, Clone, Debug)]
pub struct MemoryArgs {
    /// Memory for outcomes, at most; beyond it results of more than 8 bytes are spilled to disk
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub memory_budget: ByteSize,

    /// Folder for results that are spilled [default: the system's for temporary files]
    #[arg(long, value_name = "FOLDER")]
    pub spill_folder: Option<PathBuf>,
}

/// The options of the outputs of a run. `report.json` is always written.
#[derive(clap::Args, Clone, Debug)]
pub struct OutputArgs {
    /// Files beside report.json: series.csv, series.parquet, series.svg (a picture), report.md (for
    /// the summary of a CI job), report.html (a page to look at); of a run of another computation
    /// than positivity table.csv and report.md
    #[arg(
        long,
        value_name = "FORMS",
        value_enum,
        value_delimiter = ',',
        default_value = "csv,parquet,svg,md,html",
        hide_possible_values = true
    )]
    pub outputs: Vec<Format>,

    /// Add a coarser series of the same tallies, such as series-day.csv: hour, day, week or month;
    /// may be given several times
    #[arg(long, value_name = "GRAIN", value_delimiter = ',')]
    pub grain_out: Vec<Grain>,
}

/// A checked choice of what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChoice {
    formats: Vec<Format>,
    grains: Vec<Grain>,
}

impl OutputArgs {
    /// The choice that these arguments make.
    ///
    /// # Errors
    /// When coarser series are asked for in no form.
    pub fn choice(&self) -> Result<OutputChoice, Error> {
        let mut formats = self.outputs.clone();
        formats.sort_unstable();
        formats.dedup();
        let has_series = formats.contains(&Format::Csv) || formats.contains(&Format::Parquet);
        if !self.grain_out.is_empty() && !has_series {
            return Err(Error::GrainOutWithoutForm);
        }
        let asked = Grain::ALL.into_iter();
        let grains = asked.filter(|grain| self.grain_out.contains(grain));
        Ok(OutputChoice {
            formats,
            grains: grains.collect(),
        })
    }
}

impl OutputChoice {
    /// Whether a form was chosen.
    pub fn has(&self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    /// The grains of the series that are added, the finest first, each once.
    pub fn grains(&self) -> &[Grain] {
        &self.grains
    }

    /// Checks the choice against the grain of the run, which can be done as soon as that is known.
    ///
    /// # Errors
    /// When the run's series does not add up to one that was asked for.
    pub fn check(&self, run: Grain) -> Result<(), Error> {
        let wrong = self
            .grains
            .iter()
            .find(|asked| !run.makes().contains(asked));
        wrong.map_or(Ok(()), |&asked| Err(Error::GrainOut { asked, run }))
    }
}

/// The run to collect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunChoice {
    /// The run that was opened last, or the next one where no run was opened yet.
    Latest,
    /// The run of this name.
    Named(RunId),
}

impl FromStr for RunChoice {
    type Err = <RunId as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            // An empty variable, as compose files leave it, names none.
            "latest" | "" => Ok(Self::Latest),
            name => name.parse().map(Self::Named),
        }
    }
}

impl fmt::Display for RunChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Named(run_id) => run_id.fmt(f),
        }
    }
}

fn after_help() -> String {
    format!(
        "Examples:\n\
         \x20 aggregator --bootstrap-servers localhost:9092\n\
         \x20 aggregator --run-id tuesday --out results --timeout 1h\n\n\
         {EXIT_CODES_HELP}"
    )
}

/// A checked configuration of an aggregator.
#[derive(Clone, Debug)]
pub struct Config {
    /// The run.
    pub run: RunChoice,
    /// Folder for the outputs.
    pub out: PathBuf,
    /// The outputs.
    pub outputs: OutputChoice,
    /// The dispatcher's file of rejected rows, if it is on this machine.
    pub rejects: Option<PathBuf>,
    /// The longest time without anything new, where the workers have nothing before them.
    pub timeout: Duration,
    /// Memory for outcomes, in bytes.
    pub memory_budget_bytes: u64,
    /// The folder for results beyond that.
    pub spill_folder: PathBuf,
    /// The cluster.
    pub cluster: Cluster,
    /// Its topics.
    pub topics: TopicNames,
    /// The workers' group.
    pub group: String,
    /// The group as whose offsets it makes known how far it has read; `None` for a broker that keeps
    /// everything.
    pub read_positions: Option<String>,
    /// The computations whose runs it can collect.
    pub computations: Registry,
    /// The metrics.
    pub metrics: Metrics,
}

impl Args {
    /// The configuration that these arguments ask for, of a program that knows these computations.
    ///
    /// # Errors
    /// When no broker is named, a property is one that rollcall sets itself, or options contradict
    /// each other.
    pub fn config(&self, computations: &Registry) -> Result<Config, Error> {
        Ok(Config {
            run: self.run_id.clone(),
            out: self.out.clone(),
            outputs: self.outputs.choice()?,
            rejects: None,
            timeout: self.timeout,
            memory_budget_bytes: self.memory.memory_budget.as_u64(),
            spill_folder: (self.memory.spill_folder.clone()).unwrap_or_else(std::env::temp_dir),
            cluster: Cluster::new(&self.broker, "rollcall-aggregator")?,
            topics: TopicNames::new(&self.topic_prefix),
            group: (self.group.clone()).unwrap_or_else(|| default_group(&self.topic_prefix)),
            read_positions: None,
            computations: computations.clone(),
            metrics: Metrics::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(options: &[&str]) -> Result<OutputChoice, Error> {
        let fixed = ["aggregator"].iter();
        let args = Args::try_parse_from(fixed.chain(options)).expect("valid arguments");
        args.outputs.choice()
    }

    #[test]
    fn all_five_forms_are_written_unless_some_are_chosen() {
        let all = choice(&[]).expect("valid");
        let forms = [
            Format::Csv,
            Format::Parquet,
            Format::Svg,
            Format::Md,
            Format::Html,
        ];
        assert!(forms.iter().all(|&format| all.has(format)));
        assert_eq!(all.grains(), []);
        let some = choice(&["--outputs", "md,csv,md"]).expect("valid");
        assert_eq!(some.formats, [Format::Csv, Format::Md]);
        assert!(Args::try_parse_from(["aggregator", "--outputs", "csv,xlsx"]).is_err());
    }

    #[test]
    fn grains_are_added_once_each_the_finest_first() {
        let options = ["--grain-out", "month", "--grain-out", "day,month"];
        let choice = choice(&options).expect("valid");
        assert_eq!(choice.grains(), [Grain::Day, Grain::Month]);
    }

    #[test]
    fn a_grain_that_the_run_does_not_add_up_to_is_refused_with_those_it_does() {
        let month = choice(&["--grain-out", "month"]).expect("valid");
        assert!(month.check(Grain::Hour).is_ok() && month.check(Grain::Month).is_ok());
        let error = month.check(Grain::Week).expect_err("weeks").to_string();
        assert_eq!(
            error,
            "--grain-out month: a run by week adds up to week only; give that, or another --every"
        );
        let hour = choice(&["--grain-out", "hour"]).expect("valid");
        let error = hour.check(Grain::Day).expect_err("finer").to_string();
        assert!(error.contains("adds up to day, week, month"), "{error}");
    }

    #[test]
    fn coarser_series_want_a_form_that_they_can_have() {
        let error = choice(&["--grain-out", "day", "--outputs", "svg,md"]);
        assert!(matches!(error, Err(Error::GrainOutWithoutForm)));
    }
}
