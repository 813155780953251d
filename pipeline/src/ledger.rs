//! Which job indexes have which outcome. The ledger is plain data: the same outcomes in any order,
//! cut into any batches and said any number of times, make the same ledger.
//!
//! Outcomes are ordered: nothing < dead-lettered < counted. The ledger keeps the highest, so a dead
//! letter that is replayed and counted later leaves no trace. Which dead letters and which of several
//! results count is for [`counting`] to say.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use crate::digest::{JobSetDigest, JobSetHasher};
use crate::error::Conflict;
use crate::grain::TimeBucket;
use crate::group_key::{GroupKey, LabelSet};
use crate::outcome::{JobOutcome, Outcome, OutcomeBatch, Tally};
use crate::series::{Series, SeriesRow};

use counting::{CountingRules, Merge, Tier};
use lines::{Line, Lines, State};

pub mod counting;
mod lines;
#[cfg(test)]
mod tests;

/// So many contradictions are put into words; more are only counted. One message may hold a hundred
/// thousand of them, and each speaks of labels of many KiB.
const MAX_CONFLICTS: usize = 1_000;

/// So many characters are shown of labels and of reasons.
const SHOWN_CHARACTERS: usize = 200;

type LabelIds = std::collections::HashMap<LabelSet, u32, foldhash::fast::RandomState>;

/// Why a job is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadJob {
    /// The worker's words.
    pub reason: String,
    /// How often the job was tried.
    pub attempts: u32,
}

/// What recording a batch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Outcomes of jobs that had none.
    pub new: u64,
    /// Results that replaced a dead letter, or a result that does not count beside them.
    pub replaced: u64,
    /// Outcomes that said nothing new, and were dropped.
    pub duplicates: u64,
    /// Outcomes of jobs that the run does not have, and were dropped.
    pub beyond: u64,
    /// Outcomes that contradict what was said before, and were dropped.
    pub conflicts: u64,
    /// Dead letters of jobs that were opened again since, and were dropped.
    pub outdated: u64,
}

/// One outcome for each job of a run.
#[derive(Clone, Debug)]
pub struct Ledger {
    lines: Lines,
    label_sets: Vec<LabelSet>,
    label_ids: LabelIds,
    dead: BTreeMap<u64, DeadJob>,
    totals: Totals,
    rules: CountingRules,
}

/// Sums over the ledger, kept as it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs that were counted.
    pub counted: u64,
    /// Jobs that are dead letters.
    pub dead_lettered: u64,
    /// Rows in counted jobs.
    pub rows_counted: u64,
    /// Rows in dead-lettered jobs.
    pub rows_dead_lettered: u64,
    /// Tests in tallies.
    pub tests: u64,
    /// Positive tests in tallies.
    pub positive: u64,
    /// Jobs with several results that differ, which the run's policy allows.
    pub differing: u64,
}

impl Totals {
    fn add(&mut self, counted: &Line) {
        self.counted += 1;
        self.rows_counted += u64::from(counted.rows);
        self.tests += u64::from(counted.tally.tests);
        self.positive += u64::from(counted.tally.positive);
    }

    fn subtract(&mut self, counted: &Line) {
        self.counted -= 1;
        self.rows_counted -= u64::from(counted.rows);
        self.tests -= u64::from(counted.tally.tests);
        self.positive -= u64::from(counted.tally.positive);
    }
}

/// What a batch says of its outcomes, and what the ledger knows of one's labels.
#[derive(Clone, Copy)]
struct Said {
    tier: Tier,
    generation: u32,
    label_set: u32,
}

impl Said {
    /// The line of a job that has this outcome alone.
    fn line(&self, job: &JobOutcome<'_>) -> Line {
        let (state, tally) = match job.outcome {
            Outcome::Counted(tally) => (State::Counted, tally),
            Outcome::DeadLettered { .. } => (State::DeadLettered, Tally::default()),
        };
        Line {
            state,
            differs: false,
            tier: self.tier,
            label_set: self.label_set,
            time: job.key.time.hours(),
            part: job.part,
            rows: job.rows,
            tally,
        }
    }
}

impl Line {
    /// Whether key, part and rows are the same.
    fn is_of_same_job(&self, other: &Self) -> bool {
        (self.label_set, self.time, self.part, self.rows)
            == (other.label_set, other.time, other.part, other.rows)
    }
}

impl Ledger {
    /// The ledger of a run with so many jobs, none of which has an outcome. It takes memory for jobs
    /// that have one, and for their neighbours.
    pub fn new(jobs: u64) -> Self {
        Self::under(jobs, CountingRules::default())
    }

    /// The ledger of a run in which outcomes count by these rules.
    pub fn under(jobs: u64, rules: CountingRules) -> Self {
        Self {
            lines: Lines::new(jobs),
            label_sets: Vec::new(),
            label_ids: LabelIds::default(),
            dead: BTreeMap::new(),
            totals: Totals::default(),
            rules,
        }
    }

