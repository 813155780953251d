//! An aggregator process: the topics and the clock of the aggregator's own [`Completion`], which
//! decides. It may die between any two reads and begin again.

mod settling;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aggregator::RunChoice;
use aggregator::completion::{Completion, End, Next, WorkersSeen};
use aggregator::writing::Step;
use computations::Tabulate;
use computations::positivity::{Positivity, Series};
use pipeline::outcome::JobOutcome;
use pipeline::{
    Collection, Job, Judged, Outcome, OutcomeBatch, OutcomeBatchBuilder, RunEvent, RunReconciled,
    Verdict,
};

use crate::broker::{Log, ends, starts};
use crate::history::Shared;
use crate::invariants::{Judgement, Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;
use crate::topics::events;
use settling::judged;

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
    /// The run is cancelled.
    Cancelled,
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
    /// All of it passes, while others are at work.
    Whole,
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

/// Which of a history's aggregators one is. Each has an output folder of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one that the history waits for.
    First,
    /// One that reads beside it, and is at another offset at any time.
    Second,
}

/// How far the publication of a verdict has come.
#[derive(Clone, Debug)]
enum Publication {
    /// It was not asked for.
    None,
    /// The event is on its way: others may come before it.
    Sent(RunReconciled),
    /// The event is on the runs topic.
    Written,
}

/// An aggregator process.
#[derive(Debug)]
pub struct AggregatorProcess {
    number: u64,
    place: Place,
    completion: Completion,
    /// How much further its clock is than everybody's.
    ahead: Duration,
    /// When something new came.
    news_at: Instant,
    /// Records of the runs topic that it has read, and how many there were at first.
    runs_read: usize,
    end_of_runs: Option<usize>,
    reading: Option<Reading>,
    /// What the workers had before them when it asked last, and where the jobs topic ended when it
    /// asked first since something new came.
    workers: Option<(WorkersSeen, Vec<i64>)>,
    /// What it has judged, and whether it has published that.
    settling: Option<(Judged, Publication)>,
    /// What it is to write of its verdict.
    writing: Option<(Verdict, VecDeque<Step>)>,
    /// Every batch that it has read, with its place, to be read again in another order.
    heard: Vec<((i32, i64), OutcomeBatch)>,
    duplicates: Vec<OutcomeBatch>,
}

