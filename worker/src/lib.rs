//! The worker: a member of a consumer group that turns jobs into results.
//!
//! One thread moves data. What it does next (poll, take, deliver, commit, wind down) is decided by
//! the [`event_loop`], with what is known in [`state`], the [`rebalance`]s that it serves and the
//! [`delivery`] of finished work; they know no clock, thread or broker, so the simulation drives the
//! same types. [`mod@run`] is the life of the process around them. Compute threads have an
//! [`executor`] each, for a computation of the crate [`computations`]; with transactions a thread of
//! its own commits outcomes and offsets, as the [`transaction_loop`] says.

pub mod args;
mod cancellations;
mod client;
pub mod delivery;
mod driver;
pub mod error;
pub mod event_loop;
pub mod executor;
pub mod flow_control;
pub mod metrics;
pub mod output;
pub mod rebalance;
pub mod retry;
pub mod run;
pub mod simulated_work;
pub mod state;
pub mod transaction_loop;
mod transactions;

pub use args::{Args, Config, Delivery, UnreadLimit};
pub use error::Error;
pub use run::{run, run_with};
pub use simulated_work::SimulatedWork;
pub use state::outbox;
