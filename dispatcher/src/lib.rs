//! The dispatcher: cuts a data set into jobs, publishes them, and swears to what it published.
//!
//! Data goes through these files in this order: [`input`] lists the files, [`source`] reads rows and
//! rejects what cannot be counted, [`records`] hold what a computation wants of the others, [`group`]
//! sorts them into groups (by way of [`spill`] where memory has no room for all), [`job_set`] cuts these into numbered jobs, [`publish`] makes messages of them
//! and hands these to the broker, and [`mod@run`] publishes the manifest when all are acknowledged.
//! [`dispatch`] decides in which order.

mod abort;
pub mod args;
mod cancel_watch;
pub mod columns;
pub mod dispatch;
pub mod dispatched;
pub mod error;
pub mod group;
pub mod grouping;
pub mod input;
pub mod job_set;
pub mod metrics;
pub mod publish;
pub mod records;
pub mod rejects;
pub mod run;
pub mod source;
pub mod spill;
pub mod taken_up;
pub mod timestamp;

pub use args::{Args, Config, GroupingArgs, InputArgs, payload_columns};
pub use columns::{PayloadColumns, Selection};
pub use dispatched::Dispatched;
pub use error::Error;
pub use grouping::Grouping;
pub use input::Input;
pub use run::{run, serve};
