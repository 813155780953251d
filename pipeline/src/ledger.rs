//! Which job indexes have which outcome. The ledger is plain data: the same outcomes in any order,
//! cut into any batches and said any number of times, make the same ledger.
//!
//! Outcomes are ordered: nothing < dead-lettered < counted. The ledger keeps the highest, so a dead
//! letter that is replayed and counted later leaves no trace.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use crate::digest::{JobSetDigest, JobSetHasher};
use crate::error::Conflict;
use crate::grain::TimeBucket;
use crate::group_key::{GroupKey, LabelSet};
use crate::outcome::{JobOutcome, Outcome, OutcomeBatch, Tally};
use crate::series::{Series, SeriesRow};

use lines::{Line, Lines, State};

mod lines;

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
    /// Tallies that replaced a dead letter.
    pub replaced: u64,
    /// Outcomes that said nothing new, and were dropped.
    pub duplicates: u64,
    /// Outcomes of jobs that the run does not have, and were dropped.
    pub beyond: u64,
    /// Outcomes that contradict what was said before, and were dropped.
    pub conflicts: u64,
}

/// One outcome for each job of a run.
#[derive(Clone, Debug)]
pub struct Ledger {
    lines: Lines,
    label_sets: Vec<LabelSet>,
    label_ids: LabelIds,
    dead: BTreeMap<u64, DeadJob>,
    totals: Totals,
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
}

