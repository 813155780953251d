//! A benchmark: host, settings, every run of every row, and what follows from them. It is what
//! `bench.json` holds, so within a version of the schema fields are only added.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::agreement::Findings;
use super::args::{BenchArgs, BenchEngine};
use super::break_even::BreakEven;
use super::error::Error;
use super::host::Host;
use super::plan::Case;
use super::statistics::{Summary, outliers};

/// The version of the schema of `bench.json`.
pub const SCHEMA_VERSION: u32 = 1;

/// All that is known of a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Benchmark {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// When it began, in ISO 8601.
    pub started_at: String,
    /// What was measured: versions of rollcall and librdkafka, the commit if it was built from a git
    /// checkout, the profile it was built with.
    pub versions: BTreeMap<String, String>,
    /// The machine.
    pub host: Host,
    /// How many processes wanted a core.
    pub load: Load,
    /// What was asked for.
    pub settings: Settings,
    /// What all runs have come to.
    pub agreed: Findings,
    /// The rows.
    pub rows: Vec<Row>,
    /// Jobs of rising cost; `None` when it was not asked for.
    pub break_even: Option<BreakEven>,
}

/// How many processes wanted a core, on average over the minute before; `None` where the system does
/// not say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// At the beginning: what others did.
    pub before: Option<f64>,
    /// At the end: the benchmark itself, and what others did.
    pub after: Option<f64>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The data set's files; empty when it was generated.
    pub data_set: Vec<String>,
    /// Rows to generate; `None` when there was a data set.
    pub rows: Option<u64>,
    /// `in-process`, or the brokers.
    pub broker: String,
    /// Measured runs of each row.
    pub runs: usize,
    /// Rounds that were thrown away.
    pub warm_up: u32,
    /// The engines.
    pub engines: Vec<BenchEngine>,
    /// The numbers of workers.
    pub workers: Vec<usize>,
    /// Options of `rollcall run` that every row had.
    pub run_options: Vec<String>,
}

impl Settings {
    /// What these arguments ask for.
    pub fn new(args: &BenchArgs) -> Self {
        let data_set = args.data_sets.iter();
        Self {
            data_set: data_set.map(|path| path.display().to_string()).collect(),
            rows: args.data_sets.is_empty().then_some(args.rows),
            broker: args.bootstrap_servers().unwrap_or("in-process").to_owned(),
            runs: args.runs.get(),
            warm_up: args.warm_up,
            engines: args.engines(),
            workers: args.workers(),
            run_options: args.run_options.clone(),
        }
    }

    /// What differs between two and makes the same row another thing, with both values. How many
    /// runs, and which rows, does not; nor does where a data set lies, for its results are compared.
    pub fn differences(&self, other: &Self) -> Vec<(&'static str, String, String)> {
        let rows = |settings: &Self| {
            settings
                .rows
                .map_or("none".to_owned(), |rows| rows.to_string())
        };
        let pairs = [
            ("rows to generate", rows(self), rows(other)),
            ("broker", self.broker.clone(), other.broker.clone()),
            (
                "options of run",
                self.run_options.join(" "),
                other.run_options.join(" "),
            ),
        ];
        let differ = pairs.into_iter().filter(|(_, own, others)| own != others);
        differ.collect()
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The round it was made in, from 1.
    pub round: u32,
    /// From its command to the end of all its processes.
    pub wall_seconds: f64,
    /// Seconds of cores of all its processes; `None` when one did not tell.
    pub cpu_seconds: Option<f64>,
    /// The peaks of all its processes together, which is no less than the memory that it needed at
    /// any time; `None` when one did not tell.
    pub peak_resident_bytes: Option<u64>,
    /// The same by process.
    pub processes: Vec<Process>,
    /// Wall seconds of each stage, in order. Stages overlap.
    pub stages: Vec<Stage>,
    /// Messages that jobs were published in; `None` without the dispatcher.
    pub messages: Option<u64>,
}

/// What a process has used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// `rollcall`, which dispatches and aggregates and has the in-process broker, or the worker's.
    pub name: String,
    /// Seconds of cores.
    pub cpu_seconds: Option<f64>,
    /// The most memory that was resident at a time.
    pub peak_resident_bytes: Option<u64>,
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// Wall seconds.
    pub seconds: f64,
}

/// A row: what was measured, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What ran the work.
    pub engine: BenchEngine,
    /// With how many workers; `None` without the dispatcher.
    pub workers: Option<usize>,
    /// What each job cost a core beyond its own.
    pub job_cost_seconds: f64,
    /// Wall seconds.
    pub wall_seconds: Summary,
    /// How many runs stand apart from the others by their wall seconds.
    pub outliers: usize,
    /// Seconds of cores.
    pub cpu_seconds: Option<Summary>,
    /// Peaks of memory.
    pub peak_resident_bytes: Option<Summary>,
    /// Jobs per wall second, by the median; `None` when no engine that was measured has jobs.
    pub jobs_per_second: Option<f64>,
    /// How many times as fast as one worker with the same engine.
    pub speed_up: Option<f64>,
    /// What that could be at most: as many times as there are workers, or cores if these are fewer.
    pub ideal_speed_up: Option<f64>,
    /// How many times as fast as the loop.
    pub times_the_loop: Option<f64>,
    /// Seconds of cores for a million jobs, by the median: what work costs where cores are paid for
    /// by the second.
    pub cpu_seconds_per_million_jobs: Option<f64>,
    /// Every run.
    pub runs: Vec<Run>,
}

