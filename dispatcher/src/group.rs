//! Sorts rows into groups, in the order of labels as bytes and time; in a group the rows stay in
//! record order. What comes out depends on the rows and the grain alone.

use pipeline::{Grain, LabelSet, TimeBucket};

use crate::records::{RecordSlice, Records, Width};
use crate::source::Rows;

/// A dense table of cells is used while it has at most so many cells for each row, and some.
const CELLS_PER_ROW: u64 = 4;
const CELLS_IN_ANY_CASE: u64 = 1 << 16;

const HOURS_PER_DAY: u32 = 24;

/// Groups in key order, with the row records of each.
#[derive(Clone, Debug)]
pub struct Groups {
    groups: Vec<Group>,
    /// The records of all groups, one after the other; in a group, in record order.
    records: Records,
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
        let limit = rows.len() as u64 * CELLS_PER_ROW + CELLS_IN_ANY_CASE;
        // Then there are fewer than 2^32 rows in a cell, too.
        if keys.cells() <= limit.min(u32::MAX.into()) && u32::try_from(rows.len()).is_ok() {
            by_counting(&keys, &rows.records)
        } else {
            by_sorting(&keys, &rows.records)
        }
    }

    /// The groups in order, each with its records.
    pub fn iter(&self) -> impl Iterator<Item = (Group, RecordSlice<'_>)> {
        let mut rest = self.records.as_slice();
        self.groups.iter().map(move |group| {
            let (own, others) = rest.split_at(group.rows as usize);
            rest = others;
            (*group, own)
        })
    }

    /// How many bytes each record has, and the groups in order, each with the bytes of its records;
    /// `None` unless each record has as many bytes as any other.
    pub fn of_fixed_width(&self) -> Option<(usize, impl Iterator<Item = (Group, &[u8])>)> {
        let Width::Fixed(width) = self.records.width() else {
            return None;
        };
        let mut rest = self.records.bytes();
        let groups = self.groups.iter().map(move |group| {
            let (own, others) = rest.split_at(group.rows as usize * width);
            rest = others;
            (*group, own)
        });
        Some((width, groups))
    }

    /// The number of rows of each group, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = u64> {
        self.groups.iter().map(|group| group.rows)
    }

    /// How many bytes all records have; `None` unless each has as many as any other.
    pub fn bytes_of_fixed_width(&self) -> Option<u64> {
        match self.records.width() {
            Width::Fixed(_) => Some(self.records.bytes().len() as u64),
            Width::Variable => None,
        }
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
struct Keys<'r> {
    label_set: &'r [u32],
    rank: &'r [u32],
    hours: Vec<i32>,
    /// How many buckets there are from the earliest to the latest.
    buckets: u64,
    /// The earliest bucket.
    first: i32,
    /// Whether buckets are of an hour; those of every other grain begin at midnight.
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

    /// How many (label set, bucket) there are, with rows or without.
    fn cells(&self) -> u64 {
        (self.rank.len() as u64).saturating_mul(self.buckets)
    }

    fn bucket(&self, hours: i32) -> u32 {
        let since = hours.abs_diff(self.first);
        match self.by_hour {
            true => since,
            false => since / HOURS_PER_DAY,
        }
    }

    /// Place of the label set and bucket of a row.
    fn of(&self, row: usize) -> (u32, u32) {
        let place = self.rank[self.label_set[row] as usize];
        (place, self.bucket(self.hours[row]))
    }

    fn time(&self, bucket: u64) -> TimeBucket {
        let step = if self.by_hour { 1 } else { HOURS_PER_DAY };
        TimeBucket::from_hours(i64::from(self.first) + bucket as i64 * i64::from(step))
            .expect("it lies between two buckets of the rows")
    }
}

/// A counting sort over all cells of (label set, bucket): two walks over the rows, no comparison.
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
        // Most computations: what is moved is the very byte, if there is one.
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

/// The values of rows in the order of their cells; `next` has the place of the first one of each cell.
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

/// A stable sort, for keys that are spread too thinly for a table.
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

    /// A label, a time, and a value.
    pub(crate) type PlainRow = (String, i64, Vec<u8>);

    /// Rows whose records have these values, each of which is as wide as is said.
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

    /// Rows of any width, with records of it.
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
        fn the_table_and_the_sort_agree((width, of) in any_rows(100)) {
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
