//! Tests of the content of transactions.

use std::collections::{BTreeMap, VecDeque};

use pipeline::offsets::Settled;
use proptest::prelude::*;

use super::*;

/// Finished jobs, each as (offset of its message, jobs).
fn finished(partition: i32, epoch: Epoch, pieces: &[(i64, u32)]) -> Finished {
    let settled = |&(offset, jobs)| Settled {
        partition,
        epoch,
        offset,
        jobs,
        jobs_in_message: JOBS,
    };
    Finished {
        outcomes: Some(vec![0]),
        settles: pieces.iter().map(settled).collect(),
        ..Finished::default()
    }
}

fn commit(partition: i32, offset: i64) -> Commit {
    Commit {
        partition,
        offset,
        metadata: String::new(),
    }
}

/// Commits a transaction: its offsets, and the messages that it has outcomes of.
fn commit_next(pending: &mut PendingWork) -> (Vec<i64>, Vec<i64>) {
    let Some(transaction) = pending.next_transaction() else {
        return (Vec::new(), Vec::new());
    };
    let settles = transaction
        .finished()
        .flat_map(|finished| &finished.settles);
    let found = (
        transaction.commits().map(|commit| commit.offset).collect(),
        settles.map(|settled| settled.offset).collect(),
    );
    pending.ended(transaction, true, |_| None);
    found
}

#[test]
fn a_batch_with_an_unfinished_message_waits_and_so_does_the_offset() {
    let mut pending = PendingWork::new();
    // One job of message 6 is not finished.
    pending.add(finished(0, 1, &[(4, JOBS)]));
    pending.add(finished(0, 1, &[(5, JOBS), (6, 1), (7, JOBS)]));
    pending.want(1, commit(0, 6));
    assert_eq!(commit_next(&mut pending), (vec![5], vec![4]));
    assert_eq!(commit_next(&mut pending), (vec![], vec![]));
    pending.add(finished(0, 1, &[(6, 1)]));
    pending.want(1, commit(0, 8));
    assert_eq!(commit_next(&mut pending), (vec![8], vec![5, 6, 7, 6]));
    assert!(pending.is_empty());
}

#[test]
fn batches_that_overlap_wait_for_each_other() {
    let mut pending = PendingWork::new();
    pending.add(finished(0, 1, &[(1, JOBS)]));
    pending.add(finished(0, 1, &[(2, JOBS), (3, 1)]));
    pending.add(finished(0, 1, &[(3, 1), (4, 1)]));
    pending.want(1, commit(0, 4));
    assert_eq!(commit_next(&mut pending), (vec![2], vec![1]));
}

#[test]
fn a_partition_does_not_wait_for_another() {
    let mut pending = PendingWork::new();
    pending.add(finished(0, 1, &[(0, JOBS), (1, 1)]));
    pending.add(finished(1, 2, &[(0, JOBS)]));
    pending.want(1, commit(0, 1));
    pending.want(2, commit(1, 1));
    let transaction = pending.next_transaction().expect("one can be committed");
    assert_eq!(transaction.commits().collect::<Vec<_>>(), [&commit(1, 1)]);
}

#[test]
fn an_outcome_of_an_isolated_job_is_committed_with_the_marker_of_the_next_job() {
    let mut pending = PendingWork::new();
    let mark = |position| Commit {
        metadata: format!("rollcall/1 held take-overs=3 position={position} deaths=0"),
        ..commit(0, 7)
    };
    pending.want(1, mark(0));
    assert_eq!(commit_next(&mut pending), (vec![7], vec![]));
    pending.add(finished(0, 1, &[(7, 1)]));
    assert_eq!(commit_next(&mut pending), (vec![], vec![]));
    pending.want(1, mark(1));
    assert_eq!(commit_next(&mut pending), (vec![7], vec![7]));
}

#[test]
fn aborted_work_is_in_the_next_transaction_where_its_partition_is_still_assigned() {
    let mut pending = PendingWork::new();
    for (partition, epoch) in [(0, 1), (1, 2)] {
        pending.add(finished(partition, epoch, &[(0, JOBS)]));
        pending.want(epoch, commit(partition, 1));
    }
    let aborted = pending.next_transaction().expect("both can be committed");
    pending.add(finished(0, 1, &[(1, JOBS)]));
    pending.want(1, commit(0, 2));
    assert!(pending.next_transaction().is_none());
    pending.ended(aborted, false, |partition| (partition == 0).then_some(1));
    assert_eq!(commit_next(&mut pending), (vec![2], vec![0, 1]));
    assert!(pending.is_empty());
    assert_eq!(pending.bytes(), 0);
}

