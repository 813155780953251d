//! Which job indexes have which outcome. The ledger is plain data: the same outcomes in any order,
//! cut into any batches and repeated any number of times, make the same ledger.
//!
//! Outcomes are ordered: nothing < dead-lettered < completed. The ledger keeps the highest, so a dead
//! letter that is replayed and completed later leaves no trace. Which dead letters and which of several
//! results count is decided by the rules in [`counting`].

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::digest::{JobSetDigest, JobSetHasher};
use crate::error::Conflict;
use crate::grain::TimeBucket;
use crate::outcome::{JobOutcome, Outcome, OutcomeBatch};
use crate::run::ResultsPolicy;

use counting::{CountingRules, Tier};
use groups::time_of;
use labels::LabelArena;
use lines::{Line, Lines, NO_TIME, State};
use results::{Reader, Results, SEGMENT_BYTES, Stored};

pub mod counting;
mod groups;
mod labels;
mod lines;
mod results;
mod spill;
#[cfg(test)]
mod tests;

pub use groups::{Group, Groups};
pub use labels::Labels;
pub use spill::{Memory, MemoryUse, SpillError, SpillStore};

/// The largest number of contradictions that are described; more are only counted. One message may
/// have a hundred thousand of them, each with labels of many KiB.
const MAX_CONFLICTS: usize = 1_000;

/// The number of characters to which labels and reasons are truncated.
const SHOWN_CHARACTERS: usize = 200;

/// The memory for a dead letter without its reason, in bytes.
const DEAD_JOB_BYTES: usize = 64;

/// The dead letter of a job, as its outcome describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadJob {
    /// The reason, as the worker wrote it.
    pub reason: String,
    /// The number of attempts.
    pub attempts: u32,
}

/// The change of a ledger by an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The job had no outcome.
    New,
    /// A result replaced a dead letter, or a result that does not count beside it.
    Replaced,
    /// The outcome was there already, or a higher one, and it was dropped.
    Duplicate,
    /// The run does not have the job, and the outcome was dropped.
    OutOfRange,
    /// The outcome contradicts the one that is there, and was dropped.
    Conflict,
    /// The outcome is a dead letter of a job that was opened again since, and was dropped.
    Outdated,
}

/// A job of which a ledger has an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownJob<'a> {
    /// The labels of its group.
    pub labels: Labels<'a>,
    /// The truncated time of its group; `None` in a run that does not group by time.
    pub time: Option<TimeBucket>,
    /// Its part.
    pub part: u32,
    /// Its weight.
    pub weight: u32,
    /// The digest of its payload.
    pub payload_digest: u64,
}

/// The changes of a ledger by a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Outcomes of jobs that had none.
    pub new: u64,
    /// Results that replaced a dead letter, or a result that does not count beside them.
    pub replaced: u64,
    /// Outcomes that were there already, and were dropped.
    pub duplicates: u64,
    /// Outcomes of jobs that the run does not have, and were dropped.
    pub beyond: u64,
    /// Outcomes that contradict earlier ones, and were dropped.
    pub conflicts: u64,
    /// Dead letters of jobs that were opened again since, and were dropped.
    pub outdated: u64,
}

impl Recorded {
    /// Counts an outcome.
    #[inline]
    pub fn add(&mut self, change: Change) {
        *self.count(change) += 1;
    }

    /// The count of the outcomes with this change.
    #[inline]
    pub(crate) fn count(&mut self, change: Change) -> &mut u64 {
        match change {
            Change::New => &mut self.new,
            Change::Replaced => &mut self.replaced,
            Change::Duplicate => &mut self.duplicates,
            Change::OutOfRange => &mut self.beyond,
            Change::Conflict => &mut self.conflicts,
            Change::Outdated => &mut self.outdated,
        }
    }
}

/// One outcome for each job of a run.
#[derive(Debug)]
pub struct Ledger {
    lines: Lines,
    results: Results,
    labels: LabelArena,
    dead: BTreeMap<u64, DeadJob>,
    dead_bytes: usize,
    totals: Totals,
    rules: CountingRules,
    memory: Option<Memory>,
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
    /// Jobs with several results that differ, which the run's policy allows.
    pub differing: u64,
}

/// The common fields of the outcomes of a batch.
#[derive(Clone, Copy)]
struct Origin {
    tier: Tier,
    generation: u32,
}

