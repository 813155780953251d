//! The numbers of label sets, by which rows refer to their labels: a row's labels are looked up once
//! and not copied. Label sets that are too long for a message, or not UTF-8, get no number.

use std::collections::HashMap;

use pipeline::LabelSet;
use pipeline::group_key::MAX_LABEL_BYTES;

use crate::rejects::Reason;

/// The label sets that occurred, numbered in the order of first appearance.
#[derive(Debug, Default)]
pub struct Labels {
    sets: Vec<LabelSet>,
    /// The number of each set, by its values as bytes, each after its length, so that no two sets have
    /// the same key.
    numbers: HashMap<Box<[u8]>, u32, foldhash::fast::RandomState>,
    /// The key that is looked up; its memory is reused.
    scratch: Vec<u8>,
}

impl Labels {
    /// The number of a label set, from 0.
    ///
    /// # Errors
    /// The reason to reject its row: a value is not UTF-8, or all values together are too long.
    #[inline]
    pub fn number<'v>(
        &mut self,
        values: impl Iterator<Item = &'v [u8]> + Clone,
    ) -> Result<u32, Reason> {
        self.scratch.clear();
        for value in values.clone() {
            self.scratch
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
            self.scratch.extend_from_slice(value);
        }
        match self.numbers.get(self.scratch.as_slice()) {
            Some(&number) => Ok(number),
            None => self.add(values),
        }
    }

    /// Adds a new set. A rejected set is not kept, because there may be as many of them as rows.
    #[cold]
    fn add<'v>(&mut self, values: impl Iterator<Item = &'v [u8]> + Clone) -> Result<u32, Reason> {
        let texts: Result<Vec<&str>, _> = values.map(std::str::from_utf8).collect();
        let texts = texts.map_err(|_| Reason::InvalidUtf8)?;
        if texts.iter().map(|text| text.len()).sum::<usize>() > MAX_LABEL_BYTES {
            // The memory of its key is not kept, either.
            self.scratch = Vec::new();
            return Err(Reason::LabelTooLong);
        }
        let number = self.sets.len() as u32;
        self.sets.push(LabelSet::new(texts));
        self.numbers.insert(self.scratch.as_slice().into(), number);
        Ok(number)
    }

    /// The number of a set that was accepted before, by the labels of another block.
    pub fn number_of_accepted(&mut self, set: &LabelSet) -> u32 {
        let values = set.values.iter().map(String::as_bytes);
        self.number(values)
            .expect("an accepted set is accepted again")
    }

    /// The label sets so far, by number.
    pub fn sets(&self) -> &[LabelSet] {
        &self.sets
    }

    /// The label sets, by number.
    pub fn into_sets(self) -> Vec<LabelSet> {
        self.sets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(labels: &mut Labels, values: &[&[u8]]) -> Result<u32, Reason> {
        labels.number(values.iter().copied())
    }

    #[test]
    fn labels_of_one_byte_more_than_the_limit_together_are_too_long() {
        let mut labels = Labels::default();
        let half = "x".repeat(MAX_LABEL_BYTES / 2);
        let half = half.as_bytes();
        assert_eq!(number(&mut labels, &[half, half]), Ok(0));
        let too_long = number(&mut labels, &[half, half, b"y"]);
        assert_eq!(too_long, Err(Reason::LabelTooLong));
        // Bytes are counted, not characters; the number of the rejected set is not used.
        let umlauts = "ä".repeat(MAX_LABEL_BYTES / 2);
        assert_eq!(number(&mut labels, &[umlauts.as_bytes()]), Ok(1));
        let too_long = number(&mut labels, &[umlauts.as_bytes(), b"y"]);
        assert_eq!(too_long, Err(Reason::LabelTooLong));
        assert_eq!(number(&mut labels, &[half, half]), Ok(0));
        assert_eq!(labels.sets().len(), 2);
    }

    #[test]
    fn a_rejected_label_is_rejected_again_and_gets_no_number() {
        let mut labels = Labels::default();
        for _ in 0..2 {
            assert_eq!(number(&mut labels, &[b"\xe7"]), Err(Reason::InvalidUtf8));
        }
        assert_eq!(number(&mut labels, &[b"Italy"]), Ok(0));
        assert_eq!(number(&mut labels, &[b"It", b"aly"]), Ok(1));
    }
}
