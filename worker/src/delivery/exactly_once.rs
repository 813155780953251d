//! Delivery exactly once: outcomes, dead letters and offsets are committed together in transactions. A
//! message is settled when its jobs are finished, because its outcomes are in the transaction that
//! commits its offset.

use std::time::{Duration, Instant};

use pipeline::mark::Mark;
use pipeline::offsets::{Commit, Epoch};
use tracing::info;

use super::{Commitment, Delivery, Ending, Message, Progress, Report, Settlement, Step};
use crate::event_loop::Failure;
use crate::state::in_flight::InFlight;
use crate::state::outbox::Finished;
use crate::state::transaction::{PendingTransaction, PendingWork};

/// Delivery with transactions.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    pending: PendingWork,
    /// Whether this round has asked for the end of the transaction under way.
    has_asked: bool,
    /// Whether no further transaction can be committed.
    is_closed: bool,
    /// The last assignment before the transaction under way was begun.
    begun_in: Epoch,
    /// The committed offsets of partitions that were assigned before that, where messages were given
    /// up in too many transactions.
    given_up: Vec<(Epoch, Commit)>,
}

impl ExactlyOnce {
    /// A delivery without finished work.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the marker past a finished isolated job, so that the job's outcome is committed with the
    /// marker of the next one. With the job's own marker the next owner would compute it again, and a
    /// committed transaction could not be distinguished from an aborted one.
    fn pass_finished_job(in_flight: &mut InFlight) {
        let _ = in_flight.next_isolated();
    }

    fn want(
        &mut self,
        in_flight: &InFlight,
        commits: Vec<Commit>,
        want: fn(&mut PendingWork, Epoch, Commit),
    ) {
        for commit in commits {
            if let Some(epoch) = in_flight.epoch(commit.partition) {
                want(&mut self.pending, epoch, commit);
            }
        }
    }

    fn apply_end(
        &mut self,
        transaction: PendingTransaction,
        ending: &Ending,
        in_flight: &mut InFlight,
    ) -> Progress {
        let epoch = |partition| in_flight.epoch(partition);
        let committed = match ending {
            Ending::Committed => true,
            Ending::Aborted | Ending::GaveUp(_) => false,
            Ending::Unknown(found) => {
                let committed = transaction.is_committed(found, epoch);
                info!(committed, "found out how the transaction has ended");
                committed
            }
        };
        let own = transaction.commits_of(epoch);
        let done = self.pending.ended(transaction, committed, epoch);
        if committed {
            in_flight.confirm(&own);
        }
        let settlement = |finished: Finished| Settlement {
            has_outcomes: finished.outcomes.is_some(),
            is_dead: finished.dead_letter.is_some(),
            dead_letter: finished.dead_letter.is_some(),
            settles: finished.settles,
        };
        Progress {
            settlements: done.into_iter().map(settlement).collect(),
            is_aborted: !committed,
        }
    }
}

impl Delivery for ExactlyOnce {
    /// Always true, because the other work may wait for the work that is finished next.
    fn accepts_finished(&self) -> bool {
        true
    }

    fn finish(&mut self, in_flight: &mut InFlight, finished: Finished) {
        let Some(first) = finished.settles.first() else {
            return;
        };
        // The next owner of the partition does the work of an ended assignment.
        if in_flight.epoch(first.partition) != Some(first.epoch) {
            return;
        }
        for settled in &finished.settles {
            in_flight.settle(settled);
        }
        self.pending.add(finished);
    }

    fn next_step(&mut self) -> Option<Step> {
        self.has_asked = !self.has_asked && self.is_under_way();
        self.has_asked
            .then_some(Step::TransactionEnd(Duration::ZERO))
    }

    fn message(&self, _: usize) -> Option<Message<'_>> {
        None
    }

    fn apply(
        &mut self,
        report: Report,
        in_flight: &mut InFlight,
        _: Instant,
    ) -> Result<Progress, Failure> {
        match report {
            Report::Ended(transaction, Ending::GaveUp(found)) => {
                self.apply_end(transaction, &Ending::Aborted, in_flight);
                self.is_closed = true;
                // The offset of a partition that was assigned since then may be another owner's.
                let own = found.into_iter().filter_map(|commit| {
                    let epoch = in_flight.epoch(commit.partition)?;
                    (epoch <= self.begun_in).then_some((epoch, commit))
                });
                self.given_up = own.collect();
                return Err(Failure::Client);
            }
            Report::Ended(transaction, ending) => {
                return Ok(self.apply_end(transaction, &ending, in_flight));
            }
            Report::NoMember(transaction) => {
                // Partitions without a membership are about to be lost.
                self.apply_end(transaction, &Ending::Aborted, in_flight);
            }
            Report::Closed => {
                self.is_closed = true;
                return Err(Failure::Client);
            }
            // The transaction thread produces the messages.
            Report::Begun | Report::UnderWay | Report::Produced(_) | Report::Delivered { .. } => {}
        }
        Ok(Progress::default())
    }

    fn commit(&mut self, in_flight: &mut InFlight) -> Option<Commitment> {
        self.next_transaction(in_flight)
            .map(Commitment::Transaction)
    }

    fn commit_before_reading(&mut self, _: &mut InFlight) -> Option<Vec<Commit>> {
        None
    }

    fn next_transaction(&mut self, in_flight: &mut InFlight) -> Option<PendingTransaction> {
        if self.is_closed {
            return None;
        }
        Self::pass_finished_job(in_flight);
        let commits = in_flight.commits();
        self.want(in_flight, commits, PendingWork::want);
        let transaction = self.pending.next_transaction();
        if transaction.is_some() {
            self.begun_in = in_flight.last_epoch();
        }
        transaction
    }

    fn first_commits(&mut self, in_flight: &mut InFlight, partitions: &[i32]) -> Vec<Commit> {
        Self::pass_finished_job(in_flight);
        let mut commits = in_flight.commits_to_confirm();
        // The offsets of the other partitions are committed in a transaction with their outcomes.
        let others = commits.extract_if(.., |own| !partitions.contains(&own.partition));
        let others = others.collect();
        self.want(in_flight, others, PendingWork::want);
        commits
    }

    /// No offset, because the next transaction commits those that are left. Where no further one is
    /// begun, because messages were given up, no job has killed a worker: the committed offsets are
    /// committed again with released markers.
    fn release(&mut self, in_flight: &mut InFlight, partitions: &[i32]) -> Vec<Commit> {
        if self.is_closed {
            let own = self.given_up.iter().filter(|(epoch, commit)| {
                partitions.contains(&commit.partition)
                    && in_flight.epoch(commit.partition) == Some(*epoch)
            });
            let released = own.map(|(_, commit)| Commit {
                metadata: Mark::parse(&commit.metadata).released().to_string(),
                ..commit.clone()
            });
            return released.collect();
        }
        Self::pass_finished_job(in_flight);
        let commits = in_flight.release(partitions);
        self.want(in_flight, commits, PendingWork::want_last);
        Vec::new()
    }

    fn forget(&mut self, partitions: &[i32]) {
        self.pending.forget(partitions);
    }

    fn is_drained(&self) -> bool {
        true
    }

    fn is_under_way(&self) -> bool {
        self.pending.is_under_way() && !self.is_closed
    }

    fn is_settled(&self) -> bool {
        self.pending.is_settled()
    }

    fn has_marks(&self) -> bool {
        self.pending.has_marks()
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn unconfirmed_bytes(&self) -> usize {
        self.pending.bytes()
    }
}