impl AggregatorProcess {
    /// An aggregator that knows nothing yet. It removes the reports of an earlier one.
    pub fn start(place: Place, shared: &mut Shared) -> Self {
        let choice = RunChoice::Named(shared.dispatch.run_id.clone());
        if shared.mutation != Some(Mutation::ReportsStay) {
            let is_report = |step: &Step| matches!(step, Step::Report(_) | Step::ReportJson);
            shared.folders[place as usize].retain(|(step, _)| !is_report(step));
        }
        shared.aggregators += 1;
        Self {
            number: shared.aggregators,
            place,
            completion: Completion::new(&choice, TIMEOUT, shared.now()),
            ahead: Duration::ZERO,
            news_at: shared.now(),
            runs_read: 0,
            end_of_runs: None,
            reading: None,
            workers: None,
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
        if let Some((judged, publication)) = self.settling.take() {
            return self.settle(judged, publication, shared);
        }
        match passing {
            Passing::Quiet if self.has_read_all(shared) => self.ahead += TIMEOUT,
            Passing::Most => self.ahead += TIMEOUT * 2 / 3,
            Passing::Whole => self.ahead += TIMEOUT,
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
            Next::AskWorkers => self.ask_workers(shared),
            Next::End(end) => return self.end(&end, shared),
        }
        if self.place == Place::First {
            let jobs = self.collection().map_or(0, Collection::jobs_with_outcome);
            shared.collected = jobs;
            self.make_position_known(shared);
        }
        Ok(None)
    }

    /// Workers hold outcomes back by how far the run's first aggregator has read.
    fn make_position_known(&self, shared: &mut Shared) {
        if let (Some(known), Some(reading)) = (&mut shared.outcomes_read, &self.reading) {
            known.clone_from(&reading.next);
        }
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
            self.has_news(shared);
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
        let kept = starts(&shared.broker.outcomes);
        let end = ends(&shared.broker.outcomes);
        let told_at = self.told_at(shared);
        self.completion
            .apply_offsets(&kept, end.clone(), Collection::under, told_at);
        let next = self.completion.outcomes_read().map(|read| read.next());
        let next = next.map(<[i64]>::to_vec);
        self.reading = next.map(|next| Reading { next, end });
        // Of a further generation, everything is read again.
        self.heard.clear();
        self.duplicates.clear();
    }

    fn ask_workers(&mut self, shared: &mut Shared) {
        let broker = &shared.broker;
        let seen = WorkersSeen {
            members: broker.group.members(),
            jobs_kept: starts(&broker.jobs),
            jobs_committed: broker.group.committed_offsets(),
            jobs_end: ends(&broker.jobs),
            outcomes_end: ends(&broker.outcomes),
        };
        let first = self.workers.take().map(|(_, ends)| ends);
        let first = first.unwrap_or_else(|| seen.jobs_end.clone());
        self.workers = Some((seen.clone(), first));
        let reported = match shared.mutation {
            Some(Mutation::WorkersNotAsked) => None,
            Some(Mutation::OutcomesNotReadOut) => Some(WorkersSeen {
                outcomes_end: Vec::new(),
                ..seen
            }),
            _ => Some(seen),
        };
        let now = self.now(shared);
        if self.completion.apply_workers(reported, now).is_some() {
            shared.saw(Seen::WorkersWaitedFor);
        }
    }

    /// What is left of what was there when it asked, where it gives up: by the state that it was given, and not by
    /// what it has made of that.
    fn left_undone(&self) -> Option<&'static str> {
        let (seen, ends) = self.workers.as_ref()?;
        let opened = self.completion.run()?.opened()?;
        let starts = &opened.jobs_start_offsets;
        let is_left = (0..ends.len()).any(|partition| {
            let done = [starts, &seen.jobs_kept, &seen.jobs_committed];
            done.iter().all(|done| done[partition] < ends[partition])
        });
        if is_left && seen.members > 0 {
            return Some("members of the group have jobs before them");
        }
        let read = self.completion.outcomes_read()?.next();
        let mut both = read.iter().zip(&seen.outcomes_end);
        both.any(|(read, end)| read < end)
            .then_some("outcomes of committed jobs are not read")
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
        let Ok(mut batch) = OutcomeBatch::decode(payload) else {
            return;
        };
        if shared.mutation == Some(Mutation::FirstOutcomeWins) && self.knows_all(&batch) {
            return;
        }
        let rewritten = self.mutated(&batch, shared);
        let payload = rewritten.as_deref().unwrap_or(payload);
        if rewritten.is_some() {
            let Ok(other) = OutcomeBatch::decode(payload) else {
                return;
            };
            batch = other;
        }
        let news = |own: &Self| {
            let recorded = own.collection().map(Collection::recorded);
            recorded.map(|recorded| recorded.new + recorded.replaced)
        };
        let before = news(self);
        let told_at = self.told_at(shared);
        let offset = match shared.mutation {
            Some(Mutation::FrozenResultReplaced) => i64::MAX,
            _ => at.1,
        };
        let applied = self
            .completion
            .apply_outcomes(at.0, offset, payload, told_at);
        applied.expect("it was decoded before");
        if news(self) == before {
            self.duplicates.push(batch.clone());
        } else {
            self.has_news(shared);
        }
        self.heard.push((at, batch));
    }

    /// A batch as a defect has it.
    fn mutated(&self, batch: &OutcomeBatch, shared: &Shared) -> Option<Vec<u8>> {
        let is_result = |job: &JobOutcome<'_>| matches!(job.outcome, Outcome::Completed(_));
        let own = batch.generation();
        match shared.mutation {
            Some(Mutation::FirstResultCounts) => Some(rewritten(batch, own, |job| {
                let mut known = self.heard.iter().flat_map(|(_, own)| own.outcomes());
                let has_result =
                    is_result(job) && known.any(|own| is_result(&own) && own.index == job.index);
                (!has_result).then_some(job.payload_digest)
            })),
            Some(Mutation::PayloadDigestNotChecked) => Some(rewritten(batch, own, |job| {
                Some(shared.oracle.jobs[job.index as usize].payload_digest)
            })),
            Some(Mutation::OldDeadLettersCount) => {
                let newest = self.collection().map_or(0, |own| own.rules().generation());
                Some(rewritten(batch, newest, |job| Some(job.payload_digest)))
            }
            _ => None,
        }
    }

