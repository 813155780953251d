//! The options of `rollcall bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use kafka::BrokerArgs;
use serde::{Deserialize, Serialize};
use service::LogArgs;

/// What a row of the benchmark runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum BenchEngine {
    /// Without the dispatcher: one process, one job after the other
    Loop,
    /// Without the dispatcher: one polars query
    Polars,
    /// With it: messages filled with jobs, `--jobs-per-message auto`
    Packed,
    /// With it: `--jobs-per-message 1`
    OneAMessage,
}

impl BenchEngine {
    /// All, in the order of the rows.
    pub const ALL: [Self; 4] = [Self::Loop, Self::Polars, Self::Packed, Self::OneAMessage];

    /// Its name in rows and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Polars => "polars",
            Self::Packed => "packed",
            Self::OneAMessage => "one-a-message",
        }
    }

    /// Whether it is the dispatcher that hands out the jobs.
    pub fn dispatches(self) -> bool {
        matches!(self, Self::Packed | Self::OneAMessage)
    }
}

/// A share by which a row may be slower, 0.1 for 10%.
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
            .ok_or("a percentage is needed, such as 10%")
    }
}

/// The options of `rollcall bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Every row is a run of its own, 'rollcall run', and its figures are those of that run's report.json.
Rounds are interleaved, there and back again. All engines must come to the same results. OUT gets
bench.json, bench.csv, bench.md and bench.html. Another load on the machine is in the figures:
look at the load that they name.

Examples:
  rollcall bench                                       two million generated rows, in-process broker
  rollcall bench tests.csv -- --every day              your own data set; options of run after --
  rollcall bench --bootstrap-servers localhost:9092    on Apache Kafka
  rollcall bench --break-even                          from which cost of a job on it pays
  rollcall bench --compare base.json --fail-above 10%  against an earlier benchmark of this host
  rollcall bench --base ../base/rollcall --runs 10     against another program, runs interleaved
  rollcall bench --from bench.json --out again         write an earlier benchmark's files again

Exit codes:
  0    measured, and no row beyond --fail-above
  1    a row beyond --fail-above, a run that failed, or results that disagree
  2    wrong usage, or a base of another host or other settings
  130  stopped by SIGINT
  143  stopped by SIGTERM")]
pub struct BenchArgs {
    /// The data set, as 'rollcall run' takes it [default: one is generated in the output folder]
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

    /// Numbers of workers, each a row of either engine with the dispatcher
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

    /// Rounds before them that are thrown away: they fill the page cache and warm a broker up
    #[arg(
        long,
        value_name = "ROUNDS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(..=20)
    )]
    pub warm_up: u32,

    /// What is measured
    #[arg(
        long,
        value_name = "ENGINE,…",
        value_enum,
        value_delimiter = ',',
        default_value = "loop,polars,packed,one-a-message"
    )]
    pub engines: Vec<BenchEngine>,

    /// Measure jobs that cost a core 0, 10 us, 100 us and 1 ms, too, and say from which cost on the
    /// dispatcher is faster than the loop. Its workers are the most of --workers that there are
    /// cores for
    #[arg(long)]
    pub break_even: bool,

    /// Jobs of the break-even, which has a data set of its own
    #[arg(
        long,
        value_name = "JOBS",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000)
    )]
    pub break_even_jobs: u64,

    /// Folder for the files
    #[arg(long, value_name = "FOLDER", default_value = "out/bench")]
    pub out: PathBuf,

    /// Compare with an earlier benchmark, row by row
    #[arg(long, value_name = "BASE.json", help_heading = "Comparison")]
    pub compare: Option<PathBuf>,

    /// Measure another rollcall program beside this one, run by run, and compare with it
    #[arg(
        long,
        value_name = "PROGRAM",
        conflicts_with = "compare",
        help_heading = "Comparison"
    )]
    pub base: Option<PathBuf>,

    /// End with 1 if a row takes so much longer than the base's and that is not noise, such as 10%
    #[arg(long, value_name = "PERCENT", help_heading = "Comparison")]
    pub fail_above: Option<Share>,

    /// Measure nothing: take an earlier benchmark, write its files again, and compare it if asked
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

    /// How much is said.
    #[command(flatten, next_help_heading = "Output")]
    pub log: LogArgs,

    /// Options of 'rollcall run' that every row has
    #[arg(last = true, value_name = "RUN OPTIONS")]
    pub run_options: Vec<String>,
}

impl BenchArgs {
    /// The engines, each once.
    pub fn engines(&self) -> Vec<BenchEngine> {
        let asked = |engine: &BenchEngine| self.engines.contains(engine);
        BenchEngine::ALL.into_iter().filter(asked).collect()
    }

    /// The numbers of workers, each once.
    pub fn workers(&self) -> Vec<usize> {
        let mut workers: Vec<usize> = self.workers.iter().map(|workers| workers.get()).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// The brokers that are named, if any are: an empty variable names none.
    pub fn bootstrap_servers(&self) -> Option<&str> {
        let named = self.broker.bootstrap_servers.as_deref().map(str::trim);
        named.filter(|named| !named.is_empty())
    }
}

fn parse_runs(text: &str) -> Result<NonZeroUsize, &'static str> {
    let runs = text.parse().ok();
    let runs = runs.filter(|runs: &NonZeroUsize| runs.get() <= crate::bench::plan::MOST_RUNS);
    runs.ok_or("a number from 1 to 100 is needed")
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
