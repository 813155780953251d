//! The key of a group: the label values that its rows share, and the bucket of time they fall into.

use std::cmp::Ordering;

use crate::grain::TimeBucket;

/// The largest total size of a row's label values, in bytes. A job of 500,000 rows (a byte each)
/// behind 64 KiB of others is then well below the 1,000,000 bytes that a producer puts in a message
/// by default, and so is its outcome.
pub const MAX_LABEL_BYTES: usize = 32 * 1024;

/// What a length or a number of values takes where label sets are hashed.
pub(crate) const NUMBER_BYTES: usize = 4;

/// The label values of a group, in the order of the run's label columns. Equality and order are
/// those of the values' bytes, the first column first.
pub use crate::wire::LabelSet;

impl LabelSet {
    /// The set of these values.
    pub fn new<S: Into<String>>(values: impl IntoIterator<Item = S>) -> Self {
        Self {
            values: values.into_iter().map(Into::into).collect(),
        }
    }

    /// How many bytes [`write_hashed`](Self::write_hashed) writes.
    pub(crate) fn hashed_len(&self) -> usize {
        let values = self.values.iter().map(|value| NUMBER_BYTES + value.len());
        NUMBER_BYTES + values.sum::<usize>()
    }

    /// Writes the set as the digest of the job set hashes it: the number of values (u32), then for
    /// each its length in bytes (u32) and its bytes, numbers little-endian. Returns the room behind
    /// it; `None` when there is too little.
    #[inline]
    pub(crate) fn write_hashed<'r>(&self, room: &'r mut [u8]) -> Option<&'r mut [u8]> {
        let (number, mut room) = room.split_first_chunk_mut()?;
        *number = (self.values.len() as u32).to_le_bytes();
        for value in &self.values {
            let (length, behind) = room.split_first_chunk_mut()?;
            *length = (value.len() as u32).to_le_bytes();
            let (bytes, behind) = behind.split_at_mut_checked(value.len())?;
            bytes.copy_from_slice(value.as_bytes());
            room = behind;
        }
        Some(room)
    }

    /// Whether a message has room for it beside a job: no dispatcher makes a larger one, but others may
    /// write to a topic as well.
    pub(crate) fn fits_a_message(&self) -> bool {
        /// Twice what labels may have, for tags and lengths of thousands of columns.
        const MAX_BYTES: usize = 2 * MAX_LABEL_BYTES;
        const FRAME_BYTES: usize = 6;
        let bytes = self.values.iter().map(|value| value.len() + FRAME_BYTES);
        bytes.sum::<usize>() <= MAX_BYTES
    }
}

impl PartialOrd for LabelSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LabelSet {
    fn cmp(&self, other: &Self) -> Ordering {
        self.values.cmp(&other.values)
    }
}

/// What the rows of one group share. Ordered by labels, then time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey<'a> {
    /// The label values.
    pub labels: &'a LabelSet,
    /// The truncated time; `None` in a run that does not group by time.
    pub time: Option<TimeBucket>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_ordered_by_their_bytes_column_by_column() {
        let mut sets = [
            LabelSet::new(["b", ""]),
            LabelSet::new(["Ö", "x"]),
            LabelSet::new(["a", "z"]),
            LabelSet::new(["Z", "a"]),
            LabelSet::new(["a", ""]),
        ];
        sets.sort();
        let firsts: Vec<_> = sets.iter().map(|set| set.values.join("|")).collect();
        assert_eq!(firsts, ["Z|a", "a|", "a|z", "b|", "Ö|x"]);
    }
}
