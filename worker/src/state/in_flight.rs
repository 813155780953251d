//! The messages that a worker has taken and not settled, and the one message that is worked on job
//! by job because workers died of it. It decides what may be taken, tried and committed next, and
//! knows no broker, thread or clock.

use pipeline::mark::{MAX_DEATHS, MAX_DEATHS_OF_MESSAGE, Reading};
use pipeline::offsets::{Commit, Epoch, OffsetTracker, Settled, Start};

/// The messages in flight of one worker.
#[derive(Debug, Default)]
pub struct InFlight {
    tracker: OffsetTracker,
    isolated: Option<IsolatedMessage>,
}

/// The message that is worked on job by job.
#[derive(Clone, Copy, Debug)]
struct IsolatedMessage {
    partition: i32,
    offset: i64,
    jobs: u32,
    /// The position of the job that was begun last; its outcome may be on its way.
    begun: Option<u32>,
}

/// A job that is tried alone, because workers died of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsolatedJob {
    /// Its position in the message.
    pub position: u32,
    /// How many workers have died of it.
    pub deaths: u32,
}

impl IsolatedJob {
    /// Whether the job is buried without another try.
    pub fn is_to_be_buried(self) -> bool {
        self.deaths >= MAX_DEATHS
    }

    /// Whether its whole message is buried without being decoded: even to bury the job has killed.
    pub fn message_is_to_be_buried(self) -> bool {
        self.deaths >= MAX_DEATHS_OF_MESSAGE
    }
}

impl InFlight {
    /// Nothing in flight, and no partition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Partitions are assigned. Returns their epochs, in the same order.
    pub fn assign(&mut self, starts: &[Start]) -> Vec<Epoch> {
        let starts = starts.iter();
        starts.map(|start| self.tracker.assign(start)).collect()
    }

    /// Partitions are gone: what was taken from them is forgotten.
    pub fn forget(&mut self, partitions: &[i32]) {
        for &partition in partitions {
            self.tracker.revoke(partition);
            if self.isolated.is_some_and(|own| own.partition == partition) {
                self.isolated = None;
            }
        }
    }

    /// The epoch of a partition's assignment; `None` when it is not assigned.
    pub fn epoch(&self, partition: i32) -> Option<Epoch> {
        self.tracker.epoch(partition)
    }

    /// The epoch of the last assignment of any partition; 0 before the first.
    pub fn last_epoch(&self) -> Epoch {
        self.tracker.last_epoch()
    }

    /// Notes whether compute threads are still at work that was forgotten here. It may kill, too, so
    /// nothing is read alone beside it.
    pub fn set_stale_work(&mut self, under_way: bool) {
        self.tracker.set_stale_work(under_way);
    }

    /// The partition that is read alone, where there is one.
    pub fn alone(&self) -> Option<i32> {
        self.tracker.alone()
    }

    /// How far a partition is isolated; `None` when it is not assigned.
    pub fn isolation(&self, partition: i32) -> Option<Reading> {
        self.tracker.reading(partition)
    }

    /// How many messages of a partition may be taken now.
    pub fn room(&self, partition: i32) -> usize {
        self.tracker.room(partition)
    }

    /// A message was taken. Returns the epoch of its partition; `None` when that is not assigned, and
    /// the message is not this worker's to work on.
    pub fn take(&mut self, partition: i32, offset: i64) -> Option<Epoch> {
        self.tracker.take(partition, offset)
    }

    /// Jobs are settled.
    pub fn settle(&mut self, settled: &Settled) {
        self.tracker.settle(settled);
    }

    /// The message at the committed offset of a partition that is read job by job is about to be
    /// decoded: its mark names the first job of it that has no outcome, which is returned.
    pub fn suspect_first(&mut self, partition: i32) -> IsolatedJob {
        let position = self.tracker.first_position(partition);
        let deaths = self.tracker.try_alone(partition, position);
        IsolatedJob { position, deaths }
    }

    /// A message of this number of jobs, taken before, is worked on job by job. The jobs before the
    /// one that its mark names have their outcomes.
    pub fn isolate(&mut self, partition: i32, offset: i64, jobs: u32) {
        let Some(epoch) = self.tracker.epoch(partition) else {
            return;
        };
        self.tracker.pass_gap(partition, offset);
        let done = self.tracker.first_position(partition);
        // A mark that names a job which the message does not have is about another message.
        if done > 0 && done < jobs {
            self.tracker.settle(&Settled {
                partition,
                epoch,
                offset,
                jobs: done,
                jobs_in_message: jobs,
            });
        }
        self.isolated = Some(IsolatedMessage {
            partition,
            offset,
            jobs,
            begun: None,
        });
    }

