//! The resumption of a run: the plan of a dispatcher, given the run's events, and the missing jobs,
//! given the messages on the other topics. Pure: the caller reads the topics.

use crate::difference::{Difference, shown};
use crate::generation::IndexRanges;
use crate::grain::TimeBucket;
use crate::job::{Job, JobBatch};
use crate::ledger::counting::CountingRules;
use crate::offsets::of_partition;
use crate::outcome::{Outcome, OutcomeBatch};
use crate::run::{ResultsPolicy, RunOptions};
use crate::run_history::RunHistory;
use crate::run_id::RunId;
use crate::timeline::Timeline;

/// One dispatcher's attempt at a run.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The options of the dispatcher.
    pub options: &'a RunOptions,
    /// Whether its data set can be read a second time; standard input cannot.
    pub is_rereadable: bool,
    /// Whether one of the openings on the runs topic is its own.
    pub has_opened: bool,
}

/// The plan of a dispatcher for its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// No dispatcher has opened the run: open it, read the runs topic again, and plan again.
    Open,
    /// Only this dispatcher has opened the run: publish all jobs, without reading the other topics.
    PublishAll,
    /// Another dispatcher has opened the run: read the other topics, and publish the missing jobs.
    GoOn,
    /// All jobs are published: compare them with the data set.
    Compare,
}

/// The reason for which a dispatcher publishes nothing of its run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The run exists, and standard input gives its rows once.
    #[error(
        "run {run_id} exists, and standard input cannot be read again to take it up: dispatch a \
         file, or choose another --run-id"
    )]
    StandardInput {
        /// The run.
        run_id: RunId,
    },

    /// The run exists with other options, jobs or manifest.
    #[error("run {run_id} exists and is not this one: {difference}; choose another --run-id")]
    Differs {
        /// The run.
        run_id: RunId,
        /// The first mismatch.
        difference: Difference,
    },
}

impl Refusal {
    /// The run differs from what this dispatcher has.
    pub fn differs(run_id: &RunId, difference: Difference) -> Self {
        Self::Differs {
            run_id: run_id.clone(),
            difference,
        }
    }
}

/// The plan of a dispatcher for a run with this history.
///
/// # Errors
/// When the dispatcher cannot resume the run; it then has to publish nothing.
pub fn plan(history: &RunHistory, attempt: &Attempt<'_>) -> Result<Plan, Refusal> {
    let Some(opened) = history.opened() else {
        return Ok(Plan::Open);
    };
    if let Some(difference) = Difference::of_options(attempt.options, &opened.options) {
        return Err(Refusal::differs(history.run_id(), difference));
    }
    // One that has opened the run itself holds its rows already.
    if !attempt.is_rereadable && !attempt.has_opened {
        return Err(Refusal::StandardInput {
            run_id: history.run_id().clone(),
        });
    }
    Ok(match history.manifest() {
        Some(_) => Plan::Compare,
        None if attempt.has_opened && history.openings() == 1 => Plan::PublishAll,
        None => Plan::GoOn,
    })
}

/// The rule by which a job is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A job is missing if it is not on the jobs topic.
    NeverPublished,
    /// Those without an outcome, unless a copy on the jobs topic is still to be worked on, of the
    /// generation that last opened the job again or a later one.
    ///
    /// The committed offsets have to be fetched before the topics are read, because a worker has an
    /// outcome acknowledged before it commits the job's offset. So a copy below a committed offset
    /// without an outcome on the topic, which is read afterwards, was skipped and never gets one. With
    /// offsets that are fetched later, jobs that were computed meanwhile would be published again.
    WithoutOutcome {
        /// The committed offset of the workers' group, by partition of the jobs topic; 0 where none is
        /// committed.
        committed: Vec<i64>,
    },
}

/// A copy of the job was on the jobs topic.
const PUBLISHED: u8 = 1;
/// One of its copies is still to be worked on.
const WAITING: u8 = 2;
/// The job has an outcome.
const HAS_OUTCOME: u8 = 4;

