//! Drives what follows a judgement, which [`Judged`] decides: publishes the verdict, or has the run
//! judged again at the end offsets of the one that stands.
//!
//! Between the last byte of the tables and the first file in place there is what the order of a verdict
//! asks for, and nothing else: the event is written, and read back. The connection that it is written
//! through is made, and the runs topic is read to its end, while the tables are made.

use std::thread;
use std::time::{Duration, Instant};

use computations::positivity::Series;
use kafka::{Reader, RecordBatch, RunEventWriter, RunsReader, lost_partition};
use pipeline::reconciliation::Check;
use pipeline::{
    Collection, Judged, ResultsPolicy, RunEvent, RunHistory, RunReconciled, Settlement, Verdict,
    VerdictKey,
};
use serde::Serialize;
use service::{Shutdown, process};
use tracing::warn;

use crate::args::Config;
use crate::collecting::{Collected, Collecting, Unrecorded};
use crate::error::Error;
use crate::memory;
use crate::outcomes_read::OutcomesRead;
use crate::report::Report;

/// The timeout of a verdict's acknowledgement, unless the broker timeout is longer.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout of the early connection for the verdict; later, the verdict itself waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time for which one read waits for events.
const STEP: Duration = Duration::from_millis(5);

/// The settled verdict, as the report shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerdictReport {
    /// The generation of the run.
    pub generation: u32,
    /// Whether the verdict that counts agrees with the table here.
    pub published: bool,
    /// The publisher.
    pub published_by: Option<String>,
    /// The end offsets of the verdict, by partition of the outcomes topic.
    pub end_offsets: Vec<i64>,
    /// Conflicts beyond the end offsets, which change nothing any more; the first thousand.
    pub late_conflicts: Vec<String>,
}

/// A reconciled run, with its tables written under temporary names.
pub struct Attempt {
    /// Everything that was read.
    pub collected: Collected,
    /// The series of positivity; `None` when the run leaves a table, or nothing.
    pub series: Option<Series>,
    /// The report on it, as far as it is known.
    pub report: Report,
    /// The verdict to settle.
    pub judged: Judged,
}

/// The result of settling a verdict.
pub enum Settled {
    /// The files are to be put in place.
    Done(Box<Attempt>, VerdictReport),
    /// A newer generation was opened: collect it.
    NextGeneration,
}

/// Settles one run.
pub struct Settling<'a> {
    config: &'a Config,
    shutdown: &'a Shutdown,
    runs: RunsReader,
    run: RunHistory,
    writer: Option<RunEventWriter>,
}

impl<'a> Settling<'a> {
    /// `runs` is the runs topic, read as far as the run was collected, and `run` what it has of the run.
    pub fn new(
        config: &'a Config,
        shutdown: &'a Shutdown,
        runs: RunsReader,
        run: RunHistory,
    ) -> Self {
        Self {
            config,
            shutdown,
            runs,
            run,
            writer: None,
        }
    }

