//! An aggregator process: the topics and the clock of the aggregator's own [`Completion`], which
//! decides. It may die between any two reads and begin again.

use std::rc::Rc;
use std::time::{Duration, Instant};

use aggregator::RunChoice;
use aggregator::completion::{Completion, End, Next};
use pipeline::{Collection, OutcomeBatch, Verdict};

use crate::broker::{Log, ends};
use crate::dispatcher::event;
use crate::history::Shared;
use crate::invariants::Violation;
use crate::mutants::Mutation;
use crate::seen::Seen;

/// How long nothing new may come.
const TIMEOUT: Duration = Duration::from_secs(1_000_000);

/// Longer than any interval at which an aggregator reads the runs topic.
const INTERVAL: Duration = Duration::from_secs(1);

/// What an aggregator has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has judged.
    Judged(Verdict),
    /// It could not go on, and is to be started again.
    Failed,
}

/// An aggregator process.
#[derive(Debug)]
pub struct AggregatorProcess {
    completion: Completion,
    /// How much further its clock is than everybody's.
    ahead: Duration,
    /// Records of the runs topic that it has read.
    runs_read: usize,
    /// The offsets of the outcomes topic that it reads next, and where the topic ended at first.
    reading: Option<(Vec<i64>, Vec<i64>)>,
    /// Every batch that it has read, to be read again in another order.
    pub heard: Vec<OutcomeBatch>,
    duplicates: Vec<OutcomeBatch>,
}

impl AggregatorProcess {
    /// An aggregator that knows nothing yet.
    pub fn start(shared: &Shared) -> Self {
        let choice = RunChoice::Named(shared.dispatch.run_id.clone());
        Self {
            completion: Completion::new(&choice, TIMEOUT, shared.now()),
            ahead: Duration::ZERO,
            runs_read: 0,
            reading: None,
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

    /// One round: some of the runs topic, some outcomes, and a decision. `is_quiet`: nothing new has
    /// come for as long as it waits.
    pub fn step(
        &mut self,
        is_quiet: bool,
        shared: &mut Shared,
    ) -> Result<Option<Ended>, Violation> {
        let end_of_runs = shared.broker.runs.len();
        let mut runs_come = true;
        if self.runs_read < end_of_runs {
            runs_come = shared.rng.chance(1, 2);
            self.ahead += INTERVAL;
        }
        let (mut has_read_runs, mut has_read_outcomes) = (false, false);
        loop {
            if is_quiet && has_read_outcomes && self.has_read_all(shared) {
                self.ahead += TIMEOUT;
            }
            let now = self.now(shared);
            match self.completion.next(now, false) {
                Next::LookForRunsTopic => self.completion.apply_runs_topic(true),
                Next::ReadRuns if has_read_runs && !has_read_outcomes => return Ok(None),
                Next::ReadRuns => {
                    has_read_runs = true;
                    self.read_runs(runs_come, now, shared);
                }
                Next::AskOffsets => self.ask_offsets(now, shared),
                Next::ReadOutcomes if has_read_outcomes => return Ok(None),
                Next::ReadOutcomes => {
                    has_read_outcomes = true;
                    if !self.read_outcomes(now, shared) {
                        shared.saw(Seen::OutcomesOutOfRange);
                        return Ok(Some(Ended::Failed));
                    }
                }
                Next::End(end) => return self.end(&end, shared),
            }
        }
    }

    fn has_read_all(&self, shared: &Shared) -> bool {
        let reading = self.reading.iter();
        let mut outcomes = reading.flat_map(|(next, end)| next.iter().zip(end));
        self.runs_read == shared.broker.runs.len() && outcomes.all(|(next, end)| next >= end)
    }

    fn read_runs(&mut self, runs_come: bool, now: Instant, shared: &Shared) {
        let end = shared.broker.runs.len();
        let mut events = Vec::new();
        if runs_come {
            let records = shared.broker.runs[self.runs_read..].iter().flatten();
            events.extend(records.filter_map(event));
            self.runs_read = end;
        }
        self.completion
            .apply_run_events(events, self.runs_read == end, now);
    }

    fn ask_offsets(&mut self, now: Instant, shared: &Shared) {
        let kept: Vec<i64> = shared.broker.outcomes.iter().map(Log::start).collect();
        let end = ends(&shared.broker.outcomes);
        self.completion.apply_offsets(&kept, end.clone(), now);
        let read = self.completion.outcomes_read();
        self.reading = read.map(|read| (read.next().to_vec(), end));
    }

    /// Reads some outcomes; false where they are gone.
    fn read_outcomes(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let Some((next, end)) = &mut self.reading else {
            return true;
        };
        let partition = shared.rng.below(next.len());
        let at_most = shared.rng.below(5);
        let log: &Log = &shared.broker.outcomes[partition];
        let position = &mut next[partition];
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
        let read = match shared.mutation {
            Some(Mutation::JudgedBeforeTheEnd) => end.clone(),
            _ => next.clone(),
        };
        if is_held {
            shared.saw(Seen::ReaderHeld);
        }
        for (offset, payload) in payloads {
            self.apply_outcomes(partition as i32, offset, &payload, now, shared);
        }
        self.completion.apply_outcomes_read(&read, now);
        true
    }

    fn apply_outcomes(
        &mut self,
        partition: i32,
        offset: i64,
        payload: &[u8],
        now: Instant,
        shared: &Shared,
    ) {
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
        let applied = self
            .completion
            .apply_outcomes(partition, offset, payload, now);
        applied.expect("it was decoded before");
        let is_known = self
            .collection()
            .is_some_and(|own| own.manifest().is_some());
        if is_known && news(self) == before {
            self.duplicates.push(batch.clone());
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
            End::Complete => {}
            End::GaveUp => shared.saw(Seen::GaveUp),
            _ => return Ok(Some(Ended::Failed)),
        }
        let (Some(collection), Some(read)) = (self.collection(), self.completion.outcomes_read())
        else {
            return Ok(Some(Ended::Failed));
        };
        let verdict = collection.reconcile().verdict;
        let mut series = collection.ledger().map(|ledger| ledger.series());
        if let (Some(Mutation::DuplicatesCounted), Some(series)) = (shared.mutation, &mut series) {
            for job in self.duplicates.iter().flat_map(OutcomeBatch::outcomes) {
                if let Some(row) = series.rows.iter_mut().find(|row| row.time == job.key.time) {
                    row.tests += u64::from(job.rows);
                }
            }
        }
        let known = collection.manifest().is_some();
        let oracle = &shared.oracle;
        let generation = collection.rules().generation();
        oracle.judged(
            read.start(),
            read.next(),
            known.then_some(generation),
            verdict,
            series.as_ref(),
        )?;
        shared.happens(&format!("{verdict:?} {series:?}"));
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
        Ok(Some(Ended::Judged(verdict)))
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
            again.hear_outcomes((*batch).clone());
        }
        again.hear_manifest(manifest.clone());
        let series = |collection: &Collection| collection.ledger().map(|ledger| ledger.series());
        let same = series(&again) == series(collection)
            && again.reconcile().verdict == collection.reconcile().verdict;
        match same {
            true => Ok(()),
            false => crate::invariants::violated(
                "any order of the same outcomes gives the same series",
                format!("{} batches", batches.len()),
            ),
        }
    }
}
