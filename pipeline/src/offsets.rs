//! The offsets that a worker may commit: those before which every job has an outcome that the broker
//! has acknowledged. A message is *taken* when it is handed to a compute thread, and *settled* when
//! the outcomes of all its jobs are acknowledged. The jobs of one message may be settled in any order
//! and in several parts.
//!
//! Each assignment of a partition has an epoch of its own. Work of an earlier epoch is ignored, so
//! work that outlives a rebalance never moves an offset.
//!
//! Each commit carries the partition's poison marker ([`Mark`]), and the marker decides how the
//! partition is read. Where its previous owners died one after the other, it is read *alone*: nothing
//! else is in flight, and no other partition's marker is held, so that the next death is attributed to
//! the right message.

mod partition;

use std::collections::BTreeMap;

use self::partition::{Attribution, Partition, PartitionCommit, Taken, commit_of};
use crate::mark::{Mark, Reading};

/// The largest number of messages of a partition that are in flight after a worker died with it. After
/// a second death this number of messages is read one by one.
pub const NARROW_MESSAGES: usize = 64;

/// The number of an assignment of a partition. It is never used twice within one process.
pub type Epoch = u64;

/// The offset of a partition, in a list by partition; `None` where the list has none for it.
pub fn of_partition(offsets: &[i64], partition: i32) -> Option<i64> {
    let partition = usize::try_from(partition).ok()?;
    offsets.get(partition).copied()
}

/// A number of jobs of one message whose outcomes are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The partition of the message.
    pub partition: i32,
    /// The assignment under which the message was taken.
    pub epoch: Epoch,
    /// The offset of the message.
    pub offset: i64,
    /// The number of jobs that are settled now.
    pub jobs: u32,
    /// The number of all jobs of the message.
    pub jobs_in_message: u32,
}

/// The position of the group in a partition that is assigned to this worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: i32,
    /// The offset of the first message to process: the committed offset, or the partition's first.
    pub offset: i64,
    /// The metadata of the committed offset; empty where there is none.
    pub metadata: String,
    /// The offset after the partition's last message; `None` where it was not asked for, because the
    /// metadata is empty.
    pub end: Option<i64>,
}

/// An offset to commit, with its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The partition.
    pub partition: i32,
    /// The offset of the first message that is not settled.
    pub offset: i64,
    /// The partition's poison marker; empty where there is none.
    pub metadata: String,
}

/// The messages in flight of a worker's partitions, and the offset that may be committed for each.
#[derive(Clone, Debug, Default)]
pub struct OffsetTracker {
    partitions: BTreeMap<i32, Partition>,
    last_epoch: Epoch,
    /// Whether compute threads still work on messages of earlier assignments.
    stale_work: bool,
}

impl OffsetTracker {
    /// A tracker without partitions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an assignment of a partition and returns its epoch. No message of it may be taken
    /// before the commits that [`committable`](Self::committable) then returns are acknowledged.
    pub fn assign(&mut self, start: &Start) -> Epoch {
        self.last_epoch += 1;
        let partition = Partition::new(self.last_epoch, start);
        self.partitions.insert(start.partition, partition);
        self.last_epoch
    }

