//! Sorts rows into groups and numbers the jobs: index order is (labels as bytes, time, part), parts
//! in record order. It depends on the rows and the grouping alone.

use pipeline::{GroupKey, Grouping, Job, LabelSet, TimeBucket};

use crate::source::Rows;

/// A dense table of cells is used while it has at most so many cells for each row, and some.
const CELLS_PER_ROW: u64 = 4;
const CELLS_IN_ANY_CASE: u64 = 1 << 16;

/// The jobs of a run, in index order.
#[derive(Clone, Debug)]
pub struct JobSet {
    /// In the order of their bytes.
    label_sets: Vec<LabelSet>,
    groups: Vec<Group>,
    /// The results of all groups, one after the other; in a group, in record order.
    results: Vec<u8>,
    max_rows_per_job: u32,
    jobs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    label_set: u32,
    time: TimeBucket,
    rows: u64,
}

impl JobSet {
    /// Groups rows and cuts the groups into jobs.
    pub fn new(rows: Rows, grouping: &Grouping) -> Self {
        let (label_sets, rank) = rank_by_bytes(rows.label_sets);
        let keys = Keys::new(&rows.label_set, &rank, &rows.seconds, grouping);
        let cells = keys.label_sets.saturating_mul(keys.buckets);
        let dense = cells <= rows.results.len() as u64 * CELLS_PER_ROW + CELLS_IN_ANY_CASE;
        let (groups, results) = if dense {
            by_counting(&keys, &rows.results)
        } else {
            by_sorting(&keys, &rows.results)
        };
        let cap = u64::from(grouping.max_rows_per_job.max(1));
        Self {
            label_sets,
            jobs: groups.iter().map(|group| group.rows.div_ceil(cap)).sum(),
            groups,
            results,
            max_rows_per_job: grouping.max_rows_per_job.max(1),
        }
    }

    /// How many jobs there are.
    pub fn jobs_count(&self) -> u64 {
        self.jobs
    }

    /// How many groups there are.
    pub fn groups_count(&self) -> u64 {
        self.groups.len() as u64
    }

    /// How many rows the jobs have together.
    pub fn rows_count(&self) -> u64 {
        self.results.len() as u64
    }

    /// The label sets, in order.
    pub fn label_sets(&self) -> &[LabelSet] {
        &self.label_sets
    }

    /// The jobs, by index.
    pub fn jobs(&self) -> impl Iterator<Item = Job<'_>> {
        let mut index = 0..;
        let mut rest = self.results.as_slice();
        self.groups
            .iter()
            .flat_map(move |group| {
                let (own, others) = rest.split_at(group.rows as usize);
                rest = others;
                let key = GroupKey {
                    labels: &self.label_sets[group.label_set as usize],
                    time: group.time,
                };
                let parts = own.chunks(self.max_rows_per_job as usize);
                (0..)
                    .zip(parts)
                    .map(move |(part, results)| (key, part, results))
            })
            .map(move |(key, part, results)| Job {
                index: index.next().expect("a run has fewer than 2^64 jobs"),
                key,
                part,
                results,
            })
    }
}

/// The label sets in order, and for each of the unordered ones its place in it.
fn rank_by_bytes(label_sets: Vec<LabelSet>) -> (Vec<LabelSet>, Vec<u32>) {
    let mut order: Vec<usize> = (0..label_sets.len()).collect();
    order.sort_unstable_by_key(|&number| &label_sets[number]);
    let mut rank = vec![0; label_sets.len()];
    for (place, &number) in order.iter().enumerate() {
        rank[number] = place as u32;
    }
    let mut label_sets = label_sets;
    let sorted = order
        .iter()
        .map(|&number| std::mem::take(&mut label_sets[number]))
        .collect();
    (sorted, rank)
}

/// The keys of all rows as two small numbers: place of the label set, and bucket of time counted
/// from the earliest.
struct Keys {
    label_set: Vec<u32>,
    bucket: Vec<u32>,
    label_sets: u64,
    buckets: u64,
    /// The earliest bucket, and hours from one to the next.
    first: i64,
    step: i64,
}

impl Keys {
    fn new(label_set: &[u32], rank: &[u32], seconds: &[i64], grouping: &Grouping) -> Self {
        let hours: Vec<i32> = seconds
            .iter()
            .map(|&seconds| {
                let bucket = grouping.grain.truncate(seconds);
                bucket.expect("a time without a bucket is rejected").hours()
            })
            .collect();
        let first = hours.iter().copied().min().map_or(0, i64::from);
        let last = hours.iter().copied().max().map_or(0, i64::from);
        // Every grain but the hour begins at midnight.
        let step = match grouping.grain {
            pipeline::Grain::Hour => 1,
            _ => 24,
        };
        Self {
            label_set: label_set
                .iter()
                .map(|&number| rank[number as usize])
                .collect(),
            bucket: hours
                .iter()
                .map(|&hours| ((i64::from(hours) - first) / step) as u32)
                .collect(),
            label_sets: rank.len() as u64,
            buckets: ((last - first) / step + 1) as u64,
            first,
            step,
        }
    }

