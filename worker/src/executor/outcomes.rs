//! The batch of outcomes that is being filled, with the jobs that it settles.

use computations::JobError;
use pipeline::offsets::Settled;
use pipeline::outcome::MAX_RESULT_BYTES;
use pipeline::{Job, JobHeader, Outcome, OutcomeBatchBuilder, RunId, Worker};

use crate::outbox::Finished;

/// The size at which a batch of outcomes is full. Larger messages are not processed faster.
const FULL_BYTES: usize = 64 * 1024;

/// The outcomes of the next batch, all of one generation of a run, and the jobs that they settle.
#[derive(Debug)]
pub struct Outcomes {
    worker: Worker,
    /// Whether all outcomes of a batch are of one partition of the jobs topic.
    apart_by_partition: bool,
    batch: Option<(RunId, OutcomeBatchBuilder)>,
    settles: Vec<Settled>,
}

impl Outcomes {
    /// No outcomes.
    pub fn new(worker: Worker, apart_by_partition: bool) -> Self {
        Self {
            worker,
            apart_by_partition,
            batch: None,
            settles: Vec::new(),
        }
    }

    /// Whether the outcome of a job with this header and message may be added to the batch.
    #[inline]
    pub fn accepts(&self, header: &JobHeader, message: &Settled) -> bool {
        let of_one_partition =
            |last: &Settled| (last.partition, last.epoch) == (message.partition, message.epoch);
        match &self.batch {
            Some((own, _)) if *own != header.run_id => false,
            Some((_, builder)) if builder.generation() != header.generation => false,
            _ => !self.apart_by_partition || self.settles.last().is_none_or(of_one_partition),
        }
    }

    /// Adds the outcome of a job, with the digest of the payload that the executor was given. The caller
    /// must call [`settle`](Self::settle) for the job before [`take`](Self::take).
    #[inline]
    pub fn push(
        &mut self,
        header: &JobHeader,
        job: &Job<'_>,
        payload_digest: u64,
        outcome: Outcome<'_>,
    ) {
        let worker = &self.worker;
        let (_, builder) = self.batch.get_or_insert_with(|| {
            let run_id = &header.run_id;
            let builder = OutcomeBatchBuilder::new(run_id, header.generation, worker);
            (run_id.clone(), builder)
        });
        builder.push(job, payload_digest, outcome);
    }

    /// Notes that outcomes of this number of jobs of a message were added.
    #[inline]
    pub fn settle(&mut self, message: &Settled, jobs: u32) {
        if jobs == 0 {
            return;
        }
        match self.settles.last_mut() {
            Some(last)
                if last.offset == message.offset
                    && last.partition == message.partition
                    && last.epoch == message.epoch =>
            {
                last.jobs += jobs;
            }
            _ => self.settles.push(Settled { jobs, ..*message }),
        }
    }

    /// Whether the batch is full.
    #[inline]
    pub fn is_full(&self) -> bool {
        let batch = self.batch.as_ref();
        batch.is_some_and(|(_, builder)| builder.bytes_bound() >= FULL_BYTES)
    }

    /// Whether there is no outcome.
    pub fn is_empty(&self) -> bool {
        self.batch.is_none()
    }

    /// Removes and returns the batch with the jobs that it settles; `None` where there is no outcome.
    pub fn take(&mut self) -> Option<Finished> {
        let (_, builder) = self.batch.take()?;
        Some(Finished {
            dead_letter: None,
            outcomes: Some(builder.encode()),
            settles: std::mem::take(&mut self.settles),
            retries: 0,
        })
    }
}

/// The outcome with a result.
///
/// # Errors
/// When the result is too long for a message, which is permanent.
#[inline]
pub fn outcome_of(result: &[u8]) -> Result<Outcome<'_>, JobError> {
    if result.len() > MAX_RESULT_BYTES {
        return Err(too_long(result.len()));
    }
    Ok(Outcome::Completed(result))
}

#[cold]
fn too_long(bytes: usize) -> JobError {
    JobError::Permanent(format!(
        "its result has {bytes} bytes, and an outcome takes {MAX_RESULT_BYTES}"
    ))
}
