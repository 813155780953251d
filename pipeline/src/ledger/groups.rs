//! The groups of a ledger, in key order: what a table of a run is made of.

use super::Ledger;
use super::lines::{Line, NO_TIME, State};
use crate::grain::TimeBucket;
use crate::group_key::LabelSet;

/// A group that has an outcome.
#[derive(Clone, Copy, Debug)]
pub struct Group<'p, 'a> {
    /// Position of its labels in [`Groups::label_sets`].
    pub label_set: u32,
    /// Its truncated time; `None` in a run that does not group by time.
    pub time: Option<TimeBucket>,
    /// The results of its completed jobs, in the order of the parts; empty when none was completed,
    /// so that nothing is known of the group.
    pub parts: &'p [&'a [u8]],
}

/// A ledger's outcomes by group.
#[derive(Debug)]
pub struct Groups<'a> {
    ledger: &'a Ledger,
    /// Numbers of label sets in the ledger, in the order of their bytes.
    order: Vec<u32>,
    /// By number in the ledger: position in that order.
    ranks: Vec<u32>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let label_sets = &ledger.label_sets;
        let mut order: Vec<u32> = (0..label_sets.len() as u32).collect();
        order.sort_unstable_by_key(|&id| &label_sets[id as usize]);
        let mut ranks = vec![0u32; order.len()];
        for (position, &id) in order.iter().enumerate() {
            ranks[id as usize] = position as u32;
        }
        Self {
            ledger,
            order,
            ranks,
        }
    }

    /// The label sets of all groups, in the order of their bytes.
    pub fn label_sets(&self) -> impl ExactSizeIterator<Item = &'a LabelSet> {
        let label_sets = &self.ledger.label_sets;
        self.order.iter().map(|&id| &label_sets[id as usize])
    }

    /// Hands over each group that has an outcome, in the order of labels as bytes and time.
    ///
    /// Jobs are numbered in that order, so one walk along the ledger collects the parts of each
    /// group. A ledger whose keys do not ascend (no dispatcher of this protocol makes one) is sorted
    /// first.
    pub fn for_each(&self, visit: impl FnMut(Group<'_, 'a>)) {
        let known = self.ledger.lines.known().map(|(_, line)| line);
        let key = |line: &Line| self.key(line);
        if known.clone().is_sorted_by_key(key) {
            self.walk(known, visit);
        } else {
            let mut sorted: Vec<&Line> = known.collect();
            sorted.sort_by_key(|line| self.key(line));
            self.walk(sorted.into_iter(), visit);
        }
    }

    fn key(&self, line: &Line) -> (u32, i64) {
        (self.ranks[line.label_set as usize], line.time)
    }

    fn walk(&self, lines: impl Iterator<Item = &'a Line>, mut visit: impl FnMut(Group<'_, 'a>)) {
        let mut parts: Vec<&'a [u8]> = Vec::new();
        let mut last = None;
        let mut hand_over = |(label_set, time): (u32, i64), parts: &[&'a [u8]]| {
            visit(Group {
                label_set,
                time: time_of(time),
                parts,
            });
        };
        for line in lines {
            let key = self.key(line);
            if let Some(before) = last.replace(key)
                && before != key
            {
                hand_over(before, &parts);
                parts.clear();
            }
            if line.state == State::Completed {
                parts.push(self.ledger.results.get(&line.result));
            }
        }
        if let Some(last) = last {
            hand_over(last, &parts);
        }
    }
}

/// The time of a line.
pub(super) fn time_of(seconds: i64) -> Option<TimeBucket> {
    match seconds {
        NO_TIME => None,
        seconds => TimeBucket::from_seconds(seconds),
    }
}
