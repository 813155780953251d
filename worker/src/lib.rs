//! The worker: a member of a consumer group that turns jobs into tallies.
//!
//! One thread moves data. What it does next (poll, take, deliver, commit, wind down) is decided by
//! the [`event_loop`], with what is known in [`state`], the [`rebalance`]s that it serves and the
//! [`delivery`] of finished work; they know no clock, thread or broker, so the simulation drives the
//! same types. [`mod@run`] is the life of the process around them. Compute threads ([`computing`])
//! do the work itself, one pure function in [`compute`]; with transactions a thread of its own
//! ([`transactions`]) commits outcomes and offsets, as the [`transaction_loop`] says.

pub mod args;
mod client;
pub mod compute;
pub mod computing;
pub mod delivery;
mod driver;
pub mod error;
pub mod event_loop;
pub mod metrics;
pub mod output;
pub mod rebalance;
pub mod retry;
pub mod run;
pub mod simulated_work;
pub mod state;
pub mod transaction_loop;
mod transactions;

pub use args::{Args, Config, Delivery};
pub use error::Error;
pub use run::run;
pub use simulated_work::SimulatedWork;
pub use state::outbox;
