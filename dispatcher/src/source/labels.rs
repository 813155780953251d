//! Gives each label set a small number, so that a row's labels are looked up once and never copied.

use std::collections::HashMap;

use pipeline::LabelSet;

/// The label sets that occurred, numbered in the order of first appearance.
#[derive(Debug, Default)]
pub struct Labels {
    sets: Vec<LabelSet>,
    /// Values as bytes, each after its length, so that no two sets look the same. `None`: no UTF-8.
    numbers: HashMap<Box<[u8]>, Option<u32>, foldhash::fast::RandomState>,
    scratch: Vec<u8>,
}

impl Labels {
    /// The number of a label set, from 0; `None` when a value is no UTF-8.
    pub fn number<'v>(&mut self, values: impl Iterator<Item = &'v [u8]> + Clone) -> Option<u32> {
        self.scratch.clear();
        for value in values.clone() {
            self.scratch
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
            self.scratch.extend_from_slice(value);
        }
        if let Some(&number) = self.numbers.get(self.scratch.as_slice()) {
            return number;
        }
        let set: Option<Vec<String>> = values
            .map(|value| std::str::from_utf8(value).ok().map(str::to_owned))
            .collect();
        let number = set.map(|values| {
            self.sets.push(LabelSet { values });
            self.sets.len() as u32 - 1
        });
        self.numbers
            .insert(self.scratch.clone().into_boxed_slice(), number);
        number
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
