//! What must hold at every moment of a history, whoever dies, and at its end. The oracle knows the
//! data set by plainer means than the pipeline does, hears of everything that reaches the broker,
//! and looks at each commit, each outcome, each manifest and each judgement as it is made.

mod outcomes;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use computations::positivity::Tally;
use pipeline::mark::{MAX_DEATHS, MAX_DEATHS_OF_MESSAGE, Mark, Reading};
use pipeline::offsets::{Commit, NARROW_MESSAGES};
use pipeline::{IndexRanges, JobBatch, Manifest, ResultsPolicy};

use crate::broker::MemberId;
use outcomes::OutcomeSeen;
pub use verdicts::Judgement;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one, in a few words that stay the same.
    pub invariant: &'static str,
    /// Where and how.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// A violation as an error.
pub fn violated<T>(invariant: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation {
        invariant,
        what: what.into(),
    })
}

/// What becomes of a job that is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is counted.
    Healthy,
    /// Its data are broken: it fails however often it is tried.
    Broken,
    /// It fails until its cause is gone, which is when dead letters are replayed.
    Fails,
    /// It fails so often, and is counted then.
    FailsTimes(u32),
    /// It makes its worker die.
    Kills,
    /// It does that so often, and is counted then.
    KillsTimes(u32),
    /// It never ends.
    Hangs,
}

impl Fate {
    /// Whether the job is to be a dead letter, as long as the cause is there.
    pub fn is_poison(self) -> bool {
        matches!(self, Self::Broken | Self::Fails | Self::Kills | Self::Hangs)
    }
}

/// A job as the oracle knows it.
#[derive(Clone, Debug)]
pub struct ExpectedJob {
    /// Its label and its hour.
    pub key: (String, i32),
    /// What it counts.
    pub tally: Tally,
    /// The digest of its payload.
    pub payload_digest: u64,
    /// What becomes of it.
    pub fate: Fate,
}

/// What the oracle knows of a partition of the jobs topic.
#[derive(Debug, Default)]
struct Partition {
    /// The job indexes of each message; `None` for one that nobody can read.
    messages: Vec<Option<Vec<u64>>>,
    /// The generation of each.
    generations: Vec<u32>,
    /// Everything before this offset was found to have outcomes.
    checked: i64,
    /// The committed offset.
    committed: i64,
    /// Who has committed last.
    marked_by: Option<MemberId>,
    /// Owners lost with a held mark since the partition last got on freely.
    losses: u32,
    /// Up to which offset the losses before are remembered.
    remembered_until: i64,
}

impl Partition {
    /// The partition got on: what its jobs have cost before counts for nothing any more.
    fn forget_deaths(&self, deaths: &mut BTreeMap<u64, u32>, most: &mut BTreeMap<u64, u32>) {
        for index in self.messages.iter().flatten().flatten() {
            if let Some(deaths) = deaths.get_mut(index) {
                let most = most.entry(*index).or_default();
                *most = (*most).max(std::mem::take(deaths));
            }
        }
    }
}

/// Knows everything and decides nothing.
#[derive(Debug)]
pub struct Oracle {
    /// The jobs, by index.
    pub jobs: Vec<ExpectedJob>,
    /// Tests and positive ones by key, grouped without jobs.
    plain_series: BTreeMap<(String, i32), (u64, u64)>,
    partitions: Vec<Partition>,
    /// By partition and offset of the outcomes topic.
    outcomes: Vec<Vec<Vec<OutcomeSeen>>>,
    /// Which jobs each generation that was opened has opened again.
    reopened: Vec<(u32, IndexRanges)>,
    /// The end offsets of the verdicts that stand, by generation.
    ends: Vec<(u32, Vec<i64>)>,
    /// The results that these have counted, by index, each with the first generation that did.
    frozen: BTreeMap<u64, (u32, Vec<u8>)>,
    /// Retention took outcomes.
    pub are_outcomes_eaten: bool,
    /// The digests of payloads that were altered on the jobs topic, by index.
    altered: BTreeMap<u64, BTreeSet<u64>>,
    /// What becomes of results that differ.
    policy: ResultsPolicy,
    /// Results are random.
    pub is_random: bool,
    /// The highest generation that is cancelled.
    pub cancelled_up_to: Option<u32>,
    counted: Vec<bool>,
    dead: Vec<bool>,
    published: Vec<bool>,
    /// Workers commit in transactions, so that each message's jobs have one outcome.
    pub exactly_once: bool,
    /// Outcomes that a reader of committed ones sees, by index.
    visible: Vec<u32>,
    /// Messages on the jobs topic that can be read and have the job, by index.
    copies: Vec<u32>,
    /// Jobs of messages that no worker has to work on, because they were taken by retention or buried
    /// whole.
    passed_over: BTreeSet<u64>,
    in_dlq: BTreeSet<u64>,
    raw_in_dlq: BTreeSet<(i32, i64)>,
    /// Workers that a job has cost, by index.
    pub deaths: BTreeMap<u64, u32>,
    /// The same, as far as nothing else helped: no progress in that life, no failed commit.
    pub plain_deaths: BTreeMap<u64, u32>,
    /// The most of these in a row, without progress of a partition of the job between them.
    most_in_a_row: BTreeMap<u64, u32>,
    /// Workers lost by other causes while the mark named this job, by index.
    unlucky: BTreeMap<u64, u32>,
}

