//! The worker's thread that commits transactions, one step at a time, with everything that the real
//! one is told by the broker, or is not told. What goes into a transaction, and what comes of its
//! end, is the desk's to decide.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use pipeline::offsets::Commit;
use worker::uncommitted::Cut;

use super::{Flow, Stop, WorkerProcess};
use crate::imitation::broker::{Broker, MemberId, Payload};
use crate::imitation::history::Shared;
use crate::imitation::mutants::Mutation;
use crate::imitation::seen::Seen;
use crate::imitation::transactions::{Place, State, Transaction};

/// The thread.
#[derive(Debug)]
pub struct Committer {
    /// The producer's lasting name.
    producer: u64,
    under_way: Option<UnderWay>,
    /// Told, and not heard by the data mover yet.
    ended: Option<(Cut, Ending)>,
    /// The producer was made anew, and nothing was committed since.
    is_renewed: bool,
    /// No further transaction can be committed.
    is_closed: bool,
}

#[derive(Debug)]
struct UnderWay {
    cut: Cut,
    member: MemberId,
    generation: u64,
    step: Step,
    messages: VecDeque<(Place, Payload)>,
    transaction: Option<Rc<Transaction>>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Write,
    Drain,
    SendOffsets,
    Commit,
    /// It is aborted.
    Abort,
    /// A new producer ends what nobody has asked the commit of.
    Replace,
    /// Nobody has told how the transaction ended: a new producer ends it for good, …
    Renew,
    /// … and the group's offsets tell.
    Look,
}

/// How a transaction has ended.
#[derive(Debug)]
enum Ending {
    Committed,
    Aborted,
    Unknown(Vec<Commit>),
}

