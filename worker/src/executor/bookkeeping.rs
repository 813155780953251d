//! The bookkeeping of a compute thread, without clock, thread or broker. The caller passes work units,
//! the time and the shutdown. The bookkeeping checks the leases, submits jobs to an [`Executor`], applies
//! its answers, and returns finished work.

mod begun_jobs;

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use computations::Unable;
use kafka::SharedCancellations;
use pipeline::job::Cursor;
use pipeline::mark::MAX_DEATHS;
use pipeline::offsets::Settled;
use pipeline::{DecodeError, JobBatchDecoder, Worker, payload_digest};

use super::detached_job::{DetachedJob, dead_letter_of};
use super::outcomes::outcome_of;
use super::{Executor, Lease, Watch, WorkUnit};

use crate::outbox::Finished;
use crate::retry::{RetryPolicy, RetryQueue};
use crate::state::in_flight::IsolatedJob;
use begun_jobs::BegunJobs;

/// The approximate time after which a batch of outcomes is flushed before it is full.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The number of jobs of the work unit that were begun.
    pub begun: u32,
    /// Whether there was nothing to do before the next answer, work unit or due time.
    pub is_idle: bool,
}

/// The bookkeeping of a compute thread: the work unit in progress, and the jobs that were begun.
#[derive(Debug)]
pub struct Bookkeeping {
    unit: Option<WorkUnit>,
    /// The position in the batch of the unit's next record.
    next_record: usize,
    /// The message in progress, whose jobs the decoder holds.
    message: Option<Message>,
    decoder: JobBatchDecoder,
    jobs: BegunJobs,
    cancellations: SharedCancellations,
    is_stopped: bool,
}

/// A message of which some jobs are not begun yet.
#[derive(Debug)]
struct Message {
    cursor: Cursor,
    /// The message's partition, epoch, offset and number of jobs, to settle its jobs.
    settles: Settled,
    lease: Arc<Lease>,
}

/// The source of the time, which is read only where it is needed.
type Clock<'a> = &'a mut dyn FnMut() -> Instant;

impl Bookkeeping {
    /// The bookkeeping of a thread of this worker. `apart_by_partition`: whether all outcomes of a batch
    /// are of one partition of the jobs topic. `cancellations`: the cancelled runs, whose jobs are
    /// skipped.
    pub fn new(
        worker: Worker,
        retry: RetryPolicy,
        apart_by_partition: bool,
        watch: Arc<Watch>,
        cancellations: SharedCancellations,
        now: Instant,
    ) -> Self {
        Self {
            unit: None,
            next_record: 0,
            message: None,
            decoder: JobBatchDecoder::default(),
            jobs: BegunJobs::new(worker, retry, apart_by_partition, watch, now),
            cancellations,
            is_stopped: false,
        }
    }

    /// The reason for which jobs are left to other workers; `None` where all were computed. Such jobs are
    /// not settled, and the worker has to shut down, because it would take further ones from the workers
    /// that can compute them.
    pub fn unable(&self) -> Option<&Unable> {
        self.jobs.unable.as_ref()
    }

    /// Whether it can take a work unit.
    pub fn wants_unit(&self) -> bool {
        self.unit.is_none() && !self.jobs.too_many_failed()
    }

    /// Begins a work unit. The caller checks [`wants_unit`](Self::wants_unit) first.
    pub fn begin(&mut self, unit: WorkUnit, now: Instant) {
        if self.is_stopped {
            return;
        }
        self.next_record = unit.range.start;
        self.unit = Some(unit);
        if self.jobs.outcomes.is_empty() {
            self.jobs.flushed_at = now;
        }
    }

    /// Stops: no further job is begun, failed jobs are not retried, and finished outcomes are flushed.
    /// Jobs in flight may still be answered.
    pub fn stop(&mut self, now: Instant) {
        self.is_stopped = true;
        self.unit = None;
        self.message = None;
        self.jobs.failed = RetryQueue::default();
        self.jobs.flush(now);
    }

