//! Whole runs, end to end: the binaries as people start them, on the in-process broker and on a
//! real Apache Kafka, which is obtained and started here ([`apache_kafka`]); and what they leave behind,
//! among it a page in a real browser ([`chromium`]).

#![allow(clippy::unwrap_used)]

mod access;
mod apache_kafka;
mod benchmark;
mod broken_data_sets;
mod chromium;
mod cluster;
mod exactly_once;
mod faults;
mod idle_policy;
mod knowing_the_cluster;
mod late_answers;
mod listeners;
mod notebook;
mod on_apache_kafka;
mod on_the_in_process_broker;
mod oracles;
mod own_computation;
mod personal_data;
mod poison;
mod processes;
mod python;
mod random_results;
mod report_page;
mod secrets;
mod secured_kafka;
mod strangers;
mod taking_runs_up;
mod transactions;
mod usage;
mod verdicts;
mod watching;
