//! A worker process around the very [`Desk`] that the worker runs: the moves of its data mover and
//! of its compute threads, cut into steps between which anything may happen. What the real shell
//! does by threads, clock and sockets is imitated here line by line; what decides is not.

mod committing;
mod computing;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use pipeline::mark::Reading;
use pipeline::offsets::{Commit, Epoch, Settled, Start};
use pipeline::{JobBatch, OutcomeBatchBuilder, Worker};
use worker::desk::{CarefulJob, Desk};
use worker::outbox::{Destination, Finished};
use worker::retry::RetryQueue;

use crate::imitation::broker::{Mail, MemberId, Payload};
use crate::imitation::history::Shared;
use crate::imitation::invariants::Violation;
use crate::imitation::mutants::Mutation;
use crate::imitation::seen::Seen;

pub use committing::Committer;
use computing::settle;

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

const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
const JOB_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_UNCONFIRMED_BYTES: usize = 400;
const REVOKE_TIMEOUT: Duration = Duration::from_millis(500);
const COMMIT_TIMEOUT: Duration = Duration::from_millis(100);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
const JOBS_TIMEOUT: Duration = Duration::from_secs(20);
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(120);
const TOO_LONG: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
struct Record {
    partition: i32,
    offset: i64,
    payload: Payload,
}

#[derive(Debug)]
struct Lease {
    epoch: Epoch,
    ended: Cell<bool>,
}

type Leases = BTreeMap<i32, Rc<Lease>>;

#[derive(Clone, Debug)]
struct Slice {
    records: Rc<Vec<Record>>,
    next: usize,
    end: usize,
    leases: Rc<Leases>,
    job: Option<CarefulJob>,
}

#[derive(Debug)]
struct FailedJob {
    batch: Vec<u8>,
    failed_attempts: u32,
    reason: String,
    settles: Settled,
    lease: Rc<Lease>,
}

/// The message that a thread is at.
#[derive(Debug)]
struct Current {
    batch: Rc<JobBatch>,
    position: usize,
    settles: Settled,
    lease: Rc<Lease>,
}

/// A compute thread.
#[derive(Debug)]
struct Thread {
    slice: Option<Slice>,
    current: Option<Current>,
    outcomes: Option<OutcomeBatchBuilder>,
    settles: Vec<Settled>,
    failed: RetryQueue<FailedJob>,
    /// The partition and the job that it hangs at.
    hangs: Option<(i32, u64)>,
    seen_since: Option<Instant>,
    is_flagged: bool,
}

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub struct OnTheWay {
    /// The entry of the outbox.
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
    /// It reaches the broker.
    pub fn arrive(&self, shared: &mut Shared) -> Result<(), Violation> {
        match self.destination {
            Destination::Dlq => {
                shared.broker.dlq.append(Rc::clone(&self.payload));
                shared
                    .oracle
                    .dead_letter(self.place, &self.payload, self.is_whole)
            }
            Destination::Outcomes => {
                let partition = self.place.0 as usize;
                let log = &mut shared.broker.outcomes[partition];
                let offset = log.append(Rc::clone(&self.payload));
                shared
                    .oracle
                    .outcomes_told(partition, offset, &self.payload)
            }
        }
    }
}

