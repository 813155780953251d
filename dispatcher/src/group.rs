//! Sorts rows into groups, in the order of labels as bytes and time; in a group the rows stay in
//! record order. What comes out depends on the rows and the grain alone.

use pipeline::{Grain, LabelSet, TimeBucket};

use crate::source::Rows;

/// A dense table of cells is used while it has at most so many cells for each row, and some.
const CELLS_PER_ROW: u64 = 4;
const CELLS_IN_ANY_CASE: u64 = 1 << 16;

/// Groups in key order, with the results of each.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    groups: Vec<Group>,
    /// The results of all groups, one after the other; in a group, in record order.
    results: Vec<u8>,
}

/// What the rows of one group share, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Place of the labels in their order.
    pub label_set: u32,
    /// The truncated time.
    pub time: TimeBucket,
    /// Number of rows.
    pub rows: u64,
}

impl Groups {
    /// Groups rows; `rank` is the place of each of their label sets in the order of bytes.
    pub fn new(rows: &Rows, rank: &[u32], grain: Grain) -> Self {
        let keys = Keys::new(rows, rank, grain);
        let cells = keys.label_sets.saturating_mul(keys.buckets);
        let limit = rows.len() as u64 * CELLS_PER_ROW + CELLS_IN_ANY_CASE;
        if cells <= limit && u32::try_from(rows.len()).is_ok() {
            by_counting(&keys, &rows.results)
        } else {
            by_sorting(&keys, &rows.results)
        }
    }

    /// The groups in order, each with its results.
    pub fn iter(&self) -> impl Iterator<Item = (Group, &[u8])> {
        let mut rest = self.results.as_slice();
        self.groups.iter().map(move |group| {
            let (own, others) = rest.split_at(group.rows as usize);
            rest = others;
            (*group, own)
        })
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// The label sets in the order of their bytes, and for each of the unordered ones its place in it.
pub fn rank_by_bytes(label_sets: Vec<LabelSet>) -> (Vec<LabelSet>, Vec<u32>) {
    let rank = ranks(&label_sets);
    let mut sorted = vec![LabelSet::default(); label_sets.len()];
    for (set, &place) in label_sets.into_iter().zip(&rank) {
        sorted[place as usize] = set;
    }
    (sorted, rank)
}

/// The place of each label set in the order of their bytes. Sets that come later move the places
/// of these and never change their order.
pub fn ranks(label_sets: &[LabelSet]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..label_sets.len()).collect();
    order.sort_unstable_by_key(|&number| &label_sets[number]);
    let mut rank = vec![0; label_sets.len()];
    for (place, &number) in order.iter().enumerate() {
        rank[number] = place as u32;
    }
    rank
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
    fn new(rows: &Rows, rank: &[u32], grain: Grain) -> Self {
        let hours: Vec<i32> = rows
            .seconds
            .iter()
            .map(|&seconds| {
                let bucket = grain.truncate(seconds);
                bucket.expect("a time without a bucket is rejected").hours()
            })
            .collect();
        let first = hours.iter().copied().min().map_or(0, i64::from);
        let last = hours.iter().copied().max().map_or(0, i64::from);
        // Every grain but the hour begins at midnight.
        let step = match grain {
            Grain::Hour => 1,
            _ => 24,
        };
        Self {
            label_set: rows
                .label_set
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
fn by_counting(keys: &Keys, results: &[u8]) -> Groups {
    let cells = (keys.label_sets * keys.buckets) as usize;
    let cell = |row: usize| {
        keys.label_set[row] as usize * keys.buckets as usize + keys.bucket[row] as usize
    };
    // There are fewer than 2^32 rows.
    let mut next = vec![0u32; cells];
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
                rows: u64::from(rows),
            });
        }
    }
    let mut sorted = vec![0; results.len()];
    for (row, &result) in results.iter().enumerate() {
        let place = &mut next[cell(row)];
        sorted[*place as usize] = result;
        *place += 1;
    }
    Groups {
        groups,
        results: sorted,
    }
}

/// A stable sort, for keys that are spread too thinly for a table.
fn by_sorting(keys: &Keys, results: &[u8]) -> Groups {
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
    Groups {
        groups,
        results: rows.into_iter().map(|(_, result)| result).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn rows(of: &[(String, i64, u8)]) -> Rows {
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

    pub(crate) fn any_row() -> impl Strategy<Value = (String, i64, u8)> {
        // Close together for the table, far apart for the sort.
        let seconds = prop_oneof![0..400_000i64, -2_000_000_000..2_000_000_000i64];
        ("[a-dé]{0,2}", seconds, 0u8..=1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_table_and_the_sort_agree(of in prop::collection::vec(any_row(), 1..100)) {
            let rows = rows(&of);
            let keys = Keys::new(&rows, &ranks(&rows.label_sets), Grain::Month);
            let (table, sort) = (
                by_counting(&keys, &rows.results),
                by_sorting(&keys, &rows.results),
            );
            prop_assert_eq!(table.groups, sort.groups);
            prop_assert_eq!(table.results, sort.results);
        }
    }
}
