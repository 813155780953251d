//! The messages of one assigned partition that are in flight, and the offset and marker to commit
//! for it.

use std::collections::VecDeque;

use super::{Commit, Epoch, NARROW_MESSAGES, Start};
use crate::mark::{Mark, Reading};

/// The state of one assignment of a partition.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    /// The number of the assignment.
    pub(super) epoch: Epoch,
    /// The messages in flight, by ascending offset. The first one is not settled.
    pub(super) taken: VecDeque<Taken>,
    /// The offset of the first message that is not settled.
    pub(super) next_offset: i64,
    /// The marker to commit with that offset, held; the default once there was progress.
    pub(super) mark: Mark,
    /// The isolation level at which the partition is read.
    pub(super) reading: Reading,
    /// The offset at which reading message by message ends.
    isolated_until: i64,
    /// Whether a message of the partition hangs, for which this worker shuts down.
    pub(super) hangs: bool,
    /// The commit that was last handed to the caller; `None` where it has to be handed out again.
    pending: Option<PartitionCommit>,
    /// The commit that the broker acknowledged last; `None` while another one is pending.
    confirmed: Option<PartitionCommit>,
    /// Whether the marker that the broker has may attribute the next death to a single message or
    /// job.
    may_blame: bool,
}

/// A message in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// The offset of the message.
    pub(super) offset: i64,
    /// The number of its jobs that are not settled; `None` until the first of them is.
    pub(super) left: Option<u32>,
}

/// The offset to commit for a partition, and its marker.
pub(super) type PartitionCommit = (i64, Mark);

/// The cause to which the next death of this worker would be attributed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribution {
    /// All partitions are read, and each may be the cause.
    AnyPartition,
    /// Only this partition is read, and nothing else is in flight.
    Only(i32),
    /// A partition is to be read alone next, and what is in flight of the others is finished first.
    InFlight,
}

impl Partition {
    /// The state of a partition that is assigned now.
    pub(super) fn new(epoch: Epoch, start: &Start) -> Self {
        let pending = start.end.is_none_or(|end| end > start.offset);
        let mark = Mark::parse(&start.metadata).taken_over(pending);
        let span_end = start.offset.saturating_add(NARROW_MESSAGES as i64);
        Self {
            epoch,
            taken: VecDeque::new(),
            next_offset: start.offset,
            mark,
            reading: mark.reading(),
            isolated_until: start.end.map_or(span_end, |end| end.min(span_end)),
            hangs: false,
            pending: None,
            confirmed: None,
            may_blame: Mark::parse(&start.metadata).reading() >= Reading::Warily,
        }
    }

    /// Moves the offset past the settled messages at the front. Progress clears the marker, except
    /// within the messages that are read one by one.
    pub(super) fn advance(&mut self) {
        let before = self.next_offset;
        while let Some(front) = self.taken.front() {
            if front.left != Some(0) {
                break;
            }
            self.next_offset = front.offset + 1;
            self.taken.pop_front();
        }
        let is_isolated = self.reading == Reading::Warily && self.next_offset < self.isolated_until;
        if self.next_offset > before && !is_isolated {
            self.mark = Mark::default();
            self.reading = Reading::Freely;
        }
    }

    /// The commit of this partition, `own`, as of now. Its marker is held where the next death may be
    /// attributed to this partition.
    pub(super) fn commit(&self, attribution: Attribution, own: i32) -> PartitionCommit {
        // A message in flight may be the one that kills.
        let held = !self.taken.is_empty()
            || match attribution {
                Attribution::AnyPartition => true,
                Attribution::Only(partition) => partition == own,
                Attribution::InFlight => false,
            };
        let mark = if held {
            self.mark
        } else {
            self.mark.released()
        };
        (self.next_offset, mark)
    }

    /// Whether this commit differs from the one that was handed to the caller last.
    pub(super) fn is_new(&self, commit: PartitionCommit) -> bool {
        self.pending != Some(commit)
    }

    /// Whether the broker is known to have this commit.
    pub(super) fn is_confirmed(&self, commit: PartitionCommit) -> bool {
        self.confirmed == Some(commit)
    }

    /// Whether the broker must acknowledge this commit before another message is taken.
    pub(super) fn must_be_confirmed(&self, commit: PartitionCommit) -> bool {
        let (_, mark) = commit;
        // A marker that blames one message must be gone before another one is in flight, or the death
        // by the other one would be counted for it.
        let blames = self.may_blame && !self.is_confirmed(commit);
        let known = self.confirmed.map(|(_, mark)| mark);
        blames || (mark != Mark::default() && known != Some(mark))
    }

    /// Notes that a commit is handed to the caller.
    pub(super) fn set_pending(&mut self, commit: PartitionCommit) {
        self.pending = Some(commit);
        if self.confirmed != Some(commit) {
            self.confirmed = None;
        }
        self.may_blame |= commit.1.reading() >= Reading::Warily;
    }

    /// Notes that the broker acknowledged a commit, the last one that was pending.
    pub(super) fn confirm(&mut self, commit: PartitionCommit) {
        let (_, mark) = commit;
        self.confirmed = Some(commit);
        self.may_blame = mark.reading() >= Reading::Warily;
    }

    /// Notes that the pending commit failed or may have failed.
    pub(super) fn forget_commits(&mut self) {
        self.pending = None;
        self.confirmed = None;
    }
}

/// The commit of a partition as a caller sees it, with the marker as text.
pub(super) fn commit_of(partition: i32, (offset, mark): PartitionCommit) -> Commit {
    Commit {
        partition,
        offset,
        metadata: mark.to_string(),
    }
}