/// A worker process.
#[derive(Debug)]
pub struct WorkerProcess {
    /// Never used twice.
    pub number: u64,
    name: Worker,
    desk: Desk,
    leases: Leases,
    ended: Vec<Weak<Lease>>,
    apart: BTreeSet<i32>,
    threads: Vec<Thread>,
    slices: VecDeque<Slice>,
    finished: VecDeque<Finished>,
    careful: Option<Rc<Vec<Record>>>,
    /// The offset to be fetched next, by partition.
    fetch: BTreeMap<i32, i64>,
    /// As what the group knows this process, or once knew it.
    pub member: MemberId,
    /// The generation of the group that it last heard of.
    generation: u64,
    /// Where it commits in transactions.
    committer: Option<Committer>,
    /// Produced and not acknowledged.
    pub on_the_way: Vec<OnTheWay>,
    acknowledged: Vec<usize>,
    /// Asked to be committed and not answered.
    pub commits: VecDeque<(MemberId, Vec<Commit>)>,
    commit_has_failed: bool,
    /// It is not scheduled, for whatever reason; others may take it for dead.
    pub sleeps: bool,
    pub lost_sight: bool,
    now: Instant,
    committed_at: Instant,
    acknowledged_at: Instant,
    idle_since: Option<Instant>,
    waiting: Vec<Slice>,
    /// The way to the broker was found to be closed, and the data mover does not know why yet.
    failed: bool,
    way_closed: bool,
    /// The partition and the job for which it gives up, because that hangs.
    pub given_up_for: Option<(i32, u64)>,
    /// Partitions that got on, or had a commit refused, since this process took them over.
    helped: BTreeSet<i32>,
    /// At which offset, and to be read how, partitions were taken over.
    taken_over: BTreeMap<i32, (i64, Reading)>,
}

impl WorkerProcess {
    /// A process that has joined the group as this member. `committer`: where it commits in
    /// transactions.
    pub fn start(
        number: u64,
        threads: usize,
        member: MemberId,
        committer: Option<Committer>,
        shared: &Shared,
    ) -> Self {
        let thread = |_| Thread {
            slice: None,
            current: None,
            outcomes: None,
            settles: Vec::new(),
            failed: RetryQueue::default(),
            hangs: None,
            seen_since: None,
            is_flagged: false,
        };
        let now = shared.now();
        Self {
            number,
            name: Worker {
                host: "host".to_owned(),
                id: format!("worker-{number}"),
            },
            desk: match committer {
                Some(_) => Desk::with_transactions(),
                None => Desk::new(),
            },
            leases: Leases::new(),
            ended: Vec::new(),
            apart: BTreeSet::new(),
            threads: (0..threads).map(thread).collect(),
            slices: VecDeque::new(),
            finished: VecDeque::new(),
            careful: None,
            fetch: BTreeMap::new(),
            member,
            generation: 0,
            committer,
            on_the_way: Vec::new(),
            acknowledged: Vec::new(),
            commits: VecDeque::new(),
            commit_has_failed: false,
            sleeps: false,
            lost_sight: false,
            now,
            committed_at: now,
            acknowledged_at: now,
            idle_since: None,
            waiting: Vec::new(),
            failed: false,
            way_closed: false,
            given_up_for: None,
            helped: BTreeSet::new(),
            taken_over: BTreeMap::new(),
        }
    }

    /// Whether nothing is in hand or on its way.
    pub fn is_at_rest(&self) -> bool {
        self.desk.is_clear()
            && self.finished.is_empty()
            && self.commits.is_empty()
            && self.threads.iter().all(|thread| thread.failed.is_empty())
    }

    /// How many compute threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Whether a step of a compute thread would do something.
    pub fn can_compute(&self, thread: usize) -> bool {
        let own = &self.threads[thread];
        own.hangs.is_none()
            && (own.slice.is_some() || !own.failed.is_empty() || !self.slices.is_empty())
    }

    /// Whether a step of the thread that commits transactions would do something.
    pub fn can_transact(&self) -> bool {
        self.committer.as_ref().is_some_and(Committer::can_go_on)
    }

    // The data mover.

    /// One round of the data mover.
    pub fn move_data(&mut self, shared: &mut Shared) -> Flow<()> {
        if !self.serve(shared)? {
            return Ok(());
        }
        self.offer_waiting(shared);
        self.look_for_hanging(shared)?;
        if self.desk.unconfirmed_bytes() >= MAX_UNCONFIRMED_BYTES {
            return Ok(());
        }
        if self.waiting.is_empty() {
            self.take(shared)?;
        } else {
            self.wait_for_finished(shared);
        }
        Ok(())
    }

