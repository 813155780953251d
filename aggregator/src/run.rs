//! A whole aggregation, in order: collect, reconcile, write the table, write the report last.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use computations::Registry;
use computations::positivity::Series;
use pipeline::{ContentDigest, Grain, Judged, VerdictKey};
use serde::Serialize;
use service::listen::{self, Probing};
use service::{Exit, Progress, Show, Shutdown, clock, json_output, print};
use tracing::info;

use crate::args::{Args, Config, OutputChoice};
use crate::collect::collect;
use crate::collecting::Collected;
use crate::error::Error;
use crate::export::report_html::REPORT_HTML;
use crate::export::{
    Exporter, Format, ReportHtml, ReportMd, RunTable, SeriesCsv, SeriesParquet, SeriesSvg, Table,
    TableCsv,
};
use crate::memory;
use crate::outputs::{OutputFile, Outputs, REPORT_JSON};
use crate::report::{Jobs, Report, TableReport};
use crate::settle::{Attempt, Settled, Settling, VerdictReport};
use crate::table::Tabulation;
use crate::writing::{Leaves, Step, steps};

/// The `aggregator` process of a program that knows these computations: shows its progress, and says
/// on standard output what the run has come to.
///
/// # Errors
/// Those of [`Args::config`] and [`run`].
pub fn serve(args: &Args, shutdown: &Shutdown, computations: &Registry) -> Result<Exit, Error> {
    let config = args.config(computations)?;
    clock::watch();
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
    let report = run(&config, shutdown, &progress, || {});
    drop(shown);
    match &report {
        Ok(report) if args.json.json => {
            json_output::print_result(&ReportResult::new(report, &config.out));
        }
        Err(error) if args.json.json => json_output::print_failure(error),
        Ok(report) if !args.log.quiet => print(report).map_err(Error::Print)?,
        _ => {}
    }
    report.map(|report| report.exit())
}

/// An aggregator is ready while a broker answers.
fn probe(config: &Config, progress: &Progress) -> Probing {
    let cluster = config.cluster.clone();
    Probing::start(Arc::clone(&progress.health), move || cluster.readiness())
}

/// The result of a run as JSON: the main figures of the report, and the paths of the files.
#[derive(Serialize)]
pub struct ReportResult<'a> {
    verdict: &'static str,
    exit_code: u8,
    run_id: &'a str,
    jobs: Jobs,
    rows: Option<RowsResult>,
    tests: Option<u64>,
    positive: Option<u64>,
    rate: Option<f64>,
    /// The files that were written.
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
}

/// Collects a run, judges it, settles the verdict with other aggregators and writes what came of it. A
/// run that is incomplete when the time-out strikes, or has failed, is written too: its report says so.
///
/// `when_collected` is called as soon as no worker can add anything any more.
///
/// # Errors
/// When the run cannot be collected or settled, or an output cannot be written.
pub fn run(
    config: &Config,
    shutdown: &Shutdown,
    progress: &Progress,
    when_collected: impl FnOnce(),
) -> Result<Report, Error> {
    // An output folder that cannot be created is reported before the run, not after it.
    let outputs = Outputs::new(&config.out)?;
    let mut when_collected = Some(when_collected);
    // To close a client takes as long as its threads need to end, which nothing else waits for.
    thread::scope(|closing| {
        let (attempt, verdict) = loop {
            let read = collect(config, shutdown, progress)?;
            if let Some(when_collected) = when_collected.take() {
                when_collected();
            }
            closing.spawn(move || drop(read.clients));
            // What follows has no rounds that it could beat in, and waits for nobody.
            progress.health.rest();
            let collected = read.collected;
            let mut settling = Settling::new(config, shutdown, read.runs, collected.run.clone());
            let settled = settling.settle(collected, &mut |collected, at| {
                judge(config, &outputs, &read.tabulation, collected, at)
            })?;
            closing.spawn(move || drop(settling));
            match settled {
                Settled::NextGeneration => outputs.discard(),
                Settled::Done(attempt, verdict) => break (*attempt, verdict),
            }
        };
        report(config, &outputs, attempt, verdict)
    })
}

/// Writes the reports of a run that is settled, and puts its files in place.
fn report(
    config: &Config,
    outputs: &Outputs,
    attempt: Attempt,
    verdict: VerdictReport,
) -> Result<Report, Error> {
    let Attempt {
        series, mut report, ..
    } = attempt;
    report.verdict = Some(verdict);
    write_reports(outputs, &config.outputs, series.as_ref(), &mut report)?;
    info!(status = report.status.word(), "run judged");
    Ok(report)
}

