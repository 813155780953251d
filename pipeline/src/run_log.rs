//! The records of the runs topic that no later tombstone has taken back, in their order. What is left
//! is the same whether or not the broker has compacted the topic: see the tests.

use std::collections::{HashMap, HashSet};

use crate::run::RunEvent;
use crate::run_id::RunId;

/// A record that is left: its offset, key and value.
pub type RunRecord = (i64, Vec<u8>, Vec<u8>);

/// Records of the runs topic, in order.
#[derive(Debug, Default)]
pub struct RunLog {
    /// `None` where a tombstone came for it.
    records: Vec<Option<RunRecord>>,
    /// Where in `records` those of a key are. All of them, not the last: two manifests of one run
    /// that disagree must both be seen.
    by_key: HashMap<Vec<u8>, Vec<usize>>,
    /// Whether any record was handed out.
    has_handed_out: bool,
    /// Runs whose opening was taken back after records were handed out.
    removed: HashSet<RunId>,
}

impl RunLog {
    /// Adds a record; one with an empty value is a tombstone, which takes back all earlier records
    /// of its key.
    pub fn add(&mut self, offset: i64, key: &[u8], value: &[u8]) {
        if value.is_empty() {
            for position in self.by_key.remove(key).unwrap_or_default() {
                self.records[position] = None;
            }
            if self.has_handed_out && RunEvent::is_key_of_opening(key) {
                self.removed.extend(RunEvent::run_of_key(key));
            }
            return;
        }
        let positions = self.by_key.entry(key.to_vec()).or_default();
        positions.push(self.records.len());
        self.records
            .push(Some((offset, key.to_vec(), value.to_vec())));
    }

    /// How many records were added since the last [`take`](Self::take), taken back or not.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no record was added since the last [`take`](Self::take).
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Hands out what is left and forgets it.
    pub fn take(&mut self) -> impl Iterator<Item = RunRecord> {
        self.has_handed_out = true;
        self.by_key.clear();
        std::mem::take(&mut self.records).into_iter().flatten()
    }

    /// Whether a run was removed since records were first handed out. What was handed out of it is of a
    /// run that is no more, and what comes later of another one of its name.
    pub fn is_removed(&self, run_id: &RunId) -> bool {
        self.removed.contains(run_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of keys and values, an empty one being a tombstone.
    fn left(of: &[(&str, &str)]) -> Vec<(i64, String)> {
        let mut log = RunLog::default();
        for (offset, (key, value)) in (0..).zip(of) {
            log.add(offset, key.as_bytes(), value.as_bytes());
        }
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let left = log.take().map(|(offset, key, _)| (offset, text(key)));
        left.collect()
    }

    #[test]
    fn a_tombstone_takes_back_every_earlier_record_of_its_key_and_no_other() {
        let records = [
            ("a/opened", "1"),
            ("b/opened", "2"),
            ("a/opened", "3"),
            ("a/opened", ""),
            ("a/dispatched", "4"),
        ];
        let left = left(&records);
        assert_eq!(left, [(1, "b/opened".into()), (4, "a/dispatched".into())]);
    }

    #[test]
    fn what_comes_after_a_tombstone_stays() {
        let left = left(&[("a/opened", "1"), ("a/opened", ""), ("a/opened", "2")]);
        assert_eq!(left, [(2, "a/opened".into())]);
    }

    #[test]
    fn a_run_is_removed_for_those_who_were_told_of_it_before() {
        let run = |name: &str| name.parse::<RunId>().expect("a run id");
        let mut log = RunLog::default();
        // Before anything was handed out: as if it had never been.
        log.add(0, b"a/opened", b"1");
        log.add(1, b"a/opened", b"");
        log.add(2, b"a/opened", b"2");
        assert_eq!(log.take().count(), 1);
        assert!(!log.is_removed(&run("a")));
        // Its abort is taken back, not the run.
        log.add(3, b"a/aborted", b"");
        assert!(!log.is_removed(&run("a")));
        log.add(4, b"a/opened", b"");
        log.add(5, b"a/opened", b"3");
        assert!(log.is_removed(&run("a")) && !log.is_removed(&run("b")));
        assert_eq!(log.take().count(), 1);
        assert!(log.is_removed(&run("a")));
    }

    #[test]
    fn two_records_of_one_key_are_both_handed_out() {
        let left = left(&[("a/dispatched", "1"), ("a/dispatched", "2")]);
        assert_eq!(left.len(), 2);
    }
}
