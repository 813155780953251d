//! The state that the driver and its rebalance callbacks share: the event loop, with the client of its
//! delivery and the finished work of the compute threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::Receiver;
use kafka::{Assigned, GroupMetadata, RebalanceListener};
use pipeline::offsets::{Commit, Start};
use service::metrics::set;

use super::NO_PARTITIONS;
use crate::client::Client;
use crate::delivery::{Report, Step};
use crate::error::Error;
use crate::event_loop::EventLoop;
use crate::metrics::Metrics;
use crate::rebalance::RevocationAction;
use crate::state::outbox::Finished;

/// The state that the driver and its rebalance callbacks share.
pub(super) struct Core {
    pub(super) event_loop: EventLoop,
    pub(super) client: Box<dyn Client>,
    /// The finished work of the compute threads.
    pub(super) finished: Receiver<Finished>,
    /// The error for which the client has failed.
    pub(super) error: Option<Error>,
    pub(super) metrics: Metrics,
}

/// The shared state behind a lock. One thread uses it; the lock is needed because the callbacks of the
/// client cannot borrow it from the driver.
#[derive(Clone)]
pub(super) struct SharedCore(Arc<Mutex<Core>>);

impl SharedCore {
    pub(super) fn new(core: Core) -> Self {
        Self(Arc::new(Mutex::new(core)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Applies the finished work of the compute threads, as far as it is accepted.
    pub(super) fn collect(&mut self) {
        while self.event_loop.state().delivery().accepts_finished() {
            let Ok(finished) = self.finished.try_recv() else {
                break;
            };
            self.apply_finished(finished);
        }
    }

    pub(super) fn apply_finished(&mut self, finished: Finished) {
        self.metrics.retries.inc_by(u64::from(finished.retries));
        self.event_loop.state_mut().apply_finished(finished);
    }

    pub(super) fn deliver(&mut self, step: Step, member: &dyn Fn() -> Option<GroupMetadata>) {
        if let Step::Wait(pause) = step {
            thread::sleep(pause);
            return;
        }
        let delivery = self.event_loop.state().delivery();
        let report = self
            .client
            .carry_out(step, delivery, member)
            .unwrap_or_else(|error| {
                self.error.get_or_insert(error);
                Report::Closed
            });
        if let Some(error) = self.client.take_error() {
            self.error.get_or_insert(error);
        }
        let metrics = &self.metrics;
        if matches!(report, Report::Begun) {
            metrics.commits.inc();
        }
        let progress = self.event_loop.apply_report(report, Instant::now());
        metrics
            .failed_commits
            .inc_by(u64::from(progress.is_aborted));
        for own in &progress.settlements {
            metrics.dead_letters.inc_by(u64::from(own.dead_letter));
            metrics.settled(&own.settles, own.has_outcomes, own.is_dead);
        }
    }

    /// Sets the readiness: a worker is ready while it has partitions.
    fn report_assignment(&self) {
        let assigned = self.event_loop.state().in_flight().assigned_partitions();
        set(&self.metrics.assigned_partitions, assigned);
        if assigned > 0 {
            self.metrics.health.set_ready();
        } else {
            self.metrics.health.set_not_ready(NO_PARTITIONS);
        }
    }
}

impl RebalanceListener for SharedCore {
    fn assigned(&self, starts: &[Start]) -> Assigned {
        let mut core = self.lock();
        let assignment = core.event_loop.assigned(starts);
        core.metrics.assigned.inc();
        core.report_assignment();
        Assigned {
            commits: assignment.commits,
            apart: assignment.isolated,
        }
    }

    fn revoked(
        &self,
        partitions: &[i32],
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Vec<Commit> {
        let mut core = self.lock();
        core.event_loop.begin_revocation(partitions);
        let commits = loop {
            match core.event_loop.next_of_revocation(Instant::now()) {
                RevocationAction::Collect => core.collect(),
                RevocationAction::Deliver(step) => core.deliver(step, member),
                RevocationAction::Commit(commits) => break commits,
            }
        };
        core.metrics.revoked.inc();
        core.report_assignment();
        commits
    }

    fn lost(&self, partitions: &[i32]) {
        let mut core = self.lock();
        core.event_loop.lost(partitions);
        core.metrics.lost.inc();
        core.report_assignment();
    }

    fn committed(&self, commits: &[Commit]) {
        self.lock().event_loop.state_mut().apply_committed(commits);
    }

    fn commit_failed(&self) {
        let mut core = self.lock();
        core.event_loop.state_mut().apply_commit_failed();
        core.metrics.failed_commits.inc();
    }
}
