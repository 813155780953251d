//! A job, the atomic unit of work, and the batch in which jobs travel from dispatcher to workers.
//!
//! A batch is columns of consecutive jobs. It is checked once, when it is decoded; after that a
//! [`Job`] is a view into it, and walking through the jobs neither allocates nor fails.

use prost::Message;

use crate::error::DecodeError;
use crate::generation::checked_generation;
use crate::grain::TimeBucket;
use crate::group_key::{GroupKey, LabelSet};
use crate::label_runs;
use crate::run_id::RunId;
use crate::wire;

/// The code of a negative test in [`Job::results`].
pub const NEGATIVE: u8 = 0;
/// The code of a positive test in [`Job::results`].
pub const POSITIVE: u8 = 1;

/// A job has at most so many rows: one byte each is half of what a message can have.
pub const MAX_ROWS_PER_JOB: u32 = 500_000;

/// One job: the tests of a group, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job<'a> {
    /// Its dense number in the run, from 0.
    pub index: u64,
    /// What its rows share.
    pub key: GroupKey<'a>,
    /// Which part of its group it is, from 0.
    pub part: u32,
    /// One byte per test, in record order: [`NEGATIVE`] or [`POSITIVE`], at least one. Other
    /// values can arrive from a faulty sender; whoever computes with them must look.
    pub results: &'a [u8],
}

impl Job<'_> {
    /// How many rows of the data set the job has.
    pub fn rows(&self) -> u32 {
        // The column `tests` from which the slice was cut is made of u32.
        self.results.len() as u32
    }

    /// The job as a batch of its own in generation 0.
    pub fn alone(&self, run_id: &RunId) -> Vec<u8> {
        self.alone_in(run_id, 0)
    }

    /// The job as a batch of its own in this generation, which is how it is kept for another attempt,
    /// laid down as a dead letter, and published again.
    pub fn alone_in(&self, run_id: &RunId, generation: u32) -> Vec<u8> {
        let mut encoder = JobBatchEncoder::new(run_id).in_generation(generation);
        encoder.push(self);
        let mut message = Vec::new();
        encoder.finish(&mut message);
        message
    }
}

/// Jobs of one run with consecutive indexes, as a worker receives them.
#[derive(Clone, Debug, PartialEq)]
pub struct JobBatch {
    wire: wire::JobBatch,
    run_id: RunId,
}

impl JobBatch {
    /// Reads and checks a batch.
    ///
    /// # Errors
    /// When the bytes are no `JobBatch`, or when its columns do not fit together. Results are not
    /// looked at: a wrong one is the matter of its job, not of the batch.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire = wire::JobBatch::decode(bytes).map_err(malformed)?;
        let run_id = run_id(&wire)?;
        check(&wire)?;
        Ok(Self { wire, run_id })
    }

    /// The run that the jobs belong to.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// The generation of the jobs: 0 until jobs of the run are published again on purpose.
    pub fn generation(&self) -> u32 {
        self.wire.generation
    }

    /// The index of the first job.
    pub fn first_index(&self) -> u64 {
        self.wire.first_index
    }

    /// How many jobs there are, at least one.
    pub fn jobs_count(&self) -> u32 {
        // A message is at most a few MiB, and a job takes a byte of it or more.
        self.wire.tests.len() as u32
    }

    /// The job at a position, which is less than [`jobs_count`](Self::jobs_count). Finding it takes a
    /// walk over those before it.
    ///
    /// # Panics
    /// When there is none.
    pub fn job(&self, position: usize) -> Job<'_> {
        let job = self.jobs().nth(position);
        job.expect("a position in the batch")
    }

    /// The jobs, by ascending index.
    pub fn jobs(&self) -> impl Iterator<Item = Job<'_>> {
        let mut labels = label_runs::Positions::new(&self.wire.label_set_jobs);
        let mut results = self.wire.results.as_slice();
        (0..self.wire.tests.len()).map(move |position| {
            let (own, rest) = results.split_at(self.wire.tests[position] as usize);
            results = rest;
            Job {
                index: self.wire.first_index + position as u64,
                key: GroupKey {
                    labels: &self.wire.label_sets[labels.advance()],
                    time: checked_time(self.wire.times[position]),
                },
                part: self.wire.parts[position],
                results: own,
            }
        })
    }
}

