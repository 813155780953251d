//! An aggregator process: the topics and the clock of the aggregator's own [`Completion`], which
//! decides. It may die between any two reads and begin again.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aggregator::completion::{Completion, End, Next};
use aggregator::export::Format;
use aggregator::writing::{Leaves, Step, steps};
use aggregator::{OutputArgs, OutputChoice, RunChoice};
use computations::Tabulate;
use computations::positivity::{Positivity, Series};
use pipeline::ledger::counting::CountingRules;
use pipeline::verdict::deleted_outcomes;
use pipeline::{
    Collection, ContentDigest, Grain, Judged, OffsetRange, OutcomeBatch, ResultsPolicy, RunEvent,
    Settlement, Verdict, VerdictKey,
};

use crate::broker::{Log, ends};
use crate::dispatcher::{events, history, records, tell};
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;

/// How long nothing new may come.
const TIMEOUT: Duration = Duration::from_secs(1_000_000);

/// Longer than any interval at which an aggregator reads the runs topic.
const INTERVAL: Duration = Duration::from_secs(1);

/// What an aggregator has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has judged, and everything is written.
    Judged(Verdict),
    /// Retention has taken outcomes of the verdict that stands, and what is left says otherwise.
    OutcomesDeleted,
    /// It could not go on, and is to be started again.
    Failed,
}

/// How time passes for an aggregator, beside everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// As for everybody.
    Usual,
    /// Most of the timeout passes, whatever may come after.
    Most,
    /// Nothing happens any more.
    Quiet,
}

/// The offsets of the outcomes topic that an aggregator reads.
#[derive(Debug)]
struct Reading {
    next: Vec<i64>,
    /// Where the topic ended at first.
    end: Vec<i64>,
}

/// An aggregator process.
#[derive(Debug)]
pub struct AggregatorProcess {
    number: u64,
    completion: Completion,
    /// How much further its clock is than everybody's.
    ahead: Duration,
    /// When something new came.
    news_at: Instant,
    /// Records of the runs topic that it has read, and how many there were at first.
    runs_read: usize,
    end_of_runs: Option<usize>,
    reading: Option<Reading>,
    /// What it has judged, and whether it has published that.
    settling: Option<(Judged, bool)>,
    /// What it is to write of its verdict.
    writing: Option<(Verdict, VecDeque<Step>)>,
    /// Every batch that it has read, to be read again in another order.
    heard: Vec<OutcomeBatch>,
    duplicates: Vec<OutcomeBatch>,
}

impl AggregatorProcess {
    /// An aggregator that knows nothing yet. It removes the reports of an earlier one.
    pub fn start(shared: &mut Shared) -> Self {
        let choice = RunChoice::Named(shared.dispatch.run_id.clone());
        if shared.mutation != Some(Mutation::ReportsStay) {
            let is_report = |step: &Step| matches!(step, Step::Report(_) | Step::ReportJson);
            shared.folder.retain(|(step, _)| !is_report(step));
        }
        shared.aggregators += 1;
        Self {
            number: shared.aggregators,
            completion: Completion::new(&choice, TIMEOUT, shared.now()),
            ahead: Duration::ZERO,
            news_at: shared.now(),
            runs_read: 0,
            end_of_runs: None,
            reading: None,
            settling: None,
            writing: None,
            heard: Vec::new(),
            duplicates: Vec::new(),
        }
    }

    /// What it has collected.
    pub fn collection(&self) -> Option<&Collection> {
        self.completion.collection()
    }

    fn now(&self, shared: &Shared) -> Instant {
        shared.now() + self.ahead
    }

    /// The time at which the completion is told that something has come.
    fn told_at(&self, shared: &Shared) -> Instant {
        match shared.mutation {
            Some(Mutation::IdleTimerStands) => shared.epoch(),
            _ => self.now(shared),
        }
    }

    /// One step: it reads, writes a file, or decides.
    pub fn step(
        &mut self,
        passing: Passing,
        shared: &mut Shared,
    ) -> Result<Option<Ended>, Violation> {
        if self.writing.is_some() {
            return self.write(shared);
        }
        if let Some((judged, is_published)) = self.settling.take() {
            return self.settle(judged, is_published, shared);
        }
        match passing {
            Passing::Quiet if self.has_read_all(shared) => self.ahead += TIMEOUT,
            Passing::Most => self.ahead += TIMEOUT * 2 / 3,
            _ if shared.rng.chance(1, 2) => self.ahead += INTERVAL,
            _ => {}
        }
        match self.completion.next(self.now(shared), false) {
            Next::LookForRunsTopic => {
                let is_there = !shared.broker.runs.is_empty();
                self.completion.apply_runs_topic(is_there);
            }
            Next::ReadRuns => self.read_runs(shared),
            Next::AskOffsets => self.ask_offsets(shared),
            Next::ReadOutcomes => {
                if !self.read_outcomes(shared) {
                    shared.saw(Seen::OutcomesOutOfRange);
                    return Ok(Some(Ended::Failed));
                }
            }
            Next::End(end) => return self.end(&end, shared),
        }
        let jobs = self.collection().map_or(0, Collection::jobs_with_outcome);
        shared.collected = jobs;
        Ok(None)
    }

