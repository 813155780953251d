//! The worker: a member of a consumer group that computes the results of jobs.
//!
//! One thread moves data. The [`event_loop`] decides what that thread does next (poll, take, deliver,
//! commit, wind down), from the [`state`], the [`rebalance`] in progress and the [`delivery`] of
//! finished work. None of these has a clock, a thread or a broker, so the simulation drives the same
//! types. [`mod@run`] starts and ends the process around them. Each compute thread has an
//! [`executor`] for the computations of the crate [`computations`]. With `--delivery exactly-once`
//! another thread commits outcomes and offsets in transactions; the [`transaction_loop`] decides what
//! it does next.

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