    /// Something new has come.
    fn has_news(&mut self, shared: &Shared) {
        self.news_at = self.now(shared);
        self.workers = None;
    }

    fn knows_all(&self, batch: &OutcomeBatch) -> bool {
        let mut indexes = batch.outcomes().map(|job| job.index);
        indexes.all(|index| {
            let mut known = self.heard.iter().flat_map(|(_, own)| own.outcomes());
            known.any(|job| job.index == index)
        })
    }

    fn end(&mut self, end: &End, shared: &mut Shared) -> Result<Option<Ended>, Violation> {
        match end {
            End::Complete | End::HasVerdict => {}
            End::GaveUp(_) | End::NoRun if self.now(shared) < self.news_at + TIMEOUT => {
                return violated(
                    "an aggregator gives up when nothing new has come for its timeout",
                    format!("{end:?}"),
                );
            }
            End::GaveUp(_) => {
                if let Some(left) = self.left_undone() {
                    return violated(
                        "an aggregator gives up when the workers have nothing before them",
                        left,
                    );
                }
                shared.saw(Seen::GaveUp);
            }
            End::Cancelled(_) => return Ok(Some(Ended::Cancelled)),
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
        let generation = collection.rules().generation();
        let totals = collection.ledger().map(|ledger| ledger.totals());
        shared.oracle.judged(Judgement {
            from: read.start(),
            to: read.next(),
            generation: collection.manifest().map(|_| generation),
            verdict,
            series: series.as_ref(),
            differing: totals.map_or(0, |totals| totals.differing),
        })?;
        let judged = judged(collection, read.ranges(), None);
        shared.tell(|| format!("an aggregator judges: {verdict:?}"));
        if collection.recorded().duplicates > 0 {
            shared.saw(Seen::DuplicatesDropped);
        }
        match verdict {
            Verdict::Complete => shared.saw(Seen::Complete),
            Verdict::CompleteWithDeadLetters => shared.saw(Seen::CompleteWithDeadLetters),
            Verdict::Incomplete => shared.saw(Seen::Incomplete),
            Verdict::Failed => shared.saw(Seen::RunFailed),
        }
        if totals.is_some_and(|totals| totals.differing > 0) {
            shared.saw(Seen::ResultsDiffered);
        }
        if verdict != Verdict::Incomplete {
            self.replay(shared)?;
        }
        self.settling = Some((judged, Publication::None));
        Ok(None)
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
        let mut batches: Vec<_> = self.heard.iter().collect();
        let prefix = shared.rng.below(batches.len() + 1);
        batches.extend_from_within(..prefix);
        shared.rng.shuffle(&mut batches);
        let manifest_at = shared.rng.below(batches.len() + 1);
        let mut again = Collection::under(collection.rules().clone());
        for (position, ((partition, offset), batch)) in batches.iter().enumerate() {
            if position == manifest_at {
                again.apply_manifest(manifest.clone());
            }
            let recorded = again.apply_outcomes_at(*partition, *offset, batch);
            recorded.expect("all is in memory");
        }
        again.apply_manifest(manifest.clone());
        let verdict = reconcile(collection);
        // Of outcomes that contradict one another, the one that came first stays.
        let is_same_series = verdict == Verdict::Failed || series(&again) == series(collection);
        let same = is_same_series && reconcile(&again) == verdict;
        match same {
            true => Ok(()),
            false => violated(
                "any order of the same outcomes gives the same series",
                format!("{} batches", batches.len()),
            ),
        }
    }
}

/// A batch as one of this generation, with other payload digests, and without the outcomes that have
/// none.
fn rewritten(
    batch: &OutcomeBatch,
    generation: u32,
    digest: impl Fn(&JobOutcome<'_>) -> Option<u64>,
) -> Vec<u8> {
    let mut builder = OutcomeBatchBuilder::new(batch.run_id(), generation, batch.worker());
    for own in batch.outcomes() {
        if let Some(digest) = digest(&own) {
            let job = Job {
                index: own.index,
                key: own.key,
                part: own.part,
                weight: own.weight,
                payload: &[],
            };
            builder.push(&job, digest, own.outcome);
        }
    }
    builder.encode()
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
