//! `rollcall`: the whole pipeline on one machine in one command.
//!
//! [`mod@run`] generates a data set if none is given, starts a broker if none is named, runs dispatcher
//! and aggregator in this process and workers as child processes ([`fleet`]). [`local`] is the
//! reference that the pipeline must agree with: the same rows, one polars query, no Kafka;
//! [`plain_loop`] computes the same jobs one after the other in one process. [`mod@bench`] measures it
//! all. [`report`] makes the page of a run again; [`doctor`] and [`runs`] look at a cluster, [`cancel`]
//! ends a run early, [`dlq`] brings dead letters back; [`config_file`] and [`manual`] are for comfort.

pub mod args;
pub mod bench;
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