impl Committer {
    /// A thread whose producer takes its name, so that offsets are decided before partitions come.
    pub fn start(producer: u64, shared: &mut Shared) -> Self {
        if shared.broker.take_name(producer) {
            shared.saw(Seen::TransactionEndedBySuccessor);
        }
        Self {
            producer,
            under_way: None,
            ended: None,
            is_renewed: false,
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
        if committer.is_closed {
            return Ok(());
        }
        let Some(mut own) = committer.under_way.take() else {
            return Ok(());
        };
        let producer = committer.producer;
        let transaction = own
            .transaction
            .get_or_insert_with(|| shared.broker.begin(producer, self.number));
        let transaction = Rc::clone(transaction);
        let is_fenced = transaction.state() != State::Open;
        let filling = matches!(own.step, Step::Begin | Step::Write | Step::Drain | Step::SendOffsets);
        if filling && is_fenced {
            shared.saw(Seen::ProducerFenced);
            self.renew(own, Step::Replace);
            return Ok(());
        }
        match own.step {
            Step::Begin => own.step = Step::Write,
            Step::Write if shared.fault(1, 60) => {
                // A message was given up, or the broker asks for the end for another reason.
                own.step = Step::Abort;
            }
            Step::Write => match own.messages.pop_front() {
                Some((place, payload)) => shared.write(&transaction, place, payload)?,
                None => own.step = Step::Drain,
            },
            Step::Drain => own.step = Step::SendOffsets,
            Step::SendOffsets => {
                let group = &shared.broker.group;
                if !group.accepts_generation(own.member, own.generation)
                    && shared.mutation != Some(Mutation::GenerationIgnored)
                {
                    shared.saw(Seen::OffsetsFenced);
                    shared.tell(|| format!("offsets of {} are refused", self.name.id));
                    own.step = Step::Abort;
                    self.put_back(own);
                    return Ok(());
                }
                transaction.add_offsets(own.cut.commits());
                own.step = Step::Commit;
            }
            Step::Commit if is_fenced => {
                shared.saw(Seen::ProducerFenced);
                self.renew(own, Step::Renew);
                return Ok(());
            }
            Step::Commit if shared.fault(1, 12) => {
                if shared.rng.chance(1, 2) {
                    shared.saw(Seen::UnknownAndCommitted);
                    self.commit_transaction(own.member, &transaction, shared)?;
                } else {
                    shared.saw(Seen::UnknownAndAborted);
                }
                shared.tell(|| format!("{} is not told how it ended", self.name.id));
                self.renew(own, Step::Renew);
                return Ok(());
            }
            Step::Abort => return self.abort(own.cut, &transaction, shared),
            Step::Replace => {
                let producer = self.committer.as_ref().map(|own| own.producer);
                producer.map(|producer| shared.broker.take_name(producer));
                self.tell_end(own.cut, Ending::Aborted);
                return Ok(());
            }
            Step::Commit if shared.fault(1, 40) => {
                shared.saw(Seen::KilledInTransactionCommit);
                self.put_back(own);
                return Err(Stop::Dies(None));
            }
            Step::Commit => {
                self.commit_transaction(own.member, &transaction, shared)?;
                if let Some(committer) = &mut self.committer {
                    committer.is_renewed = false;
                }
                self.tell_end(own.cut, Ending::Committed);
                return Ok(());
            }
            Step::Renew => {
                let producer = self.committer.as_ref().map(|own| own.producer);
                producer.map(|producer| shared.broker.take_name(producer));
                own.step = Step::Look;
            }
            // A new producer takes its time, in which partitions come and go.
            Step::Look if shared.rng.chance(7, 8) => {}
            Step::Look => {
                if let Some(found) = stable_offsets(&shared.broker) {
                    self.tell_end(own.cut, Ending::Unknown(found));
                    return Ok(());
                }
            }
        }
        self.put_back(own);
        Ok(())
    }

    fn put_back(&mut self, own: UnderWay) {
        if let Some(committer) = &mut self.committer {
            committer.under_way = Some(own);
        }
    }

    fn tell_end(&mut self, cut: Cut, ending: Ending) {
        if let Some(committer) = &mut self.committer {
            committer.ended = Some((cut, ending));
        }
    }

    fn abort(&mut self, cut: Cut, transaction: &Transaction, shared: &mut Shared) -> Flow<()> {
        shared.saw(Seen::TransactionAborted);
        shared.broker.abort(transaction);
        self.tell_end(cut, Ending::Aborted);
        Ok(())
    }

    /// A new producer takes the place of one that is of no use any more; it does not help twice.
    fn renew(&mut self, mut own: UnderWay, step: Step) {
        let Some(committer) = &mut self.committer else {
            return;
        };
        if std::mem::replace(&mut committer.is_renewed, true) {
            committer.is_closed = true;
            return;
        }
        own.step = step;
        committer.under_way = Some(own);
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

    /// The data mover hears how the transaction under way has ended, if it has or does in time.
    pub(super) fn hear_end(&mut self, timeout: Duration, shared: &mut Shared) -> Flow<()> {
        if self.committer.is_none() || self.way_closed || !self.desk.is_under_way() {
            return Ok(());
        }
        if !timeout.is_zero() {
            while self.committer.as_ref().is_some_and(Committer::can_go_on) {
                if shared.rng.chance(1, 24) {
                    self.now += timeout;
                    break;
                }
                self.transact(shared)?;
            }
        }
        if self.committer.as_ref().is_some_and(Committer::is_closed) {
            self.way_closed = true;
            return Err(Stop::GivesUp);
        }
        let ended = self.committer.as_mut().and_then(|own| own.ended.take());
        let Some((cut, ending)) = ended else {
            return Ok(());
        };
        shared.note(|| format!("{} hears {ending:?}", self.name.id));
        if !matches!(ending, Ending::Committed) {
            let partitions = cut.commits().map(|own| own.partition);
            self.helped.extend(partitions);
        }
        let committed = match ending {
            Ending::Committed => true,
            Ending::Aborted => false,
            Ending::Unknown(found) => self.desk.is_committed(&cut, &found),
        };
        self.desk.ended(cut, committed);
        Ok(())
    }

    /// The data mover begins the next transaction, unless one is under way or there is nothing to
    /// commit.
    pub(super) fn begin_transaction(&mut self, shared: &mut Shared) -> bool {
        if self.way_closed {
            return false;
        }
        let Some(committer) = self.committer.as_mut() else {
            return false;
        };
        let Some(cut) = self.desk.cut() else {
            return false;
        };
        let told = || {
            let commits: Vec<_> = cut.commits().collect();
            let name = &self.name.id;
            format!(
                "{name} begins a transaction: {} batches, {commits:?}",
                cut.finished().count()
            )
        };
        shared.tell(told);
        shared.note(told);
        let mut messages = VecDeque::new();
        for finished in cut.finished() {
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
        shared.note(|| format!("{messages:?}"));
        committer.under_way = Some(UnderWay {
            cut,
            member: self.member,
            generation: self.generation,
            step: Step::Begin,
            messages,
            transaction: None,
        });
        true
    }

    /// Commits everything that can be committed in transactions, as far as patience goes.
    pub(super) fn commit_all(&mut self, timeout: Duration, shared: &mut Shared) -> Flow<()> {
        let until = self.now + timeout;
        while self.committer.is_some() && !self.way_closed {
            self.begin_transaction(shared);
            let left = until.saturating_duration_since(self.now);
            if !self.desk.is_under_way() || left.is_zero() {
                return Ok(());
            }
            match self.hear_end(left, shared) {
                Ok(()) => {}
                Err(Stop::GivesUp) => self.failed = true,
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    /// The process is gone. Where it had asked for a commit, that may be done yet.
    pub fn die_within_transaction(&mut self, shared: &mut Shared) -> Flow<()> {
        let own = self.committer.as_mut().and_then(|own| own.under_way.take());
        let Some(UnderWay {
            step,
            member,
            transaction: Some(transaction),
            ..
        }) = own
        else {
            return Ok(());
        };
        if transaction.state() != State::Open {
            return Ok(());
        }
        if step == Step::Commit && shared.rng.chance(1, 2) {
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
