//! What a worker holds back where the broker keeps little: the worker's own [`FlowControl`] decides.

use worker::flow_control::FlowControl;

use crate::broker::ends;
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;

/// What a worker may leave unread of its outcomes partition, where the broker keeps little: less than
/// two messages of a history have.
const UNREAD_LIMIT_BYTES: usize = 150;

/// What a worker has sent to the outcomes partition of its own, where the broker keeps little of it.
#[derive(Debug)]
pub struct Unread {
    partition: i32,
    flow_control: FlowControl,
}

impl Unread {
    /// Nothing was sent yet.
    pub fn new(partition: i32, shared: &Shared) -> Self {
        Self {
            partition,
            flow_control: FlowControl::new(&ends(&shared.broker.outcomes), UNREAD_LIMIT_BYTES),
        }
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// A message has this offset.
    pub fn delivered(&mut self, id: usize, offset: i64) {
        self.flow_control.delivered(self.partition, id, offset);
    }

    /// Whether one more message may be sent. The reader is asked where it may not.
    pub fn allows(&mut self, shared: &Shared) -> bool {
        if !self.flow_control.allows(self.partition) {
            let read = shared.outcomes_read.clone();
            let read = read.unwrap_or_else(|| ends(&shared.broker.outcomes));
            self.flow_control.apply_read(&read);
        }
        self.flow_control.allows(self.partition)
    }

    /// A message was handed to the producer.
    pub fn sent(&mut self, id: usize, bytes: usize, shared: &Shared) {
        let bytes = match shared.mutation {
            Some(Mutation::ResultBytesLeftOut) => 0,
            _ => bytes,
        };
        self.flow_control.sent(self.partition, id, bytes);
    }
}

impl Shared {
    /// A broker that keeps little holds no more of a partition than its workers may leave unread: the
    /// limit and a message each, and as much again of one that has died.
    pub fn keeps_little(&mut self, partition: usize) -> Result<(), Violation> {
        let Some(read) = &self.outcomes_read else {
            return Ok(());
        };
        let log = &self.broker.outcomes[partition];
        let sizes = (read[partition]..log.end()).filter_map(|offset| log.at(offset));
        let (mut unread, mut largest) = (0, 0);
        for payload in sizes {
            unread += payload.len();
            largest = largest.max(payload.len());
        }
        let workers = self.workers_of_partition;
        let bound = 2 * workers * (UNREAD_LIMIT_BYTES + largest);
        match unread > bound {
            true => violated(
                "a broker that keeps little drops no outcome that was not read",
                format!("partition {partition} has {unread} bytes, and may have {bound}"),
            ),
            false => Ok(()),
        }
    }
}