    fn look_for_hanging(&mut self, shared: &mut Shared) -> Flow<()> {
        let mut found = None;
        for thread in &mut self.threads {
            let Some((partition, _)) = thread.hangs else {
                continue;
            };
            match thread.seen_since {
                None => thread.seen_since = Some(self.now),
                Some(since) if self.now - since >= JOB_TIMEOUT => {
                    thread.is_flagged = true;
                    found = found.or(Some(partition));
                }
                Some(_) => {}
            }
        }
        let Some(partition) = found else {
            return Ok(());
        };
        self.desk.hangs(partition);
        let mut hangs = self.threads.iter().filter_map(|thread| thread.hangs);
        self.given_up_for = hangs.find(|(own, _)| *own == partition);
        shared.saw(Seen::HangGivenUp);
        Err(Stop::GivesUp)
    }

    fn wait_for_finished(&mut self, shared: &Shared) {
        if let Some(finished) = self.finished.pop_front() {
            self.take_in(finished, shared);
        }
    }

    /// Everything but taking new work; false while a partition that comes is waited for.
    fn serve(&mut self, shared: &mut Shared) -> Flow<bool> {
        self.now += match shared.rng.below(8) {
            0 => Duration::from_secs(10),
            1 | 2 => COMMIT_INTERVAL,
            _ => Duration::from_millis(1),
        };
        if !self.poll(shared)? {
            return Ok(false);
        }
        self.take_in_all(shared);
        self.send(shared)?;
        let is_time =
            self.desk.in_hand() == 0 || self.now - self.committed_at >= COMMIT_INTERVAL;
        if !is_time {
            return Ok(true);
        }
        if self.committer.is_some() {
            if self.begin_transaction(shared) {
                self.committed_at = self.now;
            }
            return Ok(true);
        }
        // Marks that must be there before the next message are committed by whoever takes that.
        if self.desk.alone().is_none() && !self.desk.marks_are_due() {
            let commits = self.desk.commits();
            if !commits.is_empty() {
                self.commits.push_back((self.member, commits));
                self.committed_at = self.now;
            }
        }
        Ok(true)
    }

    /// Sends what may be sent and hears what became of what was sent before.
    fn send(&mut self, shared: &mut Shared) -> Flow<()> {
        if std::mem::take(&mut self.failed) {
            return Err(Stop::GivesUp);
        }
        if self.committer.is_none() {
            self.produce(shared);
            self.hear_deliveries(shared)?;
            self.produce(shared);
        }
        self.hear_end(Duration::ZERO, shared)
    }

    /// Hears of the group; false while a transaction holds the offset of a partition that comes.
    fn poll(&mut self, shared: &mut Shared) -> Flow<bool> {
        if std::mem::take(&mut self.commit_has_failed) {
            self.desk.commit_failed();
        }
        if !shared.broker.group.knows(self.member) {
            shared.tell(|| format!("{} was taken for dead, and joins again", self.name.id));
            shared.saw(Seen::ZombieBack);
            let all: Vec<_> = self.leases.keys().copied().collect();
            self.forget(&all);
            self.member = shared.broker.group.join();
        }
        self.generation = shared.broker.group.generation();
        while let Some(mail) = shared.broker.group.next_mail(self.member) {
            if let Mail::Assign(partition) = *mail
                && shared.broker.has_pending_offset(partition)
                && shared.mutation != Some(Mutation::UndecidedOffsetsRead)
            {
                shared.saw(Seen::OffsetHeld);
                return Ok(false);
            }
            let Some(mail) = shared.broker.group.mail(self.member) else {
                break;
            };
            match mail {
                Mail::Assign(partition) => self.assigned(partition, shared)?,
                Mail::Revoke(partition) => self.revoked(&[partition], shared)?,
            }
        }
        Ok(true)
    }

