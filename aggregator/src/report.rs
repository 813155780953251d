//! The report on a run: the schema of `report.json`, which is versioned (within a version fields are
//! only added), and a short summary as text.

mod summary;

use std::collections::BTreeMap;

use computations::positivity::Series;
use pipeline::reconciliation::{Check, Share};
use pipeline::{Collection, Computation, Cut, Grain, Manifest, Reconciliation, RunOpened, Verdict};
use serde::Serialize;
use service::{Exit, Usage};

use crate::outputs::OutputFile;
use crate::settle::VerdictReport;

pub(crate) use summary::truncated;

/// The version of the schema of `report.json`.
pub const SCHEMA_VERSION: u32 = 1;

/// The largest number of dead letters, of missing jobs, of conflicts and of differing jobs that are
/// listed. The counts are of all.
const LISTED: usize = 1_000;

/// The report on a run at its end.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The verdict on the run.
    pub status: Verdict,
    /// The run and its options.
    pub run: Run,
    /// The manifest; `None` where the dispatcher published none.
    pub manifest: Option<ManifestReport>,
    /// All checks of the reconciliation.
    pub reconciliation: Vec<Check>,
    /// The numbers of jobs by outcome.
    pub jobs: Jobs,
    /// The number of tests in the series; `None` without a manifest, because then no job is counted,
    /// and where the run has another table.
    pub tests: Option<u64>,
    /// The number of positive tests in the series; `None` as for `tests`.
    pub positive: Option<u64>,
    /// The number of positive tests divided by that of tests; `None` without tests.
    pub rate: Option<f64>,
    /// The series.
    pub series: SeriesReport,
    /// The table of a run whose computation makes no series.
    pub table: Option<TableReport>,
    /// The jobs that are dead letters, the first thousand.
    pub dead_letters: Vec<DeadLetterReport>,
    /// The indexes of jobs without an outcome, the first thousand.
    pub missing: Vec<u64>,
    /// The outcomes that contradict each other, the first thousand.
    pub conflicts: Vec<String>,
    /// The indexes of jobs with several results that differ, which the run's policy allows; the first
    /// thousand.
    pub differing: Vec<u64>,
    /// The published verdict; `None` for the local engine, which publishes none.
    pub verdict: Option<VerdictReport>,
    /// The wall seconds of each stage, in order. Stages overlap.
    pub stages: Vec<Stage>,
    /// The work per second of each stage.
    pub rates: Rates,
    /// The work of each worker.
    pub workers: Vec<WorkerReport>,
    /// The wall seconds of the whole command, until its processes had ended, without the time to
    /// generate a data set; `None` where the services of the run were started separately.
    pub wall_seconds: Option<f64>,
    /// The wall seconds of the whole command until the broker had acknowledged the first job, without
    /// the time to generate a data set; `None` as for `wall_seconds`, and where no job was left to
    /// publish.
    pub first_job_seconds: Option<f64>,
    /// The resource usage of each process of the run; empty where they were started separately.
    pub processes: Vec<ProcessReport>,
    /// The other files, with their digests.
    pub files: Vec<OutputFile>,
    /// The versions of the programs that made the report, by name.
    pub versions: BTreeMap<&'static str, String>,
}

/// A run and its options.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The id of the run.
    pub run_id: String,
    /// `kafka`, or `local` for the engine without Kafka.
    pub engine: &'static str,
    /// The time of opening, in ISO 8601.
    pub opened_at: Option<String>,
    /// The rule by which rows became jobs.
    pub grouping: GroupingReport,
    /// The computation that was applied to each job.
    pub computation: Computation,
}

/// The rule by which rows became jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupingReport {
    /// The columns whose values are the labels, in order.
    pub label_columns: Vec<String>,
    /// The column that holds the time of a row; `None` when groups have no time.
    pub time_column: Option<String>,
    /// The grain to which the time was truncated; `None` when groups have no time.
    pub grain: Option<Grain>,
    /// The largest number of rows in a job. A group with more was cut into parts.
    pub max_rows_per_job: u32,
}

impl GroupingReport {
    /// The report on the cut of a run.
    pub fn new(cut: &Cut) -> Self {
        Self {
            label_columns: cut.label_columns.clone(),
            time_column: cut.time.as_ref().map(|time| time.name.clone()),
            grain: cut.grain(),
            max_rows_per_job: cut.max_rows_per_job,
        }
    }
}

/// The manifest of a run.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestReport {
    /// The number of jobs; `None` for the local engine, which has no jobs.
    pub jobs: Option<u64>,
    /// The number of records of the data set.
    pub rows_read: u64,
    /// The number of rows that are in jobs.
    pub rows_accepted: u64,
    /// The number of rows that are not in jobs.
    pub rows_rejected: u64,
    /// The number of rows that are not in jobs, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// The number of messages with jobs; `None` for the local engine.
    pub messages: Option<u64>,
    /// The BLAKE3 digest of the job set; `None` for the local engine.
    pub job_set_digest: Option<String>,
}

