//! What a worker has on its desk: the messages that it took, what is finished of them, what may be
//! produced and committed next, and the one message that is worked on job by job because others died
//! of it. The desk decides and moves nothing: it knows no broker, no thread and no clock, so that a
//! simulation can drive the very type that the worker runs.

use pipeline::mark::{MAX_DEATHS, MAX_DEATHS_OF_MESSAGE, Reading};
use pipeline::offsets::{Commit, Epoch, OffsetTracker, Settled, Start};

use crate::state::outbox::{Finished, Outbox};
use crate::uncommitted::{Cut, Uncommitted};

/// The desk of one worker.
#[derive(Debug, Default)]
pub struct Desk {
    tracker: OffsetTracker,
    outbox: Outbox,
    /// In the outbox's place where outcomes and offsets are committed in transactions. A message is
    /// settled then when its jobs are finished, and what may be committed is what a transaction
    /// holds.
    uncommitted: Option<Uncommitted>,
    careful: Option<CarefulMessage>,
}

/// The message that is worked on job by job.
#[derive(Clone, Copy, Debug)]
struct CarefulMessage {
    partition: i32,
    offset: i64,
    jobs: u32,
    /// The position of the job that was begun last; its outcome may be on its way.
    begun: Option<u32>,
}

/// The next job of the message that is worked on job by job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarefulJob {
    /// Its position in the message.
    pub position: u32,
    /// How many workers have died of it.
    pub deaths: u32,
}

impl CarefulJob {
    /// Whether the job is buried without another try.
    pub fn is_to_be_buried(self) -> bool {
        self.deaths >= MAX_DEATHS
    }

    /// Whether its whole message is buried, and nobody looks into that any more: even to bury the
    /// job has killed.
    pub fn message_is_to_be_buried(self) -> bool {
        self.deaths >= MAX_DEATHS_OF_MESSAGE
    }
}

impl Desk {
    /// An empty desk.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty desk of a worker that commits in transactions: they come from [`cut`](Self::cut),
    /// and neither outbox nor [`commits`](Self::commits) are asked.
    pub fn with_transactions() -> Self {
        Self {
            uncommitted: Some(Uncommitted::new()),
            ..Self::default()
        }
    }

    /// Partitions have come. Returns their epochs, in the same order. Before a message of them is
    /// taken, what [`first_commits`](Self::first_commits) returns then must be committed.
    pub fn assigned(&mut self, starts: &[Start]) -> Vec<Epoch> {
        let starts = starts.iter();
        starts.map(|start| self.tracker.assign(start)).collect()
    }

    /// What to commit as partitions come, outside of any transaction: no outcome goes with it.
    pub fn first_commits(&mut self, partitions: &[i32]) -> Vec<Commit> {
        if self.uncommitted.is_some() {
            self.pass_finished_job();
        }
        let mut commits = self.tracker.to_be_confirmed();
        if self.uncommitted.is_some() {
            // What may be committed of the others are offsets that outcomes go with.
            let others = commits.extract_if(.., |own| !partitions.contains(&own.partition));
            let others = others.collect();
            self.want(others, Uncommitted::want);
        }
        commits
    }

    /// What to commit of partitions that are given away in good order. With transactions, that is
    /// nothing: what is left to be committed is in the next [`cut`](Self::cut).
    pub fn release(&mut self, partitions: &[i32]) -> Vec<Commit> {
        if self.uncommitted.is_none() {
            return self.tracker.release(partitions);
        }
        self.pass_finished_job();
        let commits = self.tracker.release(partitions);
        self.want(commits, Uncommitted::want_last);
        Vec::new()
    }

    /// The outcome of a job that was tried alone goes with the mark that names the next one: with the
    /// mark of its own, whoever comes next would try it again, and a transaction could not be told
    /// from one that was aborted.
    fn pass_finished_job(&mut self) {
        let _ = self.next_carefully();
    }

    fn want(&mut self, commits: Vec<Commit>, want: fn(&mut Uncommitted, Epoch, Commit)) {
        let Some(uncommitted) = &mut self.uncommitted else {
            return;
        };
        for commit in commits {
            if let Some(epoch) = self.tracker.epoch(commit.partition) {
                want(uncommitted, epoch, commit);
            }
        }
    }

