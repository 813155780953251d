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
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    fn start(partition: i32, offset: i64) -> Start {
        Start {
            partition,
            offset,
            ..Start::default()
        }
    }

    /// A partition whose last owners left this mark, with so many messages waiting.
    fn marked(partition: i32, offset: i64, metadata: &str, waiting: i64) -> Start {
        Start {
            partition,
            offset,
            metadata: metadata.to_owned(),
            end: Some(offset + waiting),
        }
    }

    /// What may be committed, in short: "partition@offset mark".
    fn given_out(tracker: &mut OffsetTracker) -> Vec<String> {
        in_short(&tracker.committable())
    }

    /// The same of what is waited for and then known to be committed.
    fn confirm(tracker: &mut OffsetTracker) -> Vec<String> {
        let commits = tracker.to_be_confirmed();
        tracker.confirm(&commits);
        in_short(&commits)
    }

    fn in_short(commits: &[Commit]) -> Vec<String> {
        let short = |commit: &Commit| {
            let mark = commit.metadata.replace("rollcall/1", "");
            format!("{}@{}{mark}", commit.partition, commit.offset)
        };
        commits.iter().map(short).collect()
    }

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
        let epoch = tracker.assign(&start(3, 10));
        assert_eq!(given_out(&mut tracker), ["3@10 held"]);
        for offset in [10, 11, 14] {
            assert_eq!(tracker.take(3, offset), Some(epoch));
        }
        tracker.settle(&whole(3, epoch, 11));
        assert_eq!(given_out(&mut tracker), [""; 0]);
        tracker.settle(&whole(3, epoch, 10));
        assert_eq!(given_out(&mut tracker), ["3@12"]);
        assert_eq!(given_out(&mut tracker), [""; 0]);
        tracker.settle(&whole(3, epoch, 14));
        assert_eq!(given_out(&mut tracker), ["3@15"]);
        assert_eq!(tracker.in_hand(), 0);
    }

    #[test]
    fn a_position_is_the_first_message_that_is_not_settled() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(&start(3, 10));
        let position = |tracker: &OffsetTracker| tracker.positions().collect::<Vec<_>>();
        tracker.take(3, 10);
        tracker.take(3, 11);
        assert_eq!(position(&tracker), [(3, 10)]);
        tracker.settle(&whole(3, epoch, 10));
        assert_eq!(position(&tracker), [(3, 11)]);
        tracker.settle(&whole(3, epoch, 11));
        assert_eq!(position(&tracker), [(3, 12)]);
    }

    #[test]
    fn a_message_is_settled_when_all_its_jobs_are() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(&start(0, 5));
        tracker.committable();
        tracker.take(0, 5);
        let piece = |jobs| Settled {
            partition: 0,
            epoch,
            offset: 5,
            jobs,
            jobs_in_message: 10,
        };
        assert_eq!(tracker.jobs_left(0, 5), None);
        tracker.settle(&piece(9));
        assert_eq!(tracker.jobs_left(0, 5), Some(1));
        assert_eq!(given_out(&mut tracker), [""; 0]);
        tracker.settle(&piece(1));
        assert_eq!(given_out(&mut tracker), ["0@6"]);
    }

    #[test]
    fn work_of_an_earlier_assignment_moves_no_offset() {
        let mut tracker = OffsetTracker::new();
        let earlier = tracker.assign(&start(0, 5));
        tracker.take(0, 5);
        tracker.revoke(0);
        tracker.settle(&whole(0, earlier, 5));
        assert_eq!(given_out(&mut tracker), [""; 0]);
        let later = tracker.assign(&start(0, 5));
        assert_ne!(earlier, later);
        assert_eq!(given_out(&mut tracker), ["0@5 held"]);
        tracker.take(0, 5);
        tracker.settle(&whole(0, earlier, 5));
        assert_eq!(given_out(&mut tracker), [""; 0]);
        tracker.settle(&whole(0, later, 5));
        assert_eq!(given_out(&mut tracker), ["0@6"]);
    }

    #[test]
    fn a_failed_commit_is_given_out_again() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(&start(0, 5));
        tracker.take(0, 5);
        tracker.settle(&whole(0, epoch, 5));
        assert_eq!(given_out(&mut tracker), ["0@6"]);
        tracker.give_out_again();
        assert_eq!(given_out(&mut tracker), ["0@6"]);
    }

    #[test]
    fn a_clean_revoke_leaves_no_hold() {
        let mut tracker = OffsetTracker::new();
        tracker.assign(&start(0, 5));
        let other = tracker.assign(&start(1, 5));
        tracker.committable();
        tracker.take(1, 5);
        tracker.settle(&whole(1, other, 5));
        let released = tracker.release(&[0, 1]);
        assert_eq!(in_short(&released), ["0@5", "1@6"]);
        tracker.confirm(&released);
        assert_eq!(in_short(&tracker.release(&[0, 1])), [""; 0]);
    }

    #[test]
    fn after_one_death_few_messages_are_in_hand_until_there_is_progress() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(&marked(0, 5, "rollcall/1 held", 1_000));
        tracker.assign(&start(1, 0));
        assert!(tracker.marks_are_due());
        assert_eq!(confirm(&mut tracker), ["0@5 held take-overs=1", "1@0 held"]);
        assert!(!tracker.marks_are_due());
        assert_eq!(tracker.room(1), usize::MAX);
        assert_eq!(tracker.room(0), NARROW_MESSAGES);
        for offset in 5..5 + NARROW_MESSAGES as i64 {
            tracker.take(0, offset);
        }
        assert_eq!(tracker.room(0), 0);
        tracker.settle(&whole(0, epoch, 5));
        assert_eq!(tracker.room(0), usize::MAX);
        assert_eq!(given_out(&mut tracker), ["0@6"]);
    }

    #[test]
    fn after_two_deaths_a_partition_is_read_alone_one_message_at_a_time() {
        let mut tracker = OffsetTracker::new();
        let healthy = tracker.assign(&start(0, 0));
        tracker.take(0, 0);
        let epoch = tracker.assign(&marked(1, 5, "rollcall/1 held take-overs=1", 2));
        assert_eq!(tracker.alone(), Some(1));
        // What is in hand is finished first, and may still be what kills.
        assert_eq!((tracker.room(0), tracker.room(1)), (0, 0));
        assert_eq!(given_out(&mut tracker), ["0@0 held", "1@5 take-overs=2"]);
        tracker.settle(&whole(0, healthy, 0));
        let expected = ["0@1", "1@5 held take-overs=2"];
        assert_eq!(given_out(&mut tracker), expected);
        assert_eq!((tracker.room(0), tracker.room(1)), (0, 1));
        tracker.take(1, 5);
        assert_eq!(tracker.room(1), 0);
        tracker.settle(&whole(1, epoch, 5));
        // The last owner may have died of the next one.
        assert_eq!(given_out(&mut tracker), ["1@6 held take-overs=2"]);
        assert_eq!(tracker.room(1), 1);
        tracker.take(1, 6);
        tracker.settle(&whole(1, epoch, 6));
        assert_eq!(given_out(&mut tracker), ["1@7"]);
        assert_eq!((tracker.alone(), tracker.room(0)), (None, usize::MAX));
    }

    #[test]
    fn while_a_partition_is_read_alone_no_other_mark_is_held() {
        let mut tracker = OffsetTracker::new();
        tracker.assign(&start(0, 0));
        assert_eq!(given_out(&mut tracker), ["0@0 held"]);
        let first = tracker.assign(&marked(1, 5, "rollcall/1 held take-overs=2", 1));
        tracker.assign(&marked(
            2,
            7,
            "rollcall/1 held take-overs=4 position=3 deaths=1",
            1,
        ));
        let expected = [
            "0@0",
            "1@5 held take-overs=3",
            "2@7 take-overs=5 position=3 deaths=2",
        ];
        assert_eq!(given_out(&mut tracker), expected);
        tracker.take(1, 5);
        tracker.settle(&whole(1, first, 5));
        assert_eq!(tracker.alone(), Some(2));
        assert!(tracker.marks_are_due());
        let expected = ["1@6", "2@7 held take-overs=5 position=3 deaths=2"];
        assert_eq!(given_out(&mut tracker), expected);
        assert_eq!(tracker.first_position(2), 3);
    }

    #[test]
    fn a_job_that_is_tried_alone_is_named_in_the_mark_with_its_deaths() {
        let mut tracker = OffsetTracker::new();
        let mark = "rollcall/1 held take-overs=3 position=1 deaths=1";
        let epoch = tracker.assign(&marked(0, 5, mark, 1));
        confirm(&mut tracker);
        tracker.take(0, 5);
        assert_eq!(tracker.try_alone(0, 1), 2);
        assert!(!tracker.marks_are_due());
        assert_eq!(tracker.try_alone(0, 2), 0);
        assert!(tracker.marks_are_due());
        let expected = ["0@5 held take-overs=4 position=2 deaths=0"];
        assert_eq!(confirm(&mut tracker), expected);
        assert!(!tracker.marks_are_due());
        tracker.settle(&whole(0, epoch, 5));
        assert!(tracker.marks_are_due());
        assert_eq!(given_out(&mut tracker), ["0@6"]);
    }

    #[test]
    fn a_mark_that_blames_is_waited_for_until_it_is_known_to_be_gone() {
        let mut tracker = OffsetTracker::new();
        let epoch = tracker.assign(&marked(0, 5, "rollcall/1 held take-overs=3", 2));
        confirm(&mut tracker);
        tracker.take(0, 5);
        tracker.settle(&whole(0, epoch, 5));
        // Asked for, and the answer is not there yet.
        assert_eq!(given_out(&mut tracker), ["0@6"]);
        assert!(tracker.marks_are_due());
        tracker.give_out_again();
        assert!(tracker.marks_are_due());
        assert_eq!(confirm(&mut tracker), ["0@6"]);
        assert!(!tracker.marks_are_due());
    }

    #[test]
    fn what_comes_while_a_message_is_read_alone_waits_for_its_end() {
        let mut tracker = OffsetTracker::new();
        let mark = "rollcall/1 held take-overs=3";
        let epoch = tracker.assign(&marked(4, 5, mark, 1));
        tracker.take(4, 5);
        tracker.assign(&marked(0, 7, mark, 1));
        assert_eq!((tracker.alone(), tracker.room(0)), (Some(4), 0));
        tracker.settle(&whole(4, epoch, 5));
        assert_eq!((tracker.alone(), tracker.room(0)), (Some(0), 1));
    }

    #[test]
    fn nothing_is_read_alone_beside_work_of_an_earlier_assignment() {
        let mut tracker = OffsetTracker::new();
        tracker.assign(&marked(0, 5, "rollcall/1 held take-overs=3", 1));
        tracker.set_stale_work(true);
        assert_eq!(tracker.room(0), 0);
        assert_eq!(given_out(&mut tracker), ["0@5 take-overs=4"]);
        tracker.set_stale_work(false);
        assert_eq!(tracker.room(0), 1);
        assert_eq!(given_out(&mut tracker), ["0@5 held take-overs=4"]);
    }

    #[test]
    fn a_partition_that_hangs_keeps_its_hold_when_it_is_given_away() {
        let mut tracker = OffsetTracker::new();
        tracker.assign(&start(0, 5));
        tracker.assign(&start(1, 5));
        tracker.hangs(0);
        let expected = ["0@5 held take-overs=1", "1@5"];
        assert_eq!(in_short(&tracker.release(&[0, 1])), expected);
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
                (0..3).map(|partition| (partition, tracker.assign(&start(partition, 1)))).collect();
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
                        // The next owner starts again at what was committed.
                        let committed = given.iter().filter(|(id, _)| *id == partition);
                        let first = committed.map(|(_, offset)| *offset).max().unwrap_or(1);
                        epochs.insert(partition, tracker.assign(&start(partition, first)));
                        next.insert(partition, first - 1);
                    }
                    Step::Commit => {
                        for Commit { partition, offset, .. } in tracker.committable() {
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
