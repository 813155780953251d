//! A benchmark: host, settings, every measured run of every row, and the figures computed from
//! them. It is the content of `bench.json`, so within a version of the schema fields are only
//! added.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::agreement::Findings;
use crate::args::{BenchArgs, BenchEngine};
use crate::break_even::BreakEven;
use crate::host::Host;
use crate::plan::Case;
use crate::statistics::{Summary, outliers};

/// The version of the schema of `bench.json`.
pub const SCHEMA_VERSION: u32 = 1;

/// A benchmark, as in `bench.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Benchmark {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The time of its start, in ISO 8601.
    pub started_at: String,
    /// The versions of the measured program: `rollcall`, `librdkafka`, `profile`, and `commit` if
    /// it was built from a git checkout.
    pub versions: BTreeMap<String, String>,
    /// The machine.
    pub host: Host,
    /// The load of the machine.
    pub load: Load,
    /// The settings.
    pub settings: Settings,
    /// The results that all runs agree on.
    pub agreed: Findings,
    /// The rows.
    pub rows: Vec<Row>,
    /// The measurement of jobs of increasing cost; `None` without `--break-even`.
    pub break_even: Option<BreakEven>,
}

/// The load of the machine: the number of processes that ran or waited for a core, on average over
/// one minute. `None` on systems without `/proc/loadavg`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The load at the start, which is other processes' work.
    pub before: Option<f64>,
    /// The load at the end, which is the benchmark's and other processes' work.
    pub after: Option<f64>,
}

/// The settings of a benchmark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The files of the data set; empty when it was generated.
    pub data_set: Vec<String>,
    /// The number of generated rows; `None` when a data set was named.
    pub rows: Option<u64>,
    /// `in-process`, or the bootstrap servers.
    pub broker: String,
    /// The number of measured runs of each row.
    pub runs: usize,
    /// The number of warm-up rounds.
    pub warm_up: u32,
    /// The engines.
    pub engines: Vec<BenchEngine>,
    /// The numbers of workers.
    pub workers: Vec<usize>,
    /// The options of `rollcall run` for every row.
    pub run_options: Vec<String>,
}

impl Settings {
    /// The settings of these arguments.
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

    /// The settings that differ and make rows incomparable, each with both values. The number of
    /// runs, the choice of rows and the path of a data set do not: a data set is compared by its
    /// results.
    pub fn mismatches(&self, other: &Self) -> Vec<(&'static str, String, String)> {
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
        let mismatches = pairs.into_iter().filter(|(_, own, others)| own != others);
        mismatches.collect()
    }
}

/// The measurement of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The round of the run, from 1.
    pub round: u32,
    /// The wall seconds from its command to the end of all its processes.
    pub wall_seconds: f64,
    /// The CPU seconds of all its processes; `None` when those of one are unknown.
    pub cpu_seconds: Option<f64>,
    /// The sum of the peaks of all its processes, an upper bound of the memory in use at any time;
    /// `None` when the peak of one is unknown.
    pub peak_resident_bytes: Option<u64>,
    /// CPU seconds and peak memory by process.
    pub processes: Vec<Process>,
    /// The wall seconds of each stage, in order. Stages overlap.
    pub stages: Vec<Stage>,
    /// The number of messages with jobs; `None` without the dispatcher.
    pub messages: Option<u64>,
}

/// The CPU seconds and the peak memory of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// `rollcall`, the process with dispatcher, aggregator and in-process broker, or the worker's
    /// id.
    pub name: String,
    /// CPU seconds.
    pub cpu_seconds: Option<f64>,
    /// The peak of the resident memory.
    pub peak_resident_bytes: Option<u64>,
}

/// The wall seconds of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The stage's name.
    pub stage: String,
    /// Wall seconds.
    pub seconds: f64,
}

/// A row: its samples, and the figures computed from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The row's name, such as `packed-2`.
    pub name: String,
    /// The engine.
    pub engine: BenchEngine,
    /// The number of workers; `None` without the dispatcher.
    pub workers: Option<usize>,
    /// The CPU seconds that were added to each job.
    pub job_cost_seconds: f64,
    /// The wall seconds of its runs.
    pub wall_seconds: Summary,
    /// The number of runs that are outliers by their wall seconds.
    pub outliers: usize,
    /// The CPU seconds of its runs; `None` when those of one run are unknown.
    pub cpu_seconds: Option<Summary>,
    /// The peak memory of its runs; `None` when that of one run is unknown.
    pub peak_resident_bytes: Option<Summary>,
    /// Jobs per wall second, by the median; `None` when no measured engine has jobs.
    pub jobs_per_second: Option<f64>,
    /// The speed as a multiple of that of one worker with the same engine.
    pub speed_up: Option<f64>,
    /// The ideal speed-up: the number of workers, or of cores if there are fewer.
    pub ideal_speed_up: Option<f64>,
    /// The speed as a multiple of the loop's.
    pub times_the_loop: Option<f64>,
    /// The CPU seconds for a million jobs, by the median: the cost where CPU time is billed.
    pub cpu_seconds_per_million_jobs: Option<f64>,
    /// The measurement of every run.
    #[serde(rename = "runs")]
    pub samples: Vec<Sample>,
}

