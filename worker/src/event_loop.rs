//! The event loop of a worker: the decisions of the thread that moves its data. It serves the group,
//! delivers and commits finished work, takes messages and hands them to the compute threads, until it
//! winds down. The loop itself does no I/O: a driver asks for the [next action](EventLoop::next) with
//! the time, carries it out with Kafka and threads (or, in the simulation, with models of them), and
//! applies the result.

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

/// The next step of the driver.
#[derive(Debug)]
pub enum Action {
    /// Poll the group consumer. Rebalances and failed commits are applied meanwhile.
    Poll,
    /// Apply the work that the compute threads have finished, as far as it is
    /// [accepted](Delivery::accepts_finished).
    Collect,
    /// Wait at most this long for finished work of a compute thread, and apply it.
    AwaitFinished(Duration),
    /// Carry out a step of the delivery, and pass its result to [`EventLoop::apply_report`].
    Deliver(Step),
    /// Commit these offsets without waiting. A failure is applied during a later [`Action::Poll`].
    Commit(Vec<Commit>),
    /// Commit these offsets and wait for the answer. Those that are committed are applied to the state,
    /// and [`EventLoop::apply_commit_answer`] gets whether all are.
    CommitAndWait(Vec<Commit>),
    /// Offer this work unit to the compute threads. Where their queue is full,
    /// [`EventLoop::apply_no_room`] takes it back.
    HandOut(WorkUnit),
    /// Read the status of the compute threads, and pass it to [`EventLoop::apply_threads`].
    Threads,
    /// Read a partition from the common queue again.
    JoinOthers(i32),
    /// Take records, append them to the batch, and pass it to [`EventLoop::apply_records`].
    Consume(Consume, RecordBatch),
    /// Sleep for this long.
    Wait(Duration),
    /// Begin to wind down, for this reason, with [`EventLoop::wind_down`].
    End(Failure),
    /// Close the queue of work units: the compute threads finish those that they have and end.
    CloseWorkUnits,
    /// Leave the group within this time. Revocations are applied meanwhile.
    Leave(Duration),
    /// Return: the worker is wound down.
    Exit,
}

/// The records that [`Action::Consume`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consume {
    /// Records of a partition that is read from its own queue, without waiting.
    Isolated {
        /// The partition.
        partition: i32,
        /// The largest number of records.
        at_most: usize,
    },
    /// One record of the other partitions, after at most this time.
    One(Duration),
    /// Records of the other partitions: a full batch, or those that arrive within this time.
    Batch(Duration),
}

/// The reason for which a worker ends without a request.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A compute thread has ended.
    ThreadDied,
    /// A compute thread got jobs of a computation that this worker does not have, and leaves them to
    /// other workers.
    Unable,
    /// A job takes longer than the job timeout.
    Hang {
        /// The partition of the job.
        partition: i32,
        /// The job timeout.
        timeout: Duration,
    },
    /// Messages were in flight to the broker without a single acknowledgement.
    NotAcknowledged {
        /// The time since the last acknowledgement.
        waited: Duration,
    },
    /// The client library has given up a message.
    Undelivered {
        /// The topic of the message, where it is known.
        destination: Option<Destination>,
        /// The partition of that topic.
        partition: i32,
        /// The error of the client library.
        code: ErrorCode,
    },
    /// A client has failed; the driver has its error.
    Client,
}

/// The status of a compute thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadStatus {
    /// Whether the thread has ended.
    pub is_finished: bool,
    /// Whether it got jobs of a computation that this worker does not have. It settles none of them.
    pub is_unable: bool,
    /// The oldest attempt at a job that is under way; `None` where there is no attempt.
    pub at_work: Option<Attempt>,
}

/// An attempt at a job that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the attempt, unique within its thread.
    pub id: u64,
    /// The partition of the job.
    pub partition: i32,
    /// The start of the attempt; `None` where it was not recorded, and the event loop counts from the
    /// first time at which it sees the attempt.
    pub since: Option<Instant>,
}

