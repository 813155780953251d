//! The execution of jobs: what runs them, and the bookkeeping around it.
//!
//! An [`Executor`] runs jobs. It may answer at once, as [`Inline`] does for each [`Compute`], or have a
//! window of jobs in flight and answer late, in any order, or never. [`Bookkeeping`] decides all the
//! rest, without clock, thread or broker: which job goes next, when one is tried again or is a dead
//! letter, and when a batch of outcomes is handed on. A compute thread ([`run`]) drives one of each.
//!
//! [`Compute`]: computations::Compute

mod bookkeeping;
mod in_hand;
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

/// The number of an attempt at a job. One bookkeeping uses it once.
pub type AttemptId = u64;

/// The answer to an attempt that was in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which attempt.
    pub id: AttemptId,
    /// The job's result, or why it has none.
    pub answer: Result<Vec<u8>, JobError>,
}

/// What runs jobs for one compute thread.
///
/// An attempt is answered once: by [`submit`](Self::submit) itself or, later and in any order, by
/// [`poll`](Self::poll). One that is never answered is a job that hangs: with a job time-out, the worker
/// gives up for it.
pub trait Executor {
    /// How many attempts may be in flight, at least one.
    fn window(&self) -> usize;

    /// Makes ready for jobs of a computation: those that are submitted next, until the next call.
    ///
    /// # Errors
    /// When it can do nothing for such jobs. It is ready for those of the computation before, then.
    fn prepare(&mut self, computation: &Computation) -> Result<(), Unable>;

    /// Begins an attempt at a job. Where the answer is there at once, a result is appended to `result`,
    /// which is empty. The job must be copied where it is not.
    fn submit(
        &mut self,
        id: AttemptId,
        job: &Job<'_>,
        result: &mut Vec<u8>,
    ) -> Poll<Result<(), JobError>>;

    /// Appends the answers that have come. It is called after each round of submissions, so that an
    /// executor may send these on together.
    fn poll(&mut self, done: &mut Vec<Done>);

    /// Says that the answer to an attempt is not wanted any more. It counts as in flight until it is
    /// answered all the same, for only then does nothing work on it.
    fn cancel(&mut self, id: AttemptId);

    /// A channel with a message in it whenever [`poll`](Self::poll) may have answers.
    fn wake(&self) -> Receiver<()>;
}
