//! A model of what runs a thread's jobs, which fail, hang and kill. Either each is answered at once, or a
//! window of them is in flight, and answers come late and in any order.

use std::collections::BTreeSet;
use std::task::Poll;

use computations::positivity::Tally;
use computations::{Compute, JobError, Positivity, Registry, Unable, count, positivity};
use crossbeam_channel::{Receiver, never};
use pipeline::{Computation, Job, JobBatch};
use worker::executor::{AttemptId, Done, Executor};

use crate::history::Shared;
use crate::invariants::Fate;
use crate::mutants::Mutation;
use crate::rng::Rng;
use crate::seen::Seen;

/// What running a job has come to.
#[derive(Clone, Copy, Debug)]
pub enum Ran {
    /// There is an answer, or will be.
    Answered,
    /// The process is gone.
    Killed(u64),
    /// The job with this index never ends.
    Hangs(u64),
}

/// The jobs of a thread that are in flight.
#[derive(Debug)]
pub struct Flight {
    window: usize,
    /// What the worker knows.
    computations: Registry,
    submitted: Vec<Submitted>,
    answers: Vec<Done>,
    cancelled: BTreeSet<AttemptId>,
}

#[derive(Debug)]
struct Submitted {
    id: AttemptId,
    /// The job as a batch of one.
    batch: Vec<u8>,
    hangs: bool,
}

impl Flight {
    /// Nothing is in flight. With a window of one, nothing ever is. `is_able`: whether the computation of
    /// the run is known.
    pub fn new(window: usize, is_able: bool) -> Self {
        let known = match is_able {
            true => positivity::DEFINITION,
            false => count::DEFINITION,
        };
        Self {
            window,
            computations: Registry::of([known]),
            submitted: Vec::new(),
            answers: Vec::new(),
            cancelled: BTreeSet::new(),
        }
    }

    /// Whether jobs are answered late.
    pub fn is_window(&self) -> bool {
        self.window > 1
    }

    /// Whether a job in flight can be run.
    pub fn can_run(&self) -> bool {
        self.submitted.iter().any(|own| !own.hangs)
    }

    /// Whether something in flight goes on.
    pub fn goes_on(&self) -> bool {
        self.can_run() || !self.answers.is_empty()
    }

    /// Runs any of those in flight. Its answer waits to be taken.
    pub fn run_one(&mut self, shared: &mut Shared) -> (AttemptId, Ran) {
        let can_run = (0..self.submitted.len()).filter(|&own| !self.submitted[own].hangs);
        let can_run: Vec<_> = can_run.collect();
        let position = can_run[shared.rng.below(can_run.len())];
        if position > 0 {
            shared.saw(Seen::AnsweredOutOfOrder);
        }
        let Submitted { id, batch, .. } = self.submitted.swap_remove(position);
        self.submitted.sort_unstable_by_key(|own| own.id);
        let batch = JobBatch::decode(&batch).expect("it was encoded by this model");
        let job = batch.job(0);
        let cancelled = self.cancelled.remove(&id);
        if cancelled && shared.rng.chance(1, 2) {
            let answer = Err(JobError::Transient("it was cancelled".to_owned()));
            self.answers.push(Done { id, answer });
            return (id, Ran::Answered);
        }
        let mut result = Vec::new();
        match run(&job, &mut result, shared) {
            Ok(answer) => {
                if cancelled {
                    shared.saw(Seen::AnsweredAfterCancel);
                }
                let mut id = id;
                if shared.mutation == Some(Mutation::AnswersMixedUp)
                    && let Some(other) = self.submitted.first_mut()
                {
                    std::mem::swap(&mut id, &mut other.id);
                }
                let answer = answer.map(|()| result);
                self.answers.push(Done { id, answer });
                (id, Ran::Answered)
            }
            Err(ran) => {
                if let Ran::Hangs(_) = ran {
                    self.submitted.push(Submitted {
                        id,
                        batch: Vec::new(),
                        hangs: true,
                    });
                }
                (id, ran)
            }
        }
    }
}

