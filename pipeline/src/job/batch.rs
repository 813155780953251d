//! A batch of jobs as a worker receives it, and its decoder.

use crate::computation::Computation;
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

use super::{Job, JobHeader, MAX_PAYLOAD_BYTES, fields};

/// The name of the type of the message, in errors.
const MESSAGE: &str = "JobBatch";

/// Jobs of one run with consecutive indexes, as a worker receives them.
#[derive(Clone, Debug, PartialEq)]
pub struct JobBatch {
    header: JobHeader,
    /// The bytes that the header's computation was decoded from.
    encoded_computation: Vec<u8>,
    columns: Columns,
}

/// The columns of a batch. What is read takes the place of what is there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Columns {
    first_index: u64,
    label_sets: DecodedLabelSets,
    label_set_jobs: Vec<u32>,
    times: Vec<TimeBucket>,
    parts: Vec<u32>,
    weights: Vec<u32>,
    payload_lengths: Vec<u32>,
    payload: Vec<u8>,
}

/// What a message has beside its columns.
struct Frame<'a> {
    run_id: &'a [u8],
    computation: &'a [u8],
    generation: u32,
    times: EncodedTimes<'a>,
}

impl Columns {
    /// Reads and checks a batch. `rewritten` holds a message that had to be decoded in another way.
    fn decode<'a>(
        &mut self,
        message: &'a [u8],
        rewritten: &'a mut Vec<u8>,
    ) -> Result<Frame<'a>, DecodeError> {
        let read = |bytes| self.read(bytes);
        let frame = read_or_rewrite::<wire::JobBatch, _>(MESSAGE, message, rewritten, read)?;
        self.check(&frame)?;
        Ok(frame)
    }

    #[inline]
    fn read<'a>(&mut self, message: &'a [u8]) -> Option<Frame<'a>> {
        let mut reader = Reader::new(message);
        let run_id = reader.bytes(fields::RUN_ID)?;
        self.first_index = reader.number(fields::FIRST_INDEX)?;
        self.label_sets.read(fields::LABEL_SETS, &mut reader)?;
        reader.numbers(fields::LABEL_SETS + 1, &mut self.label_set_jobs)?;
        let time_offsets = reader.bytes(fields::TIME_OFFSETS)?;
        reader.numbers(fields::PARTS, &mut self.parts)?;
        reader.numbers(fields::WEIGHTS, &mut self.weights)?;
        reader.numbers(fields::PAYLOAD_LENGTHS, &mut self.payload_lengths)?;
        let payload = reader.bytes(fields::PAYLOAD)?;
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        let computation = reader.bytes(fields::COMPUTATION)?;
        let generation = reader.small_number(fields::GENERATION)?;
        let times = EncodedTimes {
            base: unzigzag(reader.number(fields::FIRST_TIME)?),
            low: time_offsets,
            high: reader.bytes(fields::TIME_OFFSETS_HIGH)?,
        };
        reader.end()?;
        // Texts are texts, and columns whole, or prost says what is wrong.
        let is_whole =
            times.are_whole() && (run_id.is_ascii() || std::str::from_utf8(run_id).is_ok());
        is_whole.then_some(Frame {
            run_id,
            computation,
            generation,
            times,
        })
    }

    /// Whether the columns of a batch fit together.
    fn check(&mut self, frame: &Frame<'_>) -> Result<(), DecodeError> {
        let jobs = self.weights.len();
        if jobs == 0 {
            return Err(invalid("it has no jobs"));
        }
        if self.parts.len() != jobs
            || !frame.times.fit(jobs)
            || !(self.payload_lengths.is_empty() || self.payload_lengths.len() == jobs)
        {
            return Err(invalid("its columns differ in length"));
        }
        let label_sets = self.label_sets.sets();
        if !label_runs::cover(label_sets, &self.label_set_jobs, jobs) {
            return Err(invalid("its spans of labels do not cover its jobs"));
        }
        if self.first_index.checked_add(jobs as u64).is_none() {
            return Err(invalid("its job indexes overflow"));
        }
        if self.weights.contains(&0) {
            return Err(invalid("it has a job without weight"));
        }
        let lengths = match self.payload_lengths.as_slice() {
            [] => self.weights.as_slice(),
            lengths => lengths,
        };
        // Else the outcome of a job, or its letter, may be larger than any message, and each worker that
        // came to it would end with that.
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest as usize > MAX_PAYLOAD_BYTES {
            return Err(invalid("it has a job whose payload is too long"));
        }
        if !label_sets.iter().all(LabelSet::fits_a_message) {
            return Err(invalid("it has labels that are too long"));
        }
        let lengths = lengths.iter().map(|&length| u64::from(length));
        if lengths.sum::<u64>() != self.payload.len() as u64 {
            return Err(invalid("its payloads are not as long as they should be"));
        }
        if frame.times.read(&mut self.times).is_none() {
            return Err(invalid("it has a time out of range"));
        }
        checked_generation(MESSAGE, frame.generation, 0)?;
        Ok(())
    }
}

