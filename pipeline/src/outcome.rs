//! What becomes of a job, and the batch in which outcomes travel from workers to the aggregator.

use std::fmt;

use prost::Message;

use crate::error::DecodeError;
use crate::generation::checked_generation;
use crate::group_key::GroupKey;
use crate::job::{Job, checked_time, in_range};
use crate::label_runs;
use crate::run_id::RunId;
use crate::wire;

pub use crate::wire::{DeadLetter, Worker};

/// A result has at most this many bytes, which is half of what a message can have.
pub const MAX_RESULT_BYTES: usize = 500_000;

/// The outcome of a job. A completed one outranks a dead letter: see [`crate::ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The job failed as often as it was allowed to.
    DeadLettered {
        /// Why, in the worker's words.
        reason: &'a str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The job was done, and these bytes are its result.
    Completed(&'a [u8]),
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A result is shown up to this many bytes.
        const SHOWN_BYTES: usize = 16;
        match self {
            Self::DeadLettered { reason, .. } => write!(f, "dead-lettered ({reason})"),
            Self::Completed(result) => {
                write!(f, "completed ({} bytes", result.len())?;
                let shown = &result[..result.len().min(SHOWN_BYTES)];
                for (number, byte) in shown.iter().enumerate() {
                    let before = if number == 0 { ": " } else { " " };
                    write!(f, "{before}{byte:02x}")?;
                }
                let more = if result.len() > SHOWN_BYTES {
                    " …"
                } else {
                    ""
                };
                write!(f, "{more})")
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
    /// The job's weight.
    pub weight: u32,
    /// The digest of the payload that the computation was given.
    pub payload_digest: u64,
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
        let run_id = wire.run_id.parse();
        let run_id = run_id.map_err(|_| invalid("its run id is invalid"))?;
        let worker = wire.worker.take().ok_or(invalid("it names no worker"))?;
        check(&wire)?;
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

    /// The generation of the run that the jobs were published in.
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
        self.wire.weights.len()
    }

    /// Whether there are no outcomes.
    pub fn is_empty(&self) -> bool {
        self.wire.weights.is_empty()
    }

    /// The outcomes, span of indexes by span of indexes.
    pub fn outcomes(&self) -> impl Iterator<Item = JobOutcome<'_>> {
        let wire = &self.wire;
        let mut labels = label_runs::Positions::new(&wire.label_set_jobs);
        let mut dead_letters = wire.dead_letters.iter().peekable();
        let mut results = wire.results.as_slice();
        let common_length = match wire.result_lengths.as_slice() {
            [] => Some(0),
            [length] => Some(*length),
            _ => None,
        };
        let spans = wire.span_starts.iter().zip(&wire.span_lengths);
        let indexes = spans.flat_map(|(&start, &length)| start..start + u64::from(length));
        indexes.enumerate().map(move |(position, index)| {
            let dead = dead_letters.next_if(|dead| dead.position as usize == position);
            let label_position = labels.advance();
            JobOutcome {
                index,
                label_position,
                key: GroupKey {
                    labels: &wire.label_sets[label_position],
                    time: checked_time(&wire.times, position),
                },
                part: wire.parts[position],
                weight: wire.weights[position],
                payload_digest: wire.payload_digests[position],
                outcome: match dead {
                    Some(dead) => Outcome::DeadLettered {
                        reason: &dead.reason,
                        attempts: dead.attempts,
                    },
                    None => {
                        let length = common_length.unwrap_or_else(|| wire.result_lengths[position]);
                        let (own, rest) = results.split_at(length as usize);
                        results = rest;
                        Outcome::Completed(own)
                    }
                },
            }
        })
    }
}

fn invalid(what: &'static str) -> DecodeError {
    DecodeError::Invalid {
        message: "OutcomeBatch",
        what,
    }
}

/// Whether the columns of a batch fit together.
fn check(wire: &wire::OutcomeBatch) -> Result<(), DecodeError> {
    let jobs = wire.weights.len();
    if wire.parts.len() != jobs
        || wire.payload_digests.len() != jobs
        || !(wire.times.is_empty() || wire.times.len() == jobs)
    {
        return Err(invalid("its columns differ in length"));
    }
    if !label_runs::cover(&wire.label_sets, &wire.label_set_jobs, jobs) {
        return Err(invalid("its spans of labels do not cover its jobs"));
    }
    let span_lengths = wire.span_lengths.iter().map(|&length| u64::from(length));
    if wire.span_starts.len() != wire.span_lengths.len()
        || wire.span_lengths.contains(&0)
        || span_lengths.clone().sum::<u64>() != jobs as u64
    {
        return Err(invalid("its spans of indexes do not cover its jobs"));
    }
    let mut spans = wire.span_starts.iter().zip(span_lengths);
    if spans.any(|(start, length)| start.checked_add(length).is_none()) {
        return Err(invalid("its job indexes overflow"));
    }
    if !wire.times.iter().all(|&seconds| in_range(seconds)) {
        return Err(invalid("it has a time out of range"));
    }
    let positions = || wire.dead_letters.iter().map(|dead| dead.position);
    if !positions().is_sorted_by(|a, b| a < b)
        || positions().any(|position| position as usize >= jobs)
    {
        return Err(invalid("its dead letters are out of order"));
    }
    checked_generation("OutcomeBatch", wire.generation, 0)?;
    check_results(wire)
}

/// Whether the results are as long as the lengths say. Dead letters are within the jobs.
fn check_results(wire: &wire::OutcomeBatch) -> Result<(), DecodeError> {
    let jobs = wire.weights.len();
    let bytes = match wire.result_lengths.as_slice() {
        [] => 0,
        // Both are at most the length of a message, so their product is in range.
        [length] => u64::from(*length) * (jobs - wire.dead_letters.len()) as u64,
        lengths if lengths.len() == jobs => {
            let mut of_dead = wire.dead_letters.iter();
            if of_dead.any(|dead| lengths[dead.position as usize] != 0) {
                return Err(invalid("it has a dead letter with a result"));
            }
            lengths.iter().map(|&length| u64::from(length)).sum()
        }
        _ => return Err(invalid("its columns differ in length")),
    };
    if bytes != wire.results.len() as u64 {
        return Err(invalid("its results are not as long as they should be"));
    }
    Ok(())
}

/// Fills a batch with outcomes.
#[derive(Clone, Debug)]
pub struct OutcomeBatchBuilder {
    wire: wire::OutcomeBatch,
    /// An upper bound of what the batch takes.
    bytes: usize,
}

/// What an outcome takes of a message beside its labels, result and reason, at most: its columns,
/// and a span of indexes of its own.
const COLUMN_BYTES: usize = 8 + 5 + 5 + 8 + 5 + 15;

/// What a dead letter takes beside its reason, at most.
const DEAD_LETTER_BYTES: usize = 24;

/// What a batch takes beside its outcomes and names, at most.
const FRAME_BYTES: usize = 128;

impl OutcomeBatchBuilder {
    /// An empty batch for jobs of one run that were published in this generation, from one worker.
    pub fn new(run_id: &RunId, generation: u32, worker: &Worker) -> Self {
        Self {
            wire: wire::OutcomeBatch {
                run_id: run_id.to_string(),
                generation,
                worker: Some(worker.clone()),
                ..Default::default()
            },
            bytes: FRAME_BYTES + run_id.as_str().len() + worker.host.len() + worker.id.len(),
        }
    }

    /// The generation that the jobs were published in.
    pub fn generation(&self) -> u32 {
        self.wire.generation
    }

    /// Adds the outcome of a job, with the [digest](crate::payload_digest) of the payload that the
    /// computation was given. Jobs of one run have all a time or none.
    pub fn push(&mut self, job: &Job<'_>, payload_digest: u64, outcome: Outcome<'_>) {
        let wire = &mut self.wire;
        match (wire.span_starts.last(), wire.span_lengths.last_mut()) {
            (Some(start), Some(length)) if start + u64::from(*length) == job.index => *length += 1,
            _ => {
                wire.span_starts.push(job.index);
                wire.span_lengths.push(1);
            }
        }
        self.bytes += COLUMN_BYTES;
        self.bytes += label_runs::push(
            &mut wire.label_sets,
            &mut wire.label_set_jobs,
            job.key.labels,
        );
        match outcome {
            Outcome::Completed(result) => {
                self.bytes += result.len();
                push_result(wire, result);
            }
            Outcome::DeadLettered { reason, attempts } => {
                self.bytes += DEAD_LETTER_BYTES + reason.len();
                if wire.result_lengths.len() > 1 {
                    wire.result_lengths.push(0);
                }
                wire.dead_letters.push(DeadLetter {
                    position: wire.weights.len() as u32,
                    reason: reason.to_owned(),
                    attempts,
                });
            }
        }
        if let Some(time) = job.key.time {
            wire.times.push(time.seconds());
        }
        wire.parts.push(job.part);
        wire.weights.push(job.weight);
        wire.payload_digests.push(payload_digest);
    }

    /// Notes attempts beyond the first.
    pub fn add_retries(&mut self, retries: u32) {
        self.wire.retries = self.wire.retries.saturating_add(retries);
    }

    /// How many outcomes the batch has.
    pub fn len(&self) -> usize {
        self.wire.weights.len()
    }

    /// Whether the batch has no outcomes.
    pub fn is_empty(&self) -> bool {
        self.wire.weights.is_empty()
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

/// Adds a result, before the other columns of its outcome. As long as all have the same length, it
/// stands there once.
fn push_result(wire: &mut wire::OutcomeBatch, result: &[u8]) {
    // A result is at most MAX_RESULT_BYTES long.
    let length = result.len() as u32;
    let outcomes = wire.weights.len();
    match wire.result_lengths.as_slice() {
        [common] if *common == length => {}
        // Only dead letters came before.
        [] => wire.result_lengths.push(length),
        &[common] => {
            wire.result_lengths.clear();
            wire.result_lengths.resize(outcomes, common);
            for dead in &wire.dead_letters {
                wire.result_lengths[dead.position as usize] = 0;
            }
            wire.result_lengths.push(length);
        }
        _ => wire.result_lengths.push(length),
    }
    wire.results.extend_from_slice(result);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::tests::{OwnedJob, any_jobs};
    use crate::payload_digest;

    fn worker() -> Worker {
        Worker {
            host: "a-host".to_owned(),
            id: "worker-1".to_owned(),
        }
    }

    /// A job, and its result unless it is dead.
    type Given = (OwnedJob, u64, Option<Vec<u8>>);

    /// Results that are all of one length, or of any.
    fn any_outcomes(number: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Given>> {
        let result = prop::option::of(prop::collection::vec(any::<u8>(), 0..12));
        let results = prop::collection::vec((0u64..60, result), number.end);
        (any_jobs(number), results, prop::option::of(0usize..4)).prop_map(
            |(jobs, results, common_length)| {
                let given = jobs.into_iter().zip(results);
                given
                    .map(|(job, (index, mut result))| {
                        if let (Some(result), Some(length)) = (&mut result, common_length) {
                            result.resize(length, 7);
                        }
                        (job, index, result)
                    })
                    .collect()
            },
        )
    }

    fn outcome_of(result: Option<&Vec<u8>>) -> Outcome<'_> {
        match result {
            Some(result) => Outcome::Completed(result),
            None => Outcome::DeadLettered {
                reason: "it is broken",
                attempts: 3,
            },
        }
    }

    fn encode(given: &[Given]) -> Vec<u8> {
        let run_id = "a-run".parse().expect("a run id");
        let mut builder = OutcomeBatchBuilder::new(&run_id, 5, &worker());
        for (job, index, result) in given {
            let digest = payload_digest(&job.payload);
            builder.push(&job.at(*index), digest, outcome_of(result.as_ref()));
        }
        builder.add_retries(2);
        let (bytes, bound) = (builder.encode(), builder.bytes_bound());
        assert!(bytes.len() <= bound, "{} > {bound}", bytes.len());
        bytes
    }

    proptest! {
        #[test]
        fn what_is_built_is_decoded(given in any_outcomes(0..60)) {
            let batch = OutcomeBatch::decode(&encode(&given)).expect("a valid batch");
            prop_assert_eq!(batch.worker(), &worker());
            prop_assert_eq!((batch.retries(), batch.generation()), (2, 5));
            prop_assert_eq!(batch.len(), given.len());
            let mut outcomes = batch.outcomes();
            for (job, index, result) in &given {
                let outcome = outcomes.next().expect("as many as were pushed");
                prop_assert_eq!(outcome.index, *index);
                prop_assert_eq!(outcome.key, job.at(*index).key);
                prop_assert_eq!(&batch.label_sets()[outcome.label_position], &job.labels);
                prop_assert_eq!(outcome.part, job.part);
                prop_assert_eq!(outcome.weight, job.weight);
                prop_assert_eq!(outcome.payload_digest, payload_digest(&job.payload));
                prop_assert_eq!(outcome.outcome, outcome_of(result.as_ref()));
            }
            prop_assert!(outcomes.next().is_none());
        }

        #[test]
        fn changed_bytes_never_panic(
            given in any_outcomes(1..8),
            at in 0usize..600,
            byte in any::<u8>(),
        ) {
            let mut bytes = encode(&given);
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(batch) = OutcomeBatch::decode(&bytes) {
                prop_assert_eq!(batch.outcomes().count(), batch.len());
            }
        }
    }

    #[test]
    fn results_of_one_length_take_no_column_beside_the_dead() {
        let job = OwnedJob {
            labels: crate::LabelSet::default(),
            time: None,
            part: 0,
            weight: 1,
            payload: vec![1],
        };
        let lengths = |results: &[Option<&[u8]>]| {
            let given: Vec<Given> = (0..)
                .zip(results)
                .map(|(index, result)| (job.clone(), index, result.map(<[u8]>::to_vec)))
                .collect();
            let batch = OutcomeBatch::decode(&encode(&given)).expect("a valid batch");
            batch.wire.result_lengths
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[None, None]), [0; 0]);
        assert_eq!(lengths(&[Some(b"")]), [0]);
        assert_eq!(lengths(&[None, Some(b"ab"), None, Some(b"cd")]), [2]);
        assert_eq!(
            lengths(&[Some(b"a"), None, Some(b"bc"), None]),
            [1, 0, 2, 0]
        );
    }

    #[test]
    fn an_outcome_is_shown_in_little_room() {
        let shown = |result: &[u8]| Outcome::Completed(result).to_string();
        assert_eq!(shown(&[]), "completed (0 bytes)");
        assert_eq!(shown(&[1, 255]), "completed (2 bytes: 01 ff)");
        assert!(shown(&[0; 99]).ends_with(" 00 …)"));
    }

    #[test]
    fn columns_that_do_not_fit_together_are_refused() {
        let whole = wire::OutcomeBatch {
            run_id: "a-run".to_owned(),
            worker: Some(worker()),
            span_starts: vec![4, 9],
            span_lengths: vec![1, 1],
            label_sets: vec![crate::LabelSet::new(["x"])],
            label_set_jobs: vec![2],
            times: vec![0, 1],
            parts: vec![0, 0],
            weights: vec![1, 2],
            payload_digests: vec![7, 8],
            result_lengths: vec![1, 2],
            results: vec![0, 1, 2],
            dead_letters: Vec::new(),
            retries: 0,
            generation: 0,
        };
        assert!(OutcomeBatch::decode(&whole.encode_to_vec()).is_ok());
        let dead = |position| DeadLetter {
            position,
            ..Default::default()
        };
        let broken: [&dyn Fn(&mut wire::OutcomeBatch); 15] = [
            &|batch| batch.worker = None,
            &|batch| batch.run_id = "a/b".to_owned(),
            &|batch| batch.parts.truncate(1),
            &|batch| batch.times.truncate(1),
            &|batch| batch.payload_digests.truncate(1),
            &|batch| batch.span_lengths = vec![1, 2],
            &|batch| batch.span_lengths = vec![2, 0],
            &|batch| batch.span_starts[1] = u64::MAX,
            &|batch| batch.times[1] = i64::MIN,
            &|batch| batch.dead_letters = vec![dead(2)],
            &|batch| batch.dead_letters = vec![dead(1), dead(0)],
            // The dead letter would have a result.
            &|batch| batch.dead_letters = vec![dead(1)],
            &|batch| batch.result_lengths = vec![1],
            &|batch| batch.result_lengths.clear(),
            &|batch| batch.result_lengths = vec![u32::MAX, 4],
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
