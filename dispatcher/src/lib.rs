//! The dispatcher: cuts a data set into jobs, publishes them, and swears to what it published.
//!
//! Data goes through these files in this order: [`source`] reads rows and rejects what cannot be
//! counted, [`group`] sorts them into groups and numbers the jobs, [`packing`] says how many jobs a
//! message takes, [`publish`] hands them to the broker, and [`mod@run`] writes the manifest when all
//! are acknowledged.

pub mod args;
pub mod columns;
pub mod credit;
pub mod error;
pub mod group;
pub mod metrics;
pub mod packing;
pub mod publish;
pub mod rejects;
pub mod run;
pub mod source;
pub mod timestamp;

pub use args::{Args, Config, GroupingArgs};
pub use error::Error;
pub use run::{Dispatched, run, serve};
