//! The jobs of a run, numbered in the order of labels as bytes, time and part; the parts of a group are
//! in record order. The groups are in memory, or merged from disk; the numbers are the same.
//!
//! A part of a group ends where it has the most rows of a job, or where the next row's record would
//! make its payload too large.

use pipeline::{GroupKey, Job, LabelSet, TimeBucket};

use crate::error::Error;
use crate::group::{Groups, rank_by_bytes};
use crate::grouping::Grouping;
use crate::records::{Limit, MAX_PAYLOAD_BYTES, RecordSlice, Records};
use crate::source::Rows;
use crate::spill::{MergedKey, Spill, SpillFiles};

/// The jobs of a run, in index order.
#[derive(Debug)]
pub struct JobSet {
    /// The label sets in the order of their bytes.
    label_sets: Vec<LabelSet>,
    groups: Source,
    /// The limit of each job.
    limit: Limit,
    counts: Counts,
}

/// The place of the groups.
#[derive(Debug)]
enum Source {
    Memory(Groups),
    Disk(SpillFiles),
}

/// The numbers of jobs, groups, rows and bytes of a job set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of jobs.
    pub jobs: u64,
    /// The number of groups.
    pub groups: u64,
    /// The number of rows in all jobs.
    pub rows: u64,
    /// The number of payload bytes of all jobs.
    pub payload_bytes: u64,
    /// The number of spill files from which the groups are merged; 0 when memory had room for all rows.
    pub spilled_runs: u64,
}

impl JobSet {
    /// Groups rows and divides the groups into jobs. `spill` has the rows before these.
    ///
    /// # Errors
    /// When rows on disk cannot be written or read.
    pub fn new(rows: Rows, spill: Spill, grouping: &Grouping) -> Result<Self, Error> {
        Self::with_max_payload(rows, spill, grouping, MAX_PAYLOAD_BYTES)
    }

    /// As [`new`](Self::new), with payloads of at most `max_payload_bytes`.
    fn with_max_payload(
        mut rows: Rows,
        spill: Spill,
        grouping: &Grouping,
        max_payload_bytes: usize,
    ) -> Result<Self, Error> {
        let max_rows = grouping.max_rows_per_job as usize;
        let limit = Limit::new(max_rows, max_payload_bytes, rows.records.width());
        let (label_sets, groups) = match spill.finish(&mut rows)? {
            Some(files) => (files.label_sets(), Source::Disk(files)),
            None => {
                let (label_sets, rank) = rank_by_bytes(std::mem::take(&mut rows.label_sets));
                let groups = Groups::new(&rows, &rank, grouping.grain);
                (label_sets, Source::Memory(groups))
            }
        };
        let mut jobs = Self {
            label_sets,
            groups,
            limit,
            counts: Counts::default(),
        };
        jobs.counts = jobs.count()?;
        Ok(jobs)
    }

    /// The counts of the jobs, which are needed before the first job is published.
    fn count(&self) -> Result<Counts, Error> {
        let mut counts = Counts::default();
        // An iteration over all jobs would take a tenth of the time of grouping.
        if let Source::Memory(groups) = &self.groups
            && let Some(bytes) = groups.bytes_of_fixed_width()
        {
            let rows = groups.rows();
            counts.payload_bytes = bytes;
            counts.groups = rows.len() as u64;
            for rows in rows {
                counts.jobs += rows.div_ceil(self.limit.rows() as u64);
                counts.rows += rows;
            }
            return Ok(counts);
        }
        if let Source::Disk(files) = &self.groups {
            counts.spilled_runs = files.len() as u64;
        }
        self.for_each(|job| {
            counts.jobs += 1;
            counts.groups += u64::from(job.part == 0);
            counts.rows += u64::from(job.weight);
            counts.payload_bytes += job.payload.len() as u64;
            Ok(())
        })?;
        Ok(counts)
    }

    /// The numbers of jobs, groups, rows and bytes.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Passes each job to `visit`, in the order of their indexes.
    ///
    /// # Errors
    /// When rows on disk cannot be read, or the error that `visit` returns.
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
                groups.for_each_part(self.limit, |group, is_first, weight, payload| {
                    if is_first {
                        numbering.part = 0;
                    }
                    visit(&numbering.next(group.label_set, group.time, weight, payload))
                })
            }
            Source::Disk(files) => {
                let mut collector = Collector {
                    limit: self.limit,
                    numbering,
                    key: None,
                    part: Records::new(files.width()),
                    visit,
                };
                files.merge(|key, piece| collector.add(key, piece))?;
                collector.finish_part()
            }
        }
    }
}

