//! A job, the atomic unit of work, and the batch in which jobs travel from dispatcher to workers.
//!
//! A batch is columns of consecutive jobs. It is checked once, when it is decoded; after that a
//! [`Job`] is a view into it, and walking through the jobs neither allocates nor fails.

use std::sync::Arc;

use prost::Message;

use crate::computation::{Computation, MAX_COMPUTATION_BYTES};
use crate::error::DecodeError;
use crate::generation::checked_generation;
use crate::grain::TimeBucket;
use crate::group_key::{GroupKey, LabelSet};
use crate::label_runs;
use crate::run_id::RunId;
use crate::wire;

/// A job has at most this many rows.
pub const MAX_ROWS_PER_JOB: u32 = 500_000;

/// A job's payload has at most this many bytes, which is half of what a message can have.
pub const MAX_PAYLOAD_BYTES: usize = 500_000;

/// One job: the rows of a group, or of a part of it, as its computation wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job<'a> {
    /// Its dense number in the run, from 0.
    pub index: u64,
    /// What its rows share.
    pub key: GroupKey<'a>,
    /// Which part of its group it is, from 0.
    pub part: u32,
    /// How many rows of the data set it stands for, at least one.
    pub weight: u32,
    /// What its computation is given. A faulty sender may have written anything, so a computation
    /// checks what it reads.
    pub payload: &'a [u8],
}

impl Job<'_> {
    /// The job as a batch of its own, which is how it is kept for another attempt, written to the
    /// dead-letter topic, and published again.
    pub fn alone(&self, header: &JobHeader) -> Vec<u8> {
        let mut encoder = JobBatchEncoder::new(header);
        encoder.push(self);
        let mut message = Vec::new();
        encoder.finish(&mut message);
        message
    }
}

/// What all jobs of a batch have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobHeader {
    /// The run that they belong to.
    pub run_id: RunId,
    /// The generation of the run that they were published in, from 0.
    pub generation: u32,
    /// What is to be made of them. A [`JobBatchDecoder`] shares it among batches, until one comes
    /// with another.
    pub computation: Arc<Computation>,
}

/// Jobs of one run with consecutive indexes, as a worker receives them.
#[derive(Clone, Debug, PartialEq)]
pub struct JobBatch {
    wire: wire::JobBatch,
    header: JobHeader,
    /// The bytes that the header's computation was decoded from.
    encoded_computation: Vec<u8>,
}

impl JobBatch {
    /// Reads and checks a batch.
    ///
    /// # Errors
    /// When the bytes are no `JobBatch`, or when its columns do not fit together. Payloads are not
    /// looked at: a wrong one is the matter of its job, not of the batch.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire = wire::JobBatch::decode(bytes).map_err(malformed)?;
        check(&wire)?;
        let header = JobHeader {
            run_id: run_id(&wire)?,
            generation: wire.generation,
            computation: Computation::decode(&wire.computation)?.into(),
        };
        let encoded_computation = wire.computation.clone();
        Ok(Self {
            wire,
            header,
            encoded_computation,
        })
    }

    /// What all jobs of the batch have in common.
    pub fn header(&self) -> &JobHeader {
        &self.header
    }

    /// The run that the jobs belong to.
    pub fn run_id(&self) -> &RunId {
        &self.header.run_id
    }

    /// The generation of the run that the jobs were published in.
    pub fn generation(&self) -> u32 {
        self.header.generation
    }

    /// The index of the first job.
    pub fn first_index(&self) -> u64 {
        self.wire.first_index
    }

    /// How many jobs there are, at least one.
    pub fn jobs_count(&self) -> u32 {
        // A message is at most a few MiB, and a job takes a byte of it or more.
        self.wire.weights.len() as u32
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
    pub fn jobs(&self) -> Jobs<'_> {
        self.jobs_from(Cursor::default())
    }

    /// The jobs from a place on that a walk over this batch has come to.
    #[inline]
    pub fn jobs_from(&self, cursor: Cursor) -> Jobs<'_> {
        let labels = &self.wire.label_set_jobs;
        Jobs {
            wire: &self.wire,
            position: cursor.position,
            labels: match cursor.position {
                0 => label_runs::Positions::new(labels),
                _ => label_runs::Positions::at(labels, cursor.labels),
            },
            payload: &self.wire.payload[cursor.payload..],
        }
    }
}

