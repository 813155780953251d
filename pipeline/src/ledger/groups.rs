//! The groups of a ledger, in key order: what a table of a run is made of.

use super::Ledger;
use super::labels::Labels;
use super::lines::Line;
use super::results::{Reader, Results, Stored};
use super::spill::SpillError;
use crate::grain::TimeBucket;

/// A group that has an outcome.
#[derive(Clone, Copy, Debug)]
pub struct Group<'p> {
    /// Position of its labels in [`Groups::label_sets`].
    pub label_set: u32,
    /// Its truncated time; `None` in a run that does not group by time.
    pub time: Option<TimeBucket>,
    /// The results of its completed jobs, in the order of the parts; empty when none was completed,
    /// so that nothing is known of the group.
    pub parts: &'p [&'p [u8]],
}

/// A ledger's outcomes by group.
#[derive(Debug)]
pub struct Groups<'a> {
    ledger: &'a Ledger,
    /// Numbers of label sets in the ledger, in the order of their bytes.
    order: Vec<u32>,
    /// The position in that order, by number in the ledger.
    ranks: Vec<u32>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let labels = &ledger.labels;
        let mut order: Vec<u32> = (0..labels.len() as u32).collect();
        order.sort_unstable_by_key(|&id| labels.get(id));
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
    pub fn label_sets(&self) -> impl ExactSizeIterator<Item = Labels<'a>> {
        self.order.iter().map(|&id| self.ledger.labels.get(id))
    }

    /// The label set of a group.
    pub fn labels(&self, group: &Group<'_>) -> Labels<'a> {
        self.ledger.labels.get(self.order[group.label_set as usize])
    }

    /// Hands over each group that has an outcome, in the order of labels as bytes and time, until
    /// `visit` fails.
    ///
    /// Jobs are numbered in that order, so one walk along the ledger collects the parts of each
    /// group. A ledger whose keys do not ascend (no dispatcher of this protocol makes one) is sorted
    /// first.
    ///
    /// # Errors
    /// When spilled results cannot be read back, or what `visit` returns.
    pub fn for_each<E: From<SpillError>>(
        &self,
        visit: impl FnMut(Group<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut walk = Walk {
            groups: self,
            parts: Parts {
                results: &self.ledger.results,
                in_memory: Vec::new(),
                spilled: Vec::new(),
                reader: self.ledger.reader(),
            },
            visit,
        };
        let mut last: Option<&Line> = None;
        let mut add = |line| match last.replace(line) {
            Some(last) => walk.go_on(last, line),
            None => Ok(()),
        };
        let lines = &self.ledger.lines;
        if self.is_in_key_order() {
            lines.for_each(|_, line| add(line))?;
        } else {
            let mut sorted: Vec<&Line> = lines.known().map(|(_, line)| line).collect();
            sorted.sort_by_key(|line| self.key(line));
            sorted.into_iter().try_for_each(add)?;
        }
        match last {
            Some(last) => walk.hand_over(last),
            None => Ok(()),
        }
    }

    fn key(&self, line: &Line) -> (u32, i64) {
        (self.ranks[line.label_set as usize], line.time)
    }

    /// The group of a line, with these results.
    #[inline]
    fn group<'p>(&self, line: &Line, parts: &'p [&'p [u8]]) -> Group<'p> {
        Group {
            label_set: self.ranks[line.label_set as usize],
            time: time_of(line.time),
            parts,
        }
    }

    fn is_in_key_order(&self) -> bool {
        // Before any key: no time is earlier.
        let (mut label_set, mut time) = (self.order.first().copied().unwrap_or(0), i64::MIN);
        let in_order = self.ledger.lines.for_each(|_, line| {
            // Most lines have the labels of the one before.
            let is_after = if line.label_set == label_set {
                time <= line.time
            } else {
                self.ranks[label_set as usize] < self.ranks[line.label_set as usize]
            };
            (label_set, time) = (line.label_set, line.time);
            is_after.then_some(()).ok_or(())
        });
        in_order.is_ok()
    }
}

/// A walk along lines in key order, which hands over each group with its last line.
struct Walk<'g, 'a, V> {
    groups: &'g Groups<'a>,
    /// The results of the group of the last line, without that line's.
    parts: Parts<'a>,
    visit: V,
}

impl<'a, V> Walk<'_, 'a, V> {
    /// From the last line to the next.
    // Done for each line.
    #[inline(always)]
    fn go_on<E: From<SpillError>>(&mut self, last: &'a Line, next: &Line) -> Result<(), E>
    where
        V: FnMut(Group<'_>) -> Result<(), E>,
    {
        if (last.label_set, last.time) == (next.label_set, next.time) {
            self.parts.add(last);
            return Ok(());
        }
        // Most groups are of one job, whose result stands in its line: to collect such results costs
        // several times what is done with them.
        if self.parts.in_memory.is_empty()
            && last.state.is_completed()
            && let Some(result) = last.result.inline()
        {
            return (self.visit)(self.groups.group(last, &[result]));
        }
        self.hand_over(last)
    }

    /// Hands over the group of which this is the last line.
    #[inline(never)]
    fn hand_over<E: From<SpillError>>(&mut self, last: &'a Line) -> Result<(), E>
    where
        V: FnMut(Group<'_>) -> Result<(), E>,
    {
        let parts = &mut self.parts;
        parts.add(last);
        if parts.spilled.is_empty() {
            (self.visit)(self.groups.group(last, &parts.in_memory))?;
        } else {
            let mut read = Vec::new();
            let ends = parts.read_spilled(&mut read)?;
            (self.visit)(self.groups.group(last, &parts.with_spilled(&read, &ends)))?;
            parts.spilled.clear();
        }
        parts.in_memory.clear();
        Ok(())
    }
}

/// The results of a group that is walked along, but for its last line.
struct Parts<'a> {
    results: &'a Results,
    /// The results, those that were spilled empty.
    in_memory: Vec<&'a [u8]>,
    /// The results that were spilled, with their positions among all.
    spilled: Vec<(usize, &'a Stored)>,
    reader: Reader<'a>,
}

impl<'a> Parts<'a> {
    fn add(&mut self, line: &'a Line) {
        if line.state.is_completed() {
            let result = self.results.get(&line.result);
            if result.is_none() {
                self.spilled.push((self.in_memory.len(), &line.result));
            }
            self.in_memory.push(result.unwrap_or_default());
        }
    }

    /// Reads the spilled results, one behind the other. Returns where each ends.
    fn read_spilled(&mut self, read: &mut Vec<u8>) -> Result<Vec<usize>, SpillError> {
        let mut ends = Vec::with_capacity(self.spilled.len());
        for (_, stored) in &self.spilled {
            read.extend_from_slice(self.reader.read(stored)?);
            ends.push(read.len());
        }
        Ok(ends)
    }

    /// All results, with those that were read at their places.
    fn with_spilled<'r>(&'r self, read: &'r [u8], ends: &[usize]) -> Vec<&'r [u8]> {
        let mut parts: Vec<&[u8]> = self.in_memory.clone();
        let mut from = 0;
        for (&(place, _), &to) in self.spilled.iter().zip(ends) {
            parts[place] = &read[from..to];
            from = to;
        }
        parts
    }
}

/// The time of a line.
pub(super) fn time_of(seconds: i64) -> Option<TimeBucket> {
    // NO_TIME is out of range, too.
    TimeBucket::from_seconds(seconds)
}
