//! The worker's thread that commits transactions, one call at a time, with everything that the real
//! one is told by the broker, or is not told. The very loop that the thread runs says what is called
//! next.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use pipeline::offsets::Commit;
use worker::delivery::{Ending, Report};
use worker::state::transaction::PendingTransaction;
use worker::transaction_loop::{Call, CallError, Next, TransactionLoop};

use super::{Flow, Stop, WorkerProcess};
use crate::broker::{Broker, MemberId, Payload};
use crate::history::Shared;
use crate::mutants::Mutation;
use crate::seen::Seen;
use crate::transactions::{Place, State, Transaction};

/// The thread.
#[derive(Debug)]
pub struct Committer {
    /// The producer's lasting name.
    producer: u64,
    transaction_loop: TransactionLoop,
    under_way: Option<UnderWay>,
    /// Reported, and not taken by the event loop yet.
    ended: Option<(PendingTransaction, Ending)>,
    /// No further transaction can be committed.
    is_closed: bool,
}

#[derive(Debug)]
struct UnderWay {
    pending: PendingTransaction,
    member: MemberId,
    generation: u64,
    messages: VecDeque<(Place, Payload)>,
    transaction: Option<Rc<Transaction>>,
}

impl Committer {
    /// A thread whose producer takes its name, so that offsets are decided before partitions come.
    pub fn start(producer: u64, shared: &mut Shared) -> Self {
        if shared.broker.take_name(producer) {
            shared.saw(Seen::TransactionEndedBySuccessor);
        }
        Self {
            producer,
            transaction_loop: TransactionLoop::default(),
            under_way: None,
            ended: None,
            is_closed: false,
        }
    }

    /// Whether there is something to do.
    pub fn can_go_on(&self) -> bool {
        self.under_way.is_some() && !self.is_closed
    }

    /// Whether no further transaction can be committed.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl WorkerProcess {
    /// One step of the thread.
    pub fn transact(&mut self, shared: &mut Shared) -> Flow<()> {
        let Some(committer) = &mut self.committer else {
            return Ok(());
        };
        let Next::Call(call) = *committer.transaction_loop.next() else {
            return Ok(());
        };
        let Some(mut own) = committer.under_way.take() else {
            return Ok(());
        };
        let producer = committer.producer;
        let transaction = own
            .transaction
            .get_or_insert_with(|| shared.broker.begin(producer, self.number));
        let transaction = Rc::clone(transaction);
        let called = self.call(call, &mut own, &transaction, shared);
        let Some(committer) = &mut self.committer else {
            return Ok(());
        };
        match called {
            Ok(Some(result)) => committer.transaction_loop.apply(result),
            Ok(None) => {}
            Err(stop) => {
                committer.under_way = Some(own);
                return Err(stop);
            }
        }
        match committer.transaction_loop.next().clone() {
            Next::Call(_) => committer.under_way = Some(own),
            Next::Report(ending) => committer.ended = Some((own.pending, ending)),
            Next::Close => committer.is_closed = true,
        }
        Ok(())
    }