/// Judges what was collected, and writes its tables under temporary names.
fn judge(
    config: &Config,
    outputs: &Outputs,
    tabulation: &Tabulation,
    mut collected: Collected,
    at: Option<VerdictKey>,
) -> Result<Attempt, Error> {
    outputs.discard();
    let seconds = collected.duration.as_secs_f64();
    let started = Instant::now();
    let of_spill = Error::of_spill(&config.spill_folder);
    let is_series = tabulation.series_grain.is_some();
    let room = memory::table_bytes(&collected.collection, is_series);
    collected.collection.make_room(room).map_err(&of_spill)?;
    let collection = &collected.collection;
    // The digest of the jobs on one core, the series on another.
    let tabulate = &*tabulation.tabulate;
    let (reconciliation, series) = thread::scope(|scope| {
        let series = scope.spawn(|| tabulation.series(collection.ledger()));
        let judged = collection.reconcile(|ledger| tabulate.checks(ledger));
        (judged, series.join())
    });
    let series = series.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let series = series.map_err(&of_spill)?;
    let reconciliation = reconciliation.map_err(&of_spill)?;
    let mut report = Report::new(&collected.opened, collection, &reconciliation);
    if let (Some(series), Some(_)) = (&series, collection.ledger()) {
        report.add_series_totals(series);
    }
    report.jobs.undecodable_dropped = Some(collected.undecodable);
    let reconcile_seconds = started.elapsed().as_secs_f64();
    for (stage, seconds) in collection.manifest().iter().flat_map(|known| &known.stages) {
        report.add_stage(stage, *seconds);
    }
    let stage_seconds = &config.metrics.stage_seconds;
    stage_seconds.set("collect", seconds);
    stage_seconds.set("reconcile", reconcile_seconds);
    report.add_stage("collect", seconds);
    report.add_stage("reconcile", reconcile_seconds);
    let rejects = config.rejects.as_deref();
    let cut = &collected.opened.options.cut;
    let left = match (&series, collection.ledger()) {
        (Some(series), _) => Left::Series(series),
        (None, Some(ledger)) => Left::Table(RunTable {
            ledger,
            tabulate,
            label_columns: &cut.label_columns,
            grain: cut.grain(),
        }),
        (None, None) => Left::Nothing,
    };
    write_tables(outputs, &config.outputs, left, rejects, &mut report)
        .map_err(|error| error.or_of_spill(&config.spill_folder))?;
    let judged = Judged::of(
        &collected.collection,
        collected.outcomes_read.ranges(),
        at,
        reconciliation.verdict,
        ContentDigest::of(report.table_digest().as_bytes()),
    );
    Ok(Attempt {
        collected,
        series,
        report,
        judged,
    })
}

/// The output of a run beside its reports.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// The series of positivity.
    Series(&'a Series),
    /// The table of another computation.
    Table(RunTable<'a>),
    /// Nothing: there is no manifest.
    Nothing,
}

impl<'a> Left<'a> {
    fn leaves(self) -> Leaves {
        match self {
            Self::Series(_) => Leaves::Series,
            Self::Table(_) => Leaves::Table,
            Self::Nothing => Leaves::Nothing,
        }
    }

    fn series(self) -> Option<&'a Series> {
        match self {
            Self::Series(series) => Some(series),
            Self::Table(_) | Self::Nothing => None,
        }
    }
}

/// Writes what was chosen, and last the report with the digests of what was written before it, and
/// puts all of it in place. `rejects` is where the rejected rows are, if there are any and it is
/// known here.
///
/// # Errors
/// When a file cannot be written.
pub fn write_outputs(
    outputs: &Outputs,
    choice: &OutputChoice,
    left: Left<'_>,
    rejects: Option<&Path>,
    report: &mut Report,
) -> Result<(), Error> {
    write_tables(outputs, choice, left, rejects, report)?;
    write_reports(outputs, choice, left.series(), report)
}

/// Writes the tables under temporary names, and adds what follows from them to the report.
fn write_tables(
    outputs: &Outputs,
    choice: &OutputChoice,
    left: Left<'_>,
    rejects: Option<&Path>,
    report: &mut Report,
) -> Result<(), Error> {
    let started = Instant::now();
    let manifest = report.manifest.as_ref();
    let has_rejects = manifest.is_some_and(|manifest| manifest.rows_rejected > 0);
    let rejects = rejects.filter(|_| has_rejects);
    report.files.clear();
    for step in steps(choice, left.leaves(), rejects.is_some()) {
        let file = match step {
            Step::Series(format) => write_series(outputs, left, format, report)?,
            Step::DigestOfSeries => {
                if let Left::Series(series) = left {
                    let mut csv = SeriesCsv::new(table_of_run(series, report));
                    to_nowhere(&mut csv)?;
                    let sha256 = csv.into_digest();
                    add_series(sha256, series, report);
                }
                None
            }
            Step::Coarser(grain, format) => match left {
                Left::Series(series) => {
                    let table = Table {
                        series: &series.coarsened(grain),
                        grain,
                        added: true,
                        ..table_of_run(series, report)
                    };
                    write_table(outputs, table, format)?
                }
                Left::Table(_) | Left::Nothing => None,
            },
            Step::Table(_) | Step::DigestOfTable => match left {
                Left::Table(table) => {
                    let is_written = step != Step::DigestOfTable;
                    write_run_table(outputs, table, is_written, report)?
                }
                Left::Series(_) | Left::Nothing => None,
            },
            Step::DigestOfRejects => match rejects {
                Some(path) => Some(outputs.written_by_others(path)?),
                None => None,
            },
            Step::Rates => {
                report.add_stage("write", started.elapsed().as_secs_f64());
                report.work_out_rates();
                None
            }
            // They name the verdict that counts, so they are written after it.
            Step::Report(_) | Step::ReportJson => None,
        };
        report.files.extend(file);
    }
    Ok(())
}

