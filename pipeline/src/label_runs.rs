//! Labels of consecutive jobs as runs: jobs are numbered by label, so that a batch of a thousand
//! jobs has a handful of label sets, each said once with the number of jobs that share it.

use crate::group_key::LabelSet;
use crate::protobuf::{Reader, put_bytes, put_length, put_numbers, varint_bytes};

/// The field of a label set with its values.
const VALUES: u32 = 1;

/// The labels of a batch that is being filled.
#[derive(Clone, Debug, Default)]
pub(crate) struct LabelColumns {
    /// The field of the batch that holds a label set.
    field: u32,
    /// The label sets as fields of the message.
    sets: Vec<u8>,
    /// How many jobs share each of them.
    jobs: Vec<u32>,
    /// The labels of the job that came last, in the batch before maybe, and the field that they are.
    last: LabelSet,
    last_encoded: Vec<u8>,
}

impl LabelColumns {
    /// No labels, for a message with label sets in `field` and the numbers of their jobs in the next.
    pub(crate) fn new(field: u32) -> Self {
        Self {
            field,
            ..Self::default()
        }
    }

    /// Adds one job's labels. Returns how many bytes that adds to a message, at most.
    #[inline(always)]
    pub(crate) fn push(&mut self, labels: &LabelSet) -> usize {
        match self.jobs.last_mut() {
            Some(jobs) if are_same(&self.last, labels) => {
                *jobs += 1;
                0
            }
            _ => self.begin_run(labels),
        }
    }

    fn begin_run(&mut self, labels: &LabelSet) -> usize {
        /// The number of its jobs.
        const JOBS_BYTES: usize = 5;
        if self.last_encoded.is_empty() || self.last != *labels {
            self.last.values.clone_from(&labels.values);
            let values = labels.values.iter();
            let bytes = values.map(|value| 1 + varint_bytes(value.len() as u64) + value.len());
            self.last_encoded.clear();
            put_length(self.field, bytes.sum(), &mut self.last_encoded);
            for value in &labels.values {
                put_bytes(VALUES, value.as_bytes(), &mut self.last_encoded);
            }
        }
        self.sets.extend_from_slice(&self.last_encoded);
        self.jobs.push(1);
        self.last_encoded.len() + JOBS_BYTES
    }

    /// Appends the columns to a message.
    #[inline]
    pub(crate) fn put(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.sets);
        put_numbers(self.field + 1, &self.jobs, buffer);
    }

    /// Begins an empty batch.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.sets.clear();
        self.jobs.clear();
    }
}

/// Whether two label sets are equal. They are short and mostly are, and are compared for each job: to
/// call what compares memory would take longer than to compare a word or two.
#[inline(always)]
pub(crate) fn are_same(one: &LabelSet, other: &LabelSet) -> bool {
    let mut values = one.values.iter().zip(&other.values);
    one.values.len() == other.values.len()
        && values.all(|(one, other)| {
            let (one, other) = (one.as_bytes(), other.as_bytes());
            // Where it has less than two words, they overlap.
            one.len() == other.len()
                && match one.len() {
                    8..=16 => ends_are_same::<8>(one, other),
                    4..8 => ends_are_same::<4>(one, other),
                    _ => one == other,
                }
        })
}

#[inline(always)]
fn ends_are_same<const N: usize>(one: &[u8], other: &[u8]) -> bool {
    one.first_chunk::<N>() == other.first_chunk() && one.last_chunk::<N>() == other.last_chunk()
}

/// The label sets that were read from a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DecodedLabelSets {
    sets: Vec<LabelSet>,
    /// The fields that they were read from.
    encoded: Vec<u8>,
}

