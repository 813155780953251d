//! Which job indexes have which outcome. The ledger is plain data: the same outcomes in any order,
//! cut into any batches and repeated any number of times, make the same ledger.
//!
//! Outcomes are ordered: nothing < dead-lettered < completed. The ledger keeps the highest, so a dead
//! letter that is replayed and completed later leaves no trace.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use crate::digest::{JobSetDigest, JobSetHasher};
use crate::error::Conflict;
use crate::grain::TimeBucket;
use crate::group_key::{GroupKey, LabelSet};
use crate::outcome::{JobOutcome, Outcome, OutcomeBatch};

use groups::time_of;
use lines::{Line, Lines, NO_TIME, State};
use results::{Results, Stored};

mod groups;
mod lines;
mod results;
#[cfg(test)]
mod tests;

pub use groups::{Group, Groups};

/// So many contradictions are put into words; more are only counted. One message may hold a hundred
/// thousand of them, and each speaks of labels of many KiB.
const MAX_CONFLICTS: usize = 1_000;

/// So many characters are shown of labels and of reasons.
const SHOWN_CHARACTERS: usize = 200;

type LabelIds = std::collections::HashMap<LabelSet, u32, foldhash::fast::RandomState>;

/// Why a job is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadJob {
    /// The worker's words.
    pub reason: String,
    /// How often the job was tried.
    pub attempts: u32,
}

/// What recording a batch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Outcomes of jobs that had none.
    pub new: u64,
    /// Results that replaced a dead letter.
    pub replaced: u64,
    /// Outcomes that said nothing new, and were dropped.
    pub duplicates: u64,
    /// Outcomes of jobs that the run does not have, and were dropped.
    pub beyond: u64,
    /// Outcomes that contradict what was said before, and were dropped.
    pub conflicts: u64,
}

/// One outcome for each job of a run.
#[derive(Clone, Debug)]
pub struct Ledger {
    lines: Lines,
    results: Results,
    label_sets: Vec<LabelSet>,
    label_ids: LabelIds,
    dead: BTreeMap<u64, DeadJob>,
    totals: Totals,
}

/// Sums over the ledger, kept as it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs that were completed.
    pub completed: u64,
    /// Jobs that are dead letters.
    pub dead_lettered: u64,
    /// Rows in completed jobs.
    pub weight_completed: u64,
    /// Rows in dead-lettered jobs.
    pub weight_dead_lettered: u64,
}

