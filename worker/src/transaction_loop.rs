//! The loop of the transaction thread. It makes all decisions and no calls: the thread asks for the
//! [next call](TransactionLoop::next), makes it, and applies its result.
//!
//! | failure | reaction |
//! | --- | --- |
//! | the broker is away, or busy | the same call is repeated, within the timeout of the transaction |
//! | the transaction (a message was given up, a generation of the group has ended) | it is aborted; its content is part of the next one, except that of partitions that are no longer assigned |
//! | the producer (fenced, fatal, or a call does not return), before the commit was requested | it is replaced by a new one, which aborts the open transaction; then as above |
//! | the producer, or no answer, after that | it is replaced, and the committed offsets of the group are fetched: they decide whether the transaction was committed |
//! | the new producer, before it has committed a transaction | the worker ends |
//! | messages, in [`MAX_GIVEN_UP`] transactions in a row | the worker ends and commits the group's offsets with released markers, so that no death is counted |

use kafka::TransactionError;
use pipeline::offsets::Commit;

use crate::delivery::Ending;

/// The number of transactions in a row with messages that were given up at which the worker ends. Where
/// no message is acknowledged, each of them takes ten seconds, and all of them as long as a worker
/// without transactions waits for acknowledgements.
pub const MAX_GIVEN_UP: u32 = 12;

/// A call that waits for the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Begin the transaction.
    Begin,
    /// Hand the messages to the producer.
    Produce,
    /// Wait until the messages are acknowledged.
    Drain,
    /// Add the offsets to the transaction.
    SendOffsets,
    /// Commit the transaction.
    Commit,
    /// Abort the transaction.
    Abort,
    /// Replace the producer by a new one, which aborts an open transaction.
    Renew,
    /// Fetch the committed offsets of the group, and pass them to [`TransactionLoop::apply_commits`].
    FetchCommits,
}

/// The next step of the transaction thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Make this call.
    Call(Call),
    /// Report that the transaction has ended.
    Report(Ending),
    /// Report that no further transaction can be committed.
    Close,
}

/// The error of a call, by the reaction to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The broker is away or busy.
    Retriable,
    /// The transaction must be aborted, and the producer can be used further.
    Abortable,
    /// The producer cannot be used any more, or the end of the transaction is unknown.
    Producer,
    /// The cluster denies the call.
    Denied,
}

impl From<&TransactionError> for CallError {
    fn from(error: &TransactionError) -> Self {
        match error {
            TransactionError::Retriable(_) => Self::Retriable,
            TransactionError::Abortable(_) => Self::Abortable,
            TransactionError::Denied(_) => Self::Denied,
            TransactionError::Fenced(_)
            | TransactionError::Fatal(_)
            | TransactionError::Unknown(_) => Self::Producer,
        }
    }
}

/// The loop of the thread that commits transactions, one after the other.
#[derive(Debug)]
pub struct TransactionLoop {
    next: Next,
    /// Whether the commit of the transaction was requested.
    is_commit_asked: bool,
    /// Whether the producer was replaced and has committed no transaction since.
    is_renewed: bool,
    /// The number of transactions in a row with messages that were given up.
    given_up: u32,
    /// Whether the last of them is aborted and no further transaction is begun.
    gives_up: bool,
}

impl Default for TransactionLoop {
    fn default() -> Self {
        Self {
            next: Next::Report(Ending::Aborted),
            is_commit_asked: false,
            is_renewed: false,
            given_up: 0,
            gives_up: false,
        }
    }
}

impl TransactionLoop {
    /// Begins with a transaction.
    pub fn begin(&mut self) {
        self.next = Next::Call(Call::Begin);
        self.is_commit_asked = false;
    }

    /// The next step.
    pub fn next(&self) -> &Next {
        &self.next
    }

    /// Applies the result of the call that was next.
    pub fn apply(&mut self, result: Result<(), CallError>) {
        let Next::Call(call) = self.next else {
            return;
        };
        self.next = match result {
            Ok(()) => self.after(call),
            Err(error) => {
                self.count_given_up(call, error);
                self.after_error(call, error)
            }
        };
    }

    /// Counts a transaction with messages that were given up. Refused offsets are not counted, because
    /// a rebalance resolves them.
    fn count_given_up(&mut self, call: Call, error: CallError) {
        let is_given_up = match call {
            Call::Produce | Call::Drain => {
                matches!(error, CallError::Abortable | CallError::Retriable)
            }
            Call::Commit => error == CallError::Abortable,
            _ => false,
        };
        self.given_up += u32::from(is_given_up);
    }

    /// Applies the committed offsets of the group after the end of the transaction.
    pub fn apply_commits(&mut self, found: Vec<Commit>) {
        self.next = Next::Report(match self.gives_up {
            true => Ending::GaveUp(found),
            false => Ending::Unknown(found),
        });
    }

