//! The worker: a member of a consumer group that turns jobs into tallies.
//!
//! One thread moves data ([`mod@run`]): it takes messages, hands them to compute threads
//! ([`computing`]), produces what they finished, and commits offsets behind outcomes that the
//! broker has acknowledged. It never waits for computing. What it may produce next is decided by
//! the [`outbox`], what it may commit by [`pipeline::offsets`]; the work itself is one pure
//! function in [`compute`].

pub mod args;
pub mod compute;
pub mod computing;
pub mod error;
pub mod metrics;
pub mod outbox;
pub mod retry;
pub mod run;

pub use args::{Args, Config};
pub use error::Error;
pub use run::run;