impl Ledger {
    /// The ledger of a run with so many jobs, none of which has an outcome. It takes memory for jobs
    /// that have one, and for their neighbours.
    pub fn new(jobs: u64) -> Self {
        Self {
            lines: Lines::new(jobs),
            results: Results::default(),
            label_sets: Vec::new(),
            label_ids: LabelIds::default(),
            dead: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    /// How many jobs the run has.
    pub fn jobs(&self) -> u64 {
        self.lines.len()
    }

    /// How many jobs have no outcome yet.
    pub fn missing(&self) -> u64 {
        self.jobs() - self.totals.completed - self.totals.dead_lettered
    }

    /// Sums over all outcomes.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The jobs that are dead letters, by index.
    pub fn dead(&self) -> &BTreeMap<u64, DeadJob> {
        &self.dead
    }

    /// How much memory the results take that are too large for their lines.
    pub fn result_bytes(&self) -> u64 {
        self.results.allocated_bytes()
    }

    /// Records the outcomes of a batch. Contradictions are appended to `conflicts`, until that has
    /// 1,000 of them; the outcome that came first stays.
    pub fn record(&mut self, batch: &OutcomeBatch, conflicts: &mut Vec<Conflict>) -> Recorded {
        let ids: Vec<u32> = batch
            .label_sets()
            .iter()
            .map(|labels| self.intern(labels))
            .collect();
        let mut recorded = Recorded::default();
        for outcome in batch.outcomes() {
            self.record_one(
                &outcome,
                ids[outcome.label_position],
                &mut recorded,
                conflicts,
            );
        }
        recorded
    }

    fn intern(&mut self, labels: &LabelSet) -> u32 {
        if let Some(&id) = self.label_ids.get(labels) {
            return id;
        }
        // A label set costs more than a byte on the wire, so 4 billion of them never arrive.
        let id = self.label_sets.len() as u32;
        match self.label_ids.entry(labels.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                self.label_sets.push(labels.clone());
                *vacant.insert(id)
            }
        }
    }

    fn record_one(
        &mut self,
        job: &JobOutcome<'_>,
        label_set: u32,
        recorded: &mut Recorded,
        conflicts: &mut Vec<Conflict>,
    ) {
        let Some(line) = self.lines.get_mut(job.index) else {
            recorded.beyond += 1;
            return;
        };
        let mut reported = Line {
            state: State::DeadLettered,
            label_set,
            time: job.key.time.map_or(NO_TIME, TimeBucket::seconds),
            part: job.part,
            weight: job.weight,
            payload_digest: job.payload_digest,
            result: Stored::default(),
        };
        let weight = u64::from(job.weight);
        let before = line.state;
        if before != State::Missing {
            let same_result = match job.outcome {
                Outcome::Completed(result) if before == State::Completed => {
                    self.results.is_equal(&line.result, result)
                }
                _ => true,
            };
            if !line.is_of_same_job(&reported) || !same_result {
                recorded.conflicts += 1;
                let kept = *line;
                if conflicts.len() < MAX_CONFLICTS {
                    conflicts.push(self.conflict(job, &kept));
                }
                return;
            }
        }
        match (before, job.outcome) {
            (State::Missing, Outcome::DeadLettered { reason, attempts }) => {
                recorded.new += 1;
                *line = reported;
                self.totals.dead_lettered += 1;
                self.totals.weight_dead_lettered += weight;
                let reason = reason.to_owned();
                self.dead.insert(job.index, DeadJob { reason, attempts });
            }
            (State::Missing | State::DeadLettered, Outcome::Completed(result)) => {
                reported.state = State::Completed;
                reported.result = self.results.store(result);
                *line = reported;
                self.totals.completed += 1;
                self.totals.weight_completed += weight;
                if before == State::Missing {
                    recorded.new += 1;
                } else {
                    recorded.replaced += 1;
                    self.totals.dead_lettered -= 1;
                    self.totals.weight_dead_lettered -= weight;
                    self.dead.remove(&job.index);
                }
            }
            _ => recorded.duplicates += 1,
        }
    }

    fn conflict(&self, job: &JobOutcome<'_>, kept: &Line) -> Conflict {
        let describe = |key: GroupKey<'_>, part: u32, weight: u32, digest: u64, outcome: String| {
            let time = match key.time {
                Some(time) => format!("time {}, ", time.seconds()),
                None => String::new(),
            };
            format!(
                "({}, {time}part {part}, {weight} rows, payload {digest:016x}) {outcome}",
                shown(&key.labels.values)
            )
        };
        let dead_lettered = |reason: &str| format!("dead-lettered ({})", shown(&[reason]));
        let kept_outcome = match self.dead.get(&job.index) {
            Some(dead) => dead_lettered(&dead.reason),
            None => Outcome::Completed(self.results.get(&kept.result)).to_string(),
        };
        let other_outcome = match job.outcome {
            Outcome::Completed(_) => job.outcome.to_string(),
            Outcome::DeadLettered { reason, .. } => dead_lettered(reason),
        };
        Conflict {
            index: job.index,
            kept: describe(
                self.key(kept),
                kept.part,
                kept.weight,
                kept.payload_digest,
                kept_outcome,
            ),
            other: describe(
                job.key,
                job.part,
                job.weight,
                job.payload_digest,
                other_outcome,
            ),
        }
    }

    fn key(&self, line: &Line) -> GroupKey<'_> {
        GroupKey {
            labels: &self.label_sets[line.label_set as usize],
            time: time_of(line.time),
        }
    }

    /// The lowest indexes without an outcome, `at_most` of them.
    pub fn first_missing(&self, at_most: usize) -> Vec<u64> {
        let mut missing = Vec::new();
        let mut next = 0;
        let known = self.lines.known().map(|(index, _)| index);
        for known in known.chain([self.jobs()]) {
            missing.extend((next..known).take(at_most - missing.len()));
            if missing.len() == at_most {
                break;
            }
            next = known.saturating_add(1);
        }
        missing
    }

    /// Key, part and weight of a job that has an outcome.
    pub fn describe(&self, index: u64) -> Option<(GroupKey<'_>, u32, u32)> {
        let line = self.lines.get(index)?;
        Some((self.key(line), line.part, line.weight))
    }

    /// The result of a job that was completed.
    pub fn result(&self, index: u64) -> Option<&[u8]> {
        let line = self.lines.get(index)?;
        (line.state == State::Completed).then(|| self.results.get(&line.result))
    }

    /// The weights and results of all jobs that were completed, in index order.
    pub fn completed(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let known = self.lines.known().map(|(_, line)| line);
        let completed = known.filter(|line| line.state == State::Completed);
        completed.map(|line| (line.weight, self.results.get(&line.result)))
    }

    /// The digest of the jobs as their outcomes describe them; `None` while one is missing.
    pub fn job_set_digest(&self) -> Option<JobSetDigest> {
        if self.missing() > 0 {
            return None;
        }
        let mut hasher = JobSetHasher::new();
        for (index, line) in self.lines.known() {
            let (part, weight) = (line.part, line.weight);
            hasher.update_with(index, self.key(line), part, weight, line.payload_digest);
        }
        Some(hasher.finish())
    }

    /// The outcomes by group.
    pub fn groups(&self) -> Groups<'_> {
        Groups::new(self)
    }
}

/// The first characters of texts, one after the other.
fn shown<S: AsRef<str>>(texts: &[S]) -> String {
    let mut characters = texts.iter().enumerate().flat_map(|(number, text)| {
        let before = if number == 0 { "" } else { ", " };
        before.chars().chain(text.as_ref().chars())
    });
    let mut shown: String = characters.by_ref().take(SHOWN_CHARACTERS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}