/// Decodes batches, one after the other, in buffers that are used again: with one job a message,
/// asking for memory would take longer than the work.
#[derive(Debug, Default)]
pub struct JobBatchDecoder {
    /// A batch that passed the checks, or what was decoded in place of one, whether it passed or not.
    batch: Option<JobBatch>,
}

impl JobBatchDecoder {
    /// Reads and checks a batch, in place of the one before.
    ///
    /// # Errors
    /// Those of [`JobBatch::decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<&JobBatch, DecodeError> {
        match &mut self.batch {
            Some(batch) => {
                batch.wire.clear();
                batch.wire.merge(bytes).map_err(malformed)?;
                if batch.wire.run_id != batch.run_id.as_str() {
                    batch.run_id = run_id(&batch.wire)?;
                }
                check(&batch.wire)?;
                Ok(batch)
            }
            none => Ok(none.insert(JobBatch::decode(bytes)?)),
        }
    }
}

fn malformed(source: prost::DecodeError) -> DecodeError {
    DecodeError::Protobuf {
        message: "JobBatch",
        source,
    }
}

fn invalid(what: &'static str) -> DecodeError {
    DecodeError::Invalid {
        message: "JobBatch",
        what,
    }
}

fn run_id(wire: &wire::JobBatch) -> Result<RunId, DecodeError> {
    let run_id = wire.run_id.parse();
    run_id.map_err(|_| invalid("the run id is none"))
}

/// Whether the columns of a batch fit together.
fn check(wire: &wire::JobBatch) -> Result<(), DecodeError> {
    let jobs = wire.tests.len();
    if jobs == 0 {
        return Err(invalid("it has no jobs"));
    }
    if wire.times.len() != jobs || wire.parts.len() != jobs {
        return Err(invalid("its columns differ in length"));
    }
    if !label_runs::cover(&wire.label_sets, &wire.label_set_jobs, jobs) {
        return Err(invalid("its runs of labels do not cover its jobs"));
    }
    if wire.first_index.checked_add(jobs as u64).is_none() {
        return Err(invalid("its job indexes overflow"));
    }
    if wire.tests.contains(&0) {
        return Err(invalid("it has a job without tests"));
    }
    // Else the outcome of a job, or its letter, may be larger than any message, and each worker that came
    // to it would end with that.
    if wire.tests.iter().any(|&tests| tests > MAX_ROWS_PER_JOB) {
        return Err(invalid("it has a job with too many tests"));
    }
    if !wire.label_sets.iter().all(LabelSet::fits_a_message) {
        return Err(invalid("it has labels that are too long"));
    }
    let tests = wire.tests.iter().map(|&tests| u64::from(tests));
    if tests.sum::<u64>() != wire.results.len() as u64 {
        return Err(invalid("it has not as many results as tests"));
    }
    if !wire.times.iter().all(|&hours| in_range(hours)) {
        return Err(invalid("it has a time out of range"));
    }
    checked_generation("JobBatch", wire.generation, 0)?;
    Ok(())
}

/// Whether a time from the wire is one that a bucket can have.
pub(crate) fn in_range(hours: i32) -> bool {
    TimeBucket::from_hours(i64::from(hours)).is_some()
}

/// A time from the wire that passed [`in_range`].
pub(crate) fn checked_time(hours: i32) -> TimeBucket {
    TimeBucket::from_hours(i64::from(hours)).expect("times are checked when a batch is decoded")
}

/// Fills batches with jobs, one after the other, in buffers that are used again.
#[derive(Clone, Debug)]
pub struct JobBatchEncoder {
    wire: wire::JobBatch,
    /// An upper bound of what the batch takes.
    bytes: usize,
}

/// What a job takes of a message beside its labels and results, at most: time, part and tests.
const COLUMN_BYTES: usize = 4 + 5 + 5;

/// What a batch takes beside its jobs and its run id, at most.
const FRAME_BYTES: usize = 64;