    /// Checks the time and the leases: work of ended leases is dropped, and outcomes that have waited
    /// for `FLUSH_INTERVAL` are flushed.
    pub fn look(&mut self, executor: &mut impl Executor, now: Instant) {
        for (attempt, job) in &mut self.jobs.in_flight {
            if job.lease.has_ended() && !std::mem::replace(&mut job.is_cancelled, true) {
                executor.cancel(attempt.id);
            }
        }
        let message = self.message.as_ref();
        if message.is_some_and(|own| own.lease.has_ended()) {
            self.message = None;
        } else if now.saturating_duration_since(self.jobs.flushed_at) >= FLUSH_INTERVAL {
            self.jobs.flush(now);
        }
    }

    /// The time of the next call, if there is no work unit or answer before; `None` for no such call.
    pub fn next_call(&self) -> Option<Instant> {
        let jobs = &self.jobs;
        let flush = (!jobs.outcomes.is_empty()).then(|| jobs.flushed_at + FLUSH_INTERVAL);
        let retry = jobs.failed.next_due().filter(|_| !jobs.is_window_full());
        retry.into_iter().chain(flush).min()
    }

    /// Whether attempts are in flight.
    pub fn is_in_flight(&self) -> bool {
        !self.jobs.in_flight.is_empty()
    }

    /// Removes and returns the finished work, in order.
    pub fn take_finished(&mut self) -> impl Iterator<Item = Finished> {
        self.jobs.finished.drain(..)
    }

    /// Does the next step: applies answers, and retries a failed job that is due, or else begins at most
    /// `at_most` jobs of the work unit.
    pub fn step(&mut self, executor: &mut impl Executor, at_most: u32, clock: Clock<'_>) -> Step {
        let mut all_begun = 0;
        let answered = self.jobs.take_answers(executor, clock);
        if answered && !self.accepts_message() {
            self.jobs.flush(clock());
        }
        self.jobs.window = executor.window().max(1);
        if !self.jobs.is_window_full() && self.jobs.retry_due(executor, clock) {
            self.jobs.publish_in_flight();
            return Step {
                begun: 0,
                is_idle: false,
            };
        }
        let mut is_idle = !answered;
        let mut left = at_most;
        while left > 0 && !self.jobs.is_window_full() && !self.jobs.too_many_failed() {
            let begun = if self.message.is_some() {
                self.jobs_of_message(executor, left, clock)
            } else if self.unit.is_some() {
                self.next_message(executor, clock)
            } else {
                break;
            };
            all_begun += begun;
            left -= begun.max(1);
            is_idle = false;
            if self.unit.is_none() {
                break;
            }
        }
        if self.jobs.too_many_failed() || (is_idle && self.jobs.in_flight.is_empty()) {
            // No job is begun or answered soon, so waiting would not fill the batch.
            self.jobs.flush(clock());
        }
        self.jobs.publish_in_flight();
        Step {
            begun: all_begun,
            is_idle,
        }
    }

    /// Whether outcomes of the message in progress may be added to the batch.
    fn accepts_message(&self) -> bool {
        let message = self.message.as_ref().zip(self.decoder.batch());
        message.is_none_or(|(own, batch)| self.jobs.outcomes.accepts(batch.header(), &own.settles))
    }

