//! The encoder of batches of jobs: it writes columns while jobs are added.

use crate::computation::MAX_COMPUTATION_BYTES;
use crate::label_runs::LabelColumns;
use crate::protobuf::{put_column, put_number, put_varint, zigzag};
use crate::time_column::{self, TimeColumn};

use super::{Job, JobHeader, fields};

/// Fills batches with jobs, one after the other, in buffers that are used again.
#[derive(Clone, Debug)]
pub struct JobBatchEncoder {
    /// The run id and the computation with the generation, as fields.
    run_id: Vec<u8>,
    computation: Vec<u8>,
    jobs: usize,
    first_index: u64,
    labels: LabelColumns,
    times: TimeColumn,
    /// Numbers of a column are written as they come.
    parts: Vec<u8>,
    weights: Vec<u8>,
    /// Empty as long as each payload is as long as its weight.
    payload_lengths: Vec<u8>,
    payload: Vec<u8>,
    /// An upper bound of what the batch takes.
    bytes: usize,
}

/// What a job takes of a message beside its labels and payload, at most: time, part, weight and
/// length.
const COLUMN_BYTES: usize = time_column::MAX_BYTES + 5 + 5 + 5;

/// What a batch takes beside its jobs, its run id and its computation, at most.
const FRAME_BYTES: usize = 96;

impl JobBatchEncoder {
    /// An encoder for jobs of one run, with an empty batch.
    ///
    /// # Panics
    /// When the computation is longer than [`MAX_COMPUTATION_BYTES`].
    pub fn new(header: &JobHeader) -> Self {
        let encoded = header.computation.encode();
        assert!(
            encoded.len() <= MAX_COMPUTATION_BYTES,
            "a computation's length is checked where it is chosen"
        );
        let (mut run_id, mut computation) = (Vec::new(), Vec::new());
        put_column(
            fields::RUN_ID,
            header.run_id.as_str().as_bytes(),
            &mut run_id,
        );
        put_column(fields::COMPUTATION, &encoded, &mut computation);
        put_number(
            fields::GENERATION,
            header.generation.into(),
            &mut computation,
        );
        let mut encoder = Self {
            run_id,
            computation,
            jobs: 0,
            first_index: 0,
            labels: LabelColumns::new(fields::LABEL_SETS),
            times: TimeColumn::default(),
            parts: Vec::new(),
            weights: Vec::new(),
            payload_lengths: Vec::new(),
            payload: Vec::new(),
            bytes: 0,
        };
        encoder.bytes = encoder.frame_bytes();
        encoder
    }

    fn frame_bytes(&self) -> usize {
        FRAME_BYTES + self.run_id.len() + self.computation.len()
    }

    /// Whether the batch can take a job of this index next: its jobs are consecutive, so that a gap
    /// begins another batch.
    pub fn takes(&self, index: u64) -> bool {
        self.jobs == 0 || self.first_index + self.jobs as u64 == index
    }

    /// Adds a job to the batch, which [`takes`](Self::takes) its index. Jobs of one run have all a
    /// time or none.
    #[inline]
    pub fn push(&mut self, job: &Job<'_>) {
        debug_assert!(self.takes(job.index), "a gap");
        if self.jobs == 0 {
            self.first_index = job.index;
        }
        self.jobs += 1;
        self.bytes += COLUMN_BYTES + job.payload.len() + self.labels.push(job.key.labels);
        self.times.push(job.key.time);
        put_varint(job.part.into(), &mut self.parts);
        let length = job.payload.len() as u64;
        if !self.payload_lengths.is_empty() {
            put_varint(length, &mut self.payload_lengths);
        } else if length != u64::from(job.weight) {
            // Up to here each payload was as long as its weight.
            self.payload_lengths.extend_from_slice(&self.weights);
            put_varint(length, &mut self.payload_lengths);
        }
        put_varint(job.weight.into(), &mut self.weights);
        self.payload.extend_from_slice(job.payload);
    }

    /// How many jobs the batch has.
    pub fn jobs_count(&self) -> usize {
        self.jobs
    }

    /// How many bytes the batch takes as a message, at most.
    pub fn bytes_bound(&self) -> usize {
        self.bytes
    }

    /// Appends the batch to `buffer` and begins an empty one. Returns the number of bytes.
    pub fn finish(&mut self, buffer: &mut Vec<u8>) -> usize {
        let before = buffer.len();
        buffer.reserve(self.bytes);
        let offsets = self.times.offsets();
        buffer.extend_from_slice(&self.run_id);
        put_number(fields::FIRST_INDEX, self.first_index, buffer);
        self.labels.put(buffer);
        offsets.put_low(fields::TIME_OFFSETS, buffer);
        put_column(fields::PARTS, &self.parts, buffer);
        put_column(fields::WEIGHTS, &self.weights, buffer);
        put_column(fields::PAYLOAD_LENGTHS, &self.payload_lengths, buffer);
        put_column(fields::PAYLOAD, &self.payload, buffer);
        buffer.extend_from_slice(&self.computation);
        put_number(fields::FIRST_TIME, zigzag(offsets.base), buffer);
        offsets.put_high(fields::TIME_OFFSETS_HIGH, buffer);
        self.jobs = 0;
        self.labels.clear();
        self.times.clear();
        self.parts.clear();
        self.weights.clear();
        self.payload_lengths.clear();
        self.payload.clear();
        self.bytes = self.frame_bytes();
        buffer.len() - before
    }
}