/// The numbers of jobs by outcome. They are `None` without a manifest, because the number of all jobs is
/// unknown then, and for the local engine, which has no jobs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Jobs {
    /// The number of jobs with a result.
    pub counted: Option<u64>,
    /// The number of jobs that are dead letters.
    pub dead_lettered: Option<u64>,
    /// The number of jobs without an outcome.
    pub missing: Option<u64>,
    /// The number of outcomes that changed nothing, and were dropped.
    pub duplicates_dropped: Option<u64>,
    /// The number of messages on the outcomes topic that could not be decoded, and were dropped. It is
    /// known without a manifest, too.
    pub undecodable_dropped: Option<u64>,
}

/// The size and the digest of a series.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SeriesReport {
    /// The number of groups, which are its lines; `None` without a manifest.
    pub rows: Option<u64>,
    /// The SHA-256 over the lines of `series.csv` without header and `rate`; `None` without a manifest.
    pub sha256: Option<String>,
}

/// The size and the digest of a table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// The number of lines without the header.
    pub rows: u64,
    /// The SHA-256 over the lines of `table.csv` without the header.
    pub sha256: String,
}

/// A job that is a dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterReport {
    /// The index of the job.
    pub index: u64,
    /// The labels of the job, in the order of the label columns.
    pub labels: Vec<String>,
    /// The time of the job; `None` when groups have no time.
    pub time: Option<String>,
    /// The number of the part of its group, from 0.
    pub part: u32,
    /// The number of its rows.
    pub rows: u32,
    /// The number of attempts.
    pub attempts: u32,
    /// The reason of the last failure.
    pub reason: String,
}

impl DeadLetterReport {
    /// The labels and the time as one text.
    pub fn key(&self) -> String {
        let labels = self.labels.join(", ");
        match &self.time {
            Some(time) => format!("{labels} {time}"),
            None => labels,
        }
    }
}

/// The duration of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// The name of the stage.
    pub stage: String,
    /// The wall seconds of the stage.
    pub seconds: f64,
}

/// The work per second of the stages; `None` where the duration or the amount of work is unknown.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rates {
    /// The number of rows read per second of reading.
    pub rows_read_per_second: Option<f64>,
    /// The number of jobs published per second of publishing.
    pub jobs_published_per_second: Option<f64>,
    /// The number of outcomes per second from the first to the last.
    pub jobs_collected_per_second: Option<f64>,
}

/// The work of one worker.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerReport {
    /// The host of the worker.
    pub host: String,
    /// The id of the worker.
    pub id: String,
    /// The worker's part of the jobs.
    #[serde(flatten)]
    pub share: Share,
}

/// The resource usage of a process of the run.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    /// The name of the process: `rollcall`, or the worker's.
    pub name: String,
    /// The CPU seconds; `None` where a process of this name did not report its usage, for example
    /// because it was killed.
    pub cpu_seconds: Option<f64>,
    /// The peak of resident memory in bytes; `None` as for `cpu_seconds`, and where the operating system
    /// does not report it.
    pub peak_resident_bytes: Option<u64>,
}

impl ProcessReport {
    /// The report on a process with this usage; `None` where the process did not report it.
    pub fn new(name: &str, usage: Option<Usage>) -> Self {
        Self {
            name: name.to_owned(),
            cpu_seconds: usage.map(|usage| usage.cpu_seconds),
            peak_resident_bytes: usage.and_then(|usage| usage.peak_resident_bytes),
        }
    }
}

impl ManifestReport {
    /// The report on a manifest.
    pub fn new(manifest: &Manifest) -> Self {
        Self {
            jobs: Some(manifest.jobs),
            rows_read: manifest.rows_read,
            rows_accepted: manifest.rows_accepted,
            rows_rejected: manifest.rows_rejected(),
            rejected: manifest.rejected.clone(),
            messages: Some(manifest.messages),
            job_set_digest: Some(manifest.job_set_digest.to_string()),
        }
    }
}