    /// The rules by which outcomes count.
    pub fn rules(&self) -> &CountingRules {
        &self.rules
    }

    /// How many jobs the run has.
    pub fn jobs(&self) -> u64 {
        self.lines.len()
    }

    /// How many jobs have no outcome yet.
    pub fn missing(&self) -> u64 {
        self.jobs() - self.totals.counted - self.totals.dead_lettered
    }

    /// Sums over all outcomes.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The jobs that are dead letters, by index.
    pub fn dead(&self) -> &BTreeMap<u64, DeadJob> {
        &self.dead
    }

    /// Records the outcomes of a batch that no earlier verdict covers. Contradictions are appended to
    /// `conflicts`, until that has 1,000 of them; the outcome that came first stays.
    pub fn record(&mut self, batch: &OutcomeBatch, conflicts: &mut Vec<Conflict>) -> Recorded {
        self.record_in(self.rules.last_tier(), batch, conflicts)
    }

    /// Records the outcomes of a batch of this tier, as [`record`](Self::record) does.
    pub fn record_in(
        &mut self,
        tier: Tier,
        batch: &OutcomeBatch,
        conflicts: &mut Vec<Conflict>,
    ) -> Recorded {
        let ids: Vec<u32> = batch
            .label_sets()
            .iter()
            .map(|labels| self.intern(labels))
            .collect();
        let mut recorded = Recorded::default();
        for outcome in batch.outcomes() {
            let of = Said {
                tier,
                generation: batch.generation(),
                label_set: ids[outcome.label_position],
            };
            self.record_one(&outcome, of, &mut recorded, conflicts);
        }
        recorded
    }