/// The configuration of an event loop.
#[derive(Clone, Debug)]
pub struct Config {
    /// The interval between two commits of offsets.
    pub commit_interval: Duration,
    /// The longest time for one attempt at a job; `None` for no limit.
    pub job_timeout: Option<Duration>,
    /// The number of compute threads.
    pub threads: usize,
    /// The bounds and timeouts.
    pub limits: Limits,
}

/// The event loop of a worker.
#[derive(Debug)]
pub struct EventLoop {
    state: WorkerState,
    config: Config,
    phase: Phase,
    taking: Taking,
    /// The revocation in progress.
    revocation: Option<Revocation>,
    /// The work units that wait for room in the queue of the compute threads, the next one last.
    waiting: Vec<WorkUnit>,
    watches: Vec<HangWatch>,
    /// Whether a compute thread runs that does not hang.
    is_computing: bool,
    committed_at: Instant,
    wind_down: Option<WindDown>,
}

/// The phase of a round of the loop.
#[derive(Debug)]
enum Phase {
    Poll,
    Collect,
    Deliver,
    Commit,
    /// Offer the waiting work units.
    Offer,
    Threads,
    Take,
    /// Offer the work units that were taken in this round, and end the round.
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

    /// The state of the worker.
    pub fn state(&self) -> &WorkerState {
        &self.state
    }

    /// The state of the worker, to apply finished work and commits to.
    pub fn state_mut(&mut self) -> &mut WorkerState {
        &mut self.state
    }

    /// The number of work units that wait for room in the queue of the compute threads.
    pub fn waiting_work_units(&self) -> usize {
        self.waiting.len()
    }

    /// The next action for the driver.
    pub fn next(&mut self, now: Instant) -> Action {
        loop {
            if let Some(action) = self.advance(now) {
                return action;
            }
        }
    }

    /// One transition of the loop; `None` where it has no action for the driver.
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

    /// The next step of the delivery; `None` after the last, when committing is next.
    fn deliver(&mut self) -> Option<Action> {
        if self.state.has_failed() {
            let failure = self.state.take_failure();
            if self.wind_down.is_some() {
                warn!(
                    ?failure,
                    "error while winding down; not waiting for the compute threads"
                );
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

    /// Commits once in each interval, and whenever no message is in flight.
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

    /// Offers the waiting work units to the compute threads, until their queue is full.
    fn offer(&mut self, then: Phase) -> Option<Action> {
        let next = self.waiting.pop().map(Action::HandOut);
        if next.is_none() {
            self.phase = then;
        }
        next
    }

    /// Takes back a work unit for which the queue of the compute threads has no room.
    pub fn apply_no_room(&mut self, unit: WorkUnit) {
        self.waiting.push(unit);
        self.phase = match self.phase {
            Phase::Offer => Phase::Threads,
            _ => Phase::Poll,
        };
    }

    /// Applies the result of a step of the delivery. Returns the changes for the metrics and, in the
    /// simulation, the invariants.
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

    /// Applies the status of all compute threads, in their order. A job that takes longer than the job
    /// timeout counts as one that hangs.
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

    // Rebalances, which happen while the driver polls, commits or leaves.

    /// Applies an assignment of partitions. The driver carries out what is returned before it fetches
    /// their first message.
    pub fn assigned(&mut self, starts: &[Start]) -> Assignment {
        self.state.assign(starts)
    }

    /// Begins the revocation of partitions. They are revoked once
    /// [`next_of_revocation`](Self::next_of_revocation) has returned its last action.
    pub fn begin_revocation(&mut self, partitions: &[i32]) {
        let timeout = self.config.limits.revoke_timeout;
        self.revocation = Some(Revocation::new(partitions, timeout));
    }

    /// The next action of the revocation. The last one is [`RevocationAction::Commit`].
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

    /// Applies the loss of partitions, which another worker may own already. Nothing is committed for
    /// them.
    pub fn lost(&mut self, partitions: &[i32]) {
        self.state.forget(partitions);
    }

    /// Makes work units of records, an equal share for each compute thread. `job`: the only job to
    /// compute; `None` for all.
    fn hand_out(&mut self, records: RecordBatch, job: Option<IsolatedJob>) {
        let mut leases = Leases::new();
        for record in records.iter() {
            // Records of a partition that is no longer assigned get no lease and are skipped.
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
