//! The report on a run: `report.json` for machines, a short table for people. The schema is
//! versioned; within a version fields are only added.

use std::collections::BTreeMap;
use std::fmt;

use computations::positivity::Series;
use pipeline::reconciliation::{Check, Share};
use pipeline::{Collection, Computation, Cut, Grain, Manifest, Reconciliation, RunOpened, Verdict};
use serde::Serialize;
use service::{Exit, Usage};

use crate::outputs::OutputFile;
use crate::settle::VerdictReport;

/// The version of the schema of `report.json`.
pub const SCHEMA_VERSION: u32 = 1;

/// Dead letters, missing jobs and conflicts are listed up to this many each; all are counted.
const LISTED: usize = 1_000;

/// Everything that is known of a run at its end.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What the run has come to.
    pub status: Verdict,
    /// The run.
    pub run: Run,
    /// What the dispatcher swore to; `None` when it never did.
    pub manifest: Option<ManifestReport>,
    /// Every line of the judgement.
    pub reconciliation: Vec<Check>,
    /// Jobs by outcome.
    pub jobs: Jobs,
    /// Tests in the series; `None` when nothing was counted, for there is no manifest, and where the
    /// run has another table.
    pub tests: Option<u64>,
    /// Positive tests in the series, likewise.
    pub positive: Option<u64>,
    /// Positive tests per test; `None` over no tests.
    pub rate: Option<f64>,
    /// The series.
    pub series: SeriesReport,
    /// The table of a run whose computation makes no series.
    pub table: Option<TableReport>,
    /// Jobs that are dead letters, the first thousand.
    pub dead_letters: Vec<DeadLetterReport>,
    /// Indexes of jobs without an outcome, the first thousand.
    pub missing: Vec<u64>,
    /// Outcomes that contradict each other, the first thousand.
    pub conflicts: Vec<String>,
    /// Indexes of jobs with several results that differ, which the run's policy allows; the first
    /// thousand.
    pub differing: Vec<u64>,
    /// The verdict as it was published; `None` for the reference, which publishes none.
    pub verdict: Option<VerdictReport>,
    /// Wall seconds of each stage, in order. Stages overlap.
    pub stages: Vec<Stage>,
    /// Work per second of its stage.
    pub rates: Rates,
    /// What each worker did.
    pub workers: Vec<WorkerReport>,
    /// Wall seconds of the whole command, until its processes had ended; `None` where the run's
    /// parts were started apart. Without the time to generate a data set.
    pub wall_seconds: Option<f64>,
    /// Wall seconds of the whole command until the broker had acknowledged the first job; `None`
    /// likewise, and where none was left to publish. Without the time to generate a data set.
    pub first_job_seconds: Option<f64>,
    /// What each process of the run has used; empty where they were started apart.
    pub processes: Vec<ProcessReport>,
    /// The other files, with their digests.
    pub files: Vec<OutputFile>,
    /// Of what made this.
    pub versions: BTreeMap<&'static str, String>,
}

/// Which run, and how it was cut.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Its id.
    pub run_id: String,
    /// `kafka`, or `local` for the reference without Kafka.
    pub engine: &'static str,
    /// When it was opened, in ISO 8601.
    pub opened_at: Option<String>,
    /// How its rows became jobs.
    pub grouping: GroupingReport,
    /// What was made of a job.
    pub computation: Computation,
}

/// How rows became jobs, as the report shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupingReport {
    /// The columns whose values are the labels, in order.
    pub label_columns: Vec<String>,
    /// The column that holds the time of a row; `None` when groups have no time.
    pub time_column: Option<String>,
    /// How the time is truncated, likewise.
    pub grain: Option<Grain>,
    /// A group with more rows is cut into parts.
    pub max_rows_per_job: u32,
}

impl GroupingReport {
    /// As the report shows a cut.
    pub fn new(cut: &Cut) -> Self {
        Self {
            label_columns: cut.label_columns.clone(),
            time_column: cut.time.as_ref().map(|time| time.name.clone()),
            grain: cut.grain(),
            max_rows_per_job: cut.max_rows_per_job,
        }
    }
}

/// The manifest, as the report shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestReport {
    /// Number of jobs; `None` for the reference, which has none.
    pub jobs: Option<u64>,
    /// Records of the data set.
    pub rows_read: u64,
    /// Rows that are in jobs.
    pub rows_accepted: u64,
    /// Rows that are not.
    pub rows_rejected: u64,
    /// The same by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Messages that jobs were published in, likewise.
    pub messages: Option<u64>,
    /// BLAKE3 over the job set, likewise.
    pub job_set_digest: Option<String>,
}

/// Jobs by outcome. `None` when nobody knows how many jobs there are, so that none was counted, and
/// for the reference, which has no jobs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Jobs {
    /// With a result.
    pub counted: Option<u64>,
    /// Without one, and with a reason.
    pub dead_lettered: Option<u64>,
    /// Without an outcome.
    pub missing: Option<u64>,
    /// Outcomes that said nothing new, and were dropped.
    pub duplicates_dropped: Option<u64>,
    /// Messages on the outcomes topic that could not be decoded, and were dropped. That is known
    /// without a manifest, too.
    pub undecodable_dropped: Option<u64>,
}

