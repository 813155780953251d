//! A job that was copied out of its message, because it is in flight or waits for its next attempt; and
//! the finished work that it becomes.

use std::sync::Arc;

use pipeline::offsets::Settled;
use pipeline::{Job, JobBatch, JobHeader, Outcome, OutcomeBatchBuilder, Worker, payload_digest};
use tracing::warn;

use super::Lease;
use crate::outbox::{DeadLetterMessage, Finished};

/// The largest number of bytes of a message that its dead letter keeps. A message that a broker just
/// accepted from another producer would, with the headers, be too large for this producer (1,000,000
/// bytes) or for the topic, and each worker that gets it would fail.
pub const MAX_LETTER_BYTES: usize = 960 * 1024;

/// A job that was copied out of its message.
#[derive(Debug)]
pub struct DetachedJob {
    /// The job as a batch of one.
    pub batch: Vec<u8>,
    /// The digest of the payload that the executor was given last, or of that in the message before the
    /// first attempt.
    pub payload_digest: u64,
    /// The number of failed attempts.
    pub failed_attempts: u32,
    /// The number of workers that died of the job.
    pub deaths: u32,
    /// The reason of the last failure; empty before the first.
    pub reason: String,
    /// The part of its message that it settles, which is one job.
    pub settles: Settled,
    /// The lease of its partition.
    pub lease: Arc<Lease>,
    /// Whether its outcome is in a batch with those of other jobs. Otherwise it is a batch of one, with
    /// the number of retries.
    pub joins_others: bool,
    /// Whether the executor was asked to cancel its attempt.
    pub is_cancelled: bool,
}

impl DetachedJob {
    /// A job of a message, before its first attempt.
    pub fn new(header: &JobHeader, job: &Job<'_>, message: &Settled, lease: &Arc<Lease>) -> Self {
        Self {
            batch: job.alone(header),
            payload_digest: payload_digest(job.payload),
            failed_attempts: 0,
            deaths: 0,
            reason: String::new(),
            settles: Settled {
                jobs: 1,
                ..*message
            },
            lease: Arc::clone(lease),
            joins_others: true,
            is_cancelled: false,
        }
    }

    /// The value of `f` for the job and the header of its message.
    pub fn with<T>(&self, f: impl FnOnce(&JobHeader, &Job<'_>) -> T) -> T {
        let batch = JobBatch::decode(&self.batch).expect("this process has encoded the job");
        f(batch.header(), &batch.job(0))
    }

    /// The finished work with the job's outcome as a batch of one.
    pub fn finish(self, worker: &Worker, outcome: Outcome<'_>) -> Finished {
        let retries = match self.failed_attempts {
            0 => self.deaths,
            failed => failed,
        };
        Finished {
            dead_letter: None,
            outcomes: Some(self.outcome_alone(worker, outcome, retries)),
            settles: vec![self.settles],
            retries,
        }
    }

    /// The finished work with the job's dead letter, and the outcome that is produced after it.
    pub fn into_dead_letter(self, worker: &Worker) -> Finished {
        self.with(|header, job| {
            warn!(
                run_id = %header.run_id,
                job = job.index,
                attempts = self.failed_attempts,
                reason = self.reason,
                "dead letter"
            );
        });
        let outcome = Outcome::DeadLettered {
            reason: &self.reason,
            attempts: self.failed_attempts,
        };
        let retries = self.failed_attempts.saturating_sub(1);
        Finished {
            outcomes: Some(self.outcome_alone(worker, outcome, retries)),
            settles: vec![self.settles],
            retries,
            dead_letter: Some(DeadLetterMessage {
                payload: self.batch,
                partition: self.settles.partition,
                offset: self.settles.offset,
                attempts: self.failed_attempts,
                reason: self.reason,
            }),
        }
    }

    fn outcome_alone(&self, worker: &Worker, outcome: Outcome<'_>, retries: u32) -> Vec<u8> {
        self.with(|header, job| {
            let JobHeader {
                run_id, generation, ..
            } = header;
            let mut builder = OutcomeBatchBuilder::new(run_id, *generation, worker);
            builder.push(job, self.payload_digest, outcome);
            builder.add_retries(retries);
            builder.encode()
        })
    }
}

/// The finished work with the dead letter of a message that is not processed: its payload, or the
/// beginning of a payload that is too large. Its jobs are unknown, so they get no outcome, and
/// reconciliation reports them as missing.
pub fn dead_letter_of(message: Settled, payload: &[u8], mut reason: String) -> Finished {
    let bytes = payload.len();
    let kept = bytes.min(MAX_LETTER_BYTES);
    if kept < bytes {
        reason = format!("{reason} (the first {kept} of its {bytes} bytes)");
    }
    warn!(
        partition = message.partition,
        offset = message.offset,
        reason,
        "the whole message is a dead letter; its jobs get no outcome"
    );
    Finished {
        dead_letter: Some(DeadLetterMessage {
            payload: payload[..kept].to_vec(),
            partition: message.partition,
            offset: message.offset,
            attempts: 1,
            reason,
        }),
        outcomes: None,
        settles: vec![Settled {
            jobs: 1,
            jobs_in_message: 1,
            ..message
        }],
        retries: 0,
    }
}
