//! The measurement of one run: a runner starts the program as a user would, waits for its end, and
//! reads the figures in the report that it has written.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kafka::args::PROPERTIES_VARIABLE;
use pipeline::Verdict;
use serde::Deserialize;
use service::Shutdown;
use service::process::CONFIG_VARIABLE;
use tokio::process::Command;
use tokio::runtime::Runtime;

use crate::Error;
use crate::agreement::Findings;
use crate::args::{BenchArgs, BenchEngine};
use crate::benchmark::{Process, Sample, Stage};
use crate::plan::{Case, Round, Side};

/// A runner of `rollcall run` for all rows of a benchmark.
pub struct Runner {
    programs: Vec<PathBuf>,
    /// The options of every run, and the data set.
    arguments: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    out: PathBuf,
    runtime: Runtime,
    /// The versions of each program, from the reports of its runs.
    versions: RefCell<Vec<BTreeMap<String, String>>>,
}

/// The part of a run's report that a benchmark uses.
#[derive(Deserialize)]
struct RunReport {
    status: String,
    manifest: Option<RunManifest>,
    tests: Option<u64>,
    positive: Option<u64>,
    series: RunSeries,
    stages: Vec<Stage>,
    wall_seconds: Option<f64>,
    #[serde(default)]
    processes: Vec<Process>,
    versions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RunManifest {
    jobs: Option<u64>,
    rows_read: u64,
    rows_accepted: u64,
    messages: Option<u64>,
    job_set_digest: Option<String>,
}

#[derive(Deserialize)]
struct RunSeries {
    rows: Option<u64>,
    sha256: Option<String>,
}

impl Runner {
    /// A runner for these programs and this data set.
    ///
    /// # Errors
    /// When a file of Kafka properties cannot be read, or no runtime can be started.
    pub fn new(
        args: &BenchArgs,
        programs: Vec<PathBuf>,
        data_sets: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let mut arguments: Vec<OsString> = args.run_options.iter().map(OsString::from).collect();
        arguments.push("--broker-timeout".into());
        arguments.push(crate::duration_value(args.broker.broker_timeout).into());
        arguments.extend(data_sets.into_iter().map(PathBuf::into_os_string));
        // In a variable, because every user of the machine can read arguments.
        let properties = kafka::args::write_properties(&args.broker.all_properties()?);
        let variables = vec![
            // A run has the options of the benchmark only, and none from a configuration file.
            (CONFIG_VARIABLE, OsString::new()),
            (PROPERTIES_VARIABLE, properties.into()),
            (
                "KAFKA_BOOTSTRAP_SERVERS",
                args.bootstrap_servers().unwrap_or_default().into(),
            ),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        Ok(Self {
            versions: RefCell::new(vec![BTreeMap::new(); programs.len()]),
            programs,
            arguments,
            variables,
            out: args.out.clone(),
            runtime,
        })
    }

    /// A runner for one program and a data set of which each row is a job.
    ///
    /// # Errors
    /// The errors of [`Runner::new`].
    pub fn with_one_row_per_job(
        args: &BenchArgs,
        program: PathBuf,
        data_set: PathBuf,
    ) -> Result<Self, Error> {
        let mut runner = Self::new(args, vec![program], vec![data_set])?;
        runner
            .arguments
            .extend(["--max-rows-per-job", "1"].map(OsString::from));
        Ok(runner)
    }

    /// The programs.
    pub fn programs(&self) -> &[PathBuf] {
        &self.programs
    }

    /// The versions of each program; empty before its first run.
    pub fn versions(&self) -> Vec<BTreeMap<String, String>> {
        self.versions.borrow().clone()
    }

    /// Performs one run of a row. `name` is the row's name in errors.
    ///
    /// # Errors
    /// When the run does not end as complete, or its report lacks a figure.
    pub fn run(
        &self,
        case: &Case,
        side: Side,
        round: Round,
        name: &str,
        shutdown: &Shutdown,
    ) -> Result<(Sample, Findings), Error> {
        let folder = tempfile::Builder::new()
            .prefix(".run-")
            .tempdir_in(&self.out)
            .map_err(|source| Error::Folder {
                path: self.out.clone(),
                source,
            })?;
        let arguments = self.arguments(case, folder.path());
        let ended = self.run_to_end(side, &arguments, name, shutdown);
        self.runtime.block_on(ended)?;
        let report = folder.path().join(aggregator::outputs::REPORT_JSON);
        let text = crate::read(&report)?;
        let report: RunReport = serde_json::from_str(&text).map_err(|source| Error::Parse {
            path: report,
            source,
        })?;
        self.versions.borrow_mut()[side.0].clone_from(&report.versions);
        sample(name, round, report)
    }

    fn arguments(&self, case: &Case, out: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["run".into()];
        let mut option = |name: &str, value: &str| {
            arguments.push(name.into());
            arguments.push(value.into());
        };
        match case.engine {
            BenchEngine::Loop => option("--engine", "loop"),
            BenchEngine::Polars => option("--engine", "local"),
            BenchEngine::Packed => option("--jobs-per-message", "auto"),
            BenchEngine::OneAMessage => option("--jobs-per-message", "1"),
        }
        if let Some(workers) = case.workers {
            option("--workers", &workers.to_string());
        }
        if !case.job_cost.is_zero() {
            option("--simulate-cpu", &crate::duration_value(case.job_cost));
        }
        // The same output for all engines, and the smallest one.
        option("--outputs", "csv");
        arguments.extend(["--quiet".into(), "--out".into(), out.into()]);
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }

    /// Runs the program to its end.
    async fn run_to_end(
        &self,
        side: Side,
        arguments: &[OsString],
        name: &str,
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        let program = &self.programs[side.0];
        let not_run = |source| Error::Program {
            program: program.clone(),
            source,
        };
        let mut child = Command::new(program)
            .args(arguments)
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .env_remove("RUN_ID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Its workers end with it, also when it is killed.
            .kill_on_drop(true)
            .spawn()
            .map_err(not_run)?;
        let stderr = child.stderr.take();
        let stderr = async {
            let mut text = Vec::new();
            if let Some(mut stderr) = stderr {
                use tokio::io::AsyncReadExt;
                // An error of reading is ignored: the exit status has the outcome.
                let _ = stderr.read_to_end(&mut text).await;
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        let (status, stderr) = tokio::select! {
            (status, stderr) = async { tokio::join!(child.wait(), stderr) } => {
                (status.map_err(not_run)?, stderr)
            }
            signal = shutdown.wait() => return Err(Error::Stopped(signal)),
        };
        match status.success() {
            true => Ok(()),
            false => Err(Error::Run {
                row: name.to_owned(),
                status: status.to_string(),
                last_line: stderr
                    .trim_end()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .to_owned(),
            }),
        }
    }
}

/// The figures and the results in a report.
fn sample(name: &str, round: Round, report: RunReport) -> Result<(Sample, Findings), Error> {
    let missing = |what| Error::Report {
        row: name.to_owned(),
        what,
    };
    if report.status != Verdict::Complete.word() {
        return Err(Error::Run {
            row: name.to_owned(),
            status: report.status,
            last_line: "not every job was counted".to_owned(),
        });
    }
    let manifest = report.manifest.ok_or_else(|| missing("manifest"))?;
    let findings = Findings {
        rows_read: manifest.rows_read,
        rows_accepted: manifest.rows_accepted,
        tests: report.tests.ok_or_else(|| missing("tests"))?,
        positive: report.positive.ok_or_else(|| missing("positive tests"))?,
        groups: report.series.rows.ok_or_else(|| missing("groups"))?,
        series_sha256: report
            .series
            .sha256
            .ok_or_else(|| missing("digest of the series"))?,
        jobs: manifest.jobs,
        job_set_digest: manifest.job_set_digest,
    };
    let is_known = !report.processes.is_empty();
    let cpu = report.processes.iter().map(|process| process.cpu_seconds);
    let peaks = report.processes.iter();
    let peaks = peaks.map(|process| process.peak_resident_bytes);
    let sample = Sample {
        round: round.number(),
        wall_seconds: report.wall_seconds.ok_or_else(|| missing("wall_seconds"))?,
        cpu_seconds: cpu.sum::<Option<f64>>().filter(|_| is_known),
        peak_resident_bytes: peaks.sum::<Option<u64>>().filter(|_| is_known),
        processes: report.processes,
        stages: report.stages,
        messages: manifest.messages,
    };
    Ok((sample, findings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(processes: &str, status: &str) -> RunReport {
        let text = format!(
            r#"{{"status": "{status}",
                "manifest": {{"jobs": 3, "rows_read": 5, "rows_accepted": 4, "messages": 2,
                              "job_set_digest": "cd", "rejected": {{}}}},
                "tests": 4, "positive": 1, "series": {{"rows": 2, "sha256": "ab"}},
                "stages": [{{"stage": "read", "seconds": 0.5}}], "wall_seconds": 1.5,
                "processes": [{processes}], "versions": {{}}}}"#
        );
        serde_json::from_str(&text).expect("a report")
    }

    const OWN: &str = r#"{"name": "rollcall", "cpu_seconds": 1.0, "peak_resident_bytes": 100}"#;

    #[test]
    fn a_sample_has_the_sum_of_its_processes() {
        let worker = r#"{"name": "worker-1", "cpu_seconds": 0.5, "peak_resident_bytes": 50}"#;
        let report = report(&format!("{OWN}, {worker}"), "complete");
        let (sample, found) = sample("packed-1", Round::Measured(2), report).expect("complete");
        assert_eq!((sample.round, sample.wall_seconds), (2, 1.5));
        assert_eq!(
            (sample.cpu_seconds, sample.peak_resident_bytes),
            (Some(1.5), Some(150))
        );
        assert_eq!((found.jobs, found.rows_accepted), (Some(3), 4));
    }

    #[test]
    fn a_process_without_figures_makes_the_sum_unknown() {
        let dead = r#"{"name": "worker-1", "cpu_seconds": null, "peak_resident_bytes": null}"#;
        for processes in ["", &format!("{OWN}, {dead}")] {
            let (sample, _) = sample(
                "packed-1",
                Round::Measured(1),
                report(processes, "complete"),
            )
            .expect("complete");
            assert_eq!(
                (sample.cpu_seconds, sample.peak_resident_bytes),
                (None, None)
            );
        }
    }

    #[test]
    fn a_run_that_is_not_complete_is_no_measurement() {
        let report = report(OWN, "complete_with_dead_letters");
        let error = sample("packed-1", Round::Measured(1), report).expect_err("refused");
        assert!(error.to_string().contains("packed-1"), "{error}");
    }
}
