//! What the broker makes of a worker process's messages, commits and fetches, and what it says of
//! them.

use std::rc::Rc;
use std::time::Duration;

use kafka::{Delivery as DeliveryReport, Record, RecordBatch};
use pipeline::mark::{Mark, Reading};
use pipeline::offsets::Commit;
use worker::delivery::{Message, Report, Step};
use worker::event_loop::Consume;
use worker::outbox::Destination;

use super::{Flow, MAX_UNCONFIRMED_BYTES, Stop, WorkerProcess};
use crate::broker::{MemberId, Payload};
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;

/// Longer than any timeout of a rebalance or of winding down.
pub(super) const TOO_LONG: Duration = Duration::from_secs(10);

/// How late records are at most. The worker takes a partition for empty of which none has come for
/// 10 s,
const LATEST: Duration = Duration::from_secs(5);

/// but for one whose next message was begun job by job, which may be this late.
const LATEST_BEGUN: Duration = Duration::from_secs(60);

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub struct OnTheWay {
    /// The entry that its report names.
    id: usize,
    destination: Destination,
    /// The partition of the outcomes topic; or the source of a dead letter.
    place: (i32, i64),
    /// No outcome follows: a message is buried whole.
    is_whole: bool,
    /// Its value.
    payload: Payload,
}

impl OnTheWay {
    /// The entry that its report names.
    pub(super) fn id(&self) -> usize {
        self.id
    }

    fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// It reaches the broker.
    pub fn arrive(&self, shared: &mut Shared) -> Result<(), Violation> {
        self.arrive_at(shared).map(|_| ())
    }

    /// It reaches the broker. Returns its offset on the outcomes topic.
    fn arrive_at(&self, shared: &mut Shared) -> Result<Option<i64>, Violation> {
        match self.destination {
            Destination::Dlq => {
                shared.broker.dlq.append(Rc::clone(&self.payload));
                shared
                    .oracle
                    .dead_letter(self.place, &self.payload, self.is_whole)?;
                Ok(None)
            }
            Destination::Outcomes => {
                let partition = self.place.0 as usize;
                let log = &mut shared.broker.outcomes[partition];
                let offset = log.append(Rc::clone(&self.payload));
                shared
                    .oracle
                    .outcomes_told(partition, offset, &self.payload)?;
                shared.keeps_little(partition)?;
                Ok(Some(offset))
            }
        }
    }
}

impl WorkerProcess {
    /// A step of the delivery.
    pub(super) fn deliver_step(&mut self, step: Step, shared: &mut Shared) -> Flow<()> {
        let report = match step {
            Step::Produce { id, destination } => {
                Report::Produced(self.produce(id, destination, shared))
            }
            Step::DeliveryReports => {
                let acknowledged = std::mem::take(&mut self.acknowledged).into_iter();
                let reports = acknowledged.map(|id| DeliveryReport {
                    id,
                    partition: 0,
                    offset: 0,
                    error: None,
                });
                Report::Delivered {
                    reports: reports.collect(),
                    unreported: self.on_the_way.len(),
                }
            }
            Step::Begin(transaction) => self.begin_transaction(transaction, shared),
            Step::TransactionEnd(timeout) => self.transaction_end(timeout, shared)?,
            Step::Wait(_) => return self.wait_for_acknowledgements(shared),
        };
        self.event_loop.apply_report(report, self.now);
        Ok(())
    }

    /// Hands a message to the producer, whose queue may be full.
    fn produce(&mut self, id: usize, destination: Destination, shared: &mut Shared) -> bool {
        if shared.fault(1, 60) {
            shared.saw(Seen::QueueFull);
            return false;
        }
        let delivery = self.event_loop.state().delivery();
        let mut outcomes_behind = None;
        let (place, payload) = match delivery.message(id) {
            Some(Message::Outcomes(outcomes)) => {
                let mut partition = shared.rng.below(shared.broker.outcomes.len()) as i32;
                if let Some(unread) = &mut self.unread {
                    partition = unread.partition();
                    if !unread.allows(shared) {
                        shared.saw(Seen::OutcomesHeldBack);
                        return false;
                    }
                    unread.sent(id, outcomes.len(), shared);
                }
                ((partition, 0), Payload::from(outcomes))
            }
            Some(Message::DeadLetter(letter)) => {
                let source = (letter.partition, letter.offset);
                let payload = Payload::from(letter.payload.as_slice());
                let buried = self.buried.get(&(source, Rc::clone(&payload)));
                outcomes_behind = buried.cloned().flatten();
                (source, payload)
            }
            None => return false,
        };
        let is_whole = destination == Destination::Dlq && outcomes_behind.is_none();
        if shared.mutation == Some(Mutation::OutcomeBeforeDeadLetter)
            && let Some(payload) = outcomes_behind
        {
            self.on_the_way.push(OnTheWay {
                id: usize::MAX,
                destination: Destination::Outcomes,
                place: (0, 0),
                is_whole: false,
                payload,
            });
        }
        self.on_the_way.push(OnTheWay {
            id,
            destination,
            place,
            is_whole,
            payload,
        });
        if shared.mutation == Some(Mutation::SettledWhenProduced) {
            self.acknowledged.push(id);
        }
        true
    }

