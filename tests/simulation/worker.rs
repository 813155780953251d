//! A worker process around the very [`Desk`] that the worker runs: the moves of its data mover and
//! of its compute threads, cut into steps between which anything may happen. What the real shell
//! does by threads, clock and sockets is imitated here line by line; what decides is not.

mod committing;
mod computing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use kafka::RecordBatch;
use pipeline::mark::Reading;
use pipeline::offsets::{Commit, Start};
use pipeline::{JobBatch, Worker};
use worker::desk::{CarefulJob, Desk};
use worker::executor::{Lease, Leases, WorkUnit};
use worker::outbox::{Destination, Finished};

use crate::broker::{Mail, MemberId, Payload};
use crate::history::Shared;
use crate::invariants::Violation;
use crate::mutants::Mutation;
use crate::seen::Seen;

pub use committing::Committer;
use computing::Thread;

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

#[derive(Clone, Debug)]
struct Record {
    partition: i32,
    offset: i64,
    payload: Payload,
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
    slices: VecDeque<WorkUnit>,
    finished: VecDeque<Finished>,
    careful: Option<Arc<RecordBatch>>,
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
    /// The partition and the job for which it gives up, because that hangs.
    pub given_up_for: Option<(i32, u64)>,
    /// Partitions that got on, or had a commit refused, since this process took them over.
    helped: BTreeSet<i32>,
    /// At which offset, and to be read how, partitions were taken over.
    taken_over: BTreeMap<i32, (i64, Reading)>,
}