    /// Partitions are gone: what was taken from them is forgotten.
    pub fn forget(&mut self, partitions: &[i32]) {
        if let Some(uncommitted) = &mut self.uncommitted {
            uncommitted.forget(partitions);
        }
        for &partition in partitions {
            self.tracker.revoke(partition);
            if self.careful.is_some_and(|own| own.partition == partition) {
                self.careful = None;
            }
        }
    }

    /// Whether compute threads are still at work that was forgotten here. It may kill, too, so nothing
    /// is read alone beside it.
    pub fn set_stale_work(&mut self, under_way: bool) {
        self.tracker.set_stale_work(under_way);
    }

    /// The partition that is read alone, where there is one.
    pub fn alone(&self) -> Option<i32> {
        self.tracker.alone()
    }

    /// How a partition is read; `None` when it is not assigned.
    pub fn reading(&self, partition: i32) -> Option<Reading> {
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

    /// The message at the committed offset of a partition that is read carefully is about to be
    /// looked at: its mark names the first job of it that has no outcome, which is returned.
    pub fn suspect_first(&mut self, partition: i32) -> CarefulJob {
        let position = self.tracker.first_position(partition);
        let deaths = self.tracker.try_alone(partition, position);
        CarefulJob { position, deaths }
    }

    /// A message with so many jobs, taken before, is worked on job by job. The jobs before the one
    /// that its mark names have their outcomes.
    pub fn begin_carefully(&mut self, partition: i32, offset: i64, jobs: u32) {
        let Some(epoch) = self.tracker.epoch(partition) else {
            return;
        };
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
        self.careful = Some(CarefulMessage {
            partition,
            offset,
            jobs,
            begun: None,
        });
    }

    /// Whether a message is being worked on job by job.
    pub fn is_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// The next job of the message that is worked on job by job; `None` while one is under way, and
    /// when there is none. It may be begun once what
    /// [`commits_to_wait_for`](Self::commits_to_wait_for) returns then is committed, and that is to be
    /// told by [`begun`](Self::begun).
    pub fn next_carefully(&mut self) -> Option<CarefulJob> {
        let own = self.careful?;
        if !self.tracker.holds(own.partition, own.offset) {
            // All of its jobs are settled.
            self.careful = None;
            return None;
        }
        let left = self.tracker.jobs_left(own.partition, own.offset);
        let position = own.jobs - left.unwrap_or(own.jobs).min(own.jobs);
        if own.begun == Some(position) {
            return None;
        }
        let deaths = self.tracker.try_alone(own.partition, position);
        Some(CarefulJob { position, deaths })
    }

    /// The job at this position was begun.
    pub fn begun(&mut self, position: u32) {
        if let Some(own) = &mut self.careful {
            own.begun = Some(position);
        }
    }

    /// Nothing has come for long of a partition that is read alone, so that nothing of it can kill:
    /// it is read as any other.
    pub fn nothing_comes(&mut self, partition: i32) {
        self.tracker.trust(partition);
    }

    /// A job of a partition hangs, and this worker gives up for that.
    pub fn hangs(&mut self, partition: i32) {
        self.tracker.hangs(partition);
    }

    /// Work is finished. With transactions it must be of one partition.
    pub fn finish(&mut self, finished: Finished) {
        if let Some(uncommitted) = &mut self.uncommitted {
            let Some(first) = finished.settles.first() else {
                return;
            };
            // What outlived its assignment is another worker's to do.
            if self.tracker.epoch(first.partition) == Some(first.epoch) {
                for settled in &finished.settles {
                    self.tracker.settle(settled);
                }
                uncommitted.add(finished);
            }
            return;
        }
        for settled in self.outbox.add(finished) {
            self.tracker.settle(&settled);
        }
    }

    /// What goes into the next transaction; `None` while one is under way, and while there is
    /// nothing to commit.
    pub fn cut(&mut self) -> Option<Cut> {
        self.pass_finished_job();
        let commits = self.tracker.committable();
        self.want(commits, Uncommitted::want);
        self.uncommitted.as_mut()?.cut()
    }

    /// The transaction under way has ended.
    pub fn ended(&mut self, cut: Cut, committed: bool) {
        if committed {
            let tracker = &mut self.tracker;
            let own = cut.commits_of(|partition| tracker.epoch(partition));
            tracker.confirm(&own);
        }
        if let Some(uncommitted) = &mut self.uncommitted {
            uncommitted.ended(cut, committed, |partition| self.tracker.epoch(partition));
        }
    }

    /// Whether the transaction under way was committed, where nobody has told and the group has
    /// committed `found` since it has ended.
    pub fn is_committed(&self, cut: &Cut, found: &[Commit]) -> bool {
        cut.is_committed(found, |partition| self.tracker.epoch(partition))
    }

    /// Whether a transaction is under way.
    pub fn is_under_way(&self) -> bool {
        self.uncommitted
            .as_ref()
            .is_some_and(Uncommitted::is_under_way)
    }

    /// Whether everything that [`cut`](Self::cut) had to commit is committed.
    pub fn is_settled(&self) -> bool {
        self.uncommitted
            .as_ref()
            .is_none_or(Uncommitted::is_settled)
    }

    /// Bytes of finished work that the broker has not confirmed.
    pub fn unconfirmed_bytes(&self) -> usize {
        let uncommitted = self.uncommitted.as_ref().map_or(0, Uncommitted::bytes);
        self.outbox.bytes() + uncommitted
    }

    /// The message of an entry of the outbox was acknowledged. Returns what is settled by it.
    pub fn acknowledged(&mut self, id: usize) -> Vec<Settled> {
        let settles = self.outbox.acknowledged(id);
        for settled in &settles {
            self.tracker.settle(settled);
        }
        settles
    }

    /// What is finished and not acknowledged.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The message that the outbox has next was handed to the producer.
    pub fn produced(&mut self) {
        self.outbox.produced();
    }

    /// Whether there is a mark that must be known to be committed before any further message is taken.
    pub fn marks_are_due(&self) -> bool {
        let uncommitted = self.uncommitted.as_ref();
        self.tracker.marks_are_due() || uncommitted.is_some_and(Uncommitted::has_marks)
    }

    /// What may be committed and was not given out before.
    pub fn commits(&mut self) -> Vec<Commit> {
        self.tracker.committable()
    }

    /// What may be committed and is not known to be, for whoever waits until it is and then tells
    /// [`committed`](Self::committed).
    pub fn commits_to_wait_for(&mut self) -> Vec<Commit> {
        self.tracker.to_be_confirmed()
    }

    /// The broker has these commits, the last that were given out.
    pub fn committed(&mut self, commits: &[Commit]) {
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

    /// Whether nothing is in hand and nothing on its way.
    pub fn is_clear(&self) -> bool {
        let uncommitted = self.uncommitted.as_ref();
        self.tracker.in_hand() == 0
            && self.outbox.is_empty()
            && uncommitted.is_none_or(Uncommitted::is_empty)
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

    const JOBS: u32 = 4;
    const OFFSET: i64 = 7;

    fn start(metadata: &str) -> Start {
        Start {
            partition: 0,
            offset: OFFSET,
            metadata: metadata.to_owned(),
            end: Some(OFFSET + 1),
        }
    }

    /// One life of a worker that gets the partition with this mark and dies of the job at
    /// `deadly`, unless that is buried before. Returns the last mark, the positions that were
    /// computed and those that were buried.
    fn life(metadata: &str, deadly: u32) -> (String, Vec<u32>, Vec<u32>) {
        let mut desk = Desk::new();
        let epoch = desk.assigned(&[start(metadata)])[0];
        let mut mark = String::new();
        let mut commit = |desk: &mut Desk| {
            let commits = desk.commits_to_wait_for();
            for commit in &commits {
                mark = format!("{} {}", commit.offset, commit.metadata);
            }
            desk.committed(&commits);
        };
        desk.suspect_first(0);
        commit(&mut desk);
        desk.take(0, OFFSET);
        desk.begin_carefully(0, OFFSET, JOBS);
        let (mut computed, mut buried) = (Vec::new(), Vec::new());
        while let Some(job) = desk.next_carefully() {
            let position = job.position;
            commit(&mut desk);
            desk.begun(position);
            assert_eq!(desk.next_carefully(), None);
            if job.is_to_be_buried() {
                buried.push(position);
            } else if position == deadly {
                return (mark, computed, buried);
            } else {
                computed.push(position);
            }
            desk.finish(Finished {
                outcomes: Some(vec![1]),
                settles: vec![Settled {
                    partition: 0,
                    epoch,
                    offset: OFFSET,
                    jobs: 1,
                    jobs_in_message: JOBS,
                }],
                ..Finished::default()
            });
            let (id, _) = desk.outbox().next().expect("one to produce");
            desk.produced();
            desk.acknowledged(id);
        }
        commit(&mut desk);
        (mark, computed, buried)
    }

    fn metadata(mark: &str) -> &str {
        mark.split_once(' ').expect("offset and mark").1
    }

    #[test]
    fn a_job_that_kills_is_buried_after_three_deaths_and_no_other_is() {
        let first = life("rollcall/1 held take-overs=2", 2);
        assert_eq!(
            first.0,
            "7 rollcall/1 held take-overs=3 position=2 deaths=0"
        );
        assert_eq!((first.1, first.2), (vec![0, 1], vec![]));
        // The next ones begin where it died: the outcomes before it are acknowledged.
        let second = life(metadata(&first.0), 2);
        assert_eq!(
            second.0,
            "7 rollcall/1 held take-overs=4 position=2 deaths=1"
        );
        assert_eq!((second.1, second.2), (vec![], vec![]));
        let third = life(metadata(&second.0), 2);
        let last = life(metadata(&third.0), 2);
        assert_eq!(last, ("8 ".to_owned(), vec![3], vec![2]));
    }

    #[test]
    fn a_healthy_message_is_passed_job_by_job_and_clears_the_mark() {
        let passed = life("rollcall/1 held take-overs=9", JOBS);
        assert_eq!(passed, ("8 ".to_owned(), vec![0, 1, 2, 3], vec![]));
    }

    #[test]
    fn a_mark_that_names_a_job_beyond_the_message_skips_nothing() {
        let mark = "rollcall/1 held take-overs=3 position=4 deaths=0";
        assert_eq!(life(mark, JOBS).1, [0, 1, 2, 3]);
    }

    #[test]
    fn a_partition_that_goes_takes_its_message_with_it() {
        let mut desk = Desk::new();
        desk.assigned(&[start("rollcall/1 held take-overs=2")]);
        desk.take(0, OFFSET);
        desk.begin_carefully(0, OFFSET, JOBS);
        assert!(desk.is_careful());
        desk.forget(&[0]);
        assert!(!desk.is_careful());
        assert_eq!((desk.next_carefully(), desk.in_hand()), (None, 0));
    }

    /// Finished jobs of a message of partition 0.
    fn finished(epoch: Epoch, offset: i64, jobs: u32) -> Finished {
        Finished {
            outcomes: Some(vec![1]),
            settles: vec![Settled {
                partition: 0,
                epoch,
                offset,
                jobs,
                jobs_in_message: JOBS,
            }],
            ..Finished::default()
        }
    }

    #[test]
    fn what_a_transaction_holds_is_settled_when_it_is_committed_and_comes_again_when_it_is_not() {
        let mut desk = Desk::with_transactions();
        let epoch = desk.assigned(&[start("")])[0];
        assert_eq!(desk.first_commits(&[0]).len(), 1);
        desk.take(0, OFFSET);
        desk.finish(finished(epoch, OFFSET, JOBS));
        assert_eq!((desk.in_hand(), desk.unconfirmed_bytes()), (0, 1));
        for committed in [false, true] {
            let cut = desk.cut().expect("a message is finished");
            assert_eq!(cut.commits().next().map(|own| own.offset), Some(OFFSET + 1));
            assert!(desk.cut().is_none() && !desk.is_settled() && !desk.is_clear());
            desk.ended(cut, committed);
        }
        assert!(desk.cut().is_none() && desk.is_settled() && desk.is_clear());
        assert_eq!(desk.unconfirmed_bytes(), 0);
    }

    #[test]
    fn what_outlived_its_assignment_is_in_no_transaction() {
        let mut desk = Desk::with_transactions();
        let earlier = desk.assigned(&[start("")])[0];
        desk.take(0, OFFSET);
        desk.finish(finished(earlier, OFFSET, 1));
        desk.forget(&[0]);
        let epoch = desk.assigned(&[start("")])[0];
        desk.first_commits(&[0]);
        desk.take(0, OFFSET);
        desk.finish(finished(earlier, OFFSET, JOBS - 1));
        assert_eq!(desk.unconfirmed_bytes(), 0);
        assert!(desk.cut().is_none());
        desk.finish(finished(epoch, OFFSET, JOBS));
        let cut = desk.cut().expect("a message is finished");
        assert_eq!(cut.finished().count(), 1);
    }

    #[test]
    fn a_partition_that_comes_takes_no_offset_of_another_out_of_its_transaction() {
        let mut desk = Desk::with_transactions();
        let epoch = desk.assigned(&[start("")])[0];
        desk.first_commits(&[0]);
        desk.take(0, OFFSET);
        desk.finish(finished(epoch, OFFSET, JOBS));
        let other = Start {
            partition: 1,
            ..start("")
        };
        desk.assigned(&[other]);
        let first: Vec<_> = desk.first_commits(&[1]);
        assert_eq!(
            first.iter().map(|own| own.partition).collect::<Vec<_>>(),
            [1]
        );
        let cut = desk.cut().expect("a message is finished");
        let own: Vec<_> = cut
            .commits()
            .map(|own| (own.partition, own.offset))
            .collect();
        assert_eq!(own, [(0, OFFSET + 1)]);
    }

    /// A desk with a message of which workers have died: its jobs are tried one at a time.
    fn with_a_suspect() -> (Desk, Epoch) {
        let mut desk = Desk::with_transactions();
        let epoch = desk.assigned(&[start("rollcall/1 held take-overs=2")])[0];
        desk.first_commits(&[0]);
        desk.suspect_first(0);
        desk.take(0, OFFSET);
        desk.begin_carefully(0, OFFSET, JOBS);
        (desk, epoch)
    }

    #[test]
    fn what_is_committed_again_takes_no_outcome_with_the_mark_of_its_own_job() {
        let (mut desk, epoch) = with_a_suspect();
        for position in 0..2 {
            let job = desk.next_carefully().expect("a job");
            if let Some(cut) = desk.cut() {
                desk.ended(cut, true);
            }
            desk.begun(job.position);
            desk.finish(finished(epoch, OFFSET, 1));
            // As where the first commit of a partition that came meanwhile is lost.
            desk.commit_failed();
            let cut = desk.cut().expect("an outcome and a mark");
            assert_eq!(cut.finished().count(), 1);
            let next = format!("position={} ", position + 1);
            assert!(cut.commits().all(|own| own.metadata.contains(&next)));
            desk.ended(cut, true);
        }
    }

    #[test]
    fn the_outcome_of_a_job_that_was_tried_alone_goes_with_the_mark_of_the_next() {
        let (mut desk, epoch) = with_a_suspect();
        for position in 0..2 {
            let job = desk.next_carefully().expect("a job");
            assert_eq!(job.position, position);
            assert!(desk.marks_are_due());
            let cut = desk.cut().expect("a mark");
            let outcomes = usize::from(position > 0);
            assert_eq!(cut.finished().count(), outcomes);
            assert!(desk.marks_are_due());
            desk.ended(cut, true);
            assert!(!desk.marks_are_due());
            desk.begun(position);
            assert!(desk.cut().is_none());
            desk.finish(finished(epoch, OFFSET, 1));
        }
        // It goes while the second outcome is in no transaction yet.
        assert_eq!(desk.release(&[0]), []);
        let cut = desk.cut().expect("an outcome and a mark");
        assert_eq!(cut.finished().count(), 1);
        let mark = "rollcall/1 take-overs=3 position=2 deaths=0";
        assert_eq!(
            cut.commits().next().map(|own| own.metadata.as_str()),
            Some(mark)
        );
    }
}