    fn after(&mut self, call: Call) -> Next {
        match call {
            Call::Begin => Next::Call(Call::Produce),
            Call::Produce => Next::Call(Call::Drain),
            Call::Drain => Next::Call(Call::SendOffsets),
            Call::SendOffsets => {
                self.is_commit_asked = true;
                Next::Call(Call::Commit)
            }
            Call::Commit => {
                self.is_renewed = false;
                self.given_up = 0;
                Next::Report(Ending::Committed)
            }
            Call::Abort if self.given_up >= MAX_GIVEN_UP => {
                self.gives_up = true;
                Next::Call(Call::FetchCommits)
            }
            Call::Renew if self.is_commit_asked => Next::Call(Call::FetchCommits),
            Call::Abort | Call::Renew | Call::FetchCommits => Next::Report(Ending::Aborted),
        }
    }

    fn after_error(&mut self, call: Call, error: CallError) -> Next {
        match (call, error) {
            // There is no further remedy.
            (Call::Renew | Call::FetchCommits, _) => Next::Close,
            (Call::Abort, _) => self.renew(),
            (Call::Commit, CallError::Abortable) => Next::Call(Call::Abort),
            (Call::Commit, _) => self.renew(),
            // Another producer would be denied, too; the broker aborts the open transaction.
            (_, CallError::Denied) => Next::Close,
            (_, CallError::Abortable | CallError::Retriable) => Next::Call(Call::Abort),
            (_, CallError::Producer) => self.renew(),
        }
    }

    /// The replacement of the producer, unless it is a new one that has committed no transaction yet.
    fn renew(&mut self) -> Next {
        if std::mem::replace(&mut self.is_renewed, true) {
            return Next::Close;
        }
        Next::Call(Call::Renew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies results until the loop reports the end or closes.
    fn run(own: &mut TransactionLoop, results: &[Result<(), CallError>]) -> Next {
        own.begin();
        let mut results = results.iter();
        while let Next::Call(call) = own.next() {
            if *call == Call::FetchCommits {
                own.apply_commits(Vec::new());
                continue;
            }
            own.apply(results.next().copied().unwrap_or(Ok(())));
        }
        own.next().clone()
    }

    #[test]
    fn a_transaction_is_begun_filled_and_committed() {
        let mut own = TransactionLoop::default();
        own.begin();
        let mut calls = Vec::new();
        while let Next::Call(call) = *own.next() {
            calls.push(call);
            own.apply(Ok(()));
        }
        let expected = [
            Call::Begin,
            Call::Produce,
            Call::Drain,
            Call::SendOffsets,
            Call::Commit,
        ];
        assert_eq!(calls, expected);
        assert_eq!(own.next(), &Next::Report(Ending::Committed));
    }

    #[test]
    fn a_failure_before_the_commit_aborts_and_one_after_it_fetches_the_offsets() {
        use CallError::{Abortable, Denied, Producer, Retriable};
        let mut own = TransactionLoop::default();
        let aborted = Next::Report(Ending::Aborted);
        let unknown = Next::Report(Ending::Unknown(Vec::new()));
        let filled = |error| [Ok(()), Ok(()), Ok(()), Ok(()), Err(error)];
        assert_eq!(run(&mut own, &[Ok(()), Err(Abortable)]), aborted);
        assert_eq!(run(&mut own, &[Ok(()), Ok(()), Err(Retriable)]), aborted);
        assert_eq!(run(&mut own, &filled(Abortable)), aborted);
        assert_eq!(run(&mut own, &[Err(Denied)]), Next::Close);
        assert_eq!(run(&mut own, &filled(Producer)), unknown);
        // The new producer fails, too, before it has committed a transaction.
        assert_eq!(run(&mut own, &filled(Producer)), Next::Close);
    }

    #[test]
    fn a_producer_is_replaced_again_once_it_has_committed() {
        let mut own = TransactionLoop::default();
        let fenced = [Err(CallError::Producer)];
        assert_eq!(run(&mut own, &fenced), Next::Report(Ending::Aborted));
        assert_eq!(run(&mut own, &[]), Next::Report(Ending::Committed));
        assert_eq!(run(&mut own, &fenced), Next::Report(Ending::Aborted));
        assert_eq!(run(&mut own, &fenced), Next::Close);
    }

    #[test]
    fn messages_given_up_in_many_transactions_end_the_worker_and_refused_offsets_do_not() {
        let aborted = Next::Report(Ending::Aborted);
        let given_up = [Ok(()), Ok(()), Err(CallError::Abortable)];
        let refused = [Ok(()), Ok(()), Ok(()), Err(CallError::Abortable)];
        let mut own = TransactionLoop::default();
        for _ in 0..2 {
            for _ in 1..MAX_GIVEN_UP {
                assert_eq!(run(&mut own, &given_up), aborted);
                assert_eq!(run(&mut own, &refused), aborted);
            }
            // A committed transaction in between resets the count.
            assert_eq!(run(&mut own, &[]), Next::Report(Ending::Committed));
        }
        for _ in 1..MAX_GIVEN_UP {
            assert_eq!(run(&mut own, &given_up), aborted);
        }
        let ends = Next::Report(Ending::GaveUp(Vec::new()));
        assert_eq!(run(&mut own, &given_up), ends);
    }

    #[test]
    fn a_producer_is_replaced_when_its_abort_fails() {
        let mut own = TransactionLoop::default();
        let failed = Err(CallError::Retriable);
        assert_eq!(
            run(&mut own, &[failed, failed]),
            Next::Report(Ending::Aborted)
        );
        assert_eq!(run(&mut own, &[failed, failed]), Next::Close);
    }
}
