//! Flow control of outcomes, for a broker that keeps little and drops the oldest of it: finished work
//! is held back while a partition has as much that was not read as it may. Where the reader is comes
//! from the caller.

use std::collections::VecDeque;

/// What this worker has sent to a partition and was not read.
#[derive(Clone, Debug, Default)]
struct Window {
    /// Where the partition ended when this worker began. What is before it may be of a worker that has
    /// died, and has any size.
    start: i64,
    /// How far the partition was read.
    read: i64,
    /// Messages without an offset, as yet: their ids and bytes.
    on_their_way: VecDeque<(usize, usize)>,
    /// Messages with their offsets and bytes.
    unread: VecDeque<(i64, usize)>,
    /// Bytes of both.
    bytes: usize,
}

/// Limits the bytes of each outcomes partition that were not read.
#[derive(Clone, Debug)]
pub struct FlowControl {
    windows: Vec<Window>,
    limit_bytes: usize,
}

impl FlowControl {
    /// `limit_bytes` for each partition; they end at these offsets now. One message may go beyond the
    /// limit.
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

    /// Whether a partition may be sent one more message, of any size.
    pub fn allows(&self, partition: i32) -> bool {
        let window = usize::try_from(partition).ok();
        window
            .and_then(|own| self.windows.get(own))
            .is_some_and(|own| own.read >= own.start && own.bytes < self.limit_bytes)
    }

    /// A message was handed to the producer.
    pub fn sent(&mut self, partition: i32, id: usize, bytes: usize) {
        if let Some(window) = self.window(partition) {
            window.on_their_way.push_back((id, bytes));
            window.bytes += bytes;
        }
    }

    /// A message has this offset. Messages of which nothing is known are of another topic.
    pub fn delivered(&mut self, partition: i32, id: usize, offset: i64) {
        let Some(window) = self.window(partition) else {
            return;
        };
        let position = window.on_their_way.iter().position(|&(own, _)| own == id);
        let message = position.and_then(|own| window.on_their_way.remove(own));
        if let Some((_, bytes)) = message {
            window.unread.push_back((offset, bytes));
            window.free();
        }
    }

    /// The partitions were read up to these offsets.
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
    /// Forgets what was read.
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
    fn a_partition_that_has_as_much_as_it_may_waits_for_its_reader() {
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
    fn what_is_on_its_way_counts_and_may_be_read_before_it_is_acknowledged() {
        let mut flow = FlowControl::new(&[0], 100);
        flow.sent(0, 1, 100);
        assert!(!flow.allows(0));
        flow.apply_read(&[1]);
        assert!(!flow.allows(0), "its offset is not known");
        flow.delivered(0, 1, 0);
        assert!(flow.allows(0));
        // The acknowledgement of a dead letter, whose partition is of another topic.
        flow.delivered(0, 1, 9);
        assert!(flow.allows(0));
    }

    #[test]
    fn what_another_worker_has_left_is_read_first() {
        let mut flow = FlowControl::new(&[5], 100);
        assert!(!flow.allows(0));
        flow.apply_read(&[4]);
        assert!(!flow.allows(0));
        flow.apply_read(&[5]);
        assert!(flow.allows(0));
    }

    proptest! {
        #[test]
        fn what_is_not_read_is_never_more_than_the_limit_and_one_message(
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
