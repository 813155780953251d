//! Flow control of outcomes, for a broker that keeps few bytes and drops the oldest: finished work is
//! held back while a partition has too many unread bytes. The caller supplies the reader's offsets.

use std::collections::VecDeque;

/// The messages that this worker has sent to a partition and that the reader has not read.
#[derive(Clone, Debug, Default)]
struct Window {
    /// The end offset of the partition when this worker started. Messages before it may be of a worker
    /// that died, and their size is unknown.
    start: i64,
    /// The offset up to which the partition was read, exclusive.
    read: i64,
    /// The messages that are not acknowledged, as (id, bytes).
    unacknowledged: VecDeque<(usize, usize)>,
    /// The messages that are acknowledged and unread, as (offset, bytes).
    unread: VecDeque<(i64, usize)>,
    /// The bytes of both.
    bytes: usize,
}

/// A limit of the unread bytes in each partition of the outcomes topic.
#[derive(Clone, Debug)]
pub struct FlowControl {
    windows: Vec<Window>,
    limit_bytes: usize,
}

impl FlowControl {
    /// A limit of `limit_bytes` for each partition, which have these end offsets now. The last message
    /// that is allowed may exceed the limit.
    pub fn new(end_offsets: &[i64], limit_bytes: usize) -> Self {
        let windows = end_offsets.iter().map(|&start| Window {
            start,
            ..Window::default()
        });
        Self {
            windows: windows.collect(),
            limit_bytes,
        }
    }

    /// Whether one more message, of any size, may be sent to a partition.
    pub fn allows(&self, partition: i32) -> bool {
        let window = usize::try_from(partition).ok();
        window
            .and_then(|own| self.windows.get(own))
            .is_some_and(|own| own.read >= own.start && own.bytes < self.limit_bytes)
    }

    /// Notes that a message was handed to the producer.
    pub fn sent(&mut self, partition: i32, id: usize, bytes: usize) {
        if let Some(window) = self.window(partition) {
            window.unacknowledged.push_back((id, bytes));
            window.bytes += bytes;
        }
    }

    /// Notes that a message was acknowledged at this offset. Messages that were not noted as sent are
    /// of another topic, and ignored.
    pub fn delivered(&mut self, partition: i32, id: usize, offset: i64) {
        let Some(window) = self.window(partition) else {
            return;
        };
        let mut unacknowledged = window.unacknowledged.iter();
        let position = unacknowledged.position(|&(own, _)| own == id);
        let message = position.and_then(|own| window.unacknowledged.remove(own));
        if let Some((_, bytes)) = message {
            window.unread.push_back((offset, bytes));
            window.free();
        }
    }

    /// Notes that the partitions were read up to these offsets, exclusive.
    pub fn apply_read(&mut self, offsets: &[i64]) {
        for (window, &read) in self.windows.iter_mut().zip(offsets) {
            window.read = window.read.max(read);
            window.free();
        }
    }

    fn window(&mut self, partition: i32) -> Option<&mut Window> {
        self.windows.get_mut(usize::try_from(partition).ok()?)
    }
}

impl Window {
    /// Drops the messages that were read.
    fn free(&mut self) {
        while let Some(&(offset, bytes)) = self.unread.front()
            && offset < self.read
        {
            self.unread.pop_front();
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_partition_with_as_many_unread_bytes_as_the_limit_waits_for_its_reader() {
        let mut flow = FlowControl::new(&[0, 0], 100);
        flow.sent(0, 7, 60);
        assert!(flow.allows(0));
        flow.sent(0, 3, 250);
        flow.delivered(0, 7, 0);
        flow.delivered(0, 3, 1);
        assert!(!flow.allows(0) && flow.allows(1) && !flow.allows(2));
        flow.apply_read(&[1, 0]);
        assert!(!flow.allows(0), "the larger one was not read");
        flow.apply_read(&[2, 0]);
        assert!(flow.allows(0));
    }

    #[test]
    fn a_message_counts_before_its_acknowledgement_and_may_be_read_before_it() {
        let mut flow = FlowControl::new(&[0], 100);
        flow.sent(0, 1, 100);
        assert!(!flow.allows(0));
        flow.apply_read(&[1]);
        assert!(!flow.allows(0), "its offset is unknown");
        flow.delivered(0, 1, 0);
        assert!(flow.allows(0));
        // The acknowledgement of a dead letter, whose partition is of another topic.
        flow.delivered(0, 1, 9);
        assert!(flow.allows(0));
    }

    #[test]
    fn the_messages_of_an_earlier_worker_are_read_before_the_first_is_sent() {
        let mut flow = FlowControl::new(&[5], 100);
        assert!(!flow.allows(0));
        flow.apply_read(&[4]);
        assert!(!flow.allows(0));
        flow.apply_read(&[5]);
        assert!(flow.allows(0));
    }

    proptest! {
        #[test]
        fn unread_bytes_never_exceed_the_limit_by_more_than_one_message(
            steps in prop::collection::vec((0..4u8, 1usize..300), 0..300),
        ) {
            let (mut flow, mut sizes) = (FlowControl::new(&[0], 500), Vec::new());
            let (mut delivered, mut read) = (0, 0);
            for (step, bytes) in steps {
                match step {
                    0 | 1 if flow.allows(0) => {
                        flow.sent(0, sizes.len(), bytes);
                        sizes.push(bytes);
                    }
                    2 if delivered < sizes.len() => {
                        flow.delivered(0, delivered, delivered as i64);
                        delivered += 1;
                    }
                    3 => {
                        read = sizes.len().min(read + bytes / 100);
                        flow.apply_read(&[read as i64]);
                    }
                    _ => {}
                }
                let unread: usize = sizes[read..].iter().sum();
                prop_assert!(unread < 500 + 300);
            }
            (delivered..sizes.len()).for_each(|own| flow.delivered(0, own, own as i64));
            flow.apply_read(&[sizes.len() as i64]);
            prop_assert!(flow.allows(0));
        }
    }
}
