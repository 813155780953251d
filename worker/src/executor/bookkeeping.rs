//! The bookkeeping of a compute thread, without clock, thread or broker. It is told of work units, leases
//! that end, the time and the shutdown, submits jobs to an [`Executor`] and takes its answers, and gives
//! out what is finished.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use computations::{JobError, Unable};
use pipeline::job::Cursor;
use pipeline::mark::MAX_DEATHS;
use pipeline::offsets::Settled;
use pipeline::{DecodeError, Job, JobBatch, JobBatchDecoder, Worker, payload_digest};
use tracing::debug;

use super::in_hand::{JobInHand, bury_message};
use super::outcomes::{Outcomes, outcome_of};
use super::watch::InFlight;
use super::{AttemptId, Done, Executor, Lease, Watch, WorkUnit};
use crate::desk::CarefulJob;
use crate::outbox::Finished;
use crate::retry::{RetryPolicy, RetryQueue};

/// Outcomes wait at most about this long for others before they are handed on, however slow jobs are.
pub const HAND_ON_AFTER: Duration = Duration::from_millis(100);

/// Failed jobs that wait for their next attempt, at most. With more of them no job is begun.
pub const MAX_FAILED_JOBS: usize = 1_024;

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
    jobs: Jobs,
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

/// The jobs that were begun: in flight, waiting for their next attempt, or finished.
#[derive(Debug)]
struct Jobs {
    worker: Worker,
    retry: RetryPolicy,
    watch: Arc<Watch>,
    last_attempt: AttemptId,
    /// How many attempts may be in flight.
    window: usize,
    /// The result of the last attempt that was answered at once.
    result: Vec<u8>,
    in_flight: Vec<(InFlight, JobInHand)>,
    done: Vec<Done>,
    failed: RetryQueue<JobInHand>,
    outcomes: Outcomes,
    handed_on_at: Instant,
    finished: VecDeque<Finished>,
    /// Why jobs were left to other workers.
    unable: Option<Unable>,
}

/// Where the time comes from, which is asked for only now and then.
type Clock<'a> = &'a mut dyn FnMut() -> Instant;

