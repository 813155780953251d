//! How a data set is grouped and what is made of its jobs, as the dispatcher's options have it.

use std::collections::BTreeMap;

use computations::positivity;
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
    /// The name of the computation.
    pub compute: String,
    /// Parameters of the computation, beside those that have options of their own.
    pub parameters: BTreeMap<String, String>,
    /// Those of its encoding, likewise.
    pub encoding: BTreeMap<String, String>,
    /// The column that holds the result of a test; of positivity, as the next two.
    pub result_column: String,
    /// The value of a positive result.
    pub positive: String,
    /// The value of a negative result.
    pub negative: String,
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

    /// What is made of a job. A parameter that has an option of its own bears the name of that.
    pub fn computation(&self) -> Computation {
        let computation = Computation {
            name: self.compute.clone(),
            parameters: self.parameters.clone(),
            encoding: self.encoding.clone(),
        };
        match self.compute == positivity::DEFINITION.name {
            true => computation
                .with_encoding(positivity::RESULT, &self.result_column)
                .with_encoding(positivity::POSITIVE_VALUE, &self.positive)
                .with_encoding(positivity::NEGATIVE_VALUE, &self.negative),
            false => computation,
        }
    }

    /// What the run is opened with.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            numbering_version: NUMBERING_VERSION,
            cut: self.cut(),
            computation: self.computation(),
            results: ResultsPolicy::default(),
        }
    }
}