impl DecodedLabelSets {
    /// Reads the label sets in a field of a message, in place of those that are there. The same as in
    /// the message before, which those of one job each mostly have, are only compared.
    #[inline]
    pub(crate) fn read(&mut self, field: u32, reader: &mut Reader<'_>) -> Option<()> {
        let before = reader.rest();
        while reader.next_bytes(field)?.is_some() {}
        let encoded = &before[..before.len() - reader.rest().len()];
        // What could not be read before may have left anything.
        if self.encoded.is_empty() || encoded != self.encoded {
            self.encoded.clear();
            self.read_other(field, Reader::new(encoded))?;
            self.encoded.extend_from_slice(encoded);
        }
        Some(())
    }

    /// Reads label sets in the memory of those that are there.
    fn read_other(&mut self, field: u32, mut reader: Reader<'_>) -> Option<()> {
        let mut sets = 0;
        while let Some(set) = reader.next_bytes(field)? {
            if sets == self.sets.len() {
                self.sets.push(LabelSet::default());
            }
            let values = &mut self.sets[sets].values;
            sets += 1;
            let mut number = 0;
            let mut set = Reader::new(set);
            while let Some(value) = set.next_bytes(VALUES)? {
                let value = std::str::from_utf8(value).ok()?;
                match values.get_mut(number) {
                    Some(own) => value.clone_into(own),
                    None => values.push(value.to_owned()),
                }
                number += 1;
            }
            set.end()?;
            values.truncate(number);
        }
        self.sets.truncate(sets);
        Some(())
    }

    /// The label sets.
    #[inline(always)]
    pub(crate) fn sets(&self) -> &[LabelSet] {
        &self.sets
    }
}

/// Whether the runs are well-formed and cover exactly `jobs` jobs.
pub(crate) fn cover(label_sets: &[LabelSet], label_set_jobs: &[u32], jobs: usize) -> bool {
    label_sets.len() == label_set_jobs.len()
        && label_set_jobs.iter().all(|&run| run > 0)
        && label_set_jobs
            .iter()
            .map(|&run| u64::from(run))
            .sum::<u64>()
            == jobs as u64
}

/// Walks through the jobs' label sets by position.
#[derive(Clone, Debug)]
pub(crate) struct Positions<'a> {
    runs: &'a [u32],
    position: usize,
    left: u32,
}

impl<'a> Positions<'a> {
    /// A walk over runs that [`cover`] the jobs.
    #[inline]
    pub(crate) fn new(runs: &'a [u32]) -> Self {
        Self {
            runs,
            position: 0,
            left: runs.first().copied().unwrap_or(0),
        }
    }

    /// A walk that goes on from a [`place`](Self::place) of another one over the same runs.
    #[inline]
    pub(crate) fn at(runs: &'a [u32], (position, left): (usize, u32)) -> Self {
        Self {
            runs,
            position,
            left,
        }
    }

    /// How far the walk has come.
    #[inline]
    pub(crate) fn place(&self) -> (usize, u32) {
        (self.position, self.left)
    }

    /// The position of the next job's label set in the batch's dictionary.
    #[inline]
    pub(crate) fn advance(&mut self) -> usize {
        if self.left == 0 {
            self.position += 1;
            self.left = self.runs[self.position];
        }
        self.left -= 1;
        self.position
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn label_sets_are_the_same_when_they_are_equal(
            values in prop::collection::vec("[ab]{0,20}", 0..3),
            changed: prop::sample::Index,
        ) {
            let one = LabelSet::new(values.clone());
            prop_assert!(are_same(&one, &LabelSet::new(values.clone())));
            prop_assert!(!are_same(&one, &LabelSet::new([values.clone(), vec![String::new()]].concat())));
            // A byte that is another makes it another.
            let mut other = values;
            let bytes = other.iter().map(String::len).sum::<usize>();
            if bytes > 0 {
                let mut at = changed.index(bytes);
                for value in &mut other {
                    if at < value.len() {
                        value.replace_range(at..=at, "c");
                        break;
                    }
                    at -= value.len();
                }
                prop_assert!(!are_same(&one, &LabelSet::new(other)));
            }
        }
    }
}
