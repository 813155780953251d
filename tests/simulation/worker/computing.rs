//! The worker's compute threads, a job or what comes between two of them at each step. What is decided is
//! decided by the worker's own bookkeeping; the executor that it drives is a model, whose jobs fail, hang
//! and kill.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use computations::{Compute, JobError, Positivity, Registry, Unable};
use crossbeam_channel::{Receiver, never};
use pipeline::{Computation, Job, Worker};
use worker::desk::CarefulJob;
use worker::executor::{AttemptId, Bookkeeping, Done, Executor, Watch, WorkUnit};
use worker::outbox::Finished;
use worker::retry::RetryPolicy;

use super::{Flow, Stop, WorkerProcess};
use crate::history::Shared;
use crate::invariants::Fate;
use crate::seen::Seen;

/// When a job that fails is tried again.
const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: NonZeroU32::new(3).expect("not zero"),
    first_pause: Duration::from_millis(5),
};

/// A compute thread.
#[derive(Debug)]
pub struct Thread {
    bookkeeping: Bookkeeping,
    watch: Arc<Watch>,
    /// The single job that its work unit is about.
    careful: Option<CarefulJob>,
    /// The partition and the job that it hangs at.
    pub hangs: Option<(i32, u64)>,
    /// How often time was long.
    looks: u32,
}

impl Thread {
    /// A thread of a worker.
    pub fn new(worker: &Worker, with_transactions: bool, now: Instant) -> Self {
        let watch = Arc::<Watch>::default();
        let worker = worker.clone();
        Self {
            bookkeeping: Bookkeeping::new(
                worker,
                RETRY,
                with_transactions,
                Arc::clone(&watch),
                now,
            ),
            watch,
            careful: None,
            hangs: None,
            looks: 0,
        }
    }

    /// Whether no failed job waits for its next attempt.
    pub fn is_at_rest(&self) -> bool {
        !self.bookkeeping.has_failed_jobs()
    }

    /// Whether a step would do something.
    pub fn can_compute(&self, units_wait: bool) -> bool {
        let own = &self.bookkeeping;
        self.hangs.is_none() && (!own.wants_unit() || own.has_failed_jobs() || units_wait)
    }

    fn begin(&mut self, unit: WorkUnit, now: Instant) {
        self.careful = unit.job;
        self.bookkeeping.begin(unit, now);
    }

    /// It is asked to end. What it has finished is handed on, unless it hangs.
    pub fn stop(&mut self, now: Instant) -> Vec<Finished> {
        if self.hangs.is_some() {
            return Vec::new();
        }
        self.bookkeeping.stop(now);
        self.bookkeeping.take_finished().collect()
    }
}

/// A model of what runs jobs. Each is answered at once, unless it hangs or kills.
struct Model<'a> {
    shared: &'a mut Shared,
    /// Attempts that have failed.
    failed: usize,
    /// The job that has killed the process.
    killer: Option<u64>,
    /// The job that hangs.
    hanging: Option<u64>,
}

impl Executor for Model<'_> {
    fn window(&self) -> usize {
        1
    }

    fn prepare(&mut self, computation: &Computation) -> Result<(), Unable> {
        Registry::standard().find(&computation.name)?;
        Ok(())
    }

    fn submit(
        &mut self,
        _: AttemptId,
        job: &Job<'_>,
        result: &mut Vec<u8>,
    ) -> Poll<Result<(), JobError>> {
        let fate = self.shared.fate(job.index);
        let times = self.shared.attempts.entry(job.index).or_default();
        *times += 1;
        let injected = || Err(JobError::Transient("fault injected".to_owned()));
        let answer = match fate {
            Fate::KillsTimes(deaths) if *times > deaths => Positivity.compute(job, result),
            Fate::Kills | Fate::KillsTimes(_) => {
                self.killer = Some(job.index);
                return Poll::Pending;
            }
            Fate::Hangs => {
                self.hanging = Some(job.index);
                return Poll::Pending;
            }
            Fate::Fails => injected(),
            Fate::FailsTimes(failures) if *times <= failures => injected(),
            _ => Positivity.compute(job, result),
        };
        self.failed += usize::from(answer.is_err());
        Poll::Ready(answer)
    }

    fn poll(&mut self, _: &mut Vec<Done>) {}

    fn cancel(&mut self, _: AttemptId) {}

    fn wake(&self) -> Receiver<()> {
        never()
    }
}

impl WorkerProcess {
    /// One step of a compute thread: a job, or what comes between two of them.
    pub fn compute(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        let now = shared.now();
        let thread = &mut self.threads[number];
        let mut model = Model {
            shared,
            failed: 0,
            killer: None,
            hanging: None,
        };
        let step = thread.bookkeeping.step(&mut model, 1, &mut || now);
        let Model {
            failed,
            killer,
            hanging,
            ..
        } = model;
        if killer.is_some() {
            return Err(Stop::Dies(killer));
        }
        if let Some(index) = hanging {
            let in_flight = thread.watch.in_flight();
            thread.hangs = in_flight.first().map(|own| (own.partition, index));
            return Ok(());
        }
        let finished: Vec<_> = thread.bookkeeping.take_finished().collect();
        let letters = finished.iter().filter(|own| own.dead_letter.is_some());
        for letter in letters {
            let buried = match (failed, thread.careful, &letter.outcomes) {
                (1.., ..) => Seen::BuriedByFailures,
                (0, _, Some(_)) => Seen::BuriedByDeaths,
                (0, Some(job), None) if job.message_is_to_be_buried() => Seen::BuriedWhole,
                (0, _, None) => Seen::UndecodableMessage,
            };
            if buried == Seen::BuriedByDeaths && shared.fault(1, 2) {
                shared.saw(Seen::KilledWhileBurying);
                return Err(Stop::Dies(None));
            }
            shared.saw(buried);
        }
        if failed > 0 && finished.iter().all(|own| own.dead_letter.is_none()) {
            shared.saw(Seen::TriedAgain);
        }
        self.finished.extend(finished);
        if step.is_idle
            && thread.bookkeeping.wants_unit()
            && let Some(unit) = self.slices.pop_front()
        {
            thread.begin(unit, now);
        }
        if step.begun > 0 && thread.careful.is_none() && shared.rng.chance(1, 4) {
            // The job has taken long.
            thread.looks += 1;
            let mut model = Model {
                shared,
                failed: 0,
                killer: None,
                hanging: None,
            };
            let later = now + Duration::from_secs(thread.looks.into());
            thread.bookkeeping.look(&mut model, later);
            self.finished.extend(thread.bookkeeping.take_finished());
        }
        Ok(())
    }
}