impl JobBatchEncoder {
    /// An encoder for jobs of one run, with an empty batch.
    pub fn new(run_id: &RunId) -> Self {
        Self {
            wire: wire::JobBatch {
                run_id: run_id.to_string(),
                ..Default::default()
            },
            bytes: FRAME_BYTES + run_id.as_str().len(),
        }
    }

    /// Makes it an encoder for jobs of this generation.
    pub fn in_generation(mut self, generation: u32) -> Self {
        self.wire.generation = generation;
        self
    }

    /// Whether the batch can take a job of this index next: its jobs are consecutive, so that a gap
    /// begins another batch.
    pub fn takes(&self, index: u64) -> bool {
        let jobs = self.wire.tests.len() as u64;
        jobs == 0 || self.wire.first_index + jobs == index
    }

    /// Adds a job to the batch, which [`takes`](Self::takes) its index.
    pub fn push(&mut self, job: &Job<'_>) {
        let wire = &mut self.wire;
        if wire.tests.is_empty() {
            wire.first_index = job.index;
        }
        debug_assert_eq!(
            wire.first_index + wire.tests.len() as u64,
            job.index,
            "a gap"
        );
        self.bytes += COLUMN_BYTES + job.results.len();
        self.bytes += label_runs::push(
            &mut wire.label_sets,
            &mut wire.label_set_jobs,
            job.key.labels,
        );
        wire.times.push(job.key.time.hours());
        wire.parts.push(job.part);
        wire.tests.push(job.rows());
        wire.results.extend_from_slice(job.results);
    }

    /// How many jobs the batch has.
    pub fn jobs_count(&self) -> usize {
        self.wire.tests.len()
    }

    /// How many bytes the batch takes as a message, at most.
    pub fn bytes_bound(&self) -> usize {
        self.bytes
    }

    /// Appends the batch to `buffer` and begins an empty one. Returns the number of bytes.
    pub fn finish(&mut self, buffer: &mut Vec<u8>) -> usize {
        let before = buffer.len();
        self.wire.encode_raw(buffer);
        let wire = &mut self.wire;
        wire.label_sets.clear();
        wire.label_set_jobs.clear();
        wire.times.clear();
        wire.parts.clear();
        wire.tests.clear();
        wire.results.clear();
        self.bytes = FRAME_BYTES + wire.run_id.len();
        buffer.len() - before
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::group_key::MAX_LABEL_BYTES;

    /// A job that owns what it is made of.
    #[derive(Clone, Debug)]
    pub(crate) struct OwnedJob {
        pub(crate) labels: LabelSet,
        pub(crate) time: TimeBucket,
        pub(crate) part: u32,
        pub(crate) results: Vec<u8>,
    }

    impl OwnedJob {
        pub(crate) fn at(&self, index: u64) -> Job<'_> {
            Job {
                index,
                key: GroupKey {
                    labels: &self.labels,
                    time: self.time,
                },
                part: self.part,
                results: &self.results,
            }
        }
    }

    pub(crate) fn any_job() -> impl Strategy<Value = OwnedJob> {
        (
            prop::collection::vec("[a-c]{0,2}", 0..3),
            -1_000_000i64..1_000_000,
            0u32..4,
            prop::collection::vec(0u8..=1, 1..20),
        )
            .prop_map(|(labels, hours, part, results)| OwnedJob {
                labels: LabelSet::new(labels),
                time: TimeBucket::from_hours(hours).expect("in range"),
                part,
                results,
            })
    }