    fn assigned(&mut self, partition: i32, shared: &mut Shared) -> Flow<()> {
        let log = &shared.broker.jobs[partition as usize];
        let committed = shared.broker.group.committed(partition);
        let (offset, metadata) = committed.cloned().unwrap_or((log.start(), String::new()));
        let end = (!metadata.is_empty()).then_some(log.end());
        if committed.is_none() {
            // What retention took before anybody committed is passed over; reconciliation misses it.
            shared.oracle.begins_at(partition, offset);
        }
        let metadata = match shared.mutation {
            Some(Mutation::DeathsNotCounted) => forget_deaths(&metadata),
            _ => metadata,
        };
        let start = Start {
            partition,
            offset,
            metadata,
            end,
        };
        let epoch = self.desk.assigned(std::slice::from_ref(&start))[0];
        let reading = self.desk.reading(partition).unwrap_or(Reading::Freely);
        let told = || {
            let name = &self.name.id;
            format!(
                "{name} gets partition {partition} at {offset} '{}': {reading:?}",
                start.metadata
            )
        };
        shared.tell(told);
        shared.note(told);
        shared.oracle.read_like(partition, reading)?;
        match reading {
            Reading::Freely => {}
            Reading::Narrowly => shared.saw(Seen::Narrow),
            Reading::Warily => shared.saw(Seen::Wary),
            Reading::Carefully => shared.saw(Seen::Careful),
        }
        if reading > Reading::Freely {
            self.apart.insert(partition);
        }
        let lease = Lease {
            epoch,
            ended: Cell::new(false),
        };
        self.leases.insert(partition, Rc::new(lease));
        self.fetch.insert(partition, offset);
        self.helped.remove(&partition);
        self.taken_over.insert(partition, (offset, reading));
        let commits = self.desk.first_commits(&[partition]);
        self.commit_and_wait(commits, shared)?;
        Ok(())
    }

    fn revoked(&mut self, partitions: &[i32], shared: &mut Shared) -> Flow<()> {
        shared.saw(Seen::Revoked);
        self.take_in_all(shared);
        self.drain(REVOKE_TIMEOUT, shared)?;
        let commits = self.desk.release(partitions);
        let committed = if self.committer.is_some() {
            self.commit_all(REVOKE_TIMEOUT, shared)?;
            if self.desk.is_under_way() {
                shared.saw(Seen::RevokedInTransaction);
            }
            let settled = self.desk.is_settled() && !self.way_closed;
            self.forget(partitions);
            settled
        } else {
            self.forget(partitions);
            self.commit_and_wait(commits, shared)?
        };
        for &partition in partitions {
            shared.tell(|| format!("{} gives partition {partition} back", self.name.id));
            if committed {
                shared.oracle.given_back(partition);
                if self.given_up_for.is_some_and(|(own, _)| own == partition) {
                    shared.oracle.hangs(partition);
                }
            } else if let Some((_, metadata)) = shared.broker.group.committed(partition).cloned() {
                // For whoever comes next, that is a death.
                let cause = self.given_up_for.filter(|(own, _)| *own == partition);
                let cause = cause.map(|(_, index)| index);
                let member = self.member;
                shared
                    .oracle
                    .owner_lost(member, partition, &metadata, cause)?;
                // It is counted once, also where this very member gets the partition again.
                shared.oracle.given_back(partition);
            }
            shared.broker.group.given_back(self.member, partition);
        }
        Ok(())
    }

    fn forget(&mut self, partitions: &[i32]) {
        self.desk.forget(partitions);
        for partition in partitions {
            self.apart.remove(partition);
            self.fetch.remove(partition);
            if let Some(lease) = self.leases.remove(partition) {
                lease.ended.set(true);
                self.ended.push(Rc::downgrade(&lease));
            }
        }
        self.look_for_stale_work();
    }

    fn look_for_stale_work(&mut self) {
        self.ended.retain(|lease| lease.strong_count() > 0);
        self.desk.set_stale_work(!self.ended.is_empty());
    }

    fn take_in_all(&mut self, shared: &Shared) {
        while self.committer.is_some() || self.desk.unconfirmed_bytes() < MAX_UNCONFIRMED_BYTES {
            let Some(finished) = self.finished.pop_front() else {
                break;
            };
            self.take_in(finished, shared);
        }
    }

    fn take_in(&mut self, finished: Finished, _: &Shared) {
        self.desk.finish(finished);
    }

