//! The memory budget of an aggregator: what it makes of it before a table, and what it says when it
//! is used up.

use std::path::Path;

use bytesize::ByteSize;
use pipeline::Collection;
use pipeline::ledger::counting::CountingRules;
use pipeline::ledger::{Memory, MemoryUse};
use service::metrics::set;
use tracing::{info, warn};

use crate::args::Config;
use crate::metrics::Metrics;
use crate::spill::SpillFile;

/// The memory for a row of a series, with its cells while they are written as columns, in bytes.
const SERIES_ROW_BYTES: u64 = 64;

/// The memory for a label set in the order of a table, in bytes.
const LABEL_ORDER_BYTES: u64 = 8;

/// The memory for the buffers of exporters and readers, in bytes.
const EXPORT_BYTES: u64 = 16 * 1024 * 1024;

/// A collection by these rules, within the memory budget of a configuration.
pub fn collection(config: &Config, rules: CountingRules) -> Collection {
    within(config.memory_budget_bytes, &config.spill_folder, rules)
}

/// A collection that spills results to a folder when it holds more than this many bytes.
pub fn within(budget_bytes: u64, spill_folder: &Path, rules: CountingRules) -> Collection {
    Collection::under(rules).with_memory(Memory {
        budget_bytes,
        store: Box::new(SpillFile::new(spill_folder)),
    })
}

/// How much memory it takes to write what a run leaves: a series is in memory whole, another table is
/// written as it is made.
pub fn table_bytes(collection: &Collection, is_series: bool) -> u64 {
    let group_bytes = match is_series {
        true => SERIES_ROW_BYTES,
        false => LABEL_ORDER_BYTES,
    };
    // There are no more groups and label sets than jobs.
    collection.jobs_with_outcome() * group_bytes + EXPORT_BYTES
}

/// Looks at what is held, and says once each when results go to disk and when the budget is too small
/// for what cannot.
#[derive(Debug)]
pub struct MemoryWatch<'a> {
    budget_bytes: u64,
    folder: &'a Path,
    metrics: &'a Metrics,
    said_spilled: bool,
    said_exceeded: bool,
}

impl<'a> MemoryWatch<'a> {
    /// A watch over the budget of a configuration.
    pub fn new(config: &'a Config) -> Self {
        Self {
            budget_bytes: config.memory_budget_bytes,
            folder: &config.spill_folder,
            metrics: &config.metrics,
            said_spilled: false,
            said_exceeded: false,
        }
    }

    /// Looks at what is held now.
    pub fn look(&mut self, used: MemoryUse) {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        set(&self.metrics.held_bytes, bytes(used.held));
        set(&self.metrics.spilled_bytes, bytes(used.spilled));
        if used.spilled > 0 && !self.said_spilled {
            self.said_spilled = true;
            info!(
                folder = %self.folder.display(),
                "memory budget used up, results written to disk"
            );
        }
        if used.fixed > self.budget_bytes && !self.said_exceeded {
            self.said_exceeded = true;
            warn!(
                needed = %ByteSize(used.fixed),
                budget = %ByteSize(self.budget_bytes),
                "lines and labels of the jobs need more memory than --memory-budget and cannot be \
                 spilled; going on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use pipeline::outcome::Worker;
    use pipeline::{GroupKey, Job, LabelSet, Outcome, OutcomeBatch, OutcomeBatchBuilder};

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_folder_without_room_is_named_with_the_option_that_helps() {
        let folder = tempfile::tempdir().expect("a folder");
        let gone = folder.path().join("gone");
        let mut collection = within(0, &gone, CountingRules::default());
        let run_id = "a-run".parse().expect("a run id");
        let labels = LabelSet::new(["Italy"]);
        let job = |index| Job {
            index,
            key: GroupKey {
                labels: &labels,
                time: None,
            },
            part: 0,
            weight: 1,
            payload: &[],
        };
        let mut recorded = Ok(true);
        for index in 0..5 {
            let mut builder = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
            builder.push(&job(index), 0, Outcome::Completed(&vec![7; 400_000]));
            let batch = OutcomeBatch::decode(&builder.encode()).expect("a valid batch");
            recorded = recorded.and_then(|_| collection.apply_outcomes_at(0, 0, &batch));
        }
        let error = recorded
            .map_err(Error::of_spill(&gone))
            .expect_err("no such folder");
        let expected = format!(
            "cannot spill results to {}: give --spill-folder one with room, or a larger \
             --memory-budget",
            gone.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}
