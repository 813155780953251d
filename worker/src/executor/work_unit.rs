//! A work unit: some messages for one compute thread, and the leases under which it works on them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kafka::RecordBatch;
use pipeline::offsets::Epoch;

use crate::desk::CarefulJob;

/// An assignment of a partition, shared by everything that works on its messages.
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

    /// Which assignment it is.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Ends it: the partition's new owner does the work that is left.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether work on the partition is in vain.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Leases by partition.
pub type Leases = BTreeMap<i32, Arc<Lease>>;

/// Some records of a batch, for one compute thread.
#[derive(Clone, Debug)]
pub struct WorkUnit {
    /// The batch.
    pub records: Arc<RecordBatch>,
    /// Which of its records.
    pub range: Range<usize>,
    /// The leases under which they were taken.
    pub leases: Arc<Leases>,
    /// The only job that is meant, of the only record, where workers have died of it.
    pub job: Option<CarefulJob>,
}
