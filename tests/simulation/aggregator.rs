//! An aggregator process around the very types that the aggregator runs: [`RunHistory`],
//! [`Collection`] and [`next`], which decides when it judges. It may die between any two reads and
//! begin again.

use std::rc::Rc;

use aggregator::judging::{Look, Next, next};
use computations::Tabulate;
use computations::positivity::{Positivity, Series};
use pipeline::{Collection, OutcomeBatch, RunHistory, Verdict};

use crate::broker::{Log, ends};
use crate::dispatcher::hear;
use crate::history::Shared;
use crate::invariants::Violation;
use crate::mutants::Mutation;
use crate::seen::Seen;

/// What an aggregator has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has judged.
    Judged(Verdict),
    /// It could not go on, and is to be started again.
    Failed,
}

/// The outcomes that it reads.
#[derive(Debug)]
struct Reading {
    from: Vec<i64>,
    next: Vec<i64>,
    /// Where the topic ended when it started.
    end: Vec<i64>,
}

/// An aggregator process.
#[derive(Debug)]
pub struct AggregatorProcess {
    history: RunHistory,
    runs_read: usize,
    manifests_heard: usize,
    reading: Option<Reading>,
    collection: Collection,
    /// Every batch that it heard, for whoever wants to hear them again in another order.
    pub heard: Vec<OutcomeBatch>,
    duplicates: Vec<OutcomeBatch>,
}

impl AggregatorProcess {
    /// An aggregator that knows nothing yet.
    pub fn start(shared: &Shared) -> Self {
        Self {
            history: RunHistory::new(shared.dispatch.run_id.clone()),
            runs_read: 0,
            manifests_heard: 0,
            reading: None,
            collection: Collection::new(),
            heard: Vec::new(),
            duplicates: Vec::new(),
        }
    }

    /// What it has collected.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// One round: some of the runs topic, some outcomes, and a decision. `is_quiet`: nothing new has
    /// come for as long as it waits.
    pub fn step(
        &mut self,
        is_quiet: bool,
        shared: &mut Shared,
    ) -> Result<Option<Ended>, Violation> {
        let end_of_runs = shared.broker.runs.len();
        if self.runs_read == end_of_runs || shared.rng.chance(1, 2) {
            for record in shared.broker.runs[self.runs_read..].iter().flatten() {
                hear(&mut self.history, record);
            }
            self.runs_read = end_of_runs;
        }
        let Some(opened) = self.history.opened() else {
            return Ok(None);
        };
        if self.reading.is_none() {
            let logs = shared.broker.outcomes.iter();
            let starts = logs.zip(&opened.outcomes_start_offsets);
            let from: Vec<i64> = starts.map(|(log, &from)| from.max(log.start())).collect();
            self.reading = Some(Reading {
                next: from.clone(),
                from,
                end: ends(&shared.broker.outcomes),
            });
        }
        let manifests: Vec<_> = self.history.manifests().cloned().collect();
        for manifest in manifests.into_iter().skip(self.manifests_heard) {
            self.manifests_heard += 1;
            self.collection.hear_manifest(manifest);
        }
        if !self.read(shared) {
            shared.saw(Seen::OutcomesOutOfRange);
            return Ok(Some(Ended::Failed));
        }
        self.decide(is_quiet, shared)
    }

    /// Reads some outcomes; false where they are gone.
    fn read(&mut self, shared: &mut Shared) -> bool {
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
            *position += 1;
            payloads.extend(payload.map(Rc::clone));
        }
        if is_held {
            shared.saw(Seen::ReaderHeld);
        }
        for payload in payloads {
            let Ok(batch) = OutcomeBatch::decode(&payload) else {
                continue;
            };
            if shared.mutation == Some(Mutation::FirstOutcomeWins) && self.knows_all(&batch) {
                continue;
            }
            self.heard.push(batch.clone());
            let is_new = self.collection.hear_outcomes(&batch);
            if !is_new.expect("all is in memory") {
                self.duplicates.push(batch);
            }
        }
        true
    }

    fn knows_all(&self, batch: &OutcomeBatch) -> bool {
        let mut indexes = batch.outcomes().map(|job| job.index);
        indexes.all(|index| {
            let mut known = self.heard.iter().flat_map(OutcomeBatch::outcomes);
            known.any(|job| job.index == index)
        })
    }

    fn decide(&mut self, is_quiet: bool, shared: &mut Shared) -> Result<Option<Ended>, Violation> {
        let Some(reading) = &self.reading else {
            return Ok(None);
        };
        let has_reached_end = reading.next.iter().zip(&reading.end).all(|(a, b)| a >= b);
        let has_read_runs = self.runs_read == shared.broker.runs.len();
        let look = Look {
            caught_up: (has_reached_end && has_read_runs)
                || shared.mutation == Some(Mutation::JudgedBeforeTheEnd),
            aborted: self.history.aborted(),
            is_quiet: is_quiet && has_reached_end && has_read_runs,
        };
        match next(&self.collection, &look) {
            Next::ReadOn => return Ok(None),
            Next::Abort(_) => return Ok(Some(Ended::Failed)),
            Next::Judge => {}
            Next::GiveUp => shared.saw(Seen::GaveUp),
        }
        let to: Vec<i64> = reading
            .next
            .iter()
            .zip(&reading.end)
            .map(|(next, end)| *next.max(end))
            .collect();
        let verdict = reconcile(&self.collection);
        let mut series = series(&self.collection);
        if let (Some(Mutation::DuplicatesCounted), Some(series)) = (shared.mutation, &mut series) {
            for job in self.duplicates.iter().flat_map(OutcomeBatch::outcomes) {
                if let Some(row) = series
                    .rows
                    .iter_mut()
                    .find(|row| Some(row.time) == job.key.time)
                {
                    row.tests += u64::from(job.weight);
                }
            }
        }
        let known = self.collection.manifest().is_some();
        let oracle = &shared.oracle;
        oracle.judged(&reading.from, &to, known, verdict, series.as_ref())?;
        shared.tell(|| format!("an aggregator judges: {verdict:?}"));
        let dropped = self.collection.recorded().duplicates;
        if dropped > 0 {
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
        let Some(manifest) = self.collection.manifest() else {
            return Ok(());
        };
        let mut batches: Vec<&OutcomeBatch> = self.heard.iter().collect();
        let prefix = shared.rng.below(batches.len() + 1);
        batches.extend_from_within(..prefix);
        shared.rng.shuffle(&mut batches);
        let manifest_at = shared.rng.below(batches.len() + 1);
        let mut again = Collection::new();
        for (position, batch) in batches.iter().enumerate() {
            if position == manifest_at {
                again.hear_manifest(manifest.clone());
            }
            let recorded = again.hear_outcomes(batch);
            recorded.expect("all is in memory");
        }
        again.hear_manifest(manifest.clone());
        let same = series(&again) == series(&self.collection)
            && reconcile(&again) == reconcile(&self.collection);
        match same {
            true => Ok(()),
            false => crate::invariants::violated(
                "any order of the same outcomes gives the same series",
                format!("{} batches", batches.len()),
            ),
        }
    }
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