#[test]
fn the_end_of_a_transaction_follows_from_the_partitions_with_an_unchanged_assignment() {
    let mut pending = PendingWork::new();
    for (partition, epoch) in [(0, 1), (1, 2)] {
        pending.add(finished(partition, epoch, &[(0, JOBS)]));
        pending.want(epoch, commit(partition, 1));
    }
    let transaction = pending.next_transaction().expect("both can be committed");
    let as_they_were = |partition| Some(if partition == 0 { 1 } else { 2 });
    let both = [commit(0, 1), commit(1, 1)];
    assert!(transaction.is_committed(&both, as_they_were));
    assert!(!transaction.is_committed(&[commit(0, 0), commit(1, 0)], as_they_were));
    assert!(!transaction.is_committed(&both[..1], as_they_were));
    // The first partition was revoked and assigned again, with a new marker.
    let reassigned = |partition| Some(if partition == 0 { 3 } else { 2 });
    let mark = Commit {
        metadata: "rollcall/1 held".to_owned(),
        ..commit(0, 1)
    };
    assert!(transaction.is_committed(&[mark.clone(), commit(1, 1)], reassigned));
    assert!(!transaction.is_committed(&[mark, commit(1, 0)], reassigned));
}

#[test]
fn the_marker_of_a_revoked_partition_does_not_wait_for_a_batch() {
    let mut pending = PendingWork::new();
    pending.add(finished(0, 1, &[(4, JOBS), (5, 1)]));
    pending.want(1, commit(0, 5));
    assert_eq!(commit_next(&mut pending), (vec![], vec![]));
    pending.want_last(1, commit(0, 5));
    assert_eq!(commit_next(&mut pending), (vec![4], vec![]));
}

const JOBS: u32 = 3;
const PARTITIONS: i32 = 2;
const MESSAGES: i64 = 8;

#[derive(Clone, Debug)]
enum Step {
    /// A message of a partition is taken.
    Take(i32),
    /// Some jobs in flight of a partition are finished as one batch.
    Finish(i32, Vec<usize>),
    /// A transaction begins, if none is under way.
    Begin,
    /// The transaction under way ends.
    End { committed: bool },
    /// A partition is revoked and assigned again; the broker has ended the transaction by then.
    Reassign { partition: i32, committed: bool },
    /// The worker dies, and another one starts.
    Crash { committed: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    let picks = prop::collection::vec(0usize..100, 1..6);
    prop_oneof![
        5 => (0..PARTITIONS).prop_map(Step::Take),
        8 => (0..PARTITIONS, picks).prop_map(|(partition, picks)| Step::Finish(partition, picks)),
        5 => Just(Step::Begin),
        4 => any::<bool>().prop_map(|committed| Step::End { committed }),
        1 => (0..PARTITIONS, any::<bool>())
            .prop_map(|(partition, committed)| Step::Reassign { partition, committed }),
        1 => any::<bool>().prop_map(|committed| Step::Crash { committed }),
    ]
}

/// The state of a partition in its worker.
#[derive(Debug, Default)]
struct Assigned {
    epoch: Epoch,
    next: i64,
    /// The messages in flight, as (offset, number of jobs that are not finished).
    taken: VecDeque<(i64, u32)>,
    /// The offset of the first message that is not finished.
    finished: i64,
}

/// A worker, and the committed offsets and outcomes on its broker.
#[derive(Debug, Default)]
struct Model {
    offsets: BTreeMap<i32, i64>,
    /// The number of outcomes that a reader of committed messages has seen, by (partition, message).
    seen: BTreeMap<(i32, i64), u32>,
    assigned: BTreeMap<i32, Assigned>,
    pending: PendingWork,
    under_way: Option<PendingTransaction>,
    /// Whether the broker has committed the transaction under way; `None` while it has not ended it.
    ended: Option<bool>,
    last_epoch: Epoch,
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        (0..PARTITIONS).for_each(|partition| model.assign(partition));
        model
    }

