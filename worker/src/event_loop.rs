//! What the thread that moves a worker's data does next: it serves the group, has finished work
//! delivered and committed, takes messages and hands them to the compute threads, until it winds
//! down. The loop decides and moves nothing: a driver asks for the [next action](EventLoop::next)
//! with the time, carries it out with Kafka and threads (or, in the simulation, with models of
//! them), and applies what came of it.

mod hang;
mod limits;
mod take;
mod wind_down;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{ErrorCode, RecordBatch};
use pipeline::offsets::{Commit, Start};
use tracing::warn;

use crate::delivery::{Commitment, Delivery, Progress, Report, Step};
use crate::executor::{Leases, WorkUnit};
use crate::rebalance::{Assignment, Revocation, RevocationAction};
use crate::state::WorkerState;
use crate::state::in_flight::IsolatedJob;
use crate::state::outbox::Destination;
use hang::HangWatch;
use take::Taking;
use wind_down::WindDown;

pub use limits::Limits;

/// What the driver does next.
#[derive(Debug)]
pub enum Action {
    /// Serve the group. Rebalances and the failures of commits are applied meanwhile.
    Poll,
    /// Apply what the compute threads have finished, as far as that is
    /// [accepted](Delivery::accepts_finished).
    Collect,
    /// Wait at most this long for a compute thread to finish something, and apply it.
    AwaitFinished(Duration),
    /// A step of the delivery, answered by [`EventLoop::apply_report`].
    Deliver(Step),
    /// Ask for these commits. A failure is applied with a later [`Action::Poll`].
    Commit(Vec<Commit>),
    /// Commit and wait for the answer, which is applied to the state and, as whether all were
    /// committed, by [`EventLoop::apply_commit_answer`].
    CommitAndWait(Vec<Commit>),
    /// Offer this to the compute threads; where they have no room,
    /// [`EventLoop::apply_no_room`] takes it back.
    HandOut(WorkUnit),
    /// Look what the compute threads are at, and [tell](EventLoop::apply_threads).
    Threads,
    /// Read a partition from the queue of the others again.
    JoinOthers(i32),
    /// Take records, appended to the batch, which goes to [`EventLoop::apply_records`].
    Consume(Consume, RecordBatch),
    /// Wait.
    Wait(Duration),
    /// Wind down, for this reason: [`EventLoop::wind_down`].
    End(Failure),
    /// Hand no more work units out: the compute threads end with what they have.
    CloseWorkUnits,
    /// Leave the group within this time. Revocations are applied meanwhile.
    Leave(Duration),
    /// Everything is done.
    Exit,
}

/// Which records are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consume {
    /// At most this many of a partition that is read from its own queue, without waiting.
    Isolated {
        /// The partition.
        partition: i32,
        /// Records.
        at_most: usize,
    },
    /// One record of the others, waited for this long.
    One(Duration),
    /// As many of the others as a batch is good for, or as come within this time.
    Batch(Duration),
}

/// Why a worker ends before it is asked to.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A compute thread has ended.
    ThreadDied,
    /// A compute thread left jobs of a computation that it cannot do to other workers.
    Unable,
    /// A job takes longer than it may.
    Hang {
        /// Its partition.
        partition: i32,
        /// How long it may take.
        timeout: Duration,
    },
    /// Messages were on their way for this long without an acknowledgement.
    NotAcknowledged {
        /// How long.
        waited: Duration,
    },
    /// A message was given up.
    Undelivered {
        /// Where it was to go.
        destination: Option<Destination>,
        /// The partition.
        partition: i32,
        /// Why.
        code: ErrorCode,
    },
    /// A client can go on no longer; the driver knows why.
    Client,
}

/// What a compute thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadStatus {
    /// The thread has ended.
    pub is_finished: bool,
    /// It was given jobs of a computation that it cannot do, and settles none of them.
    pub is_unable: bool,
    /// The oldest attempt at a job that is under way.
    pub at_work: Option<Attempt>,
}

/// An attempt at a job that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// A number that no other attempt of its thread has.
    pub id: u64,
    /// The partition of the job.
    pub partition: i32,
    /// When it began; `None` where only the event loop can tell since when it has seen it.
    pub since: Option<Instant>,
}

