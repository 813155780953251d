//! A job on its own: in flight, or failed and waiting for its next attempt; and what goes out for it in
//! the end.

use std::sync::Arc;

use pipeline::offsets::Settled;
use pipeline::{Job, JobBatch, JobHeader, Outcome, OutcomeBatchBuilder, Worker, payload_digest};
use tracing::warn;

use super::Lease;
use crate::outbox::{DeadLetterMessage, Finished};

/// A dead letter keeps at most this much of a message. With its headers, a message that a broker has
/// just taken from somebody else would be too large for a producer (1,000,000 bytes) or for its topic,
/// and each worker that came to it would die of that.
pub const MAX_LETTER_BYTES: usize = 960 * 1024;

/// A job that is kept apart from its message.
#[derive(Debug)]
pub struct JobInHand {
    /// The job as a batch of one.
    pub batch: Vec<u8>,
    /// The digest of the payload that the executor was given last; of a job that was never tried, of
    /// that in its message.
    pub payload_digest: u64,
    /// Attempts that have failed.
    pub failed_attempts: u32,
    /// Workers that have died of it.
    pub deaths: u32,
    /// Why the last one failed.
    pub reason: String,
    /// The piece of its message that it is.
    pub settles: Settled,
    /// The lease of its partition.
    pub lease: Arc<Lease>,
    /// Its outcome joins those of other jobs; else it goes out alone, with the number of retries.
    pub joins_others: bool,
    /// The executor knows that its answer is not wanted any more.
    pub is_cancelled: bool,
}

impl JobInHand {
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

    /// Calls `f` with the job and what it had in common with its message's.
    pub fn with<T>(&self, f: impl FnOnce(&JobHeader, &Job<'_>) -> T) -> T {
        let batch = JobBatch::decode(&self.batch).expect("this process has encoded the job");
        f(batch.header(), &batch.job(0))
    }

    /// The job's outcome, which goes out alone.
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

    /// The job's dead letter, with the outcome that goes out behind it.
    pub fn bury(self, worker: &Worker) -> Finished {
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

/// The dead letter of a message that cannot be read: the message as it is, or its beginning where all of
/// it would be too large. Which jobs it held is not known, so it has no outcomes, and reconciliation
/// will miss them.
pub fn bury_message(message: Settled, payload: &[u8], mut reason: String) -> Finished {
    let bytes = payload.len();
    let kept = bytes.min(MAX_LETTER_BYTES);
    if kept < bytes {
        reason = format!("{reason} (the first {kept} of its {bytes} bytes)");
    }
    warn!(
        partition = message.partition,
        offset = message.offset,
        reason,
        "message goes to the dead-letter queue as it is"
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