impl Ledger {
    /// The ledger of a run with this number of jobs and no outcome yet. It takes memory for jobs with an
    /// outcome, and for their neighbours.
    pub fn new(jobs: u64) -> Self {
        Self::under(jobs, CountingRules::default())
    }

    /// The ledger of a run in which outcomes count by these rules.
    pub fn under(jobs: u64, rules: CountingRules) -> Self {
        Self {
            lines: Lines::new(jobs),
            results: Results::default(),
            labels: LabelArena::default(),
            dead: BTreeMap::new(),
            dead_bytes: 0,
            totals: Totals::default(),
            rules,
            memory: None,
        }
    }

    /// The ledger of a run whose number of jobs is not known yet.
    pub fn of_unknown_length(rules: CountingRules) -> Self {
        Self::under(u64::MAX, rules)
    }

    /// Gives the ledger a memory budget, and a store for the results beyond it.
    #[must_use]
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Drops the outcomes of all jobs from this index on: the run has no more.
    pub fn set_jobs(&mut self, jobs: u64) {
        for (index, line) in self.lines.truncate(jobs) {
            let weight = u64::from(line.weight);
            match line.state {
                State::Missing | State::Reopened => {}
                State::DeadLettered => {
                    self.totals.dead_lettered -= 1;
                    self.totals.weight_dead_lettered -= weight;
                    self.remove_dead(index);
                }
                State::Completed | State::Differing => {
                    self.totals.differing -= u64::from(line.state == State::Differing);
                    self.totals.completed -= 1;
                    self.totals.weight_completed -= weight;
                }
            }
        }
    }

    /// Spills results until no more memory is held than the budget allows, as far as results are what
    /// is held. `beside` is what the caller holds or is about to.
    ///
    /// # Errors
    /// When the store has no room for them.
    pub fn make_room(&mut self, beside: u64) -> Result<(), SpillError> {
        let held = self.memory_use().held + beside;
        match &mut self.memory {
            Some(Memory {
                budget_bytes,
                store,
            }) if held > *budget_bytes && self.results.held_bytes() >= SEGMENT_BYTES as u64 => {
                self.results.spill(held - *budget_bytes, &mut **store)
            }
            _ => Ok(()),
        }
    }

    /// The memory in use.
    pub fn memory_use(&self) -> MemoryUse {
        let fixed = self.lines.held_bytes()
            + self.labels.held_bytes()
            + self.results.place_bytes()
            + self.dead_bytes as u64;
        MemoryUse {
            held: fixed + self.results.held_bytes(),
            fixed,
            spilled: self.results.spilled_bytes(),
        }
    }