    /// The broker has taken a message; the acknowledgement may get lost, and the message then comes
    /// twice.
    pub fn deliver(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        let offset = self.on_the_way[number].arrive_at(shared)?;
        if let (Some(unread), Some(offset)) = (&mut self.unread, offset) {
            let id = self.on_the_way[number].id;
            unread.delivered(id, offset);
        }
        if shared.fault(1, 8) {
            shared.saw(Seen::ProducedTwice);
            return Ok(());
        }
        let message = self.on_the_way.swap_remove(number);
        self.acknowledged.push(message.id);
        Ok(())
    }

    /// Messages are waited for: one arrives, or it takes too long.
    fn wait_for_acknowledgements(&mut self, shared: &mut Shared) -> Flow<()> {
        if shared.rng.chance(1, 8) {
            self.now += TOO_LONG;
            self.has_timed_out = true;
            return Ok(());
        }
        if self.on_the_way.is_empty() || self.lost_sight {
            return Ok(());
        }
        let number = shared.rng.below(self.on_the_way.len());
        self.deliver(number, shared)
    }

    // Commits.

    /// The broker answers the oldest commit that was asked for.
    pub fn commit_answered(&mut self, shared: &mut Shared) -> Flow<()> {
        let Some((member, commits)) = self.commits.pop_front() else {
            return Ok(());
        };
        if !self.commit(member, &commits, shared)? {
            self.commit_has_failed = true;
        }
        Ok(())
    }

    /// Commits, and waits for the answer; whatever was asked for before comes first.
    pub(super) fn commit_and_wait(
        &mut self,
        commits: &[Commit],
        shared: &mut Shared,
    ) -> Flow<bool> {
        if commits.is_empty() {
            return Ok(true);
        }
        while !self.commits.is_empty() {
            self.commit_answered(shared)?;
        }
        if shared.fault(1, 40) {
            shared.saw(Seen::KilledInCommit);
            return Err(Stop::Dies(None));
        }
        let committed = self.commit(self.member, commits, shared)?;
        let state = self.event_loop.state_mut();
        if committed {
            state.apply_committed(commits);
        } else {
            state.apply_commit_failed();
        }
        if shared.fault(1, 40) {
            shared.saw(Seen::KilledInCommit);
            return Err(Stop::Dies(None));
        }
        Ok(committed)
    }

    /// What the broker makes of a commit. A failure may be that of the answer alone.
    fn commit(&mut self, member: MemberId, commits: &[Commit], shared: &mut Shared) -> Flow<bool> {
        let fails = shared.fault(1, 10);
        if fails && shared.rng.chance(1, 2) {
            shared.saw(Seen::CommitFailed);
            shared.tell(|| format!("a commit of {} is lost", self.name.id));
            self.helped.extend(commits.iter().map(|own| own.partition));
            return Ok(false);
        }
        let mut all = true;
        for commit in commits {
            let partition = commit.partition;
            if !shared.broker.group.accepts(member, partition) {
                shared.saw(Seen::CommitFenced);
                shared.tell(|| format!("a commit of {} is refused", self.name.id));
                all = false;
                continue;
            }
            let commit = self.mutated(commit.clone(), shared);
            self.keep(member, &commit, shared)?;
        }
        if fails {
            shared.saw(Seen::CommitFailed);
            shared.tell(|| format!("the answer to {} is lost", self.name.id));
            return Ok(false);
        }
        Ok(all)
    }

    /// The broker keeps a commit.
    pub(super) fn keep(
        &mut self,
        member: MemberId,
        commit: &Commit,
        shared: &mut Shared,
    ) -> Flow<()> {
        let partition = commit.partition;
        let taken_over = self.taken_over.get(&partition).copied();
        if taken_over.is_some_and(|(offset, _)| offset < commit.offset) {
            self.helped.insert(partition);
        }
        shared.tell(|| {
            let Commit {
                partition,
                offset,
                metadata,
            } = commit;
            let name = &self.name.id;
            format!("{name} commits {partition} at {offset} '{metadata}'")
        });
        let reading = taken_over.map(|(_, reading)| reading);
        shared.oracle.committed(member, commit, reading)?;
        if self.given_up_for.is_some_and(|(own, _)| own == partition) {
            shared.oracle.hangs(partition);
        }
        shared.broker.group.keep(commit);
        Ok(())
    }

