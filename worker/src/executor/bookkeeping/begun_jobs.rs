//! The jobs of a compute thread that were begun: in flight, waiting for a retry, or finished.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use computations::{JobError, Unable};
use pipeline::offsets::Settled;
use pipeline::{Computation, Job, JobBatch, JobHeader, Worker, payload_digest};
use tracing::debug;

use super::{Clock, died_too_often};

use crate::executor::detached_job::DetachedJob;
use crate::executor::outcomes::{Outcomes, outcome_of};
use crate::executor::watch::InFlight;
use crate::executor::{AttemptId, Done, Executor, Lease, Watch};
use crate::outbox::Finished;
use crate::retry::{RetryPolicy, RetryQueue};
use crate::state::in_flight::IsolatedJob;

/// The largest number of failed jobs that wait for a retry. With more, no job is begun.
pub const MAX_FAILED_JOBS: usize = 1_024;

/// The jobs of a compute thread that were begun.
#[derive(Debug)]
pub(super) struct BegunJobs {
    worker: Worker,
    retry: RetryPolicy,
    watch: Arc<Watch>,
    last_attempt: AttemptId,
    /// The computation for which the executor was prepared last.
    prepared: Option<Arc<Computation>>,
    /// The largest number of attempts in flight.
    pub(super) window: usize,
    /// The result of the last attempt that was answered at once.
    pub(super) result: Vec<u8>,
    pub(super) in_flight: Vec<(InFlight, DetachedJob)>,
    /// Whether the watch has the present attempts in flight.
    is_published: bool,
    done: Vec<Done>,
    pub(super) failed: RetryQueue<DetachedJob>,
    pub(super) outcomes: Outcomes,
    pub(super) flushed_at: Instant,
    pub(super) finished: VecDeque<Finished>,
    /// The reason for which jobs are left to other workers.
    pub(super) unable: Option<Unable>,
}

impl BegunJobs {
    pub(super) fn new(
        worker: Worker,
        retry: RetryPolicy,
        apart_by_partition: bool,
        watch: Arc<Watch>,
        now: Instant,
    ) -> Self {
        Self {
            outcomes: Outcomes::new(worker.clone(), apart_by_partition),
            worker,
            retry,
            watch,
            last_attempt: 0,
            prepared: None,
            window: 1,
            result: Vec::new(),
            in_flight: Vec::new(),
            is_published: true,
            done: Vec::new(),
            failed: RetryQueue::default(),
            flushed_at: now,
            finished: VecDeque::new(),
            unable: None,
        }
    }

    pub(super) fn is_window_full(&self) -> bool {
        self.in_flight.len() >= self.window
    }

    pub(super) fn too_many_failed(&self) -> bool {
        self.failed.len() > MAX_FAILED_JOBS
    }

    /// Prepares the executor for jobs of a batch.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        executor: &mut impl Executor,
        header: &JobHeader,
    ) -> Result<(), Unable> {
        let prepared = self.prepared.as_ref();
        // Comparing computations by value would be a third of the work for messages of one job.
        if !prepared.is_some_and(|own| Arc::ptr_eq(own, &header.computation)) {
            executor.prepare(&header.computation)?;
            self.prepared = Some(Arc::clone(&header.computation));
        }
        Ok(())
    }

    /// Begins an attempt at a job of this partition. An answer at once has its result in `result`.
    #[inline]
    pub(super) fn attempt(
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

    /// Begins one job of a message of which workers died. Returns the number of attempts begun.
    pub(super) fn begin_isolated(
        &mut self,
        executor: &mut impl Executor,
        batch: &JobBatch,
        isolated: IsolatedJob,
        message: &Settled,
        lease: &Arc<Lease>,
        clock: Clock<'_>,
    ) -> u32 {
        let Some(job) = batch.jobs().nth(isolated.position as usize) else {
            return 0;
        };
        let mut job = DetachedJob::new(batch.header(), &job, message, lease);
        job.joins_others = false;
        job.deaths = isolated.deaths;
        if isolated.is_to_be_buried() {
            job.failed_attempts = isolated.deaths;
            job.reason = died_too_often();
            self.finished.push_back(job.into_dead_letter(&self.worker));
            return 0;
        }
        self.begin_detached(executor, job, clock);
        1
    }

    /// Retries the failed job that is due first. Returns whether one was due.
    pub(super) fn retry_due(&mut self, executor: &mut impl Executor, clock: Clock<'_>) -> bool {
        if self.failed.is_empty() {
            return false;
        }
        let Some(job) = self.failed.pop_due(clock()) else {
            return false;
        };
        if !job.lease.has_ended() {
            self.begin_detached(executor, job, clock);
        }
        true
    }

    fn begin_detached(
        &mut self,
        executor: &mut impl Executor,
        mut job: DetachedJob,
        clock: Clock<'_>,
    ) {
        let partition = job.settles.partition;
        let attempt = job.with(|header, job| {
            self.prepare(executor, header)?;
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

    pub(super) fn keep_in_flight(&mut self, job: DetachedJob, now: Instant) {
        let attempt = InFlight {
            id: self.last_attempt,
            partition: job.settles.partition,
            since: now,
        };
        self.in_flight.push((attempt, job));
        self.is_published = false;
    }

    /// Copies the attempts in flight to the watch, if they have changed.
    pub(super) fn publish_in_flight(&mut self) {
        if !std::mem::replace(&mut self.is_published, true) {
            let in_flight = self.in_flight.iter().map(|(attempt, _)| *attempt);
            self.watch.set_in_flight(in_flight);
        }
    }

    /// Applies the answers of the executor. Returns whether there were any.
    pub(super) fn take_answers(&mut self, executor: &mut impl Executor, clock: Clock<'_>) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let mut all = std::mem::take(&mut self.done);
        executor.poll(&mut all);
        let any = !all.is_empty();
        for Done { id, answer } in all.drain(..) {
            let position = self.in_flight.iter().position(|(own, _)| own.id == id);
            let Some(position) = position else {
                // The attempt was answered before.
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
        self.is_published &= !any;
        any
    }

    /// Applies the answer to an attempt at a detached job.
    fn answer(&mut self, job: DetachedJob, answer: Result<&[u8], JobError>, clock: Clock<'_>) {
        let outcome = match answer.and_then(outcome_of) {
            Ok(outcome) => outcome,
            Err(error) => return self.fail(job, error, clock),
        };
        if !job.joins_others {
            self.finished.push_back(job.finish(&self.worker, outcome));
            return;
        }
        job.with(|header, own| {
            if !self.outcomes.accepts(header, &job.settles) {
                self.flush(clock());
            }
            self.outcomes.push(header, own, job.payload_digest, outcome);
            self.outcomes.settle(&job.settles, 1);
            if self.outcomes.is_full() {
                self.flush(clock());
            }
        });
    }

    /// Applies a failed attempt: the job waits for a retry, or becomes a dead letter.
    #[cold]
    pub(super) fn fail(&mut self, mut job: DetachedJob, error: JobError, clock: Clock<'_>) {
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
            None => self.finished.push_back(job.into_dead_letter(&self.worker)),
        }
    }

    /// Flushes the batch of outcomes to the finished work.
    pub(super) fn flush(&mut self, now: Instant) {
        self.flushed_at = now;
        self.finished.extend(self.outcomes.take());
    }
}
