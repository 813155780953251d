//! Partition rotation: which partition the next messages go to, and how many before it is the next
//! one's turn.

/// The largest number of messages, and of bytes, that are sent to a partition by one call to the
/// producer.
const MAX_BATCH_MESSAGES: usize = 256;
const MAX_BATCH_BYTES: usize = 256 * 1024;

/// The number of batches for each partition, where there are enough jobs, so that the work is spread
/// evenly over partitions and so over workers.
pub(super) const BATCHES_PER_PARTITION: u64 = 16;

/// The amount that is sent to one partition before the next one's turn, for fewer and fuller requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimit {
    max_jobs: u64,
}

impl BatchLimit {
    /// The limit for a run of this many jobs.
    pub fn new(jobs: u64, partitions: usize) -> Self {
        Self {
            // A message of a little less than the share is a batch, not the first half of one.
            max_jobs: jobs * 3 / 4 / (BATCHES_PER_PARTITION * partitions.max(1) as u64),
        }
    }

    /// Whether a batch with this many jobs, messages and bytes takes no further message.
    pub fn is_reached(&self, jobs: u64, messages: usize, bytes: usize) -> bool {
        jobs >= self.max_jobs || messages >= MAX_BATCH_MESSAGES || bytes >= MAX_BATCH_BYTES
    }
}

/// The order in which partitions get their batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionRotation {
    partitions: usize,
    /// The partition whose turn it is.
    next: usize,
    /// The number of partitions from one turn to the next.
    stride: usize,
}

impl PartitionRotation {
    /// A rotation that begins at partition 0.
    pub fn new(partitions: usize) -> Self {
        Self {
            partitions: partitions.max(1),
            next: 0,
            stride: stride(partitions),
        }
    }

    /// The first partition, from the one whose turn it is, that may be sent a batch. The turn moves
    /// on to it. `None` where no partition may.
    pub fn find(&mut self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let found = (0..self.partitions)
            .map(|ahead| (self.next + ahead) % self.partitions)
            .find(|&partition| may(partition))?;
        self.next = found;
        Some(found)
    }

    /// The partition whose turn it is has its batch.
    pub fn advance(&mut self) {
        self.next = (self.next + self.stride) % self.partitions;
    }
}

/// How many partitions on the next turn is. All have their turn before one has its second, and those
/// that were served in any stretch of turns lie evenly among the others: the last round, which only
/// some get, is then shared by workers that have neighbouring partitions.
fn stride(partitions: usize) -> usize {
    // The golden section, next to which multiples are spread the most evenly.
    let golden = partitions * 618 / 1_000;
    let candidates = (golden.max(1)..partitions).chain([1]);
    let mut coprime = candidates.filter(|&stride| greatest_common_divisor(stride, partitions) == 1);
    coprime.next().unwrap_or(1)
}

fn greatest_common_divisor(mut one: usize, mut other: usize) -> usize {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_small_run_reaches_every_partition_and_a_large_one_sends_full_batches() {
        // 5,120 jobs are 13 for each of 16 batches of 24 partitions.
        let small = BatchLimit::new(5_120, 24);
        assert!(!small.is_reached(9, 9, 900));
        assert!(small.is_reached(10, 10, 1_000));
        assert!(BatchLimit::new(3, 24).is_reached(1, 1, 50));
        let large = BatchLimit::new(1_000_000, 24);
        assert!(!large.is_reached(255, 255, 20_000));
        assert!(large.is_reached(256, 256, 20_000));
        assert!(large.is_reached(5_000, 8, 256 * 1024));
    }

    #[test]
    fn turns_come_to_every_partition_and_any_stretch_of_them_is_shared_evenly() {
        for partitions in 1..=200 {
            let mut rotation = PartitionRotation::new(partitions);
            let turns: Vec<usize> = (0..partitions)
                .map(|_| {
                    let turn = rotation.find(|_| true).expect("all may");
                    rotation.advance();
                    turn
                })
                .collect();
            let reached: BTreeSet<&usize> = turns.iter().collect();
            assert_eq!(reached.len(), partitions);
            // Of two workers, each with one half, neither has many more.
            for count in 1..partitions {
                let of_first = turns[..count].iter().filter(|&&turn| turn < partitions / 2);
                let share = count * (partitions / 2) / partitions;
                let of_first = of_first.count();
                assert!(
                    of_first.abs_diff(share) <= 5,
                    "{partitions}, {count}: {of_first}"
                );
            }
        }
    }

    #[test]
    fn a_partition_that_may_not_is_passed_over_and_none_is_found_where_none_may() {
        let mut rotation = PartitionRotation::new(3);
        assert_eq!(rotation.find(|partition| partition == 2), Some(2));
        assert_eq!(rotation.find(|_| false), None);
        assert_eq!(rotation.find(|_| true), Some(2));
        rotation.advance();
        assert_eq!(rotation.find(|_| true), Some(0));
    }
}
