//! The rebalances of a worker. On assignment, the poison marker of each partition is committed before
//! its first message is taken. On revocation, finished work is delivered and committed, and unfinished
//! work is forgotten. For partitions that are lost, nothing is committed.

use std::time::{Duration, Instant};

use pipeline::mark::Reading;
use pipeline::offsets::{Commit, Start};
use tracing::warn;

use crate::delivery::{Drain, Settle, Step};
use crate::executor::Lease;
use crate::state::WorkerState;

/// The steps of an assignment of partitions, which precede their first message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The offsets to commit and wait for.
    pub commits: Vec<Commit>,
    /// The partitions to read from queues of their own.
    pub isolated: Vec<i32>,
}

impl WorkerState {
    /// Applies an assignment of partitions.
    pub(crate) fn assign(&mut self, starts: &[Start]) -> Assignment {
        let epochs = self.in_flight.assign(starts);
        for (start, epoch) in starts.iter().zip(epochs) {
            let partition = start.partition;
            let isolation = self.in_flight.isolation(partition);
            let isolation = isolation.unwrap_or(Reading::Freely);
            if isolation > Reading::Freely {
                warn!(
                    partition,
                    offset = start.offset,
                    reading = ?isolation,
                    "workers died with this partition; it is read in isolation"
                );
                self.isolate(partition);
            }
            self.add_lease(partition, Lease::new(epoch));
        }
        let partitions: Vec<i32> = starts.iter().map(|start| start.partition).collect();
        let commits = self
            .delivery
            .first_commits(&mut self.in_flight, &partitions);
        Assignment {
            commits,
            isolated: self.isolated().iter().copied().collect(),
        }
    }
}

/// The next step of the driver during a revocation.
#[derive(Debug)]
pub enum RevocationAction {
    /// Apply the finished work of the compute threads, as far as it is accepted.
    Collect,
    /// Carry out a step of the delivery.
    Deliver(Step),
    /// Commit these offsets, of which there may be none, and end the revocation.
    Commit(Vec<Commit>),
}

/// A revocation in progress.
#[derive(Debug)]
pub(crate) struct Revocation {
    partitions: Vec<i32>,
    timeout: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Apply the finished work of the compute threads.
    Collect,
    /// Have its outcomes acknowledged.
    Drain(Drain),
    /// Have the transactions ended. The commits are those outside of transactions, which come last.
    Settle(Settle, Vec<Commit>),
}

impl Revocation {
    pub(crate) fn new(partitions: &[i32], timeout: Duration) -> Self {
        Self {
            partitions: partitions.to_vec(),
            timeout,
            stage: Stage::Collect,
        }
    }

    /// The next action. The last one is [`RevocationAction::Commit`].
    pub(crate) fn next(&mut self, state: &mut WorkerState, now: Instant) -> RevocationAction {
        loop {
            match &mut self.stage {
                Stage::Collect => {
                    self.stage = Stage::Drain(Drain::new(now + self.timeout));
                    return RevocationAction::Collect;
                }
                Stage::Drain(drain) => {
                    if let Some(step) = drain.next(state, now) {
                        return RevocationAction::Deliver(step);
                    }
                    let commits = state
                        .delivery
                        .release(&mut state.in_flight, &self.partitions);
                    let settle = Settle::new(now + self.timeout);
                    self.stage = Stage::Settle(settle, commits);
                }
                Stage::Settle(settle, commits) => {
                    if let Some(step) = settle.next(state, now) {
                        return RevocationAction::Deliver(step);
                    }
                    let commits = std::mem::take(commits);
                    state.forget(&self.partitions);
                    return RevocationAction::Commit(commits);
                }
            }
        }
    }
}
