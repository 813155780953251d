//! How finished work reaches the broker: what it becomes, what may be committed when, and what is
//! settled by what. There are two implementations: messages with offsets committed behind them
//! ([`AtLeastOnce`]), and both together in transactions ([`ExactlyOnce`]).

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

/// Pause between two looks at what is waited for to be acknowledged.
const DRAIN_WAIT: Duration = Duration::from_micros(250);

/// What is to be done next so that finished work reaches the broker. Each is answered by a
/// [`Report`], but for [`Step::Wait`].
#[derive(Debug)]
pub enum Step {
    /// Hand the [message](Delivery::message) of this entry to the producer.
    Produce {
        /// The entry, which comes back with the delivery report.
        id: usize,
        /// Where its message goes.
        destination: Destination,
    },
    /// Ask the producer what became of messages.
    DeliveryReports,
    /// Begin this transaction: none is under way.
    Begin(PendingTransaction),
    /// Ask how the transaction under way has ended, and wait at most this long for its end.
    TransactionEnd(Duration),
    /// Wait.
    Wait(Duration),
}

/// What has come of a [`Step`].
#[derive(Debug)]
pub enum Report {
    /// Whether the producer has taken the message: its queue may be full.
    Produced(bool),
    /// Delivery reports.
    Delivered {
        /// What became of messages, for the first time.
        reports: Vec<DeliveryReport>,
        /// Messages of which nothing is known yet.
        unreported: usize,
    },
    /// The transaction has begun.
    Begun,
    /// The transaction cannot begin: the worker is no member of its group.
    NoMember(PendingTransaction),
    /// The transaction is still under way.
    UnderWay,
    /// The transaction has ended.
    Ended(PendingTransaction, Ending),
    /// The client can go on no longer.
    Closed,
}

/// How a transaction has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was committed.
    Committed,
    /// It was aborted.
    Aborted,
    /// The broker did not answer; this is what the group has committed since it has ended.
    Unknown(Vec<Commit>),
    /// It was aborted, and no further one is begun, for messages were given up in too many in a row.
    /// This is what the group has committed.
    GaveUp(Vec<Commit>),
}

/// What is on the broker for good.
#[derive(Debug, Default)]
pub struct Settlement {
    /// The jobs that are settled by it.
    pub settles: Vec<Settled>,
    /// Whether they have outcomes.
    pub has_outcomes: bool,
    /// Whether they are dead letters.
    pub is_dead: bool,
    /// Whether a message of the dead-letter queue is among what is there now.
    pub dead_letter: bool,
}

/// What a report has changed.
#[derive(Debug, Default)]
pub struct Progress {
    /// What is on the broker for good.
    pub settlements: Vec<Settlement>,
    /// Whether a transaction was aborted.
    pub is_aborted: bool,
}

/// A message to be produced.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// For the dead-letter queue.
    DeadLetter(&'a DeadLetterMessage),
    /// For the outcomes topic.
    Outcomes(&'a [u8]),
}

/// What is to be committed.
#[derive(Debug)]
pub enum Commitment {
    /// These offsets.
    Offsets(Vec<Commit>),
    /// This transaction.
    Transaction(PendingTransaction),
}

/// The way of finished work to the broker.
pub trait Delivery: fmt::Debug + Send {
    /// Whether further finished work is accepted now.
    fn accepts_finished(&self) -> bool;

    /// Takes in finished work.
    fn finish(&mut self, in_flight: &mut InFlight, finished: Finished);

    /// The next step of a round in which everything is sent that can be, and everything applied that
    /// is reported; `None` ends the round.
    fn next_step(&mut self) -> Option<Step>;

    /// The message of an entry that [`Step::Produce`] names.
    fn message(&self, id: usize) -> Option<Message<'_>>;

    /// A step was done.
    ///
    /// # Errors
    /// Why the worker is to end.
    fn apply(
        &mut self,
        report: Report,
        in_flight: &mut InFlight,
        now: Instant,
    ) -> Result<Progress, Failure>;

    /// What to commit when it is time; `None` where that is nothing.
    fn commit(&mut self, in_flight: &mut InFlight) -> Option<Commitment>;

    /// What must be committed before the next message is taken, and be waited for; `None` where that
    /// is what [`next_transaction`](Self::next_transaction) returns, until everything
    /// [is settled](Self::is_settled).
    fn commit_before_reading(&mut self, in_flight: &mut InFlight) -> Option<Vec<Commit>>;

    /// The next transaction; `None` while one is under way, and where there is nothing to commit.
    fn next_transaction(&mut self, in_flight: &mut InFlight) -> Option<PendingTransaction>;

    /// What to commit as partitions come, outside of any transaction: no outcome goes with it.
    fn first_commits(&mut self, in_flight: &mut InFlight, partitions: &[i32]) -> Vec<Commit>;

    /// What to commit of partitions that are given away in good order, outside of any transaction.
    fn release(&mut self, in_flight: &mut InFlight, partitions: &[i32]) -> Vec<Commit>;

    /// Partitions are gone.
    fn forget(&mut self, partitions: &[i32]);

    /// Whether nothing is on its way whose acknowledgement would settle anything.
    fn is_drained(&self) -> bool;

    /// Whether a transaction is under way.
    fn is_under_way(&self) -> bool;

    /// Whether everything that transactions had to commit is committed.
    fn is_settled(&self) -> bool;

    /// Whether a mark is on its way.
    fn has_marks(&self) -> bool;

    /// Whether nothing is kept.
    fn is_empty(&self) -> bool;

    /// Bytes of finished work that the broker has not confirmed.
    fn unconfirmed_bytes(&self) -> usize;
}

/// Sends and waits until everything finished is acknowledged, or time is up.
#[derive(Debug)]
pub(crate) struct Drain {
    until: Instant,
    /// Within a round of the delivery.
    is_sending: bool,
}

impl Drain {
    pub(crate) fn new(until: Instant) -> Self {
        Self {
            until,
            is_sending: false,
        }
    }

    /// What to do next; `None` at the end.
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

/// Commits everything that can be committed in transactions, or until time is up.
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

    /// What to do next; `None` at the end.
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
