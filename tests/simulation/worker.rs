//! A worker process: the very event loop that the worker runs, driven with models of the clock, the
//! broker, the group and the threads. It is cut into steps between which anything may happen, and
//! decides nothing.

mod cancellations;
mod committing;
mod computing;
mod connection;
mod group;
mod unread;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use kafka::SharedCancellations;
use pipeline::Worker;
use pipeline::mark::Reading;
use pipeline::offsets::Commit;
use worker::delivery::{AtLeastOnce, Delivery, ExactlyOnce};
use worker::event_loop::{Action, Attempt, Config, EventLoop, Failure, Limits, ThreadStatus};
use worker::executor::WorkUnit;
use worker::outbox::Finished;

use crate::broker::{MemberId, Payload};
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;

pub use committing::Committer;
use computing::{Thread, ThreadSetup};
pub use connection::OnTheWay;
use unread::Unread;

/// How often offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// How long an attempt at a job may take.
const JOB_TIMEOUT: Duration = Duration::from_secs(5);

/// Finished work that is not confirmed, at most.
const MAX_UNCONFIRMED_BYTES: usize = 400;

/// Work units that wait for a compute thread, for each of them.
const WAITING_WORK_UNITS: usize = 2;

/// Why a worker's step did not end as usual.
#[derive(Debug)]
pub enum Stop {
    /// An invariant does not hold.
    Violated(Violation),
    /// The process is gone, by this job or by something from outside.
    Dies(Option<u64>),
    /// The process gives up and winds down.
    GivesUp,
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violated(violation)
    }
}

type Flow<T> = Result<T, Stop>;

/// What a worker process starts with.
#[derive(Debug)]
pub struct Start {
    /// Never used twice.
    pub number: u64,
    /// How many compute threads it has.
    pub threads: usize,
    /// The member of the group that it has joined as.
    pub member: MemberId,
    /// Where it commits in transactions.
    pub committer: Option<Committer>,
    /// How many jobs a compute thread has in flight.
    pub window: usize,
    /// Whether it knows the computation of the run.
    pub is_able: bool,
    /// The outcomes partition of its own, where the broker keeps little of it.
    pub limited_partition: Option<i32>,
}

/// A worker process.
#[derive(Debug)]
pub struct WorkerProcess {
    /// Never used twice.
    pub number: u64,
    name: Worker,
    event_loop: EventLoop,
    /// What the loop wants next, if it was asked already.
    next: Option<Action>,
    /// Its clock.
    now: Instant,
    threads: Vec<Thread>,
    /// Which of them have ended.
    ended: Vec<bool>,
    /// Work units on their way to the compute threads.
    slices: VecDeque<WorkUnit>,
    /// Finished work on its way from there.
    finished: VecDeque<Finished>,
    /// The offset to be fetched next, by partition.
    fetch: BTreeMap<i32, i64>,
    /// Partitions that have queues of their own.
    isolated: BTreeSet<i32>,
    /// As what the group knows this process, or once knew it.
    pub member: MemberId,
    /// The generation of the group that it last heard of.
    generation: u64,
    /// Which runs are cancelled, as far as it has read the runs topic.
    cancellations: SharedCancellations,
    runs_read: usize,
    /// What it has sent to a partition that keeps little.
    unread: Option<Unread>,
    /// Where it commits in transactions.
    committer: Option<Committer>,
    /// Produced and not acknowledged.
    pub on_the_way: Vec<OnTheWay>,
    acknowledged: Vec<usize>,
    /// The outcomes that are to follow dead letters, by where these come from and what they hold;
    /// `None` for a message that is buried whole.
    buried: BTreeMap<((i32, i64), Payload), Option<Payload>>,
    /// Asked to be committed and not answered.
    pub commits: VecDeque<(MemberId, Vec<Commit>)>,
    commit_has_failed: bool,
    /// It is not scheduled, for whatever reason; others may take it for dead.
    pub sleeps: bool,
    /// Its producer sends nothing any more.
    pub lost_sight: bool,
    /// The partition and the job for which it gives up, because that hangs.
    pub given_up_for: Option<(i32, u64)>,
    /// The event loop did not accept all finished work when it last asked for it.
    is_refused: bool,
    /// Something took longer than it may since the last poll.
    has_timed_out: bool,
    /// Since when the records of a partition that is read alone are late.
    late_since: Option<Instant>,
    /// Partitions that got on, or had a commit refused, since this process took them over.
    helped: BTreeSet<i32>,
    /// At which offset, and to be read how, partitions were taken over.
    taken_over: BTreeMap<i32, (i64, Reading)>,
}

