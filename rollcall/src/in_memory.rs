//! The common part of the engines without Kafka: reading the whole data set into memory, and the
//! report.

use std::path::Path;
use std::time::Instant;

use aggregator::Report;
use aggregator::report::{
    GroupingReport, Jobs, ManifestReport, Rates, Run, SCHEMA_VERSION, SeriesReport, versions,
};
use computations::Registry;
use computations::positivity::Series;
use dispatcher::rejects::Rejects;
use dispatcher::source::{DataSet, Rows, Source};
use dispatcher::spill::Spill;
use dispatcher::{Grouping, Input, Selection, payload_columns};
use pipeline::reconciliation::Check;
use pipeline::{Grain, Verdict};
use service::{Progress, Shutdown};

use crate::error::Error;

/// The rows of a data set in memory, with the counts and the time of reading them.
pub(crate) struct InMemory {
    pub(crate) rows: Rows,
    /// The counts of rows; those of jobs are not set.
    pub(crate) manifest: ManifestReport,
    pub(crate) read_seconds: f64,
}

impl InMemory {
    /// Reads a whole data set.
    ///
    /// # Errors
    /// When it cannot be read or has too many rejects, or when the run is stopped.
    pub(crate) fn read(
        input: &Input,
        grouping: &Grouping,
        rejects: Rejects,
        shutdown: &Shutdown,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let payload = &payload_columns(grouping, &Registry::standard())?;
        let selection = Selection { grouping, payload };
        let source = Source::open(input, selection, &progress.read, shutdown)?;
        let DataSet {
            rows,
            rows_read,
            rejects,
            ..
        } = source.read(rejects, no_spill(grouping.grain), shutdown)?;
        let read_seconds = started.elapsed().as_secs_f64();
        let manifest = ManifestReport {
            jobs: None,
            rows_read,
            rows_accepted: rows.len() as u64,
            rows_rejected: rejects.total,
            rejected: rejects.by_reason,
            messages: None,
            job_set_digest: None,
        };
        Ok(Self {
            rows,
            manifest,
            read_seconds,
        })
    }
}

/// A spill that is never used, because its memory budget has no limit.
pub(crate) fn no_spill(grain: Grain) -> Spill {
    Spill::new(Path::new(""), grain, u64::MAX)
}

/// The report of an engine, without stages, which the caller adds.
pub(crate) fn report(
    engine: &'static str,
    grouping: &Grouping,
    manifest: ManifestReport,
    series: &Series,
) -> Report {
    let (tests, positive) = series.totals();
    let checks = vec![
        Check::numbers(
            "accepted + rejected = rows read",
            manifest.rows_read,
            manifest.rows_accepted + manifest.rows_rejected,
        ),
        Check::numbers(
            "tests in the series = rows accepted",
            manifest.rows_accepted,
            tests,
        ),
    ];
    Report {
        schema_version: SCHEMA_VERSION,
        status: if checks.iter().all(|check| check.holds) {
            Verdict::Complete
        } else {
            Verdict::Failed
        },
        run: Run {
            run_id: engine.to_owned(),
            engine,
            opened_at: None,
            grouping: GroupingReport::new(&grouping.cut()),
            computation: grouping.computation.clone(),
        },
        jobs: Jobs {
            counted: manifest.jobs,
            ..Jobs::default()
        },
        manifest: Some(manifest),
        reconciliation: checks,
        tests: Some(tests),
        positive: Some(positive),
        rate: (tests > 0).then(|| positive as f64 / tests as f64),
        series: SeriesReport::default(),
        table: None,
        dead_letters: Vec::new(),
        missing: Vec::new(),
        conflicts: Vec::new(),
        differing: Vec::new(),
        verdict: None,
        stages: Vec::new(),
        rates: Rates::default(),
        workers: Vec::new(),
        wall_seconds: None,
        first_job_seconds: None,
        processes: Vec::new(),
        files: Vec::new(),
        versions: versions(),
    }
}
