//! The metrics of an aggregator, besides those of its progress. The thread that collects outcomes adds
//! to them once a batch.

use service::Progress;
use service::metrics::{Counter, Gauge, Registry, StageSeconds, Unit};

/// The prefix of the metrics' names.
const PREFIX: &str = "rollcall_aggregator";

/// The metrics of an aggregator.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The number of messages taken from the outcomes topic, of all runs.
    pub consumed_messages: Counter,
    /// The bytes of their payloads.
    pub consumed_bytes: Counter,
    /// The number of messages on the outcomes topic that are not outcome batches.
    pub undecodable_messages: Counter,
    /// The number of messages on the runs topic that are not run events.
    pub unreadable_run_events: Counter,
    /// The number of outcomes that changed nothing, and were dropped.
    pub duplicates: Counter,
    /// The number of jobs of the run.
    pub jobs: Gauge,
    /// The number of jobs without an outcome.
    pub missing_jobs: Gauge,
    /// The number of jobs that are dead letters.
    pub dead_lettered_jobs: Gauge,
    /// The number of outcomes that contradict another one.
    pub conflicts: Gauge,
    /// The bytes of the ledger in memory.
    pub held_bytes: Gauge,
    /// The bytes of results on disk.
    pub spilled_bytes: Gauge,
    /// The seconds of the stages.
    pub stage_seconds: StageSeconds,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            consumed_messages: Counter::default(),
            consumed_bytes: Counter::default(),
            undecodable_messages: Counter::default(),
            unreadable_run_events: Counter::default(),
            duplicates: Counter::default(),
            jobs: Gauge::default(),
            missing_jobs: Gauge::default(),
            dead_lettered_jobs: Gauge::default(),
            conflicts: Gauge::default(),
            held_bytes: Gauge::default(),
            spilled_bytes: Gauge::default(),
            stage_seconds: StageSeconds::new(&["collect", "reconcile"]),
        }
    }
}

impl Metrics {
    /// The registry of all metrics and those of the progress, with their names and help texts.
    pub fn registry(&self, progress: &Progress) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "collected_jobs",
            "Jobs of the run that have an outcome",
            progress.collected.counter(),
        );
        registry.register(
            "consumed_messages",
            "Messages taken from the outcomes topic, of all runs",
            self.consumed_messages.clone(),
        );
        registry.register_with_unit(
            "consumed",
            "Payload bytes of the messages taken",
            Unit::Bytes,
            self.consumed_bytes.clone(),
        );
        registry.register(
            "undecodable_messages",
            "Messages on the outcomes topic that cannot be decoded",
            self.undecodable_messages.clone(),
        );
        registry.register(
            "unreadable_run_events",
            "Messages on the runs topic that are not events of a run, and were skipped",
            self.unreadable_run_events.clone(),
        );
        registry.register(
            "duplicates",
            "Outcomes that changed nothing, and were dropped",
            self.duplicates.clone(),
        );
        for (name, help, gauge) in [
            (
                "jobs",
                "Jobs of the run, once its manifest is known",
                &self.jobs,
            ),
            (
                "missing_jobs",
                "Jobs without an outcome, once the manifest is known",
                &self.missing_jobs,
            ),
            (
                "dead_lettered_jobs",
                "Jobs whose outcome is a dead letter",
                &self.dead_lettered_jobs,
            ),
            (
                "conflicts",
                "Outcomes that contradict each other",
                &self.conflicts,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, gauge) in [
            (
                "held",
                "Memory of the outcomes: lines, labels, results, dead letters and conflicts",
                &self.held_bytes,
            ),
            (
                "spilled",
                "Results on disk, which exceed the memory budget",
                &self.spilled_bytes,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        self.stage_seconds.register(&mut registry);
        registry
    }
}
