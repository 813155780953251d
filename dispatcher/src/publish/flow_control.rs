//! Flow control: how many bytes may be on the topics and not yet worked off. A broker that keeps
//! little (the in-process one keeps 5 MiB of a partition) must never drop what was not read: the
//! dispatcher waits when a partition has as much as it may. Committed offsets and counts come from
//! the caller.

use std::collections::VecDeque;

/// The messages of one partition that the group has not committed.
#[derive(Clone, Debug)]
struct Window {
    /// The offset of the first message in `sizes`.
    offset: i64,
    sizes: VecDeque<usize>,
    bytes: usize,
}

/// Limits what each partition of the jobs topic holds, and the outcomes that are still to be collected.
#[derive(Clone, Debug)]
pub struct FlowControl {
    windows: Vec<Window>,
    limit_bytes: usize,
    published_jobs: u64,
    /// The largest size of an outcome on its topic, estimated from the jobs so far: an outcome repeats
    /// its job's labels, and has the names of run and worker.
    outcome_bytes: u64,
}

/// The size of an outcome beyond that of its job, in bytes.
const OUTCOME_OVERHEAD_BYTES: u64 = 100;

impl FlowControl {
    /// `limit_bytes` for each partition, whose next messages have these offsets. The outcomes topic
    /// has as many partitions, and the same limit for each.
    pub fn new(start_offsets: &[i64], limit_bytes: usize) -> Self {
        let windows = start_offsets.iter().map(|&offset| Window {
            offset,
            sizes: VecDeque::new(),
            bytes: 0,
        });
        Self {
            windows: windows.collect(),
            limit_bytes,
            published_jobs: 0,
            outcome_bytes: 0,
        }
    }

    /// Whether a partition may be sent more, when this many jobs have a collected outcome.
    pub fn allows(&self, partition: usize, collected_jobs: u64) -> bool {
        let uncollected = self.published_jobs.saturating_sub(collected_jobs);
        let limit = (self.limit_bytes * self.windows.len()) as u64;
        uncollected.saturating_mul(self.outcome_bytes) < limit
            && self
                .windows
                .get(partition)
                .is_none_or(|window| window.bytes < self.limit_bytes)
    }

    /// A message was sent to a partition.
    pub fn sent(&mut self, partition: usize, bytes: usize, jobs: u64) {
        self.published_jobs += jobs;
        let job_bytes = (bytes as u64).div_ceil(jobs.max(1));
        let outcome_bytes = job_bytes + OUTCOME_OVERHEAD_BYTES;
        self.outcome_bytes = self.outcome_bytes.max(outcome_bytes);
        if let Some(window) = self.windows.get_mut(partition) {
            window.sizes.push_back(bytes);
            window.bytes += bytes;
        }
    }

    /// The group has committed these offsets, by partition.
    pub fn apply_committed(&mut self, offsets: &[i64]) {
        for (window, &committed) in self.windows.iter_mut().zip(offsets) {
            while window.offset < committed {
                let Some(bytes) = window.sizes.pop_front() else {
                    break;
                };
                window.offset += 1;
                window.bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_waits_until_the_group_has_committed_what_it_was_sent() {
        let mut flow_control = FlowControl::new(&[10, 0], 100_000);
        for _ in 0..3 {
            assert!(flow_control.allows(0, 3_000));
            flow_control.sent(0, 40_000, 1_000);
        }
        assert!(!flow_control.allows(0, 3_000));
        assert!(flow_control.allows(1, 3_000));
        flow_control.apply_committed(&[10, 5]);
        assert!(!flow_control.allows(0, 3_000));
        flow_control.apply_committed(&[11, 0]);
        assert!(flow_control.allows(0, 3_000));
        // More than was sent can be committed only by another dispatcher's messages.
        flow_control.apply_committed(&[99, 0]);
        assert!(flow_control.allows(0, 3_000));
    }

    #[test]
    fn outcomes_that_are_not_collected_count_too() {
        // An outcome takes 110 bytes here, so nine of them are too many.
        let mut flow_control = FlowControl::new(&[0], 1_000);
        flow_control.sent(0, 40, 4);
        assert!(flow_control.allows(0, 0));
        flow_control.sent(0, 50, 5);
        flow_control.sent(0, 10, 1);
        assert!(!flow_control.allows(0, 0));
        assert!(flow_control.allows(0, 1));
    }
}
