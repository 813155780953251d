//! Which offsets a worker may commit: those behind which every job has an outcome that the broker
//! has acknowledged. A message is *taken* when it is handed to a compute thread and *settled* when
//! the outcomes of all its jobs are acknowledged; jobs of one message may settle in any order and
//! in several pieces.
//!
//! An assignment of a partition has an epoch of its own. What belongs to an earlier one is
//! forgotten, so that work which outlived a rebalance can never move an offset.

use std::collections::{BTreeMap, VecDeque};

/// Numbers the assignments of a worker's partitions. Never used twice within one process.
pub type Epoch = u64;

/// A piece of a message's work that is done and acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The partition that the message came from.
    pub partition: i32,
    /// The assignment under which it was taken.
    pub epoch: Epoch,
    /// The message's offset.
    pub offset: i64,
    /// How many of its jobs this piece is about.
    pub jobs: u32,
    /// How many jobs the message has in all.
    pub jobs_in_message: u32,
}

/// The taken messages of a worker's partitions, and how far each may be committed.
#[derive(Clone, Debug, Default)]
pub struct OffsetTracker {
    partitions: BTreeMap<i32, Partition>,
    last_epoch: Epoch,
}

#[derive(Clone, Debug)]
struct Partition {
    epoch: Epoch,
    /// Taken messages, by ascending offset; the front one is not settled.
    taken: VecDeque<Taken>,
    /// The offset after the last message of the settled prefix; `None` while there is none.
    next_offset: Option<i64>,
    /// What [`OffsetTracker::committable`] last gave out.
    given_out: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    offset: i64,
    /// Jobs not settled yet; `None` until the first piece tells how many there are.
    left: Option<u32>,
}

impl OffsetTracker {
    /// A tracker without partitions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an assignment of a partition and returns its epoch.
    pub fn assign(&mut self, partition: i32) -> Epoch {
        self.last_epoch += 1;
        self.partitions.insert(
            partition,
            Partition {
                epoch: self.last_epoch,
                taken: VecDeque::new(),
                next_offset: None,
                given_out: None,
            },
        );
        self.last_epoch
    }

    /// Ends an assignment. What was taken under it and is not settled is forgotten.
    pub fn revoke(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// The epoch of a partition's assignment, if it is assigned.
    pub fn epoch(&self, partition: i32) -> Option<Epoch> {
        Some(self.partitions.get(&partition)?.epoch)
    }

    /// Notes that a message was taken. Messages of a partition are taken by ascending offset.
    /// Returns the epoch under which it was taken; `None` when the partition is not assigned.
    pub fn take(&mut self, partition: i32, offset: i64) -> Option<Epoch> {
        let partition = self.partitions.get_mut(&partition)?;
        debug_assert!(
            partition
                .taken
                .back()
                .is_none_or(|last| last.offset < offset)
        );
        partition.taken.push_back(Taken { offset, left: None });
        Some(partition.epoch)
    }

    /// Notes that a piece of a message is settled. Pieces from an earlier assignment are ignored.
    pub fn settle(&mut self, settled: &Settled) {
        let Some(partition) = self.partitions.get_mut(&settled.partition) else {
            return;
        };
        if partition.epoch != settled.epoch {
            return;
        }
        let Ok(position) = partition
            .taken
            .binary_search_by_key(&settled.offset, |taken| taken.offset)
        else {
            return;
        };
        let taken = &mut partition.taken[position];
        let left = taken.left.unwrap_or(settled.jobs_in_message);
        taken.left = Some(left.saturating_sub(settled.jobs));
        while let Some(front) = partition.taken.front() {
            if front.left != Some(0) {
                break;
            }
            partition.next_offset = Some(front.offset + 1);
            partition.taken.pop_front();
        }
    }

    /// The offsets that may be committed and were not given out before, as (partition, offset of
    /// the first message that is not settled).
    pub fn committable(&mut self) -> Vec<(i32, i64)> {
        let mut offsets = Vec::new();
        for (&id, partition) in &mut self.partitions {
            if let Some(next_offset) = partition.next_offset
                && partition.given_out != Some(next_offset)
            {
                partition.given_out = Some(next_offset);
                offsets.push((id, next_offset));
            }
        }
        offsets
    }

    /// A commit of offsets that were given out has failed: gives them out again.
    pub fn give_out_again(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.given_out = None;
        }
    }

    /// How far each assigned partition is settled, as (partition, offset of the first message that
    /// is not); `None` while no message of it was taken.
    pub fn positions(&self) -> impl Iterator<Item = (i32, Option<i64>)> {
        self.partitions.iter().map(|(&id, partition)| {
            let front = partition.taken.front().map(|taken| taken.offset);
            (id, front.or(partition.next_offset))
        })
    }

    /// How many messages are taken and not settled.
    pub fn in_hand(&self) -> usize {
        self.partitions
            .values()
            .map(|partition| partition.taken.len())
            .sum()
    }

    /// How many partitions are assigned.
    pub fn assigned(&self) -> usize {
        self.partitions.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    fn whole(partition: i32, epoch: Epoch, offset: i64) -> Settled {
        Settled {
            partition,
            epoch,
            offset,
            jobs: 1,
            jobs_in_message: 1,
        }
    }

    #[test]
    fn only_the_settled_prefix_may_be_committed() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(3);
        for offset in [10, 11, 14] {
            assert_eq!(tracker.take(3, offset), Some(epoch));
        }
        tracker.settle(&whole(3, epoch, 11));
        assert_eq!(tracker.committable(), []);
        tracker.settle(&whole(3, epoch, 10));
        assert_eq!(tracker.committable(), [(3, 12)]);
        assert_eq!(tracker.committable(), []);
        tracker.settle(&whole(3, epoch, 14));
        assert_eq!(tracker.committable(), [(3, 15)]);
        assert_eq!(tracker.in_hand(), 0);
    }

