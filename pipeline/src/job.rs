//! A job, the atomic unit of work, and the batch in which jobs travel from dispatcher to workers.
//!
//! A batch is columns of consecutive jobs. It is checked once, when it is decoded; after that a
//! [`Job`] is a view into it, and walking through the jobs neither allocates nor fails.

mod batch;
mod encoder;
mod fields;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use crate::computation::Computation;
use crate::group_key::GroupKey;
use crate::run_id::RunId;

pub use batch::{Cursor, JobBatch, JobBatchDecoder, Jobs};
pub use encoder::JobBatchEncoder;

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
