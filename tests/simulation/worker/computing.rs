//! The worker's compute threads, a job or what comes between two of them at each step: what is
//! computed, tried again or buried, and handed to the data mover.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pipeline::mark::MAX_DEATHS;
use pipeline::offsets::Settled;
use pipeline::{Job, JobBatch, Outcome, OutcomeBatchBuilder, Tally};
use worker::compute::compute;
use worker::desk::CarefulJob;
use worker::outbox::{DeadLetterMessage, Finished};
use worker::retry::RetryPolicy;

use super::{Current, FailedJob, Flow, Lease, Record, Stop, WorkerProcess};
use crate::history::Shared;
use crate::invariants::{Fate, violated};
use crate::seen::Seen;

/// Attempts at a job that fails.
const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(3).expect("not zero");

/// What one attempt at a job came to.
enum Attempt {
    Done(Result<Tally, String>),
    Kills,
    Hangs,
}

impl WorkerProcess {
    /// One step of a compute thread: a job, or what comes between two of them.
    pub fn compute(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        if let Some(failed) = self.threads[number].failed.pop_due(shared.now()) {
            return self.try_again(number, failed, shared);
        }
        if self.threads[number].current.is_some() {
            return self.next_job(number, shared);
        }
        let Some(slice) = &mut self.threads[number].slice else {
            self.threads[number].slice = self.slices.pop_front();
            return Ok(());
        };
        if slice.next == slice.end {
            self.threads[number].slice = None;
            self.hand_on(number);
            return Ok(());
        }
        let record = slice.records[slice.next].clone();
        let job = slice.job;
        let lease = slice.leases.get(&record.partition).map(Rc::clone);
        slice.next += 1;
        let Some(lease) = lease.filter(|lease| !lease.ended.get()) else {
            return Ok(());
        };
        if job.is_some_and(CarefulJob::message_is_to_be_buried) {
            shared.saw(Seen::BuriedWhole);
            self.bury_message(&record, &lease);
            return Ok(());
        }
        match (JobBatch::decode(&record.payload), job) {
            (Ok(batch), None) => {
                let is_other = self.threads[number].settles.last().is_some_and(|last| {
                    (last.partition, last.epoch) != (record.partition, lease.epoch)
                });
                if is_other && self.committer.is_some() {
                    self.hand_on(number);
                }
                let settles = settles(&record, &lease, &batch, 0);
                self.threads[number].current = Some(Current {
                    batch: Rc::new(batch),
                    position: 0,
                    settles,
                    lease,
                });
                Ok(())
            }
            (Ok(batch), Some(job)) => self.work_on_job(number, &record, &batch, job, lease, shared),
            (Err(_), _) => {
                shared.saw(Seen::UndecodableMessage);
                self.bury_message(&record, &lease);
                Ok(())
            }
        }
    }

    fn next_job(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        let thread = &mut self.threads[number];
        let Some(mut current) = thread.current.take() else {
            return Ok(());
        };
        let batch = Rc::clone(&current.batch);
        let Some(job) = batch.jobs().nth(current.position) else {
            settle(&mut thread.settles, &mut current.settles);
            return Ok(());
        };
        current.position += 1;
        match self.attempt(number, &job, current.settles.partition, shared)? {
            None => return Ok(()),
            Some(Ok(tally)) => {
                let outcomes = &mut self.threads[number].outcomes;
                let builder = outcomes.get_or_insert_with(|| {
                    OutcomeBatchBuilder::new(batch.run_id(), &self.name)
                        .in_generation(batch.generation())
                });
                builder.push(&job, Outcome::Counted(tally));
                current.settles.jobs += 1;
            }
            Some(Err(reason)) => {
                settle(&mut self.threads[number].settles, &mut current.settles);
                let failed = FailedJob {
                    batch: job.alone_in(batch.run_id(), batch.generation()),
                    failed_attempts: 1,
                    reason,
                    settles: Settled {
                        jobs: 1,
                        ..current.settles
                    },
                    lease: Rc::clone(&current.lease),
                };
                self.again_or_bury(number, failed, shared);
            }
        }
        if shared.rng.chance(1, 4) {
            // A look at the clock.
            if current.lease.ended.get() {
                settle(&mut self.threads[number].settles, &mut current.settles);
                return Ok(());
            }
            settle(&mut self.threads[number].settles, &mut current.settles);
            self.hand_on(number);
        }
        self.threads[number].current = Some(current);
        Ok(())
    }