    pub(super) fn mutated(&self, mut commit: Commit, shared: &Shared) -> Commit {
        let before = shared.broker.group.committed(commit.partition);
        match shared.mutation {
            Some(Mutation::CommitsOneTooFar) => commit.offset += 1,
            Some(Mutation::MarksDropped) => commit.metadata.clear(),
            Some(Mutation::ReleasedInsteadOfHeld) => {
                commit.metadata = commit.metadata.replace(" held", "");
            }
            Some(Mutation::MarkNeverCleared) if commit.metadata.is_empty() => {
                commit.metadata = before.map_or(String::new(), |(_, metadata)| metadata.clone());
            }
            Some(Mutation::AllMarksHeld)
                if !commit.metadata.is_empty() && !commit.metadata.contains(" held") =>
            {
                commit.metadata = commit.metadata.replace("rollcall/1", "rollcall/1 held");
            }
            _ => {}
        }
        commit
    }

    /// Whether a death of this process by a job of a partition is one that the protocol must count: it
    /// has the partition and knows it, nothing got on, and no commit was refused.
    pub fn is_plain_death(&self, partition: i32) -> bool {
        self.fetch.contains_key(&partition) && !self.helped.contains(&partition)
    }

    // Fetches.

    /// Takes records as they come: of a partition that is read from its own queue at least one, if
    /// there is one; of the others any number.
    pub(super) fn consume(
        &mut self,
        consume: Consume,
        mut records: RecordBatch,
        shared: &mut Shared,
    ) -> Flow<RecordBatch> {
        let on_the_way = self.on_the_way.iter().map(OnTheWay::bytes);
        let unconfirmed: usize = on_the_way.sum();
        if unconfirmed >= MAX_UNCONFIRMED_BYTES {
            return Ok(violated(
                "no message is taken while too much is not confirmed",
                format!("{unconfirmed} bytes"),
            )?);
        }
        match consume {
            Consume::Isolated { partition, .. } if self.is_late(partition, shared) => {}
            Consume::Isolated { partition, at_most } => {
                let at_most = at_most.min(1 + shared.rng.below(7));
                self.fetch(partition, at_most, &mut records, shared)?;
            }
            Consume::One(_) => {
                for partition in self.others() {
                    if records.is_empty() && shared.rng.chance(5, 6) {
                        self.fetch(partition, 1, &mut records, shared)?;
                    }
                }
            }
            Consume::Batch(_) => {
                for partition in self.others() {
                    let at_most = shared.rng.below(6);
                    self.fetch(partition, at_most, &mut records, shared)?;
                }
            }
        }
        Ok(records)
    }

    /// The partitions that are read together.
    fn others(&self) -> Vec<i32> {
        let all = self.fetch.keys().copied();
        all.filter(|partition| !self.isolated.contains(partition))
            .collect()
    }

    /// Whether the records of a partition that is read from its own queue are still on their way. They
    /// are not for as long as the worker waits for them.
    fn is_late(&mut self, partition: i32, shared: &mut Shared) -> bool {
        if shared.rng.chance(3, 4) {
            self.late_since = None;
            return false;
        }
        let since = *self.late_since.get_or_insert(self.now);
        let waited = self.now - since;
        if waited < LATEST {
            return true;
        }
        let committed = shared.broker.group.committed(partition);
        let is_begun = committed.is_some_and(|(_, metadata)| Mark::parse(metadata).position() > 0);
        if is_begun && waited >= TOO_LONG {
            shared.saw(Seen::BegunMessageLate);
        }
        is_begun && waited < LATEST_BEGUN
    }

    fn fetch(
        &mut self,
        partition: i32,
        at_most: usize,
        records: &mut RecordBatch,
        shared: &mut Shared,
    ) -> Flow<()> {
        let Some(next) = self.fetch.get_mut(&partition) else {
            return Ok(());
        };
        let log = &shared.broker.jobs[partition as usize];
        if *next < log.start() {
            // An offset out of range is an error and never a jump.
            shared.saw(Seen::OffsetOutOfRange);
            return Err(Stop::GivesUp);
        }
        for _ in 0..at_most {
            let Some(payload) = log.at(*next) else {
                break;
            };
            let isolation = self.event_loop.state().in_flight().isolation(partition);
            if isolation > Some(Reading::Freely) && !self.isolated.contains(&partition) {
                return Ok(violated(
                    "an isolated partition is read as its isolation allows",
                    format!("partition {partition} at {next}"),
                )?);
            }
            records.push(Record {
                partition,
                offset: *next,
                key: None,
                payload,
            });
            *next += 1;
        }
        Ok(())
    }
}