/// A place between two jobs of a batch. The default is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    position: usize,
    labels: (usize, u32),
    payload: usize,
}

/// The jobs of a batch, by ascending index.
#[derive(Clone, Debug)]
pub struct Jobs<'a> {
    wire: &'a wire::JobBatch,
    position: usize,
    labels: label_runs::Positions<'a>,
    /// That of the jobs that are left.
    payload: &'a [u8],
}

impl Jobs<'_> {
    /// The place before the next job.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            position: self.position,
            labels: self.labels.place(),
            payload: self.wire.payload.len() - self.payload.len(),
        }
    }
}

impl<'a> Iterator for Jobs<'a> {
    type Item = Job<'a>;

    // Every job goes through here, and the call would cost more than what is done.
    #[inline(always)]
    fn next(&mut self) -> Option<Job<'a>> {
        let (wire, position) = (self.wire, self.position);
        let weight = *wire.weights.get(position)?;
        self.position += 1;
        let length = wire.payload_lengths.get(position).unwrap_or(&weight);
        let (own, rest) = self.payload.split_at(*length as usize);
        self.payload = rest;
        Some(Job {
            index: wire.first_index + position as u64,
            key: GroupKey {
                labels: &wire.label_sets[self.labels.advance()],
                time: checked_time(&wire.times, position),
            },
            part: wire.parts[position],
            weight,
            payload: own,
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
    /// The batch that was decoded last; meaningless where that failed.
    pub fn batch(&self) -> Option<&JobBatch> {
        self.batch.as_ref()
    }

    /// Reads and checks a batch, in place of the one before.
    ///
    /// # Errors
    /// Those of [`JobBatch::decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<&JobBatch, DecodeError> {
        match &mut self.batch {
            Some(batch) => {
                batch.wire.clear();
                batch.wire.merge(bytes).map_err(malformed)?;
                let (wire, header) = (&batch.wire, &mut batch.header);
                check(wire)?;
                if wire.run_id != header.run_id.as_str() {
                    header.run_id = run_id(wire)?;
                }
                if wire.computation != batch.encoded_computation {
                    header.computation = Computation::decode(&wire.computation)?.into();
                    batch.encoded_computation.clone_from(&wire.computation);
                }
                header.generation = wire.generation;
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
    run_id.map_err(|_| invalid("its run id is invalid"))
}

/// Whether the columns of a batch fit together.
fn check(wire: &wire::JobBatch) -> Result<(), DecodeError> {
    let jobs = wire.weights.len();
    let is_optional_column = |length: usize| length == 0 || length == jobs;
    if jobs == 0 {
        return Err(invalid("it has no jobs"));
    }
    if wire.parts.len() != jobs
        || !is_optional_column(wire.times.len())
        || !is_optional_column(wire.payload_lengths.len())
    {
        return Err(invalid("its columns differ in length"));
    }
    if !label_runs::cover(&wire.label_sets, &wire.label_set_jobs, jobs) {
        return Err(invalid("its spans of labels do not cover its jobs"));
    }
    if wire.first_index.checked_add(jobs as u64).is_none() {
        return Err(invalid("its job indexes overflow"));
    }
    if wire.weights.contains(&0) {
        return Err(invalid("it has a job without weight"));
    }
    let lengths = match wire.payload_lengths.as_slice() {
        [] => wire.weights.as_slice(),
        lengths => lengths,
    };
    // Else the outcome of a job, or its letter, may be larger than any message, and each worker that
    // came to it would end with that.
    if lengths
        .iter()
        .any(|&length| length as usize > MAX_PAYLOAD_BYTES)
    {
        return Err(invalid("it has a job whose payload is too long"));
    }
    if !wire.label_sets.iter().all(LabelSet::fits_a_message) {
        return Err(invalid("it has labels that are too long"));
    }
    let lengths = lengths.iter().map(|&length| u64::from(length));
    if lengths.sum::<u64>() != wire.payload.len() as u64 {
        return Err(invalid("its payloads are not as long as they should be"));
    }
    if !wire.times.iter().all(|&seconds| in_range(seconds)) {
        return Err(invalid("it has a time out of range"));
    }
    checked_generation("JobBatch", wire.generation, 0)?;
    Ok(())
}

/// Whether a time from the wire is one that a bucket can have.
pub(crate) fn in_range(seconds: i64) -> bool {
    TimeBucket::from_seconds(seconds).is_some()
}

/// The time at a position of a column whose entries are [`in_range`]; `None` when the column is
/// absent.
pub(crate) fn checked_time(times: &[i64], position: usize) -> Option<TimeBucket> {
    times
        .get(position)
        .and_then(|&seconds| TimeBucket::from_seconds(seconds))
}

/// Fills batches with jobs, one after the other, in buffers that are used again.
#[derive(Clone, Debug)]
pub struct JobBatchEncoder {
    wire: wire::JobBatch,
    /// An upper bound of what the batch takes.
    bytes: usize,
}

/// What a job takes of a message beside its labels and payload, at most: time, part, weight and
/// length.
const COLUMN_BYTES: usize = 8 + 5 + 5 + 5;

/// What a batch takes beside its jobs, its run id and its computation, at most.
const FRAME_BYTES: usize = 96;

impl JobBatchEncoder {
    /// An encoder for jobs of one run, with an empty batch.
    ///
    /// # Panics
    /// When the computation is longer than [`MAX_COMPUTATION_BYTES`].
    pub fn new(header: &JobHeader) -> Self {
        let computation = header.computation.encode();
        assert!(
            computation.len() <= MAX_COMPUTATION_BYTES,
            "a computation's length is checked where it is chosen"
        );
        let mut encoder = Self {
            wire: wire::JobBatch {
                run_id: header.run_id.to_string(),
                generation: header.generation,
                computation,
                ..Default::default()
            },
            bytes: 0,
        };
        encoder.bytes = encoder.frame_bytes();
        encoder
    }

    fn frame_bytes(&self) -> usize {
        FRAME_BYTES + self.wire.run_id.len() + self.wire.computation.len()
    }

    /// Whether the batch can take a job of this index next: its jobs are consecutive, so that a gap
    /// begins another batch.
    pub fn takes(&self, index: u64) -> bool {
        let jobs = self.wire.weights.len() as u64;
        jobs == 0 || self.wire.first_index + jobs == index
    }

    /// Adds a job to the batch, which [`takes`](Self::takes) its index. Jobs of one run have all a
    /// time or none.
    pub fn push(&mut self, job: &Job<'_>) {
        let wire = &mut self.wire;
        if wire.weights.is_empty() {
            wire.first_index = job.index;
        }
        debug_assert_eq!(
            wire.first_index + wire.weights.len() as u64,
            job.index,
            "a gap"
        );
        self.bytes += COLUMN_BYTES + job.payload.len();
        self.bytes += label_runs::push(
            &mut wire.label_sets,
            &mut wire.label_set_jobs,
            job.key.labels,
        );
        // A payload is at most MAX_PAYLOAD_BYTES long.
        let length = job.payload.len() as u32;
        if !wire.payload_lengths.is_empty() {
            wire.payload_lengths.push(length);
        } else if length != job.weight {
            // Up to here each payload was as long as its weight.
            wire.payload_lengths.extend_from_slice(&wire.weights);
            wire.payload_lengths.push(length);
        }
        if let Some(time) = job.key.time {
            wire.times.push(time.seconds());
        }
        wire.parts.push(job.part);
        wire.weights.push(job.weight);
        wire.payload.extend_from_slice(job.payload);
    }

    /// How many jobs the batch has.
    pub fn jobs_count(&self) -> usize {
        self.wire.weights.len()
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
        wire.weights.clear();
        wire.payload_lengths.clear();
        wire.payload.clear();
        self.bytes = self.frame_bytes();
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
        pub(crate) time: Option<TimeBucket>,
        pub(crate) part: u32,
        pub(crate) weight: u32,
        pub(crate) payload: Vec<u8>,
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
                weight: self.weight,
                payload: &self.payload,
            }
        }
    }

    /// Jobs of one run: with a time or without, as long as their weight or of any length.
    pub(crate) fn any_jobs(number: std::ops::Range<usize>) -> impl Strategy<Value = Vec<OwnedJob>> {
        let job = (
            prop::collection::vec("[a-c]{0,2}", 0..3),
            -1_000_000_000i64..1_000_000_000,
            0u32..4,
            1u32..20,
            prop::collection::vec(any::<u8>(), 0..20),
        );
        let jobs = prop::collection::vec(job, number);
        (jobs, any::<bool>(), any::<bool>()).prop_map(|(jobs, has_time, is_row_wise)| {
            let jobs = jobs.into_iter();
            jobs.map(|(labels, seconds, part, weight, mut payload)| {
                if is_row_wise {
                    payload.resize(weight as usize, 1);
                }
                OwnedJob {
                    labels: LabelSet::new(labels),
                    time: TimeBucket::from_seconds(seconds).filter(|_| has_time),
                    part,
                    weight,
                    payload,
                }
            })
            .collect()
        })
    }

    /// What the jobs of a run have in common.
    pub(crate) fn header(run_id: &str) -> JobHeader {
        JobHeader {
            run_id: run_id.parse().expect("a run id"),
            generation: 0,
            computation: Computation::named("a-computation").with("a", "b").into(),
        }
    }

    fn encode(first_index: u64, jobs: &[OwnedJob]) -> Vec<u8> {
        let mut encoder = JobBatchEncoder::new(&header("a-run"));
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
            jobs in any_jobs(1..50),
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
            prop_assert_eq!(&decoded, &expected);
            // A walk that is left and gone on with meets the same jobs.
            let mut cursor = Cursor::default();
            for job in expected {
                let mut rest = batch.jobs_from(cursor);
                prop_assert_eq!(rest.next(), Some(job));
                cursor = rest.cursor();
            }
            prop_assert_eq!(batch.jobs_from(cursor).next(), None);
        }

        #[test]
        fn cut_or_changed_bytes_never_panic(
            jobs in any_jobs(1..8),
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
            time: None,
            part: 0,
            weight: 2,
            payload: vec![1, 0],
        };
        let mut encoder = JobBatchEncoder::new(&header("a-run"));
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
            weights: vec![1, 2],
            payload_lengths: vec![3, 0],
            payload: vec![0, 1, 1],
            computation: header("a-run").computation.encode(),
            generation: 0,
        };
        assert!(JobBatch::decode(&whole.encode_to_vec()).is_ok());
        let fitting: [fn(&mut wire::JobBatch); 2] = [
            |batch| batch.times.clear(),
            |batch| batch.payload_lengths.clear(),
        ];
        for fit in fitting {
            let mut batch = whole.clone();
            fit(&mut batch);
            assert!(JobBatch::decode(&batch.encode_to_vec()).is_ok());
        }
        let broken: [fn(&mut wire::JobBatch); 15] = [
            |batch| batch.run_id.clear(),
            |batch| batch.times.truncate(1),
            |batch| batch.parts.push(0),
            |batch| batch.label_set_jobs[0] = 3,
            |batch| batch.label_set_jobs.clear(),
            |batch| batch.first_index = u64::MAX,
            |batch| batch.weights = vec![0, 3],
            |batch| batch.payload.truncate(2),
            |batch| batch.payload_lengths.truncate(1),
            |batch| batch.payload_lengths = vec![u32::MAX, 4],
            |batch| batch.times[0] = i64::MAX,
            |batch| batch.computation.clear(),
            |batch| batch.label_sets = vec![LabelSet::new(["x".repeat(3 * MAX_LABEL_BYTES)])],
            |batch| batch.label_sets = vec![LabelSet::new(vec![""; MAX_LABEL_BYTES])],
            |batch| {
                batch.payload = vec![0; MAX_PAYLOAD_BYTES + 1];
                batch.payload_lengths = vec![MAX_PAYLOAD_BYTES as u32 + 1, 0];
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

    #[test]
    fn a_decoder_takes_up_what_the_next_batch_has_in_common() {
        let headers = [
            header("a-run"),
            JobHeader {
                generation: 3,
                ..header("b-run")
            },
            JobHeader {
                computation: Computation::named("another").into(),
                ..header("b-run")
            },
        ];
        let mut decoder = JobBatchDecoder::default();
        for header in headers.iter().chain(&headers) {
            let labels = LabelSet::default();
            let job = Job {
                index: 0,
                key: GroupKey {
                    labels: &labels,
                    time: None,
                },
                part: 0,
                weight: 9,
                payload: &[],
            };
            let message = job.alone(header);
            let batch = decoder.decode(&message).expect("a valid batch");
            assert_eq!((batch.header(), batch.job(0)), (header, job));
        }
    }
}
