//! What becomes of a job, and the batch in which outcomes travel from workers to the aggregator.

use std::fmt;

use prost::Message;
use serde::Serialize;

use crate::error::DecodeError;
use crate::generation::checked_generation;
use crate::group_key::GroupKey;
use crate::job::{Job, checked_time, in_range};
use crate::label_runs;
use crate::run_id::RunId;
use crate::wire;

pub use crate::wire::{DeadLetter, Worker};

/// What a worker makes of a job. The rate is not divided here: integers add up without loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many tests there were.
    pub tests: u32,
    /// How many of them were positive.
    pub positive: u32,
}

impl Tally {
    /// The bytes of the result, by which those of one job are ordered.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.tests.to_le_bytes());
        bytes[4..].copy_from_slice(&self.positive.to_le_bytes());
        bytes
    }
}

/// The outcome of a job. A dead letter is outranked by a tally: see [`crate::ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The job failed as often as it was allowed to.
    DeadLettered {
        /// Why, in the worker's words.
        reason: &'a str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The job was done.
    Counted(Tally),
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadLettered { reason, .. } => write!(f, "dead-lettered ({reason})"),
            Self::Counted(tally) => {
                write!(
                    f,
                    "counted ({} positive of {})",
                    tally.positive, tally.tests
                )
            }
        }
    }
}

/// One outcome of a batch, with what it says of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobOutcome<'a> {
    /// The job's index.
    pub index: u64,
    /// Where the job's labels stand in [`OutcomeBatch::label_sets`].
    pub label_position: usize,
    /// The job's key.
    pub key: GroupKey<'a>,
    /// The job's part.
    pub part: u32,
    /// The job's rows.
    pub rows: u32,
    /// What became of it.
    pub outcome: Outcome<'a>,
}

/// Outcomes of jobs of one run, from one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct OutcomeBatch {
    wire: wire::OutcomeBatch,
    run_id: RunId,
    worker: Worker,
}

impl OutcomeBatch {
    /// Reads and checks a batch.
    ///
    /// # Errors
    /// When the bytes are no `OutcomeBatch`, or when its columns do not fit together.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut wire =
            wire::OutcomeBatch::decode(bytes).map_err(|source| DecodeError::Protobuf {
                message: "OutcomeBatch",
                source,
            })?;
        let invalid = |what| DecodeError::Invalid {
            message: "OutcomeBatch",
            what,
        };
        let run_id = wire
            .run_id
            .parse()
            .map_err(|_| invalid("the run id is none"))?;
        let worker = wire.worker.take().ok_or(invalid("it names no worker"))?;
        let jobs = wire.rows.len();
        let lengths = [&wire.parts, &wire.tests, &wire.positive].map(Vec::len);
        if lengths != [jobs; 3] || wire.times.len() != jobs {
            return Err(invalid("its columns differ in length"));
        }
        if !label_runs::cover(&wire.label_sets, &wire.label_set_jobs, jobs) {
            return Err(invalid("its runs of labels do not cover its jobs"));
        }
        let run_lengths = wire.run_lengths.iter().map(|&length| u64::from(length));
        if wire.run_starts.len() != wire.run_lengths.len()
            || wire.run_lengths.contains(&0)
            || run_lengths.clone().sum::<u64>() != jobs as u64
        {
            return Err(invalid("its runs of indexes do not cover its jobs"));
        }
        if wire
            .run_starts
            .iter()
            .zip(run_lengths)
            .any(|(start, length)| start.checked_add(length).is_none())
        {
            return Err(invalid("its job indexes overflow"));
        }
        if !wire.times.iter().all(|&hours| in_range(hours)) {
            return Err(invalid("it has a time out of range"));
        }
        let positions = || wire.dead_letters.iter().map(|dead| dead.position);
        if !positions().is_sorted_by(|a, b| a < b)
            || positions().any(|position| position as usize >= jobs)
        {
            return Err(invalid("its dead letters are out of order"));
        }
        checked_generation("OutcomeBatch", wire.generation, 0)?;
        Ok(Self {
            wire,
            run_id,
            worker,
        })
    }

    /// The run that the jobs belong to.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// The generation of the jobs.
    pub fn generation(&self) -> u32 {
        self.wire.generation
    }

    /// Who did the work.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Attempts beyond the first that these jobs took.
    pub fn retries(&self) -> u32 {
        self.wire.retries
    }

    /// The label sets of the jobs; [`JobOutcome::label_position`] points into them.
    pub fn label_sets(&self) -> &[crate::LabelSet] {
        &self.wire.label_sets
    }

    /// How many outcomes there are.
    pub fn len(&self) -> usize {
        self.wire.rows.len()
    }

    /// Whether there are no outcomes.
    pub fn is_empty(&self) -> bool {
        self.wire.rows.is_empty()
    }

    /// The outcomes, run of indexes by run of indexes.
    pub fn outcomes(&self) -> impl Iterator<Item = JobOutcome<'_>> {
        let wire = &self.wire;
        let mut labels = label_runs::Positions::new(&wire.label_set_jobs);
        let mut dead_letters = wire.dead_letters.iter().peekable();
        let indexes = wire
            .run_starts
            .iter()
            .zip(&wire.run_lengths)
            .flat_map(|(&start, &length)| start..start + u64::from(length));
        indexes.enumerate().map(move |(position, index)| {
            let dead = dead_letters.next_if(|dead| dead.position as usize == position);
            let label_position = labels.advance();
            JobOutcome {
                index,
                label_position,
                key: GroupKey {
                    labels: &wire.label_sets[label_position],
                    time: checked_time(wire.times[position]),
                },
                part: wire.parts[position],
                rows: wire.rows[position],
                outcome: match dead {
                    Some(dead) => Outcome::DeadLettered {
                        reason: &dead.reason,
                        attempts: dead.attempts,
                    },
                    None => Outcome::Counted(Tally {
                        tests: wire.tests[position],
                        positive: wire.positive[position],
                    }),
                },
            }
        })
    }
}