    #[test]
    fn a_position_is_the_first_message_that_is_not_settled() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(3);
        let position = |tracker: &OffsetTracker| tracker.positions().collect::<Vec<_>>();
        assert_eq!(position(&tracker), [(3, None)]);
        tracker.take(3, 10);
        tracker.take(3, 11);
        assert_eq!(position(&tracker), [(3, Some(10))]);
        tracker.settle(&whole(3, epoch, 10));
        assert_eq!(position(&tracker), [(3, Some(11))]);
        tracker.settle(&whole(3, epoch, 11));
        assert_eq!(position(&tracker), [(3, Some(12))]);
    }

    #[test]
    fn a_message_is_settled_when_all_its_jobs_are() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(0);
        tracker.take(0, 5);
        let piece = |jobs| Settled {
            partition: 0,
            epoch,
            offset: 5,
            jobs,
            jobs_in_message: 10,
        };
        tracker.settle(&piece(9));
        assert_eq!(tracker.committable(), []);
        tracker.settle(&piece(1));
        assert_eq!(tracker.committable(), [(0, 6)]);
    }

    #[test]
    fn work_of_an_earlier_assignment_moves_no_offset() {
        let mut tracker = OffsetTracker::new();
        let earlier = tracker.assign(0);
        tracker.take(0, 5);
        tracker.revoke(0);
        tracker.settle(&whole(0, earlier, 5));
        assert_eq!(tracker.committable(), []);
        let later = tracker.assign(0);
        assert_ne!(earlier, later);
        tracker.take(0, 5);
        tracker.settle(&whole(0, earlier, 5));
        assert_eq!(tracker.committable(), []);
        tracker.settle(&whole(0, later, 5));
        assert_eq!(tracker.committable(), [(0, 6)]);
    }

    #[test]
    fn a_failed_commit_is_given_out_again() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(0);
        tracker.take(0, 5);
        tracker.settle(&whole(0, epoch, 5));
        assert_eq!(tracker.committable(), [(0, 6)]);
        tracker.give_out_again();
        assert_eq!(tracker.committable(), [(0, 6)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(i32, i64),
        Settle(prop::sample::Index, u32),
        Reassign(i32),
        Commit,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3i32, 1..4i64).prop_map(|(partition, gap)| Step::Take(partition, gap)),
            6 => (any::<prop::sample::Index>(), 1..3u32)
                .prop_map(|(piece, jobs)| Step::Settle(piece, jobs)),
            1 => (0..3i32).prop_map(Step::Reassign),
            2 => Just(Step::Commit),
        ]
    }

    proptest! {
        /// Whatever happens, no offset is given out while a job before it is not acknowledged.
        #[test]
        fn no_offset_is_ever_ahead_of_the_acknowledged_jobs(
            steps in prop::collection::vec(any_step(), 1..200),
        ) {
            const JOBS: u32 = 3;
            let mut tracker = OffsetTracker::new();
            let mut epochs: HashMap<i32, Epoch> =
                (0..3).map(|partition| (partition, tracker.assign(partition))).collect();
            let mut next: HashMap<i32, i64> = HashMap::new();
            // The model: (partition, epoch, offset) -> jobs left.
            let mut left: BTreeMap<(i32, Epoch, i64), u32> = BTreeMap::new();
            let mut given: BTreeSet<(i32, i64)> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Take(partition, gap) => {
                        let offset = next.entry(partition).or_insert(0);
                        *offset += gap;
                        let epoch = tracker.take(partition, *offset).expect("assigned");
                        prop_assert_eq!(epoch, epochs[&partition]);
                        left.insert((partition, epoch, *offset), JOBS);
                    }
                    Step::Settle(piece, jobs) => {
                        if left.is_empty() {
                            continue;
                        }
                        let key = *left.keys().nth(piece.index(left.len())).expect("in range");
                        let open = left.get_mut(&key).expect("the key is of the map");
                        let jobs = jobs.min(*open);
                        if jobs == 0 {
                            continue;
                        }
                        *open -= jobs;
                        let (partition, epoch, offset) = key;
                        tracker.settle(&Settled {
                            partition,
                            epoch,
                            offset,
                            jobs,
                            jobs_in_message: JOBS,
                        });
                    }
                    Step::Reassign(partition) => {
                        tracker.revoke(partition);
                        epochs.insert(partition, tracker.assign(partition));
                        // The next owner starts again at what was committed.
                        let committed = given.iter().filter(|(id, _)| *id == partition);
                        let start = committed.map(|(_, offset)| *offset).max().unwrap_or(1);
                        next.insert(partition, start - 1);
                    }
                    Step::Commit => {
                        for (partition, offset) in tracker.committable() {
                            let epoch = epochs[&partition];
                            let open = left.range((partition, epoch, i64::MIN)..(partition, epoch, offset));
                            prop_assert!(open.into_iter().all(|(_, left)| *left == 0));
                            // And it moves as far as it may.
                            let at_it = left.range((partition, epoch, offset)..=(partition, epoch, i64::MAX)).next();
                            prop_assert!(at_it.is_none_or(|(_, left)| *left > 0));
                            given.insert((partition, offset));
                        }
                    }
                }
            }
        }
    }
}