impl Ledger {
    /// The ledger of a run with so many jobs, none of which has an outcome. It takes memory for jobs
    /// that have one, and for their neighbours.
    pub fn new(jobs: u64) -> Self {
        Self {
            lines: Lines::new(jobs),
            label_sets: Vec::new(),
            label_ids: LabelIds::default(),
            dead: BTreeMap::new(),
            totals: Totals::default(),
        }
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

    /// Records the outcomes of a batch. Contradictions are appended to `conflicts`, until that has
    /// 1,000 of them; the outcome that came first stays.
    pub fn record(&mut self, batch: &OutcomeBatch, conflicts: &mut Vec<Conflict>) -> Recorded {
        let ids: Vec<u32> = batch
            .label_sets()
            .iter()
            .map(|labels| self.intern(labels))
            .collect();
        let mut recorded = Recorded::default();
        for outcome in batch.outcomes() {
            self.record_one(
                &outcome,
                ids[outcome.label_position],
                &mut recorded,
                conflicts,
            );
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
        label_set: u32,
        recorded: &mut Recorded,
        conflicts: &mut Vec<Conflict>,
    ) {
        let Some(line) = self.lines.get_mut(job.index) else {
            recorded.beyond += 1;
            return;
        };
        let (state, tally) = match job.outcome {
            Outcome::Counted(tally) => (State::Counted, tally),
            Outcome::DeadLettered { .. } => (State::DeadLettered, Tally::default()),
        };
        let said = Line {
            state,
            label_set,
            time: job.key.time.hours(),
            part: job.part,
            rows: job.rows,
            tally,
        };
        if line.state != State::Missing {
            let same_job = (line.label_set, line.time, line.part, line.rows)
                == (said.label_set, said.time, said.part, said.rows);
            let both_counted = line.state == State::Counted && state == State::Counted;
            if !same_job || (both_counted && line.tally != tally) {
                recorded.conflicts += 1;
                let kept = *line;
                if conflicts.len() < MAX_CONFLICTS {
                    conflicts.push(self.conflict(job, &kept));
                }
                return;
            }
        }
        match (line.state, state) {
            (State::Missing, State::Counted) => recorded.new += 1,
            (State::Missing, _) => {
                recorded.new += 1;
                *line = said;
                self.totals.dead_lettered += 1;
                self.totals.rows_dead_lettered += u64::from(job.rows);
                if let Outcome::DeadLettered { reason, attempts } = job.outcome {
                    let reason = reason.to_owned();
                    self.dead.insert(job.index, DeadJob { reason, attempts });
                }
                return;
            }
            (State::DeadLettered, State::Counted) => {
                recorded.replaced += 1;
                self.totals.dead_lettered -= 1;
                self.totals.rows_dead_lettered -= u64::from(job.rows);
                self.dead.remove(&job.index);
            }
            _ => {
                recorded.duplicates += 1;
                return;
            }
        }
        *line = said;
        self.totals.counted += 1;
        self.totals.rows_counted += u64::from(job.rows);
        self.totals.tests += u64::from(tally.tests);
        self.totals.positive += u64::from(tally.positive);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::{OutcomeBatchBuilder, Worker};
    use crate::{Job, RunId};

    /// Groups in key order, each with its rows, cut into jobs of at most `cap` rows.
    #[derive(Clone, Debug)]
    struct Run {
        groups: Vec<(LabelSet, TimeBucket, Vec<u8>)>,
        cap: usize,
    }

    impl Run {
        fn jobs(&self) -> Vec<Job<'_>> {
            let mut jobs = Vec::new();
            for (labels, time, results) in &self.groups {
                for (part, results) in results.chunks(self.cap).enumerate() {
                    jobs.push(Job {
                        index: jobs.len() as u64,
                        key: GroupKey {
                            labels,
                            time: *time,
                        },
                        part: part as u32,
                        results,
                    });
                }
            }
            jobs
        }

        /// What the series must be, computed without jobs.
        fn oracle(&self) -> Vec<(LabelSet, TimeBucket, u64, u64)> {
            let groups = self.groups.iter();
            groups
                .map(|(labels, time, results)| {
                    let positive = results.iter().filter(|&&result| result == 1).count();
                    (labels.clone(), *time, results.len() as u64, positive as u64)
                })
                .collect()
        }
    }

    fn any_run() -> impl Strategy<Value = Run> {
        let key = ("[a-c]{0,2}", 0i64..6);
        let results = prop::collection::vec(0u8..=1, 1..12);
        (prop::collection::btree_map(key, results, 0..20), 1usize..6).prop_map(|(groups, cap)| {
            let groups = groups.into_iter().map(|((label, hours), results)| {
                let time = TimeBucket::from_hours(hours).expect("in range");
                (LabelSet::new([label]), time, results)
            });
            Run {
                groups: groups.collect(),
                cap,
            }
        })
    }

    fn tally(job: &Job<'_>) -> Outcome<'static> {
        Outcome::Counted(Tally {
            tests: job.rows(),
            positive: job.results.iter().map(|&result| u32::from(result)).sum(),
        })
    }

    const DEAD: Outcome<'static> = Outcome::DeadLettered {
        reason: "it is broken",
        attempts: 3,
    };

    fn batch(outcomes: &[(Job<'_>, Outcome<'_>)]) -> OutcomeBatch {
        let run_id: RunId = "a-run".parse().expect("a run id");
        let mut builder = OutcomeBatchBuilder::new(&run_id, &Worker::default());
        for (job, outcome) in outcomes {
            builder.push(job, *outcome);
        }
        OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
    }

    fn spelled_out(series: &Series) -> Vec<(LabelSet, TimeBucket, u64, u64)> {
        let rows = series.rows.iter();
        rows.map(|row| {
            let labels = series.label_sets[row.label_set as usize].clone();
            (labels, row.time, row.tests, row.positive)
        })
        .collect()
    }

    proptest! {
        /// Any order, duplication, split and packing of the outcomes gives the same series.
        #[test]
        fn however_outcomes_arrive_the_series_is_the_same(
            run in any_run(),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
            order in any::<u64>(),
            packing in 1usize..9,
            dead_first in any::<bool>(),
        ) {
            let jobs = run.jobs();
            let mut said: Vec<(Job<'_>, Outcome<'_>)> =
                jobs.iter().map(|job| (*job, tally(job))).collect();
            if !jobs.is_empty() {
                for pick in &picks {
                    let job = jobs[pick.index(jobs.len())];
                    said.push((job, if dead_first { DEAD } else { tally(&job) }));
                }
            }
            shuffle(&mut said, order);
            let mut ledger = Ledger::new(jobs.len() as u64);
            let mut conflicts = Vec::new();
            let mut seen = Recorded::default();
            for outcomes in said.chunks(packing) {
                let recorded = ledger.record(&batch(outcomes), &mut conflicts);
                seen.new += recorded.new;
                seen.replaced += recorded.replaced;
                seen.duplicates += recorded.duplicates;
            }
            prop_assert_eq!(&conflicts, &[]);
            prop_assert_eq!(seen.new, jobs.len() as u64);
            prop_assert_eq!(seen.new + seen.replaced + seen.duplicates, said.len() as u64);
            prop_assert_eq!(ledger.missing(), 0);
            prop_assert!(ledger.dead().is_empty());
            prop_assert_eq!(spelled_out(&ledger.series()), run.oracle());
            prop_assert_eq!(ledger.totals().tests, ledger.totals().rows_counted);

            let mut hasher = JobSetHasher::new();
            for job in &jobs {
                hasher.update(job.index, job.key, job.part, job.rows());
            }
            prop_assert_eq!(ledger.job_set_digest(), Some(hasher.finish()));
        }

        #[test]
        fn a_dead_letter_that_is_never_counted_stays_dead(
            run in any_run(),
            dead in any::<prop::sample::Index>(),
        ) {
            let jobs = run.jobs();
            prop_assume!(!jobs.is_empty());
            let dead = dead.index(jobs.len());
            let mut ledger = Ledger::new(jobs.len() as u64);
            for job in &jobs {
                let outcome = if job.index == dead as u64 { DEAD } else { tally(job) };
                ledger.record(&batch(&[(*job, outcome)]), &mut Vec::new());
            }
            prop_assert_eq!(ledger.missing(), 0);
            prop_assert_eq!(ledger.totals().dead_lettered, 1);
            prop_assert_eq!(ledger.dead().keys().copied().collect::<Vec<_>>(), [dead as u64]);
            let rows = u64::from(jobs[dead].rows());
            prop_assert_eq!(ledger.totals().rows_dead_lettered, rows);
        }
    }

    /// Fisher-Yates with a splitmix64 of its own, so that proptest can shrink the order.
    fn shuffle<T>(items: &mut [T], mut seed: u64) {
        for last in (1..items.len()).rev() {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = seed;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            items.swap(last, (mixed ^ (mixed >> 31)) as usize % (last + 1));
        }
    }

    fn one_job<'a>(labels: &'a LabelSet, results: &'a [u8]) -> Job<'a> {
        Job {
            index: 0,
            key: GroupKey {
                labels,
                time: TimeBucket::from_hours(1).expect("in range"),
            },
            part: 0,
            results,
        }
    }

    #[test]
    fn two_tallies_of_one_job_that_differ_are_a_conflict() {
        let labels = LabelSet::new(["Italy"]);
        let job = one_job(&labels, &[1, 0]);
        let wrong = Outcome::Counted(Tally {
            tests: 2,
            positive: 2,
        });
        let mut ledger = Ledger::new(1);
        let mut conflicts = Vec::new();
        ledger.record(&batch(&[(job, tally(&job))]), &mut conflicts);
        ledger.record(&batch(&[(job, wrong)]), &mut conflicts);
        assert_eq!(conflicts.len(), 1);
        assert!(
            conflicts[0].kept.contains("1 positive of 2"),
            "{}",
            conflicts[0]
        );
        assert!(
            conflicts[0].other.contains("2 positive of 2"),
            "{}",
            conflicts[0]
        );
        assert_eq!(ledger.totals().positive, 1);
    }

    #[test]
    fn two_keys_for_one_job_are_a_conflict_even_if_one_is_a_dead_letter() {
        let (italy, spain) = (LabelSet::new(["Italy"]), LabelSet::new(["Spain"]));
        let mut ledger = Ledger::new(1);
        let mut conflicts = Vec::new();
        ledger.record(&batch(&[(one_job(&italy, &[1]), DEAD)]), &mut conflicts);
        let other = one_job(&spain, &[1]);
        ledger.record(&batch(&[(other, tally(&other))]), &mut conflicts);
        assert_eq!(conflicts.len(), 1);
        assert!(conflicts[0].to_string().contains("Spain"));
        assert_eq!(ledger.totals().dead_lettered, 1);
    }

    #[test]
    fn contradictions_without_number_about_labels_without_end_are_counted_and_shown_in_little_room()
    {
        let long = LabelSet::new(["x".repeat(100_000), "y".to_owned()]);
        let reason = "z".repeat(100_000);
        let dead = Outcome::DeadLettered {
            reason: &reason,
            attempts: 1,
        };
        let mut ledger = Ledger::new(1);
        let mut conflicts = Vec::new();
        ledger.record(&batch(&[(one_job(&long, &[1]), dead)]), &mut conflicts);
        let other = LabelSet::new(["y"]);
        let contradiction = one_job(&other, &[1]);
        let many = vec![(contradiction, tally(&contradiction)); 2 * MAX_CONFLICTS];
        let recorded = ledger.record(&batch(&many), &mut conflicts);
        assert_eq!(recorded.conflicts, 2 * MAX_CONFLICTS as u64);
        assert_eq!(conflicts.len(), MAX_CONFLICTS);
        let text = conflicts[0].to_string();
        assert!(text.len() < 1_000 && text.contains("xxx…, hour"), "{text}");
        assert!(text.contains("zzz…)"), "{text}");
    }

    #[test]
    fn an_index_beyond_the_run_is_dropped_and_noticed() {
        let labels = LabelSet::new(["Italy"]);
        let mut job = one_job(&labels, &[1]);
        job.index = u64::MAX - 1;
        let mut ledger = Ledger::new(3);
        let recorded = ledger.record(&batch(&[(job, tally(&job))]), &mut Vec::new());
        assert_eq!(recorded.beyond, 1);
        assert_eq!(ledger.missing(), 3);
        assert_eq!(ledger.first_missing(2), [0, 1]);
        assert_eq!(ledger.first_missing(9), [0, 1, 2]);
        assert_eq!(ledger.job_set_digest(), None);
    }

    #[test]
    fn the_gaps_between_outcomes_are_missing() {
        let labels = LabelSet::new(["Italy"]);
        let mut ledger = Ledger::new(u64::MAX);
        for index in [1, 2, 5, 200] {
            let job = Job {
                index,
                ..one_job(&labels, &[1])
            };
            ledger.record(&batch(&[(job, tally(&job))]), &mut Vec::new());
        }
        assert_eq!(ledger.first_missing(0), [0; 0]);
        assert_eq!(ledger.first_missing(5), [0, 3, 4, 6, 7]);
        assert_eq!(ledger.first_missing(200).last(), Some(&203));
        assert_eq!(ledger.missing(), u64::MAX - 4);
        assert!(ledger.describe(5).is_some() && ledger.describe(6).is_none());
    }
}
