//! A model of the broker: topics as lists of records, and the workers' group with its members, its
//! committed offsets and their metadata. It keeps the rules that the protocol leans on (a commit of
//! who is no longer the owner is refused, offsets never change, what a transaction holds is not read
//! before that is decided) and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use pipeline::offsets::Commit;

use crate::rng::Rng;
use crate::transactions::{State, Transaction};

/// The value of a record.
pub type Payload = Rc<[u8]>;

/// A record, or the marker at which a transaction ends.
#[derive(Debug)]
struct Record {
    /// `None` for a marker.
    payload: Option<Payload>,
    transaction: Option<Rc<Transaction>>,
}

/// One partition of a topic.
#[derive(Debug, Default)]
pub struct Log {
    start: i64,
    records: VecDeque<Record>,
}

impl Log {
    /// The offset of the first record that is kept.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// The offset after the last record.
    pub fn end(&self) -> i64 {
        self.start + self.records.len() as i64
    }

    /// Adds a record and returns its offset.
    pub fn append(&mut self, payload: Payload) -> i64 {
        self.add(Some(payload), None)
    }

    /// Adds a record of a transaction and returns its offset.
    pub fn append_in(&mut self, transaction: &Rc<Transaction>, payload: Payload) -> i64 {
        self.add(Some(payload), Some(Rc::clone(transaction)))
    }

    /// Adds the marker at which a transaction ends.
    pub fn append_marker(&mut self) {
        self.add(None, None);
    }

    fn add(&mut self, payload: Option<Payload>, transaction: Option<Rc<Transaction>>) -> i64 {
        self.records.push_back(Record {
            payload,
            transaction,
        });
        self.end() - 1
    }

    fn record(&self, offset: i64) -> Option<&Record> {
        let position = usize::try_from(offset - self.start).ok()?;
        self.records.get(position)
    }

    /// The record at an offset, if it is kept, whoever wrote it.
    pub fn at(&self, offset: i64) -> Option<&Payload> {
        self.record(offset)?.payload.as_ref()
    }

    /// What a reader of committed records finds at an offset: `None` where there is nothing to be
    /// read yet, `Some(None)` where it passes over a marker or an aborted record. A reader that comes
    /// to an undecided record goes no further, so it never gets beyond the last stable offset.
    pub fn read(&self, offset: i64) -> Option<Option<&Payload>> {
        let record = self.record(offset)?;
        match record.transaction.as_ref().map(|own| own.state()) {
            Some(State::Open) => None,
            Some(State::Aborted) => Some(None),
            Some(State::Committed) | None => Some(record.payload.as_ref()),
        }
    }

    /// Whether a reader of committed records is held up at an offset.
    pub fn holds(&self, offset: i64) -> bool {
        self.record(offset).is_some() && self.read(offset).is_none()
    }

    /// Retention takes everything before an offset.
    pub fn eat(&mut self, before: i64) {
        while self.start < before && self.records.pop_front().is_some() {
            self.start += 1;
        }
    }
}

/// The offset of the first record of each partition that is kept.
pub fn starts(logs: &[Log]) -> Vec<i64> {
    logs.iter().map(Log::start).collect()
}

/// The offset after the last record of each partition.
pub fn ends(logs: &[Log]) -> Vec<i64> {
    logs.iter().map(Log::end).collect()
}

/// Names a member of the group; never used twice.
pub type MemberId = u64;

/// What a member hears when it polls.
#[derive(Clone, Debug)]
pub enum Mail {
    /// A partition is its own from now on.
    Assign(i32),
    /// A partition is wanted back.
    Revoke(i32),
}

/// The workers' group.
#[derive(Debug, Default)]
pub struct Group {
    last_member: MemberId,
    members: BTreeMap<MemberId, VecDeque<Mail>>,
    owners: Vec<Option<MemberId>>,
    asked_back: BTreeSet<i32>,
    /// Counts the changes of who is a member and who has what.
    generation: u64,
    committed: Vec<Option<(i64, String)>>,
}

impl Group {
    fn new(partitions: usize) -> Self {
        Self {
            owners: vec![None; partitions],
            committed: vec![None; partitions],
            ..Self::default()
        }
    }

    /// A new member.
    pub fn join(&mut self) -> MemberId {
        self.last_member += 1;
        self.generation += 1;
        self.members.insert(self.last_member, VecDeque::new());
        self.last_member
    }

    /// A static member that comes back under its lasting name: it has its partitions at once, and
    /// whoever had the name before is fenced.
    pub fn come_back(&mut self, before: MemberId) -> MemberId {
        let own = self.join();
        for partition in self.owned(before) {
            self.owners[partition as usize] = Some(own);
            self.asked_back.remove(&partition);
            self.send(own, Mail::Assign(partition));
        }
        self.members.remove(&before);
        own
    }

    /// A member has left, or its session has run out.
    pub fn drop_member(&mut self, member: MemberId) {
        for partition in self.owned(member) {
            self.owners[partition as usize] = None;
            self.asked_back.remove(&partition);
        }
        self.members.remove(&member);
        self.generation += 1;
    }

    /// The present generation, as a member hears of it when it polls.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a member may commit offsets in a transaction: those of a generation that is over are
    /// refused (KIP-447).
    pub fn accepts_generation(&self, member: MemberId, generation: u64) -> bool {
        self.knows(member) && self.generation == generation
    }

