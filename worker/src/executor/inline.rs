//! The executor that computes in the submitting thread, and so answers at once.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use computations::{Compute, JobError, Registry, Unable};
use crossbeam_channel::{Receiver, never};
use pipeline::{Computation, Job};
use service::FaultPoint;
use service::fault::Injected;

use super::{AttemptId, Done, Executor};
use crate::simulated_work::SimulatedWork;

/// An executor for the computations of a registry. A panic of a computation fails the attempt, like an
/// error.
pub struct Inline {
    registry: Registry,
    /// The computation of the submitted jobs.
    prepared: Option<(Computation, Box<dyn Compute>)>,
    simulate_work: SimulatedWork,
    before_compute: FaultPoint,
    after_compute: FaultPoint,
}

impl Inline {
    /// An executor for these computations, with simulated work for each job.
    pub fn new(registry: Registry, simulate_work: SimulatedWork) -> Self {
        Self {
            registry,
            prepared: None,
            simulate_work,
            before_compute: FaultPoint::new("worker.before-compute"),
            after_compute: FaultPoint::new("worker.after-compute"),
        }
    }

    #[inline]
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        self.simulate_work.take();
        self.before_compute.pass_with(job.index).map_err(injected)?;
        let Some((_, compute)) = &mut self.prepared else {
            return Err(unprepared());
        };
        compute.compute(job, result)?;
        self.after_compute.pass_with(job.index).map_err(injected)
    }
}

#[cold]
fn unprepared() -> JobError {
    JobError::Permanent("no computation was prepared for it".to_owned())
}

fn injected(error: Injected) -> JobError {
    JobError::Transient(error.to_string())
}

impl Executor for Inline {
    fn window(&self) -> usize {
        1
    }

    fn prepare(&mut self, computation: &Computation) -> Result<(), Unable> {
        if !matches!(&self.prepared, Some((own, _)) if own == computation) {
            let compute = self.registry.compute(computation)?;
            self.prepared = Some((computation.clone(), compute));
        }
        Ok(())
    }

    #[inline]
    fn submit(
        &mut self,
        _: AttemptId,
        job: &Job<'_>,
        result: &mut Vec<u8>,
    ) -> Poll<Result<(), JobError>> {
        let computed = catch_unwind(AssertUnwindSafe(|| self.compute(job, result)));
        Poll::Ready(computed.unwrap_or_else(|panic| Err(panicked(&*panic))))
    }

    fn poll(&mut self, _: &mut Vec<Done>) {}

    fn cancel(&mut self, _: AttemptId) {}

    fn wake(&self) -> Receiver<()> {
        never()
    }
}

#[cold]
fn panicked(panic: &(dyn Any + Send)) -> JobError {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    JobError::Transient(format!("panic: {message}"))
}