/// What an event loop is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// How often offsets are committed.
    pub commit_interval: Duration,
    /// How long one attempt at a job may take.
    pub job_timeout: Option<Duration>,
    /// Compute threads.
    pub threads: usize,
    /// Bounds and timeouts.
    pub limits: Limits,
}

/// The event loop of a worker.
#[derive(Debug)]
pub struct EventLoop {
    state: WorkerState,
    config: Config,
    phase: Phase,
    taking: Taking,
    /// The partitions that are being given away.
    revocation: Option<Revocation>,
    /// Work units that found no room with the compute threads; the last is the first to go.
    waiting: Vec<WorkUnit>,
    watches: Vec<HangWatch>,
    /// A compute thread is at work that does not hang.
    is_computing: bool,
    committed_at: Instant,
    wind_down: Option<WindDown>,
}

/// Where a round of the loop is.
#[derive(Debug)]
enum Phase {
    Poll,
    Collect,
    Deliver,
    Commit,
    /// Work units that wait are offered.
    Offer,
    Threads,
    Take,
    /// The same, at the end of a round.
    OfferTaken,
    WindDown,
}

impl EventLoop {
    /// The loop of a worker that has just joined its group.
    pub fn new(config: Config, delivery: Box<dyn Delivery>, now: Instant) -> Self {
        let watches = (0..config.threads).map(|_| HangWatch::default());
        Self {
            watches: watches.collect(),
            state: WorkerState::new(delivery),
            config,
            phase: Phase::Poll,
            taking: Taking::default(),
            revocation: None,
            waiting: Vec::new(),
            is_computing: false,
            committed_at: now,
            wind_down: None,
        }
    }

    /// What the worker knows.
    pub fn state(&self) -> &WorkerState {
        &self.state
    }

    /// The same, to apply what is finished and committed.
    pub fn state_mut(&mut self) -> &mut WorkerState {
        &mut self.state
    }

    /// How many work units wait for room with the compute threads.
    pub fn waiting_work_units(&self) -> usize {
        self.waiting.len()
    }

    /// What to do next.
    pub fn next(&mut self, now: Instant) -> Action {
        loop {
            if let Some(action) = self.advance(now) {
                return action;
            }
        }
    }

