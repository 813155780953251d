//! The jobs of a run, numbered: index order is (labels as bytes, time, part), parts in record
//! order. The groups they are cut from are in memory, or merged from disk; the numbers are the same.

use pipeline::{GroupKey, Job, LabelSet, TimeBucket};

use crate::error::Error;
use crate::group::{Groups, rank_by_bytes};
use crate::grouping::Grouping;
use crate::source::Rows;
use crate::spill::{Runs, Spill};

/// The jobs of a run, in index order.
#[derive(Debug)]
pub struct JobSet {
    /// In the order of their bytes.
    label_sets: Vec<LabelSet>,
    groups: Source,
    max_rows_per_job: usize,
    counts: Counts,
}

#[derive(Debug)]
enum Source {
    Memory(Groups),
    Disk(Runs),
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs.
    pub jobs: u64,
    /// Groups that they are parts of.
    pub groups: u64,
    /// Rows in them.
    pub rows: u64,
    /// Runs on disk that they are merged from; 0 when memory had room for all.
    pub spilled_runs: u64,
}

impl Counts {
    fn add_group(&mut self, rows: u64, cap: usize) {
        self.groups += 1;
        self.rows += rows;
        self.jobs += rows.div_ceil(cap as u64);
    }
}

impl JobSet {
    /// Groups rows and cuts the groups into jobs. `spill` has those rows that came before.
    ///
    /// # Errors
    /// When rows on disk cannot be written or read.
    pub fn new(mut rows: Rows, spill: Spill, grouping: &Grouping) -> Result<Self, Error> {
        let max_rows_per_job = grouping.max_rows_per_job.max(1) as usize;
        let mut counts = Counts::default();
        if let Some(runs) = spill.finish(&mut rows)? {
            count(&runs, max_rows_per_job, &mut counts)?;
            return Ok(Self {
                label_sets: runs.label_sets(),
                groups: Source::Disk(runs),
                max_rows_per_job,
                counts,
            });
        }
        let (label_sets, rank) = rank_by_bytes(std::mem::take(&mut rows.label_sets));
        let groups = Groups::new(&rows, &rank, grouping.grain);
        for (group, _) in groups.iter() {
            counts.add_group(group.rows, max_rows_per_job);
        }
        Ok(Self {
            label_sets,
            groups: Source::Memory(groups),
            max_rows_per_job,
            counts,
        })
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Hands over every job, by index.
    ///
    /// # Errors
    /// When rows on disk cannot be read, or what `visit` returns.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(&Job<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut numbering = Numbering {
            label_sets: &self.label_sets,
            index: 0,
            part: 0,
        };
        match &self.groups {
            Source::Memory(groups) => {
                for (group, results) in groups.iter() {
                    numbering.part = 0;
                    for results in results.chunks(self.max_rows_per_job) {
                        let job = numbering.next(group.label_set, group.time, results);
                        visit(&job)?;
                    }
                }
                Ok(())
            }
            Source::Disk(runs) => self.for_each_on_disk(runs, numbering, visit),
        }
    }

    /// Collects the results of a group from its runs, and hands a part over whenever it is full.
    fn for_each_on_disk(
        &self,
        runs: &Runs,
        mut numbering: Numbering<'_>,
        mut visit: impl FnMut(&Job<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut group: Option<(u32, TimeBucket)> = None;
        let mut part: Vec<u8> = Vec::new();
        runs.merge(true, |merged, mut piece| {
            let key = (merged.label_set, merged.time);
            if let Some((label_set, time)) = group.replace(key)
                && (label_set, time) != key
            {
                if !part.is_empty() {
                    visit(&numbering.next(label_set, time, &part))?;
                    part.clear();
                }
                numbering.part = 0;
            }
            while !piece.is_empty() {
                let room = self.max_rows_per_job - part.len();
                let (own, others) = piece.split_at(room.min(piece.len()));
                part.extend_from_slice(own);
                piece = others;
                if part.len() == self.max_rows_per_job {
                    visit(&numbering.next(key.0, key.1, &part))?;
                    part.clear();
                }
            }
            Ok(())
        })?;
        match group {
            Some((label_set, time)) if !part.is_empty() => {
                visit(&numbering.next(label_set, time, &part))
            }
            _ => Ok(()),
        }
    }
}

/// Counts first: how many jobs there are is known before the first is published.
fn count(runs: &Runs, cap: usize, counts: &mut Counts) -> Result<(), Error> {
    counts.spilled_runs = runs.len() as u64;
    let mut group = None;
    let mut rows = 0;
    runs.merge(false, |merged, _| {
        let key = (merged.label_set, merged.time);
        if group.replace(key).is_some_and(|last| last != key) {
            counts.add_group(rows, cap);
            rows = 0;
        }
        rows += merged.rows;
        Ok(())
    })?;
    if rows > 0 {
        counts.add_group(rows, cap);
    }
    Ok(())
}

