//! The label sets of a ledger, each once, in one arena.

use std::cmp::Ordering;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::group_key::{LabelSet, NUMBER_BYTES};

/// A label set as it stands in the arena: the number of values, then the length and the bytes of
/// each. Ordered as a [`LabelSet`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels<'a> {
    encoded: &'a [u8],
}

impl<'a> Labels<'a> {
    /// The values, in the order of the run's label columns.
    pub fn values(self) -> impl Iterator<Item = &'a str> {
        self.value_bytes()
            .map(|value| std::str::from_utf8(value).expect("the values of a label set are strings"))
    }

    /// A copy on its own.
    pub fn to_label_set(self) -> LabelSet {
        LabelSet::new(self.values())
    }

    /// Writes the set as the digest of the job set hashes it, which is as it stands here. Returns the
    /// room behind it; `None` when there is too little.
    #[inline]
    pub(crate) fn write_hashed(self, room: &mut [u8]) -> Option<&mut [u8]> {
        let (bytes, behind) = room.split_at_mut_checked(self.encoded.len())?;
        bytes.copy_from_slice(self.encoded);
        Some(behind)
    }

    fn value_bytes(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.encoded.get(NUMBER_BYTES..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<NUMBER_BYTES>()?;
            let (value, after) = behind.split_at(u32::from_le_bytes(*length) as usize);
            rest = after;
            Some(value)
        })
    }
}

impl PartialOrd for Labels<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value_bytes().cmp(other.value_bytes())
    }
}

/// Label sets by number, in the order in which they were first seen.
#[derive(Debug, Default)]
pub struct LabelArena {
    bytes: Vec<u8>,
    /// The position in `bytes` at which each label set begins.
    starts: Vec<u64>,
    /// The numbers, by the hash of what they stand for.
    numbers: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

impl LabelArena {
    /// The number of a label set, which is added if it is not there.
    pub fn intern(&mut self, labels: &LabelSet) -> u32 {
        let start = self.bytes.len();
        self.bytes.resize(start + labels.hashed_len(), 0);
        let behind = labels.write_hashed(&mut self.bytes[start..]);
        debug_assert!(behind.is_some_and(|behind| behind.is_empty()));
        let Self {
            bytes,
            starts,
            numbers,
            hasher,
        } = self;
        let hash = hasher.hash_one(&bytes[start..]);
        let known = |&number: &u32| *slice(bytes, starts, number, start) == bytes[start..];
        if let Some(&number) = numbers.find(hash, known) {
            bytes.truncate(start);
            return number;
        }
        // A label set costs more than a byte on the wire, so 4 billion of them never arrive.
        let number = starts.len() as u32;
        starts.push(start as u64);
        let end = bytes.len();
        numbers.insert_unique(hash, number, |&number| {
            hasher.hash_one(slice(bytes, starts, number, end))
        });
        number
    }

    /// The label set of a number.
    pub fn get(&self, number: u32) -> Labels<'_> {
        Labels {
            encoded: slice(&self.bytes, &self.starts, number, self.bytes.len()),
        }
    }

    /// The number of label sets.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The memory that the label sets take, in bytes.
    pub fn held_bytes(&self) -> u64 {
        /// A number and the byte by which the table finds it.
        const CELL_BYTES: usize = 5;
        // Of eight cells, seven are filled at most.
        let cells = self.numbers.capacity().div_ceil(7) * 8;
        (self.bytes.len() + size_of_val(&self.starts[..]) + cells * CELL_BYTES) as u64
    }
}

/// The bytes of a number's label set; `end` is where the last one ends.
fn slice<'a>(bytes: &'a [u8], starts: &[u64], number: u32, end: usize) -> &'a [u8] {
    let start = starts[number as usize] as usize;
    let end = starts
        .get(number as usize + 1)
        .map_or(end, |&next| next as usize);
    &bytes[start..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_labels() -> impl Strategy<Value = LabelSet> {
        prop::collection::vec("[aÖ\0]{0,3}", 0..3).prop_map(LabelSet::new::<String>)
    }

    proptest! {
        #[test]
        fn label_sets_have_one_number_each_and_the_order_of_their_bytes(
            sets in prop::collection::vec(any_labels(), 0..60),
        ) {
            let mut arena = LabelArena::default();
            let numbers: Vec<u32> = sets.iter().map(|set| arena.intern(set)).collect();
            for (set, &number) in sets.iter().zip(&numbers) {
                prop_assert_eq!(&arena.get(number).to_label_set(), set);
                for (other, &of_other) in sets.iter().zip(&numbers) {
                    prop_assert_eq!(number == of_other, set == other);
                    prop_assert_eq!(arena.get(number).cmp(&arena.get(of_other)), set.cmp(other));
                }
            }
            let distinct: std::collections::BTreeSet<_> = sets.iter().collect();
            prop_assert_eq!(arena.len(), distinct.len());
        }
    }

    #[test]
    fn a_million_label_sets_of_twelve_bytes_take_less_than_fifty_bytes_each() {
        let mut arena = LabelArena::default();
        for number in 0..1_000_000 {
            arena.intern(&LabelSet::new([format!("{number:012}")]));
        }
        assert_eq!(arena.len(), 1_000_000);
        assert!(arena.held_bytes() < 50_000_000, "{}", arena.held_bytes());
    }
}