impl WorkerProcess {
    /// A process that has joined the group as this member. `committer`: where it commits in
    /// transactions. `window`: how many jobs a compute thread has in flight.
    pub fn start(
        number: u64,
        threads: usize,
        member: MemberId,
        committer: Option<Committer>,
        window: usize,
        shared: &Shared,
    ) -> Self {
        let name = Worker {
            host: "host".to_owned(),
            id: format!("worker-{number}"),
        };
        let thread = |_| Thread::new(&name, window, committer.is_some(), shared);
        Self {
            number,
            desk: match committer {
                Some(_) => Desk::with_transactions(),
                None => Desk::new(),
            },
            leases: Leases::new(),
            ended: Vec::new(),
            apart: BTreeSet::new(),
            threads: (0..threads).map(thread).collect(),
            name,
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

    // The data mover.

    /// One round of the data mover.
    pub fn move_data(&mut self, shared: &mut Shared) -> Flow<()> {
        if !self.serve(shared)? {
            return Ok(());
        }
        if let Some((partition, index)) = self.threads.iter().find_map(|thread| thread.hangs)
            && shared.rng.chance(1, 4)
        {
            self.desk.hangs(partition);
            self.given_up_for = Some((partition, index));
            shared.saw(Seen::HangGivenUp);
            return Err(Stop::GivesUp);
        }
        if self.slices.len() <= 2 * self.threads.len() {
            self.take(shared)?;
        }
        Ok(())
    }

    /// Everything but taking new work; false while a partition that comes is waited for.
    fn serve(&mut self, shared: &mut Shared) -> Flow<bool> {
        if self.committer.as_ref().is_some_and(Committer::is_closed) {
            return Err(Stop::GivesUp);
        }
        if !self.poll(shared)? {
            return Ok(false);
        }
        self.take_in_all(shared);
        self.produce(shared);
        self.hear_deliveries();
        self.produce(shared);
        self.hear_end(shared);
        let is_time = self.desk.in_hand() == 0 || shared.rng.chance(1, 3);
        if self.committer.is_some() {
            if is_time {
                self.begin_transaction(shared);
            }
            return Ok(true);
        }
        // Marks that must be there before the next message are committed by whoever takes that.
        if is_time && self.desk.alone().is_none() && !self.desk.marks_are_due() {
            let commits = self.desk.commits();
            if shared.mutation == Some(Mutation::ConfirmedWhenAsked) {
                self.desk.committed(&commits);
            }
            if !commits.is_empty() {
                self.commits.push_back((self.member, commits));
            }
        }
        Ok(true)
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
        shared.tell(|| {
            let name = &self.name.id;
            format!(
                "{name} gets partition {partition} at {offset} '{}': {reading:?}",
                start.metadata
            )
        });
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
        self.leases.insert(partition, Arc::new(Lease::new(epoch)));
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
        self.drain(shared)?;
        let commits = self.desk.release(partitions);
        let committed = if self.committer.is_some() {
            self.commit_all(shared)?;
            if self.desk.is_under_way() {
                shared.saw(Seen::RevokedInTransaction);
            }
            let settled = self.desk.is_settled();
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
                lease.end();
                self.ended.push(Arc::downgrade(&lease));
            }
        }
        self.look_for_stale_work();
    }

    fn look_for_stale_work(&mut self) {
        self.ended.retain(|lease| lease.strong_count() > 0);
        self.desk.set_stale_work(!self.ended.is_empty());
    }

    fn take_in_all(&mut self, shared: &Shared) {
        while let Some(mut finished) = self.finished.pop_front() {
            let ignored = [
                Some(Mutation::EpochsIgnored),
                Some(Mutation::ResultOfRevokedUnitAccepted),
            ];
            if ignored.contains(&shared.mutation) {
                for settled in &mut finished.settles {
                    if let Some(lease) = self.leases.get(&settled.partition) {
                        settled.epoch = lease.epoch();
                    }
                }
            }
            if shared.mutation == Some(Mutation::BatchesDivided)
                && self.committer.is_some()
                && finished.settles.len() > 1
            {
                // What is told of the batch ends with its first message.
                let rest = Finished {
                    settles: finished.settles.split_off(1),
                    ..Finished::default()
                };
                self.desk.finish(finished);
                self.desk.finish(rest);
                continue;
            }
            self.desk.finish(finished);
        }
    }

    fn produce(&mut self, shared: &mut Shared) {
        while let Some((id, destination)) = self.desk.outbox().next() {
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
            let early = match (shared.mutation, destination) {
                (Some(Mutation::OutcomeBeforeDeadLetter), Destination::Dlq) => outbox.outcomes(id),
                _ => None,
            };
            if let Some(outcomes) = early {
                self.on_the_way.push(OnTheWay {
                    id: usize::MAX,
                    destination: Destination::Outcomes,
                    place: (0, 0),
                    is_whole: false,
                    payload: Payload::from(outcomes),
                });
            }
            self.on_the_way.push(OnTheWay {
                id,
                destination,
                place,
                is_whole: self.desk.outbox().outcomes(id).is_none(),
                payload,
            });
            self.desk.produced();
            if shared.mutation == Some(Mutation::SettledWhenProduced) {
                self.acknowledged.push(id);
            }
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

    fn hear_deliveries(&mut self) {
        for id in std::mem::take(&mut self.acknowledged) {
            self.desk.acknowledged(id);
        }
    }

    /// Produces and waits for acknowledgements, as long as patience goes.
    fn drain(&mut self, shared: &mut Shared) -> Flow<()> {
        loop {
            self.produce(shared);
            self.hear_deliveries();
            if self.on_the_way.is_empty() || shared.rng.chance(1, 8) {
                return Ok(());
            }
            let number = shared.rng.below(self.on_the_way.len());
            self.deliver(number, shared)?;
        }
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
            self.commit_all(shared)?;
            return Ok(self.desk.is_settled());
        }
        let commits = self.desk.commits_to_wait_for();
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
        shared.tell(|| {
            let Commit {
                partition,
                offset,
                metadata,
            } = commit;
            format!(
                "{} commits {partition} at {offset} '{metadata}'",
                self.name.id
            )
        });
        let reading = taken_over.map(|(_, reading)| reading);
        shared.oracle.committed(member, commit, reading)?;
        if self.given_up_for.is_some_and(|(own, _)| own == partition) {
            shared.oracle.hangs(partition);
        }
        shared.broker.group.keep(commit);
        Ok(())
    }

    fn mutated(&self, mut commit: Commit, shared: &Shared) -> Commit {
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
        if shared.mutation == Some(Mutation::StaleWorkIgnored) {
            self.desk.set_stale_work(false);
        }
        if let Some(partition) = self.desk.alone() {
            return self.take_alone(partition, shared);
        }
        if self.desk.marks_are_due() && !self.commit_now(shared)? {
            return Ok(());
        }
        let mut records = Vec::new();
        for partition in self.apart.clone() {
            if self.desk.reading(partition) == Some(Reading::Freely) {
                self.apart.remove(&partition);
            } else {
                let room = self.desk.room(partition).min(shared.rng.below(8));
                self.consume(partition, room, &mut records, shared)?;
            }
        }
        let others: Vec<_> = self.fetch.keys().copied().collect();
        for partition in others {
            if !self.apart.contains(&partition) {
                let at_most = shared.rng.below(6);
                self.consume(partition, at_most, &mut records, shared)?;
            }
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
            return Ok(());
        }
        let careful = self.desk.reading(partition) == Some(Reading::Carefully);
        let suspect = careful.then(|| self.desk.suspect_first(partition));
        if !self.commit_now(shared)? {
            return Ok(());
        }
        let mut records = Vec::new();
        self.consume(partition, 1, &mut records, shared)?;
        let Some(record) = records.first() else {
            if shared.rng.chance(1, 8) {
                self.desk.nothing_comes(partition);
            }
            return Ok(());
        };
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
        self.careful = Some(Arc::new(batch_of(&records)));
        Ok(())
    }

    fn work_carefully(&mut self, partition: i32, shared: &mut Shared) -> Flow<()> {
        let next = self.desk.next_carefully();
        let (Some(job), Some(records)) = (next, self.careful.clone()) else {
            return Ok(());
        };
        if !self.commit_now(shared)? {
            return Ok(());
        }
        let Some(lease) = self.leases.get(&partition).map(Arc::clone) else {
            return Ok(());
        };
        self.desk.begun(job.position);
        self.slices.push_back(WorkUnit {
            range: 0..records.len(),
            records,
            leases: Arc::new(Leases::from([(partition, lease)])),
            job: Some(job),
        });
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
                    .or_insert_with(|| Arc::clone(lease));
            }
        }
        shared.tell(|| {
            let places = records
                .iter()
                .map(|record| (record.partition, record.offset));
            let places: Vec<_> = places.collect();
            format!("{} takes {places:?}", self.name.id)
        });
        let leases = Arc::new(leases);
        let records = Arc::new(batch_of(&records));
        let share = records.len().div_ceil(self.threads.len()).max(1);
        for start in (0..records.len()).step_by(share) {
            self.slices.push_back(WorkUnit {
                records: Arc::clone(&records),
                range: start..records.len().min(start + share),
                leases: Arc::clone(&leases),
                job,
            });
        }
    }

    /// The order of winding down: the threads finish what they are at, it is produced and
    /// acknowledged, leaving the group commits it.
    pub fn wind_down(&mut self, shared: &mut Shared) -> Flow<()> {
        for number in 0..self.threads.len() {
            // How much of what they have the threads still do depends on who asked.
            while self.can_compute(number) && shared.rng.chance(3, 4) {
                self.compute(number, shared)?;
            }
            let finished = self.threads[number].stop(shared.now());
            self.finished.extend(finished);
        }
        self.take_in_all(shared);
        self.drain(shared)?;
        let all: Vec<_> = self.leases.keys().copied().collect();
        if shared.broker.group.knows(self.member) {
            self.revoked(&all, shared)?;
        }
        Ok(())
    }
}

fn batch_of(records: &[Record]) -> RecordBatch {
    let mut batch = RecordBatch::default();
    for record in records {
        batch.push(kafka::Record {
            partition: record.partition,
            offset: record.offset,
            key: None,
            payload: &record.payload,
        });
    }
    batch
}

fn forget_deaths(metadata: &str) -> String {
    let words = metadata.split(' ');
    let words = words.map(|word| match word.split_once('=') {
        Some(("deaths", _)) => "deaths=0",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}