impl Oracle {
    /// An oracle for these jobs, made of these rows, as (label, hour, result).
    pub fn new(jobs: Vec<ExpectedJob>, rows: &[(String, i32, u8)], partitions: usize) -> Self {
        let mut plain_series: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for (label, hour, result) in rows {
            let group = plain_series.entry((label.clone(), *hour)).or_default();
            group.0 += 1;
            group.1 += u64::from(*result == 1);
        }
        let count = jobs.len();
        Self {
            jobs,
            plain_series,
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            outcomes: vec![Vec::new(); partitions],
            reopened: Vec::new(),
            ends: Vec::new(),
            frozen: BTreeMap::new(),
            are_outcomes_eaten: false,
            altered: BTreeMap::new(),
            policy: ResultsPolicy::default(),
            is_random: false,
            cancelled_up_to: None,
            counted: vec![false; count],
            dead: vec![false; count],
            published: vec![false; count],
            exactly_once: false,
            visible: vec![0; count],
            copies: vec![0; count],
            passed_over: BTreeSet::new(),
            in_dlq: BTreeSet::new(),
            raw_in_dlq: BTreeSet::new(),
            deaths: BTreeMap::new(),
            plain_deaths: BTreeMap::new(),
            most_in_a_row: BTreeMap::new(),
            unlucky: BTreeMap::new(),
        }
    }

    /// What becomes of results that differ, and whether they are random.
    #[must_use]
    pub fn of_results(self, policy: ResultsPolicy, is_random: bool) -> Self {
        Self {
            policy,
            is_random,
            ..self
        }
    }

    /// A message has reached the jobs topic; `spoiled`: nobody can read what is stored of it.
    pub fn job_published(&mut self, partition: usize, payload: &[u8], spoiled: bool) {
        let batch = JobBatch::decode(payload).ok();
        let generation = batch.as_ref().map_or(0, JobBatch::generation);
        let indexes = batch.map(|batch| {
            let first = batch.first_index();
            (first..first + u64::from(batch.jobs_count())).collect::<Vec<_>>()
        });
        for &index in indexes.iter().flatten() {
            self.published[index as usize] = true;
        }
        let indexes = indexes.filter(|_| !spoiled);
        for &index in indexes.iter().flatten() {
            self.copies[index as usize] += 1;
        }
        let own = &mut self.partitions[partition];
        own.messages.push(indexes);
        own.generations.push(generation);
    }

    /// A message has reached the dead-letter topic. `is_whole`: no outcome of its jobs is to follow.
    pub fn dead_letter(
        &mut self,
        source: (i32, i64),
        payload: &[u8],
        is_whole: bool,
    ) -> Result<(), Violation> {
        if !is_whole {
            if let Ok(batch) = JobBatch::decode(payload) {
                self.in_dlq.insert(batch.first_index());
            }
            return Ok(());
        }
        self.raw_in_dlq.insert(source);
        let (partition, offset) = source;
        let message = &self.partitions[partition as usize].messages[offset as usize];
        self.passed_over.extend(message.iter().flatten());
        let has_killed = |&index: &u64| self.blamed(index) >= MAX_DEATHS_OF_MESSAGE;
        match message {
            Some(indexes) if !indexes.iter().any(has_killed) => violated(
                "only messages that nobody can read are buried whole",
                format!("partition {partition} at {offset}: {indexes:?}"),
            ),
            _ => Ok(()),
        }
    }

