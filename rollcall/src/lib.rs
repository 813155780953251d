//! `rollcall`: the whole pipeline on one machine in one command, and each service as a command.
//!
//! [`mod@run`] generates a data set if none is given, starts a broker if none is named, and runs
//! dispatcher and aggregator in this process and workers as child processes ([`fleet`]). [`local`]
//! computes the reference result without Kafka, with polars; [`plain_loop`] computes the same jobs
//! one after the other in one process. The crate [`mod@bench`] measures all of them. [`report`]
//! generates the page of a run again; [`doctor`] and [`runs`] query a cluster, [`cancel`] ends a
//! run early, and [`dlq`] lists and replays dead letters. [`config_file`] reads options from a
//! file, [`manual`] prints completions and manual pages.

pub mod args;
pub mod build;
pub mod cancel;
pub mod config_file;
pub mod dlq;
pub mod doctor;
pub mod error;
pub mod fleet;
mod in_memory;
pub mod local;
pub mod manual;
pub mod plain_loop;
mod program;
pub mod report;
pub mod run;
pub mod runs;

pub use args::{Cli, Command};
pub use error::Error;
pub use program::program;
