//! Which offsets a worker may commit: those behind which every job has an outcome that the broker
//! has acknowledged. A message is *taken* when it is handed to a compute thread and *settled* when
//! the outcomes of all its jobs are acknowledged; jobs of one message may settle in any order and
//! in several pieces.
//!
//! An assignment of a partition has an epoch of its own. What belongs to an earlier one is
//! forgotten, so that work which outlived a rebalance can never move an offset.
//!
//! A commit carries the partition's [`Mark`], and the mark decides how the partition is read. Where
//! its last owners died one after the other, it is read *alone*: nothing else is in hand then, and no
//! other partition's mark is held, so that the next death is put down to the right message.

use std::collections::{BTreeMap, VecDeque};

use crate::mark::{Mark, Reading};

/// How many messages of a partition are in hand at most once a worker has died with it, and how many
/// are therefore read one by one when the next one has, too.
pub const NARROW_MESSAGES: usize = 64;

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

/// Where the group stands in a partition that a worker gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: i32,
    /// The first message to be worked on: the committed offset, or the partition's beginning.
    pub offset: i64,
    /// The metadata of the committed offset; empty where there is none.
    pub metadata: String,
    /// The offset after the partition's last message; `None` where nobody asked, because the
    /// metadata is empty.
    pub end: Option<i64>,
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The partition.
    pub partition: i32,
    /// The first message that is not settled.
    pub offset: i64,
    /// The partition's mark; empty for none.
    pub metadata: String,
}

/// The taken messages of a worker's partitions, and how far each may be committed.
#[derive(Clone, Debug, Default)]
pub struct OffsetTracker {
    partitions: BTreeMap<i32, Partition>,
    last_epoch: Epoch,
    /// Work of earlier assignments is still under way.
    stale_work: bool,
}

#[derive(Clone, Debug)]
struct Partition {
    epoch: Epoch,
    /// Taken messages, by ascending offset; the front one is not settled.
    taken: VecDeque<Taken>,
    /// The first message that is not settled.
    next_offset: i64,
    /// The mark to be committed with it, held; none once there was progress.
    mark: Mark,
    reading: Reading,
    /// Where reading warily ends.
    wary_until: i64,
    /// A message of it hangs, and this worker gives up for that.
    hangs: bool,
    /// What [`OffsetTracker::committable`] last gave out.
    given_out: Option<(i64, Mark)>,
    /// What the broker is known to have; `None` while something else is on its way.
    confirmed: Option<(i64, Mark)>,
    /// What the broker has may put the next death down to a single message or job.
    may_blame: bool,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    offset: i64,
    /// Jobs not settled yet; `None` until the first piece tells how many there are.
    left: Option<u32>,
}

impl Partition {
    fn new(epoch: Epoch, start: &Start) -> Self {
        let pending = start.end.is_none_or(|end| end > start.offset);
        let mark = Mark::parse(&start.metadata).taken_over(pending);
        let span_end = start.offset.saturating_add(NARROW_MESSAGES as i64);
        Self {
            epoch,
            taken: VecDeque::new(),
            next_offset: start.offset,
            mark,
            reading: mark.reading(),
            wary_until: start.end.map_or(span_end, |end| end.min(span_end)),
            hangs: false,
            given_out: None,
            confirmed: None,
            may_blame: Mark::parse(&start.metadata).reading() >= Reading::Warily,
        }
    }

    /// A commit is on its way.
    fn give_out(&mut self, commit: (i64, Mark)) {
        self.given_out = Some(commit);
        if self.confirmed != Some(commit) {
            self.confirmed = None;
        }
        self.may_blame |= commit.1.reading() >= Reading::Warily;
    }

    /// Whether this must be known to be committed before anything more is taken.
    fn must_be_confirmed(&self, commit: (i64, Mark)) -> bool {
        let (_, mark) = commit;
        // A mark that blames must never outlive what it blames, not even by a moment.
        let blames = self.may_blame && self.confirmed != Some(commit);
        let known = self.confirmed.map(|(_, mark)| mark);
        blames || (mark != Mark::default() && known != Some(mark))
    }