    fn intern(&mut self, labels: &LabelSet) -> u32 {
        if let Some(&id) = self.label_ids.get(labels) {
            return id;
        }
        // A label set costs more than a byte on the wire, so 4 billion of them never arrive.
        let id = self.label_sets.len() as u32;
        match self.label_ids.entry(labels.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                self.label_sets.push(labels.clone());
                *vacant.insert(id)
            }
        }
    }

    fn record_one(
        &mut self,
        job: &JobOutcome<'_>,
        of: Said,
        recorded: &mut Recorded,
        conflicts: &mut Vec<Conflict>,
    ) {
        let Some(line) = self.lines.get_mut(job.index) else {
            recorded.beyond += 1;
            return;
        };
        let said = of.line(job);
        let merge = match (line.state, said.state) {
            (State::Missing, _) => Merge::Replaced,
            _ if !line.is_of_same_job(&said) => Merge::Conflict,
            (State::Counted, State::Counted) if line.tally == said.tally => Merge::Same,
            (State::Counted, State::Counted) => self.rules.merge(
                (line.tier, line.tally.to_bytes()),
                (said.tier, said.tally.to_bytes()),
            ),
            _ => Merge::Replaced,
        };
        if merge == Merge::Conflict {
            recorded.conflicts += 1;
            let kept = *line;
            if conflicts.len() < MAX_CONFLICTS {
                conflicts.push(self.conflict(job, &kept));
            }
            return;
        }
        if let Outcome::DeadLettered { reason, attempts } = job.outcome {
            let is_outdated = of.generation < self.rules.reopened_in(job.index);
            match line.state {
                State::Missing if is_outdated => {
                    *line = Line {
                        state: State::Reopened,
                        ..said
                    };
                    recorded.outdated += 1;
                }
                _ if is_outdated => recorded.outdated += 1,
                State::DeadLettered | State::Counted => recorded.duplicates += 1,
                State::Missing | State::Reopened => {
                    recorded.new += 1;
                    *line = said;
                    self.totals.dead_lettered += 1;
                    self.totals.rows_dead_lettered += u64::from(job.rows);
                    let reason = reason.to_owned();
                    self.dead.insert(job.index, DeadJob { reason, attempts });
                }
            }
            return;
        }
        match line.state {
            State::Counted => {
                if merge == Merge::Same {
                    // As early as the earliest that says so.
                    line.tier = line.tier.min(said.tier);
                } else if !line.differs {
                    line.differs = true;
                    self.totals.differing += 1;
                }
                if merge != Merge::Replaced {
                    recorded.duplicates += 1;
                    return;
                }
                recorded.replaced += 1;
                self.totals.subtract(line);
            }
            State::DeadLettered => {
                recorded.replaced += 1;
                self.totals.dead_lettered -= 1;
                self.totals.rows_dead_lettered -= u64::from(job.rows);
                self.dead.remove(&job.index);
            }
            State::Missing | State::Reopened => recorded.new += 1,
        }
        *line = Line {
            differs: line.differs,
            ..said
        };
        self.totals.add(line);
    }

    fn conflict(&self, job: &JobOutcome<'_>, kept: &Line) -> Conflict {
        let describe = |labels: &LabelSet, hours: i32, part: u32, rows: u32, outcome: String| {
            format!(
                "({}, hour {hours}, part {part}, {rows} rows) {outcome}",
                shown(&labels.values)
            )
        };
        let dead_lettered = |reason: &str| format!("dead-lettered ({})", shown(&[reason]));
        let kept_outcome = match self.dead.get(&job.index) {
            Some(dead) => dead_lettered(&dead.reason),
            None => Outcome::Counted(kept.tally).to_string(),
        };
        Conflict {
            index: job.index,
            kept: describe(
                &self.label_sets[kept.label_set as usize],
                kept.time,
                kept.part,
                kept.rows,
                kept_outcome,
            ),
            other: describe(
                job.key.labels,
                job.key.time.hours(),
                job.part,
                job.rows,
                match job.outcome {
                    Outcome::Counted(_) => job.outcome.to_string(),
                    Outcome::DeadLettered { reason, .. } => dead_lettered(reason),
                },
            ),
        }
    }

    fn key(&self, line: &Line) -> GroupKey<'_> {
        GroupKey {
            labels: &self.label_sets[line.label_set as usize],
            time: TimeBucket::from_hours(i64::from(line.time))
                .expect("a recorded time is that of a valid batch"),
        }
    }

    /// The lowest indexes without an outcome, `at_most` of them.
    pub fn first_missing(&self, at_most: usize) -> Vec<u64> {
        let mut missing = Vec::new();
        let mut next = 0;
        let known = self.lines.known().map(|(index, _)| index);
        for known in known.chain([self.jobs()]) {
            missing.extend((next..known).take(at_most - missing.len()));
            if missing.len() == at_most {
                break;
            }
            next = known.saturating_add(1);
        }
        missing
    }

    /// The lowest indexes of jobs with several results that differ, `at_most` of them.
    pub fn first_differing(&self, at_most: usize) -> Vec<u64> {
        let differing = self.lines.known().filter(|(_, line)| line.differs);
        differing.map(|(index, _)| index).take(at_most).collect()
    }

    /// Key, part and rows of a job that has an outcome.
    pub fn describe(&self, index: u64) -> Option<(GroupKey<'_>, u32, u32)> {
        let line = self.lines.get(index)?;
        Some((self.key(line), line.part, line.rows))
    }

    /// The digest of the jobs as their outcomes tell of them; `None` while one is missing.
    pub fn job_set_digest(&self) -> Option<JobSetDigest> {
        if self.missing() > 0 {
            return None;
        }
        let mut hasher = JobSetHasher::new();
        for (index, line) in self.lines.known() {
            hasher.update(index, self.key(line), line.part, line.rows);
        }
        Some(hasher.finish())
    }

    /// The time series: one row for each group that has an outcome, in key order.
    ///
    /// Jobs are numbered in key order, so one walk along the ledger adds up the parts of each
    /// group. A ledger whose keys do not ascend (no dispatcher of this protocol makes one) is
    /// sorted first.
    pub fn series(&self) -> Series {
        let mut order: Vec<u32> = (0..self.label_sets.len() as u32).collect();
        order.sort_unstable_by_key(|&id| &self.label_sets[id as usize]);
        let mut rank = vec![0u32; order.len()];
        for (position, &id) in order.iter().enumerate() {
            rank[id as usize] = position as u32;
        }
        let label_sets = order
            .iter()
            .map(|&id| self.label_sets[id as usize].clone())
            .collect();

        let known = self.lines.known().map(|(_, line)| line);
        let key = |line: &Line| (rank[line.label_set as usize], line.time);
        let rows = if known.clone().is_sorted_by_key(key) {
            add_up_parts(known, key)
        } else {
            let mut sorted: Vec<&Line> = known.collect();
            sorted.sort_by_key(|line| key(line));
            add_up_parts(sorted.into_iter(), key)
        };
        Series { label_sets, rows }
    }
}

fn add_up_parts<'a>(
    lines: impl Iterator<Item = &'a Line>,
    key: impl Fn(&Line) -> (u32, i32),
) -> Vec<SeriesRow> {
    let mut rows: Vec<SeriesRow> = Vec::new();
    let mut last_key = None;
    for line in lines {
        let (label_set, hours) = key(line);
        if last_key != Some((label_set, hours)) {
            last_key = Some((label_set, hours));
            rows.push(SeriesRow {
                label_set,
                time: TimeBucket::from_hours(i64::from(hours))
                    .expect("a recorded time is that of a valid batch"),
                tests: 0,
                positive: 0,
            });
        }
        if let Some(row) = rows.last_mut() {
            row.tests += u64::from(line.tally.tests);
            row.positive += u64::from(line.tally.positive);
        }
    }
    rows
}

/// The first characters of texts, one after the other.
fn shown<S: AsRef<str>>(texts: &[S]) -> String {
    let mut characters = texts.iter().enumerate().flat_map(|(number, text)| {
        let before = if number == 0 { "" } else { ", " };
        before.chars().chain(text.as_ref().chars())
    });
    let mut shown: String = characters.by_ref().take(SHOWN_CHARACTERS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}
