//! `rollcall`: the whole pipeline on one machine in one command.
//!
//! [`mod@run`] generates a data set if none is given, starts a broker if none is named, runs dispatcher
//! and aggregator in this process and workers as child processes ([`fleet`]). [`local`] is the
//! reference that the pipeline must agree with: the same rows, one polars query, no Kafka.

pub mod args;
pub mod error;
pub mod fleet;
pub mod local;
pub mod run;

pub use args::{Cli, Command};
pub use error::Error;