    fn work_on_job(
        &mut self,
        number: usize,
        record: &Record,
        batch: &JobBatch,
        careful: CarefulJob,
        lease: Rc<Lease>,
        shared: &mut Shared,
    ) -> Flow<()> {
        let Some(job) = batch.jobs().nth(careful.position as usize) else {
            return Ok(());
        };
        let settles = settles(record, &lease, batch, 1);
        shared.tell(|| {
            let CarefulJob { position, deaths } = careful;
            format!(
                "{} tries job {} alone, position {position} with {deaths} deaths",
                self.name.id, job.index
            )
        });
        let failed = |reason, failed_attempts| FailedJob {
            batch: job.alone_in(batch.run_id(), batch.generation()),
            failed_attempts,
            reason,
            settles,
            lease: Rc::clone(&lease),
        };
        if careful.is_to_be_buried() {
            if shared.fault(1, 2) {
                shared.saw(Seen::KilledWhileBurying);
                return Err(Stop::Dies(None));
            }
            shared.saw(Seen::BuriedByDeaths);
            let failed = failed(format!("{MAX_DEATHS} workers died of it"), careful.deaths);
            self.bury_job(failed);
            return Ok(());
        }
        match self.attempt(number, &job, record.partition, shared)? {
            None => {}
            Some(Ok(tally)) => {
                let outcomes = self.outcome_alone(batch, &job, Outcome::Counted(tally));
                self.finished.push_back(Finished {
                    dead_letter: None,
                    outcomes: Some(outcomes),
                    settles: vec![settles],
                    retries: careful.deaths,
                });
            }
            Some(Err(reason)) => {
                let failed = failed(reason, 1);
                self.again_or_bury(number, failed, shared);
            }
        }
        Ok(())
    }

    /// One attempt at a job; `None` where the thread hangs.
    fn attempt(
        &mut self,
        number: usize,
        job: &Job<'_>,
        partition: i32,
        shared: &mut Shared,
    ) -> Flow<Option<Result<Tally, String>>> {
        match self.attempted(job, shared) {
            Attempt::Done(computed) => Ok(Some(computed)),
            Attempt::Kills => Err(Stop::Dies(Some(job.index))),
            Attempt::Hangs => {
                self.threads[number].hangs = Some((partition, job.index));
                Ok(None)
            }
        }
    }

    fn attempted(&mut self, job: &Job<'_>, shared: &mut Shared) -> Attempt {
        let fate = shared.fate(job.index);
        let times = shared.attempts.entry(job.index).or_default();
        *times += 1;
        let injected = || Attempt::Done(Err("fault injected".to_owned()));
        match fate {
            Fate::Kills => Attempt::Kills,
            Fate::KillsTimes(deaths) if *times <= deaths => Attempt::Kills,
            Fate::Hangs => Attempt::Hangs,
            Fate::Fails => injected(),
            Fate::FailsTimes(failures) if *times <= failures => injected(),
            _ => Attempt::Done(compute(job).map_err(|error| error.to_string())),
        }
    }

    fn again_or_bury(&mut self, number: usize, failed: FailedJob, shared: &mut Shared) {
        let policy = RetryPolicy {
            max_attempts: MAX_ATTEMPTS,
            first_pause: Duration::from_millis(5),
        };
        match policy.pause_after(failed.failed_attempts) {
            Some(pause) => {
                shared.saw(Seen::TriedAgain);
                let due: Instant = shared.now() + pause;
                self.threads[number].failed.push(due, failed);
            }
            None => {
                shared.saw(Seen::BuriedByFailures);
                self.bury_job(failed);
            }
        }
    }

