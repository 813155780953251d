//! The aggregator: collects a run's outcomes, reconciles them against what was dispatched, and
//! writes the time series and the report.
//!
//! [`collect`] moves data from the topics into the [`completion`] of the run, which says what is read
//! and when to stop; [`pipeline::Collection`] judges what was read; [`table`] says which table the run
//! leaves, [`report`] what it has come to, [`export`] what is written of it in which form, [`writing`]
//! in which order; [`settle`] agrees on the verdict with other aggregators, and [`outputs`] puts the
//! files in place. [`read_back`] reads a series from them.

pub mod args;
pub mod collect;
pub mod completion;
pub mod error;
pub mod export;
pub mod memory;
pub mod metrics;
pub mod outputs;
pub mod read_back;
mod read_positions;
pub mod report;
pub mod run;
pub mod settle;
pub mod spill;
pub mod table;
mod workers;
pub mod writing;

pub use args::{Args, Config, OutputArgs, OutputChoice, RunChoice};
pub use error::Error;
pub use report::Report;
pub use run::{run, serve};
