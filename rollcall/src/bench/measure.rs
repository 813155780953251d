//! Makes one run: starts the program as a person would, waits for its end, and takes the figures
//! from the report that it leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kafka::args::PROPERTIES_VARIABLE;
use pipeline::Verdict;
use serde::Deserialize;
use service::Shutdown;
use tokio::process::Command;
use tokio::runtime::Runtime;

use super::agreement::Findings;
use super::args::{BenchArgs, BenchEngine};
use super::benchmark::{Process, Run, Stage};
use super::error::Error as BenchError;
use super::plan::{Case, Round, Side};
use crate::config_file::CONFIG_VARIABLE;
use crate::error::Error;

/// What all runs have in common.
pub struct Stand {
    programs: Vec<PathBuf>,
    /// The data set, and the options of every run.
    arguments: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    out: PathBuf,
    runtime: Runtime,
    /// Of each program, as its runs have told.
    versions: RefCell<Vec<BTreeMap<String, String>>>,
}

/// What is taken from a run's report.
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

impl Stand {
    /// For these programs and this data set.
    ///
    /// # Errors
    /// When no runtime can be had.
    pub fn new(
        args: &BenchArgs,
        programs: Vec<PathBuf>,
        data_sets: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let mut arguments: Vec<OsString> = args.run_options.iter().map(OsString::from).collect();
        arguments.push("--broker-timeout".into());
        arguments.push(super::option(args.broker.broker_timeout).into());
        arguments.extend(data_sets.into_iter().map(PathBuf::into_os_string));
        // Not as arguments, which every user of the machine can read.
        let properties = kafka::args::write_properties(&args.broker.all_properties()?);
        let variables = vec![
            // A run has what the benchmark says, and no options of its own from a file.
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
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Self {
            versions: RefCell::new(vec![BTreeMap::new(); programs.len()]),
            programs,
            arguments,
            variables,
            out: args.out.clone(),
            runtime,
        })
    }

    /// The same for the first program and another data set, each row of which is a job.
    ///
    /// # Errors
    /// When no runtime can be had.
    pub fn with_a_job_for_each_row_of(
        args: &BenchArgs,
        program: PathBuf,
        data_set: PathBuf,
    ) -> Result<Self, Error> {
        let mut stand = Self::new(args, vec![program], vec![data_set])?;
        stand
            .arguments
            .extend(["--max-rows-per-job", "1"].map(OsString::from));
        Ok(stand)
    }

    /// The programs.
    pub fn programs(&self) -> &[PathBuf] {
        &self.programs
    }

    /// What each program has told of its build.
    pub fn versions(&self) -> Vec<BTreeMap<String, String>> {
        self.versions.borrow().clone()
    }

    /// Makes one run of a row, which is called `name` should it fail.
    ///
    /// # Errors
    /// When it does not end as complete, or its report lacks a figure.
    pub fn run(
        &self,
        case: &Case,
        side: Side,
        round: Round,
        name: &str,
        shutdown: &Shutdown,
    ) -> Result<(Run, Findings), Error> {
        let folder = tempfile::Builder::new()
            .prefix(".run-")
            .tempdir_in(&self.out)
            .map_err(|source| BenchError::Folder {
                path: self.out.clone(),
                source,
            })?;
        let arguments = self.arguments(case, folder.path());
        let running = self.finish(side, &arguments, name, shutdown);
        self.runtime.block_on(running)?;
        let report = folder.path().join(aggregator::outputs::REPORT_JSON);
        let text = super::read(&report)?;
        let report: RunReport =
            serde_json::from_str(&text).map_err(|source| BenchError::Parse {
                path: report,
                source,
            })?;
        self.versions.borrow_mut()[side.0].clone_from(&report.versions);
        Ok(take(name, round, report)?)
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
            option("--simulate-cpu", &super::option(case.job_cost));
        }
        // The same for all, and the least that is a result.
        option("--outputs", "csv");
        arguments.extend(["--quiet".into(), "--out".into(), out.into()]);
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }

    /// Runs the program to its end.
    async fn finish(
        &self,
        side: Side,
        arguments: &[OsString],
        name: &str,
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        let mut child = Command::new(&self.programs[side.0])
            .args(arguments)
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .env_remove("RUN_ID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Its workers end when it does, however it ends.
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::StartWorker)?;
        let said = child.stderr.take();
        let said = async {
            let mut text = Vec::new();
            if let Some(mut said) = said {
                use tokio::io::AsyncReadExt;
                // What cannot be read is not shown; how the process ended is known all the same.
                let _ = said.read_to_end(&mut text).await;
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        let (status, said) = tokio::select! {
            (status, said) = async { tokio::join!(child.wait(), said) } => {
                (status.map_err(Error::StartWorker)?, said)
            }
            signal = shutdown.wait() => return Err(Error::Stopped(signal)),
        };
        match status.success() {
            true => Ok(()),
            false => Err(BenchError::Run {
                row: name.to_owned(),
                status: status.to_string(),
                said: said
                    .trim_end()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .to_owned(),
            }
            .into()),
        }
    }
}

/// The figures and findings in a report.
fn take(name: &str, round: Round, report: RunReport) -> Result<(Run, Findings), BenchError> {
    let missing = |what| BenchError::Report {
        row: name.to_owned(),
        what,
    };
    if report.status != Verdict::Complete.word() {
        return Err(BenchError::Run {
            row: name.to_owned(),
            status: report.status,
            said: "not every job was counted".to_owned(),
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
    let told = !report.processes.is_empty();
    let cpu = report.processes.iter().map(|process| process.cpu_seconds);
    let peaks = report.processes.iter();
    let peaks = peaks.map(|process| process.peak_resident_bytes);
    let run = Run {
        round: round.number(),
        wall_seconds: report.wall_seconds.ok_or_else(|| missing("wall_seconds"))?,
        cpu_seconds: cpu.sum::<Option<f64>>().filter(|_| told),
        peak_resident_bytes: peaks.sum::<Option<u64>>().filter(|_| told),
        processes: report.processes,
        stages: report.stages,
        messages: manifest.messages,
    };
    Ok((run, findings))
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
    fn a_run_has_the_sum_of_what_its_processes_have_used() {
        let worker = r#"{"name": "worker-1", "cpu_seconds": 0.5, "peak_resident_bytes": 50}"#;
        let report = report(&format!("{OWN}, {worker}"), "complete");
        let (run, found) = take("packed-1", Round::Measured(2), report).expect("complete");
        assert_eq!((run.round, run.wall_seconds), (2, 1.5));
        assert_eq!(
            (run.cpu_seconds, run.peak_resident_bytes),
            (Some(1.5), Some(150))
        );
        assert_eq!((found.jobs, found.rows_accepted), (Some(3), 4));
    }

    #[test]
    fn a_process_that_does_not_tell_leaves_the_sum_unknown() {
        let dead = r#"{"name": "worker-1", "cpu_seconds": null, "peak_resident_bytes": null}"#;
        for processes in ["", &format!("{OWN}, {dead}")] {
            let (run, _) = take(
                "packed-1",
                Round::Measured(1),
                report(processes, "complete"),
            )
            .expect("complete");
            assert_eq!((run.cpu_seconds, run.peak_resident_bytes), (None, None));
        }
    }

    #[test]
    fn a_run_that_is_not_complete_is_no_measurement() {
        let report = report(OWN, "complete_with_dead_letters");
        let error = take("packed-1", Round::Measured(1), report).expect_err("refused");
        assert!(error.to_string().contains("packed-1"), "{error}");
    }
}