    /// Whether a message is being worked on job by job.
    pub fn is_isolating(&self) -> bool {
        self.isolated.is_some()
    }

    /// The next job of the message that is worked on job by job; `None` while one is under way, and
    /// when there is none. It may be begun once what
    /// [`commits_to_confirm`](Self::commits_to_confirm) returns then is committed; then it is
    /// [`begun`](Self::begun).
    pub fn next_isolated(&mut self) -> Option<IsolatedJob> {
        let own = self.isolated?;
        if !self.tracker.holds(own.partition, own.offset) {
            // All of its jobs are settled.
            self.isolated = None;
            return None;
        }
        let left = self.tracker.jobs_left(own.partition, own.offset);
        let position = own.jobs - left.unwrap_or(own.jobs).min(own.jobs);
        if own.begun == Some(position) {
            return None;
        }
        let deaths = self.tracker.try_alone(own.partition, position);
        Some(IsolatedJob { position, deaths })
    }

    /// The job at this position was begun.
    pub fn begun(&mut self, position: u32) {
        if let Some(own) = &mut self.isolated {
            own.begun = Some(position);
        }
    }

    /// Whether the first jobs of the message at a partition's committed offset have their outcomes,
    /// and the others are left.
    pub fn has_begun_message(&self, partition: i32) -> bool {
        self.tracker.first_position(partition) > 0
    }

    /// Ends a partition's isolation: nothing has come of it for long, so nothing of it can kill.
    pub fn end_isolation(&mut self, partition: i32) {
        self.tracker.trust(partition);
    }

    /// A job of a partition hangs, and this worker gives up for that.
    pub fn hangs(&mut self, partition: i32) {
        self.tracker.hangs(partition);
    }

    /// Whether a mark must be known to be committed before any further message is taken.
    pub fn marks_are_due(&self) -> bool {
        self.tracker.marks_are_due()
    }

    /// What may be committed and was not given out before.
    pub fn commits(&mut self) -> Vec<Commit> {
        self.tracker.committable()
    }

    /// What may be committed and is not known to be, for a caller that waits for the answer and then
    /// calls [`confirm`](Self::confirm) or [`commit_failed`](Self::commit_failed).
    pub fn commits_to_confirm(&mut self) -> Vec<Commit> {
        self.tracker.to_be_confirmed()
    }

    /// The last commits of partitions that are given away in good order.
    pub fn release(&mut self, partitions: &[i32]) -> Vec<Commit> {
        self.tracker.release(partitions)
    }

    /// The broker has these commits, the last that were given out.
    pub fn confirm(&mut self, commits: &[Commit]) {
        self.tracker.confirm(commits);
    }

    /// A commit has failed: what was given out is given out again.
    pub fn commit_failed(&mut self) {
        self.tracker.give_out_again();
    }

    /// How many messages are taken and not settled.
    pub fn in_hand(&self) -> usize {
        self.tracker.in_hand()
    }

    /// How many partitions are assigned.
    pub fn assigned_partitions(&self) -> usize {
        self.tracker.assigned()
    }

    /// How far each assigned partition is settled, as (partition, offset of the first message that
    /// is not).
    pub fn positions(&self) -> impl Iterator<Item = (i32, i64)> {
        self.tracker.positions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the first job is tried of a message of four jobs at this offset, and the offset that is
    /// committed before, where the marker at offset 5 has position 2.
    fn first_tried(offset: i64) -> (Option<u32>, i64) {
        let mut own = InFlight::new();
        own.assign(&[Start {
            partition: 0,
            offset: 5,
            metadata: "rollcall/1 take-overs=3 position=2 deaths=1".to_owned(),
            end: Some(9),
        }]);
        own.take(0, offset);
        own.isolate(0, offset, 4);
        let position = own.next_isolated().map(|job| job.position);
        (position, own.commits_to_confirm()[0].offset)
    }

    #[test]
    fn a_marker_passes_over_jobs_of_its_own_message_alone() {
        assert_eq!(first_tried(5), (Some(2), 5));
        // The message at offset 5 is gone from the topic.
        assert_eq!(first_tried(6), (Some(0), 6));
    }
}