/// The series, as the report shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SeriesReport {
    /// Groups, which are its lines; `None` when nothing was counted, for there is no manifest.
    pub rows: Option<u64>,
    /// SHA-256 over the lines of `series.csv` without header and `rate`, likewise.
    pub sha256: Option<String>,
}

/// The table, as the report shows it.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// Its lines.
    pub rows: u64,
    /// SHA-256 over the lines of `table.csv` without the header.
    pub sha256: String,
}

/// A dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterReport {
    /// The job.
    pub index: u64,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its time; `None` when groups have no time.
    pub time: Option<String>,
    /// Its part.
    pub part: u32,
    /// Its rows.
    pub rows: u32,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it failed.
    pub reason: String,
}

impl DeadLetterReport {
    /// Labels and time in one text.
    pub fn key(&self) -> String {
        let labels = self.labels.join(", ");
        match &self.time {
            Some(time) => format!("{labels} {time}"),
            None => labels,
        }
    }
}

/// How long a stage took.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// Wall seconds.
    pub seconds: f64,
}

/// Work per second; `None` where a stage is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rates {
    /// Rows read per second of reading.
    pub rows_read_per_second: Option<f64>,
    /// Jobs per second of publishing.
    pub jobs_published_per_second: Option<f64>,
    /// Outcomes per second from the first to the last.
    pub jobs_collected_per_second: Option<f64>,
}

/// What a worker did.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerReport {
    /// Its host.
    pub host: String,
    /// Its id.
    pub id: String,
    /// Its share.
    #[serde(flatten)]
    pub share: Share,
}

/// What a process of the run has used.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    /// Its name: `rollcall`, or the worker's.
    pub name: String,
    /// Seconds of cores; `None` when a process of this name ended without telling, as one that is
    /// killed does.
    pub cpu_seconds: Option<f64>,
    /// The most memory that was resident at a time; `None` likewise, and where the system does not
    /// say.
    pub peak_resident_bytes: Option<u64>,
}

impl ProcessReport {
    /// Of a process that has told what it has used, or has not.
    pub fn new(name: &str, usage: Option<Usage>) -> Self {
        Self {
            name: name.to_owned(),
            cpu_seconds: usage.map(|usage| usage.cpu_seconds),
            peak_resident_bytes: usage.and_then(|usage| usage.peak_resident_bytes),
        }
    }
}

impl ManifestReport {
    /// As the report shows a manifest.
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
    /// The report on what was collected of a run. Files, stages and series are added as they come.
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

    /// Adds what a series adds up to.
    pub fn add_series_totals(&mut self, series: &Series) {
        let (tests, positive) = series.totals();
        self.tests = Some(tests);
        self.positive = Some(positive);
        self.rate = (tests > 0).then(|| positive as f64 / tests as f64);
    }

    /// The digest of the run's own series or table; empty when it leaves none.
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

    /// Seconds of a stage.
    pub fn seconds(&self, stage: &str) -> Option<f64> {
        let known = self.stages.iter().find(|known| known.stage == stage);
        known.map(|known| known.seconds)
    }

    /// Works out the rates from counts and stages.
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

    /// The work per second of a stage, and its unit.
    pub fn rate_of(&self, stage: &str) -> Option<(f64, &'static str)> {
        let (rate, unit) = match stage {
            "read" => (self.rates.rows_read_per_second, "rows/s"),
            "publish" => (self.rates.jobs_published_per_second, "jobs/s"),
            "collect" => (self.rates.jobs_collected_per_second, "jobs/s"),
            _ => (None, ""),
        };
        rate.map(|rate| (rate, unit))
    }

    /// How the process is to end.
    pub fn exit(&self) -> Exit {
        match self.status {
            Verdict::Complete => Exit::Complete,
            Verdict::CompleteWithDeadLetters => Exit::DeadLetters,
            Verdict::Incomplete => Exit::Incomplete,
            Verdict::Failed => Exit::Failure,
        }
    }
}

/// Versions of what made a report.
pub fn versions() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("rollcall", env!("CARGO_PKG_VERSION").to_owned()),
        ("librdkafka", kafka::Cluster::client_version()),
    ])
}