    fn produce(&mut self, shared: &mut Shared) {
        while let Some((id, destination)) = self.desk.outbox().next() {
            if shared.fault(1, 60) {
                shared.saw(Seen::QueueFull);
                break;
            }
            let outbox = self.desk.outbox();
            let (place, payload) = match destination {
                Destination::Outcomes => {
                    let partition = shared.rng.below(shared.broker.outcomes.len());
                    let outcomes = outbox.outcomes(id).unwrap_or_default();
                    ((partition as i32, 0), Payload::from(outcomes))
                }
                Destination::Dlq => match outbox.dead_letter(id) {
                    Some(letter) => {
                        let payload = Payload::from(letter.payload.as_slice());
                        ((letter.partition, letter.offset), payload)
                    }
                    None => ((0, 0), Payload::from([])),
                },
            };
            let is_whole = self.desk.outbox().outcomes(id).is_none();
            shared.note(|| {
                let name = &self.name.id;
                format!("{name} produces {id} to {destination:?} {place:?} {is_whole} {payload:?}")
            });
            self.on_the_way.push(OnTheWay {
                id,
                destination,
                place,
                is_whole,
                payload,
            });
            self.desk.produced();
        }
    }

    /// The broker has taken a message; the acknowledgement may get lost, and the message then comes
    /// twice.
    pub fn deliver(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        self.on_the_way[number].arrive(shared)?;
        if shared.fault(1, 8) {
            shared.saw(Seen::ProducedTwice);
            return Ok(());
        }
        let message = self.on_the_way.swap_remove(number);
        self.acknowledged.push(message.id);
        Ok(())
    }

    fn hear_deliveries(&mut self, shared: &mut Shared) -> Flow<()> {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        if !acknowledged.is_empty() || self.on_the_way.is_empty() {
            self.acknowledged_at = self.now;
        } else if self.now - self.acknowledged_at >= ACKNOWLEDGE_TIMEOUT {
            shared.saw(Seen::NotAcknowledged);
            return Err(Stop::GivesUp);
        }
        for id in acknowledged {
            self.desk.acknowledged(id);
        }
        Ok(())
    }