/// Writes the reports, and puts them and the tables in place.
fn write_reports(
    outputs: &Outputs,
    choice: &OutputChoice,
    series: Option<&Series>,
    report: &mut Report,
) -> Result<(), Error> {
    let leaves = series.map_or(Leaves::Nothing, |_| Leaves::Series);
    for step in steps(choice, leaves, false) {
        let file = match (step, series) {
            (Step::Report(Format::Md), _) => outputs.export(&mut ReportMd(report))?,
            (Step::Report(_), Some(series)) => outputs.export(&mut page(series, report)?)?,
            (Step::ReportJson, _) => return write_report(outputs, report),
            _ => continue,
        };
        report.files.push(file);
    }
    Ok(())
}

/// Writes the run's series in one form; as text, it is what the report's digest is of.
fn write_series(
    outputs: &Outputs,
    left: Left<'_>,
    format: Format,
    report: &mut Report,
) -> Result<Option<OutputFile>, Error> {
    let Left::Series(series) = left else {
        return Ok(None);
    };
    let table = table_of_run(series, report);
    if format != Format::Csv {
        return write_table(outputs, table, format);
    }
    let mut csv = SeriesCsv::new(table);
    let file = outputs.export(&mut csv)?;
    let sha256 = csv.into_digest();
    add_series(sha256, series, report);
    Ok(Some(file))
}

/// Adds length and digest of the series to the report.
fn add_series(sha256: Option<String>, series: &Series, report: &mut Report) {
    // Without a manifest the series is empty because nothing is known, not because there is nothing.
    if report.tests.is_some() {
        report.series.rows = Some(series.rows.len() as u64);
        report.series.sha256 = sha256;
    }
}

/// Writes the table of a run, or computes its digest alone, and adds that to the report.
fn write_run_table(
    outputs: &Outputs,
    table: RunTable<'_>,
    is_written: bool,
    report: &mut Report,
) -> Result<Option<OutputFile>, Error> {
    let mut csv = TableCsv::new(table);
    let file = match is_written {
        true => Some(outputs.export(&mut csv)?),
        false => {
            to_nowhere(&mut csv)?;
            None
        }
    };
    report.table = csv.into_written().map(|written| TableReport {
        rows: written.rows,
        sha256: written.sha256,
    });
    Ok(file)
}

/// Exports a file that was not chosen: the report has the digest of the table whatever is written.
fn to_nowhere(exporter: &mut dyn Exporter) -> Result<(), Error> {
    exporter
        .export(&mut io::sink())
        .map_err(|source| Error::Write {
            path: exporter.file_name().into(),
            source,
        })
}

/// Writes `report.json`, and puts it and what else was written in place of what was there.
///
/// # Errors
/// When it cannot be written.
pub fn write_report(outputs: &Outputs, report: &Report) -> Result<(), Error> {
    outputs.write(REPORT_JSON, |out| {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        out.write_all(b"\n")
    })?;
    outputs.place()
}

/// The series with what its columns are called. A run that leaves a series groups by time.
fn table_of_run<'a>(series: &'a Series, report: &'a Report) -> Table<'a> {
    let grouping = &report.run.grouping;
    let grain = grouping.grain.unwrap_or(Grain::Hour);
    Table::of_run(series, &grouping.label_columns, grain)
}

/// The page of a series and its report.
fn page<'a>(series: &'a Series, report: &'a Report) -> Result<ReportHtml<'a>, Error> {
    let table = table_of_run(series, report);
    let page = serde_json::to_string(report).and_then(|text| ReportHtml::new(table, &text));
    page.map_err(|source| Error::Write {
        path: REPORT_HTML.into(),
        source: source.into(),
    })
}

/// Writes a series in one form.
fn write_table(
    outputs: &Outputs,
    table: Table<'_>,
    format: Format,
) -> Result<Option<OutputFile>, Error> {
    Ok(match format {
        Format::Csv => Some(outputs.export(&mut SeriesCsv::new(table))?),
        Format::Parquet => Some(outputs.export(&mut SeriesParquet(table))?),
        Format::Svg => Some(outputs.export(&mut SeriesSvg(table))?),
        // These are reports.
        Format::Md | Format::Html => None,
    })
}
