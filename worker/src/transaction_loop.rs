//! What the thread that commits transactions does next. It decides and calls nothing: the thread
//! asks for the [next call](TransactionLoop::next), makes it, and applies what came of it.
//!
//! | what fails | what is done |
//! | --- | --- |
//! | the broker is away, or busy | the same call again, as long as the transaction may take |
//! | the transaction (a message given up, a generation that is over) | it is aborted; what was in it goes into the next one, as far as its partitions are still this worker's |
//! | the producer (fenced, fatal, or it does not return from a call), before the commit was asked for | a new one, which ends what the old one left open; then as above |
//! | the producer, or no answer, after that | a new one, and a look at what the group has committed: that tells how it has ended |
//! | the new producer, before it has committed anything | the worker ends |
//! | messages, in [`MAX_GIVEN_UP`] transactions in a row | the worker ends, with what the group has committed, so that nobody takes that for a death |

use kafka::TransactionError;
use pipeline::offsets::Commit;

use crate::delivery::Ending;

/// The number of transactions in a row whose messages are given up before the worker ends. Where nothing is
/// acknowledged, each of them takes ten seconds, and all of them as long as a worker without
/// transactions waits for acknowledgements.
pub const MAX_GIVEN_UP: u32 = 12;

/// A call that waits for the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Begin the transaction.
    Begin,
    /// Hand its messages to the producer.
    Produce,
    /// Wait until they are acknowledged.
    Drain,
    /// Add its offsets.
    SendOffsets,
    /// Commit it.
    Commit,
    /// Abort it.
    Abort,
    /// Put a new producer in the place of this one, which ends what that has left open.
    Renew,
    /// Ask what the group has committed, answered by [`TransactionLoop::apply_commits`].
    FetchCommits,
}

/// What the thread does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Make this call.
    Call(Call),
    /// Report that the transaction has ended.
    Report(Ending),
    /// Report that no further transaction can be committed.
    Close,
}

/// Why a call has failed, by what is left to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The broker is away or busy.
    Retriable,
    /// The transaction is lost, and the producer is not.
    Abortable,
    /// The producer is of no use any more, or nobody has told how the transaction has ended.
    Producer,
    /// The cluster does not allow it.
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
    /// The commit of the transaction was asked for.
    is_commit_asked: bool,
    /// The producer was made anew and has committed nothing since.
    is_renewed: bool,
    /// Transactions in a row whose messages were given up.
    given_up: u32,
    /// The last of them is aborted, and no further one is begun.
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
    /// A transaction is to be carried out.
    pub fn begin(&mut self) {
        self.next = Next::Call(Call::Begin);
        self.is_commit_asked = false;
    }

    /// What to do next.
    pub fn next(&self) -> &Next {
        &self.next
    }

    /// The call that was next has returned.
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

    /// Offsets that are refused are not counted: a rebalance mends that.
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

    /// The group has committed this since the transaction has ended: only a transaction that was
    /// committed could move it.
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
            // Nothing helps any more.
            (Call::Renew | Call::FetchCommits, _) => Next::Close,
            (Call::Abort, _) => self.renew(),
            (Call::Commit, CallError::Abortable) => Next::Call(Call::Abort),
            (Call::Commit, _) => self.renew(),
            // Another producer would not be allowed either; the broker ends what is open.
            (_, CallError::Denied) => Next::Close,
            (_, CallError::Abortable | CallError::Retriable) => Next::Call(Call::Abort),
            (_, CallError::Producer) => self.renew(),
        }
    }

    /// A new producer that has committed nothing yet is not replaced again.
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

    /// Applies results until the loop has something to report.
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
    fn what_fails_before_the_commit_is_aborted_and_after_it_found_out() {
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
        // The new producer has committed nothing, and is of no use either.
        assert_eq!(run(&mut own, &filled(Producer)), Next::Close);
    }

    #[test]
    fn a_producer_is_made_anew_again_once_it_has_committed() {
        let mut own = TransactionLoop::default();
        let fenced = [Err(CallError::Producer)];
        assert_eq!(run(&mut own, &fenced), Next::Report(Ending::Aborted));
        assert_eq!(run(&mut own, &[]), Next::Report(Ending::Committed));
        assert_eq!(run(&mut own, &fenced), Next::Report(Ending::Aborted));
        assert_eq!(run(&mut own, &fenced), Next::Close);
    }

    #[test]
    fn messages_that_are_given_up_each_time_end_the_worker_and_refused_offsets_do_not() {
        let aborted = Next::Report(Ending::Aborted);
        let given_up = [Ok(()), Ok(()), Err(CallError::Abortable)];
        let refused = [Ok(()), Ok(()), Ok(()), Err(CallError::Abortable)];
        let mut own = TransactionLoop::default();
        for _ in 0..2 {
            for _ in 1..MAX_GIVEN_UP {
                assert_eq!(run(&mut own, &given_up), aborted);
                assert_eq!(run(&mut own, &refused), aborted);
            }
            // One that is committed in between is progress.
            assert_eq!(run(&mut own, &[]), Next::Report(Ending::Committed));
        }
        for _ in 1..MAX_GIVEN_UP {
            assert_eq!(run(&mut own, &given_up), aborted);
        }
        let ends = Next::Report(Ending::GaveUp(Vec::new()));
        assert_eq!(run(&mut own, &given_up), ends);
    }

    #[test]
    fn an_abort_that_fails_takes_a_new_producer() {
        let mut own = TransactionLoop::default();
        let failed = Err(CallError::Retriable);
        assert_eq!(
            run(&mut own, &[failed, failed]),
            Next::Report(Ending::Aborted)
        );
        assert_eq!(run(&mut own, &[failed, failed]), Next::Close);
    }
}
