//! A batch of outcomes as an aggregator receives it.

use std::iter::Peekable;
use std::slice;

use prost::Message;

use crate::error::DecodeError;
use crate::generation::checked_generation;
use crate::grain::TimeBucket;
use crate::group_key::{GroupKey, LabelSet};
use crate::label_runs::{self, DecodedLabelSets};
use crate::protobuf::{Reader, read_or_rewrite, unzigzag};
use crate::run::valid_run_id;
use crate::run_id::RunId;
use crate::time_column::EncodedTimes;
use crate::wire;

use super::{DeadLetter, JobOutcome, Outcome, Worker, fields};

/// The name of the type of the message, in errors.
const MESSAGE: &str = "OutcomeBatch";

/// Outcomes of jobs of one run, from one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct OutcomeBatch {
    run_id: RunId,
    worker: Worker,
    generation: u32,
    retries: u32,
    columns: Columns,
}

/// The columns of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
struct Columns {
    span_starts: Vec<u64>,
    span_lengths: Vec<u32>,
    label_sets: DecodedLabelSets,
    label_set_jobs: Vec<u32>,
    times: Vec<TimeBucket>,
    parts: Vec<u32>,
    weights: Vec<u32>,
    payload_digests: Vec<u64>,
    result_lengths: Vec<u32>,
    results: Vec<u8>,
    dead_letters: Vec<DeadLetter>,
}

/// What a message has beside its columns.
struct Frame<'a> {
    run_id: &'a [u8],
    worker: Option<Worker>,
    generation: u32,
    retries: u32,
    times: EncodedTimes<'a>,
}

/// What an entry of the column of payload digests takes.
const DIGEST_BYTES: usize = 8;

impl Columns {
    fn read<'a>(&mut self, message: &'a [u8]) -> Option<Frame<'a>> {
        let mut reader = Reader::new(message);
        let run_id = reader.bytes(fields::RUN_ID)?;
        let worker = match reader.next_bytes(fields::WORKER)? {
            Some(worker) => Some(Worker::decode(worker).ok()?),
            None => None,
        };
        reader.numbers(fields::SPAN_STARTS, &mut self.span_starts)?;
        reader.numbers(fields::SPAN_LENGTHS, &mut self.span_lengths)?;
        self.label_sets.read(fields::LABEL_SETS, &mut reader)?;
        reader.numbers(fields::LABEL_SETS + 1, &mut self.label_set_jobs)?;
        let time_offsets = reader.bytes(fields::TIME_OFFSETS)?;
        reader.numbers(fields::PARTS, &mut self.parts)?;
        reader.numbers(fields::WEIGHTS, &mut self.weights)?;
        let (digests, cut_digest) = reader
            .bytes(fields::PAYLOAD_DIGESTS)?
            .as_chunks::<DIGEST_BYTES>();
        self.payload_digests.clear();
        let digests = digests.iter().map(|&digest| u64::from_le_bytes(digest));
        self.payload_digests.extend(digests);
        reader.numbers(fields::RESULT_LENGTHS, &mut self.result_lengths)?;
        let results = reader.bytes(fields::RESULTS)?;
        self.results.clear();
        self.results.extend_from_slice(results);
        self.dead_letters.clear();
        while let Some(letter) = reader.next_bytes(fields::DEAD_LETTERS)? {
            self.dead_letters.push(DeadLetter::decode(letter).ok()?);
        }
        let frame = Frame {
            run_id,
            worker,
            retries: reader.small_number(fields::RETRIES)?,
            generation: reader.small_number(fields::GENERATION)?,
            times: EncodedTimes {
                base: unzigzag(reader.number(fields::FIRST_TIME)?),
                low: time_offsets,
                high: reader.bytes(fields::TIME_OFFSETS_HIGH)?,
            },
        };
        reader.end()?;
        // Texts are texts, and columns whole, or prost says what is wrong.
        let is_whole = cut_digest.is_empty() && frame.times.are_whole();
        (is_whole && std::str::from_utf8(run_id).is_ok()).then_some(frame)
    }

    /// Whether the columns of a batch fit together.
    fn check(&mut self, frame: &Frame<'_>) -> Result<(), DecodeError> {
        let jobs = self.weights.len();
        if self.parts.len() != jobs || self.payload_digests.len() != jobs || !frame.times.fit(jobs)
        {
            return Err(invalid("its columns differ in length"));
        }
        if !label_runs::cover(self.label_sets.sets(), &self.label_set_jobs, jobs) {
            return Err(invalid("its spans of labels do not cover its jobs"));
        }
        let span_lengths = self.span_lengths.iter().map(|&length| u64::from(length));
        if self.span_starts.len() != self.span_lengths.len()
            || self.span_lengths.contains(&0)
            || span_lengths.clone().sum::<u64>() != jobs as u64
        {
            return Err(invalid("its spans of indexes do not cover its jobs"));
        }
        let mut spans = self.span_starts.iter().zip(span_lengths);
        if spans.any(|(start, length)| start.checked_add(length).is_none()) {
            return Err(invalid("its job indexes overflow"));
        }
        if frame.times.read(&mut self.times).is_none() {
            return Err(invalid("it has a time out of range"));
        }
        let positions = || self.dead_letters.iter().map(|dead| dead.position);
        if !positions().is_sorted_by(|a, b| a < b)
            || positions().any(|position| position as usize >= jobs)
        {
            return Err(invalid("its dead letters are out of order"));
        }
        checked_generation(MESSAGE, frame.generation, 0)?;
        self.check_results()
    }

    /// Whether the results are as long as the lengths say. Dead letters are within the jobs.
    fn check_results(&self) -> Result<(), DecodeError> {
        let jobs = self.weights.len();
        let bytes = match self.result_lengths.as_slice() {
            [] => 0,
            // Both are at most the length of a message, so their product is in range.
            [length] => u64::from(*length) * (jobs - self.dead_letters.len()) as u64,
            lengths if lengths.len() == jobs => {
                let mut of_dead = self.dead_letters.iter();
                if of_dead.any(|dead| lengths[dead.position as usize] != 0) {
                    return Err(invalid("it has a dead letter with a result"));
                }
                lengths.iter().map(|&length| u64::from(length)).sum()
            }
            _ => return Err(invalid("its columns differ in length")),
        };
        if bytes != self.results.len() as u64 {
            return Err(invalid("its results are not as long as they should be"));
        }
        Ok(())
    }
}