/// Fills a batch with outcomes.
#[derive(Clone, Debug)]
pub struct OutcomeBatchBuilder {
    wire: wire::OutcomeBatch,
    /// An upper bound of what the batch takes.
    bytes: usize,
}

/// What an outcome takes of a message beside its labels and reason, at most: its columns, and a run
/// of indexes of its own.
const COLUMN_BYTES: usize = 4 + 4 * 5 + 15;

/// What a dead letter takes beside its reason, at most.
const DEAD_LETTER_BYTES: usize = 24;

/// What a batch takes beside its outcomes and names, at most.
const FRAME_BYTES: usize = 96;

impl OutcomeBatchBuilder {
    /// An empty batch for jobs of one run, from one worker.
    pub fn new(run_id: &RunId, worker: &Worker) -> Self {
        Self {
            wire: wire::OutcomeBatch {
                run_id: run_id.to_string(),
                worker: Some(worker.clone()),
                ..Default::default()
            },
            bytes: FRAME_BYTES + run_id.as_str().len() + worker.host.len() + worker.id.len(),
        }
    }

    /// Makes it a batch for jobs of this generation.
    pub fn in_generation(mut self, generation: u32) -> Self {
        self.wire.generation = generation;
        self
    }

    /// The generation of the jobs.
    pub fn generation(&self) -> u32 {
        self.wire.generation
    }

    /// Adds the outcome of a job.
    pub fn push(&mut self, job: &Job<'_>, outcome: Outcome<'_>) {
        let wire = &mut self.wire;
        match (wire.run_starts.last(), wire.run_lengths.last_mut()) {
            (Some(start), Some(length)) if start + u64::from(*length) == job.index => *length += 1,
            _ => {
                wire.run_starts.push(job.index);
                wire.run_lengths.push(1);
            }
        }
        self.bytes += COLUMN_BYTES;
        self.bytes += label_runs::push(
            &mut wire.label_sets,
            &mut wire.label_set_jobs,
            job.key.labels,
        );
        wire.times.push(job.key.time.hours());
        wire.parts.push(job.part);
        let tally = match outcome {
            Outcome::Counted(tally) => tally,
            Outcome::DeadLettered { reason, attempts } => {
                self.bytes += DEAD_LETTER_BYTES + reason.len();
                wire.dead_letters.push(DeadLetter {
                    position: wire.rows.len() as u32,
                    reason: reason.to_owned(),
                    attempts,
                });
                Tally::default()
            }
        };
        wire.rows.push(job.rows());
        wire.tests.push(tally.tests);
        wire.positive.push(tally.positive);
    }

    /// Notes attempts beyond the first.
    pub fn add_retries(&mut self, retries: u32) {
        self.wire.retries = self.wire.retries.saturating_add(retries);
    }

    /// How many outcomes the batch has.
    pub fn len(&self) -> usize {
        self.wire.rows.len()
    }

    /// Whether the batch has no outcomes.
    pub fn is_empty(&self) -> bool {
        self.wire.rows.is_empty()
    }