    /// Workers that were lost by a job, or by something else while the mark named it.
    fn blamed(&self, index: u64) -> u32 {
        let of = |deaths: &BTreeMap<u64, u32>| deaths.get(&index).copied().unwrap_or(0);
        of(&self.deaths) + of(&self.unlucky)
    }

    /// A commit is kept by the broker.
    pub fn committed(
        &mut self,
        member: MemberId,
        commit: &Commit,
        reading: Option<Reading>,
    ) -> Result<(), Violation> {
        let own = &mut self.partitions[commit.partition as usize];
        let at = || format!("partition {} at {}", commit.partition, commit.offset);
        if commit.offset < own.committed {
            return violated(
                "a committed offset never moves back",
                format!("{}, from {}", at(), own.committed),
            );
        }
        while own.checked < commit.offset {
            let Some(message) = own.messages.get(own.checked as usize) else {
                return violated("no offset is committed beyond the end", at());
            };
            let has_outcome =
                |&index: &u64| self.counted[index as usize] || self.dead[index as usize];
            let done = self.raw_in_dlq.contains(&(commit.partition, own.checked))
                || message
                    .as_ref()
                    .is_some_and(|all| all.iter().all(has_outcome));
            let generation = own.generations[own.checked as usize];
            if Some(generation) <= self.cancelled_up_to {
                // Workers may pass over it.
                self.passed_over.extend(message.iter().flatten());
            } else if !done {
                return violated(
                    "committed offsets are behind acknowledged outcomes",
                    format!("{}: {message:?} at {}", at(), own.checked),
                );
            }
            own.checked += 1;
        }
        if commit.offset > own.committed {
            let forgotten = match reading {
                Some(Reading::Warily) => commit.offset >= own.remembered_until,
                _ => true,
            };
            if forgotten {
                own.losses = 0;
                own.forget_deaths(&mut self.plain_deaths, &mut self.most_in_a_row);
            }
        }
        own.committed = commit.offset;
        own.marked_by = Some(member);
        Ok(())
    }

    /// A partition has lost its owner, who did not give it back: by a job that killed or hung, or by
    /// something from outside.
    pub fn owner_lost(
        &mut self,
        member: MemberId,
        partition: i32,
        metadata: &str,
        cause: Option<u64>,
    ) -> Result<(), Violation> {
        let own = &mut self.partitions[partition as usize];
        // What an earlier owner wrote was counted when that was lost.
        if own.marked_by != Some(member) || !metadata.contains(" held") {
            return Ok(());
        }
        // Whoever comes next counts one death, however this owner ends after it was parted from it.
        own.marked_by = None;
        own.losses += 1;
        own.remembered_until = own.committed + NARROW_MESSAGES as i64;
        if !metadata.contains("position=") {
            return Ok(());
        }
        let position = Mark::parse(metadata).position() as usize;
        let message = own.messages.get(own.committed as usize);
        let Some(&blamed) = message
            .and_then(Option::as_ref)
            .and_then(|indexes| indexes.get(position))
        else {
            return Ok(());
        };
        match cause {
            Some(killer) if killer != blamed => violated(
                "a death is put down to the job that caused it",
                format!(
                    "job {killer} killed, and the mark of partition {partition} names {blamed}"
                ),
            ),
            Some(_) => Ok(()),
            None => {
                *self.unlucky.entry(blamed).or_default() += 1;
                Ok(())
            }
        }
    }

    /// A partition was assigned and is read like this.
    pub fn read_like(&self, partition: i32, reading: Reading) -> Result<(), Violation> {
        let losses = self.partitions[partition as usize].losses;
        if reading == Reading::Carefully && losses < MAX_DEATHS {
            return violated(
                "a partition on which work goes on is never read carefully",
                format!("partition {partition} after {losses} losses"),
            );
        }
        Ok(())
    }

    /// A message of a partition hangs: whoever comes next may read it carefully if it is read warily
    /// already, or else after one more loss.
    pub fn hangs(&mut self, partition: i32) {
        let own = &mut self.partitions[partition as usize];
        own.losses = own.losses.max(MAX_DEATHS);
        own.remembered_until = own.committed + NARROW_MESSAGES as i64;
    }

    /// Whether the mark of a partition that is given back in good order still says held.
    pub fn given_back(&mut self, partition: i32) {
        self.partitions[partition as usize].marked_by = None;
    }

