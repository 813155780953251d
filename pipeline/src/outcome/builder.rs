//! The builder of batches of outcomes: it writes columns while outcomes are added.

use prost::Message;

use crate::job::Job;
use crate::label_runs::LabelColumns;
use crate::protobuf::{put_bytes, put_column, put_number, put_numbers, put_varint, zigzag};
use crate::run_id::RunId;
use crate::time_column::{self, TimeColumn};

use super::{DeadLetter, Outcome, Worker, fields};

/// Fills a batch with outcomes.
#[derive(Clone, Debug)]
pub struct OutcomeBatchBuilder {
    /// The run id and the worker, as fields.
    head: Vec<u8>,
    generation: u32,
    span_starts: Vec<u64>,
    span_lengths: Vec<u32>,
    labels: LabelColumns,
    times: TimeColumn,
    outcomes: usize,
    /// Numbers of a column are written as they come.
    parts: Vec<u8>,
    weights: Vec<u8>,
    payload_digests: Vec<u8>,
    /// As on the wire: one for all completed outcomes, or one for each outcome.
    result_lengths: Vec<u32>,
    results: Vec<u8>,
    dead_letters: Vec<DeadLetter>,
    retries: u32,
    /// An upper bound of what the batch takes.
    bytes: usize,
}

/// What an outcome takes of a message beside its labels, result and reason, at most: its columns,
/// and a span of indexes of its own.
const COLUMN_BYTES: usize = time_column::MAX_BYTES + 5 + 5 + 8 + 5 + 15;

/// What a dead letter takes beside its reason, at most.
const DEAD_LETTER_BYTES: usize = 24;

/// What a batch takes beside its outcomes and names, at most.
const FRAME_BYTES: usize = 128;

impl OutcomeBatchBuilder {
    /// An empty batch for jobs of one run that were published in this generation, from one worker.
    pub fn new(run_id: &RunId, generation: u32, worker: &Worker) -> Self {
        let mut head = Vec::new();
        put_column(fields::RUN_ID, run_id.as_str().as_bytes(), &mut head);
        put_bytes(fields::WORKER, &worker.encode_to_vec(), &mut head);
        Self {
            bytes: FRAME_BYTES + head.len(),
            head,
            generation,
            span_starts: Vec::new(),
            span_lengths: Vec::new(),
            labels: LabelColumns::new(fields::LABEL_SETS),
            times: TimeColumn::default(),
            outcomes: 0,
            parts: Vec::new(),
            weights: Vec::new(),
            payload_digests: Vec::new(),
            result_lengths: Vec::new(),
            results: Vec::new(),
            dead_letters: Vec::new(),
            retries: 0,
        }
    }

    /// The generation that the jobs were published in.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Adds the outcome of a job, with the [digest](crate::payload_digest) of the payload that the
    /// computation was given. Jobs of one run have all a time or none.
    #[inline]
    pub fn push(&mut self, job: &Job<'_>, payload_digest: u64, outcome: Outcome<'_>) {
        match (self.span_starts.last(), self.span_lengths.last_mut()) {
            (Some(start), Some(length)) if start + u64::from(*length) == job.index => *length += 1,
            _ => {
                self.span_starts.push(job.index);
                self.span_lengths.push(1);
            }
        }
        self.bytes += COLUMN_BYTES + self.labels.push(job.key.labels);
        match outcome {
            Outcome::Completed(result) => self.push_result(result),
            Outcome::DeadLettered { reason, attempts } => self.push_dead(reason, attempts),
        }
        self.times.push(job.key.time);
        put_varint(job.part.into(), &mut self.parts);
        put_varint(job.weight.into(), &mut self.weights);
        let digest = payload_digest.to_le_bytes();
        self.payload_digests.extend_from_slice(&digest);
        self.outcomes += 1;
    }

    /// Adds a result, before the other columns of its outcome. As long as all have the same length, it
    /// stands there once.
    #[inline(always)]
    fn push_result(&mut self, result: &[u8]) {
        self.bytes += result.len();
        self.results.extend_from_slice(result);
        // A result is at most MAX_RESULT_BYTES long.
        let length = result.len() as u32;
        if self.result_lengths.as_slice() != [length] {
            self.push_length(length);
        }
    }

    fn push_length(&mut self, length: u32) {
        let lengths = &mut self.result_lengths;
        match lengths.as_slice() {
            // Only dead letters came before.
            [] => {}
            &[common] => {
                lengths.clear();
                lengths.resize(self.outcomes, common);
                for dead in &self.dead_letters {
                    lengths[dead.position as usize] = 0;
                }
            }
            _ => {}
        }
        lengths.push(length);
    }

    #[cold]
    fn push_dead(&mut self, reason: &str, attempts: u32) {
        self.bytes += DEAD_LETTER_BYTES + reason.len();
        if self.result_lengths.len() > 1 {
            self.result_lengths.push(0);
        }
        self.dead_letters.push(DeadLetter {
            position: self.outcomes as u32,
            reason: reason.to_owned(),
            attempts,
        });
    }

    /// Notes attempts beyond the first.
    pub fn add_retries(&mut self, retries: u32) {
        self.retries = self.retries.saturating_add(retries);
    }

    /// How many outcomes the batch has.
    pub fn len(&self) -> usize {
        self.outcomes
    }

    /// Whether the batch has no outcomes.
    pub fn is_empty(&self) -> bool {
        self.outcomes == 0
    }

    /// How many bytes the batch takes as a message, at most.
    #[inline]
    pub fn bytes_bound(&self) -> usize {
        self.bytes
    }

    /// The batch as the value of a message.
    pub fn encode(&self) -> Vec<u8> {
        let offsets = self.times.offsets();
        let mut message = Vec::with_capacity(self.bytes);
        let buffer = &mut message;
        buffer.extend_from_slice(&self.head);
        put_numbers(fields::SPAN_STARTS, &self.span_starts, buffer);
        put_numbers(fields::SPAN_LENGTHS, &self.span_lengths, buffer);
        self.labels.put(buffer);
        offsets.put_low(fields::TIME_OFFSETS, buffer);
        put_column(fields::PARTS, &self.parts, buffer);
        put_column(fields::WEIGHTS, &self.weights, buffer);
        put_column(fields::PAYLOAD_DIGESTS, &self.payload_digests, buffer);
        put_numbers(fields::RESULT_LENGTHS, &self.result_lengths, buffer);
        put_column(fields::RESULTS, &self.results, buffer);
        for letter in &self.dead_letters {
            put_bytes(fields::DEAD_LETTERS, &letter.encode_to_vec(), buffer);
        }
        put_number(fields::RETRIES, self.retries.into(), buffer);
        put_number(fields::GENERATION, self.generation.into(), buffer);
        put_number(fields::FIRST_TIME, zigzag(offsets.base), buffer);
        offsets.put_high(fields::TIME_OFFSETS_HIGH, buffer);
        message
    }
}
