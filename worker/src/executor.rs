//! The execution of jobs by compute threads.
//!
//! An [`Executor`] computes jobs. It may answer at once, as [`Inline`] does for each [`Compute`], or have
//! a window of jobs in flight and answer late, in any order, or never. The [`Bookkeeping`] makes all
//! decisions, without clock, thread or broker: which job is next, when one is retried or becomes a dead
//! letter, and when a batch of outcomes is complete. A compute thread ([`run`]) drives one of each.
//!
//! [`Compute`]: computations::Compute

mod bookkeeping;
mod detached_job;
mod inability;
mod inline;
mod outcomes;
mod pace;
mod thread;
mod watch;
mod work_unit;

use std::task::Poll;

use computations::{JobError, Unable};
use crossbeam_channel::Receiver;
use pipeline::{Computation, Job};

pub use bookkeeping::{Bookkeeping, Step};
pub use inability::Inability;
pub use inline::Inline;
pub use thread::{Settings, run};
pub use watch::Watch;
pub use work_unit::{Lease, Leases, WorkUnit};

/// The number of an attempt at a job, unique within one bookkeeping.
pub type AttemptId = u64;

/// The answer to an attempt that was in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The attempt.
    pub id: AttemptId,
    /// The job's result, or the error of the attempt.
    pub answer: Result<Vec<u8>, JobError>,
}

/// An executor of jobs for one compute thread.
///
/// An attempt is answered once: by [`submit`](Self::submit) itself or, later and in any order, by
/// [`poll`](Self::poll). A job whose attempt is never answered hangs: with `--job-timeout` the worker
/// shuts down for it.
pub trait Executor {
    /// The largest number of attempts in flight, at least one.
    fn window(&self) -> usize;

    /// Prepares for jobs of a computation: those that are submitted until the next call.
    ///
    /// # Errors
    /// When it cannot compute such jobs. It is then still prepared for the computation before.
    fn prepare(&mut self, computation: &Computation) -> Result<(), Unable>;

    /// Begins an attempt at a job. An answer at once is returned, and a result is appended to `result`,
    /// which is empty. Where the answer is late, the executor must copy the job.
    fn submit(
        &mut self,
        id: AttemptId,
        job: &Job<'_>,
        result: &mut Vec<u8>,
    ) -> Poll<Result<(), JobError>>;

    /// Appends the answers to attempts in flight that are complete. It is called after each round of
    /// submissions, so that an executor may process the submitted jobs as a batch.
    fn poll(&mut self, done: &mut Vec<Done>);

    /// Notes that the answer to an attempt is no longer needed. The attempt still counts as in flight
    /// until it is answered, because the executor may work on it until then.
    fn cancel(&mut self, id: AttemptId);

    /// A channel that has a message whenever [`poll`](Self::poll) may have answers.
    fn wake(&self) -> Receiver<()>;
}