/// What was measured of one program, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The rows.
    pub cases: Vec<Case>,
    /// The runs of each.
    pub runs: Vec<Vec<Run>>,
    /// What all have come to.
    pub agreed: Findings,
    /// Of the program.
    pub versions: BTreeMap<String, String>,
}

impl Measured {
    /// Nothing, so far.
    pub fn new(cases: &[Case]) -> Self {
        Self {
            cases: cases.to_vec(),
            runs: vec![Vec::new(); cases.len()],
            agreed: Findings::default(),
            versions: BTreeMap::new(),
        }
    }

    /// The rows, with what follows from their runs. A row without a run is left out.
    pub fn rows(&self, cores: usize) -> Vec<Row> {
        let rows = self.cases.iter().zip(&self.runs);
        let mut rows: Vec<Row> = rows
            .filter_map(|(case, runs)| Row::new(case, runs, self.agreed.jobs))
            .collect();
        let walls: Vec<_> = rows
            .iter()
            .map(|row| {
                let key = (row.engine, row.workers, row.job_cost_seconds);
                (key, row.wall_seconds.median)
            })
            .collect();
        let wall = |engine, workers, cost| {
            let found = walls
                .iter()
                .find(|(key, _)| *key == (engine, workers, cost));
            found.map(|(_, wall)| *wall)
        };
        for row in &mut rows {
            let own = row.wall_seconds.median;
            let cost = row.job_cost_seconds;
            let times = |other: Option<f64>| other.filter(|_| own > 0.0).map(|other| other / own);
            row.times_the_loop = times(wall(BenchEngine::Loop, None, cost));
            if let Some(workers) = row.workers {
                row.speed_up = times(wall(row.engine, Some(1), cost));
                row.ideal_speed_up = Some(workers.min(cores) as f64);
            }
        }
        rows
    }
}

fn walls(runs: &[Run]) -> Vec<f64> {
    runs.iter().map(|run| run.wall_seconds).collect()
}

impl Row {
    /// The wall seconds of its runs, in order.
    pub fn walls(&self) -> Vec<f64> {
        walls(&self.runs)
    }

    fn new(case: &Case, runs: &[Run], jobs: Option<u64>) -> Option<Self> {
        let walls = walls(runs);
        let cpus: Option<Vec<f64>> = runs.iter().map(|run| run.cpu_seconds).collect();
        let peaks: Option<Vec<f64>> = runs
            .iter()
            .map(|run| run.peak_resident_bytes.map(|bytes| bytes as f64))
            .collect();
        let wall = Summary::of(&walls)?;
        let cpu = cpus.as_deref().and_then(Summary::of);
        let jobs = jobs.filter(|&jobs| jobs > 0).map(|jobs| jobs as f64);
        Some(Self {
            name: case.name(),
            engine: case.engine,
            workers: case.workers,
            job_cost_seconds: case.job_cost.as_secs_f64(),
            wall_seconds: wall,
            outliers: outliers(&walls),
            cpu_seconds: cpu,
            peak_resident_bytes: peaks.as_deref().and_then(Summary::of),
            jobs_per_second: jobs
                .filter(|_| wall.median > 0.0)
                .map(|jobs| jobs / wall.median),
            speed_up: None,
            ideal_speed_up: None,
            times_the_loop: None,
            cpu_seconds_per_million_jobs: cpu.zip(jobs).map(|(cpu, jobs)| cpu.median / jobs * 1e6),
            runs: runs.to_vec(),
        })
    }
}