/// Gives jobs their indexes and parts.
struct Numbering<'a> {
    label_sets: &'a [LabelSet],
    index: u64,
    part: u32,
}

impl<'a> Numbering<'a> {
    fn next<'j>(&mut self, label_set: u32, time: TimeBucket, payload: &'j [u8]) -> Job<'j>
    where
        'a: 'j,
    {
        let job = Job {
            index: self.index,
            key: GroupKey {
                labels: &self.label_sets[label_set as usize],
                time: Some(time),
            },
            part: self.part,
            // A part has at most MAX_ROWS_PER_JOB rows, a byte each.
            weight: payload.len() as u32,
            payload,
        };
        self.index += 1;
        self.part += 1;
        job
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pipeline::Grain;
    use proptest::prelude::*;

    use super::*;
    use crate::columns;
    use crate::group::tests::{any_row, rows};

    fn grouping(grain: Grain, max_rows_per_job: u32) -> Grouping {
        Grouping {
            grain,
            max_rows_per_job,
            ..columns::tests::grouping(&["country"])
        }
    }

    fn spill(grain: Grain, budget_bytes: u64) -> Spill {
        Spill::new(&std::env::temp_dir(), grain, budget_bytes)
    }

    type PlainJob = (String, i32, u32, Vec<u8>);

    /// What the jobs must be, by the plainest means.
    fn oracle(of: &[(String, i64, u8)], grouping: &Grouping) -> Vec<PlainJob> {
        let mut groups: BTreeMap<(String, TimeBucket), Vec<u8>> = BTreeMap::new();
        for (label, seconds, result) in of {
            let time = grouping.grain.truncate(*seconds).expect("in range");
            groups
                .entry((label.clone(), time))
                .or_default()
                .push(*result);
        }
        let mut jobs = Vec::new();
        for ((label, time), results) in groups {
            let parts = results.chunks(grouping.max_rows_per_job as usize);
            for (part, results) in parts.enumerate() {
                jobs.push((label.clone(), time.hours(), part as u32, results.to_vec()));
            }
        }
        jobs
    }

    fn spelled_out(jobs: &JobSet) -> Vec<PlainJob> {
        let mut all = Vec::new();
        jobs.for_each(|job| {
            assert_eq!(job.index, all.len() as u64);
            let label = job.key.labels.values[0].clone();
            let time = job.key.time.expect("it is grouped by time");
            all.push((label, time.hours(), job.part, job.payload.to_vec()));
            Ok(())
        })
        .expect("they can be read");
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn jobs_are_numbered_by_labels_time_and_part(
            of in prop::collection::vec(any_row(), 1..200),
            grain in prop::sample::select(Grain::ALL.to_vec()),
            cap in 1u32..5,
        ) {
            let grouping = grouping(grain, cap);
            let jobs = JobSet::new(rows(&of), spill(grain, u64::MAX), &grouping);
            let jobs = jobs.expect("memory has room");
            let expected = oracle(&of, &grouping);
            prop_assert_eq!(jobs.counts().jobs, expected.len() as u64);
            prop_assert_eq!(jobs.counts().rows, of.len() as u64);
            prop_assert_eq!(jobs.counts().spilled_runs, 0);
            prop_assert_eq!(spelled_out(&jobs), expected);
        }

        /// However the rows are cut into runs, the numbers are those of memory.
        #[test]
        fn rows_on_disk_are_numbered_as_those_in_memory(
            of in prop::collection::vec(any_row(), 1..200),
            cuts in prop::collection::vec(1usize..60, 1..8),
            grain in prop::sample::select(Grain::ALL.to_vec()),
            cap in 1u32..5,
        ) {
            let grouping = grouping(grain, cap);
            let mut spill = spill(grain, 0);
            let mut read = Rows::default();
            let mut cuts = cuts.iter().cycle();
            let mut left = cuts.next().copied().unwrap_or(1);
            let all = rows(&of);
            for row in 0..all.len() {
                read.label_set.push(all.label_set[row]);
                read.seconds.push(all.seconds[row]);
                read.results.push(all.results[row]);
                left -= 1;
                if left == 0 {
                    // A run knows only the labels that have appeared.
                    let known = 1 + all.label_set[..=row].iter().max().expect("one row") ;
                    spill.write(&mut read, &all.label_sets[..known as usize]).expect("room");
                    left = cuts.next().copied().unwrap_or(1);
                }
            }
            let runs = spill.runs();
            read.label_sets = all.label_sets.clone();
            let expected = oracle(&of, &grouping);
            let jobs = JobSet::new(read, spill, &grouping).expect("they can be read");
            prop_assert_eq!(jobs.counts().jobs, expected.len() as u64);
            prop_assert_eq!(jobs.counts().rows, of.len() as u64);
            prop_assert!(jobs.counts().spilled_runs >= runs as u64);
            prop_assert_eq!(spelled_out(&jobs), expected.clone());
            // A second walk gives the same.
            prop_assert_eq!(spelled_out(&jobs), expected);
        }
    }
}
