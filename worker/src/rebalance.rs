//! What a worker does as partitions come and go. Each partition's mark is committed before its first
//! message comes. Of partitions that are given away finished work is drained and committed,
//! unfinished work is forgotten. Of partitions that are lost nothing is committed.

use std::time::{Duration, Instant};

use pipeline::mark::Reading;
use pipeline::offsets::{Commit, Start};
use tracing::warn;

use crate::delivery::{Drain, Settle, Step};
use crate::executor::Lease;
use crate::state::WorkerState;

/// What is to be done with partitions that are assigned, before their first message comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// To be committed.
    pub commits: Vec<Commit>,
    /// Those to be read from queues of their own.
    pub isolated: Vec<i32>,
}

impl WorkerState {
    /// Partitions are assigned.
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
                    "workers died with this partition"
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

/// What the driver does next while partitions are given away.
#[derive(Debug)]
pub enum RevocationAction {
    /// Apply what the compute threads have finished, as far as that is accepted.
    Collect,
    /// A step of the delivery.
    Deliver(Step),
    /// Commit this, if it is anything; then the partitions are gone.
    Commit(Vec<Commit>),
}

/// Partitions on their way to another worker.
#[derive(Debug)]
pub(crate) struct Revocation {
    partitions: Vec<i32>,
    timeout: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// What the compute threads have finished is taken in.
    Collect,
    /// It is waited for to be acknowledged.
    Drain(Drain),
    /// What transactions have to commit is committed. With the last commits outside of them.
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

    /// What to do next; at the end the last commits, which may be none.
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