    fn has_read_all(&self, shared: &Shared) -> bool {
        let reading = self.reading.iter();
        let mut outcomes = reading.flat_map(|own| own.next.iter().zip(&own.end));
        self.runs_read == shared.broker.runs.len() && outcomes.all(|(next, end)| next >= end)
    }

    fn read_runs(&mut self, shared: &mut Shared) {
        let end = shared.broker.runs.len();
        let end_of_runs = *self.end_of_runs.get_or_insert(end);
        let mut read = Vec::new();
        if shared.rng.chance(1, 2) {
            read = events(&shared.broker.runs[self.runs_read..]);
            self.runs_read = end;
        }
        if !read.is_empty() {
            self.news_at = self.now(shared);
        }
        if shared.mutation == Some(Mutation::GenerationsUnseen) {
            read.retain(|event| !matches!(event, RunEvent::Generation(_)));
        }
        let is_caught_up = self.runs_read >= end_of_runs;
        let told_at = self.told_at(shared);
        self.completion
            .apply_run_events(read, is_caught_up, told_at);
    }

    fn ask_offsets(&mut self, shared: &Shared) {
        let kept: Vec<i64> = shared.broker.outcomes.iter().map(Log::start).collect();
        let end = ends(&shared.broker.outcomes);
        let told_at = self.told_at(shared);
        self.completion
            .apply_offsets(&kept, end.clone(), Collection::under, told_at);
        let next = self.completion.outcomes_read().map(|read| read.next());
        let next = next.map(<[i64]>::to_vec);
        self.reading = next.map(|next| Reading { next, end });
    }

    /// Reads some outcomes; false where they are gone.
    fn read_outcomes(&mut self, shared: &mut Shared) -> bool {
        let Some(reading) = &mut self.reading else {
            return true;
        };
        let partition = shared.rng.below(reading.next.len());
        let at_most = shared.rng.below(5);
        let log: &Log = &shared.broker.outcomes[partition];
        let position = &mut reading.next[partition];
        if *position < log.start() {
            return false;
        }
        let mut payloads = Vec::with_capacity(at_most);
        let mut is_held = false;
        for _ in 0..at_most {
            let payload = match shared.mutation {
                Some(Mutation::AbortedRead) if *position < log.end() => Some(log.at(*position)),
                _ => log.read(*position),
            };
            let Some(payload) = payload else {
                is_held = log.holds(*position);
                break;
            };
            payloads.extend(payload.map(|payload| (*position, Rc::clone(payload))));
            *position += 1;
        }
        let mut read = reading.next.clone();
        match shared.mutation {
            Some(Mutation::JudgedBeforeTheEnd) => read.clone_from(&reading.end),
            // What was read beyond its end stays read.
            Some(Mutation::PartitionNotRead) => {
                read[partition] = read[partition].max(reading.end[partition]);
            }
            _ => {}
        }
        if is_held {
            shared.saw(Seen::ReaderHeld);
        }
        for (offset, payload) in payloads {
            self.apply_outcomes((partition as i32, offset), &payload, shared);
        }
        let told_at = self.told_at(shared);
        self.completion.apply_outcomes_read(&read, told_at);
        true
    }

    fn apply_outcomes(&mut self, at: (i32, i64), payload: &[u8], shared: &Shared) {
        let Ok(batch) = OutcomeBatch::decode(payload) else {
            return;
        };
        if shared.mutation == Some(Mutation::FirstOutcomeWins) && self.knows_all(&batch) {
            return;
        }
        let news = |own: &Self| {
            let recorded = own.collection().map(Collection::recorded);
            recorded.map(|recorded| recorded.new + recorded.replaced)
        };
        let before = news(self);
        let told_at = self.told_at(shared);
        let applied = self.completion.apply_outcomes(at.0, at.1, payload, told_at);
        applied.expect("it was decoded before");
        let is_known = self
            .collection()
            .is_some_and(|own| own.manifest().is_some());
        if is_known && news(self) == before {
            self.duplicates.push(batch.clone());
        } else {
            self.news_at = self.now(shared);
        }
        self.heard.push(batch);
    }