impl WorkerProcess {
    /// A process that has joined the group.
    pub fn start(start: Start, shared: &Shared) -> Self {
        let Start {
            number,
            threads,
            member,
            committer,
            window,
            is_able,
            limited_partition,
        } = start;
        let name = Worker {
            host: "host".to_owned(),
            id: format!("worker-{number}"),
        };
        let cancellations = SharedCancellations::default();
        let setup = ThreadSetup {
            window,
            is_able,
            with_transactions: committer.is_some(),
            cancellations: &cancellations,
        };
        let thread = |_| Thread::new(&name, &setup, shared);
        let threads_made = (0..threads).map(thread).collect();
        let now = shared.now();
        let limits = limits(shared);
        let delivery: Box<dyn Delivery> = match committer {
            Some(_) => Box::new(ExactlyOnce::new()),
            None => Box::new(AtLeastOnce::new(&limits, now)),
        };
        let config = Config {
            commit_interval: COMMIT_INTERVAL,
            job_timeout: Some(JOB_TIMEOUT),
            threads,
            limits,
        };
        Self {
            number,
            event_loop: EventLoop::new(config, delivery, now),
            next: None,
            now,
            threads: threads_made,
            name,
            cancellations,
            runs_read: 0,
            unread: limited_partition.map(|own| Unread::new(own, shared)),
            ended: vec![false; threads],
            slices: VecDeque::new(),
            finished: VecDeque::new(),
            fetch: BTreeMap::new(),
            isolated: BTreeSet::new(),
            member,
            generation: 0,
            committer,
            on_the_way: Vec::new(),
            acknowledged: Vec::new(),
            buried: BTreeMap::new(),
            commits: VecDeque::new(),
            commit_has_failed: false,
            sleeps: false,
            lost_sight: false,
            given_up_for: None,
            is_refused: false,
            has_timed_out: false,
            late_since: None,
            helped: BTreeSet::new(),
            taken_over: BTreeMap::new(),
        }
    }

    /// Whether nothing is in hand or on its way.
    pub fn is_at_rest(&self) -> bool {
        self.event_loop.state().is_clear()
            && self.finished.is_empty()
            && self.commits.is_empty()
            && self.threads.iter().all(Thread::is_at_rest)
    }

    /// How many compute threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Whether a step of a compute thread would do something.
    pub fn can_compute(&self, thread: usize) -> bool {
        self.threads[thread].can_compute(!self.slices.is_empty())
    }

    /// Whether a step of the thread that commits transactions would do something.
    pub fn can_transact(&self) -> bool {
        self.committer.as_ref().is_some_and(Committer::can_go_on)
    }

    /// Whether no further transaction can be committed.
    pub fn has_closed_transactions(&self) -> bool {
        self.committer.as_ref().is_some_and(Committer::is_closed)
    }

    /// One round of the event loop, from a poll to the next.
    pub fn move_data(&mut self, shared: &mut Shared) -> Flow<()> {
        let now = self.now;
        let mut action = self
            .next
            .take()
            .unwrap_or_else(|| self.event_loop.next(now));
        loop {
            if !self.carry_out(action, shared)? {
                // A partition that comes is waited for.
                self.next = Some(Action::Poll);
                return Ok(());
            }
            action = self.event_loop.next(self.now);
            if matches!(action, Action::Poll) {
                self.next = Some(action);
                return Ok(());
            }
        }
    }

