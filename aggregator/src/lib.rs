//! The aggregator: collects a run's outcomes, reconciles them against what was dispatched, and
//! writes the time series and the report.
//!
//! [`collect`] moves data from the topics into a [`pipeline::Collection`], which decides;
//! [`series_csv`] and [`report`] say what is written, [`outputs`] puts it in place.

pub mod args;
pub mod collect;
pub mod error;
pub mod metrics;
pub mod outputs;
pub mod report;
pub mod run;
pub mod series_csv;

pub use args::{Args, Config, RunChoice};
pub use error::Error;
pub use report::Report;
pub use run::{run, serve};
