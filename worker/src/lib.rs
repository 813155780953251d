//! The worker: a member of a consumer group that turns jobs into results.
//!
//! One thread moves data ([`mod@run`]): it takes messages, hands them to compute threads
//! ([`executor`]), produces what they finished, and commits offsets behind outcomes that the
//! broker has acknowledged; or a thread of its own commits both together ([`transactions`]). It
//! never waits for computing. What it may take, produce and commit next
//! is decided by the [`desk`], which knows no broker; what is made of a job is for a computation of
//! the crate [`computations`].

pub mod args;
pub mod desk;
pub mod error;
pub mod executor;
pub mod metrics;
pub mod outbox;
pub mod output;
pub mod retry;
pub mod run;
pub mod simulated_work;
pub mod transactions;
pub mod uncommitted;

pub use args::{Args, Config, Delivery};
pub use error::Error;
pub use run::{run, run_with};
pub use simulated_work::SimulatedWork;
