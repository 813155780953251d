//! A whole aggregation, in order: collect, reconcile, write the series, write the report last.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline::Series;
use serde::Serialize;
use service::listen::{self, Probing};
use service::{Exit, Progress, Show, Shutdown, machine};
use tracing::info;

use crate::args::{Args, Config};
use crate::collect::{Collected, collect};
use crate::error::Error;
use crate::outputs::Outputs;
use crate::report::{Jobs, Report};
use crate::series_csv;

/// The name of the series in the output folder.
pub const SERIES_CSV: &str = "series.csv";

/// The name of the report in the output folder.
pub const REPORT_JSON: &str = "report.json";

/// The `aggregator` process: shows its progress, and says on standard output what the run has come
/// to.
///
/// # Errors
/// Those of [`Args::config`] and [`run`].
pub fn serve(args: &Args, shutdown: &Shutdown) -> Result<Exit, Error> {
    let config = args.config()?;
    let progress = Progress::new();
    // Closed last, when everything else is.
    let _watched = match args.listen.listen {
        None => None,
        Some(address) => {
            let health = &progress.health;
            let registry = config.metrics.registry(&progress);
            let listening = listen::serve(address, Arc::clone(health), registry, shutdown)?;
            Some((listening, probe(&config, &progress)))
        }
    };
    let shown = progress.show(Show::new(args.log.quiet, args.json.json));
    let report = run(&config, shutdown, &progress);
    drop(shown);
    match &report {
        Ok(report) if args.json.json => {
            machine::say_result(&ReportResult::new(report, &config.out));
        }
        Err(error) if args.json.json => machine::say_failure(error),
        Ok(report) if !args.log.quiet => print!("{report}"),
        _ => {}
    }
    report.map(|report| report.exit())
}

/// An aggregator is ready while a broker answers.
fn probe(config: &Config, progress: &Progress) -> Probing {
    const PATIENCE: Duration = Duration::from_secs(2);
    let cluster = config.cluster.clone();
    Probing::start(Arc::clone(&progress.health), move || {
        let asked = cluster.ask(PATIENCE);
        asked.map_err(|_| format!("no broker answers at {}", cluster.bootstrap_servers()))
    })
}

/// What a run has come to, for machines: the report's heart, and where the rest is.
#[derive(Serialize)]
pub struct ReportResult<'a> {
    verdict: &'static str,
    exit_code: u8,
    run_id: &'a str,
    jobs: Jobs,
    rows: Option<RowsResult>,
    tests: u64,
    positive: u64,
    rate: Option<f64>,
    /// What was written.
    paths: Vec<String>,
}

#[derive(Serialize)]
struct RowsResult {
    read: u64,
    accepted: u64,
    rejected: u64,
}

impl<'a> ReportResult<'a> {
    /// The result of a run whose outputs are in the folder `out`.
    pub fn new(report: &'a Report, out: &Path) -> Self {
        let files = report.files.iter().map(|file| file.name.as_str());
        let paths = files.chain([REPORT_JSON]);
        Self {
            verdict: report.status.word(),
            exit_code: report.exit().code(),
            run_id: &report.run.run_id,
            jobs: report.jobs,
            rows: report.manifest.as_ref().map(|manifest| RowsResult {
                read: manifest.rows_read,
                accepted: manifest.rows_accepted,
                rejected: manifest.rows_rejected,
            }),
            tests: report.tests,
            positive: report.positive,
            rate: report.rate,
            paths: paths
                .map(|name| out.join(name).display().to_string())
                .collect(),
        }
    }

    /// The same with one more path, after the others.
    pub fn with_path(mut self, path: &Path) -> Self {
        self.paths.push(path.display().to_string());
        self
    }
}

/// Collects a run, judges it and writes what came of it. A run that is incomplete when the time-out
/// strikes, or has failed, is written too: its report says so.
///
/// # Errors
/// When the run cannot be collected, or an output cannot be written.
pub fn run(config: &Config, shutdown: &Shutdown, progress: &Progress) -> Result<Report, Error> {
    // An output folder that cannot be had is better told before the run than after it.
    let outputs = Outputs::new(&config.out)?;
    let Collected {
        opened,
        collection,
        undecodable,
        seconds,
    } = collect(config, shutdown, progress)?;

    // What follows has no rounds that it could beat in, and waits for nobody.
    progress.health.rest();
    let started = Instant::now();
    let judged = collection.reconcile();
    let series = collection
        .ledger()
        .map_or_else(Series::default, |ledger| ledger.series());
    let mut report = Report::new(&opened, &collection, &judged);
    report.jobs.undecodable_dropped = undecodable;
    let reconcile_seconds = started.elapsed().as_secs_f64();
    for (stage, seconds) in collection.manifest().iter().flat_map(|known| &known.stages) {
        report.add_stage(stage, *seconds);
    }
    let stage_seconds = &config.metrics.stage_seconds;
    stage_seconds.set("collect", seconds);
    stage_seconds.set("reconcile", reconcile_seconds);
    report.add_stage("collect", seconds);
    report.add_stage("reconcile", reconcile_seconds);
    write_outputs(&outputs, &series, &mut report)?;
    info!(status = report.status.word(), "run judged");
    Ok(report)
}

/// Writes the series, and last the report with the digests of what was written before it.
///
/// # Errors
/// When a file cannot be written.
pub fn write_outputs(outputs: &Outputs, series: &Series, report: &mut Report) -> Result<(), Error> {
    let started = Instant::now();
    let grouping = &report.run.grouping;
    let (file, sha256) = outputs.write(SERIES_CSV, |out| {
        series_csv::write(series, &grouping.label_columns, grouping.grain, out)
    })?;
    report.series.rows = series.rows.len() as u64;
    report.series.sha256 = sha256;
    report.files = vec![file];
    report.add_stage("write", started.elapsed().as_secs_f64());
    report.work_out_rates();
    outputs.write(REPORT_JSON, |out| {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        out.write_all(b"\n")
    })?;
    Ok(())
}
