//! The work unit: messages for one compute thread, with the leases under which it works on them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kafka::RecordBatch;
use pipeline::offsets::Epoch;

use crate::state::in_flight::IsolatedJob;

/// The lease of a partition: one assignment of it, shared by all threads that work on its messages.
#[derive(Debug)]
pub struct Lease {
    epoch: Epoch,
    ended: AtomicBool,
}

impl Lease {
    /// The lease of an assignment.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            ended: AtomicBool::new(false),
        }
    }

    /// The number of the assignment.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Ends the lease: the partition's next owner does the remaining work.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether the lease has ended, so that work on the partition is to be dropped.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// The leases of partitions, by partition.
pub type Leases = BTreeMap<i32, Arc<Lease>>;

/// A range of the records of a batch, for one compute thread.
#[derive(Clone, Debug)]
pub struct WorkUnit {
    /// The batch.
    pub records: Arc<RecordBatch>,
    /// The positions in the batch of this unit's records.
    pub range: Range<usize>,
    /// The leases under which they were taken.
    pub leases: Arc<Leases>,
    /// The only job to compute, of the only record, where workers died of the message; `None` for all
    /// jobs.
    pub job: Option<IsolatedJob>,
}