    fn try_again(&mut self, number: usize, failed: FailedJob, shared: &mut Shared) -> Flow<()> {
        if failed.lease.ended.get() {
            return Ok(());
        }
        let Ok(batch) = JobBatch::decode(&failed.batch) else {
            return Ok(violated("a failed job can be read", "it cannot")?);
        };
        let Some(job) = batch.jobs().next() else {
            return Ok(());
        };
        let mut failed = failed;
        match self.attempt(number, &job, failed.settles.partition, shared)? {
            None => {}
            Some(Ok(tally)) => {
                let outcomes = self.outcome_alone(&batch, &job, Outcome::Counted(tally));
                self.finished.push_back(Finished {
                    dead_letter: None,
                    outcomes: Some(outcomes),
                    settles: vec![failed.settles],
                    retries: failed.failed_attempts,
                });
            }
            Some(Err(reason)) => {
                failed.failed_attempts += 1;
                failed.reason = reason;
                self.again_or_bury(number, failed, shared);
            }
        }
        Ok(())
    }

    fn outcome_alone(&self, batch: &JobBatch, job: &Job<'_>, outcome: Outcome<'_>) -> Vec<u8> {
        let mut builder =
            OutcomeBatchBuilder::new(batch.run_id(), &self.name).in_generation(batch.generation());
        builder.push(job, outcome);
        builder.encode()
    }

    fn bury_job(&mut self, failed: FailedJob) {
        let Ok(batch) = JobBatch::decode(&failed.batch) else {
            return;
        };
        let Some(job) = batch.jobs().next() else {
            return;
        };
        let outcome = Outcome::DeadLettered {
            reason: &failed.reason,
            attempts: failed.failed_attempts,
        };
        let outcomes = self.outcome_alone(&batch, &job, outcome);
        self.finished.push_back(Finished {
            outcomes: Some(outcomes),
            settles: vec![failed.settles],
            retries: failed.failed_attempts - 1,
            dead_letter: Some(DeadLetterMessage {
                payload: failed.batch,
                partition: failed.settles.partition,
                offset: failed.settles.offset,
                attempts: failed.failed_attempts,
                reason: failed.reason,
            }),
        });
    }

    fn bury_message(&mut self, record: &Record, lease: &Lease) {
        self.finished.push_back(Finished {
            dead_letter: Some(DeadLetterMessage {
                payload: record.payload.to_vec(),
                partition: record.partition,
                offset: record.offset,
                attempts: 1,
                reason: "it cannot be read".to_owned(),
            }),
            outcomes: None,
            settles: vec![Settled {
                partition: record.partition,
                epoch: lease.epoch,
                offset: record.offset,
                jobs: 1,
                jobs_in_message: 1,
            }],
            retries: 0,
        });
    }

    pub(super) fn hand_on(&mut self, number: usize) {
        let thread = &mut self.threads[number];
        if let Some(builder) = thread.outcomes.take() {
            self.finished.push_back(Finished {
                dead_letter: None,
                outcomes: Some(builder.encode()),
                settles: std::mem::take(&mut thread.settles),
                retries: 0,
            });
        }
    }
}

fn settles(record: &Record, lease: &Lease, batch: &JobBatch, jobs: u32) -> Settled {
    Settled {
        partition: record.partition,
        epoch: lease.epoch,
        offset: record.offset,
        jobs,
        jobs_in_message: batch.jobs_count(),
    }
}

pub(super) fn settle(all: &mut Vec<Settled>, own: &mut Settled) {
    if own.jobs > 0 {
        all.push(*own);
        own.jobs = 0;
    }
}