    /// What comes of a call; `None` while it lasts.
    fn call(
        &mut self,
        call: Call,
        own: &mut UnderWay,
        transaction: &Rc<Transaction>,
        shared: &mut Shared,
    ) -> Flow<Option<Result<(), CallError>>> {
        let is_fenced = transaction.state() != State::Open;
        let is_filling = matches!(
            call,
            Call::Begin | Call::Produce | Call::Drain | Call::SendOffsets
        );
        if is_filling && is_fenced {
            shared.saw(Seen::ProducerFenced);
            return Ok(Some(Err(CallError::Producer)));
        }
        let result = match call {
            Call::Begin | Call::Drain => Ok(()),
            // A message was given up, or the broker asks for the end for another reason.
            Call::Produce if shared.fault(1, 60) => Err(CallError::Abortable),
            Call::Produce if shared.mutation == Some(Mutation::CommittedHalfWritten) => Ok(()),
            Call::Produce => match own.messages.pop_front() {
                Some((place, payload)) => {
                    shared.write(transaction, place, payload)?;
                    return Ok(None);
                }
                None => Ok(()),
            },
            Call::SendOffsets if shared.mutation == Some(Mutation::OffsetsForgotten) => Ok(()),
            Call::SendOffsets => self.send_offsets(own, transaction, shared),
            Call::Commit => return self.call_commit(own, transaction, is_fenced, shared),
            Call::Abort if shared.mutation == Some(Mutation::AbortForgotten) => Ok(()),
            Call::Renew if shared.mutation == Some(Mutation::NotRenewed) => Ok(()),
            Call::Abort => {
                shared.saw(Seen::TransactionAborted);
                shared.broker.abort(transaction);
                Ok(())
            }
            Call::Renew => {
                let producer = self.committer.as_ref().map(|own| own.producer);
                producer.map(|producer| shared.broker.take_name(producer));
                Ok(())
            }
            // A new producer takes its time, in which partitions come and go.
            Call::FetchCommits if shared.rng.chance(7, 8) => return Ok(None),
            Call::FetchCommits => {
                if let Some(found) = stable_offsets(&shared.broker)
                    && let Some(committer) = &mut self.committer
                {
                    committer.transaction_loop.apply_commits(found);
                }
                return Ok(None);
            }
        };
        Ok(Some(result))
    }

    fn send_offsets(
        &self,
        own: &UnderWay,
        transaction: &Transaction,
        shared: &mut Shared,
    ) -> Result<(), CallError> {
        let group = &shared.broker.group;
        if !group.accepts_generation(own.member, own.generation)
            && shared.mutation != Some(Mutation::GenerationIgnored)
        {
            shared.saw(Seen::OffsetsFenced);
            shared.tell(|| format!("offsets of {} are refused", self.name.id));
            return Err(CallError::Abortable);
        }
        transaction.add_offsets(own.pending.commits());
        Ok(())
    }

    fn call_commit(
        &mut self,
        own: &UnderWay,
        transaction: &Transaction,
        is_fenced: bool,
        shared: &mut Shared,
    ) -> Flow<Option<Result<(), CallError>>> {
        if is_fenced {
            shared.saw(Seen::ProducerFenced);
            return Ok(Some(Err(CallError::Producer)));
        }
        if shared.fault(1, 12) {
            if shared.rng.chance(1, 2) {
                shared.saw(Seen::UnknownAndCommitted);
                self.commit_transaction(own.member, transaction, shared)?;
            } else {
                shared.saw(Seen::UnknownAndAborted);
            }
            shared.tell(|| format!("{} is not told how it ended", self.name.id));
            return Ok(Some(Err(CallError::Producer)));
        }
        if shared.fault(1, 40) {
            shared.saw(Seen::KilledInTransactionCommit);
            return Err(Stop::Dies(None));
        }
        self.commit_transaction(own.member, transaction, shared)?;
        Ok(Some(Ok(())))
    }

    /// The broker commits: everything at once.
    fn commit_transaction(
        &mut self,
        member: MemberId,
        transaction: &Transaction,
        shared: &mut Shared,
    ) -> Flow<()> {
        shared.saw(Seen::TransactionCommitted);
        shared.reveal(transaction)?;
        for commit in transaction.offsets() {
            let commit = self.mutated(commit, shared);
            self.keep(member, &commit, shared)?;
            let partition = commit.partition;
            if !shared.broker.group.accepts(member, partition) {
                // It went while this was under way. A mark that is held is a death for the next.
                shared
                    .oracle
                    .owner_lost(member, partition, &commit.metadata, None)?;
            }
        }
        Ok(())
    }