    /// Ends in good order.
    pub fn wind_down(&mut self, shared: &mut Shared) -> Flow<()> {
        self.next = None;
        self.event_loop.wind_down(self.now);
        let mut now = self.now;
        loop {
            match self.event_loop.next(now.max(self.now)) {
                Action::Exit => return Ok(()),
                action => {
                    if shared.mutation == Some(Mutation::LeftWithoutDrain)
                        && matches!(action, Action::Collect)
                    {
                        now = self.now + connection::TOO_LONG;
                    }
                    if !self.carry_out(action, shared)? {
                        // The group does not answer in time.
                        self.event_loop.give_up_serving();
                    }
                }
            }
        }
    }

    /// Carries an action out; false where the group cannot be served yet.
    fn carry_out(&mut self, action: Action, shared: &mut Shared) -> Flow<bool> {
        match action {
            Action::Poll => {
                self.pass_time(shared);
                return self.poll(shared);
            }
            Action::Collect => self.collect(shared),
            Action::AwaitFinished(_) => {
                if let Some(finished) = self.finished.pop_front() {
                    self.apply_finished(finished, shared);
                }
            }
            Action::Deliver(step) => self.deliver_step(step, shared)?,
            Action::Commit(_) if shared.mutation == Some(Mutation::CommitForgotten) => {}
            Action::Commit(commits) => {
                if shared.mutation == Some(Mutation::ConfirmedWhenAsked) {
                    self.event_loop.state_mut().apply_committed(&commits);
                }
                self.commits.push_back((self.member, commits));
            }
            Action::CommitAndWait(commits)
                if shared.mutation == Some(Mutation::CommitNotWaitedFor) =>
            {
                self.event_loop.state_mut().apply_committed(&commits);
                self.event_loop.apply_commit_answer(true);
            }
            Action::CommitAndWait(commits) => {
                let committed = self.commit_and_wait(&commits, shared)?;
                self.event_loop.apply_commit_answer(committed);
            }
            Action::HandOut(unit) => self.hand_out(unit, shared),
            Action::Threads => self.look_at_threads(shared),
            Action::JoinOthers(partition) => {
                self.isolated.remove(&partition);
            }
            Action::Consume(consume, records) => {
                let records = self.consume(consume, records, shared)?;
                self.event_loop.apply_records(records, self.now);
            }
            Action::Wait(_) | Action::Exit => {}
            Action::End(failure) => {
                self.note_failure(&failure, shared);
                return Err(Stop::GivesUp);
            }
            Action::CloseWorkUnits => self.end_threads(shared)?,
            Action::Leave(_) => {
                self.is_drained("what is finished is acknowledged before a worker leaves")?;
                self.leave(shared)?;
            }
        }
        Ok(true)
    }

    /// What the compute threads have finished was acknowledged, unless time was up.
    fn is_drained(&self, invariant: &'static str) -> Result<(), Violation> {
        let state = self.event_loop.state();
        let delivery = state.delivery();
        let is_collected = self.finished.is_empty() || self.is_refused;
        if self.has_timed_out || state.has_failed() || (delivery.is_drained() && is_collected) {
            return Ok(());
        }
        let unconfirmed = delivery.unconfirmed_bytes();
        violated(invariant, format!("{unconfirmed} bytes are not"))
    }

    /// Time passes between two rounds: usually little, at times an interval or a timeout.
    fn pass_time(&mut self, shared: &mut Shared) {
        self.has_timed_out = false;
        self.now += match shared.rng.below(8) {
            0 => Duration::from_secs(10),
            1 | 2 => COMMIT_INTERVAL,
            _ => Duration::from_millis(1),
        };
    }

    fn note_failure(&mut self, failure: &Failure, shared: &mut Shared) {
        match failure {
            Failure::Hang { partition, .. } => {
                let hangs = self.threads.iter().filter_map(|thread| thread.hangs);
                self.given_up_for = hangs.into_iter().find(|(own, _)| own == partition);
                shared.saw(Seen::HangGivenUp);
            }
            Failure::Client => shared.saw(Seen::TransactionsGivenUp),
            Failure::NotAcknowledged { .. } => shared.saw(Seen::NotAcknowledged),
            Failure::Unable => shared.saw(Seen::Unable),
            Failure::ThreadDied | Failure::Undelivered { .. } => {}
        }
    }

    // Compute threads.