    fn knows_all(&self, batch: &OutcomeBatch) -> bool {
        let mut indexes = batch.outcomes().map(|job| job.index);
        indexes.all(|index| {
            let mut known = self.heard.iter().flat_map(OutcomeBatch::outcomes);
            known.any(|job| job.index == index)
        })
    }

    fn end(&mut self, end: &End, shared: &mut Shared) -> Result<Option<Ended>, Violation> {
        match end {
            End::Complete | End::HasVerdict => {}
            End::GaveUp | End::NoRun if self.now(shared) < self.news_at + TIMEOUT => {
                return violated(
                    "an aggregator gives up when nothing new has come for its timeout",
                    format!("{end:?}"),
                );
            }
            End::GaveUp => shared.saw(Seen::GaveUp),
            End::Aborted(..) => {
                shared.saw(Seen::RunAborted);
                return Ok(Some(Ended::Failed));
            }
            _ => return Ok(Some(Ended::Failed)),
        }
        let (Some(collection), Some(read)) = (self.collection(), self.completion.outcomes_read())
        else {
            return Ok(Some(Ended::Failed));
        };
        let verdict = reconcile(collection);
        let mut series = series(collection);
        if let (Some(Mutation::DuplicatesCounted), Some(series)) = (shared.mutation, &mut series) {
            for job in self.duplicates.iter().flat_map(OutcomeBatch::outcomes) {
                if let Some(row) = series
                    .rows
                    .iter_mut()
                    .find(|row| Some(row.time()) == job.key.time)
                {
                    row.tests += u64::from(job.weight);
                }
            }
        }
        let manifest = collection.manifest();
        let generation = collection.rules().generation();
        let oracle = &shared.oracle;
        oracle.judged(
            read.start(),
            read.next(),
            manifest.map(|_| generation),
            verdict,
            series.as_ref(),
        )?;
        let judged = judged(collection, read.ranges(), None);
        shared.tell(|| format!("an aggregator judges: {verdict:?}"));
        if collection.recorded().duplicates > 0 {
            shared.saw(Seen::DuplicatesDropped);
        }
        match verdict {
            Verdict::Complete => shared.saw(Seen::Complete),
            Verdict::CompleteWithDeadLetters => shared.saw(Seen::CompleteWithDeadLetters),
            Verdict::Incomplete => shared.saw(Seen::Incomplete),
            Verdict::Failed => {}
        }
        if verdict != Verdict::Incomplete {
            self.replay(shared)?;
        }
        self.settling = Some((judged, false));
        Ok(None)
    }

    /// Publishes its verdict, judges again, or begins to write, as the runs topic has it now.
    fn settle(
        &mut self,
        mut judged: Judged,
        is_published: bool,
        shared: &mut Shared,
    ) -> Result<Option<Ended>, Violation> {
        let runs = history(shared);
        let standing = match judged.settle(&runs.timeline(), is_published) {
            Settlement::Publish => {
                let event = judged.event(runs.run_id(), "an aggregator");
                let event = event.expect("a verdict that is to be published");
                tell(shared, &RunEvent::Reconciled(event));
                self.settling = Some((judged, true));
                return Ok(None);
            }
            Settlement::Incomplete => return Ok(self.begin_to_write(judged.verdict, shared)),
            Settlement::Agrees(_) => {
                let own = (judged.verdict, judged.table_digest);
                let known = *shared.tables.entry(judged.generation).or_insert(own);
                if known != own {
                    return violated(
                        "all aggregators write one table of a generation",
                        format!("{own:?} and {known:?}"),
                    );
                }
                return Ok(self.begin_to_write(judged.verdict, shared));
            }
            Settlement::NextGeneration(_) => return Ok(Some(Ended::Failed)),
            Settlement::JudgeAt(standing) => standing.clone(),
            other => return violated("a verdict that stands agrees", format!("{other:?}")),
        };
        shared.saw(Seen::JudgedAgain);
        let logs = shared.broker.outcomes.iter();
        let beginnings: Vec<i64> = logs.map(Log::start).collect();
        if deleted_outcomes(&standing.outcomes, &beginnings).is_some() {
            shared.saw(Seen::OutcomesOfVerdictDeleted);
            return Ok(Some(Ended::OutcomesDeleted));
        }
        let rules = CountingRules::of(ResultsPolicy::Reproducible, &runs.timeline());
        let mut collection = Collection::under(rules);
        let manifests = runs.manifests().cloned();
        manifests.for_each(|manifest| collection.hear_manifest(manifest));
        let both = shared.broker.outcomes.iter().zip(&standing.outcomes);
        for (partition, (log, range)) in (0..).zip(both) {
            let kept = records(log, range.start).take_while(|(offset, _)| *offset < range.end);
            for (offset, payload) in kept {
                let batch = OutcomeBatch::decode(payload).expect("outcomes can be read");
                let recorded = collection.hear_outcomes_at(partition, offset, &batch);
                recorded.expect("all is in memory");
            }
        }
        let at = Some(standing.verdict_key());
        judged = self::judged(&collection, standing.outcomes, at);
        self.settling = Some((judged, false));
        Ok(None)
    }