    fn time(&self, bucket: u64) -> TimeBucket {
        TimeBucket::from_hours(self.first + bucket as i64 * self.step)
            .expect("it lies between two buckets of the rows")
    }
}

/// A counting sort over all cells of (label set, bucket): two walks over the rows, no comparison.
fn by_counting(keys: &Keys, results: &[u8]) -> (Vec<Group>, Vec<u8>) {
    let cells = (keys.label_sets * keys.buckets) as usize;
    let cell = |row: usize| {
        keys.label_set[row] as usize * keys.buckets as usize + keys.bucket[row] as usize
    };
    let mut next = vec![0usize; cells];
    for row in 0..results.len() {
        next[cell(row)] += 1;
    }
    let mut groups = Vec::new();
    let mut start = 0;
    for (number, next) in next.iter_mut().enumerate() {
        let rows = *next;
        *next = start;
        if rows > 0 {
            start += rows;
            groups.push(Group {
                label_set: (number as u64 / keys.buckets) as u32,
                time: keys.time(number as u64 % keys.buckets),
                rows: rows as u64,
            });
        }
    }
    let mut sorted = vec![0; results.len()];
    for (row, &result) in results.iter().enumerate() {
        let place = &mut next[cell(row)];
        sorted[*place] = result;
        *place += 1;
    }
    (groups, sorted)
}

/// A stable sort, for keys that are spread too thinly for a table.
fn by_sorting(keys: &Keys, results: &[u8]) -> (Vec<Group>, Vec<u8>) {
    let mut rows: Vec<(u64, u8)> = results
        .iter()
        .enumerate()
        .map(|(row, &result)| {
            let key = u64::from(keys.label_set[row]) << 32 | u64::from(keys.bucket[row]);
            (key, result)
        })
        .collect();
    rows.sort_by_key(|&(key, _)| key);
    let groups = rows
        .chunk_by(|(a, _), (b, _)| a == b)
        .map(|group| Group {
            label_set: (group[0].0 >> 32) as u32,
            time: keys.time(group[0].0 & u64::from(u32::MAX)),
            rows: group.len() as u64,
        })
        .collect();
    (groups, rows.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pipeline::Grain;
    use proptest::prelude::*;

    use super::*;

    fn grouping(grain: Grain, max_rows_per_job: u32) -> Grouping {
        Grouping {
            label_columns: vec!["country".to_owned()],
            time_column: "test_date".to_owned(),
            grain,
            result_column: "result".to_owned(),
            positive: "positive".to_owned(),
            negative: "negative".to_owned(),
            max_rows_per_job,
        }
    }

    fn rows(of: &[(String, i64, u8)]) -> Rows {
        let mut rows = Rows::default();
        for (label, seconds, result) in of {
            let set = LabelSet::new([label.clone()]);
            let number = rows.label_sets.iter().position(|known| *known == set);
            let number = number.unwrap_or_else(|| {
                rows.label_sets.push(set);
                rows.label_sets.len() - 1
            });
            rows.label_set.push(number as u32);
            rows.seconds.push(*seconds);
            rows.results.push(*result);
        }
        rows
    }

    /// What the jobs must be, by the plainest means.
    fn oracle(of: &[(String, i64, u8)], grouping: &Grouping) -> Vec<(String, i32, u32, Vec<u8>)> {
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
            for (part, results) in results
                .chunks(grouping.max_rows_per_job as usize)
                .enumerate()
            {
                jobs.push((label.clone(), time.hours(), part as u32, results.to_vec()));
            }
        }
        jobs
    }

    fn spelled_out(jobs: &JobSet) -> Vec<(String, i32, u32, Vec<u8>)> {
        jobs.jobs()
            .enumerate()
            .map(|(number, job)| {
                assert_eq!(job.index, number as u64);
                let label = job.key.labels.values[0].clone();
                (label, job.key.time.hours(), job.part, job.results.to_vec())
            })
            .collect()
    }

    fn any_row() -> impl Strategy<Value = (String, i64, u8)> {
        // Close together for the table, far apart for the sort.
        let seconds = prop_oneof![0..400_000i64, -2_000_000_000..2_000_000_000i64];
        ("[a-dé]{0,2}", seconds, 0u8..=1)
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
            let jobs = JobSet::new(rows(&of), &grouping);
            let expected = oracle(&of, &grouping);
            prop_assert_eq!(jobs.jobs_count(), expected.len() as u64);
            prop_assert_eq!(jobs.rows_count(), of.len() as u64);
            prop_assert_eq!(spelled_out(&jobs), expected);
        }

        #[test]
        fn the_table_and_the_sort_agree(of in prop::collection::vec(any_row(), 1..100)) {
            let grouping = grouping(Grain::Month, 3);
            let rows = rows(&of);
            let (_, rank) = rank_by_bytes(rows.label_sets.clone());
            let keys = Keys::new(&rows.label_set, &rank, &rows.seconds, &grouping);
            prop_assert_eq!(
                by_counting(&keys, &rows.results),
                by_sorting(&keys, &rows.results)
            );
        }
    }
}
