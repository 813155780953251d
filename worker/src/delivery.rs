//! The delivery of finished work to the broker: the messages that it becomes, the offsets that may be
//! committed, and the jobs that are settled. There are two implementations. [`AtLeastOnce`] produces
//! messages, and commits offsets after their acknowledgement. [`ExactlyOnce`] commits both together in
//! transactions.

mod at_least_once;
mod exactly_once;

use std::fmt;
use std::time::{Duration, Instant};

use kafka::Delivery as DeliveryReport;
use pipeline::offsets::{Commit, Settled};

use crate::event_loop::Failure;
use crate::state::WorkerState;
use crate::state::in_flight::InFlight;
use crate::state::outbox::{DeadLetterMessage, Destination, Finished};
use crate::state::transaction::PendingTransaction;

pub use at_least_once::AtLeastOnce;
pub use exactly_once::ExactlyOnce;

/// The pause between two polls for delivery reports.
const DRAIN_WAIT: Duration = Duration::from_micros(250);

/// The next step of a delivery. Each step except [`Step::Wait`] is answered by a [`Report`].
#[derive(Debug)]
pub enum Step {
    /// Hand the [message](Delivery::message) of this entry to the producer.
    Produce {
        /// The entry, which the delivery report carries.
        id: usize,
        /// The topic of its message.
        destination: Destination,
    },
    /// Poll the producer for delivery reports.
    DeliveryReports,
    /// Begin this transaction. No transaction is under way.
    Begin(PendingTransaction),
    /// Wait at most this long for the end of the transaction under way.
    TransactionEnd(Duration),
    /// Sleep for this long.
    Wait(Duration),
}

/// The result of a [`Step`].
#[derive(Debug)]
pub enum Report {
    /// The message was handed to the producer, or (`false`) its queue is full.
    Produced(bool),
    /// The producer was polled.
    Delivered {
        /// The delivery reports since the last poll.
        reports: Vec<DeliveryReport>,
        /// The number of messages without a delivery report.
        unreported: usize,
    },
    /// The transaction has begun.
    Begun,
    /// The transaction cannot begin, because the worker is not a member of its group.
    NoMember(PendingTransaction),
    /// The transaction is still under way.
    UnderWay,
    /// The transaction has ended.
    Ended(PendingTransaction, Ending),
    /// The client has failed.
    Closed,
}

/// The end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The transaction was committed.
    Committed,
    /// The transaction was aborted.
    Aborted,
    /// The broker did not answer. These are the committed offsets of the group after the end.
    Unknown(Vec<Commit>),
    /// The transaction was aborted, and no further one is begun, because the client library gave up
    /// messages in too many transactions in a row. These are the committed offsets of the group.
    GaveUp(Vec<Commit>),
}

/// Messages that are acknowledged or committed, and the jobs that they settle.
#[derive(Debug, Default)]
pub struct Settlement {
    /// The jobs that are settled.
    pub settles: Vec<Settled>,
    /// Whether these jobs have outcomes.
    pub has_outcomes: bool,
    /// Whether these jobs are dead letters.
    pub is_dead: bool,
    /// Whether one of the messages is in the dead-letter queue.
    pub dead_letter: bool,
}

/// The changes by a report.
#[derive(Debug, Default)]
pub struct Progress {
    /// The messages that are acknowledged or committed now.
    pub settlements: Vec<Settlement>,
    /// Whether a transaction was aborted.
    pub is_aborted: bool,
}

