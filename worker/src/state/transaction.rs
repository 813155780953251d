//! Finished work that is in no committed transaction yet, and which of it goes into the next one.
//!
//! A transaction holds outcomes and commits offsets, and a crash after it makes the next owner of a
//! partition begin at the offset. So that no reader of committed outcomes ever sees a job twice, it
//! holds exactly the outcomes of the messages before the offsets that it commits, as far as no
//! earlier one did. Finished work comes in batches, though, and a batch cannot be divided: where
//! one reaches beyond what is finished, the offset stays before it.

use std::collections::BTreeMap;

use pipeline::mark::Mark;
use pipeline::offsets::{Commit, Epoch};

use super::outbox::Finished;

/// Finished work of one partition.
#[derive(Debug)]
struct Entry {
    partition: i32,
    epoch: Epoch,
    /// The first and the last message that it has outcomes of.
    first: i64,
    last: i64,
    finished: Finished,
}

/// What goes into one transaction.
#[derive(Debug, Default)]
pub struct PendingTransaction {
    entries: Vec<Entry>,
    commits: Vec<(Epoch, Commit)>,
}

impl PendingTransaction {
    /// The messages, in the order in which they came.
    pub fn finished(&self) -> impl Iterator<Item = &Finished> {
        self.entries.iter().map(|entry| &entry.finished)
    }

    /// The offsets, with the marks that go with them.
    pub fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.commits.iter().map(|(_, commit)| commit)
    }

    /// The offsets of partitions that are assigned as they were. `assigned`: under which epoch each
    /// partition is.
    pub fn commits_of(&self, assigned: impl Fn(i32) -> Option<Epoch>) -> Vec<Commit> {
        let commits = self.commits.iter();
        let own = commits.filter(|(epoch, commit)| assigned(commit.partition) == Some(*epoch));
        own.map(|(_, commit)| commit.clone()).collect()
    }

    /// Whether it was committed, where the group has committed `found` since it has ended. That is told
    /// by the partitions that are assigned as they were, for nobody else can have moved those. (A
    /// partition that has gone tells nothing: its next owner may have marked the very offset anew. Where
    /// all have gone, nobody depends on the answer.) `assigned`: under which epoch each partition is.
    pub fn is_committed(&self, found: &[Commit], assigned: impl Fn(i32) -> Option<Epoch>) -> bool {
        let own = self.commits_of(assigned);
        own.iter().all(|commit| found.contains(commit))
    }
}

/// How far a partition may be committed.
#[derive(Debug)]
struct Wanted {
    epoch: Epoch,
    commit: Commit,
    /// Whether its mark is to be committed even where its offset has to wait.
    at_any_offset: bool,
}

/// Finished work on its way into a transaction. It is given what is finished and how far each
/// partition is finished without a gap, and answers with what goes into the next transaction.
#[derive(Debug, Default)]
pub struct PendingWork {
    entries: Vec<Entry>,
    wanted: BTreeMap<i32, Wanted>,
    /// Whether a transaction is under way.
    is_under_way: bool,
    /// Whether it commits a mark.
    has_mark_under_way: bool,
    /// Of all that is in no committed transaction.
    bytes: usize,
}

impl PendingWork {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in finished work, which must be of one partition and of its present assignment.
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

    /// Notes that every message before this offset is finished, so that it may be committed.
    pub fn want(&mut self, epoch: Epoch, commit: Commit) {
        self.want_at(epoch, commit, false);
    }

    /// The same for a partition that is given away: its mark is committed in any case.
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

    /// What goes into the next transaction; `None` while one is under way, and while there is
    /// nothing to commit.
    pub fn next_transaction(&mut self) -> Option<PendingTransaction> {
        if self.is_under_way {
            return None;
        }
        let mut transaction = PendingTransaction::default();
        for (partition, wanted) in std::mem::take(&mut self.wanted) {
            let bound = self.bound(partition, &wanted.commit);
            let goes = |entry: &mut Entry| entry.partition == partition && entry.last < bound;
            let before = transaction.entries.len();
            transaction
                .entries
                .extend(self.entries.extract_if(.., goes));
            if bound >= wanted.commit.offset {
                transaction.commits.push((wanted.epoch, wanted.commit));
                continue;
            }
            // The rest has to wait for the batch that reaches beyond it.
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

    /// The first message whose outcomes cannot go with this commit.
    fn bound(&self, partition: i32, commit: &Commit) -> i64 {
        // Where a message is worked on job by job, its mark says how many of its jobs have outcomes.
        let is_inside = Mark::parse(&commit.metadata).position() > 0;
        let mut bound = commit.offset + i64::from(is_inside);
        let own = self.entries.iter();
        let mut own: Vec<&Entry> = own.filter(|entry| entry.partition == partition).collect();
        // From the last to the first: a bound that was lowered divides none of those before it.
        own.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.last));
        for entry in own {
            if entry.first < bound && entry.last >= bound {
                bound = entry.first;
            }
        }
        bound
    }

    /// The transaction under way has ended. Returns the work that is committed with it. Where it was
    /// aborted, what went into it goes into the next one, as far as its partitions are still assigned
    /// as they were. `assigned`: under which epoch each partition is.
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
                // What was wanted since then is farther.
                self.wanted.entry(commit.partition).or_insert(Wanted {
                    epoch,
                    commit,
                    at_any_offset: false,
                });
            }
        }
        done
    }

    /// Partitions are assigned no more: what is finished of them is their next owner's to do.
    pub fn forget(&mut self, partitions: &[i32]) {
        let is_lost = |partition: &i32| partitions.contains(partition);
        let lost = self
            .entries
            .extract_if(.., |entry| is_lost(&entry.partition));
        self.bytes -= lost.map(|entry| entry.finished.bytes()).sum::<usize>();
        self.wanted.retain(|partition, _| !is_lost(partition));
    }

    /// Whether everything that was wanted is committed.
    pub fn is_settled(&self) -> bool {
        self.wanted.is_empty() && !self.is_under_way
    }

    /// Whether a mark is wanted, or under way.
    pub fn has_marks(&self) -> bool {
        let mut wanted = self.wanted.values();
        self.has_mark_under_way || wanted.any(|wanted| !wanted.commit.metadata.is_empty())
    }

    /// Whether everything is committed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.is_settled()
    }

    /// Whether a transaction is under way.
    pub fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Bytes that are kept until their transaction is committed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests;