    fn begin_to_write(&mut self, verdict: Verdict, shared: &Shared) -> Option<Ended> {
        let mut steps = VecDeque::from(steps(&output_choice(), Leaves::Series, true));
        if shared.mutation == Some(Mutation::ReportBeforeTables) {
            steps.rotate_right(1);
        }
        self.writing = Some((verdict, steps));
        None
    }

    /// Puts the next file in place.
    fn write(&mut self, shared: &mut Shared) -> Result<Option<Ended>, Violation> {
        let Some((verdict, left)) = &mut self.writing else {
            return Ok(None);
        };
        let Some(step) = left.pop_front() else {
            return Ok(Some(Ended::Judged(*verdict)));
        };
        let folder = &mut shared.folder;
        folder.retain(|(own, _)| *own != step);
        folder.push((step, self.number));
        let report = folder.iter().find(|(step, _)| *step == Step::ReportJson);
        let Some(&(_, number)) = report else {
            return Ok(None);
        };
        let expected = steps(&output_choice(), Leaves::Series, true);
        match expected
            .into_iter()
            .find(|&step| !folder.contains(&(step, number)))
        {
            None => Ok(None),
            Some(missing) => violated(
                "a report has everything that it names beside it",
                format!("{missing:?}"),
            ),
        }
    }

    /// Whatever the order, and however often: the same outcomes make the same series and the same
    /// verdict. A prefix of them, and then all, makes no other.
    fn replay(&self, shared: &mut Shared) -> Result<(), Violation> {
        let Some(collection) = self.collection() else {
            return Ok(());
        };
        let Some(manifest) = collection.manifest() else {
            return Ok(());
        };
        let mut batches: Vec<&OutcomeBatch> = self.heard.iter().collect();
        let prefix = shared.rng.below(batches.len() + 1);
        batches.extend_from_within(..prefix);
        shared.rng.shuffle(&mut batches);
        let manifest_at = shared.rng.below(batches.len() + 1);
        let mut again = Collection::under(collection.rules().clone());
        for (position, batch) in batches.iter().enumerate() {
            if position == manifest_at {
                again.hear_manifest(manifest.clone());
            }
            let recorded = again.hear_outcomes_at(0, i64::MAX, batch);
            recorded.expect("all is in memory");
        }
        again.hear_manifest(manifest.clone());
        let same =
            series(&again) == series(collection) && reconcile(&again) == reconcile(collection);
        match same {
            true => Ok(()),
            false => violated(
                "any order of the same outcomes gives the same series",
                format!("{} batches", batches.len()),
            ),
        }
    }
}

/// What an aggregator has judged of a collection.
fn judged(collection: &Collection, outcomes: Vec<OffsetRange>, at: Option<VerdictKey>) -> Judged {
    let ledger = collection.ledger();
    let totals = ledger.map(|ledger| ledger.totals()).unwrap_or_default();
    let series = series(collection);
    Judged {
        generation: collection.rules().generation(),
        outcomes,
        at,
        manifest_digest: collection.manifest().map(|manifest| manifest.digest()),
        verdict: reconcile(collection),
        completed: totals.completed,
        dead_lettered: totals.dead_lettered,
        differing: totals.differing,
        table_digest: ContentDigest::of(format!("{series:?}").as_bytes()),
    }
}

/// What is written of a run.
fn output_choice() -> OutputChoice {
    let args = OutputArgs {
        outputs: vec![Format::Csv, Format::Parquet, Format::Html],
        grain_out: vec![Grain::Day],
    };
    args.choice().expect("these go together")
}

/// The series of what was collected, once the manifest is there.
fn series(collection: &Collection) -> Option<Series> {
    let series = collection.ledger().map(Series::of);
    series.map(|series| series.expect("all is in memory"))
}

/// The verdict on what was collected, with the checks of the computation.
fn reconcile(collection: &Collection) -> Verdict {
    let judged = collection.reconcile(|ledger| Positivity.checks(ledger));
    judged.expect("all is in memory").verdict
}