/// A message to produce.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// A message for the dead-letter queue.
    DeadLetter(&'a DeadLetterMessage),
    /// An encoded batch of outcomes for the outcomes topic.
    Outcomes(&'a [u8]),
}

/// A commit: of offsets alone, or of a transaction.
#[derive(Debug)]
pub enum Commitment {
    /// The offsets to commit.
    Offsets(Vec<Commit>),
    /// The transaction to begin.
    Transaction(PendingTransaction),
}

/// A delivery of finished work to the broker.
pub trait Delivery: fmt::Debug + Send {
    /// Whether more finished work is accepted now.
    fn accepts_finished(&self) -> bool;

    /// Adds finished work.
    fn finish(&mut self, in_flight: &mut InFlight, finished: Finished);

    /// The next step of a round. A round sends all messages that can be sent and applies all reports;
    /// `None` ends it.
    fn next_step(&mut self) -> Option<Step>;

    /// The message of an entry that [`Step::Produce`] names.
    fn message(&self, id: usize) -> Option<Message<'_>>;

    /// Applies the result of a step.
    ///
    /// # Errors
    /// When the worker has to end, with the reason.
    fn apply(
        &mut self,
        report: Report,
        in_flight: &mut InFlight,
        now: Instant,
    ) -> Result<Progress, Failure>;

    /// The periodic commit; `None` where there is nothing to commit.
    fn commit(&mut self, in_flight: &mut InFlight) -> Option<Commitment>;

    /// The offsets to commit and wait for before the next message is taken; `None` where transactions
    /// commit them: those of [`next_transaction`](Self::next_transaction), until all
    /// [are settled](Self::is_settled).
    fn commit_before_reading(&mut self, in_flight: &mut InFlight) -> Option<Vec<Commit>>;

    /// The next transaction; `None` while one is under way, and where there is nothing to commit.
    fn next_transaction(&mut self, in_flight: &mut InFlight) -> Option<PendingTransaction>;

    /// The offsets to commit when partitions are assigned, outside of transactions and without outcomes.
    fn first_commits(&mut self, in_flight: &mut InFlight, partitions: &[i32]) -> Vec<Commit>;

    /// The last offsets to commit of partitions that are revoked cleanly, outside of transactions.
    fn release(&mut self, in_flight: &mut InFlight, partitions: &[i32]) -> Vec<Commit>;

    /// Forgets the work of partitions that are no longer assigned.
    fn forget(&mut self, partitions: &[i32]);

    /// Whether no message is in flight whose acknowledgement would settle a job.
    fn is_drained(&self) -> bool;

    /// Whether a transaction is under way.
    fn is_under_way(&self) -> bool;

    /// Whether all offsets that transactions may commit are committed.
    fn is_settled(&self) -> bool;

    /// Whether a poison marker waits for a transaction or is in the one under way.
    fn has_marks(&self) -> bool;

    /// Whether all finished work is acknowledged or committed.
    fn is_empty(&self) -> bool;

    /// The bytes of finished work that the broker has not acknowledged.
    fn unconfirmed_bytes(&self) -> usize;
}

/// The steps of sending all finished work and waiting for its acknowledgement, until a deadline.
#[derive(Debug)]
pub(crate) struct Drain {
    until: Instant,
    /// Whether a round of the delivery is in progress.
    is_sending: bool,
}

impl Drain {
    pub(crate) fn new(until: Instant) -> Self {
        Self {
            until,
            is_sending: false,
        }
    }

    /// The next step; `None` at the end.
    pub(crate) fn next(&mut self, state: &mut WorkerState, now: Instant) -> Option<Step> {
        if state.has_failed() {
            return None;
        }
        if self.is_sending {
            return Some(state.delivery.next_step().unwrap_or_else(|| {
                self.is_sending = false;
                Step::Wait(DRAIN_WAIT)
            }));
        }
        if state.delivery.is_drained() || now >= self.until {
            return None;
        }
        self.is_sending = true;
        state.delivery.next_step()
    }
}

/// The steps of committing all that transactions can commit, until a deadline.
#[derive(Debug)]
pub(crate) struct Settle {
    until: Instant,
    has_begun: bool,
}

impl Settle {
    pub(crate) fn new(until: Instant) -> Self {
        Self {
            until,
            has_begun: false,
        }
    }

    /// The next step; `None` at the end.
    pub(crate) fn next(&mut self, state: &mut WorkerState, now: Instant) -> Option<Step> {
        let WorkerState {
            delivery,
            in_flight,
            ..
        } = state;
        if !std::mem::replace(&mut self.has_begun, true)
            && let Some(transaction) = delivery.next_transaction(in_flight)
        {
            return Some(Step::Begin(transaction));
        }
        let left = self.until.saturating_duration_since(now);
        if !delivery.is_under_way() || left.is_zero() {
            return None;
        }
        self.has_begun = false;
        Some(Step::TransactionEnd(left))
    }
}

#[cfg(test)]
mod tests;
