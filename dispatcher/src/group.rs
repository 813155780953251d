//! The grouping of rows by labels and time bucket. Groups are in the order of labels as bytes and time;
//! the rows of a group are in record order. The result depends on the rows and the grain alone.

use pipeline::{Grain, LabelSet, TimeBucket};

use crate::records::{Limit, RecordSlice, Records, Width};
use crate::source::Rows;

/// The most cells of the dense table for each row; a sparser table is replaced by a sort.
const CELLS_PER_ROW: u64 = 4;

/// The number of cells that are allowed for any number of rows, in addition.
const BASE_CELLS: u64 = 1 << 16;

const HOURS_PER_DAY: u32 = 24;

/// Groups in the order of their keys, with the row records of each group.
#[derive(Clone, Debug)]
pub struct Groups {
    groups: Vec<Group>,
    /// The records of all groups, one after the other; those of a group in record order.
    records: Records,
}

/// The key of a group, and the number of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The rank of the label set in the order of bytes, from 0.
    pub label_set: u32,
    /// The time bucket.
    pub time: TimeBucket,
    /// The number of rows.
    pub rows: u64,
}

impl Groups {
    /// Groups rows; `rank` is the rank of each of their label sets in the order of bytes.
    pub fn new(rows: &Rows, rank: &[u32], grain: Grain) -> Self {
        let keys = Keys::new(rows, rank, grain);
        let limit = rows.len() as u64 * CELLS_PER_ROW + BASE_CELLS;
        // With fewer than 2^32 rows, the number of rows in a cell fits in a u32, too.
        if keys.cells() <= limit.min(u32::MAX.into()) && u32::try_from(rows.len()).is_ok() {
            by_counting(&keys, &rows.records)
        } else {
            by_sorting(&keys, &rows.records)
        }
    }

    /// The groups in order, each with its records.
    pub fn iter(&self) -> impl Iterator<Item = (&Group, RecordSlice<'_>)> {
        let mut rest = self.records.as_slice();
        self.groups.iter().map(move |group| {
            let (own, others) = rest.split_at(group.rows as usize);
            rest = others;
            (group, own)
        })
    }

    /// The number of rows of each group, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = u64> {
        self.groups.iter().map(|group| group.rows)
    }

    /// The number of bytes of all records; `None` when records have a variable width.
    pub fn bytes_of_fixed_width(&self) -> Option<u64> {
        match self.records.width() {
            Width::Fixed(_) => Some(self.records.bytes().len() as u64),
            Width::Variable => None,
        }
    }

    /// Hands over the parts of each group that a limit allows, in order, as [`RecordSlice::split_at_limit`]
    /// cuts them: the group, whether the part is its first, how many rows it has, and its records.
    ///
    /// # Errors
    /// What `visit` returns.
    #[inline]
    pub fn for_each_part<'a, E>(
        &'a self,
        limit: Limit,
        mut visit: impl FnMut(&'a Group, bool, usize, &'a [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Width::Fixed(width) = self.records.width() else {
            for (group, records) in self.iter() {
                let (mut rest, mut is_first) = (records, true);
                while !rest.is_empty() {
                    let (part, others) = rest.split_at_limit(limit);
                    visit(group, is_first, part.len(), part.bytes())?;
                    (rest, is_first) = (others, false);
                }
            }
            return Ok(());
        };
        // Most computations have records of one width, and nothing but numbers is cut for them.
        let mut bytes = self.records.bytes();
        for group in &self.groups {
            let (mut rows, mut is_first) = (group.rows as usize, true);
            while rows > 0 {
                let own = rows.min(limit.rows());
                let (part, rest) = bytes.split_at(own * width);
                visit(group, is_first, own, part)?;
                bytes = rest;
                rows -= own;
                is_first = false;
            }
        }
        Ok(())
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// The label sets in the order of their bytes, and the rank of each of the given ones in that order.
pub fn rank_by_bytes(label_sets: Vec<LabelSet>) -> (Vec<LabelSet>, Vec<u32>) {
    let rank = ranks(&label_sets);
    let mut sorted = vec![LabelSet::default(); label_sets.len()];
    for (set, &place) in label_sets.into_iter().zip(&rank) {
        sorted[place as usize] = set;
    }
    (sorted, rank)
}

/// The rank of each label set in the order of their bytes, from 0. Further sets change the ranks of
/// these, and never their order.
pub fn ranks(label_sets: &[LabelSet]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..label_sets.len()).collect();
    order.sort_unstable_by_key(|&number| &label_sets[number]);
    let mut rank = vec![0; label_sets.len()];
    for (place, &number) in order.iter().enumerate() {
        rank[number] = place as u32;
    }
    rank
}

/// The keys of all rows as two numbers: the rank of the label set, and the number of the time bucket
/// counted from the earliest bucket.
struct Keys<'r> {
    label_set: &'r [u32],
    rank: &'r [u32],
    /// The time bucket of each row, in hours since 1970.
    hours: Vec<i32>,
    /// The number of buckets from the earliest to the latest.
    buckets: u64,
    /// The earliest bucket, in hours since 1970.
    first: i32,
    /// Whether a bucket is an hour; buckets of all other grains begin at midnight.
    by_hour: bool,
}