    /// Begins jobs of the message in progress, at most `at_most`. Returns their number.
    #[inline]
    fn jobs_of_message(
        &mut self,
        executor: &mut impl Executor,
        at_most: u32,
        clock: Clock<'_>,
    ) -> u32 {
        let Some((message, batch)) = self.message.as_mut().zip(self.decoder.batch()) else {
            return 0;
        };
        let own = &mut self.jobs;
        let header = batch.header();
        if let Err(unable) = own.prepare(executor, header) {
            // A worker that can compute the jobs of the message settles them.
            self.message = None;
            own.unable.get_or_insert(unable);
            return 0;
        }
        let mut jobs = batch.jobs_from(message.cursor);
        let (mut begun, mut pushed, mut is_over) = (0, 0, false);
        while begun < at_most {
            let Some(job) = jobs.next() else {
                is_over = true;
                break;
            };
            begun += 1;
            let answer = match own.attempt(executor, &job, message.settles.partition) {
                Poll::Ready(Ok(())) => Ok(()),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => {
                    let job = DetachedJob::new(header, &job, &message.settles, &message.lease);
                    own.keep_in_flight(job, clock());
                    if own.is_window_full() {
                        break;
                    }
                    continue;
                }
            };
            match answer.and_then(|()| outcome_of(&own.result)) {
                Ok(outcome) => {
                    let digest = payload_digest(job.payload);
                    own.outcomes.push(header, &job, digest, outcome);
                    pushed += 1;
                    if own.outcomes.is_full() {
                        own.outcomes.settle(&message.settles, pushed);
                        pushed = 0;
                        own.flush(clock());
                    }
                }
                Err(error) => {
                    let job = DetachedJob::new(header, &job, &message.settles, &message.lease);
                    own.fail(job, error, clock);
                    if own.too_many_failed() {
                        break;
                    }
                }
            }
        }
        own.outcomes.settle(&message.settles, pushed);
        message.cursor = jobs.cursor();
        if is_over {
            self.message = None;
        }
        begun
    }

    /// Begins the next message of the work unit, or ends the unit. Returns the number of jobs begun.
    fn next_message(&mut self, executor: &mut impl Executor, clock: Clock<'_>) -> u32 {
        let Some(unit) = &self.unit else {
            return 0;
        };
        let in_range = unit.range.contains(&self.next_record);
        let record = unit.records.get(self.next_record).filter(|_| in_range);
        let Some(record) = record else {
            self.unit = None;
            // The outcomes of jobs in flight may still be added to the batch.
            if self.jobs.in_flight.is_empty() {
                self.jobs.flush(clock());
            }
            return 0;
        };
        self.next_record += 1;
        let lease = unit.leases.get(&record.partition);
        let Some(lease) = lease.filter(|lease| !lease.has_ended()) else {
            return 0;
        };
        let mut message = Settled {
            partition: record.partition,
            epoch: lease.epoch(),
            offset: record.offset,
            jobs: 0,
            jobs_in_message: 0,
        };
        if unit.job.is_some_and(IsolatedJob::message_is_to_be_buried) {
            // Workers died while they wrote the job's dead letter, so the message is not decoded again.
            let letter = dead_letter_of(message, record.payload, died_too_often());
            self.jobs.finished.push_back(letter);
            return 0;
        }
        let batch = match self.decoder.decode(record.payload) {
            Ok(batch) => batch,
            Err(error) => {
                let letter = dead_letter_of(message, record.payload, undecodable(&error));
                self.jobs.finished.push_back(letter);
                return 0;
            }
        };
        message.jobs_in_message = batch.jobs_count();
        let place = (record.partition, record.offset);
        if (self.cancellations).covers(batch.run_id(), batch.generation(), place) {
            // Its jobs are settled without an outcome; of an isolated job, that job alone.
            let jobs = unit.job.map_or(message.jobs_in_message, |_| 1);
            self.jobs.finished.push_back(Finished {
                settles: vec![Settled { jobs, ..message }],
                ..Finished::default()
            });
            return 0;
        }
        if let Some(job) = unit.job {
            return self
                .jobs
                .begin_isolated(executor, batch, job, &message, lease, clock);
        }
        if !self.jobs.outcomes.accepts(batch.header(), &message) {
            self.jobs.flush(clock());
        }
        self.message = Some(Message {
            cursor: Cursor::default(),
            settles: message,
            lease: Arc::clone(lease),
        });
        0
    }
}

fn undecodable(error: &DecodeError) -> String {
    match error {
        DecodeError::Protobuf { source, .. } => format!("{error}: {source}"),
        DecodeError::Invalid { .. } | DecodeError::Unknown { .. } => error.to_string(),
    }
}

fn died_too_often() -> String {
    format!("{MAX_DEATHS} workers died of it")
}

#[cfg(test)]
mod tests;