/// A short table for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run {}: {}", self.run.run_id, self.status.word())?;
        if let Some(manifest) = &self.manifest {
            line(
                f,
                "rows",
                &format!(
                    "{} read, {} accepted, {} rejected",
                    grouped(manifest.rows_read),
                    grouped(manifest.rows_accepted),
                    grouped(manifest.rows_rejected)
                ),
            )?;
            for (reason, rows) in &manifest.rejected {
                line(f, "", &format!("{} {reason}", grouped(*rows)))?;
            }
        }
        if let Some(counted) = self.jobs.counted {
            line(f, "jobs", &self.jobs_line(counted))?;
        }
        let rate = self
            .rate
            .map_or(String::new(), |rate| format!(", {:.2} %", 100.0 * rate));
        if let (Some(tests), Some(positive)) = (self.tests, self.positive) {
            let text = format!("{}, {} positive{rate}", grouped(tests), grouped(positive));
            line(f, "tests", &text)?;
        }
        if let Some(groups) = self.series.rows {
            line(f, "series", &format!("{} groups", grouped(groups)))?;
        }
        if let Some(table) = &self.table {
            line(f, "table", &format!("{} rows", grouped(table.rows)))?;
        }
        self.fmt_stages(f)?;
        self.fmt_workers(f)?;
        writeln!(f)?;
        for check in &self.reconciliation {
            let mark = if check.holds { "ok  " } else { "FAIL" };
            write!(f, "  {mark}  {}", check.name)?;
            if check.holds {
                writeln!(f, ": {}", shortened(&check.found))?;
            } else {
                writeln!(f, ": expected {}, found {}", check.expected, check.found)?;
            }
        }
        self.fmt_failures(f)
    }
}

impl Report {
    fn jobs_line(&self, counted: u64) -> String {
        let jobs = &self.jobs;
        let mut text = format!("{} counted", grouped(counted));
        for (amount, what) in [
            (jobs.dead_lettered, "dead-lettered"),
            (jobs.missing, "missing"),
        ] {
            if let Some(amount @ 1..) = amount {
                text.push_str(&format!(", {} {what}", grouped(amount)));
            }
        }
        let manifest = self.manifest.as_ref();
        if let Some(messages) = manifest.and_then(|manifest| manifest.messages) {
            text.push_str(&format!(" in {} messages", grouped(messages)));
        }
        if let Some(dropped @ 1..) = jobs.duplicates_dropped {
            let dropped = grouped(dropped);
            text.push_str(&format!(", {dropped} duplicate outcomes dropped"));
        }
        text
    }

    fn fmt_stages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, stage) in self.stages.iter().enumerate() {
            let mut text = format!("{:<10} {:>8.3} s", stage.stage, stage.seconds);
            if let Some((rate, unit)) = self.rate_of(&stage.stage) {
                text.push_str(&format!("  {:>12} {unit}", grouped(rate as u64)));
            }
            line(f, if number == 0 { "stages" } else { "" }, &text)?;
        }
        Ok(())
    }

    fn fmt_workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        for (number, worker) in self.workers.iter().take(SHOWN).enumerate() {
            let mut text = format!(
                "{:<10} {:>12} jobs on {}",
                worker.id,
                grouped(worker.share.jobs),
                worker.host
            );
            if worker.share.retries > 0 {
                text.push_str(&format!(", {} retries", grouped(worker.share.retries)));
            }
            line(f, if number == 0 { "workers" } else { "" }, &text)?;
        }
        if self.workers.len() > SHOWN {
            line(f, "", &format!("and {} more", self.workers.len() - SHOWN))?;
        }
        Ok(())
    }

    fn fmt_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for letter in self.dead_letters.iter().take(SHOWN) {
            writeln!(
                f,
                "  dead letter: job {} ({}), {} attempts: {}",
                letter.index,
                letter.key(),
                letter.attempts,
                letter.reason
            )?;
        }
        if !self.missing.is_empty() {
            let shown: Vec<_> = self
                .missing
                .iter()
                .take(SHOWN)
                .map(u64::to_string)
                .collect();
            let more = if self.missing.len() > SHOWN {
                ", …"
            } else {
                ""
            };
            writeln!(f, "  missing: jobs {}{more}", shown.join(", "))?;
        }
        for conflict in self.conflicts.iter().take(SHOWN) {
            writeln!(f, "  conflict: {conflict}")?;
        }
        let Some(verdict) = &self.verdict else {
            return Ok(());
        };
        for conflict in verdict.late_conflicts.iter().take(SHOWN) {
            writeln!(f, "  late conflict, after the verdict: {conflict}")?;
        }
        match (&verdict.published_by, verdict.published) {
            // It is no end, so that nothing is to be published.
            (None, _) if self.status == Verdict::Incomplete => Ok(()),
            (Some(by), true) => writeln!(f, "  verdict published by {by}"),
            (Some(by), false) => writeln!(f, "  another verdict was published by {by}"),
            (None, _) => writeln!(f, "  verdict not published"),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {name:<9} {text}")
}

/// A digest is recognised by its beginning.
pub(crate) fn shortened(text: &str) -> String {
    const LONG: usize = 40;
    const SHOWN: usize = 16;
    match text.get(..SHOWN) {
        Some(beginning) if text.len() > LONG => format!("{beginning}…"),
        _ => text.parse().map_or(text.to_owned(), grouped),
    }
}

/// A number with a comma between groups of three digits.
fn grouped(number: u64) -> String {
    service::progress::grouped(number)
}

#[cfg(test)]
mod tests;
