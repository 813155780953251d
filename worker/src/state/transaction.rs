//! The finished work that is not in a committed transaction, and the choice of what the next
//! transaction contains.
//!
//! A transaction contains outcomes and commits offsets, and after a crash the next owner of a partition
//! begins at the committed offset. So that a reader of committed outcomes never sees a job twice, the
//! transaction contains exactly the outcomes of the messages before its offsets that are in no earlier
//! transaction. Finished work consists of batches, and a batch cannot be divided: where a batch has
//! outcomes of messages that are not finished, the offset is set before the first message of the batch.

use std::collections::BTreeMap;

use pipeline::mark::Mark;
use pipeline::offsets::{Commit, Epoch};

use super::outbox::Finished;

/// Finished work of one partition.
#[derive(Debug)]
struct Entry {
    partition: i32,
    epoch: Epoch,
    /// The offset of the first message that it has outcomes of.
    first: i64,
    /// The offset of the last message that it has outcomes of.
    last: i64,
    finished: Finished,
}

/// The content of one transaction: outcomes, dead letters and offsets.
#[derive(Debug, Default)]
pub struct PendingTransaction {
    entries: Vec<Entry>,
    commits: Vec<(Epoch, Commit)>,
}

impl PendingTransaction {
    /// The finished work, in the order in which it was added.
    pub fn finished(&self) -> impl Iterator<Item = &Finished> {
        self.entries.iter().map(|entry| &entry.finished)
    }

    /// The offsets to commit, with their poison markers.
    pub fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.commits.iter().map(|(_, commit)| commit)
    }

    /// The offsets of the partitions whose assignment has not changed. `assigned`: the present epoch of
    /// a partition.
    pub fn commits_of(&self, assigned: impl Fn(i32) -> Option<Epoch>) -> Vec<Commit> {
        let commits = self.commits.iter();
        let own = commits.filter(|(epoch, commit)| assigned(commit.partition) == Some(*epoch));
        own.map(|(_, commit)| commit.clone()).collect()
    }

    /// Whether the transaction was committed. `found`: the committed offsets of the group after its
    /// end. `assigned`: the present epoch of a partition.
    ///
    /// The answer follows from the partitions whose assignment has not changed, because only this
    /// worker can have moved their offsets. The next owner of another partition may have committed the
    /// same offset again with its own marker. Where all assignments have changed, the answer makes no
    /// difference.
    pub fn is_committed(&self, found: &[Commit], assigned: impl Fn(i32) -> Option<Epoch>) -> bool {
        let own = self.commits_of(assigned);
        own.iter().all(|commit| found.contains(commit))
    }
}

/// The offset up to which a partition may be committed.
#[derive(Debug)]
struct Wanted {
    epoch: Epoch,
    commit: Commit,
    /// Whether the marker is committed even where the offset has to wait.
    at_any_offset: bool,
}

/// The finished work that waits for a transaction. The caller adds finished work and the offset up to
/// which each partition is finished, and gets the content of the next transaction.
#[derive(Debug, Default)]
pub struct PendingWork {
    entries: Vec<Entry>,
    wanted: BTreeMap<i32, Wanted>,
    /// Whether a transaction is under way.
    is_under_way: bool,
    /// Whether the transaction under way commits a marker.
    has_mark_under_way: bool,
    /// The bytes of all work that is not in a committed transaction.
    bytes: usize,
}

impl PendingWork {
    /// No finished work.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds finished work, all of which must be of one partition and of its present assignment.
    pub fn add(&mut self, finished: Finished) {
        let offsets = || finished.settles.iter().map(|settled| settled.offset);
        let (Some(settled), Some(first), Some(last)) =
            (finished.settles.first(), offsets().min(), offsets().max())
        else {
            return;
        };
        let (partition, epoch) = (settled.partition, settled.epoch);
        debug_assert!(
            finished
                .settles
                .iter()
                .all(|settled| (settled.partition, settled.epoch) == (partition, epoch))
        );
        self.bytes += finished.bytes();
        self.entries.push(Entry {
            partition,
            epoch,
            first,
            last,
            finished,
        });
    }

    /// Notes that all messages before this offset are finished, so that it may be committed.
    pub fn want(&mut self, epoch: Epoch, commit: Commit) {
        self.want_at(epoch, commit, false);
    }

    /// Notes the last commit of a partition that is revoked: its marker is committed in any case.
    pub fn want_last(&mut self, epoch: Epoch, commit: Commit) {
        self.want_at(epoch, commit, true);
    }