/// One attempt at a job; an error where there is no answer.
fn run(
    job: &Job<'_>,
    result: &mut Vec<u8>,
    shared: &mut Shared,
) -> Result<Result<(), JobError>, Ran> {
    let fate = shared.fate(job.index);
    let times = shared.attempts.entry(job.index).or_default();
    *times += 1;
    let times = *times;
    let injected = "fault injected".to_owned();
    let transient = match shared.mutation {
        Some(Mutation::TransientBuriedAtOnce) => JobError::Permanent,
        _ => JobError::Transient,
    };
    let permanent = match shared.mutation {
        Some(Mutation::PermanentTriedAgain) => JobError::Transient,
        _ => JobError::Permanent,
    };
    match fate {
        Fate::Kills => Err(Ran::Killed(job.index)),
        Fate::KillsTimes(deaths) if times <= deaths => Err(Ran::Killed(job.index)),
        Fate::Hangs => Err(Ran::Hangs(job.index)),
        Fate::Fails => Ok(Err(transient(injected))),
        Fate::FailsTimes(failures) if times <= failures => Ok(Err(transient(injected))),
        _ => {
            let computed = match shared.oracle.is_random {
                true => random(job, result, &mut shared.extra),
                false => Positivity.compute(job, result),
            };
            Ok(computed.map_err(|error| permanent(error.into_reason())))
        }
    }
}

/// A computation that is random on purpose: any number of the tests is positive.
fn random(job: &Job<'_>, result: &mut Vec<u8>, extra: &mut Rng) -> Result<(), JobError> {
    let Tally { tests, .. } = positivity::tally(job)?;
    let positive = extra.below(tests as usize + 1) as u32;
    Tally { tests, positive }.write(result);
    Ok(())
}

/// What a thread's bookkeeping drives.
pub struct Model<'a> {
    flight: &'a mut Flight,
    shared: &'a mut Shared,
    /// Attempts that were answered by an error.
    pub failed: usize,
    /// What has become of a job that was to be answered at once.
    pub ran: Ran,
}

impl<'a> Model<'a> {
    /// A model for a step.
    pub fn new(flight: &'a mut Flight, shared: &'a mut Shared) -> Self {
        Self {
            flight,
            shared,
            failed: 0,
            ran: Ran::Answered,
        }
    }
}

impl Executor for Model<'_> {
    fn window(&self) -> usize {
        self.flight.window
    }

    fn prepare(&mut self, computation: &Computation) -> Result<(), Unable> {
        if self.shared.mutation != Some(Mutation::NotAskedWhetherKnown) {
            self.flight.computations.find(&computation.name)?;
        }
        Ok(())
    }

    fn submit(
        &mut self,
        id: AttemptId,
        job: &Job<'_>,
        result: &mut Vec<u8>,
    ) -> Poll<Result<(), JobError>> {
        if self.flight.is_window() {
            let batch = job.alone(&self.shared.dispatch.header(0));
            self.flight.submitted.push(Submitted {
                id,
                batch,
                hangs: false,
            });
            if self.flight.submitted.len() > 1 {
                self.shared.saw(Seen::SeveralInFlight);
            }
            return Poll::Pending;
        }
        match run(job, result, self.shared) {
            Ok(answer) => {
                self.failed += usize::from(answer.is_err());
                Poll::Ready(answer)
            }
            Err(ran) => {
                self.ran = ran;
                Poll::Pending
            }
        }
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        let answers = self.flight.answers.iter();
        self.failed += answers.filter(|own| own.answer.is_err()).count();
        done.append(&mut self.flight.answers);
    }

    fn cancel(&mut self, id: AttemptId) {
        self.flight.cancelled.insert(id);
    }

    fn wake(&self) -> Receiver<()> {
        never()
    }
}