    /// Moves the offset behind the settled messages at the front.
    fn advance(&mut self) {
        let before = self.next_offset;
        while let Some(front) = self.taken.front() {
            if front.left != Some(0) {
                break;
            }
            self.next_offset = front.offset + 1;
            self.taken.pop_front();
        }
        let still_wary = self.reading == Reading::Warily && self.next_offset < self.wary_until;
        if self.next_offset > before && !still_wary {
            self.mark = Mark::default();
            self.reading = Reading::Freely;
        }
    }

    /// What is to be committed now. `turn`: whose death the next one of this worker is.
    fn commit(&self, turn: Turn, own: i32) -> (i64, Mark) {
        // What is in hand may be what kills.
        let held = !self.taken.is_empty()
            || match turn {
                Turn::Anybodys => true,
                Turn::Of(partition) => partition == own,
                Turn::OfWhatIsInHand => false,
            };
        let mark = if held {
            self.mark
        } else {
            self.mark.released()
        };
        (self.next_offset, mark)
    }
}

/// To what the next death of a worker would have to be put down.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// All partitions are read.
    Anybodys,
    /// This one is read alone, and nothing else is in hand.
    Of(i32),
    /// One is to be read alone, and what is in hand is finished before that.
    OfWhatIsInHand,
}

impl OffsetTracker {
    /// A tracker without partitions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an assignment of a partition and returns its epoch. No message of it may be taken
    /// before the marks that [`committable`](Self::committable) gives out then are committed.
    pub fn assign(&mut self, start: &Start) -> Epoch {
        self.last_epoch += 1;
        let partition = Partition::new(self.last_epoch, start);
        self.partitions.insert(start.partition, partition);
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
        partition.advance();
    }

    /// The partition that is read alone: of those whose mark asks for it the one that a message was
    /// taken of, or else the lowest. One that comes meanwhile waits until that message is done.
    pub fn alone(&self) -> Option<i32> {
        let partitions = self.partitions.iter();
        let asking = partitions.filter(|(_, partition)| partition.reading >= Reading::Warily);
        let first = asking.min_by_key(|(_, partition)| partition.taken.is_empty());
        first.map(|(&id, _)| id)
    }

    /// Whether work that was taken under earlier assignments is still under way. It may kill, too, so
    /// nothing is read alone beside it.
    pub fn set_stale_work(&mut self, under_way: bool) {
        self.stale_work = under_way;
    }

    fn turn(&self) -> Turn {
        let Some(alone) = self.alone() else {
            return Turn::Anybodys;
        };
        let mut others = self.partitions.iter().filter(|(id, _)| **id != alone);
        if self.stale_work || others.any(|(_, other)| !other.taken.is_empty()) {
            return Turn::OfWhatIsInHand;
        }
        Turn::Of(alone)
    }

    /// How a partition is read; `None` when it is not assigned.
    pub fn reading(&self, partition: i32) -> Option<Reading> {
        Some(self.partitions.get(&partition)?.reading)
    }

    /// How many messages of a partition may be taken now.
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

    /// Notes that the job at this position of the message at the front is tried next, alone. Its
    /// worker may begin once the mark that is given out then is committed. Returns how many workers
    /// have died of it.
    pub fn try_alone(&mut self, partition: i32, position: u32) -> u32 {
        let Some(partition) = self.partitions.get_mut(&partition) else {
            return 0;
        };
        partition.mark = partition.mark.trying(position);
        partition.mark.deaths_of(position)
    }

    /// The message at this offset, the first one taken, is worked on job by job: where those before it
    /// are gone from the topic, the mark was of one of them, and its position says nothing of this one.
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

