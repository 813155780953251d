//! Outcomes, dead letters and offsets are committed together in transactions. A message is settled
//! when its jobs are finished, and what may be committed is what a transaction holds.

use std::time::{Duration, Instant};

use pipeline::mark::Mark;
use pipeline::offsets::{Commit, Epoch};
use tracing::info;

use super::{Commitment, Delivery, Ending, Message, Progress, Report, Settlement, Step};
use crate::event_loop::Failure;
use crate::state::in_flight::InFlight;
use crate::state::outbox::Finished;
use crate::state::transaction::{PendingTransaction, PendingWork};

/// Delivery in transactions.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    pending: PendingWork,
    /// Within a round.
    has_asked: bool,
    /// No further transaction can be committed.
    is_closed: bool,
    /// The last assignment before the transaction under way was begun.
    begun_in: Epoch,
    /// What the group has committed of partitions that were assigned before that, where messages were
    /// given up too often.
    given_up: Vec<(Epoch, Commit)>,
}

impl ExactlyOnce {
    /// Nothing to be committed.
    pub fn new() -> Self {
        Self::default()
    }

    /// The outcome of a job that was tried alone goes with the mark that names the next one: with the
    /// mark of its own, the next owner would try it again, and a transaction could not be told from
    /// one that was aborted.
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
    /// Always: what is finished next may be what the rest waits for.
    fn accepts_finished(&self) -> bool {
        true
    }

    fn finish(&mut self, in_flight: &mut InFlight, finished: Finished) {
        let Some(first) = finished.settles.first() else {
            return;
        };
        // What outlived its assignment is another worker's to do.
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
                // What was found of a partition that has come since may be another owner's.
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
                // Partitions without a membership: they are about to be lost.
                self.apply_end(transaction, &Ending::Aborted, in_flight);
            }
            Report::Closed => {
                self.is_closed = true;
                return Err(Failure::Client);
            }
            // Messages are produced by the thread that commits.
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
        // What may be committed of the others are offsets that outcomes go with.
        let others = commits.extract_if(.., |own| !partitions.contains(&own.partition));
        let others = others.collect();
        self.want(in_flight, others, PendingWork::want);
        commits
    }

    /// Nothing: what is left to be committed is in the next transaction. Where no further one is begun,
    /// because messages were given up, no worker has died of a job: what the group has committed is
    /// committed again, with its marks released.
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