impl<'r> Keys<'r> {
    fn new(rows: &'r Rows, rank: &'r [u32], grain: Grain) -> Self {
        let hours: Vec<i32> = rows
            .seconds
            .iter()
            .map(|&seconds| {
                let bucket = grain.truncate(seconds);
                bucket.expect("a time without a bucket is rejected").hours()
            })
            .collect();
        let first = hours.iter().copied().min().unwrap_or(0);
        let last = hours.iter().copied().max().unwrap_or(0);
        let mut keys = Self {
            label_set: &rows.label_set,
            rank,
            hours,
            buckets: 0,
            first,
            by_hour: grain == Grain::Hour,
        };
        keys.buckets = u64::from(keys.bucket(last)) + 1;
        keys
    }

    /// The number of pairs of a label set and a bucket, with rows or without.
    fn cells(&self) -> u64 {
        (self.rank.len() as u64).saturating_mul(self.buckets)
    }

    /// The number of a bucket.
    fn bucket(&self, hours: i32) -> u32 {
        let since = hours.abs_diff(self.first);
        match self.by_hour {
            true => since,
            false => since / HOURS_PER_DAY,
        }
    }

    /// The rank of the label set and the number of the bucket of a row.
    fn of(&self, row: usize) -> (u32, u32) {
        let place = self.rank[self.label_set[row] as usize];
        (place, self.bucket(self.hours[row]))
    }

    /// The bucket with a number.
    fn time(&self, bucket: u64) -> TimeBucket {
        let step = if self.by_hour { 1 } else { HOURS_PER_DAY };
        TimeBucket::from_hours(i64::from(self.first) + bucket as i64 * i64::from(step))
            .expect("it lies between two buckets of the rows")
    }
}

/// A counting sort over all cells, which are pairs of a label set and a bucket: two passes over the
/// rows, and no comparison.
fn by_counting(keys: &Keys<'_>, records: &Records) -> Groups {
    let mut next = vec![0u32; keys.cells() as usize];
    let cell_of: Vec<u32> = (0..keys.hours.len())
        .map(|row| {
            let (place, bucket) = keys.of(row);
            let cell = place * keys.buckets as u32 + bucket;
            next[cell as usize] += 1;
            cell
        })
        .collect();
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
    let records = match records.width() {
        // A record of one byte, as most computations have, is moved as a byte.
        Width::Fixed(0 | 1) => {
            records.with_bytes(placed(&mut next, &cell_of, records.bytes().iter().copied()))
        }
        _ => {
            let order: Vec<u32> = placed(&mut next, &cell_of, 0..cell_of.len() as u32);
            records.gather(order.iter().map(|&row| row as usize))
        }
    };
    Groups { groups, records }
}

/// The values of rows in the order of their cells; `next` has the position of the first value of each
/// cell.
fn placed<T: Copy + Default>(
    next: &mut [u32],
    cell_of: &[u32],
    values: impl ExactSizeIterator<Item = T>,
) -> Vec<T> {
    let mut sorted = vec![T::default(); values.len()];
    for (&cell, value) in cell_of.iter().zip(values) {
        let place = &mut next[cell as usize];
        sorted[*place as usize] = value;
        *place += 1;
    }
    sorted
}

/// A stable sort, for keys that are too sparse for a table.
fn by_sorting(keys: &Keys<'_>, records: &Records) -> Groups {
    let mut rows: Vec<(u64, usize)> = (0..keys.hours.len())
        .map(|row| {
            let (place, bucket) = keys.of(row);
            (u64::from(place) << 32 | u64::from(bucket), row)
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
        records: records.gather(rows.iter().map(|&(_, row)| row)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A label, a time, and a record.
    pub(crate) type PlainRow = (String, i64, Vec<u8>);

    /// Rows with these records, which must have this width.
    pub(crate) fn rows(of: &[PlainRow], width: Width) -> Rows {
        let mut rows = Rows::new(width);
        for (label, seconds, record) in of {
            let set = LabelSet::new([label.clone()]);
            let number = rows.label_sets.iter().position(|known| *known == set);
            let number = number.unwrap_or_else(|| {
                rows.label_sets.push(set);
                rows.label_sets.len() - 1
            });
            rows.label_set.push(number as u32);
            rows.seconds.push(*seconds);
            rows.records.push(record);
        }
        rows
    }

    /// A width, and at most `most` rows with records of that width.
    pub(crate) fn any_rows(most: usize) -> impl Strategy<Value = (Width, Vec<PlainRow>)> {
        let widths = (0..4usize).prop_map(Width::Fixed);
        let widths = prop_oneof![widths, Just(Width::Variable)];
        widths.prop_flat_map(move |width| {
            // Close together for the table, far apart for the sort.
            let seconds = prop_oneof![0..400_000i64, -2_000_000_000..2_000_000_000i64];
            let lengths = match width {
                Width::Fixed(width) => width..=width,
                Width::Variable => 0..=5,
            };
            let record = prop::collection::vec(any::<u8>(), lengths);
            let rows = prop::collection::vec(("[a-dé]{0,2}", seconds, record), 1..most);
            (Just(width), rows)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn counting_and_sorting_give_the_same_groups((width, of) in any_rows(100)) {
            let rows = rows(&of, width);
            let rank = ranks(&rows.label_sets);
            let keys = Keys::new(&rows, &rank, Grain::Month);
            let (table, sort) = (
                by_counting(&keys, &rows.records),
                by_sorting(&keys, &rows.records),
            );
            prop_assert_eq!(table.groups, sort.groups);
            prop_assert_eq!(table.records, sort.records);
        }
    }
}