    fn reader(&self) -> Reader<'_> {
        let store = self.memory.as_ref().map(|memory| &*memory.store);
        self.results.reader(store)
    }

    /// The rules by which outcomes count.
    pub fn rules(&self) -> &CountingRules {
        &self.rules
    }

    /// The number of jobs of the run.
    pub fn jobs(&self) -> u64 {
        self.lines.len()
    }

    /// The number of jobs without an outcome.
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

    /// Records the outcomes of a batch that no earlier verdict covers. Contradictions are appended to
    /// `conflicts`, until that has 1,000 of them; the outcome that came first stays.
    ///
    /// # Errors
    /// When a spilled result that is contradicted cannot be read back.
    pub fn record(
        &mut self,
        batch: &OutcomeBatch,
        conflicts: &mut Vec<Conflict>,
    ) -> Result<Recorded, SpillError> {
        self.record_in(self.rules.last_tier(), batch, conflicts, |_, _| {})
    }

    /// Records the outcomes of a batch of this tier, as [`record`](Self::record) does; `changed` is
    /// given each job's index with what its outcome changed.
    ///
    /// # Errors
    /// Those of [`record`](Self::record).
    pub fn record_in(
        &mut self,
        tier: Tier,
        batch: &OutcomeBatch,
        conflicts: &mut Vec<Conflict>,
        mut changed: impl FnMut(u64, Change),
    ) -> Result<Recorded, SpillError> {
        let label_sets = batch.label_sets().iter();
        let ids: Vec<u32> = label_sets
            .map(|labels| self.labels.intern(labels))
            .collect();
        let origin = Origin {
            tier,
            generation: batch.generation(),
        };
        let mut recorded = Recorded::default();
        for job in batch.outcomes() {
            let change = self.record_one(&job, ids[job.label_position], origin)?;
            if change == Change::Conflict && conflicts.len() < MAX_CONFLICTS {
                conflicts.push(self.conflict(&job)?);
            }
            recorded.add(change);
            changed(job.index, change);
        }
        Ok(recorded)
    }

    // Every outcome goes through here, and to hand it over would cost about what is done.
    #[inline(always)]
    fn record_one(
        &mut self,
        job: &JobOutcome<'_>,
        label_set: u32,
        origin: Origin,
    ) -> Result<Change, SpillError> {
        let Some(line) = self.lines.get_mut(job.index) else {
            return Ok(Change::OutOfRange);
        };
        let mut reported = Line {
            state: State::DeadLettered,
            tier: origin.tier,
            label_set,
            time: job.key.time.map_or(NO_TIME, TimeBucket::seconds),
            part: job.part,
            weight: job.weight,
            payload_digest: job.payload_digest,
            result: Stored::default(),
        };
        let weight = u64::from(job.weight);
        let before = line.state;
        if before != State::Missing && !line.is_of_same_job(&reported) {
            return Ok(Change::Conflict);
        }
        match job.outcome {
            Outcome::Completed(result) if before.is_completed() => {
                self.record_further(job.index, origin.tier, result)
            }
            Outcome::Completed(result) => {
                reported.state = State::Completed;
                reported.result = self.results.store(result);
                *line = reported;
                self.totals.completed += 1;
                self.totals.weight_completed += weight;
                if before != State::DeadLettered {
                    return Ok(Change::New);
                }
                self.totals.dead_lettered -= 1;
                self.totals.weight_dead_lettered -= weight;
                self.remove_dead(job.index);
                Ok(Change::Replaced)
            }
            Outcome::DeadLettered { .. }
                if origin.generation < self.rules.reopened_in(job.index) =>
            {
                if before == State::Missing {
                    reported.state = State::Reopened;
                    *line = reported;
                }
                Ok(Change::Outdated)
            }
            Outcome::DeadLettered { .. } if before.has_outcome() => Ok(Change::Duplicate),
            Outcome::DeadLettered { reason, attempts } => {
                *line = reported;
                self.totals.dead_lettered += 1;
                self.totals.weight_dead_lettered += weight;
                self.dead_bytes += DEAD_JOB_BYTES + reason.len();
                let reason = reason.to_owned();
                self.dead.insert(job.index, DeadJob { reason, attempts });
                Ok(Change::New)
            }
        }
    }

    /// Records a further result of a job that has one. Its weight is the same, so what is replaced
    /// changes no sum; its bytes stay in the arena, which only grows.
    fn record_further(
        &mut self,
        index: u64,
        tier: Tier,
        result: &[u8],
    ) -> Result<Change, SpillError> {
        let store = self.memory.as_ref().map(|memory| &*memory.store);
        let Some(line) = self.lines.get_mut(index) else {
            return Ok(Change::OutOfRange);
        };
        if self.results.is_equal(&line.result, result) {
            // As early as the earliest with these bytes.
            line.tier = line.tier.min(tier);
            return Ok(Change::Duplicate);
        }
        if self.rules.policy() == ResultsPolicy::Reproducible {
            return Ok(Change::Conflict);
        }
        if line.state != State::Differing {
            line.state = State::Differing;
            self.totals.differing += 1;
        }
        let mut reader = self.results.reader(store);
        if (line.tier, reader.read(&line.result)?) < (tier, result) {
            return Ok(Change::Duplicate);
        }
        line.tier = tier;
        line.result = self.results.store(result);
        Ok(Change::Replaced)
    }

    fn remove_dead(&mut self, index: u64) {
        if let Some(dead) = self.dead.remove(&index) {
            self.dead_bytes -= DEAD_JOB_BYTES + dead.reason.len();
        }
    }

    /// The words for an outcome that contradicts the one that is there.
    fn conflict(&self, job: &JobOutcome<'_>) -> Result<Conflict, SpillError> {
        let dead_lettered = |reason: &str| format!("dead-lettered ({})", shown([reason]));
        let kept_outcome = match self.dead.get(&job.index) {
            Some(dead) => dead_lettered(&dead.reason),
            None => {
                let result = self.result(job.index)?.unwrap_or_default();
                Outcome::Completed(&result).to_string()
            }
        };
        let other_outcome = match job.outcome {
            Outcome::Completed(_) => job.outcome.to_string(),
            Outcome::DeadLettered { reason, .. } => dead_lettered(reason),
        };
        let kept = self.lines.get(job.index).map(|line| {
            let described = described(
                self.labels.get(line.label_set).values(),
                time_of(line.time),
                (line.part, line.weight, line.payload_digest),
            );
            format!("{described} {kept_outcome}")
        });
        let other = described(
            job.key.labels.values.iter().map(String::as_str),
            job.key.time,
            (job.part, job.weight, job.payload_digest),
        );
        Ok(Conflict {
            index: job.index,
            kept: kept.unwrap_or_default(),
            other: format!("{other} {other_outcome}"),
        })
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

    /// The lowest indexes of jobs with several results that differ, `at_most` of them.
    pub fn first_differing(&self, at_most: usize) -> Vec<u64> {
        let lines = self.lines.known();
        let differing = lines.filter(|(_, line)| line.state == State::Differing);
        differing.map(|(index, _)| index).take(at_most).collect()
    }

    /// A job that has an outcome.
    pub fn describe(&self, index: u64) -> Option<KnownJob<'_>> {
        self.lines.get(index).map(|line| self.known_job(line))
    }

    /// The jobs of which a dead letter was read that does not count any more, and no outcome that does,
    /// by index.
    pub fn reopened(&self) -> impl Iterator<Item = (u64, KnownJob<'_>)> {
        let lines = self.lines.reopened();
        lines.map(|(index, line)| (index, self.known_job(line)))
    }

    fn known_job(&self, line: &Line) -> KnownJob<'_> {
        KnownJob {
            labels: self.labels.get(line.label_set),
            time: time_of(line.time),
            part: line.part,
            weight: line.weight,
            payload_digest: line.payload_digest,
        }
    }

    /// The result of a job that was completed.
    ///
    /// # Errors
    /// When it was spilled and cannot be read back.
    pub fn result(&self, index: u64) -> Result<Option<Vec<u8>>, SpillError> {
        let line = self.lines.get(index);
        let Some(line) = line.filter(|line| line.state.is_completed()) else {
            return Ok(None);
        };
        let mut reader = self.reader();
        let result = reader.read(&line.result)?;
        Ok(Some(result.to_vec()))
    }

    /// Hands over the weights and results of all jobs that were completed, in index order.
    ///
    /// # Errors
    /// When spilled results cannot be read back.
    #[inline]
    pub fn for_each_completed(&self, mut visit: impl FnMut(u32, &[u8])) -> Result<(), SpillError> {
        let mut reader = self.reader();
        self.lines.for_each(|_, line| {
            if line.state.is_completed() {
                visit(line.weight, reader.read(&line.result)?);
            }
            Ok(())
        })
    }

    /// The digest of the jobs as their outcomes describe them; `None` while one is missing.
    pub fn job_set_digest(&self) -> Option<JobSetDigest> {
        if self.missing() > 0 {
            return None;
        }
        let mut hasher = JobSetHasher::new();
        let Ok(()) = self.lines.for_each(|index, line| {
            let labels = self.labels.get(line.label_set);
            let rest = (line.part, line.weight, line.payload_digest);
            hasher.update_with(index, labels, time_of(line.time), rest);
            Ok::<_, Infallible>(())
        });
        Some(hasher.finish())
    }

    /// The outcomes by group.
    pub fn groups(&self) -> Groups<'_> {
        Groups::new(self)
    }
}

/// What an outcome says of its job, for people: part, weight and payload digest are the numbers.
fn described<'a>(
    labels: impl Iterator<Item = &'a str>,
    time: Option<TimeBucket>,
    (part, weight, digest): (u32, u32, u64),
) -> String {
    let time = time.map_or(String::new(), |time| format!("time {}, ", time.seconds()));
    let labels = shown(labels);
    format!("({labels}, {time}part {part}, {weight} rows, payload {digest:016x})")
}

/// The first characters of texts, one after the other.
fn shown<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut characters = texts.into_iter().enumerate().flat_map(|(number, text)| {
        let before = if number == 0 { "" } else { ", " };
        before.chars().chain(text.chars())
    });
    let mut shown: String = characters.by_ref().take(SHOWN_CHARACTERS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}