/// Bits of a fingerprint that are of the job's key and part alone.
const KEY_BITS: u32 = 24;

/// The state of the jobs of one run on its topics, which decides the missing jobs.
///
/// Takes nine bytes a job, by the dispatcher's own number of jobs: an index from a topic sizes no
/// memory.
#[derive(Clone, Debug)]
pub struct Resume {
    run_id: RunId,
    rule: Rule,
    fingerprints: Vec<u64>,
    marks: Vec<u8>,
    difference: Option<Difference>,
    messages: u64,
    rules: CountingRules,
    cancelled_up_to: Option<u32>,
}

impl Resume {
    /// The state before any message, of a run with this number of jobs in the dispatcher's data set;
    /// `None` when memory has no room for them.
    pub fn new(run_id: &RunId, jobs: u64, rule: Rule) -> Option<Self> {
        let jobs = usize::try_from(jobs).ok()?;
        let mut fingerprints = Vec::new();
        fingerprints.try_reserve_exact(jobs).ok()?;
        fingerprints.resize(jobs, 0);
        let mut marks = Vec::new();
        marks.try_reserve_exact(jobs).ok()?;
        marks.resize(jobs, 0);
        Some(Self {
            run_id: run_id.clone(),
            rule,
            fingerprints,
            marks,
            difference: None,
            messages: 0,
            rules: CountingRules::default(),
            cancelled_up_to: None,
        })
    }

    /// Has outcomes count as in the newest generation of the run, and no copy wait that workers pass
    /// over because its generation is cancelled.
    pub fn in_generation_of(mut self, timeline: &Timeline<'_>) -> Self {
        // Which of several results counts is not looked at here.
        self.rules = CountingRules::of(ResultsPolicy::Any, timeline);
        self.cancelled_up_to = timeline.cancelled_up_to();
        self
    }

    /// Applies a message of the jobs topic. Messages of other runs are ignored.
    pub fn apply_published(&mut self, partition: i32, offset: i64, batch: &JobBatch) {
        if *batch.run_id() != self.run_id {
            return;
        }
        self.messages += 1;
        let mark = match &self.rule {
            Rule::NeverPublished => PUBLISHED,
            Rule::WithoutOutcome { committed } => {
                let cancelled = self.cancelled_up_to;
                let is_cancelled = cancelled.is_some_and(|up_to| batch.generation() <= up_to);
                match of_partition(committed, partition) {
                    Some(committed) if offset < committed => PUBLISHED,
                    _ if is_cancelled => PUBLISHED,
                    _ => PUBLISHED | WAITING,
                }
            }
        };
        for job in batch.jobs() {
            let Some(own) = self.position(job.index) else {
                self.beyond(job.index, || shown(job.key));
                continue;
            };
            // Should the copy die, its dead letter would not count: its job was opened again since.
            let is_outdated = batch.generation() < self.rules.reopened_in(job.index);
            let mark = if is_outdated { PUBLISHED } else { mark };
            let fingerprint = fingerprint(&job);
            if self.marks[own] & PUBLISHED != 0 && self.fingerprints[own] != fingerprint {
                self.difference.get_or_insert_with(|| Difference::Twice {
                    index: job.index,
                    key: shown(job.key),
                });
            }
            self.fingerprints[own] = fingerprint;
            self.marks[own] |= mark;
        }
    }

    /// Applies outcomes. Those of other runs are ignored.
    pub fn apply_outcomes(&mut self, batch: &OutcomeBatch) {
        if *batch.run_id() != self.run_id {
            return;
        }
        for outcome in batch.outcomes() {
            let is_dead = matches!(outcome.outcome, Outcome::DeadLettered { .. });
            if is_dead && batch.generation() < self.rules.reopened_in(outcome.index) {
                continue;
            }
            match self.position(outcome.index) {
                Some(own) => self.marks[own] |= HAS_OUTCOME,
                None => self.beyond(outcome.index, || shown(outcome.key)),
            }
        }
    }