impl Benchmark {
    /// A benchmark of what was measured.
    pub fn new(
        host: Host,
        settings: Settings,
        load: Load,
        started_at: String,
        measured: Measured,
        break_even: Option<BreakEven>,
    ) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            started_at,
            rows: measured.rows(host.cores),
            versions: measured.versions,
            host,
            load,
            settings,
            agreed: measured.agreed,
            break_even,
        }
    }

    /// Reads a `bench.json`.
    ///
    /// # Errors
    /// When it cannot be read, or is of another version of the schema.
    pub fn read(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let parse_error = |source| Error::Parse {
            path: path.to_owned(),
            source,
        };
        let text = super::read(path)?;
        let version: Version = serde_json::from_str(&text).map_err(parse_error)?;
        if version.schema_version != SCHEMA_VERSION {
            return Err(Error::SchemaVersion {
                path: path.to_owned(),
                found: version.schema_version,
                expected: SCHEMA_VERSION,
            });
        }
        serde_json::from_str(&text).map_err(parse_error)
    }

    /// The row of this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Whether it was measured with a program that is not optimised as a release is.
    pub fn is_of_a_debug_build(&self) -> bool {
        self.versions
            .get("profile")
            .is_some_and(|profile| profile != "release")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::plan::cases;

    fn run(round: u32, wall_seconds: f64) -> Run {
        let process = |name: &str, cpu_seconds, mebibytes: u64| Process {
            name: name.to_owned(),
            cpu_seconds: Some(cpu_seconds),
            peak_resident_bytes: Some(mebibytes << 20),
        };
        Run {
            round,
            wall_seconds,
            cpu_seconds: Some(1.5),
            peak_resident_bytes: Some(300 << 20),
            processes: vec![process("rollcall", 1.0, 250), process("worker-1", 0.5, 50)],
            stages: vec![Stage {
                stage: "read".to_owned(),
                seconds: 0.25,
            }],
            messages: Some(386),
        }
    }

    /// Rows with these wall seconds, on two cores.
    pub(crate) fn benchmark(walls: &[(BenchEngine, Option<usize>, &[f64])]) -> Benchmark {
        let cases: Vec<Case> = walls
            .iter()
            .map(|&(engine, workers, _)| Case {
                engine,
                workers,
                job_cost: Duration::ZERO,
            })
            .collect();
        let mut measured = Measured::new(&cases);
        for (runs, (_, _, walls)) in measured.runs.iter_mut().zip(walls) {
            *runs = (1..)
                .zip(*walls)
                .map(|(round, &wall)| run(round, wall))
                .collect();
        }
        measured.agreed = Findings {
            rows_read: 2_000_000,
            rows_accepted: 2_000_000,
            tests: 2_000_000,
            positive: 165_527,
            groups: 1_000_000,
            series_sha256: "ab".repeat(32),
            jobs: Some(1_000_000),
            job_set_digest: Some("cd".repeat(32)),
        };
        measured.versions = BTreeMap::from(
            [("profile", "release"), ("rollcall", "0.1.0")]
                .map(|(name, version)| (name.to_owned(), version.to_owned())),
        );
        let host = Host {
            name: "here".to_owned(),
            os: Some("Debian <12>".to_owned()),
            kernel: None,
            arch: "x86_64".to_owned(),
            cpu: Some("A CPU".to_owned()),
            cores: 2,
            memory_bytes: Some(8 << 30),
        };
        let settings = Settings {
            data_set: Vec::new(),
            rows: Some(2_000_000),
            broker: "in-process".to_owned(),
            runs: 3,
            warm_up: 1,
            engines: BenchEngine::ALL.to_vec(),
            workers: vec![1, 4],
            run_options: Vec::new(),
        };
        let load = Load {
            before: Some(0.25),
            after: None,
        };
        let started_at = "2026-11-21T12:00:00Z".to_owned();
        Benchmark::new(host, settings, load, started_at, measured, None)
    }

    /// One row of each engine, and four workers packed.
    pub(crate) fn sample() -> Benchmark {
        benchmark(&[
            (BenchEngine::Loop, None, &[1.0, 1.1, 0.9]),
            (BenchEngine::Polars, None, &[0.5, 0.5, 0.5]),
            (BenchEngine::Packed, Some(1), &[2.0, 2.0, 2.5]),
            (BenchEngine::Packed, Some(4), &[1.25, 1.25, 1.25]),
            (BenchEngine::OneAMessage, Some(1), &[4.0, 4.0, 4.0]),
        ])
    }

    #[test]
    fn speed_up_is_against_one_worker_and_ideal_is_as_many_as_work_at_a_time() {
        let benchmark = sample();
        let four = benchmark.row("packed-4").expect("the row");
        assert_eq!(four.speed_up, Some(1.6));
        // Four workers, two cores.
        assert_eq!(four.ideal_speed_up, Some(2.0));
        assert_eq!(four.times_the_loop, Some(0.8));
        assert_eq!(four.jobs_per_second, Some(800_000.0));
        assert_eq!(four.cpu_seconds_per_million_jobs, Some(1.5));
        let without = benchmark.row("loop").expect("the row");
        assert_eq!((without.speed_up, without.ideal_speed_up), (None, None));
        assert_eq!(without.times_the_loop, Some(1.0));
    }

    #[test]
    fn what_one_run_does_not_tell_the_row_does_not_know() {
        let cases = cases(&[BenchEngine::Packed], &[2]);
        let mut measured = Measured::new(&cases);
        let silent = Run {
            cpu_seconds: None,
            peak_resident_bytes: None,
            ..run(2, 1.0)
        };
        measured.runs[0] = vec![run(1, 1.0), silent];
        let rows = measured.rows(2);
        assert_eq!(
            (rows[0].cpu_seconds, rows[0].peak_resident_bytes),
            (None, None)
        );
        // Nobody has said how many jobs there are, and there is no row of one worker.
        assert_eq!((rows[0].jobs_per_second, rows[0].speed_up), (None, None));
    }
}