    /// Settles what was collected. `judge` judges it, and again what is read again.
    ///
    /// # Errors
    /// When the run is cancelled, the outcomes of the verdict that stands are deleted, the verdict
    /// has to be published and must not, or a topic cannot be read.
    pub fn settle(
        &mut self,
        collected: Collected,
        judge: &mut dyn FnMut(Collected, Option<VerdictKey>) -> Result<Attempt, Error>,
    ) -> Result<Settled, Error> {
        let mut attempt = thread::scope(|scope| {
            let preparing = scope.spawn(|| self.prepare());
            let judged = judge(collected, None);
            let prepared = preparing.join();
            prepared.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            judged
        })?;
        // What has come since.
        self.read_runs(Duration::ZERO)?;
        let mut report = VerdictReport {
            generation: attempt.judged.generation,
            ..VerdictReport::default()
        };
        let mut published: Option<Result<i64, kafka::Error>> = None;
        let mut is_caught_up = false;
        loop {
            let timeline = self.run.timeline();
            let again = match attempt.judged.settle(&timeline, published.is_some()) {
                Settlement::Publish => {
                    match self.publish(&attempt.judged)? {
                        Err(error) if error.is_denied() => {
                            return self.denied(attempt, report, error);
                        }
                        Ok(offset) => {
                            self.read_back(offset)?;
                            published = Some(Ok(offset));
                        }
                        // It may be there all the same.
                        written => {
                            self.catch_up()?;
                            published = Some(written);
                        }
                    }
                    continue;
                }
                // Somebody may have found the rest while the tables were made.
                Settlement::Incomplete if !is_caught_up => {
                    self.catch_up()?;
                    is_caught_up = true;
                    continue;
                }
                Settlement::Incomplete => return Ok(Settled::Done(Box::new(attempt), report)),
                Settlement::FrozenDeleted(frozen, partition) => {
                    return Err(self.outcomes_deleted(frozen, partition));
                }
                Settlement::NotCounted => {
                    if let Some(Err(error)) = published {
                        return Err(error.into());
                    }
                    return self.not_counted(attempt, report);
                }
                Settlement::Agrees(standing) => {
                    report.published = true;
                    report.note(standing);
                    return Ok(Settled::Done(Box::new(attempt), report));
                }
                Settlement::Contradicts(standing) => {
                    report.note(standing);
                    attempt.report.contradict(standing);
                    return Ok(Settled::Done(Box::new(attempt), report));
                }
                Settlement::Cancelled(cancelled) => return Err(Error::cancelled(cancelled)),
                Settlement::NextGeneration(_) => return Ok(Settled::NextGeneration),
                Settlement::JudgeAt(standing) => standing.clone(),
            };
            report.note_late(&attempt.collected.collection);
            let at = Some(again.verdict_key());
            attempt = judge(self.collect_again(attempt.collected, &again)?, at)?;
            report.keep_late(&attempt.collected.collection);
            self.catch_up()?;
        }
    }

    /// Connects to where the verdict is written to, unless one stands, and reads the runs topic to its
    /// end.
    fn prepare(&mut self) -> Result<(), Error> {
        if self.run.manifest().is_some() && self.run.timeline().newest().end.is_none() {
            self.writer()?.connect(CONNECT_TIMEOUT);
        }
        self.catch_up()
    }