    /// Whether the group knows a member.
    pub fn knows(&self, member: MemberId) -> bool {
        self.members.contains_key(&member)
    }

    /// The partitions of a member.
    pub fn owned(&self, member: MemberId) -> Vec<i32> {
        let owners = (0..).zip(&self.owners);
        owners
            .filter(|(_, owner)| **owner == Some(member))
            .map(|(partition, _)| partition)
            .collect()
    }

    /// Whether a partition could be given to somebody.
    pub fn has_unowned(&self) -> bool {
        !self.members.is_empty() && self.owners.contains(&None)
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Gives the partitions that nobody has to members.
    pub fn balance(&mut self, rng: &mut Rng) {
        let members: Vec<_> = self.members.keys().copied().collect();
        if members.is_empty() {
            return;
        }
        for partition in 0..self.owners.len() {
            if self.owners[partition].is_none() {
                let member = members[rng.below(members.len())];
                self.owners[partition] = Some(member);
                self.generation += 1;
                self.send(member, Mail::Assign(partition as i32));
            }
        }
    }

    /// Wants a partition back from its owner.
    pub fn ask_back(&mut self, partition: i32) {
        if let Some(owner) = self.owners[partition as usize]
            && self.asked_back.insert(partition)
        {
            self.send(owner, Mail::Revoke(partition));
        }
    }

    /// A member has given a partition back.
    pub fn given_back(&mut self, member: MemberId, partition: i32) {
        if self.owners[partition as usize] == Some(member) {
            self.owners[partition as usize] = None;
        }
        self.asked_back.remove(&partition);
    }

    fn send(&mut self, member: MemberId, mail: Mail) {
        if let Some(letters) = self.members.get_mut(&member) {
            letters.push_back(mail);
        }
    }

    /// What a member has not heard yet.
    pub fn mail(&mut self, member: MemberId) -> Option<Mail> {
        self.members.get_mut(&member)?.pop_front()
    }

    /// The same, left where it is.
    pub fn next_mail(&self, member: MemberId) -> Option<&Mail> {
        self.members.get(&member)?.front()
    }

    /// Whether a member may commit a partition.
    pub fn accepts(&self, member: MemberId, partition: i32) -> bool {
        self.knows(member) && self.owners[partition as usize] == Some(member)
    }

    /// Keeps a commit.
    pub fn keep(&mut self, commit: &Commit) {
        self.committed[commit.partition as usize] = Some((commit.offset, commit.metadata.clone()));
    }

    /// The partitions that nobody has.
    pub fn unowned(&self) -> Vec<i32> {
        let owners = (0..).zip(&self.owners);
        let unowned = owners.filter(|(_, owner)| owner.is_none());
        unowned.map(|(partition, _)| partition).collect()
    }

    /// Somebody resets a committed offset. A broker allows that while nobody is a member, so what
    /// members have under way is of a generation that is over.
    pub fn move_by_hand(&mut self, partition: i32, offset: i64) {
        self.generation += 1;
        self.committed[partition as usize] = Some((offset, String::new()));
    }

    /// The committed offset of a partition with its metadata.
    pub fn committed(&self, partition: i32) -> Option<&(i64, String)> {
        self.committed[partition as usize].as_ref()
    }

    /// The committed offsets, by partition; 0 where there is none.
    pub fn committed_offsets(&self) -> Vec<i64> {
        let committed = self.committed.iter();
        committed
            .map(|own| own.as_ref().map_or(0, |(offset, _)| *offset))
            .collect()
    }
}

/// A record of the runs topic: its key, and its value unless it is a tombstone.
pub type RunRecord = (String, Option<Vec<u8>>);

/// The broker.
#[derive(Debug)]
pub struct Broker {
    /// The jobs topic, by partition.
    pub jobs: Vec<Log>,
    /// The outcomes topic, by partition.
    pub outcomes: Vec<Log>,
    /// The dead-letter topic.
    pub dlq: Log,
    /// The runs topic: `None` where compaction took a record.
    pub runs: Vec<Option<RunRecord>>,
    /// The workers' group.
    pub group: Group,
    /// The transactions that are not decided.
    pub transactions: Vec<Rc<Transaction>>,
}

impl Broker {
    /// Empty topics with so many partitions.
    pub fn new(partitions: usize) -> Self {
        let logs = || (0..partitions).map(|_| Log::default()).collect();
        Self {
            jobs: logs(),
            outcomes: logs(),
            dlq: Log::default(),
            runs: Vec::new(),
            group: Group::new(partitions),
            transactions: Vec::new(),
        }
    }

    /// Partitions that nobody has, and of which retention took what was still to be worked on: the
    /// group has to be moved by hand to where they begin now.
    pub fn stuck(&self) -> Option<i32> {
        let unowned = self.group.unowned();
        unowned.into_iter().find(|&partition| {
            let start = self.jobs[partition as usize].start();
            !self.has_pending_offset(partition)
                && self
                    .group
                    .committed(partition)
                    .is_some_and(|&(offset, _)| offset < start)
        })
    }

    /// Leaves the last record of each key of the runs topic.
    pub fn compact_runs(&mut self) {
        let mut later = BTreeSet::new();
        for record in self.runs.iter_mut().rev() {
            if let Some((key, _)) = record
                && !later.insert(key.clone())
            {
                *record = None;
            }
        }
    }
}