fn invalid(what: &'static str) -> DecodeError {
    DecodeError::invalid(MESSAGE, what)
}

impl OutcomeBatch {
    /// Reads and checks a batch.
    ///
    /// # Errors
    /// When the bytes are no `OutcomeBatch`, or when its columns do not fit together.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut columns = Columns::default();
        let mut rewritten = Vec::new();
        let read = |bytes| columns.read(bytes);
        let frame = read_or_rewrite::<wire::OutcomeBatch, _>(MESSAGE, bytes, &mut rewritten, read)?;
        let run_id = std::str::from_utf8(frame.run_id).unwrap_or_default();
        let run_id = valid_run_id(MESSAGE, run_id)?;
        columns.check(&frame)?;
        Ok(Self {
            run_id,
            worker: frame.worker.ok_or(invalid("it names no worker"))?,
            generation: frame.generation,
            retries: frame.retries,
            columns,
        })
    }

    /// The run that the jobs belong to.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// The generation of the run that the jobs were published in.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Who did the work.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Attempts beyond the first that these jobs took.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The label sets of the jobs; [`JobOutcome::label_position`] points into them.
    pub fn label_sets(&self) -> &[LabelSet] {
        self.columns.label_sets.sets()
    }

    /// How many outcomes there are.
    pub fn len(&self) -> usize {
        self.columns.weights.len()
    }

    /// Whether there are no outcomes.
    pub fn is_empty(&self) -> bool {
        self.columns.weights.is_empty()
    }

    /// The outcomes, span of indexes by span of indexes.
    pub fn outcomes(&self) -> Outcomes<'_> {
        let columns = &self.columns;
        Outcomes {
            columns,
            position: 0,
            spans: columns.span_starts.iter().zip(&columns.span_lengths),
            index: 0,
            left_in_span: 0,
            labels: label_runs::Positions::new(&columns.label_set_jobs),
            dead_letters: columns.dead_letters.iter().peekable(),
            results: &columns.results,
            common_length: match columns.result_lengths.as_slice() {
                [] => Some(0),
                [length] => Some(*length),
                _ => None,
            },
        }
    }
}

/// The outcomes of a batch, span of indexes by span of indexes.
#[derive(Clone, Debug)]
pub struct Outcomes<'a> {
    columns: &'a Columns,
    position: usize,
    spans: std::iter::Zip<slice::Iter<'a, u64>, slice::Iter<'a, u32>>,
    /// The index of the next job, if its span has any left.
    index: u64,
    left_in_span: u32,
    labels: label_runs::Positions<'a>,
    dead_letters: Peekable<slice::Iter<'a, DeadLetter>>,
    /// Those of the outcomes that are left.
    results: &'a [u8],
    /// The length of each completed outcome's result, where it is the same.
    common_length: Option<u32>,
}

impl<'a> Iterator for Outcomes<'a> {
    type Item = JobOutcome<'a>;

    // Every outcome goes through here, and the call would cost more than what is done.
    #[inline(always)]
    fn next(&mut self) -> Option<JobOutcome<'a>> {
        let (columns, position) = (self.columns, self.position);
        let weight = *columns.weights.get(position)?;
        self.position += 1;
        if self.left_in_span == 0 {
            let (start, length) = self.spans.next()?;
            (self.index, self.left_in_span) = (*start, *length);
        }
        let index = self.index;
        self.index += 1;
        self.left_in_span -= 1;
        let dead = self
            .dead_letters
            .next_if(|dead| dead.position as usize == position);
        let label_position = self.labels.advance();
        Some(JobOutcome {
            index,
            label_position,
            key: GroupKey {
                labels: &columns.label_sets.sets()[label_position],
                time: columns.times.get(position).copied(),
            },
            part: columns.parts[position],
            weight,
            payload_digest: columns.payload_digests[position],
            outcome: match dead {
                Some(dead) => Outcome::DeadLettered {
                    reason: &dead.reason,
                    attempts: dead.attempts,
                },
                None => {
                    let length = self.common_length;
                    let length = length.unwrap_or_else(|| columns.result_lengths[position]);
                    let (own, rest) = self.results.split_at(length as usize);
                    self.results = rest;
                    Outcome::Completed(own)
                }
            },
        })
    }
}