/// The measurements of one program.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The rows.
    pub cases: Vec<Case>,
    /// The samples of each row.
    pub samples: Vec<Vec<Sample>>,
    /// The results that all runs agree on.
    pub agreed: Findings,
    /// The program's versions.
    pub versions: BTreeMap<String, String>,
}

impl Measured {
    /// Measurements without samples.
    pub fn new(cases: &[Case]) -> Self {
        Self {
            cases: cases.to_vec(),
            samples: vec![Vec::new(); cases.len()],
            agreed: Findings::default(),
            versions: BTreeMap::new(),
        }
    }

    /// The rows with the figures computed from their samples. A row without samples is left out.
    pub fn rows(&self, cores: usize) -> Vec<Row> {
        let rows = self.cases.iter().zip(&self.samples);
        let mut rows: Vec<Row> = rows
            .filter_map(|(case, samples)| Row::new(case, samples, self.agreed.jobs))
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

fn walls(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.wall_seconds).collect()
}

impl Row {
    /// The wall seconds of its runs, in the order of the rounds.
    pub fn walls(&self) -> Vec<f64> {
        walls(&self.samples)
    }

    fn new(case: &Case, samples: &[Sample], jobs: Option<u64>) -> Option<Self> {
        let walls = walls(samples);
        let cpus: Option<Vec<f64>> = samples.iter().map(|sample| sample.cpu_seconds).collect();
        let peaks: Option<Vec<f64>> = samples
            .iter()
            .map(|sample| sample.peak_resident_bytes.map(|bytes| bytes as f64))
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
            samples: samples.to_vec(),
        })
    }
}

impl Benchmark {
    /// A benchmark with the figures computed from these measurements.
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
    /// When it cannot be read or parsed, or has another version of the schema.
    pub fn read(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let parse_error = |source| Error::Parse {
            path: path.to_owned(),
            source,
        };
        let text = crate::read(path)?;
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

    /// The row with this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Whether the measured program was not a release build.
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
    use crate::plan::cases;

    fn sample(round: u32, wall_seconds: f64) -> Sample {
        let process = |name: &str, cpu_seconds, mebibytes: u64| Process {
            name: name.to_owned(),
            cpu_seconds: Some(cpu_seconds),
            peak_resident_bytes: Some(mebibytes << 20),
        };
        Sample {
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

    /// A benchmark of rows with these wall seconds, on two cores.
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
        for (samples, (_, _, walls)) in measured.samples.iter_mut().zip(walls) {
            *samples = (1..)
                .zip(*walls)
                .map(|(round, &wall)| sample(round, wall))
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

    /// A benchmark with a row of each engine, and one of four workers.
    pub(crate) fn example() -> Benchmark {
        benchmark(&[
            (BenchEngine::Loop, None, &[1.0, 1.1, 0.9]),
            (BenchEngine::Polars, None, &[0.5, 0.5, 0.5]),
            (BenchEngine::Packed, Some(1), &[2.0, 2.0, 2.5]),
            (BenchEngine::Packed, Some(4), &[1.25, 1.25, 1.25]),
            (BenchEngine::OneAMessage, Some(1), &[4.0, 4.0, 4.0]),
        ])
    }

    #[test]
    fn speed_up_is_against_one_worker_and_the_ideal_is_bounded_by_cores() {
        let benchmark = example();
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
    fn a_row_has_no_figure_where_one_sample_has_none() {
        let cases = cases(&[BenchEngine::Packed], &[2]);
        let mut measured = Measured::new(&cases);
        let unknown = Sample {
            cpu_seconds: None,
            peak_resident_bytes: None,
            ..sample(2, 1.0)
        };
        measured.samples[0] = vec![sample(1, 1.0), unknown];
        let rows = measured.rows(2);
        assert_eq!(
            (rows[0].cpu_seconds, rows[0].peak_resident_bytes),
            (None, None)
        );
        // The number of jobs is unknown, and there is no row of one worker.
        assert_eq!((rows[0].jobs_per_second, rows[0].speed_up), (None, None));
    }
}
