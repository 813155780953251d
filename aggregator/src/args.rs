//! The command line of `aggregator`, which is turned once into a checked [`Config`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use kafka::{BrokerArgs, Cluster, TopicNames};
use pipeline::RunId;
use service::exit::EXIT_CODES_HELP;
use service::{JsonArgs, ListenArgs, LogArgs};

use crate::error::Error;
use crate::metrics::Metrics;

/// Collect the outcomes of a run, reconcile them against its manifest, write series and report
///
/// It may be started before, during or after the run, and as often as you like: the result is the
/// same.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = EXIT_CODES_HELP)]
pub struct Args {
    /// The run: its id, or latest for the one that was opened last
    #[arg(
        long,
        value_name = "ID|latest",
        default_value = "latest",
        env = "RUN_ID"
    )]
    pub run_id: RunChoice,

    /// Folder for series.csv and report.json
    #[arg(long, value_name = "FOLDER", default_value = "out")]
    pub out: PathBuf,

    /// Give up when nothing new has come for so long
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10m",
        value_parser = humantime::parse_duration
    )]
    pub timeout: Duration,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    pub topic_prefix: String,

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

/// Which run to collect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunChoice {
    /// The one that was opened last; where there is none, the next one.
    Latest,
    /// The one of this name.
    Named(RunId),
}

impl FromStr for RunChoice {
    type Err = <RunId as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
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

/// A checked configuration of an aggregator.
#[derive(Clone, Debug)]
pub struct Config {
    /// The run.
    pub run: RunChoice,
    /// Folder for the outputs.
    pub out: PathBuf,
    /// The longest time without anything new.
    pub timeout: Duration,
    /// The cluster.
    pub cluster: Cluster,
    /// Its topics.
    pub topics: TopicNames,
    /// Where it counts what it does.
    pub metrics: Metrics,
}

impl Args {
    /// The configuration that these arguments ask for.
    ///
    /// # Errors
    /// When no broker is named, or a property is one that rollcall sets itself.
    pub fn config(&self) -> Result<Config, Error> {
        Ok(Config {
            run: self.run_id.clone(),
            out: self.out.clone(),
            timeout: self.timeout,
            cluster: Cluster::new(&self.broker, "rollcall-aggregator")?,
            topics: TopicNames::new(&self.topic_prefix),
            metrics: Metrics::default(),
        })
    }
}