    fn writer(&mut self) -> Result<&RunEventWriter, Error> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => RunEventWriter::new(&self.config.cluster, &self.config.topics.runs)?,
        };
        Ok(self.writer.insert(writer))
    }

    /// Reads the runs topic to its end.
    fn catch_up(&mut self) -> Result<(), Error> {
        self.runs.look_for_end(&self.config.cluster)?;
        self.read_looked_for()
    }

    /// Reads the runs topic to an event that was written, and past all that came before it.
    fn read_back(&mut self, offset: i64) -> Result<(), Error> {
        self.runs.look_for_event(offset);
        self.read_looked_for()
    }

    fn read_looked_for(&mut self) -> Result<(), Error> {
        self.read_runs(Duration::ZERO)?;
        while !self.runs.is_caught_up() {
            self.check_stopped()?;
            self.read_runs(STEP)?;
        }
        Ok(())
    }

    fn read_runs(&mut self, timeout: Duration) -> Result<(), Error> {
        let events = self.runs.read(timeout)?;
        events.into_iter().for_each(|event| self.run.apply(event));
        Ok(self.runs.check(self.run.run_id())?)
    }

    fn check_stopped(&self) -> Result<(), Error> {
        match self.shutdown.requested() {
            Some(signal) => Err(Error::Stopped(signal)),
            None => Ok(()),
        }
    }

    /// Publishes a verdict. Returns the offset of the event.
    fn publish(&mut self, judged: &Judged) -> Result<Result<i64, kafka::Error>, Error> {
        let published_by = process::on_this_host("aggregator");
        let event = judged.event(self.run.run_id(), &published_by);
        let event = event.expect("a verdict that is to be published");
        let timeout = EVENT_TIMEOUT.max(self.config.cluster.broker_timeout());
        Ok((self.writer()?).write(&RunEvent::Reconciled(event), timeout))
    }

    /// Of a reproducible run everybody finds the same table, whether the verdict is published or not.
    fn denied(
        &self,
        attempt: Attempt,
        report: VerdictReport,
        error: kafka::Error,
    ) -> Result<Settled, Error> {
        match attempt.judged.policy {
            ResultsPolicy::Reproducible => {
                warn!(%error, "the verdict is not published; grant Write on the runs topic");
                Ok(Settled::Done(Box::new(attempt), report))
            }
            ResultsPolicy::Any => Err(error.into()),
        }
    }

    /// The own verdict is on the topic and does not count. Of a run of any results another aggregator
    /// may come to another table then.
    fn not_counted(&self, attempt: Attempt, report: VerdictReport) -> Result<Settled, Error> {
        match attempt.judged.policy {
            ResultsPolicy::Reproducible => {
                warn!("the verdict does not count: the run has another manifest");
                Ok(Settled::Done(Box::new(attempt), report))
            }
            ResultsPolicy::Any => Err(Error::NotCounted {
                run_id: self.run.run_id().clone(),
            }),
        }
    }

    /// The error of a verdict some of whose outcomes are gone.
    fn outcomes_deleted(&self, verdict: &RunReconciled, partition: usize) -> Error {
        Error::OutcomesDeleted {
            run_id: self.run.run_id().clone(),
            published_by: verdict.published_by.clone(),
            topic: self.config.topics.outcomes.clone(),
            partition: partition as i32,
        }
    }

    /// Reads the outcomes again that a verdict rests on, and no others.
    fn collect_again(
        &self,
        before: Collected,
        standing: &RunReconciled,
    ) -> Result<Collected, Error> {
        let (cluster, topic) = (&self.config.cluster, &self.config.topics.outcomes);
        // Beyond the end of a topic that was made again there is nothing to wait for.
        if let Some(partition) = lost_partition(cluster, topic, &standing.outcomes)? {
            return Err(self.outcomes_deleted(standing, partition));
        }
        let ends = standing.ends();
        // Before others take its place in the memory budget.
        drop(before.collection);
        let mut own = Collecting::new(
            self.run.clone(),
            before.opened,
            OutcomesRead::of(&standing.outcomes),
            |rules| memory::collection(self.config, rules),
        );
        let mut reader = Reader::start(cluster, topic, own.outcomes_read.start())?;
        let mut batch = RecordBatch::default();
        while !reader.has_reached(&ends) {
            batch.clear();
            reader.read(STEP, &mut batch)?;
            let now = Instant::now();
            for record in batch.iter() {
                let (partition, offset) = (record.partition, record.offset);
                let end = ends.get(partition as usize);
                if end.is_none_or(|&end| offset >= end) {
                    continue;
                }
                if let Err(Unrecorded::Spill(error)) =
                    own.apply_outcomes(partition, offset, record.payload, now)
                {
                    return Err(Error::of_spill(&self.config.spill_folder)(error));
                }
            }
            self.check_stopped()?;
        }
        Ok(own.into_collected())
    }
}

impl VerdictReport {
    fn note(&mut self, standing: &RunReconciled) {
        self.published_by = Some(standing.published_by.clone());
        self.end_offsets = standing.ends();
    }

    /// Conflicts of a collection that may reach beyond the end offsets.
    fn note_late(&mut self, collection: &Collection) {
        let conflicts = collection.conflicts().iter();
        self.late_conflicts = conflicts.map(ToString::to_string).collect();
    }

    /// Keeps those that are not in a collection up to the end offsets.
    fn keep_late(&mut self, collection: &Collection) {
        let early: Vec<String> = collection
            .conflicts()
            .iter()
            .map(ToString::to_string)
            .collect();
        self.late_conflicts
            .retain(|conflict| !early.contains(conflict));
    }
}

impl Report {
    /// The verdict of another aggregator differs on the same outcomes.
    fn contradict(&mut self, standing: &RunReconciled) {
        let own = format!(
            "{}, table {}, by this aggregator",
            self.status.word(),
            self.table_digest(),
        );
        let other = format!(
            "{}, table digest {}, by {}",
            standing.verdict.word(),
            standing.table_digest,
            standing.published_by
        );
        let name = "the verdict that stands holds at its end offsets";
        self.reconciliation
            .push(Check::new(name, &other, &own, false));
        self.status = Verdict::Failed;
    }
}
