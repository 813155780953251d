//! The imitation of the worker's loops that the simulation played until now, and the rest of a
//! history around it: kept for one commit, to be compared with the loops themselves.
#![allow(dead_code)]

mod aggregator;
mod broker;
mod data_set;
mod dispatcher;
pub mod history;
mod invariants;
mod mutants;
mod rng;
mod seen;
mod transactions;
mod worker;
