//! The bookkeeping of a compute thread, without clock, thread or broker. It is given work units, the time
//! and the shutdown, looks at leases that may have ended, submits jobs to an [`Executor`] and takes its
//! answers, and gives out what is finished.

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

use super::in_hand::{JobInHand, bury_message};
use super::outcomes::outcome_of;
use super::{Executor, Lease, Watch, WorkUnit};

use crate::outbox::Finished;
use crate::retry::{RetryPolicy, RetryQueue};
use crate::state::in_flight::IsolatedJob;
use begun_jobs::BegunJobs;

/// Outcomes wait at most about this long for others before they are handed on, however slow jobs are.
pub const HAND_ON_AFTER: Duration = Duration::from_millis(100);

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Jobs of the work unit that were begun.
    pub begun: u32,
    /// There was nothing to do: it waits for an answer, a work unit, or the time.
    pub is_idle: bool,
}

/// Which job of a thread's work units goes next, and what becomes of each.
#[derive(Debug)]
pub struct Bookkeeping {
    unit: Option<WorkUnit>,
    /// The unit's record that comes next, by its position in the batch.
    next_record: usize,
    /// The message that is under way; the decoder holds its jobs.
    message: Option<Message>,
    decoder: JobBatchDecoder,
    jobs: BegunJobs,
    cancellations: SharedCancellations,
    is_stopped: bool,
}

/// A message of which some jobs were not begun.
#[derive(Debug)]
struct Message {
    cursor: Cursor,
    /// The message, as its jobs settle it.
    settles: Settled,
    lease: Arc<Lease>,
}

/// Where the time comes from, which is asked for only now and then.
type Clock<'a> = &'a mut dyn FnMut() -> Instant;

impl Bookkeeping {
    /// The bookkeeping of a thread of this worker. `apart_by_partition`: a batch of outcomes is of one
    /// partition of the jobs topic. `cancellations`: what is passed over.
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

    /// Why jobs were left to other workers, if they were: nothing of them is settled, and the worker is
    /// to leave, for it would only outrun those that can compute them.
    pub fn unable(&self) -> Option<&Unable> {
        self.jobs.unable.as_ref()
    }

    /// Whether it can take a work unit.
    pub fn wants_unit(&self) -> bool {
        self.unit.is_none() && !self.jobs.too_many_failed()
    }

    /// Takes a work unit, which it [wants](Self::wants_unit).
    pub fn begin(&mut self, unit: WorkUnit, now: Instant) {
        if self.is_stopped {
            return;
        }
        self.next_record = unit.range.start;
        self.unit = Some(unit);
        if self.jobs.outcomes.is_empty() {
            self.jobs.handed_on_at = now;
        }
    }

    /// Begins nothing any more: what is in flight may be answered yet, what has failed is not tried
    /// again, and what is finished is handed on.
    pub fn stop(&mut self, now: Instant) {
        self.is_stopped = true;
        self.unit = None;
        self.message = None;
        self.jobs.failed = RetryQueue::default();
        self.jobs.hand_on(now);
    }

    /// Takes note of the time and of leases that have ended: their work is dropped, and outcomes that
    /// have waited long enough are handed on.
    pub fn look(&mut self, executor: &mut impl Executor, now: Instant) {
        for (attempt, job) in &mut self.jobs.in_flight {
            if job.lease.has_ended() && !std::mem::replace(&mut job.is_cancelled, true) {
                executor.cancel(attempt.id);
            }
        }
        let message = self.message.as_ref();
        if message.is_some_and(|own| own.lease.has_ended()) {
            self.message = None;
        } else if now.saturating_duration_since(self.jobs.handed_on_at) >= HAND_ON_AFTER {
            self.jobs.hand_on(now);
        }
    }

    /// When it is to be called again, though neither a work unit nor an answer has come.
    pub fn next_call(&self) -> Option<Instant> {
        let jobs = &self.jobs;
        let hand_on = (!jobs.outcomes.is_empty()).then(|| jobs.handed_on_at + HAND_ON_AFTER);
        let retry = jobs.failed.next_due().filter(|_| !jobs.is_window_full());
        retry.into_iter().chain(hand_on).min()
    }

    /// Whether attempts are in flight.
    pub fn is_in_flight(&self) -> bool {
        !self.jobs.in_flight.is_empty()
    }

    /// Takes what is finished, in order.
    pub fn take_finished(&mut self) -> impl Iterator<Item = Finished> {
        self.jobs.finished.drain(..)
    }

    /// Does what comes next: takes answers, tries a failed job again that is due, or else begins jobs of
    /// the work unit, of which `at_most` bounds the number.
    pub fn step(&mut self, executor: &mut impl Executor, at_most: u32, clock: Clock<'_>) -> Step {
        let mut all_begun = 0;
        let answered = self.jobs.take_answers(executor, clock);
        if answered && !self.takes_message() {
            self.jobs.hand_on(clock());
        }
        self.jobs.window = executor.window().max(1);
        if !self.jobs.is_window_full() && self.jobs.try_again(executor, clock) {
            self.jobs.show_in_flight();
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
            // Nothing is begun or answered soon that what is finished could wait for.
            self.jobs.hand_on(clock());
        }
        self.jobs.show_in_flight();
        Step {
            begun: all_begun,
            is_idle,
        }
    }

    /// Whether outcomes of the message that is under way may join those that are there.
    fn takes_message(&self) -> bool {
        let message = self.message.as_ref().zip(self.decoder.batch());
        message.is_none_or(|(own, batch)| self.jobs.outcomes.takes(batch.header(), &own.settles))
    }

    /// Begins jobs of the message that is under way. Returns how many.
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
            // The message is settled by a worker that can compute its jobs.
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
                    let job = JobInHand::new(header, &job, &message.settles, &message.lease);
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
                        own.hand_on(clock());
                    }
                }
                Err(error) => {
                    let job = JobInHand::new(header, &job, &message.settles, &message.lease);
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

    /// Goes on to the next message of the work unit, or to its end.
    fn next_message(&mut self, executor: &mut impl Executor, clock: Clock<'_>) -> u32 {
        let Some(unit) = &self.unit else {
            return 0;
        };
        let in_range = unit.range.contains(&self.next_record);
        let record = unit.records.get(self.next_record).filter(|_| in_range);
        let Some(record) = record else {
            self.unit = None;
            // What is in flight may join what is finished.
            if self.jobs.in_flight.is_empty() {
                self.jobs.hand_on(clock());
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
            // Even to bury the job has killed, so the message is not looked into any more.
            let letter = bury_message(message, record.payload, died_too_often());
            self.jobs.finished.push_back(letter);
            return 0;
        }
        let batch = match self.decoder.decode(record.payload) {
            Ok(batch) => batch,
            Err(error) => {
                let letter = bury_message(message, record.payload, undecodable(&error));
                self.jobs.finished.push_back(letter);
                return 0;
            }
        };
        message.jobs_in_message = batch.jobs_count();
        let place = (record.partition, record.offset);
        if (self.cancellations).covers(batch.run_id(), batch.generation(), place) {
            // Settled without an outcome: of a job that would be tried alone, that job.
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
                .work_on_job(executor, batch, job, &message, lease, clock);
        }
        if !self.jobs.outcomes.takes(batch.header(), &message) {
            self.jobs.hand_on(clock());
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
