//! A whole aggregation, in order: collect, reconcile, write the series, write the report last.

use std::time::Instant;

use pipeline::Series;
use service::{Exit, Progress, Shutdown, say};
use tracing::info;

use crate::args::{Args, Config};
use crate::collect::{Collected, collect};
use crate::error::Error;
use crate::outputs::{Outputs, REPORT_JSON};
use crate::report::Report;
use crate::series_csv;

/// The name of the series in the output folder.
pub const SERIES_CSV: &str = "series.csv";

/// The `aggregator` process: shows its progress, and says on standard output what the run has come
/// to.
///
/// # Errors
/// Those of [`Args::config`] and [`run`].
pub fn serve(args: &Args, shutdown: &Shutdown) -> Result<Exit, Error> {
    let config = args.config()?;
    let progress = Progress::new();
    let shown = progress.show(args.log.quiet);
    let report = run(&config, shutdown, &progress)?;
    drop(shown);
    if !args.log.quiet {
        say(&report).map_err(Error::Say)?;
    }
    Ok(report.exit())
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
    report.add_stage("collect", seconds);
    report.add_stage("reconcile", reconcile_seconds);
    write_outputs(&outputs, &series, &mut report)?;
    info!(
        run_id = report.run.run_id,
        status = report.status.word(),
        "run judged"
    );
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
