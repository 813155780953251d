//! The time series that a run is for: tests and positive tests by group, in key order. The rate is
//! left to whoever writes it, which is the one place where integers are divided.

use crate::grain::TimeBucket;
use crate::group_key::LabelSet;

/// Tests and positive tests by labels and time, ordered by both as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// The label sets, in order; [`SeriesRow::label_set`] points into them.
    pub label_sets: Vec<LabelSet>,
    /// One row for each group.
    pub rows: Vec<SeriesRow>,
}

/// One group of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesRow {
    /// Position of the labels in [`Series::label_sets`].
    pub label_set: u32,
    /// The truncated time.
    pub time: TimeBucket,
    /// Tests in the counted jobs of the group; 0 when none of its jobs was counted, so that the
    /// value is not known.
    pub tests: u64,
    /// Positive tests among them.
    pub positive: u64,
}

impl SeriesRow {
    /// Positive tests per test; `None` over no tests.
    pub fn rate(&self) -> Option<f64> {
        (self.tests > 0).then(|| self.positive as f64 / self.tests as f64)
    }
}