    fn collect(&mut self, shared: &Shared) {
        while self.event_loop.state().delivery().accepts_finished()
            && let Some(finished) = self.finished.pop_front()
        {
            self.apply_finished(finished, shared);
        }
        self.is_refused = !self.finished.is_empty();
    }

    fn apply_finished(&mut self, mut finished: Finished, shared: &Shared) {
        let ignored = [
            Some(Mutation::EpochsIgnored),
            Some(Mutation::ResultOfRevokedUnitAccepted),
        ];
        if ignored.contains(&shared.mutation) {
            for settled in &mut finished.settles {
                if let Some(lease) = self.event_loop.state().leases().get(&settled.partition) {
                    settled.epoch = lease.epoch();
                }
            }
        }
        if let Some(letter) = &finished.dead_letter {
            let source = (letter.partition, letter.offset);
            let payload = Payload::from(letter.payload.as_slice());
            let outcomes = finished.outcomes.as_deref().map(Payload::from);
            self.buried.insert((source, payload), outcomes);
        }
        let state = self.event_loop.state_mut();
        if shared.mutation == Some(Mutation::BatchesDivided)
            && self.committer.is_some()
            && finished.settles.len() > 1
        {
            // What is known of the batch ends with its first message.
            let rest = Finished {
                settles: finished.settles.split_off(1),
                ..Finished::default()
            };
            state.apply_finished(finished);
            state.apply_finished(rest);
            return;
        }
        state.apply_finished(finished);
    }

    fn hand_out(&mut self, unit: WorkUnit, shared: &mut Shared) {
        if self.slices.len() >= WAITING_WORK_UNITS * self.threads.len() {
            self.event_loop.apply_no_room(unit);
            return;
        }
        shared.tell(|| {
            let records = unit.records.iter().skip(unit.range.start);
            let records = records.take(unit.range.len());
            let places: Vec<_> = records.map(|own| (own.partition, own.offset)).collect();
            format!("{} takes {places:?}", self.name.id)
        });
        self.slices.push_back(unit);
    }

    fn look_at_threads(&mut self, shared: &mut Shared) {
        let delivery = self.event_loop.state().delivery();
        if !delivery.is_under_way() && !delivery.is_settled() {
            shared.saw(Seen::WaitedForBatch);
        }
        let is_unable = shared.mutation != Some(Mutation::InabilityNotReported)
            && self.threads.iter().any(Thread::is_unable);
        let threads = self.threads.iter().zip(&self.ended);
        let is_reported = shared.mutation != Some(Mutation::HangNotReported);
        let threads = threads.map(|(thread, &is_finished)| ThreadStatus {
            is_finished,
            is_unable,
            at_work: thread
                .hangs
                .filter(|_| is_reported)
                .map(|(partition, index)| Attempt {
                    id: index,
                    partition,
                    since: None,
                }),
        });
        self.event_loop.apply_threads(threads, self.now);
    }

    /// The threads finish what they are at, unless they hang, and end.
    fn end_threads(&mut self, shared: &mut Shared) -> Flow<()> {
        for number in 0..self.threads.len() {
            // How much of what they have the threads still do depends on who asked.
            while self.can_compute(number) && shared.rng.chance(3, 4) {
                self.compute(number, shared)?;
            }
            let thread = &mut self.threads[number];
            self.finished.extend(thread.stop(shared.now()));
            self.ended[number] = thread.hangs.is_none();
        }
        Ok(())
    }
}

/// The bounds and timeouts of the worker, with a bound of unconfirmed bytes that the small messages
/// of a history come to.
fn limits(shared: &Shared) -> Limits {
    let mut limits = Limits {
        max_unconfirmed_bytes: MAX_UNCONFIRMED_BYTES,
        ..Limits::default()
    };
    match shared.mutation {
        Some(Mutation::TakenBeyondBound) => limits.max_unconfirmed_bytes = usize::MAX,
        Some(Mutation::IsolationEndedEarly) => limits.idle_timeout = Duration::ZERO,
        Some(Mutation::WaitsForEver) => limits.acknowledge_timeout = Duration::MAX,
        _ => {}
    }
    limits
}