    fn assign(&mut self, partition: i32) {
        self.last_epoch += 1;
        let offset = self.offsets.get(&partition).copied().unwrap_or(0);
        let assigned = Assigned {
            epoch: self.last_epoch,
            next: offset,
            taken: VecDeque::new(),
            finished: offset,
        };
        self.assigned.insert(partition, assigned);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Take(partition) => {
                let own = self.assigned.get_mut(&partition).expect("assigned");
                if own.next < MESSAGES {
                    own.taken.push_back((own.next, JOBS));
                    own.next += 1;
                }
            }
            Step::Finish(partition, picks) => self.finish(partition, &picks),
            Step::Begin => self.begin(),
            Step::End { committed } => {
                self.end_at_broker(committed);
                let Some(transaction) = self.under_way.take() else {
                    return;
                };
                let committed = self.ended.take() == Some(true);
                let assigned = &self.assigned;
                let epoch = |partition| assigned.get(&partition).map(|own| own.epoch);
                self.pending.ended(transaction, committed, epoch);
            }
            Step::Reassign {
                partition,
                committed,
            } => {
                self.end_at_broker(committed);
                self.pending.forget(&[partition]);
                self.assign(partition);
            }
            Step::Crash { committed } => {
                self.end_at_broker(committed);
                self.pending = PendingWork::new();
                (self.under_way, self.ended) = (None, None);
                (0..PARTITIONS).for_each(|partition| self.assign(partition));
            }
        }
    }

    fn finish(&mut self, partition: i32, picks: &[usize]) {
        let own = self.assigned.get_mut(&partition).expect("assigned");
        let mut pieces = Vec::new();
        for pick in picks {
            let open: Vec<usize> = (0..own.taken.len())
                .filter(|&position| own.taken[position].1 > 0)
                .collect();
            if open.is_empty() {
                break;
            }
            let (offset, left) = &mut own.taken[open[pick % open.len()]];
            *left -= 1;
            pieces.push((*offset, 1));
        }
        while own.taken.front().is_some_and(|(_, left)| *left == 0) {
            own.taken.pop_front();
            own.finished += 1;
        }
        if !pieces.is_empty() {
            let (epoch, offset) = (own.epoch, own.finished);
            self.pending.add(finished(partition, epoch, &pieces));
            self.pending.want(epoch, commit(partition, offset));
        }
    }

    fn begin(&mut self) {
        if let Some(transaction) = self.pending.next_transaction() {
            assert!(self.under_way.is_none());
            self.under_way = Some(transaction);
        }
    }

    /// Ends the transaction under way at the broker, unless it has ended.
    fn end_at_broker(&mut self, committed: bool) {
        let (Some(transaction), None) = (&self.under_way, self.ended) else {
            return;
        };
        self.ended = Some(committed);
        if !committed {
            return;
        }
        for commit in transaction.commits() {
            self.offsets.insert(commit.partition, commit.offset);
        }
        for settled in transaction
            .finished()
            .flat_map(|finished| &finished.settles)
        {
            *self
                .seen
                .entry((settled.partition, settled.offset))
                .or_default() += settled.jobs;
        }
    }
}

proptest! {
    /// In every sequence of steps, a reader of committed outcomes sees no job twice, and at the end
    /// each once.
    #[test]
    fn every_job_has_exactly_one_committed_outcome(
        steps in prop::collection::vec(any_step(), 0..150),
    ) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            for (&message, &seen) in &model.seen {
                prop_assert!(seen <= JOBS, "{message:?} is seen {seen} times");
                // No outcome is seen before the offset after its message is committed.
                prop_assert!(message.1 < model.offsets[&message.0]);
            }
        }
        // At the end all transactions are committed.
        model.step(Step::End { committed: true });
        let all = vec![0; JOBS as usize * MESSAGES as usize];
        for partition in 0..PARTITIONS {
            (0..MESSAGES).for_each(|_| model.step(Step::Take(partition)));
            model.finish(partition, &all);
        }
        model.step(Step::Begin);
        model.step(Step::End { committed: true });
        prop_assert!(model.pending.is_empty());
        prop_assert_eq!(model.pending.bytes(), 0);
        for partition in 0..PARTITIONS {
            for offset in 0..MESSAGES {
                prop_assert_eq!(model.seen.get(&(partition, offset)), Some(&JOBS));
            }
        }
    }
}
