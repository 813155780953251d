//! The state of a worker: the messages in flight, the delivery of finished work, and the leases of
//! the compute threads. It has neither clock nor I/O.

pub mod in_flight;
pub mod outbox;
pub mod transaction;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use pipeline::offsets::Commit;

use crate::delivery::Delivery;
use crate::event_loop::Failure;
use crate::executor::{Lease, Leases};
use in_flight::InFlight;
use outbox::Finished;

/// The state that the event loop and the rebalances share.
#[derive(Debug)]
pub struct WorkerState {
    pub(crate) in_flight: InFlight,
    pub(crate) delivery: Box<dyn Delivery>,
    leases: Leases,
    /// The leases that have ended and that compute threads may still use, with their partitions.
    ended: Vec<(i32, Weak<Lease>)>,
    /// The partitions that are read from queues of their own, because workers died with them.
    isolated: BTreeSet<i32>,
    /// The reason for which the worker has to end.
    failure: Option<Failure>,
}

impl WorkerState {
    /// The state of a worker without partitions.
    pub fn new(delivery: Box<dyn Delivery>) -> Self {
        Self {
            in_flight: InFlight::new(),
            delivery,
            leases: Leases::new(),
            ended: Vec::new(),
            isolated: BTreeSet::new(),
            failure: None,
        }
    }

    /// The messages in flight.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// The delivery of finished work.
    pub fn delivery(&self) -> &dyn Delivery {
        &*self.delivery
    }

    /// The leases of the assigned partitions.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(crate) fn lease(&self, partition: i32) -> Option<Arc<Lease>> {
        self.leases.get(&partition).map(Arc::clone)
    }

    pub(crate) fn add_lease(&mut self, partition: i32, lease: Lease) {
        self.leases.insert(partition, Arc::new(lease));
    }

    /// The partitions that are read from queues of their own.
    pub fn isolated(&self) -> &BTreeSet<i32> {
        &self.isolated
    }

    pub(crate) fn isolate(&mut self, partition: i32) {
        self.isolated.insert(partition);
    }

    pub(crate) fn end_isolation(&mut self, partition: i32) {
        self.isolated.remove(&partition);
    }

    /// Applies the finished work of a compute thread.
    pub fn apply_finished(&mut self, finished: Finished) {
        self.delivery.finish(&mut self.in_flight, finished);
    }

    /// Applies the broker's acknowledgement of these commits.
    pub fn apply_committed(&mut self, commits: &[Commit]) {
        self.in_flight.confirm(commits);
    }

    /// Applies the failure of a commit: its offsets are committed again.
    pub fn apply_commit_failed(&mut self) {
        self.in_flight.commit_failed();
    }

    /// Sets the reason for which the worker has to end, unless there is one already.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Whether the worker has to end.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(crate) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Forgets partitions that are no longer assigned, with their messages in flight, and ends their
    /// leases.
    pub(crate) fn forget(&mut self, partitions: &[i32]) {
        self.delivery.forget(partitions);
        self.in_flight.forget(partitions);
        for partition in partitions {
            self.isolated.remove(partition);
            if let Some(lease) = self.leases.remove(partition) {
                lease.end();
                self.ended.push((*partition, Arc::downgrade(&lease)));
            }
        }
        self.refresh_stale_work();
    }

    /// Checks whether compute threads still work under leases that have ended: a thread that works on a
    /// message holds its partition's lease.
    pub(crate) fn refresh_stale_work(&mut self) {
        self.ended.retain(|(_, lease)| lease.strong_count() > 0);
        self.in_flight.set_stale_work(!self.ended.is_empty());
    }

    /// Notes that a job of a partition hangs. Where it may belong to an assignment that has ended, the
    /// marker of the present one is not held for it, because it is about other messages.
    pub(crate) fn apply_hang(&mut self, partition: i32) {
        self.refresh_stale_work();
        if self.ended.iter().all(|(ended, _)| *ended != partition) {
            self.in_flight.hangs(partition);
        }
    }

    /// Whether no message is in flight and no outcome waits for its acknowledgement.
    pub fn is_clear(&self) -> bool {
        self.in_flight.in_hand() == 0 && self.delivery.is_empty()
    }

    /// Whether a poison marker must be committed and acknowledged before another message is taken.
    pub(crate) fn marks_are_due(&self) -> bool {
        self.in_flight.marks_are_due() || self.delivery.has_marks()
    }
}
