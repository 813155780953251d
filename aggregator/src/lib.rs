//! The aggregator: collects a run's outcomes, reconciles them against what was dispatched, and
//! writes the time series and the report.
//!
//! [`collect`] moves data from the topics into a [`pipeline::Collection`], which decides;
//! [`judging`] says when it may be judged; [`report`] says what it has come to, [`export`] what is
//! written of it in which form, and [`outputs`] puts the files in place; [`table`] says which table a
//! run leaves. [`read_back`] reads a
//! series from them.

pub mod args;
pub mod collect;
pub mod error;
pub mod export;
pub mod judging;
pub mod memory;
pub mod metrics;
pub mod outputs;
pub mod read_back;
pub mod report;
pub mod run;
pub mod spill;
pub mod table;

pub use args::{Args, Config, OutputArgs, OutputChoice, RunChoice};
pub use error::Error;
pub use report::Report;
pub use run::{run, serve};