    /// The event loop asks how the transaction under way has ended, and waits for that, unless it
    /// takes longer than `timeout`.
    pub(super) fn transaction_end(
        &mut self,
        timeout: Duration,
        shared: &mut Shared,
    ) -> Flow<Report> {
        if !timeout.is_zero() {
            while self.can_transact() {
                if shared.rng.chance(1, 24) {
                    self.now += timeout;
                    break;
                }
                self.transact(shared)?;
            }
        }
        let Some(committer) = &mut self.committer else {
            return Ok(Report::UnderWay);
        };
        if committer.is_closed {
            return Ok(Report::Closed);
        }
        let Some((pending, ending)) = committer.ended.take() else {
            return Ok(Report::UnderWay);
        };
        let ending = match (shared.mutation, ending) {
            (Some(Mutation::AbortTakenForCommit), Ending::Aborted) => Ending::Committed,
            (Some(Mutation::UnknownTakenForAborted), Ending::Unknown(_)) => Ending::Aborted,
            (Some(Mutation::GoneHeardAsWell), Ending::Unknown(found)) => {
                match pending.commits().all(|commit| found.contains(commit)) {
                    true => Ending::Committed,
                    false => Ending::Aborted,
                }
            }
            (_, ending) => ending,
        };
        shared.tell(|| format!("{} hears of a commit: {ending:?}", self.name.id));
        if ending != Ending::Committed {
            let partitions = pending.commits().map(|own| own.partition);
            self.helped.extend(partitions);
        }
        Ok(Report::Ended(pending, ending))
    }

    /// The event loop begins the next transaction.
    pub(super) fn begin_transaction(
        &mut self,
        pending: PendingTransaction,
        shared: &mut Shared,
    ) -> Report {
        shared.tell(|| {
            let commits: Vec<_> = pending.commits().collect();
            let name = &self.name.id;
            format!(
                "{name} begins a transaction: {} batches, {commits:?}",
                pending.finished().count()
            )
        });
        let mut messages = VecDeque::new();
        for finished in pending.finished() {
            if let Some(letter) = &finished.dead_letter {
                let place = Place::Dlq {
                    source: (letter.partition, letter.offset),
                    is_whole: finished.outcomes.is_none(),
                };
                messages.push_back((place, Payload::from(letter.payload.as_slice())));
            }
            if let Some(outcomes) = &finished.outcomes {
                let partition = shared.rng.below(shared.broker.outcomes.len());
                let payload = Payload::from(outcomes.as_slice());
                messages.push_back((Place::Outcomes(partition), payload));
            }
        }
        let Some(committer) = &mut self.committer else {
            return Report::NoMember(pending);
        };
        committer.transaction_loop.begin();
        committer.under_way = Some(UnderWay {
            pending,
            member: self.member,
            generation: self.generation,
            messages,
            transaction: None,
        });
        Report::Begun
    }

    /// The process is gone. Where it had asked for a commit, that may be done yet.
    pub fn die_within_transaction(&mut self, shared: &mut Shared) -> Flow<()> {
        let Some(committer) = &mut self.committer else {
            return Ok(());
        };
        let is_committing = *committer.transaction_loop.next() == Next::Call(Call::Commit);
        let Some(UnderWay {
            member,
            transaction: Some(transaction),
            ..
        }) = committer.under_way.take()
        else {
            return Ok(());
        };
        if transaction.state() != State::Open {
            return Ok(());
        }
        if is_committing && shared.rng.chance(1, 2) {
            return self.commit_transaction(member, &transaction, shared);
        }
        if transaction.is_begun() {
            shared.saw(Seen::TransactionTorn);
        }
        Ok(())
    }
}

/// What the group has committed; `None` while a part of it is not decided.
fn stable_offsets(broker: &Broker) -> Option<Vec<Commit>> {
    let partitions = 0..broker.jobs.len() as i32;
    let mut commits = Vec::new();
    for partition in partitions {
        if broker.has_pending_offset(partition) {
            return None;
        }
        if let Some((offset, metadata)) = broker.group.committed(partition) {
            commits.push(Commit {
                partition,
                offset: *offset,
                metadata: metadata.clone(),
            });
        }
    }
    Some(commits)
}