    /// Ends an assignment. Its messages in flight are forgotten.
    pub fn revoke(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// The epoch of a partition's assignment, if it is assigned.
    pub fn epoch(&self, partition: i32) -> Option<Epoch> {
        Some(self.partitions.get(&partition)?.epoch)
    }

    /// The epoch of the last assignment of any partition; 0 before the first.
    pub fn last_epoch(&self) -> Epoch {
        self.last_epoch
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

    /// Notes that jobs of a message are settled. Those of an earlier assignment are ignored.
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
        partition.advance();
    }

    /// The partition that is read alone: of those whose marker requires it the one with a message in
    /// flight, or else the lowest. One that is assigned meanwhile waits until that message is settled.
    pub fn alone(&self) -> Option<i32> {
        let partitions = self.partitions.iter();
        let asking = partitions.filter(|(_, partition)| partition.reading >= Reading::Warily);
        let first = asking.min_by_key(|(_, partition)| partition.taken.is_empty());
        first.map(|(&id, _)| id)
    }

    /// Notes whether compute threads still work on messages of earlier assignments. That work may kill,
    /// too, so no partition is read alone beside it.
    pub fn set_stale_work(&mut self, under_way: bool) {
        self.stale_work = under_way;
    }

    fn attribution(&self) -> Attribution {
        let Some(alone) = self.alone() else {
            return Attribution::AnyPartition;
        };
        let mut others = self.partitions.iter().filter(|(id, _)| **id != alone);
        if self.stale_work || others.any(|(_, other)| !other.taken.is_empty()) {
            return Attribution::InFlight;
        }
        Attribution::Only(alone)
    }

    /// The isolation level of a partition; `None` when it is not assigned.
    pub fn reading(&self, partition: i32) -> Option<Reading> {
        Some(self.partitions.get(&partition)?.reading)
    }

    /// The number of messages of a partition that may be taken now.
    pub fn room(&self, partition: i32) -> usize {
        let Some(own) = self.partitions.get(&partition) else {
            return 0;
        };
        match self.alone() {
            Some(alone) if alone == partition => {
                usize::from(self.in_hand() == 0 && !self.stale_work)
            }
            Some(_) => 0,
            None if own.reading == Reading::Freely => usize::MAX,
            None => NARROW_MESSAGES.saturating_sub(own.taken.len()),
        }
    }

    /// Notes that the job at this position of the first message in flight is computed next, alone. It
    /// may begin once the marker that is then to be committed is acknowledged. Returns the number of
    /// workers that died of it.
    pub fn try_alone(&mut self, partition: i32, position: u32) -> u32 {
        let Some(partition) = self.partitions.get_mut(&partition) else {
            return 0;
        };
        partition.mark = partition.mark.trying(position);
        partition.mark.deaths_of(position)
    }

    /// Moves the offset to that of the first message in flight, which is processed job by job, where
    /// the messages before it are gone from the topic. The marker's position was one in such a
    /// message, so it is set to 0.
    pub fn pass_gap(&mut self, partition: i32, offset: i64) {
        if let Some(own) = self.partitions.get_mut(&partition)
            && own
                .taken
                .front()
                .is_some_and(|first| first.offset == offset)
            && own.next_offset < offset
        {
            own.next_offset = offset;
            own.mark = own.mark.trying(0);
        }
    }

    /// The position of the first job to compute in the message that is processed job by job.
    pub fn first_position(&self, partition: i32) -> u32 {
        let partition = self.partitions.get(&partition);
        partition.map_or(0, |partition| partition.mark.position())
    }

    /// The number of jobs of a message that are not settled; `None` where the message is not in flight,
    /// or none of its jobs is settled yet.
    pub fn jobs_left(&self, partition: i32, offset: i64) -> Option<u32> {
        let taken = &self.partitions.get(&partition)?.taken;
        let position = taken.binary_search_by_key(&offset, |taken| taken.offset);
        taken[position.ok()?].left
    }

    /// Whether a message is in flight.
    pub fn holds(&self, partition: i32, offset: i64) -> bool {
        let partition = self.partitions.get(&partition);
        partition.is_some_and(|partition| {
            let taken = &partition.taken;
            taken
                .binary_search_by_key(&offset, |taken| taken.offset)
                .is_ok()
        })
    }

    /// Ends the isolation of a partition, whatever its previous owners died of.
    pub fn trust(&mut self, partition: i32) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.mark = Mark::default().taken_over(false);
            partition.reading = Reading::Freely;
        }
    }

    /// Notes that a message of a partition hangs. The partition's marker stays held on release.
    pub fn hangs(&mut self, partition: i32) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.hangs = true;
            partition.mark = partition.mark.hanging();
        }
    }

    /// Whether a marker must be committed and acknowledged before another message is taken.
    pub fn marks_are_due(&self) -> bool {
        let attribution = self.attribution();
        let mut partitions = self.partitions.iter();
        partitions
            .any(|(&id, partition)| partition.must_be_confirmed(partition.commit(attribution, id)))
    }

    /// The offsets that may be committed and were not returned before, with their markers.
    pub fn committable(&mut self) -> Vec<Commit> {
        self.pending_commits(Partition::is_new)
    }

    /// The offsets that may be committed and were not returned before, and those that were returned
    /// and have to be acknowledged before another message is taken. For a caller that waits for the
    /// broker's answer, and then calls [`confirm`](Self::confirm).
    pub fn to_be_confirmed(&mut self) -> Vec<Commit> {
        self.pending_commits(|partition, commit| {
            partition.is_new(commit) || partition.must_be_confirmed(commit)
        })
    }

    fn pending_commits(
        &mut self,
        is_wanted: impl Fn(&Partition, PartitionCommit) -> bool,
    ) -> Vec<Commit> {
        let attribution = self.attribution();
        let mut commits = Vec::new();
        for (&id, partition) in &mut self.partitions {
            let commit = partition.commit(attribution, id);
            if is_wanted(partition, commit) {
                partition.set_pending(commit);
                commits.push(commit_of(id, commit));
            }
        }
        commits
    }

    /// The last commits of partitions that are revoked cleanly: their markers are released.
    pub fn release(&mut self, partitions: &[i32]) -> Vec<Commit> {
        let mut commits = Vec::new();
        for &id in partitions {
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            if !partition.hangs {
                partition.mark = partition.mark.released();
            }
            let commit = (partition.next_offset, partition.mark);
            if !partition.is_confirmed(commit) {
                partition.set_pending(commit);
                commits.push(commit_of(id, commit));
            }
        }
        commits
    }

    /// Notes that the broker acknowledged these commits, the last ones that were returned.
    pub fn confirm(&mut self, commits: &[Commit]) {
        for commit in commits {
            if let Some(partition) = self.partitions.get_mut(&commit.partition) {
                partition.confirm((commit.offset, Mark::parse(&commit.metadata)));
            }
        }
    }

    /// Notes that a commit failed, or that its answer was lost: its offsets are returned again.
    pub fn give_out_again(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.forget_commits();
        }
    }

    /// The offset of the first message that is not settled, by assigned partition, as
    /// (partition, offset).
    pub fn positions(&self) -> impl Iterator<Item = (i32, i64)> {
        let partitions = self.partitions.iter();
        partitions.map(|(&id, partition)| (id, partition.next_offset))
    }

    /// The number of messages in flight: taken and not settled.
    pub fn in_hand(&self) -> usize {
        self.partitions
            .values()
            .map(|partition| partition.taken.len())
            .sum()
    }

    /// The number of partitions that are assigned.
    pub fn assigned(&self) -> usize {
        self.partitions.len()
    }
}

#[cfg(test)]
mod tests;
