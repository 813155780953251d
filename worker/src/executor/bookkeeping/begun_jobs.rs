//! The jobs of a compute thread that were begun: in flight, waiting for their next attempt, or finished.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use computations::{JobError, Unable};
use pipeline::offsets::Settled;
use pipeline::{Computation, Job, JobBatch, JobHeader, Worker, payload_digest};
use tracing::debug;

use super::{Clock, died_too_often};

use crate::executor::in_hand::JobInHand;
use crate::executor::outcomes::{Outcomes, outcome_of};
use crate::executor::watch::InFlight;
use crate::executor::{AttemptId, Done, Executor, Lease, Watch};
use crate::outbox::Finished;
use crate::retry::{RetryPolicy, RetryQueue};
use crate::state::in_flight::IsolatedJob;

/// Failed jobs that wait for their next attempt, at most. With more of them no job is begun.
pub const MAX_FAILED_JOBS: usize = 1_024;

/// What has become of the jobs that were begun.
#[derive(Debug)]
pub(super) struct BegunJobs {
    worker: Worker,
    retry: RetryPolicy,
    watch: Arc<Watch>,
    last_attempt: AttemptId,
    /// What the executor was prepared for last.
    prepared: Option<Arc<Computation>>,
    /// How many attempts may be in flight.
    pub(super) window: usize,
    /// The result of the last attempt that was answered at once.
    pub(super) result: Vec<u8>,
    pub(super) in_flight: Vec<(InFlight, JobInHand)>,
    /// Whether the watch knows what is in flight.
    is_shown: bool,
    done: Vec<Done>,
    pub(super) failed: RetryQueue<JobInHand>,
    pub(super) outcomes: Outcomes,
    pub(super) handed_on_at: Instant,
    pub(super) finished: VecDeque<Finished>,
    /// Why jobs were left to other workers.
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
            is_shown: true,
            done: Vec::new(),
            failed: RetryQueue::default(),
            handed_on_at: now,
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

    /// Has the executor ready for jobs of a batch.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        executor: &mut impl Executor,
        header: &JobHeader,
    ) -> Result<(), Unable> {
        let prepared = self.prepared.as_ref();
        // With one job a message, to compare what the computations are would be a third of the work.
        if !prepared.is_some_and(|own| Arc::ptr_eq(own, &header.computation)) {
            executor.prepare(&header.computation)?;
            self.prepared = Some(Arc::clone(&header.computation));
        }
        Ok(())
    }

    /// One attempt at a job of this partition. Where it is answered at once, `result` has the result.
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

    /// One job of a message of which workers have died.
    pub(super) fn work_on_job(
        &mut self,
        executor: &mut impl Executor,
        batch: &JobBatch,
        careful: IsolatedJob,
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
    pub(super) fn try_again(&mut self, executor: &mut impl Executor, clock: Clock<'_>) -> bool {
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

    pub(super) fn keep_in_flight(&mut self, job: JobInHand, now: Instant) {
        let attempt = InFlight {
            id: self.last_attempt,
            partition: job.settles.partition,
            since: now,
        };
        self.in_flight.push((attempt, job));
        self.is_shown = false;
    }

    /// Lets the watch know what is in flight, if that has changed.
    pub(super) fn show_in_flight(&mut self) {
        if !std::mem::replace(&mut self.is_shown, true) {
            let in_flight = self.in_flight.iter().map(|(attempt, _)| *attempt);
            self.watch.set_in_flight(in_flight);
        }
    }

    /// Takes the answers that have come. Returns whether there were any.
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
        self.is_shown &= !any;
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
    pub(super) fn fail(&mut self, mut job: JobInHand, error: JobError, clock: Clock<'_>) {
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
    pub(super) fn hand_on(&mut self, now: Instant) {
        self.handed_on_at = now;
        self.finished.extend(self.outcomes.take());
    }
}