    /// The position of the first job to be tried in the message that is read job by job.
    pub fn first_position(&self, partition: i32) -> u32 {
        let partition = self.partitions.get(&partition);
        partition.map_or(0, |partition| partition.mark.position())
    }

    /// How many jobs of a taken message are not settled; `None` where the message is not in hand,
    /// or none of its jobs is settled yet.
    pub fn jobs_left(&self, partition: i32, offset: i64) -> Option<u32> {
        let taken = &self.partitions.get(&partition)?.taken;
        let position = taken.binary_search_by_key(&offset, |taken| taken.offset);
        taken[position.ok()?].left
    }

    /// Whether a taken message is in hand still.
    pub fn holds(&self, partition: i32, offset: i64) -> bool {
        let partition = self.partitions.get(&partition);
        partition.is_some_and(|partition| {
            let taken = &partition.taken;
            taken
                .binary_search_by_key(&offset, |taken| taken.offset)
                .is_ok()
        })
    }

    /// Reads a partition freely, whatever its last owners died of.
    pub fn trust(&mut self, partition: i32) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.mark = Mark::default().taken_over(false);
            partition.reading = Reading::Freely;
        }
    }

    /// Notes that a message of a partition hangs. Its mark stays held when it is released.
    pub fn hangs(&mut self, partition: i32) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.hangs = true;
            partition.mark = partition.mark.hanging();
        }
    }

    /// Whether there is a mark that must be known to be committed before any further message is
    /// taken.
    pub fn marks_are_due(&self) -> bool {
        let turn = self.turn();
        let mut partitions = self.partitions.iter();
        partitions.any(|(&id, partition)| partition.must_be_confirmed(partition.commit(turn, id)))
    }

    /// The offsets that may be committed and were not given out before, with their marks.
    pub fn committable(&mut self) -> Vec<Commit> {
        self.give_out(|partition, commit| partition.given_out != Some(commit))
    }

    /// The same, and those that were given out and are not known to be committed. For whoever waits
    /// for the answer, and then [confirms](Self::confirm) it.
    pub fn to_be_confirmed(&mut self) -> Vec<Commit> {
        self.give_out(|partition, commit| {
            partition.given_out != Some(commit) || partition.must_be_confirmed(commit)
        })
    }

    fn give_out(&mut self, is_wanted: impl Fn(&Partition, (i64, Mark)) -> bool) -> Vec<Commit> {
        let turn = self.turn();
        let mut commits = Vec::new();
        for (&id, partition) in &mut self.partitions {
            let commit = partition.commit(turn, id);
            if is_wanted(partition, commit) {
                partition.give_out(commit);
                commits.push(commit_of(id, commit));
            }
        }
        commits
    }

    /// The last commits of partitions that are given away in good order.
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
            if partition.confirmed != Some(commit) {
                partition.give_out(commit);
                commits.push(commit_of(id, commit));
            }
        }
        commits
    }

    /// The broker has these, the last that were given out.
    pub fn confirm(&mut self, commits: &[Commit]) {
        for commit in commits {
            if let Some(partition) = self.partitions.get_mut(&commit.partition) {
                let mark = Mark::parse(&commit.metadata);
                partition.confirmed = Some((commit.offset, mark));
                partition.may_blame = mark.reading() >= Reading::Warily;
            }
        }
    }

    /// A commit of offsets that were given out has failed, or its answer was lost: gives them out
    /// again.
    pub fn give_out_again(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.given_out = None;
            partition.confirmed = None;
        }
    }

    /// How far each assigned partition is settled, as (partition, offset of the first message that
    /// is not).
    pub fn positions(&self) -> impl Iterator<Item = (i32, i64)> {
        let partitions = self.partitions.iter();
        partitions.map(|(&id, partition)| (id, partition.next_offset))
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

fn commit_of(partition: i32, (offset, mark): (i64, Mark)) -> Commit {
    Commit {
        partition,
        offset,
        metadata: mark.to_string(),
    }
}

#[cfg(test)]
mod tests;
