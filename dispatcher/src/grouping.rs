//! How a data set is grouped and what is made of its jobs, as the dispatcher's options have it.

use pipeline::run::NUMBERING_VERSION;
use pipeline::{Computation, Cut, Grain, ResultsPolicy, RunOptions, TimeColumn};

/// The options on which a run's jobs and their results depend, besides the data set itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// The columns whose values are the labels, in order. Empty: grouped by time alone.
    pub label_columns: Vec<String>,
    /// The column that holds the time of a test.
    pub time_column: String,
    /// How the time is truncated.
    pub grain: Grain,
    /// What is made of a job.
    pub computation: Computation,
    /// A group with more rows is cut into parts.
    pub max_rows_per_job: u32,
}

impl Grouping {
    /// How rows become jobs.
    pub fn cut(&self) -> Cut {
        Cut {
            label_columns: self.label_columns.clone(),
            time: Some(TimeColumn {
                name: self.time_column.clone(),
                grain: self.grain,
            }),
            max_rows_per_job: self.max_rows_per_job,
        }
    }

    /// What the run is opened with.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            numbering_version: NUMBERING_VERSION,
            cut: self.cut(),
            computation: self.computation.clone(),
            results: ResultsPolicy::default(),
        }
    }
}