/// The index and part of the next job.
struct Numbering<'a> {
    label_sets: &'a [LabelSet],
    index: u64,
    part: u32,
}

impl<'a> Numbering<'a> {
    #[inline(always)]
    fn next<'j>(
        &mut self,
        label_set: u32,
        time: TimeBucket,
        weight: usize,
        payload: &'j [u8],
    ) -> Job<'j>
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
            // A part has at most MAX_ROWS_PER_JOB rows.
            weight: weight as u32,
            payload,
        };
        self.index += 1;
        self.part += 1;
        job
    }
}

/// The collection of the records of a group from the spill files. A part is passed on when the next
/// record does not fit in it, or when the group ends.
struct Collector<'a, V> {
    limit: Limit,
    numbering: Numbering<'a>,
    /// The key of the current group; `None` before the first.
    key: Option<MergedKey>,
    /// The records of the current part.
    part: Records,
    visit: V,
}

impl<V: FnMut(&Job<'_>) -> Result<(), Error>> Collector<'_, V> {
    /// Adds the next records of a group.
    fn add(&mut self, key: MergedKey, mut piece: RecordSlice<'_>) -> Result<(), Error> {
        if self.key != Some(key) {
            self.finish_part()?;
            self.key = Some(key);
            self.numbering.part = 0;
        }
        loop {
            let (own, others) = piece.split_at_limit(self.limit.remaining_after(&self.part));
            self.part.extend(own);
            if others.is_empty() {
                return Ok(());
            }
            self.finish_part()?;
            piece = others;
        }
    }

    /// Passes the current part to `visit`.
    fn finish_part(&mut self) -> Result<(), Error> {
        let Some(key) = self.key else {
            return Ok(());
        };
        let MergedKey { label_set, time } = key;
        let (weight, payload) = (self.part.len(), self.part.bytes());
        (self.visit)(&self.numbering.next(label_set, time, weight, payload))?;
        self.part.clear();
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use pipeline::Grain;
    use proptest::prelude::*;

    use super::*;
    use crate::columns;
    use crate::group::tests::{PlainRow, any_rows, rows};
    use crate::records::Width;

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

    /// The label, time in hours, part, weight and payload of a job.
    pub(crate) type PlainJob = (String, i32, u32, u64, Vec<u8>);

    /// The expected jobs, by a simple implementation.
    fn oracle(of: &[PlainRow], grouping: &Grouping, max_bytes: usize) -> Vec<PlainJob> {
        let mut groups: BTreeMap<(String, TimeBucket), Vec<Vec<u8>>> = BTreeMap::new();
        for (label, seconds, record) in of {
            let time = grouping.grain.truncate(*seconds).expect("in range");
            let group = groups.entry((label.clone(), time)).or_default();
            group.push(record.clone());
        }
        let mut jobs: Vec<PlainJob> = Vec::new();
        for ((label, time), records) in groups {
            let (mut part, mut weight, mut payload) = (0, 0, Vec::new());
            for record in records {
                let is_full = weight == u64::from(grouping.max_rows_per_job)
                    || payload.len() + record.len() > max_bytes;
                if is_full && weight > 0 {
                    jobs.push((label.clone(), time.hours(), part, weight, payload));
                    (part, weight, payload) = (part + 1, 0, Vec::new());
                }
                weight += 1;
                payload.extend(record);
            }
            jobs.push((label, time.hours(), part, weight, payload));
        }
        jobs
    }

    /// All jobs as plain values.
    pub(crate) fn spelled_out(jobs: &JobSet) -> Vec<PlainJob> {
        let mut all = Vec::new();
        jobs.for_each(|job| {
            assert_eq!(job.index, all.len() as u64);
            let label = job.key.labels.values[0].clone();
            let time = job.key.time.expect("it is grouped by time").hours();
            all.push((
                label,
                time,
                job.part,
                job.weight.into(),
                job.payload.to_vec(),
            ));
            Ok(())
        })
        .expect("they can be read");
        all
    }

    /// The counts of a list of jobs.
    fn counts_of(jobs: &[PlainJob]) -> (u64, u64, u64, u64) {
        let groups = jobs.iter().filter(|job| job.2 == 0).count();
        let rows = jobs.iter().map(|job| job.3).sum();
        let bytes = jobs.iter().map(|job| job.4.len() as u64).sum();
        (jobs.len() as u64, groups as u64, rows, bytes)
    }

    fn counts(jobs: &JobSet) -> (u64, u64, u64, u64) {
        let counts = jobs.counts();
        (
            counts.jobs,
            counts.groups,
            counts.rows,
            counts.payload_bytes,
        )
    }

    /// Spills rows to files of these lengths, in turn; the last rows stay in memory.
    fn spilled(all: &Rows, cuts: &[usize], spill: &mut Spill) -> Rows {
        let mut read = Rows::new(all.records.width());
        let mut cuts = cuts.iter().cycle();
        let mut left = cuts.next().copied().unwrap_or(1);
        for (row, record) in all.records.as_slice().iter().enumerate() {
            read.label_set.push(all.label_set[row]);
            read.seconds.push(all.seconds[row]);
            read.records.push(record);
            left -= 1;
            if left == 0 {
                // A spill file is written with the labels that have occurred so far.
                let known = 1 + all.label_set[..=row].iter().max().expect("one row");
                let known = &all.label_sets[..known as usize];
                spill.write(&mut read, known).expect("room");
                left = cuts.next().copied().unwrap_or(1);
            }
        }
        read.label_sets = all.label_sets.clone();
        read
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn jobs_are_numbered_by_labels_time_and_part(
            (width, of) in any_rows(200),
            grain in prop::sample::select(Grain::ALL.to_vec()),
            cap in 1u32..5,
            max_bytes in 1usize..12,
        ) {
            let grouping = grouping(grain, cap);
            let jobs = JobSet::with_max_payload(
                rows(&of, width), spill(grain, u64::MAX), &grouping, max_bytes,
            );
            let jobs = jobs.expect("memory has room");
            let expected = oracle(&of, &grouping, max_bytes);
            prop_assert_eq!(counts(&jobs), counts_of(&expected));
            prop_assert_eq!(jobs.counts().spilled_runs, 0);
            prop_assert_eq!(spelled_out(&jobs), expected);
        }

        /// With any division of the rows into spill files, the numbers are those of rows in memory.
        #[test]
        fn rows_on_disk_are_numbered_as_those_in_memory(
            (width, of) in any_rows(200),
            cuts in prop::collection::vec(1usize..60, 1..8),
            grain in prop::sample::select(Grain::ALL.to_vec()),
            cap in 1u32..5,
            max_bytes in 1usize..12,
        ) {
            let grouping = grouping(grain, cap);
            let mut spill = spill(grain, 0);
            let read = spilled(&rows(&of, width), &cuts, &mut spill);
            let files = spill.file_count();
            let expected = oracle(&of, &grouping, max_bytes);
            let jobs = JobSet::with_max_payload(read, spill, &grouping, max_bytes);
            let jobs = jobs.expect("they can be read");
            prop_assert_eq!(counts(&jobs), counts_of(&expected));
            prop_assert!(jobs.counts().spilled_runs >= files as u64);
            prop_assert_eq!(spelled_out(&jobs), expected.clone());
            // A second iteration gives the same.
            prop_assert_eq!(spelled_out(&jobs), expected);
        }

        /// Records of one length make the same jobs when they are stored with a fixed or a variable
        /// width.
        #[test]
        fn fixed_and_variable_widths_agree(
            (width, of) in any_rows(100),
            cuts in prop::collection::vec(1usize..60, 1..8),
            cap in 1u32..5,
            max_bytes in 4usize..12,
        ) {
            prop_assume!(width != Width::Variable);
            let grouping = grouping(Grain::Day, cap);
            let expected = JobSet::with_max_payload(
                rows(&of, width), spill(Grain::Day, u64::MAX), &grouping, max_bytes,
            );
            let expected = expected.expect("memory has room");
            let variable = rows(&of, Width::Variable);
            let mut spill = spill(Grain::Day, 0);
            let read = spilled(&variable, &cuts, &mut spill);
            let jobs = JobSet::with_max_payload(read, spill, &grouping, max_bytes)
                .expect("they can be read");
            prop_assert_eq!(counts(&jobs), counts(&expected));
            prop_assert_eq!(spelled_out(&jobs), spelled_out(&expected));
        }
    }

    #[test]
    fn a_payload_has_at_most_the_bytes_of_the_limit() {
        let half = [0; MAX_PAYLOAD_BYTES / 2].as_slice();
        let records: [&[u8]; 6] = [half, half, &[1], half, half, &[]];
        let of = records.map(|record| ("a".to_owned(), 0, record.to_vec()));
        let jobs = JobSet::new(
            rows(&of, Width::Variable),
            spill(Grain::Day, u64::MAX),
            &grouping(Grain::Day, 10),
        );
        let jobs = spelled_out(&jobs.expect("memory has room"));
        let lengths: Vec<_> = jobs.iter().map(|job| (job.3, job.4.len())).collect();
        let (whole, half) = (MAX_PAYLOAD_BYTES, half.len());
        assert_eq!(lengths, [(2, whole), (2, half + 1), (2, half)]);
    }
}