    /// How many bytes the batch takes as a message, at most.
    pub fn bytes_bound(&self) -> usize {
        self.bytes
    }

    /// The batch as the value of a message.
    pub fn encode(&self) -> Vec<u8> {
        self.wire.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::tests::{OwnedJob, any_job};

    fn worker() -> Worker {
        Worker {
            host: "a-host".to_owned(),
            id: "worker-1".to_owned(),
        }
    }

    fn outcome_of(job: &OwnedJob, dead: bool) -> Outcome<'static> {
        if dead {
            Outcome::DeadLettered {
                reason: "it is broken",
                attempts: 3,
            }
        } else {
            Outcome::Counted(Tally {
                tests: job.results.len() as u32,
                positive: job.results.iter().map(|&result| u32::from(result)).sum(),
            })
        }
    }

    fn encode(jobs: &[(u64, OwnedJob, bool)]) -> Vec<u8> {
        let mut builder = OutcomeBatchBuilder::new(&"a-run".parse().expect("a run id"), &worker());
        for (index, job, dead) in jobs {
            builder.push(&job.at(*index), outcome_of(job, *dead));
        }
        builder.add_retries(2);
        let (bytes, bound) = (builder.encode(), builder.bytes_bound());
        assert!(bytes.len() <= bound, "{} > {bound}", bytes.len());
        bytes
    }

    proptest! {
        #[test]
        fn what_is_built_is_decoded(
            jobs in prop::collection::vec((0u64..60, any_job(), any::<bool>()), 0..60),
        ) {
            let batch = OutcomeBatch::decode(&encode(&jobs)).expect("a valid batch");
            prop_assert_eq!(batch.worker(), &worker());
            prop_assert_eq!(batch.retries(), 2);
            prop_assert_eq!(batch.len(), jobs.len());
            let mut outcomes = batch.outcomes();
            for (index, job, dead) in &jobs {
                let outcome = outcomes.next().expect("as many as were pushed");
                prop_assert_eq!(outcome.index, *index);
                prop_assert_eq!(outcome.key, job.at(*index).key);
                prop_assert_eq!(&batch.label_sets()[outcome.label_position], &job.labels);
                prop_assert_eq!(outcome.part, job.part);
                prop_assert_eq!(outcome.rows as usize, job.results.len());
                prop_assert_eq!(outcome.outcome, outcome_of(job, *dead));
            }
            prop_assert!(outcomes.next().is_none());
        }

        #[test]
        fn changed_bytes_never_panic(
            jobs in prop::collection::vec((0u64..60, any_job(), any::<bool>()), 1..8),
            at in 0usize..600,
            byte in any::<u8>(),
        ) {
            let mut bytes = encode(&jobs);
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(batch) = OutcomeBatch::decode(&bytes) {
                prop_assert_eq!(batch.outcomes().count(), batch.len());
            }
        }
    }

    #[test]
    fn columns_that_do_not_fit_together_are_refused() {
        let whole = wire::OutcomeBatch {
            run_id: "a-run".to_owned(),
            worker: Some(worker()),
            run_starts: vec![4, 9],
            run_lengths: vec![1, 1],
            label_sets: vec![crate::LabelSet::new(["x"])],
            label_set_jobs: vec![2],
            times: vec![0, 1],
            parts: vec![0, 0],
            rows: vec![1, 2],
            tests: vec![1, 2],
            positive: vec![0, 2],
            dead_letters: Vec::new(),
            generation: 0,
            retries: 0,
        };
        assert!(OutcomeBatch::decode(&whole.encode_to_vec()).is_ok());
        let dead = |position| DeadLetter {
            position,
            ..Default::default()
        };
        let broken: [&dyn Fn(&mut wire::OutcomeBatch); 9] = [
            &|batch| batch.worker = None,
            &|batch| batch.run_id = "a/b".to_owned(),
            &|batch| batch.tests.truncate(1),
            &|batch| batch.run_lengths = vec![1, 2],
            &|batch| batch.run_lengths = vec![2, 0],
            &|batch| batch.run_starts[1] = u64::MAX,
            &|batch| batch.times[1] = i32::MIN,
            &|batch| batch.dead_letters = vec![dead(2)],
            &|batch| batch.dead_letters = vec![dead(1), dead(0)],
        ];
        for (case, break_it) in broken.into_iter().enumerate() {
            let mut batch = whole.clone();
            break_it(&mut batch);
            assert!(
                OutcomeBatch::decode(&batch.encode_to_vec()).is_err(),
                "case {case}"
            );
        }
    }
}