    fn position(&self, index: u64) -> Option<usize> {
        let own = usize::try_from(index).ok()?;
        (own < self.marks.len()).then_some(own)
    }

    fn beyond(&mut self, index: u64, key: impl FnOnce() -> String) {
        let jobs = self.marks.len() as u64;
        self.difference.get_or_insert_with(|| Difference::Beyond {
            index,
            key: key(),
            jobs,
        });
    }

    /// Compares one of the dispatcher's own jobs with the published one of its index. The caller does
    /// so for every job before it publishes the first.
    ///
    /// # Errors
    /// When the run has another job of this index, or a published job cannot be of this data set.
    pub fn check(&self, job: &Job<'_>) -> Result<(), Difference> {
        if let Some(difference) = &self.difference {
            return Err(difference.clone());
        }
        let Some(own) = self.position(job.index) else {
            return Ok(());
        };
        if self.marks[own] & PUBLISHED == 0 {
            return Ok(());
        }
        let (published, now) = (self.fingerprints[own], fingerprint(job));
        if published == now {
            return Ok(());
        }
        let same_key = published >> (u64::BITS - KEY_BITS) == now >> (u64::BITS - KEY_BITS);
        Err(Difference::Job {
            index: job.index,
            key: shown(job.key),
            what: if same_key {
                "other rows"
            } else {
                "another key"
            },
        })
    }

    /// The indexes of the jobs to publish now.
    pub fn missing_jobs(&self) -> IndexRanges {
        let indexes = 0..self.marks.len() as u64;
        IndexRanges::of_ascending(indexes.filter(|&index| self.is_missing(index)))
    }

    /// Whether a job has to be published now.
    pub fn is_missing(&self, index: u64) -> bool {
        let present = match self.rule {
            Rule::NeverPublished => PUBLISHED,
            Rule::WithoutOutcome { .. } => WAITING | HAS_OUTCOME,
        };
        self.position(index)
            .is_some_and(|own| self.marks[own] & present == 0)
    }

    /// The number of jobs to publish now.
    pub fn missing(&self) -> u64 {
        let indexes = 0..self.marks.len() as u64;
        indexes.filter(|&index| self.is_missing(index)).count() as u64
    }

    /// The number of jobs that are left to the workers, with a copy that is still to be computed and no
    /// outcome yet. Always 0 with [`Rule::NeverPublished`].
    pub fn waiting(&self) -> u64 {
        let waiting = |mark: &&u8| **mark & (WAITING | HAS_OUTCOME) == WAITING;
        self.marks.iter().filter(waiting).count() as u64
    }

    /// The number of messages of the run on the jobs topic.
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

/// What a job is, in 64 bits of BLAKE3: the upper [`KEY_BITS`] of its key and part, the others of
/// its weight, its payload and all that.
fn fingerprint(job: &Job<'_>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    // Lengths come first, so that no two jobs are written the same way.
    hasher.update(&(job.key.labels.values.len() as u64).to_le_bytes());
    for value in &job.key.labels.values {
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(value.as_bytes());
    }
    // No time is not the time of any bucket.
    let time = job.key.time.map_or(i64::MIN, TimeBucket::seconds);
    hasher.update(&time.to_le_bytes());
    hasher.update(&job.part.to_le_bytes());
    let of_key = first_bits(&hasher);
    hasher.update(&job.weight.to_le_bytes());
    hasher.update(&(job.payload.len() as u64).to_le_bytes());
    hasher.update(job.payload);
    let of_all = first_bits(&hasher);
    let key_mask = !(u64::MAX >> KEY_BITS);
    (of_key & key_mask) | (of_all & !key_mask)
}

fn first_bits(hasher: &blake3::Hasher) -> u64 {
    let mut bits = [0; 8];
    hasher.finalize_xof().fill(&mut bits);
    u64::from_le_bytes(bits)
}

#[cfg(test)]
mod tests;