    fn want_at(&mut self, epoch: Epoch, commit: Commit, at_any_offset: bool) {
        let wanted = Wanted {
            epoch,
            commit,
            at_any_offset,
        };
        self.wanted.insert(wanted.commit.partition, wanted);
    }

    /// The content of the next transaction; `None` while one is under way, and where there is no
    /// offset to commit.
    pub fn next_transaction(&mut self) -> Option<PendingTransaction> {
        if self.is_under_way {
            return None;
        }
        let mut transaction = PendingTransaction::default();
        for (partition, wanted) in std::mem::take(&mut self.wanted) {
            let bound = self.bound(partition, &wanted.commit);
            let is_before = |entry: &mut Entry| entry.partition == partition && entry.last < bound;
            let before = transaction.entries.len();
            transaction
                .entries
                .extend(self.entries.extract_if(.., is_before));
            if bound >= wanted.commit.offset {
                transaction.commits.push((wanted.epoch, wanted.commit));
                continue;
            }
            // The remaining offsets wait for the batch that has outcomes of unfinished messages.
            if transaction.entries.len() > before || wanted.at_any_offset {
                let now = Commit {
                    offset: bound,
                    ..wanted.commit.clone()
                };
                transaction.commits.push((wanted.epoch, now));
            }
            self.wanted.insert(partition, wanted);
        }
        self.is_under_way = !transaction.commits.is_empty();
        self.has_mark_under_way = transaction
            .commits()
            .any(|commit| !commit.metadata.is_empty());
        self.is_under_way.then_some(transaction)
    }

    /// The offset of the first message whose outcomes cannot be in one transaction with this commit.
    fn bound(&self, partition: i32, commit: &Commit) -> i64 {
        // Where a message is processed job by job, the marker has the number of its jobs that have
        // outcomes, so these are in the transaction.
        let is_inside = Mark::parse(&commit.metadata).position() > 0;
        let mut bound = commit.offset + i64::from(is_inside);
        let own = self.entries.iter();
        let mut own: Vec<&Entry> = own.filter(|entry| entry.partition == partition).collect();
        // From the last to the first: a bound that is lowered divides no batch that was checked before.
        own.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.last));
        for entry in own {
            if entry.first < bound && entry.last >= bound {
                bound = entry.first;
            }
        }
        bound
    }

    /// Applies the end of the transaction under way. Returns the work that is committed with it. Where
    /// it was aborted, its content is part of the next one, except that of partitions whose assignment
    /// has changed. `assigned`: the present epoch of a partition.
    pub fn ended(
        &mut self,
        transaction: PendingTransaction,
        committed: bool,
        assigned: impl Fn(i32) -> Option<Epoch>,
    ) -> Vec<Finished> {
        self.is_under_way = false;
        self.has_mark_under_way = false;
        let is_held = |partition, epoch| assigned(partition) == Some(epoch);
        let mut again = Vec::new();
        let mut done = Vec::new();
        for entry in transaction.entries {
            if !committed && is_held(entry.partition, entry.epoch) {
                again.push(entry);
                continue;
            }
            self.bytes -= entry.finished.bytes();
            if committed {
                done.push(entry.finished);
            }
        }
        self.entries.splice(0..0, again);
        for (epoch, commit) in transaction.commits {
            if !committed && is_held(commit.partition, epoch) {
                // A commit that was added since then has a higher offset, and is kept.
                self.wanted.entry(commit.partition).or_insert(Wanted {
                    epoch,
                    commit,
                    at_any_offset: false,
                });
            }
        }
        done
    }

    /// Forgets the work of partitions that are no longer assigned. Their next owner repeats it.
    pub fn forget(&mut self, partitions: &[i32]) {
        let is_lost = |partition: &i32| partitions.contains(partition);
        let lost = self
            .entries
            .extract_if(.., |entry| is_lost(&entry.partition));
        self.bytes -= lost.map(|entry| entry.finished.bytes()).sum::<usize>();
        self.wanted.retain(|partition, _| !is_lost(partition));
    }

    /// Whether all offsets that may be committed are.
    pub fn is_settled(&self) -> bool {
        self.wanted.is_empty() && !self.is_under_way
    }

    /// Whether a marker waits for a transaction, or is in the one under way.
    pub fn has_marks(&self) -> bool {
        let mut wanted = self.wanted.values();
        self.has_mark_under_way || wanted.any(|wanted| !wanted.commit.metadata.is_empty())
    }

    /// Whether all work and all offsets are committed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.is_settled()
    }

    /// Whether a transaction is under way.
    pub fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// The bytes of all work that is not in a committed transaction.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests;
