//! Gives each label set a small number, so that a row's labels are looked up once and never copied.
//! Those that no message could carry, or no text could show, get none.

use std::collections::HashMap;

use pipeline::LabelSet;
use pipeline::group_key::MAX_LABEL_BYTES;

use crate::rejects::Reason;

/// The label sets that occurred, numbered in the order of first appearance.
#[derive(Debug, Default)]
pub struct Labels {
    sets: Vec<LabelSet>,
    /// Values as bytes, each after its length, so that no two sets look the same.
    numbers: HashMap<Box<[u8]>, u32, foldhash::fast::RandomState>,
    scratch: Vec<u8>,
}

impl Labels {
    /// The number of a label set, from 0.
    ///
    /// # Errors
    /// The reason to reject its row, when a value is no UTF-8 or all are too long together.
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

    /// Numbers a set that is new. One that is rejected is not kept: there may be as many as rows.
    #[cold]
    fn add<'v>(&mut self, values: impl Iterator<Item = &'v [u8]> + Clone) -> Result<u32, Reason> {
        let texts: Result<Vec<&str>, _> = values.map(std::str::from_utf8).collect();
        let texts = texts.map_err(|_| Reason::InvalidUtf8)?;
        if texts.iter().map(|text| text.len()).sum::<usize>() > MAX_LABEL_BYTES {
            // Its scratch is not kept either.
            self.scratch = Vec::new();
            return Err(Reason::LabelTooLong);
        }
        let number = self.sets.len() as u32;
        self.sets.push(LabelSet::new(texts));
        self.numbers.insert(self.scratch.as_slice().into(), number);
        Ok(number)
    }

    /// The number of a set that others have accepted.
    pub fn take(&mut self, set: &LabelSet) -> u32 {
        let values = set.values.iter().map(String::as_bytes);
        self.number(values)
            .expect("what was accepted once is accepted")
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
    fn labels_are_too_long_together_by_one_byte_more_than_the_limit() {
        let mut labels = Labels::default();
        let half = "x".repeat(MAX_LABEL_BYTES / 2);
        let half = half.as_bytes();
        assert_eq!(number(&mut labels, &[half, half]), Ok(0));
        let too_long = number(&mut labels, &[half, half, b"y"]);
        assert_eq!(too_long, Err(Reason::LabelTooLong));
        // They count in bytes, and the number of the rejected set is free.
        let umlauts = "ä".repeat(MAX_LABEL_BYTES / 2);
        assert_eq!(number(&mut labels, &[umlauts.as_bytes()]), Ok(1));
        let too_long = number(&mut labels, &[umlauts.as_bytes(), b"y"]);
        assert_eq!(too_long, Err(Reason::LabelTooLong));
        assert_eq!(number(&mut labels, &[half, half]), Ok(0));
        assert_eq!(labels.sets().len(), 2);
    }

    #[test]
    fn a_rejected_label_is_rejected_again_and_takes_no_number() {
        let mut labels = Labels::default();
        for _ in 0..2 {
            assert_eq!(number(&mut labels, &[b"\xe7"]), Err(Reason::InvalidUtf8));
        }
        assert_eq!(number(&mut labels, &[b"Italy"]), Ok(0));
        assert_eq!(number(&mut labels, &[b"It", b"aly"]), Ok(1));
    }
}