impl Frame<'_> {
    fn run_id(&self) -> Result<RunId, DecodeError> {
        let text = std::str::from_utf8(self.run_id).unwrap_or_default();
        valid_run_id(MESSAGE, text)
    }
}

fn invalid(what: &'static str) -> DecodeError {
    DecodeError::invalid(MESSAGE, what)
}

impl JobBatch {
    /// Reads and checks a batch.
    ///
    /// # Errors
    /// When the bytes are no `JobBatch`, or when its columns do not fit together. Payloads are not
    /// looked at: a wrong one is the matter of its job, not of the batch.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut columns = Columns::default();
        let mut rewritten = Vec::new();
        let frame = columns.decode(bytes, &mut rewritten)?;
        Ok(Self {
            header: JobHeader {
                run_id: frame.run_id()?,
                generation: frame.generation,
                computation: Computation::decode(frame.computation)?.into(),
            },
            encoded_computation: frame.computation.to_vec(),
            columns,
        })
    }

    /// Reads and checks another batch in place of this one.
    fn replace(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut rewritten = Vec::new();
        let frame = self.columns.decode(bytes, &mut rewritten)?;
        let header = &mut self.header;
        if frame.run_id != header.run_id.as_str().as_bytes() {
            header.run_id = frame.run_id()?;
        }
        if frame.computation != self.encoded_computation {
            header.computation = Computation::decode(frame.computation)?.into();
            self.encoded_computation.clear();
            self.encoded_computation
                .extend_from_slice(frame.computation);
        }
        header.generation = frame.generation;
        Ok(())
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
        self.columns.first_index
    }

    /// How many jobs there are, at least one.
    pub fn jobs_count(&self) -> u32 {
        // A message is at most a few MiB, and a job takes a byte of it or more.
        self.columns.weights.len() as u32
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
        let labels = &self.columns.label_set_jobs;
        Jobs {
            columns: &self.columns,
            position: cursor.position,
            labels: match cursor.position {
                0 => label_runs::Positions::new(labels),
                _ => label_runs::Positions::at(labels, cursor.labels),
            },
            payload: &self.columns.payload[cursor.payload..],
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
    columns: &'a Columns,
    position: usize,
    labels: label_runs::Positions<'a>,
    /// That of the jobs that are left.
    payload: &'a [u8],
}

impl Jobs<'_> {
    /// The place before the next job.
    #[inline]
    pub fn cursor(&self) -> Cursor {
        Cursor {
            position: self.position,
            labels: self.labels.place(),
            payload: self.columns.payload.len() - self.payload.len(),
        }
    }
}

impl<'a> Iterator for Jobs<'a> {
    type Item = Job<'a>;

    // Every job goes through here, and the call would cost more than what is done.
    #[inline(always)]
    fn next(&mut self) -> Option<Job<'a>> {
        let (columns, position) = (self.columns, self.position);
        let weight = *columns.weights.get(position)?;
        self.position += 1;
        let length = columns.payload_lengths.get(position).unwrap_or(&weight);
        let (own, rest) = self.payload.split_at(*length as usize);
        self.payload = rest;
        Some(Job {
            index: columns.first_index + position as u64,
            key: GroupKey {
                labels: &columns.label_sets.sets()[self.labels.advance()],
                time: columns.times.get(position).copied(),
            },
            part: columns.parts[position],
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
                batch.replace(bytes)?;
                Ok(batch)
            }
            none => Ok(none.insert(JobBatch::decode(bytes)?)),
        }
    }
}