    fn encode(first_index: u64, jobs: &[OwnedJob]) -> Vec<u8> {
        let mut encoder = JobBatchEncoder::new(&"a-run".parse().expect("a run id"));
        for (position, job) in jobs.iter().enumerate() {
            encoder.push(&job.at(first_index + position as u64));
        }
        let bound = encoder.bytes_bound();
        let mut buffer = Vec::new();
        let bytes = encoder.finish(&mut buffer);
        assert!(bytes <= bound, "{bytes} > {bound}");
        buffer
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            first_index in 0u64..u64::MAX / 2,
            jobs in prop::collection::vec(any_job(), 1..50),
        ) {
            let bytes = encode(first_index, &jobs);
            let batch = JobBatch::decode(&bytes).expect("a valid batch");
            // A decoder that was used before says the same, whatever it has seen.
            let mut decoder = JobBatchDecoder::default();
            let _ = decoder.decode(&encode(3, &jobs[..1]));
            let _ = decoder.decode(&bytes[..bytes.len() / 2]);
            prop_assert_eq!(decoder.decode(&bytes).expect("a valid batch"), &batch);
            prop_assert_eq!(batch.run_id().as_str(), "a-run");
            prop_assert_eq!(batch.jobs_count() as usize, jobs.len());
            let decoded: Vec<_> = batch.jobs().collect();
            let expected: Vec<_> = jobs
                .iter()
                .enumerate()
                .map(|(position, job)| job.at(first_index + position as u64))
                .collect();
            prop_assert_eq!(decoded, expected);
        }

        #[test]
        fn cut_or_changed_bytes_never_panic(
            jobs in prop::collection::vec(any_job(), 1..8),
            cut in 0usize..400,
            at in 0usize..400,
            byte in any::<u8>(),
        ) {
            let mut bytes = encode(7, &jobs);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len().saturating_sub(cut % 8));
            if let Ok(batch) = JobBatch::decode(&bytes) {
                prop_assert_eq!(batch.jobs().count(), batch.jobs_count() as usize);
            }
        }
    }

    #[test]
    fn an_encoder_begins_each_batch_anew() {
        let job = OwnedJob {
            labels: LabelSet::new(["Italy"]),
            time: TimeBucket::from_hours(440_000).expect("in range"),
            part: 0,
            results: vec![1, 0],
        };
        let mut encoder = JobBatchEncoder::new(&"a-run".parse().expect("a run id"));
        let mut buffer = Vec::new();
        encoder.push(&job.at(3));
        assert!(encoder.takes(4) && !encoder.takes(9));
        let first = encoder.finish(&mut buffer);
        assert!(encoder.takes(9));
        encoder.push(&job.at(9));
        encoder.finish(&mut buffer);
        let second = JobBatch::decode(&buffer[first..]).expect("a valid batch");
        assert_eq!(second.first_index(), 9);
        assert_eq!(second.jobs().count(), 1);
    }

    #[test]
    fn columns_that_do_not_fit_together_are_refused() {
        let whole = wire::JobBatch {
            run_id: "a-run".to_owned(),
            first_index: 0,
            label_sets: vec![LabelSet::new(["x"])],
            label_set_jobs: vec![2],
            times: vec![0, 1],
            parts: vec![0, 0],
            tests: vec![1, 2],
            generation: 0,
            results: vec![0, 1, 1],
        };
        assert!(JobBatch::decode(&whole.encode_to_vec()).is_ok());
        let broken: [fn(&mut wire::JobBatch); 12] = [
            |batch| batch.run_id.clear(),
            |batch| batch.times.truncate(1),
            |batch| batch.parts.push(0),
            |batch| batch.label_set_jobs[0] = 3,
            |batch| batch.label_set_jobs.clear(),
            |batch| batch.first_index = u64::MAX,
            |batch| batch.tests = vec![0, 3],
            |batch| batch.results.truncate(2),
            |batch| batch.times[0] = i32::MAX,
            |batch| batch.label_sets = vec![LabelSet::new(["x".repeat(3 * MAX_LABEL_BYTES)])],
            |batch| batch.label_sets = vec![LabelSet::new(vec![""; MAX_LABEL_BYTES])],
            |batch| {
                batch.tests[1] = MAX_ROWS_PER_JOB + 1;
                batch.results = vec![0; MAX_ROWS_PER_JOB as usize + 2];
            },
        ];
        for (case, break_it) in broken.into_iter().enumerate() {
            let mut batch = whole.clone();
            break_it(&mut batch);
            assert!(
                JobBatch::decode(&batch.encode_to_vec()).is_err(),
                "case {case}"
            );
        }
    }
}
