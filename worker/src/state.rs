//! What a worker knows: the messages in flight, what the delivery makes of finished work, and the
//! leases under which compute threads work. It has neither clock nor I/O.

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

/// The state that the event loop and the rebalances that it serves share.
#[derive(Debug)]
pub struct WorkerState {
    pub(crate) in_flight: InFlight,
    pub(crate) delivery: Box<dyn Delivery>,
    leases: Leases,
    /// Leases that have ended and may still be in use by compute threads, with their partitions.
    ended: Vec<(i32, Weak<Lease>)>,
    /// Partitions that are read from queues of their own, because workers died with them.
    isolated: BTreeSet<i32>,
    /// Why the worker is to end.
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

    /// What finished work becomes.
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

    /// Finished work came from a compute thread.
    pub fn apply_finished(&mut self, finished: Finished) {
        self.delivery.finish(&mut self.in_flight, finished);
    }

    /// The broker has these commits: it was waited for.
    pub fn apply_committed(&mut self, commits: &[Commit]) {
        self.in_flight.confirm(commits);
    }

    /// A commit has failed, so that what it was about is to be committed again.
    pub fn apply_commit_failed(&mut self) {
        self.in_flight.commit_failed();
    }

    /// The worker is to end for this reason, unless there is one already.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Whether there is such a reason.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(crate) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Forgets partitions that this worker has no more, and what was taken of them.
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

    /// Looks whether compute threads are still at work of leases that have ended: a thread that works
    /// on a message has its partition's lease.
    pub(crate) fn refresh_stale_work(&mut self) {
        self.ended.retain(|(_, lease)| lease.strong_count() > 0);
        self.in_flight.set_stale_work(!self.ended.is_empty());
    }

    /// A job of a partition hangs. Where it may be one of an assignment that has ended, the marker of
    /// the present one names another job and is not held for it.
    pub(crate) fn apply_hang(&mut self, partition: i32) {
        self.refresh_stale_work();
        if self.ended.iter().all(|(ended, _)| *ended != partition) {
            self.in_flight.hangs(partition);
        }
    }

    /// Whether nothing is in hand and nothing on its way.
    pub fn is_clear(&self) -> bool {
        self.in_flight.in_hand() == 0 && self.delivery.is_empty()
    }

    /// Whether a mark must be known to be committed before any further message is taken.
    pub(crate) fn marks_are_due(&self) -> bool {
        self.in_flight.marks_are_due() || self.delivery.has_marks()
    }
}