    /// Produces and waits for acknowledgements, as long as patience goes.
    fn drain(&mut self, timeout: Duration, shared: &mut Shared) -> Flow<()> {
        let until = self.now + timeout;
        while !self.failed && !self.desk.outbox().is_empty() && self.now < until {
            match self.send(shared) {
                Ok(()) => {}
                Err(Stop::GivesUp) => {
                    self.failed = true;
                    return Ok(());
                }
                Err(stop) => return Err(stop),
            }
            if shared.rng.chance(1, 8) {
                self.now += TOO_LONG;
            } else if !self.on_the_way.is_empty() && !self.lost_sight {
                let number = shared.rng.below(self.on_the_way.len());
                self.deliver(number, shared)?;
            }
        }
        Ok(())
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
    fn commit_and_wait(&mut self, commits: Vec<Commit>, shared: &mut Shared) -> Flow<bool> {
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
        let committed = self.commit(self.member, &commits, shared)?;
        if committed {
            self.desk.committed(&commits);
        } else {
            self.desk.commit_failed();
        }
        if shared.fault(1, 40) {
            shared.saw(Seen::KilledInCommit);
            return Err(Stop::Dies(None));
        }
        Ok(committed)
    }

    fn commit_now(&mut self, shared: &mut Shared) -> Flow<bool> {
        if self.committer.is_some() {
            self.commit_all(COMMIT_TIMEOUT, shared)?;
            if std::mem::take(&mut self.failed) {
                return Err(Stop::GivesUp);
            }
            return Ok(self.desk.is_settled());
        }
        let commits = self.desk.commits_to_wait_for();
        if !commits.is_empty() {
            self.committed_at = self.now;
        }
        self.commit_and_wait(commits, shared)
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
    fn keep(&mut self, member: MemberId, commit: &Commit, shared: &mut Shared) -> Flow<()> {
        let partition = commit.partition;
        let taken_over = self.taken_over.get(&partition).copied();
        if taken_over.is_some_and(|(offset, _)| offset < commit.offset) {
            self.helped.insert(partition);
        }
        let told = || {
            let Commit {
                partition,
                offset,
                metadata,
            } = commit;
            let name = &self.name.id;
            format!("{name} commits {partition} at {offset} '{metadata}'")
        };
        shared.tell(told);
        shared.note(told);
        let reading = taken_over.map(|(_, reading)| reading);
        shared.oracle.committed(member, commit, reading)?;
        if self.given_up_for.is_some_and(|(own, _)| own == partition) {
            shared.oracle.hangs(partition);
        }
        shared.broker.group.keep(commit);
        Ok(())
    }

    fn mutated(&self, commit: Commit, _: &Shared) -> Commit {
        commit
    }

    #[cfg(any())]
    fn unused(&self, mut commit: Commit, shared: &Shared) -> Commit {
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

    /// Whether a death of this process by a job of a partition is one that the protocol must count:
    /// nothing got on, and no commit was refused.
    pub fn is_plain_death(&self, partition: i32) -> bool {
        !self.helped.contains(&partition)
    }

    // Taking messages.

    fn take(&mut self, shared: &mut Shared) -> Flow<()> {
        self.look_for_stale_work();
        if let Some(partition) = self.desk.alone() {
            return self.take_alone(partition, shared);
        }
        self.idle_since = None;
        let (marks_are_due, is_clear) = (self.desk.marks_are_due(), self.desk.is_clear());
        if marks_are_due && !self.commit_now(shared)? {
            return Ok(());
        }
        let mut records = Vec::new();
        for partition in self.apart.clone() {
            if self.desk.reading(partition) == Some(Reading::Freely) {
                self.apart.remove(&partition);
            } else {
                let room = self.desk.room(partition).min(1 + shared.rng.below(7));
                self.consume(partition, room, &mut records, shared)?;
            }
        }
        let others = self.fetch.keys().copied();
        let others: Vec<_> = others
            .filter(|partition| !self.apart.contains(partition))
            .collect();
        if is_clear && records.is_empty() {
            for &partition in &others {
                if records.is_empty() && shared.rng.chance(5, 6) {
                    self.consume(partition, 1, &mut records, shared)?;
                }
            }
            if records.is_empty() {
                return Ok(());
            }
        }
        for partition in others {
            let at_most = shared.rng.below(6);
            self.consume(partition, at_most, &mut records, shared)?;
        }
        self.hand_out(records, None, shared);
        Ok(())
    }

    fn consume(
        &mut self,
        partition: i32,
        at_most: usize,
        records: &mut Vec<Record>,
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
            records.push(Record {
                partition,
                offset: *next,
                payload: Rc::clone(payload),
            });
            *next += 1;
        }
        Ok(())
    }

    fn take_alone(&mut self, partition: i32, shared: &mut Shared) -> Flow<()> {
        if self.desk.is_careful() {
            return self.work_carefully(partition, shared);
        }
        if self.desk.room(partition) == 0 {
            self.wait_for_finished(shared);
            return Ok(());
        }
        let careful = self.desk.reading(partition) == Some(Reading::Carefully);
        let suspect = careful.then(|| self.desk.suspect_first(partition));
        if !self.commit_now(shared)? {
            return Ok(());
        }
        let mut records = Vec::new();
        let at_most = 1.min(1 + shared.rng.below(7));
        self.consume(partition, at_most, &mut records, shared)?;
        let Some(record) = records.first() else {
            let since = *self.idle_since.get_or_insert(self.now);
            if self.now - since >= IDLE_TIMEOUT {
                self.idle_since = None;
                self.desk.nothing_comes(partition);
            }
            return Ok(());
        };
        self.idle_since = None;
        let Some(suspect) = suspect else {
            self.hand_out(records, None, shared);
            return Ok(());
        };
        let batch = (!suspect.message_is_to_be_buried()).then(|| JobBatch::decode(&record.payload));
        let Some(Ok(batch)) = batch else {
            self.hand_out(records, Some(suspect), shared);
            return Ok(());
        };
        let jobs = batch.jobs_count();
        self.desk.take(partition, record.offset);
        self.desk.begin_carefully(partition, record.offset, jobs);
        self.careful = Some(Rc::new(records));
        Ok(())
    }

    fn work_carefully(&mut self, partition: i32, shared: &mut Shared) -> Flow<()> {
        let next = self.desk.next_carefully();
        let (Some(job), Some(records)) = (next, self.careful.clone()) else {
            self.wait_for_finished(shared);
            return Ok(());
        };
        if !self.commit_now(shared)? {
            return Ok(());
        }
        let Some(lease) = self.leases.get(&partition).map(Rc::clone) else {
            return Ok(());
        };
        self.desk.begun(job.position);
        self.waiting.push(Slice {
            next: 0,
            end: records.len(),
            records,
            leases: Rc::new(Leases::from([(partition, lease)])),
            job: Some(job),
        });
        self.offer_waiting(shared);
        Ok(())
    }

    fn hand_out(&mut self, records: Vec<Record>, job: Option<CarefulJob>, shared: &mut Shared) {
        if records.is_empty() {
            return;
        }
        let mut leases = Leases::new();
        for record in &records {
            if self.desk.take(record.partition, record.offset).is_some()
                && let Some(lease) = self.leases.get(&record.partition)
            {
                leases
                    .entry(record.partition)
                    .or_insert_with(|| Rc::clone(lease));
            }
        }
        let leases = Rc::new(leases);
        let records = Rc::new(records);
        let share = records.len().div_ceil(self.threads.len()).max(1);
        for start in (0..records.len()).step_by(share) {
            self.waiting.push(Slice {
                records: Rc::clone(&records),
                next: start,
                end: records.len().min(start + share),
                leases: Rc::clone(&leases),
                job,
            });
        }
        self.waiting.reverse();
        self.offer_waiting(shared);
    }

    fn offer_waiting(&mut self, shared: &mut Shared) {
        while let Some(slice) = self.waiting.pop() {
            if self.slices.len() >= 2 * self.threads.len() {
                self.waiting.push(slice);
                return;
            }
            let job = slice.job.map(|job| worker::state::in_flight::IsolatedJob {
                position: job.position,
                deaths: job.deaths,
            });
            let told = || {
                let records = slice.records[slice.next..slice.end].iter();
                let places: Vec<_> = records.map(|own| (own.partition, own.offset)).collect();
                format!("{} takes {places:?} {job:?}", self.name.id)
            };
            shared.tell(told);
            shared.note(told);
            self.slices.push_back(slice);
        }
    }

    /// The order of winding down: the threads finish what they are at, it is produced and
    /// acknowledged, leaving the group commits it.
    pub fn wind_down(&mut self, shared: &mut Shared) -> Flow<()> {
        self.waiting.clear();
        let until = self.now + JOBS_TIMEOUT;
        for number in 0..self.threads.len() {
            // How much of what they have the threads still do depends on who asked.
            while self.can_compute(number) && shared.rng.chance(3, 4) {
                self.compute(number, shared)?;
            }
            let thread = &mut self.threads[number];
            if let Some(mut current) = thread.current.take() {
                settle(&mut thread.settles, &mut current.settles);
            }
            if thread.hangs.is_none() {
                self.hand_on(number);
            }
        }
        let is_busy = |thread: &Thread| thread.hangs.is_some() && !thread.is_flagged;
        while self.threads.iter().any(is_busy) && self.now < until {
            match self.serve(shared) {
                Ok(true) => {}
                // The group does not answer in time, or the way is closed.
                Ok(false) | Err(Stop::GivesUp) => break,
                Err(stop) => return Err(stop),
            }
            self.wait_for_finished(shared);
        }
        self.take_in_all(shared);
        self.drain(LEAVE_TIMEOUT, shared)?;
        self.commit_all(LEAVE_TIMEOUT, shared)?;
        let all: Vec<_> = self.leases.keys().copied().collect();
        if shared.broker.group.knows(self.member) {
            self.revoked(&all, shared)?;
        }
        Ok(())
    }
}

fn forget_deaths(metadata: &str) -> String {
    let words = metadata.split(' ');
    let words = words.map(|word| match word.split_once('=') {
        Some(("deaths", _)) => "deaths=0",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}