impl Bookkeeping {
    /// The bookkeeping of a thread of this worker. `apart_by_partition`: a batch of outcomes is of one
    /// partition of the jobs topic.
    pub fn new(
        worker: Worker,
        retry: RetryPolicy,
        apart_by_partition: bool,
        watch: Arc<Watch>,
        now: Instant,
    ) -> Self {
        Self {
            unit: None,
            next_record: 0,
            message: None,
            decoder: JobBatchDecoder::default(),
            jobs: Jobs {
                outcomes: Outcomes::new(worker.clone(), apart_by_partition),
                worker,
                retry,
                watch,
                last_attempt: 0,
                window: 1,
                result: Vec::new(),
                in_flight: Vec::new(),
                done: Vec::new(),
                failed: RetryQueue::default(),
                handed_on_at: now,
                finished: VecDeque::new(),
                unable: None,
            },
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

    /// Whether failed jobs wait for their next attempt.
    pub fn has_failed_jobs(&self) -> bool {
        !self.jobs.failed.is_empty()
    }

    /// Takes what is finished, in order.
    pub fn take_finished(&mut self) -> impl Iterator<Item = Finished> {
        self.jobs.finished.drain(..)
    }

    /// Does what comes next: takes answers, tries a failed job again that is due, or else begins jobs of
    /// the work unit, at most so many.
    pub fn step(&mut self, executor: &mut impl Executor, at_most: u32, clock: Clock<'_>) -> Step {
        let mut all_begun = 0;
        let answered = self.jobs.take_answers(executor, clock);
        if answered && !self.takes_message() {
            self.jobs.hand_on(clock());
        }
        self.jobs.window = executor.window().max(1);
        if !self.jobs.is_window_full() && self.jobs.try_again(executor, clock) {
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
        if let Err(unable) = executor.prepare(&header.computation) {
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
        if unit.job.is_some_and(CarefulJob::message_is_to_be_buried) {
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

impl Jobs {
    fn is_window_full(&self) -> bool {
        self.in_flight.len() >= self.window
    }

    fn too_many_failed(&self) -> bool {
        self.failed.len() > MAX_FAILED_JOBS
    }

    /// One attempt at a job of this partition. Where it is answered at once, `result` has the result.
    #[inline]
    fn attempt(
        &mut self,
        executor: &mut impl Executor,
        job: &Job<'_>,
        partition: i32,
    ) -> Poll<Result<(), JobError>> {
        self.last_attempt += 1;
        self.result.clear();
        self.watch.begin(partition);
        let answer = executor.submit(self.last_attempt, job, &mut self.result);
        self.watch.end();
        answer
    }

    /// One job of a message of which workers have died.
    fn work_on_job(
        &mut self,
        executor: &mut impl Executor,
        batch: &JobBatch,
        careful: CarefulJob,
        message: &Settled,
        lease: &Arc<Lease>,
        clock: Clock<'_>,
    ) -> u32 {
        let Some(job) = batch.jobs().nth(careful.position as usize) else {
            return 0;
        };
        let mut job = JobInHand::new(batch.header(), &job, message, lease);
        job.joins_others = false;
        job.deaths = careful.deaths;
        if careful.is_to_be_buried() {
            job.failed_attempts = careful.deaths;
            job.reason = died_too_often();
            self.finished.push_back(job.bury(&self.worker));
            return 0;
        }
        self.try_alone(executor, job, clock);
        1
    }

    /// Tries the failed job again that is due first. Returns whether one was.
    fn try_again(&mut self, executor: &mut impl Executor, clock: Clock<'_>) -> bool {
        if self.failed.is_empty() {
            return false;
        }
        let Some(job) = self.failed.pop_due(clock()) else {
            return false;
        };
        if !job.lease.has_ended() {
            self.try_alone(executor, job, clock);
        }
        true
    }

    fn try_alone(&mut self, executor: &mut impl Executor, mut job: JobInHand, clock: Clock<'_>) {
        let partition = job.settles.partition;
        let attempt = job.with(|header, job| {
            executor.prepare(&header.computation)?;
            let digest = payload_digest(job.payload);
            Ok((digest, self.attempt(executor, job, partition)))
        });
        let answer = match attempt {
            Ok((digest, answer)) => {
                job.payload_digest = digest;
                answer
            }
            Err(unable) => {
                self.unable.get_or_insert(unable);
                return;
            }
        };
        match answer {
            Poll::Ready(answer) => {
                let result = std::mem::take(&mut self.result);
                self.answer(job, answer.map(|()| result.as_slice()), clock);
                self.result = result;
            }
            Poll::Pending => self.keep_in_flight(job, clock()),
        }
    }

    fn keep_in_flight(&mut self, job: JobInHand, now: Instant) {
        let attempt = InFlight {
            id: self.last_attempt,
            partition: job.settles.partition,
            since: now,
        };
        self.in_flight.push((attempt, job));
        self.show_in_flight();
    }

    fn show_in_flight(&self) {
        let in_flight = self.in_flight.iter().map(|(attempt, _)| *attempt);
        self.watch.set_in_flight(in_flight);
    }

    /// Takes the answers that have come. Returns whether there were any.
    fn take_answers(&mut self, executor: &mut impl Executor, clock: Clock<'_>) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let mut all = std::mem::take(&mut self.done);
        executor.poll(&mut all);
        let any = !all.is_empty();
        for Done { id, answer } in all.drain(..) {
            let position = self.in_flight.iter().position(|(own, _)| own.id == id);
            let Some(position) = position else {
                // It was answered before.
                continue;
            };
            let (_, job) = self.in_flight.remove(position);
            if job.lease.has_ended() {
                continue;
            }
            match &answer {
                Ok(result) => self.answer(job, Ok(result), clock),
                Err(error) => self.answer(job, Err(error.clone()), clock),
            }
        }
        self.done = all;
        if any {
            self.show_in_flight();
        }
        any
    }

    /// An attempt at a job in hand was answered.
    fn answer(&mut self, job: JobInHand, answer: Result<&[u8], JobError>, clock: Clock<'_>) {
        let outcome = match answer.and_then(outcome_of) {
            Ok(outcome) => outcome,
            Err(error) => return self.fail(job, error, clock),
        };
        if !job.joins_others {
            self.finished.push_back(job.finish(&self.worker, outcome));
            return;
        }
        job.with(|header, own| {
            if !self.outcomes.takes(header, &job.settles) {
                self.hand_on(clock());
            }
            self.outcomes.push(header, own, job.payload_digest, outcome);
            self.outcomes.settle(&job.settles, 1);
            if self.outcomes.is_full() {
                self.hand_on(clock());
            }
        });
    }

    /// An attempt has failed: the job is tried again after a pause, or is a dead letter.
    #[cold]
    fn fail(&mut self, mut job: JobInHand, error: JobError, clock: Clock<'_>) {
        job.failed_attempts += 1;
        job.joins_others = false;
        let pause = match error {
            JobError::Transient(_) => self.retry.pause_after(job.failed_attempts),
            JobError::Permanent(_) => None,
        };
        job.reason = error.into_reason();
        match pause {
            Some(pause) => {
                debug!(
                    reason = job.reason,
                    attempts = job.failed_attempts,
                    "job failed"
                );
                self.failed.push(clock() + pause, job);
            }
            None => self.finished.push_back(job.bury(&self.worker)),
        }
    }

    /// Hands on the outcomes that there are.
    fn hand_on(&mut self, now: Instant) {
        self.handed_on_at = now;
        self.finished.extend(self.outcomes.take());
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