    /// One move of the loop; `None` where nothing is to be done by the driver.
    fn advance(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Poll => self.go(Phase::Collect, Action::Poll),
            Phase::Collect => self.go(Phase::Deliver, Action::Collect),
            Phase::Deliver => self.deliver(),
            Phase::Commit => self.commit(now),
            Phase::Offer => self.offer(Phase::Threads),
            Phase::Threads => self.go(Phase::Take, Action::Threads),
            Phase::Take => match self.state.take_failure() {
                Some(failure) => Some(Action::End(failure)),
                None => self.take(now),
            },
            Phase::OfferTaken => self.offer(Phase::Poll),
            Phase::WindDown => self.next_of_winding_down(now),
        }
    }

    fn go(&mut self, phase: Phase, action: Action) -> Option<Action> {
        self.phase = phase;
        Some(action)
    }

    /// Sends what may be sent and applies what became of what was sent before.
    fn deliver(&mut self) -> Option<Action> {
        if self.state.has_failed() {
            let failure = self.state.take_failure();
            if self.wind_down.is_some() {
                warn!(?failure, "while winding down");
                self.give_up_serving();
                return None;
            }
            return failure.map(Action::End);
        }
        if let Some(step) = self.state.delivery.next_step() {
            return Some(Action::Deliver(step));
        }
        self.phase = Phase::Commit;
        None
    }

    /// Commits every interval, and whenever nothing is in hand.
    fn commit(&mut self, now: Instant) -> Option<Action> {
        self.phase = match self.wind_down {
            Some(_) => Phase::WindDown,
            None => Phase::Offer,
        };
        let since = now.saturating_duration_since(self.committed_at);
        if self.state.in_flight.in_hand() > 0 && since < self.config.commit_interval {
            return None;
        }
        let WorkerState {
            delivery,
            in_flight,
            ..
        } = &mut self.state;
        let commitment = delivery.commit(in_flight)?;
        self.committed_at = now;
        Some(match commitment {
            Commitment::Offsets(commits) => Action::Commit(commits),
            Commitment::Transaction(transaction) => Action::Deliver(Step::Begin(transaction)),
        })
    }

    /// Offers work units to the compute threads as far as they have room.
    fn offer(&mut self, then: Phase) -> Option<Action> {
        let next = self.waiting.pop().map(Action::HandOut);
        if next.is_none() {
            self.phase = then;
        }
        next
    }

    /// The compute threads have no room for this.
    pub fn apply_no_room(&mut self, unit: WorkUnit) {
        self.waiting.push(unit);
        self.phase = match self.phase {
            Phase::Offer => Phase::Threads,
            _ => Phase::Poll,
        };
    }

    /// A step of the delivery was done. Returns what it has changed.
    pub fn apply_report(&mut self, report: Report, now: Instant) -> Progress {
        let WorkerState {
            delivery,
            in_flight,
            ..
        } = &mut self.state;
        delivery
            .apply(report, in_flight, now)
            .unwrap_or_else(|failure| {
                self.state.fail(failure);
                Progress::default()
            })
    }

    /// What the compute threads are at, one after the other. A job that takes longer than it may is
    /// taken for one that never ends.
    pub fn apply_threads(&mut self, threads: impl IntoIterator<Item = ThreadStatus>, now: Instant) {
        let (mut has_ended, mut is_unable) = (false, false);
        let mut hanging = None;
        self.is_computing = false;
        for (watch, thread) in self.watches.iter_mut().zip(threads) {
            has_ended |= thread.is_finished;
            is_unable |= thread.is_unable;
            if let Some(timeout) = self.config.job_timeout
                && self.wind_down.is_none()
                && let Some(partition) = watch.apply(thread.at_work, timeout, now)
            {
                hanging.get_or_insert((partition, timeout));
            }
            self.is_computing |= !thread.is_finished && !watch.hangs();
        }
        if self.wind_down.is_some() {
            return;
        }
        if has_ended {
            self.state.fail(Failure::ThreadDied);
        } else if let Some((partition, timeout)) = hanging {
            self.state.apply_hang(partition);
            self.state.fail(Failure::Hang { partition, timeout });
        } else if is_unable {
            self.state.fail(Failure::Unable);
        }
    }

    // Rebalances, which come while the driver polls, commits or leaves.

    /// These partitions are this worker's from now on. What is returned is done before their first
    /// message comes.
    pub fn assigned(&mut self, starts: &[Start]) -> Assignment {
        self.state.assign(starts)
    }

    /// These partitions go to another worker once [`next_of_revocation`](Self::next_of_revocation)
    /// has ended.
    pub fn begin_revocation(&mut self, partitions: &[i32]) {
        let timeout = self.config.limits.revoke_timeout;
        self.revocation = Some(Revocation::new(partitions, timeout));
    }

    /// What to do next before they are given away.
    pub fn next_of_revocation(&mut self, now: Instant) -> RevocationAction {
        let Some(revocation) = &mut self.revocation else {
            return RevocationAction::Commit(Vec::new());
        };
        let action = revocation.next(&mut self.state, now);
        if matches!(action, RevocationAction::Commit(_)) {
            self.revocation = None;
        }
        action
    }

    /// These partitions are another worker's already; nothing of them may be committed.
    pub fn lost(&mut self, partitions: &[i32]) {
        self.state.forget(partitions);
    }

    /// Hands records to the compute threads, each its share. `job`: the only one that is meant.
    fn hand_out(&mut self, records: RecordBatch, job: Option<IsolatedJob>) {
        let mut leases = Leases::new();
        for record in records.iter() {
            // Records of a partition that was just revoked have no lease and are skipped.
            if self
                .state
                .in_flight
                .take(record.partition, record.offset)
                .is_some()
                && !leases.contains_key(&record.partition)
                && let Some(lease) = self.state.lease(record.partition)
            {
                leases.insert(record.partition, lease);
            }
        }
        let records = Arc::new(records);
        let leases = Arc::new(leases);
        let share = records.len().div_ceil(self.config.threads).max(1);
        for start in (0..records.len()).step_by(share) {
            self.waiting.push(WorkUnit {
                records: Arc::clone(&records),
                range: start..records.len().min(start + share),
                leases: Arc::clone(&leases),
                job,
            });
        }
        self.waiting.reverse();
    }
}

#[cfg(test)]
mod tests;