impl Report {
    /// The report on the outcomes of a run. Files, stages and the series are added later.
    pub fn new(opened: &RunOpened, collection: &Collection, judged: &Reconciliation) -> Self {
        let ledger = collection.ledger();
        let totals = ledger.map(|ledger| ledger.totals());
        let cut = &opened.options.cut;
        let grain = cut.grain().unwrap_or(Grain::Hour);
        let dead_letters = ledger.into_iter().flat_map(|ledger| {
            let dead = ledger.dead().iter().take(LISTED);
            dead.filter_map(|(&index, dead)| {
                let job = ledger.describe(index)?;
                Some(DeadLetterReport {
                    index,
                    labels: job.labels.to_label_set().values,
                    time: job.time.map(|time| time.display(grain).to_string()),
                    part: job.part,
                    rows: job.weight,
                    attempts: dead.attempts,
                    reason: dead.reason.clone(),
                })
            })
        });
        let conflicts = collection.conflicts().iter().take(LISTED);
        let shares = collection.shares().iter();
        Self {
            schema_version: SCHEMA_VERSION,
            status: judged.verdict,
            run: Run {
                run_id: opened.run_id.to_string(),
                engine: "kafka",
                opened_at: jiff::Timestamp::from_millisecond(opened.opened_at_ms)
                    .ok()
                    .map(|time| time.to_string()),
                grouping: GroupingReport::new(cut),
                computation: opened.options.computation.clone(),
            },
            manifest: collection.manifest().map(ManifestReport::new),
            reconciliation: judged.checks.clone(),
            jobs: Jobs {
                counted: totals.map(|totals| totals.completed),
                dead_lettered: totals.map(|totals| totals.dead_lettered),
                missing: ledger.map(|ledger| ledger.missing()),
                duplicates_dropped: ledger.map(|_| collection.recorded().duplicates),
                undecodable_dropped: None,
            },
            tests: None,
            positive: None,
            rate: None,
            series: SeriesReport::default(),
            table: None,
            dead_letters: dead_letters.collect(),
            missing: ledger.map_or(Vec::new(), |ledger| ledger.first_missing(LISTED)),
            conflicts: conflicts.map(ToString::to_string).collect(),
            differing: ledger.map_or(Vec::new(), |ledger| ledger.first_differing(LISTED)),
            verdict: None,
            stages: Vec::new(),
            rates: Rates::default(),
            workers: shares
                .map(|((host, id), share)| WorkerReport {
                    host: host.clone(),
                    id: id.clone(),
                    share: *share,
                })
                .collect(),
            wall_seconds: None,
            first_job_seconds: None,
            processes: Vec::new(),
            files: Vec::new(),
            versions: versions(),
        }
    }

    /// Adds the totals of a series.
    pub fn add_series_totals(&mut self, series: &Series) {
        let (tests, positive) = series.totals();
        self.tests = Some(tests);
        self.positive = Some(positive);
        self.rate = (tests > 0).then(|| positive as f64 / tests as f64);
    }

    /// The digest of the run's series or table; empty where it has neither.
    pub fn table_digest(&self) -> &str {
        let of_table = self.table.as_ref().map(|table| table.sha256.as_str());
        self.series
            .sha256
            .as_deref()
            .or(of_table)
            .unwrap_or_default()
    }

    /// Adds the seconds of a stage.
    pub fn add_stage(&mut self, stage: &str, seconds: f64) {
        self.stages.push(Stage {
            stage: stage.to_owned(),
            seconds,
        });
    }

    /// The seconds of a stage; `None` where it was not added.
    pub fn seconds(&self, stage: &str) -> Option<f64> {
        let known = self.stages.iter().find(|known| known.stage == stage);
        known.map(|known| known.seconds)
    }

    /// Computes the rates from counts and stages.
    pub fn work_out_rates(&mut self) {
        let per_second = |amount: Option<u64>, seconds: Option<f64>| match (amount, seconds) {
            (Some(amount), Some(seconds)) if seconds > 0.0 => Some(amount as f64 / seconds),
            _ => None,
        };
        let manifest = self.manifest.as_ref();
        let rows_read = manifest.map(|manifest| manifest.rows_read);
        let jobs = manifest.and_then(|manifest| manifest.jobs);
        let outcomes = self.jobs.counted.zip(self.jobs.dead_lettered);
        let collected = outcomes.map(|(counted, dead_lettered)| counted + dead_lettered);
        self.rates = Rates {
            rows_read_per_second: per_second(rows_read, self.seconds("read")),
            jobs_published_per_second: per_second(jobs, self.seconds("publish")),
            jobs_collected_per_second: per_second(collected, self.seconds("collect")),
        };
    }

    /// The work per second of a stage, with its unit; `None` where it is unknown.
    pub fn rate_of(&self, stage: &str) -> Option<(f64, &'static str)> {
        let (rate, unit) = match stage {
            "read" => (self.rates.rows_read_per_second, "rows/s"),
            "publish" => (self.rates.jobs_published_per_second, "jobs/s"),
            "collect" => (self.rates.jobs_collected_per_second, "jobs/s"),
            _ => (None, ""),
        };
        rate.map(|rate| (rate, unit))
    }

    /// The exit status of the process.
    pub fn exit(&self) -> Exit {
        match self.status {
            Verdict::Complete => Exit::Complete,
            Verdict::CompleteWithDeadLetters => Exit::DeadLetters,
            Verdict::Incomplete => Exit::Incomplete,
            Verdict::Failed => Exit::Failure,
        }
    }
}

/// The versions of the programs that make a report, by name.
pub fn versions() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("rollcall", env!("CARGO_PKG_VERSION").to_owned()),
        ("librdkafka", kafka::Cluster::client_version()),
    ])
}
