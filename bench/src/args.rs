//! The options of `rollcall bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use kafka::BrokerArgs;
use serde::{Deserialize, Serialize};
use service::LogArgs;

/// The engine that runs the work of a row.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum BenchEngine {
    /// Without the dispatcher: one process computes one job after the other
    Loop,
    /// Without the dispatcher: one polars query
    Polars,
    /// With the dispatcher: many jobs per message, `--jobs-per-message auto`
    Packed,
    /// With the dispatcher: one job per message, `--jobs-per-message 1`
    OneAMessage,
}

impl BenchEngine {
    /// All engines, in the order of the rows.
    pub const ALL: [Self; 4] = [Self::Loop, Self::Polars, Self::Packed, Self::OneAMessage];

    /// The engine's name in rows and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Polars => "polars",
            Self::Packed => "packed",
            Self::OneAMessage => "one-a-message",
        }
    }

    /// Whether the dispatcher publishes the jobs.
    pub fn dispatches(self) -> bool {
        matches!(self, Self::Packed | Self::OneAMessage)
    }
}

/// The share by which a row may be slower; 0.1 is 10%.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text
            .strip_suffix('%')
            .and_then(|text| text.trim_end().parse().ok());
        // A comparison with NaN is false, so NaN is no percentage either.
        let percent = percent.filter(|percent: &f64| (0.0..=10_000.0).contains(percent));
        percent
            .map(|percent| Self(percent / 100.0))
            .ok_or("expected a percentage, such as 10%")
    }
}

/// The options of `rollcall bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Each run of a row is 'rollcall run' in a process of its own, and its figures are those of its
report.json. A round runs each row once; every second round is in reverse order. All engines must
have the same results. The files in OUT are bench.json, bench.csv, bench.md and bench.html. Other
load on the machine distorts the figures: see the load in the files.

Examples:
  rollcall bench                                       two million generated rows, in-process broker
  rollcall bench tests.csv -- --every day              your own data set; options of run after --
  rollcall bench --bootstrap-servers localhost:9092    on Apache Kafka
  rollcall bench --break-even                          from which job cost the dispatcher is faster
  rollcall bench --compare base.json --fail-above 10%  compare with an earlier benchmark
  rollcall bench --base ../base/rollcall --runs 10     compare with another program
  rollcall bench --from bench.json --out again         write an earlier benchmark's files again

Exit codes:
  0    measured, and no row is slower than --fail-above allows
  1    a row is slower than --fail-above allows, a run failed, or results differ
  2    wrong usage, or a base of another host or other settings
  130  stopped by SIGINT
  143  stopped by SIGTERM")]
pub struct BenchArgs {
    /// Data set, as in 'rollcall run' [default: one is generated in the output folder]
    #[arg(value_name = "DATASET")]
    pub data_sets: Vec<PathBuf>,

    /// Rows to generate when there is no data set
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 2_000_000,
        value_parser = clap::value_parser!(u64).range(1..),
        conflicts_with = "data_sets"
    )]
    pub rows: u64,

    /// Numbers of workers; each is a row for each engine with the dispatcher
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1,2,4,8"
    )]
    pub workers: Vec<NonZeroUsize>,

    /// Measured runs of each row
    #[arg(
        long,
        value_name = "N",
        default_value = "5",
        value_parser = parse_runs
    )]
    pub runs: NonZeroUsize,

    /// Warm-up rounds that are not measured: they fill the page cache and warm up the broker
    #[arg(
        long,
        value_name = "ROUNDS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(..=20)
    )]
    pub warm_up: u32,

    /// Engines to measure
    #[arg(
        long,
        value_name = "ENGINE,…",
        value_enum,
        value_delimiter = ',',
        default_value = "loop,polars,packed,one-a-message"
    )]
    pub engines: Vec<BenchEngine>,

    /// Also measure jobs of 0, 10 us, 100 us and 1 ms of CPU time, and report from which cost on
    /// the dispatcher is faster than the loop. The number of workers is the largest of --workers
    /// that is not above the number of cores
    #[arg(long)]
    pub break_even: bool,

    /// Number of jobs for --break-even, which generates a data set of its own
    #[arg(
        long,
        value_name = "JOBS",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000)
    )]
    pub break_even_jobs: u64,

    /// Output folder
    #[arg(long, value_name = "FOLDER", default_value = "out/bench")]
    pub out: PathBuf,

    /// Compare with an earlier benchmark, row by row
    #[arg(long, value_name = "BASE.json", help_heading = "Comparison")]
    pub compare: Option<PathBuf>,

    /// Measure another rollcall program interleaved with this one, and compare with it
    #[arg(
        long,
        value_name = "PROGRAM",
        conflicts_with = "compare",
        help_heading = "Comparison"
    )]
    pub base: Option<PathBuf>,

    /// Exit with 1 if a row is slower than the base's by more than this, such as 10%, beyond noise
    #[arg(long, value_name = "PERCENT", help_heading = "Comparison")]
    pub fail_above: Option<Share>,

    /// Measure nothing: read an earlier benchmark, write its files again, and compare it if asked
    #[arg(
        long,
        value_name = "HEAD.json",
        conflicts_with_all = ["base", "data_sets", "break_even"],
        help_heading = "Comparison"
    )]
    pub from: Option<PathBuf>,

    /// The cluster.
    #[command(flatten, next_help_heading = "Cluster")]
    pub broker: BrokerArgs,

    /// Log level and format.
    #[command(flatten, next_help_heading = "Output")]
    pub log: LogArgs,

    /// Options of 'rollcall run' for every row
    #[arg(last = true, value_name = "RUN OPTIONS")]
    pub run_options: Vec<String>,
}

impl BenchArgs {
    /// The engines without duplicates, in the order of the rows.
    pub fn engines(&self) -> Vec<BenchEngine> {
        let is_named = |engine: &BenchEngine| self.engines.contains(engine);
        BenchEngine::ALL.into_iter().filter(is_named).collect()
    }

    /// The numbers of workers without duplicates, ascending.
    pub fn workers(&self) -> Vec<usize> {
        let mut workers: Vec<usize> = self.workers.iter().map(|workers| workers.get()).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// The bootstrap servers; `None` when they are not named or empty, as in an empty variable.
    pub fn bootstrap_servers(&self) -> Option<&str> {
        let named = self.broker.bootstrap_servers.as_deref().map(str::trim);
        named.filter(|named| !named.is_empty())
    }
}

fn parse_runs(text: &str) -> Result<NonZeroUsize, &'static str> {
    let runs = text.parse().ok();
    let runs = runs.filter(|runs: &NonZeroUsize| runs.get() <= crate::plan::MAX_RUNS);
    runs.ok_or("expected a number from 1 to 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        assert_eq!("10%".parse(), Ok(Share(0.1)));
        assert_eq!("2.5 %".parse(), Ok(Share(0.025)));
        for wrong in ["", "10", "%", "-1%", "NaN%", "a%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