    /// A dispatcher swears.
    pub fn manifest_told(&self, manifest: &Manifest) -> Result<(), Violation> {
        if manifest.jobs != self.jobs.len() as u64 {
            return violated("a manifest is true", format!("{} jobs", manifest.jobs));
        }
        match self.published.iter().position(|published| !published) {
            Some(index) => violated(
                "a manifest is told when every job is on the topic",
                format!("job {index} is not"),
            ),
            None => Ok(()),
        }
    }

    /// A job has cost a worker its life. `is_plain`: in a life without progress of its partition and
    /// without a refused commit.
    pub fn has_cost_a_worker(&mut self, index: u64, is_plain: bool) {
        *self.deaths.entry(index).or_default() += 1;
        *self.plain_deaths.entry(index).or_default() += u32::from(is_plain);
    }

    /// The partitions that a job was published to.
    pub fn partitions_of(&self, index: u64) -> Vec<i32> {
        let partitions = (0..).zip(&self.partitions);
        partitions
            .filter(|(_, own)| {
                own.messages
                    .iter()
                    .flatten()
                    .any(|own| own.contains(&index))
            })
            .map(|(partition, _)| partition)
            .collect()
    }

    /// The most workers that one copy of a job has cost in lives that were plain, and not more than
    /// this.
    pub fn most_plain_deaths(&self, bound: u32) -> Result<u32, Violation> {
        let mut most = 0;
        for (&index, &deaths) in self.plain_deaths.iter().chain(&self.most_in_a_row) {
            let messages = self.partitions.iter().flat_map(|own| &own.messages);
            let copies = messages
                .flatten()
                .filter(|indexes| indexes.contains(&index))
                .count() as u32;
            let each = deaths.div_ceil(copies.max(1));
            if each > bound {
                return violated(
                    "a job costs a bounded number of workers",
                    format!("job {index} has cost {deaths}, with {copies} copies"),
                );
            }
            most = most.max(each);
        }
        Ok(most)
    }

    /// A partition of which nothing was ever committed begins here.
    pub fn begins_at(&mut self, partition: i32, offset: i64) {
        self.pass_over(partition as usize, offset);
        let own = &mut self.partitions[partition as usize];
        own.checked = own.checked.max(offset);
    }

    fn pass_over(&mut self, partition: usize, before: i64) {
        let own = &self.partitions[partition];
        let passed = own.messages.iter().take(before as usize);
        let passed = passed.skip(own.committed as usize).flatten().flatten();
        self.passed_over.extend(passed);
    }

    /// Somebody has moved the group to where a partition begins now.
    pub fn moved_by_hand(&mut self, partition: usize, offset: i64) {
        self.pass_over(partition, offset);
        let own = &mut self.partitions[partition];
        own.checked = own.checked.max(offset);
        own.committed = offset;
        own.marked_by = None;
        own.losses = 0;
        own.forget_deaths(&mut self.plain_deaths, &mut self.most_in_a_row);
    }

    /// Everything has come to rest: who is dead is who must be.
    pub fn at_rest(&self) -> Result<(), Violation> {
        for (index, job) in self.jobs.iter().enumerate() {
            let (counted, dead) = (self.counted[index], self.dead[index]);
            if job.fate.is_poison() && !dead {
                return violated("every poison job is buried", format!("job {index}"));
            }
            let is_unlucky = self.blamed(index as u64) >= MAX_DEATHS;
            if !job.fate.is_poison() && !counted && !is_unlucky {
                return violated("every other job is counted", format!("job {index}"));
            }
        }
        Ok(())
    }

    /// Everything has come to rest: with transactions, each job has one committed outcome for each of
    /// its copies on the jobs topic.
    pub fn each_once(&self) -> Result<(), Violation> {
        if !self.exactly_once {
            return Ok(());
        }
        for (index, (&visible, &copies)) in self.visible.iter().zip(&self.copies).enumerate() {
            if visible != copies && !self.passed_over.contains(&(index as u64)) {
                return violated(
                    "every job has its committed outcome",
                    format!("job {index} has {visible}, with {copies} copies"),
                );
            }
        }
        Ok(())
    }

    /// Jobs that no cure helps.
    pub fn broken(&self) -> usize {
        let jobs = self.jobs.iter();
        jobs.filter(|job| job.fate == Fate::Broken).count()
    }

    /// Jobs whose last word is that they are dead.
    pub fn still_dead(&self) -> usize {
        let both = self.dead.iter().zip(&self.counted);
        both.filter(|(dead, counted)| **dead && !**counted).count()
    }
}
