//! The messages in flight of a worker, which are taken and not settled, and the one message that is
//! processed job by job because workers died of it. The type decides which messages may be taken, which
//! job is computed and which offsets are committed next, without broker, thread or clock.

use pipeline::mark::{MAX_DEATHS, MAX_DEATHS_OF_MESSAGE, Reading};
use pipeline::offsets::{Commit, Epoch, OffsetTracker, Settled, Start};

/// The messages in flight of one worker.
#[derive(Debug, Default)]
pub struct InFlight {
    tracker: OffsetTracker,
    isolated: Option<IsolatedMessage>,
}

/// The message that is processed job by job.
#[derive(Clone, Copy, Debug)]
struct IsolatedMessage {
    partition: i32,
    offset: i64,
    jobs: u32,
    /// The position of the job that was begun last; its outcome may be in flight.
    begun: Option<u32>,
}

/// A job that is computed alone, because workers died of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsolatedJob {
    /// The position of the job in its message, from 0.
    pub position: u32,
    /// The number of workers that died of it.
    pub deaths: u32,
}

impl IsolatedJob {
    /// Whether the job becomes a dead letter without another attempt.
    pub fn is_to_be_buried(self) -> bool {
        self.deaths >= MAX_DEATHS
    }

    /// Whether its whole message becomes a dead letter without being decoded, because workers died even
    /// while they wrote the job's dead letter.
    pub fn message_is_to_be_buried(self) -> bool {
        self.deaths >= MAX_DEATHS_OF_MESSAGE
    }
}

impl InFlight {
    /// No partition, and no message in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies an assignment of partitions. Returns their epochs, in the same order.
    pub fn assign(&mut self, starts: &[Start]) -> Vec<Epoch> {
        let starts = starts.iter();
        starts.map(|start| self.tracker.assign(start)).collect()
    }

    /// Forgets partitions that are no longer assigned, with their messages in flight.
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

    /// Notes whether compute threads still work on forgotten messages. That work may kill, too, so no
    /// partition is read alone beside it.
    pub fn set_stale_work(&mut self, under_way: bool) {
        self.tracker.set_stale_work(under_way);
    }

    /// The partition that is read alone; `None` where all are read.
    pub fn alone(&self) -> Option<i32> {
        self.tracker.alone()
    }

    /// The isolation level of a partition; `None` when it is not assigned.
    pub fn isolation(&self, partition: i32) -> Option<Reading> {
        self.tracker.reading(partition)
    }

    /// The number of messages of a partition that may be taken now.
    pub fn room(&self, partition: i32) -> usize {
        self.tracker.room(partition)
    }

    /// Notes that a message was taken. Returns the epoch of its partition; `None` when that is not
    /// assigned, so that the message is another worker's.
    pub fn take(&mut self, partition: i32, offset: i64) -> Option<Epoch> {
        self.tracker.take(partition, offset)
    }

    /// Notes that jobs are settled.
    pub fn settle(&mut self, settled: &Settled) {
        self.tracker.settle(settled);
    }

    /// Notes that the message at the committed offset of a partition is decoded next, to be processed
    /// job by job. Returns the first job without an outcome, which the marker names.
    pub fn suspect_first(&mut self, partition: i32) -> IsolatedJob {
        let position = self.tracker.first_position(partition);
        let deaths = self.tracker.try_alone(partition, position);
        IsolatedJob { position, deaths }
    }

    /// Begins to process a message in flight, of this number of jobs, job by job. The jobs before the
    /// one in its marker have outcomes.
    pub fn isolate(&mut self, partition: i32, offset: i64, jobs: u32) {
        let Some(epoch) = self.tracker.epoch(partition) else {
            return;
        };
        self.tracker.pass_gap(partition, offset);
        let done = self.tracker.first_position(partition);
        // A marker with a position that the message does not have is about another message.
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

    /// Whether a message is processed job by job.
    pub fn is_isolating(&self) -> bool {
        self.isolated.is_some()
    }

    /// The next job of the message that is processed job by job; `None` while one is under way, and
    /// without such a message. It may begin once the commits that
    /// [`commits_to_confirm`](Self::commits_to_confirm) then returns are acknowledged; the caller then
    /// calls [`begun`](Self::begun).
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

    /// Notes that the job at this position was begun.
    pub fn begun(&mut self, position: u32) {
        if let Some(own) = &mut self.isolated {
            own.begun = Some(position);
        }
    }

    /// Whether the first jobs of the message at a partition's committed offset have outcomes, and the
    /// others have not.
    pub fn has_begun_message(&self, partition: i32) -> bool {
        self.tracker.first_position(partition) > 0
    }

    /// Ends a partition's isolation. The caller has seen no message of it for the idle timeout, so none
    /// can kill.
    pub fn end_isolation(&mut self, partition: i32) {
        self.tracker.trust(partition);
    }

    /// Notes that a job of a partition hangs, for which this worker shuts down.
    pub fn hangs(&mut self, partition: i32) {
        self.tracker.hangs(partition);
    }

    /// Whether a poison marker must be committed and acknowledged before another message is taken.
    pub fn marks_are_due(&self) -> bool {
        self.tracker.marks_are_due()
    }

    /// The offsets that may be committed and were not returned before.
    pub fn commits(&mut self) -> Vec<Commit> {
        self.tracker.committable()
    }

    /// The offsets that may be committed and are not acknowledged, for a caller that waits for the
    /// answer and then calls [`confirm`](Self::confirm) or [`commit_failed`](Self::commit_failed).
    pub fn commits_to_confirm(&mut self) -> Vec<Commit> {
        self.tracker.to_be_confirmed()
    }

    /// The last commits of partitions that are revoked cleanly.
    pub fn release(&mut self, partitions: &[i32]) -> Vec<Commit> {
        self.tracker.release(partitions)
    }

    /// Notes that the broker acknowledged these commits, the last ones that were returned.
    pub fn confirm(&mut self, commits: &[Commit]) {
        self.tracker.confirm(commits);
    }

    /// Notes that a commit failed: its offsets are returned again.
    pub fn commit_failed(&mut self) {
        self.tracker.give_out_again();
    }

    /// The number of messages in flight.
    pub fn in_hand(&self) -> usize {
        self.tracker.in_hand()
    }

    /// The number of partitions that are assigned.
    pub fn assigned_partitions(&self) -> usize {
        self.tracker.assigned()
    }

    /// The offset of the first message that is not settled, by assigned partition, as
    /// (partition, offset).
    pub fn positions(&self) -> impl Iterator<Item = (i32, i64)> {
        self.tracker.positions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position of the first job that is computed of a message of four jobs at this offset, and the
    /// offset that is committed before it, where the marker at offset 5 has position 2.
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
    fn a_marker_skips_jobs_of_its_own_message_only() {
        assert_eq!(first_tried(5), (Some(2), 5));
        // The message at offset 5 is gone from the topic.
        assert_eq!(first_tried(6), (Some(0), 6));
    }
}
